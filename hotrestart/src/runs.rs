//! Values that lie in parts: which runs are live, so that compaction knows what a part belongs to.
//!
//! Invariant: a run is here from before its first part is logged until its entry is known to be replaced,
//! so a part whose run is not here is garbage. Callers: the log (puts of long values), the loader, the
//! compactor. Cost: some 60 bytes and a lock per long value, which is at least a sixteenth of a chunk.

use std::collections::HashMap;

use hdstore::Stamp;

use crate::sync::{Mutex, lock};

/// What a run belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunOf {
    /// An entry that is being put.
    Pending,
    /// An entry, perhaps replaced since.
    Entry(Stamp),
}

/// The runs that may be live.
#[derive(Debug, Default)]
pub(crate) struct LiveRuns {
    runs: Mutex<HashMap<u64, RunOf>>,
}

impl LiveRuns {
    pub(crate) fn set(&self, run: u64, of: RunOf) {
        lock(&self.runs).insert(run, of);
    }

    pub(crate) fn get(&self, run: u64) -> Option<RunOf> {
        lock(&self.runs).get(&run).copied()
    }

    pub(crate) fn forget(&self, run: u64) {
        lock(&self.runs).remove(&run);
    }
}
