//! What errors say. Hazards: a cause is told twice by who prints an error with its sources, or never by who
//! prints the error alone.

use std::path::PathBuf;
use std::sync::Arc;

use hotrestart::hdstore::{BuildError, Error, PutManyError};
use hotrestart::inspect::InspectError;
use hotrestart::io::{IoError, IoOperation};
use hotrestart::{CloseError, HoldError, LogFailure, OpenError, Store};

const CAUSE: &str = "No space left on device";

fn os() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::ENOSPC)
}

fn io() -> IoError {
    IoError::from_errno(IoOperation::Write, "manifest.0", libc::ENOSPC)
}

fn log() -> LogFailure {
    LogFailure::Manifest { source: Arc::new(io()) }
}

#[test]
fn an_empty_path_is_refused_by_name() {
    let error = Store::builder().open("").expect_err("no directory");
    assert_eq!(
        error.to_string(),
        "directory is an empty path, expected a path (\".\" is the current directory)"
    );
}

#[test]
fn each_error_tells_its_cause_once_with_or_without_its_sources() {
    let poisoned = LogFailure::Poisoned { first: Arc::new(io()) };
    let path = PathBuf::from("/store");
    let environment = || OpenError::Environment { path: path.clone(), doing: "d", source: os() };
    let all: Vec<Box<dyn std::error::Error>> = vec![
        Box::new(io()),
        Box::new(log()),
        Box::new(poisoned.clone()),
        Box::new(HoldError::Log(poisoned.clone())),
        Box::new(HoldError::Manifest { source: io() }),
        Box::new(OpenError::Io(io())),
        Box::new(environment()),
        Box::new(OpenError::Memory(Error::Log(Box::new(log())))),
        Box::new(OpenError::Build(BuildError::Reserve { bytes: 1, source: os() })),
        Box::new(OpenError::Log(log())),
        Box::new(CloseError::Log(log())),
        Box::new(CloseError::Io(io())),
        Box::new(Error::Log(Box::new(log()))),
        Box::new(PutManyError { done: 1, source: Error::Log(Box::new(log())) }),
        Box::new(InspectError::Unreadable { path: path.clone(), error: os() }),
        Box::new(InspectError::Output(os())),
    ];
    for error in &all {
        let mut told = error.to_string();
        assert!(told.contains(CAUSE), "it hides its cause: {told}");
        let mut next = error.source();
        while let Some(source) = next {
            told = format!("{told}: {source}");
            next = source.source();
        }
        assert_eq!(told.matches(CAUSE).count(), 1, "told twice: {told}");
    }
}
