//! How long operations take: one in some 64 is timed.
//!
//! Which ones is random, so that what recurs in a program's operations recurs in the samples as often.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{Counted, Latency, MapCounts, Operation};

/// One operation in so many is timed, on average. A power of two.
const TIMED_OF: u64 = 64;

/// Threads that have begun an operation.
static THREADS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Where the random numbers are, and how many operations are left until one is timed.
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
        draw(sampling, random)
    })
}

/// Draws how many operations come before the next that is timed. Whether this one is.
#[cold]
fn draw(sampling: &Cell<(u64, u64)>, before: u64) -> bool {
    // A thread begins somewhere in between, and no two begin alike.
    let is_first = before == 0;
    let state = match is_first {
        true => THREADS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0xD6E8_FEB8_6659_FD93),
        false => before,
    };
    let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let random = mixed(state);
    let left = random % if is_first { TIMED_OF } else { 2 * TIMED_OF - 1 };
    sampling.set((state, if is_first { left.saturating_sub(1) } else { left }));
    !is_first || left == 0
}

/// Vigna's `SplitMix64`.
fn mixed(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Times of a map's operations.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    /// Nanoseconds, made when the first is noted: a map that is not used costs nothing.
    each: [Mutex<Option<Histogram<u64>>>; Operation::COUNT],
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
