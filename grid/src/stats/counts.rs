//! Counts of operations: each thread has its own.
//!
//! Invariant: one thread at a time writes a count, so an addition need not be atomic; a thread that ends
//! leaves its counts to the next. Whoever sums up reads all of them.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use thread_local::ThreadLocal;

use super::{Operation, Timings};

/// What a count is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counted {
    Operation(Operation),
    Hit,
    Event,
}

impl Counted {
    const COUNT: usize = Operation::COUNT + 2;

    #[inline]
    fn place(self) -> usize {
        match self {
            Counted::Operation(operation) => operation as usize,
            Counted::Hit => Operation::COUNT,
            Counted::Event => Operation::COUNT + 1,
        }
    }
}

type OfThread = CachePadded<[AtomicU64; Counted::COUNT]>;

/// What a map counts and times.
#[derive(Debug, Default)]
pub(crate) struct MapCounts {
    each: ThreadLocal<OfThread>,
    pub(crate) timings: Timings,
}

impl MapCounts {
    #[inline]
    pub(crate) fn count(&self, counted: Counted) {
        let count = &self.each.get_or_default()[counted.place()];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(crate) fn sum(&self, counted: Counted) -> u64 {
        self.each.iter().map(|counts| counts[counted.place()].load(Ordering::Relaxed)).sum()
    }
}
