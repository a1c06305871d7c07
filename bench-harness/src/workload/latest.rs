//! Which keys of workload D exist: inserts by many threads, reads that prefer the newest.
//!
//! Owns the invariant that every index below `readable` has been inserted and acknowledged, whatever the
//! order in which threads finish (YCSB's acknowledged counter). `issue` and `readable` are one atomic
//! step; `acknowledge` moves the watermark under a lock that nobody waits for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Inserts that may be under way at once; more threads than this cannot run.
const WINDOW: usize = 1 << 17;

/// The counter of inserted keys.
pub struct Inserted {
    issued: AtomicU64,
    readable: AtomicU64,
    done: Box<[AtomicBool]>,
    advancing: Mutex<()>,
}

impl Inserted {
    /// Indexes below `loaded` exist already.
    pub fn new(loaded: u64) -> Inserted {
        Inserted {
            issued: AtomicU64::new(loaded),
            readable: AtomicU64::new(loaded),
            done: (0..WINDOW).map(|_| AtomicBool::new(false)).collect(),
            advancing: Mutex::new(()),
        }
    }

    /// The index of the next key to insert.
    pub fn issue(&self) -> u64 {
        self.issued.fetch_add(1, Ordering::Relaxed)
    }

    /// All keys below this index are there.
    pub fn readable(&self) -> u64 {
        self.readable.load(Ordering::Acquire)
    }

    /// The key with this index is there.
    pub fn acknowledge(&self, index: u64) {
        self.done[index as usize % WINDOW].store(true, Ordering::Release);
        // Whoever holds the lock moves the mark for everybody; a mark left behind moves with the next
        // insert.
        let Ok(_guard) = self.advancing.try_lock() else { return };
        let mut mark = self.readable.load(Ordering::Relaxed);
        while self.done[mark as usize % WINDOW].swap(false, Ordering::AcqRel) {
            mark += 1;
        }
        self.readable.store(mark, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_still_under_way_hides_the_newer_ones() {
        let inserted = Inserted::new(10);
        let (first, second) = (inserted.issue(), inserted.issue());
        assert_eq!((first, second), (10, 11));
        inserted.acknowledge(second);
        assert_eq!(inserted.readable(), 10);
        inserted.acknowledge(first);
        assert_eq!(inserted.readable(), 12);
    }
}
