//! Counts of operations, in stripes: a thread always counts in the same one.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use super::{Operation, Timings};

/// Stripes of a map: few threads share one.
const STRIPES: usize = 32;

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

type Stripe = CachePadded<[AtomicU64; Counted::COUNT]>;

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The stripe of this thread.
#[inline]
fn stripe() -> usize {
    STRIPE.with(|stripe| {
        if stripe.get() == usize::MAX {
            stripe.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        stripe.get()
    })
}

/// What a map counts and times.
#[derive(Debug)]
pub(crate) struct MapCounts {
    stripes: Box<[Stripe]>,
    pub(crate) timings: Timings,
}

impl Default for MapCounts {
    fn default() -> MapCounts {
        let stripes = (0..STRIPES).map(|_| Stripe::default()).collect();
        MapCounts { stripes, timings: Timings::default() }
    }
}

impl MapCounts {
    #[inline]
    pub(crate) fn count(&self, counted: Counted) {
        self.stripes[stripe()][counted.place()].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sum(&self, counted: Counted) -> u64 {
        self.stripes.iter().map(|stripe| stripe[counted.place()].load(Ordering::Relaxed)).sum()
    }
}
