//! How long operations take: one in some 64 is timed.
//!
//! Which ones is random, so that what recurs in a program's operations recurs in the samples as often.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{Counted, Latency, MapCounts, Operation};

/// One operation in so many is timed, on average. A power of two.
const TIMED_OF: u64 = 64;

thread_local! {
    /// Random bits, and how many operations are left until one is timed.
    static SAMPLING: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Whether this operation of this thread is timed.
#[inline]
fn is_timed() -> bool {
    SAMPLING.with(|sampling| {
        let (random, left) = sampling.get();
        if left > 0 {
            sampling.set((random, left - 1));
            return false;
        }
        draw(sampling, random);
        true
    })
}

#[cold]
fn draw(sampling: &Cell<(u64, u64)>, before: u64) {
    // A thread begins with what tells it from others: where its own cell lies. Marsaglia's xorshift.
    let mut random = if before == 0 { std::ptr::from_ref(sampling).addr() as u64 } else { before };
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    sampling.set((random, (random >> 32) % (2 * TIMED_OF - 1)));
}

/// Times of a map's operations.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    /// Nanoseconds, made when the first is noted: a map that is not used costs nothing.
    each: [Mutex<Option<Histogram<u32>>>; Operation::COUNT],
}

impl Timings {
    #[cold]
    fn note(&self, operation: Operation, took: Duration) {
        let mut histogram =
            self.each[operation as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = histogram.get_or_insert_with(|| {
            let mut histogram = Histogram::new(2).expect("two digits are allowed");
            histogram.auto(true);
            histogram
        });
        // It grows as it must.
        let _ = histogram.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn latency(&self, operation: Operation) -> Latency {
        let histogram =
            self.each[operation as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let Some(histogram) = &*histogram else { return Latency::default() };
        let at = |share| Duration::from_nanos(histogram.value_at_quantile(share));
        Latency {
            samples: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: Duration::from_nanos(histogram.max()),
        }
    }
}

/// An operation under way: its time is noted when this is dropped, if it is one of those that are timed.
#[must_use = "the operation ends when this is dropped"]
#[derive(Debug)]
pub(crate) struct UnderWay<'a> {
    timings: &'a Timings,
    operation: Operation,
    began: Option<Instant>,
}

impl MapCounts {
    /// Counts an operation that begins.
    #[inline]
    pub(crate) fn begin(&self, operation: Operation) -> UnderWay<'_> {
        self.count(Counted::Operation(operation));
        let began = is_timed().then(Instant::now);
        UnderWay { timings: &self.timings, operation, began }
    }
}

impl Drop for UnderWay<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(began) = self.began {
            self.timings.note(self.operation, began.elapsed());
        }
    }
}
