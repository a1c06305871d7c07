//! Reads a store offline: every checksum, what is live and what is garbage, and what is wrong where.
//!
//! Invariant: it opens files for reading only, takes no lock, and writes nothing into the store. It
//! judges by the rules of recovery: what a crash may leave behind (a torn tail above the known-flushed
//! mark) is a note, everything else that does not validate is a problem with file and offset. Caller: the
//! program `hotrestart-inspect` and tests. It reads each chunk twice, one at a time, and keeps about 80
//! bytes per key in memory. See `docs/format.md`.

mod chunks;
mod dump;
mod judge;
mod records;
mod report;
mod runs;
mod survey;
mod tables;

use std::path::{Path, PathBuf};

pub use dump::{DumpOptions, dump};
pub use report::{
    ChunkReport, LifeReport, ManifestReport, MapReport, Problem, Report, Totals, WriterReport,
};
pub use tables::{check_text, list_text};

/// Why a directory could not be inspected at all.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Neither a manifest nor a chunk is there.
    #[error("{}: not a store: it has neither a manifest nor a chunk", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// The directory or a file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A store of another version.
    #[error("{}: {reason}", path.display())]
    Refused {
        /// The manifest.
        path: PathBuf,
        /// The version or the features.
        reason: String,
    },
    /// The output cannot be written.
    #[error("output: {0}")]
    Output(#[from] std::io::Error),
}

/// Checks manifests, chunk headers and blocks, but not the records in them.
///
/// # Errors
/// When the directory is no store, cannot be read, or is of another version.
pub fn list(path: &Path) -> Result<Report, InspectError> {
    let survey = survey::Survey::of(path)?;
    Ok(report::of_survey(&survey, None))
}

/// Checks everything: what `list` checks, and every record and directory.
///
/// # Errors
/// As `list`.
pub fn check(path: &Path) -> Result<Report, InspectError> {
    let mut survey = survey::Survey::of(path)?;
    let ledger = records::Ledger::of(&mut survey);
    Ok(report::of_survey(&survey, Some(&ledger)))
}
