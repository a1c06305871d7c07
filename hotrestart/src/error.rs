//! Why a store could not be opened or closed.
//!
//! Invariant, of all errors of these crates: what is shown tells the whole story, its causes included, so
//! `source` has none of them once more. Callers: opening and closing; users match on it.

use std::ops::Range;
use std::path::PathBuf;

use crate::durability::LogFailure;
use crate::format::ChunkHeaderError;
use crate::io::IoError;

/// Why a store could not be opened. Nothing was lost by trying.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting is out of its range.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What was given.
        found: String,
        /// What is possible.
        expected: String,
    },
    /// The directory, the lock or the log buffers could not be used.
    #[error("{path}: {doing}: {source}", path = .path.display())]
    Environment {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        r#source: std::io::Error,
    },
    /// A live process has the store open.
    #[error("{path} is locked: a live process has this store open", path = .path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// The directory holds files that are not a store's.
    #[error("{path} is not a store: it has no manifest, but holds {found:?}", path = .path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// A file in it.
        found: String,
    },
    /// A file belongs to another store.
    #[error("{file} belongs to store {found}, this is store {expected}")]
    AnotherStore {
        /// The file.
        file: String,
        /// The store of the manifest.
        expected: String,
        /// The store of the file.
        found: String,
    },
    /// The store was written by a newer version.
    #[error("{file}: {reason}")]
    NewerFormat {
        /// The file.
        file: String,
        /// What it has that this program does not know.
        reason: String,
    },
    /// A setting that was fixed when the store was made is asked to be another.
    #[error(
        "the store was made with {expected} {name}, {found} were asked for; this cannot change"
    )]
    Fixed {
        /// The setting.
        name: &'static str,
        /// What the store has.
        expected: u64,
        /// What was asked for.
        found: u64,
    },
    /// The memory limit is too small for the store's data.
    #[error("memory_limit_bytes is {limit_bytes}, but the store's data need {needed_bytes}")]
    MemoryLimit {
        /// The limit.
        limit_bytes: u64,
        /// What the data need.
        needed_bytes: u64,
    },
    /// Acknowledged changes were in log buffers that are gone, although the machine has not restarted since.
    #[error(
        "the log buffers of life {life} are gone ({place}), though the machine did not restart: buffered \
         changes are \
         lost; open with RecoveryMode::Salvage to go on without them"
    )]
    BuffersLost {
        /// The life whose buffers they were.
        life: u64,
        /// Where they were.
        place: String,
    },
    /// The store was not closed, and the machine has not restarted since: what was only in its log buffers
    /// belongs to another directory of the same store, of which this one is a copy. Nothing was changed.
    #[error(
        "the log buffers of life {life}, {}, belong to {owner}, and this directory is a copy, which has not \
         everything that was acknowledged there; open it with RecoveryMode::Salvage for what its own files \
         hold",
        file.display()
    )]
    BuffersOfAnother {
        /// The life whose buffers they are.
        life: u64,
        /// Their file.
        file: PathBuf,
        /// Whose they are: the path of the directory, where that is known.
        owner: String,
    },
    /// The store's files are damaged where they must not be.
    #[error(
        "the store is corrupt: {}{}; restore a backup, or open a copy with RecoveryMode::Salvage for what is \
         left (docs/operations.md)",
        .problems[0], more(.problems.len())
    )]
    Corrupt {
        /// What is wrong where; at least one.
        problems: Vec<Problem>,
    },
    /// An I/O operation failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Memory could not be had, or a record does not fit the settings.
    #[error("loading: {0}")]
    Memory(hdstore::Error),
    /// The store in memory could not be made.
    #[error(transparent)]
    Build(#[from] hdstore::BuildError),
    /// What had to be written before the store is open could not be.
    #[error("opening: {0}")]
    Log(LogFailure),
}

impl From<LogFailure> for OpenError {
    fn from(failure: LogFailure) -> OpenError {
        OpenError::Log(failure)
    }
}

fn more(problems: usize) -> String {
    match problems {
        0 | 1 => String::new(),
        more => format!(" (and {} more, which `hotrestart-inspect check` lists)", more - 1),
    }
}

/// Damage: where it is, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file; empty when it is one that is missing.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong, with what was expected and found, and what is lost by it.
    pub what: String,
}

impl Problem {
    /// That blocks which must be there are not; `blocks` is not empty.
    pub(crate) fn missing_blocks(file: &str, offset: u64, blocks: Range<u64>) -> Problem {
        let (first, last) = (blocks.start, blocks.end - 1);
        let what = if first == last {
            format!("block {first} is missing, with all records in it")
        } else {
            format!("blocks {first} to {last} are missing, with all records in them")
        };
        let what = format!("{what} (here, or in a file that is missing or has a bad header)");
        Problem { file: file.to_owned(), offset, what }
    }

    /// That a chunk's header cannot be read, and what is known of it nonetheless, if anything.
    pub(crate) fn chunk_header(file: &str, error: &ChunkHeaderError, known: &str) -> Problem {
        let known = if known.is_empty() { String::new() } else { format!("; {known}") };
        Problem { file: file.to_owned(), offset: 0, what: format!("chunk header: {error}{known}") }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.file.is_empty() {
            return f.write_str(&self.what);
        }
        write!(f, "{} at {}: {}", self.file, self.offset, self.what)
    }
}

/// Why a store could not be closed cleanly. It is closed; the next opening recovers it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// An earlier failure, or one while the rest was written.
    #[error(transparent)]
    Log(#[from] LogFailure),
    /// The manifest could not be written.
    #[error(transparent)]
    Io(#[from] IoError),
}
