//! Tests of phases: what is counted, from when, and what a failing worker does to the others.

use std::time::Duration;

use super::*;

struct Sleeper(Duration);

impl Caller for Sleeper {
    fn call(&mut self) -> Result<u64, Failure> {
        std::thread::sleep(self.0);
        Ok(1)
    }
}

fn settings(seconds: f64, warmup: f64, rate: Option<f64>) -> PhaseSettings {
    PhaseSettings { seconds, warmup, batch: 1, in_flight: 1, rate, time_every: 1 }
}

#[test]
fn a_rate_that_is_not_reached_is_said_and_its_latency_counts_from_the_intended_start() {
    let settings = settings(0.5, 0.0, Some(1000.0));
    let make = |_| Sleeper(Duration::from_millis(10));
    let measured = run("test", 1, false, &settings, make, || {}).expect("ran");
    assert_eq!(measured.sustained(Some(1000.0)), Some(false));
    let response = measured.latency.percentiles().expect("recorded").max;
    let service = measured.service.percentiles().expect("recorded").max;
    assert!(response > 200_000.0, "lateness is hidden: {response} us");
    assert!(service < 100_000.0, "the service time has the queue in it: {service} us");
}

#[test]
fn a_rate_that_is_easy_is_sustained() {
    // Long enough that one operation that ends too late is less than the hundredth that may be missing.
    let settings = settings(2.0, 0.1, Some(200.0));
    let make = |_| Sleeper(Duration::from_micros(50));
    let measured = run("test", 2, false, &settings, make, || {}).expect("ran");
    let found = (measured.operations, measured.last_lag);
    assert_eq!(measured.sustained(Some(200.0)), Some(true), "operations and last lag: {found:?}");
}

#[test]
fn the_warm_up_is_not_counted() {
    let settings = settings(0.2, 0.3, None);
    let make = |_| Sleeper(Duration::from_millis(1));
    let measured = run("test", 1, false, &settings, make, || {}).expect("ran");
    assert!(measured.operations <= 200, "{} operations in 0.2 s", measured.operations);
}

#[test]
fn a_stall_that_outlasts_the_measured_time_shows_in_the_maximum() {
    let settings = settings(0.1, 0.0, None);
    let make = |_| Sleeper(Duration::from_millis(400));
    let measured = run("test", 1, false, &settings, make, || {}).expect("ran");
    assert_eq!(measured.operations, 0);
    assert!(measured.latency.percentiles().expect("recorded").max > 300_000.0);
}

#[test]
fn all_calls_are_counted_where_only_some_are_timed() {
    let settings = PhaseSettings { time_every: 10, ..settings(0.3, 0.0, None) };
    let make = |_| Sleeper(Duration::from_millis(1));
    let measured = run("test", 1, false, &settings, make, || {}).expect("ran");
    let timed = measured.latency.count();
    assert!(measured.operations >= 50, "{} operations in 0.3 s", measured.operations);
    assert!(timed.abs_diff(measured.operations / 10) <= 1, "{timed} of {}", measured.operations);
    let typical_us = measured.latency.percentiles().expect("recorded").p50;
    assert!((1_000.0..5_000.0).contains(&typical_us), "of one call, not of ten: {typical_us} us");
}

#[test]
fn one_failing_worker_stops_all_and_its_reason_is_kept() {
    struct Failing;
    impl Caller for Failing {
        fn call(&mut self) -> Result<u64, Failure> {
            Err(Failure::environment("the disk is gone"))
        }
    }
    let before = Instant::now();
    let failure = run("test", 2, false, &settings(60.0, 0.0, None), |_| Failing, || {});
    assert!(failure.expect_err("failed").to_string().contains("the disk is gone"));
    assert!(before.elapsed() < Duration::from_secs(30));
}
