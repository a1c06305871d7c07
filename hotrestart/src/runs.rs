//! Values that lie in parts: which runs are live, so that compaction knows what a part belongs to.
//!
//! Invariant: a run is here from before its first part is logged until its entry is known to be replaced,
//! so a part whose run is not here is garbage. Callers: the log (puts of long values), the loader, the
//! compactor. Cost: some 60 bytes and a lock per long value, which is at least a sixteenth of a chunk.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use hdstore::{Seq, Stamp};

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

    /// Forgets the runs below `first` of entries that were logged again with a run from `first` on.
    pub(crate) fn forget_logged_again(&self, first: u64) {
        let mut runs = lock(&self.runs);
        let again: HashSet<Stamp> = runs
            .iter()
            .filter(|(run, _)| **run >= first)
            .filter_map(|(_, of)| if let RunOf::Entry(stamp) = of { Some(*stamp) } else { None })
            .collect();
        runs.retain(|run, of| {
            *run >= first || !matches!(of, RunOf::Entry(stamp) if again.contains(stamp))
        });
    }
}

/// A run whose entry is not committed yet. Dropped like that, it is garbage.
pub(crate) struct PendingRun<'a> {
    runs: &'a LiveRuns,
    run: u64,
    /// All but the seq.
    stamp: Stamp,
    is_committed: bool,
    /// Bytes of values in parts that are being put, this one's among them.
    pending_bytes: &'a AtomicU64,
    len: u64,
}

impl<'a> PendingRun<'a> {
    /// Begins a run of `len` bytes, before its first part is logged.
    pub(crate) fn begin(
        runs: &'a LiveRuns,
        run: u64,
        stamp: Stamp,
        (pending_bytes, len): (&'a AtomicU64, u64),
    ) -> PendingRun<'a> {
        runs.set(run, RunOf::Pending);
        pending_bytes.fetch_add(len, Ordering::Relaxed);
        PendingRun { runs, run, stamp, is_committed: false, pending_bytes, len }
    }

    pub(crate) fn commit(&mut self, seq: Seq) {
        self.is_committed = true;
        self.runs.set(self.run, RunOf::Entry(Stamp { seq, ..self.stamp }));
    }
}

impl Drop for PendingRun<'_> {
    fn drop(&mut self) {
        if !self.is_committed {
            self.runs.forget(self.run);
        }
        self.pending_bytes.fetch_sub(self.len, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use hdstore::{MapId, StreamId};

    use super::*;

    #[test]
    fn parts_of_a_value_that_was_logged_again_are_garbage() {
        let (map, stream) = (MapId(1), StreamId(0));
        let stamp = |seq| Stamp { map, stream, hash: 9, seq: Seq(seq) };
        let runs = LiveRuns::default();
        for (run, seq) in [(1 << 32, 5), (1 << 32 | 1, 6), (2 << 32, 5), (2 << 32 | 1, 7)] {
            runs.set(run, RunOf::Entry(stamp(seq)));
        }
        runs.forget_logged_again(2 << 32);
        assert_eq!(runs.get(1 << 32), None);
        assert_eq!(runs.get(1 << 32 | 1), Some(RunOf::Entry(stamp(6))));
        assert_eq!(runs.get(2 << 32), Some(RunOf::Entry(stamp(5))));
    }
}
