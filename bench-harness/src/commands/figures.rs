//! The results of `write`, `read` and `mixed`, and how they are printed.
//!
//! Owns the field names of the contract (docs/benchmarking.md, "Results"); fields beyond it are
//! additions.

use serde::Serialize;

use crate::cli::settings::{PhaseSettings, Settings};
use crate::measure::latency::Percentiles;
use crate::measure::phase::Measured;
use crate::report::table::Facts;
use crate::report::units;

/// The measured phase; all null when it was left out by `--seconds 0`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PhaseFigures {
    /// Operations that ended in the measured time, a second.
    pub ops_per_second: Option<f64>,
    /// Time of an operation, in an open loop from its intended start.
    pub latency_us: Option<Percentiles>,
    /// Time from the actual start; of an open loop only.
    pub service_latency_us: Option<Percentiles>,
    /// Whether the intended rate was reached; null in a closed loop.
    pub rate_sustained: Option<bool>,
    /// The longest that an operation started after its intended time; of an open loop only.
    pub max_lag_us: Option<f64>,
    /// Time on cpus for each operation, of all the process's threads, the store's own among them.
    pub cpu_us_per_operation: Option<f64>,
    /// The measured time as it was.
    pub measured_seconds: Option<f64>,
    /// The load's time.
    pub load_seconds: f64,
    /// Entries loaded a second.
    pub load_entries_per_second: f64,
    /// Gets that found nothing, or a value that is not whole.
    pub wrong: u64,
    /// Ctrl-C came before the end.
    pub interrupted: bool,
}

impl PhaseFigures {
    /// Figures of a load, before any phase.
    pub fn loaded(entries: u64, seconds: f64, interrupted: bool) -> PhaseFigures {
        PhaseFigures {
            load_seconds: seconds,
            load_entries_per_second: entries as f64 / seconds.max(1e-9),
            interrupted,
            ..PhaseFigures::default()
        }
    }

    /// Adds a measured phase.
    pub fn add(&mut self, measured: &Measured, rate: Option<f64>) {
        self.ops_per_second = measured.operations_per_second();
        self.latency_us = measured.latency.percentiles();
        self.service_latency_us = measured.service.percentiles();
        self.rate_sustained = measured.sustained(rate);
        self.max_lag_us = rate.map(|_| measured.max_lag.as_secs_f64() * 1e6);
        self.cpu_us_per_operation = measured.cpu_us_per_operation();
        self.measured_seconds = Some(measured.seconds);
        self.interrupted |= measured.interrupted;
    }

    /// Adds the lines to a table.
    pub fn print(&self, facts: &mut Facts, settings: &Settings) {
        let times = |us: Percentiles| {
            let all = [us.p50, us.p99, us.p999, us.p9999, us.max];
            all.map(units::microseconds).join(" / ")
        };
        facts
            .line("entries loaded", units::count(settings.data.entries))
            .line("load", units::per_second(self.load_entries_per_second))
            .line_if("operations", self.ops_per_second.map(units::per_second))
            .line_if("p50 / p99 / p99.9 / p99.99 / max", self.latency_us.map(times))
            .line_if("the same from the actual start", self.service_latency_us.map(times))
            .line_if("cpu time of an operation", self.cpu_us_per_operation.map(units::microseconds))
            .line_if("latest start after its time", self.max_lag_us.map(units::microseconds));
    }

    /// Prints what a reader must know beside the table.
    pub fn print_remarks(&self, phase: &PhaseSettings) {
        if phase.time_every > 1 && self.ops_per_second.is_some() {
            println!("one call in {} was timed", units::count(phase.time_every.into()));
        }
        match (self.rate_sustained, phase.rate) {
            (Some(false), Some(rate)) => {
                println!(
                    "the rate of {} was NOT sustained: do not read the percentiles as latency at that rate",
                    units::per_second(rate)
                );
            }
            (None, None) if self.ops_per_second.is_some() => {
                println!(
                    "closed loop: each caller waits for its last operation; the tails are not user latency"
                );
            }
            _ => {}
        }
        if self.wrong > 0 {
            println!(
                "WRONG: {} gets found nothing, or a value that is not whole",
                units::count(self.wrong)
            );
        }
        if self.interrupted {
            println!("interrupted: the figures cover what was run until then");
        }
    }
}
