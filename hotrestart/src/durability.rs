//! How durable a change is, and why it may not have become so.

use crate::format::manifest::DurabilityCode;
use crate::io::IoError;
use std::sync::Arc;

/// How far a change has got when it is acknowledged. See `docs/durability.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// In the log buffer, in memory shared with the system: survives the death of the process, not that
    /// of the kernel.
    #[default]
    Buffered,
    /// The device has completed the write. A device that loses its cache may still lose it.
    Written,
    /// A flush after the write has returned: survives a power cut.
    Synced,
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Durability::Buffered => "buffered",
            Durability::Written => "written",
            Durability::Synced => "synced",
        })
    }
}

impl From<Durability> for DurabilityCode {
    fn from(durability: Durability) -> DurabilityCode {
        match durability {
            Durability::Buffered => DurabilityCode::Buffered,
            Durability::Written => DurabilityCode::Written,
            Durability::Synced => DurabilityCode::Synced,
        }
    }
}

impl From<DurabilityCode> for Durability {
    fn from(code: DurabilityCode) -> Durability {
        match code {
            DurabilityCode::Buffered => Durability::Buffered,
            DurabilityCode::Written => Durability::Written,
            DurabilityCode::Synced => Durability::Synced,
        }
    }
}

/// A change in the log: which writer took it, and in which of its buffers it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) writer: u32,
    pub(crate) buffer: u64,
}

/// Why a change was refused by the log, or is not known to be durable.
///
/// A change returns it inside [`hdstore::Error::Log`]:
///
/// ```
/// use hotrestart::{Error, LogFailure};
///
/// fn may_be_tried_again(error: &Error) -> bool {
///     match error {
///         Error::Log(source) => matches!(
///             source.downcast_ref::<LogFailure>(),
///             Some(
///                 LogFailure::Busy { .. }
///                     | LogFailure::DiskBudget { .. }
///                     | LogFailure::NoSpace { .. }
///             )
///         ),
///         other => other.is_retryable(),
///     }
/// }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogFailure {
    /// The store was closed. Nothing changed.
    #[error("the store is closed")]
    Closed,
    /// No room in the log buffers came free in time. Nothing changed.
    #[error("no room in the log within {waited_ms} ms: the disk does not keep up")]
    Busy {
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// The disk budget is used up, and compaction freed no chunk in time. Nothing changed.
    #[error(
        "the chunk files have {allocated_bytes} bytes of a disk budget of {budget_bytes}, and compaction \
         freed none within {waited_ms} ms{}",
        stopped.as_ref().map(|why| format!(": it has stopped: {why}")).unwrap_or_default()
    )]
    DiskBudget {
        /// Bytes of chunk files.
        allocated_bytes: u64,
        /// What they may be.
        budget_bytes: u64,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
        /// Why compaction has stopped, if it has.
        stopped: Option<String>,
    },
    /// The disk is full. Nothing changed; it goes on by itself when space returns.
    #[error("the disk is full: a chunk of {needed_bytes} bytes cannot be made")]
    NoSpace {
        /// What a chunk needs, in bytes.
        needed_bytes: u64,
    },
    /// The records of a group do not fit the log's bound for what becomes whole at once, although all values
    /// were taken out that can lie elsewhere. Nothing changed.
    #[error(
        "a group whose records take {needed_bytes} bytes, with all longer values elsewhere; at most \
         {max_bytes} are possible (a quarter of a chunk, less 8 KiB)"
    )]
    GroupTooLarge {
        /// What its records take, in bytes.
        needed_bytes: u64,
        /// What they may take, in bytes.
        max_bytes: u64,
    },
    /// The change is visible, and was not as durable as asked when the time was over. It may become so,
    /// or not.
    #[error("visible, but not {level} within {waited_ms} ms: outcome unknown")]
    TimedOut {
        /// What was asked for.
        level: Durability,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// An earlier I/O failure of unknown extent, or a close that failed: nothing is acknowledged any more.
    /// Reads go on. The outcome is unknown: the change that returns this may be visible, and may be there
    /// after the next opening, or not. Whatever is begun after the failure changes nothing.
    #[error("the store is poisoned by an earlier failure: {first}")]
    Poisoned {
        /// The first failure.
        first: Arc<IoError>,
    },
    /// A manifest could not be written, so a map was not made, or not dropped.
    #[error("the manifest cannot be written, so the map is neither made nor dropped: {source}")]
    Manifest {
        /// What went wrong.
        r#source: Arc<IoError>,
    },
}
