//! Reads a store offline: every checksum, what is live and what is garbage, and what is wrong where.
//!
//! Invariant: it opens files for reading only, keeps no lock, and writes nothing into the store. What a live
//! process has open is refused, or read on demand: what is being written looks corrupt for a moment. It
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

use crate::dir::lock::is_held;

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
    /// A process has the store open, or opened it meanwhile.
    #[error(
        "{}: a running process has this store open, and what it writes meanwhile would look corrupt: \
         close it first, inspect a copy of held files, or ask for a look all the same (--live)",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// There is neither a map with this id nor any record of one.
    #[error("{}: there is no map {map}: `list` shows those that there are", path.display())]
    NoMap {
        /// The directory.
        path: PathBuf,
        /// The id.
        map: u32,
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
    /// Whether a store is looked at that a process has open: what is being written meanwhile may be told as
    /// corrupt. Else that is [`InspectError::InUse`].
    pub live: bool,
    /// The boot to judge by, instead of the machine's: for simulations.
    #[doc(hidden)]
    pub boot: Option<[u8; 16]>,
}

impl Default for Options {
    fn default() -> Self {
        Options { buffers_dir: PathBuf::from("/dev/shm"), live: false, boot: None }
    }
}

/// Checks manifests, chunk headers, blocks, records and directories, and counts what an opening would find.
///
/// # Errors
/// When the directory is no store, cannot be read, is of another version, or is open elsewhere.
pub fn check(path: &Path, options: &Options) -> Result<Report, InspectError> {
    at_rest(path, options, || {
        let mut survey = survey::Survey::of(path, options)?;
        if options.live {
            let note = "read while it may be open: what was written meanwhile may look corrupt";
            survey.notes.insert(0, note.to_owned());
        }
        let ledger = records::Ledger::of(&mut survey);
        Ok(report::of_survey(&survey, &ledger))
    })
}

/// What is found of a store that no process has open, before and afterwards.
fn at_rest<T>(
    path: &Path,
    options: &Options,
    read: impl FnOnce() -> Result<T, InspectError>,
) -> Result<T, InspectError> {
    let is_open = || !options.live && is_held(path);
    if is_open() {
        return Err(InspectError::InUse { path: path.to_owned() });
    }
    let found = read();
    match is_open() {
        true => Err(InspectError::InUse { path: path.to_owned() }),
        false => found,
    }
}
