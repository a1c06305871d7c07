//! The intended start times of an open loop.
//!
//! Owns the rule against coordinated omission: the times are fixed by the rate alone, a late worker
//! never skips one, and latency counts from the intended start. Each worker has every n-th time. Pure
//! but for `wait`.

use std::time::{Duration, Instant};

/// One worker's schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Instant,
    interval: f64,
    offset: f64,
    ticks: u64,
}

impl Schedule {
    /// The schedule of worker `worker` of `workers`, at `rate` operations per second of all together,
    /// `batch` operations a tick.
    pub fn new(start: Instant, rate: f64, batch: u32, worker: usize, workers: usize) -> Schedule {
        let tick = f64::from(batch) / rate;
        Schedule { start, interval: tick * workers as f64, offset: tick * worker as f64, ticks: 0 }
    }

    /// The next intended start.
    pub fn next(&mut self) -> Instant {
        let at = self.offset + self.interval * self.ticks as f64;
        self.ticks += 1;
        self.start + Duration::from_secs_f64(at)
    }
}

/// Sleeps, then spins, until `at`; false if `stopped` came first.
pub fn wait(at: Instant, stopped: impl Fn() -> bool) -> bool {
    loop {
        if stopped() {
            return false;
        }
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        // A sleep may overshoot by about 60 us, so the last stretch is spun.
        if left > Duration::from_micros(150) {
            std::thread::sleep((left - Duration::from_micros(100)).min(Duration::from_millis(50)));
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_together_start_at_the_rate_asked_for() {
        let start = Instant::now();
        let mut times: Vec<Duration> = Vec::new();
        for worker in 0..3 {
            let mut schedule = Schedule::new(start, 300.0, 2, worker, 3);
            times.extend((0..100).map(|_| schedule.next() - start));
        }
        times.sort();
        for (tick, time) in times.iter().enumerate() {
            let expected = tick as f64 * 2.0 / 300.0;
            assert!((time.as_secs_f64() - expected).abs() < 1e-6, "tick {tick} at {time:?}");
        }
    }

    #[test]
    fn a_late_worker_gets_every_time_it_missed() {
        let start = Instant::now() - Duration::from_secs(10);
        let mut schedule = Schedule::new(start, 10.0, 1, 0, 1);
        let missed = (0..100).filter(|_| schedule.next() < Instant::now()).count();
        assert_eq!(missed, 100);
    }
}
