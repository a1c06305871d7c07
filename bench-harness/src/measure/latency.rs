//! Latency of operations in an HDR histogram: nanoseconds inside, microseconds in reports.
//!
//! Three significant digits over the whole range; each worker owns one and they are added at the end, so
//! that recording shares nothing.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// A histogram of latencies.
#[derive(Clone, Debug)]
pub struct Latency {
    histogram: Histogram<u64>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
pub struct Percentiles {
    /// Half of all operations were faster.
    pub p50: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// 99.99 %.
    pub p9999: f64,
    /// The slowest.
    pub max: f64,
}

impl Latency {
    /// An empty histogram that grows with what it sees.
    pub fn new() -> Latency {
        Latency { histogram: Histogram::new(3).expect("three digits are within the crate's range") }
    }

    /// Records `count` operations that took this long.
    #[inline]
    pub fn record(&mut self, took: Duration, count: u64) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX / 2).max(1);
        // It cannot fail: the histogram resizes itself, and the value is below 2^63.
        let _ = self.histogram.record_n(nanoseconds, count);
    }

    /// Adds another worker's histogram.
    pub fn add(&mut self, other: &Latency) {
        // It cannot fail for the same reason.
        let _ = self.histogram.add(&other.histogram);
    }

    /// Operations recorded.
    #[cfg(test)]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The percentiles, none when nothing was recorded.
    pub fn percentiles(&self) -> Option<Percentiles> {
        if self.histogram.is_empty() {
            return None;
        }
        let at = |quantile: f64| self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Some(Percentiles {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: self.histogram.max() as f64 / 1000.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stall_of_seconds_among_a_million_shows_as_the_maximum() {
        let mut fast = Latency::new();
        fast.record(Duration::from_nanos(800), 999_999);
        let mut slow = Latency::new();
        slow.record(Duration::from_secs(7200), 1);
        fast.add(&slow);
        let found = fast.percentiles().expect("recorded");
        assert_eq!(fast.count(), 1_000_000);
        assert!((found.p9999 - 0.8).abs() < 0.001);
        assert!((found.max / 7.2e9 - 1.0).abs() < 0.001);
    }

    #[test]
    fn nothing_recorded_is_null_and_not_zero() {
        assert_eq!(Latency::new().percentiles(), None);
    }
}
