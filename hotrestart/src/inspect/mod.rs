//! Reads a store offline: every checksum, what is live and what is garbage, and what is wrong where.
//!
//! Invariant: it opens files for reading only, takes no lock, and writes nothing into the store. It
//! judges by the rules of recovery: what a crash may leave behind (a torn tail above the known-flushed
//! mark) is a note, everything else that does not validate is a problem with file and offset. What the log
//! buffers of a dead process hold counts, as it would when the store is opened. Caller: the program
//! `hotrestart-inspect` and tests. It reads each chunk twice, one at a time, and keeps about 80 bytes per key
//! in memory. See `docs/format.md`.

mod buffers;
mod chunks;
mod dump;
mod judge;
mod records;
mod report;
mod runs;
mod survey;
mod torn_headers;

use std::path::{Path, PathBuf};

pub use dump::{DumpOptions, dump};
pub use report::{
    ChunkReport, LifeReport, ManifestReport, MapReport, Problem, Report, Totals, WriterReport,
    counted,
};

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
    Output(std::io::Error),
}

impl From<std::io::Error> for InspectError {
    fn from(error: std::io::Error) -> InspectError {
        InspectError::Output(error)
    }
}

/// Where to look for what does not lie in the store's directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// The tmpfs for log buffers: what [`Builder::buffers_dir`](crate::Builder::buffers_dir) was.
    pub buffers_dir: PathBuf,
    /// The boot to judge by, instead of the machine's: for simulations.
    #[doc(hidden)]
    pub boot: Option<[u8; 16]>,
}

impl Default for Options {
    fn default() -> Self {
        Options { buffers_dir: PathBuf::from("/dev/shm"), boot: None }
    }
}

/// Checks manifests, chunk headers, blocks, records and directories, and counts what an opening would find.
///
/// # Errors
/// When the directory is no store, cannot be read, or is of another version.
pub fn check(path: &Path, options: &Options) -> Result<Report, InspectError> {
    let mut survey = survey::Survey::of(path, options)?;
    let ledger = records::Ledger::of(&mut survey);
    Ok(report::of_survey(&survey, &ledger))
}
