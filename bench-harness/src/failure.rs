//! Why a command did not end well, and the exit status that says so to a script.
//!
//! Owns the map from failure to exit status (contract of docs/benchmarking.md): 1 the store is wrong, 2
//! the user's input is refused, 3 the environment. Every command returns it; `main` prints it once.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// A command's failure.
#[derive(Debug, Error)]
pub enum Failure {
    /// Usage or refused input.
    #[error("{message}")]
    Usage {
        /// What was wrong with it.
        message: String,
    },
    /// The store is corrupt, or something in it is lost or wrong.
    #[error("{message}")]
    Wrong {
        /// What and where.
        message: String,
    },
    /// The environment: I/O, space, permission.
    #[error("{message}")]
    Environment {
        /// What was tried and what came of it.
        message: String,
    },
    /// An operation on a file failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        r#source: std::io::Error,
    },
    /// The child process of `restart` failed and said why on standard error.
    #[error("the filling process ended with {status}")]
    Child {
        /// How it ended.
        status: std::process::ExitStatus,
    },
}

impl Failure {
    /// Usage or refused input.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage { message: message.into() }
    }

    /// Something lost, wrong or corrupt.
    pub fn wrong(message: impl Into<String>) -> Failure {
        Failure::Wrong { message: message.into() }
    }

    /// The environment.
    pub fn environment(message: impl Into<String>) -> Failure {
        Failure::Environment { message: message.into() }
    }

    /// For `map_err` on file operations.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
        let path = path.to_owned();
        move |source| Failure::File { action, path, source }
    }

    /// The exit status of the contract.
    pub fn exit_status(&self) -> u8 {
        match self {
            Failure::Wrong { .. } => 1,
            Failure::Usage { .. } => 2,
            Failure::Environment { .. } | Failure::File { .. } => 3,
            Failure::Child { status } => match status.code() {
                Some(code @ 1..=3) => code as u8,
                _ => 3,
            },
        }
    }
}
