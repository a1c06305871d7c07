//! What a restart reports: progress on the way, and what was found.

use std::time::Duration;

use crate::error::Problem;
use crate::store::hold::HoldSummary;

/// How far a restart has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes read from chunks.
    pub bytes_done: u64,
    /// Bytes that there are to read.
    pub bytes_total: u64,
    /// Records applied.
    pub records: u64,
    /// Time since the opening began.
    pub elapsed: Duration,
}

impl Progress {
    /// How long the rest will take at the present rate; `None` before there is a rate.
    pub fn remaining(&self) -> Option<Duration> {
        if self.bytes_done == 0 {
            return None;
        }
        let rest = self.bytes_total.saturating_sub(self.bytes_done) as f64 / self.bytes_done as f64;
        Some(self.elapsed.mul_f64(rest))
    }
}

/// Where the history of a writer was cut: a torn tail, normal after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The life.
    pub life: u64,
    /// The writer.
    pub writer: u32,
    /// Blocks that count.
    pub blocks: u64,
    /// Valid blocks beyond, which are void.
    pub void_blocks: u64,
}

/// What an opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// The life that began.
    pub life: u64,
    /// Whether the store is new.
    pub created: bool,
    /// Whether the life before was closed cleanly.
    pub was_clean: bool,
    /// From the call of `open` until every key could be read.
    pub duration: Duration,
    /// Bytes read from chunks.
    pub bytes_read: u64,
    /// Chunks read.
    pub chunks: u64,
    /// Records applied, superseded ones included.
    pub records: u64,
    /// Entries in all maps.
    pub entries: u64,
    /// Records that were only in log buffers or beyond a gap, and were logged again.
    pub relogged: u64,
    /// Torn tails.
    pub cuts: Vec<Cut>,
    /// Damage that was passed over: manifest copies that were repaired, and in `Salvage` everything else.
    pub problems: Vec<Problem>,
    /// Holds of former lives that were not released: chunks that stay as they are.
    pub holds: Vec<HoldSummary>,
    /// Why log buffers are not in shared memory, if they are not.
    pub buffers_fallback: Option<String>,
    /// Why io_uring is not in use, if it was wanted.
    pub uring_refused: Option<String>,
    /// Log buffers of dead stores that were removed.
    pub orphans_swept: u64,
}
