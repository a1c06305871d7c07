//! A phase: workers that call until told to stop, warm-up uncounted, with progress and Ctrl-C.
//!
//! Owns what "ops_per_second" and "latency_us" mean: operations that ended inside the measured time,
//! over that time as it was; in a closed loop an operation's time runs from the end of the one before it
//! (one clock reading an operation), or from its start where only one call in some is timed, and of stalls
//! as few are seen; in an open loop from its intended start. Used by `write`, `read` and `mixed`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use super::latency::Latency;
use super::schedule::{self, Schedule};
use crate::cli::settings::PhaseSettings;
use crate::failure::Failure;
use crate::report::{progress, units};
use crate::system::{cpu, interrupt};

const WARMUP: u8 = 0;
const MEASURED: u8 = 1;
const STOPPED: u8 = 2;

/// One worker's way to do operations.
pub trait Caller {
    /// Does the next call and returns how many operations it was.
    fn call(&mut self) -> Result<u64, Failure>;
}

/// What came of a phase.
#[derive(Debug)]
pub struct Measured {
    /// Operations that ended in the measured time.
    pub operations: u64,
    /// The measured time.
    pub seconds: f64,
    /// Time that the process's threads spent on cpus in it, the store's own among them.
    pub cpu: Duration,
    /// From the intended start in an open loop.
    pub latency: Latency,
    /// From the actual start; of an open loop only.
    pub service: Latency,
    /// The longest that an operation started after its intended time.
    pub max_lag: Duration,
    /// How far the last operations were behind their intended time.
    pub last_lag: Duration,
    /// The user stopped it.
    pub interrupted: bool,
}

impl Measured {
    /// Operations per second; none when nothing was measured.
    pub fn operations_per_second(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.operations as f64 / self.seconds)
    }

    /// Time on cpus for each operation, in microseconds.
    pub fn cpu_us_per_operation(&self) -> Option<f64> {
        (self.operations > 0).then(|| self.cpu.as_secs_f64() * 1e6 / self.operations as f64)
    }

    /// Whether an intended rate was reached: 99 % of it, and no more than a second behind at the end.
    pub fn sustained(&self, rate: Option<f64>) -> Option<bool> {
        let reached = self.operations_per_second()? >= rate? * 0.99;
        Some(reached && self.last_lag < Duration::from_secs(1))
    }
}

struct Control {
    state: AtomicU8,
    done: Vec<CachePadded<AtomicU64>>,
    failure: Mutex<Option<Failure>>,
}

#[derive(Default)]
struct Tally {
    operations: u64,
    latency: Option<Latency>,
    service: Option<Latency>,
    max_lag: Duration,
    last_lag: Duration,
}

/// Runs `threads` x in-flight workers through warm-up and the measured time. `at_measured` is called
/// when the warm-up ends, for counters that must not include it.
pub fn run<C: Caller>(
    name: &str,
    threads: u32,
    pin: bool,
    settings: &PhaseSettings,
    make: impl Fn(usize) -> C + Sync,
    at_measured: impl FnOnce(),
) -> Result<Measured, Failure> {
    let workers = threads as usize * settings.in_flight as usize;
    let control = Control {
        state: AtomicU8::new(if settings.warmup > 0.0 { WARMUP } else { MEASURED }),
        done: (0..workers).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
        failure: Mutex::new(None),
    };
    let allowed = cpu::allowed();
    let start = Instant::now();
    let mut tallies = Vec::with_capacity(workers);
    let (mut seconds, mut cpu, mut interrupted) = (0.0, Duration::ZERO, false);
    std::thread::scope(|scope| {
        let mut handles = Vec::with_capacity(workers);
        for worker in 0..workers {
            let (control, allowed, make) = (&control, &allowed, &make);
            handles.push(scope.spawn(move || {
                if pin {
                    let _ = cpu::pin_current_thread(worker / settings.in_flight as usize, allowed);
                }
                let schedule = settings
                    .rate
                    .map(|rate| Schedule::new(start, rate, settings.batch, worker, workers));
                work(control, worker, (schedule, settings.time_every), make(worker))
            }));
        }
        (seconds, cpu, interrupted) = conduct(name, settings, &control, start, at_measured);
        for handle in handles {
            match handle.join() {
                Ok(tally) => tallies.push(tally),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    if let Some(failure) =
        control.failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    {
        return Err(failure);
    }
    Ok(add_up(tallies, (seconds, cpu), interrupted))
}

/// Leads the phase from the calling thread: moves the state on, draws progress, sees Ctrl-C.
fn conduct(
    name: &str,
    settings: &PhaseSettings,
    control: &Control,
    start: Instant,
    at_measured: impl FnOnce(),
) -> (f64, Duration, bool) {
    let warmup = Duration::from_secs_f64(settings.warmup);
    let measured = Duration::from_secs_f64(settings.seconds);
    let bar = progress::time(name, warmup + measured);
    let mut at_measured = Some(at_measured);
    let mut measured_from: Option<(Instant, Duration)> = None;
    let (mut seen, mut seen_at) = (0, start);
    loop {
        let now = Instant::now();
        let elapsed = now - start;
        if measured_from.is_none() && elapsed >= warmup {
            if let Some(at_measured) = at_measured.take() {
                at_measured();
            }
            control.state.store(MEASURED, Ordering::Release);
            measured_from = Some((Instant::now(), cpu::process_time()));
        }
        let failed = control.failure.lock().map_or(true, |failure| failure.is_some());
        let ended =
            measured_from.is_some_and(|(from, _)| now.saturating_duration_since(from) >= measured);
        if ended || failed || interrupt::requested() {
            control.state.store(STOPPED, Ordering::Release);
            bar.finish_and_clear();
            let Some((from, cpu)) = measured_from else {
                return (0.0, Duration::ZERO, interrupt::requested());
            };
            let cpu = cpu::process_time().saturating_sub(cpu);
            return (from.elapsed().as_secs_f64(), cpu, interrupt::requested());
        }
        if now - seen_at >= Duration::from_millis(250) {
            let done: u64 = control.done.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            let rate = (done - seen) as f64 / (now - seen_at).as_secs_f64();
            (seen, seen_at) = (done, now);
            bar.set_prefix(units::per_second(rate));
            bar.set_position(elapsed.as_millis() as u64);
        }
        let next = measured_from.map_or(start + warmup, |(from, _)| from + measured);
        let left = next.saturating_duration_since(Instant::now());
        std::thread::sleep(left.clamp(Duration::from_micros(200), Duration::from_millis(50)));
    }
}

/// One worker's loop.
fn work<C: Caller>(
    control: &Control,
    worker: usize,
    (mut schedule, time_every): (Option<Schedule>, u32),
    mut caller: C,
) -> Tally {
    let mut tally = Tally::default();
    let (mut latency, mut service) = (Latency::new(), Latency::new());
    let mut previous_end = Instant::now();
    let (mut total, mut untimed) = (0, 0);
    loop {
        let is_timed = schedule.is_some() || untimed + 1 >= time_every;
        untimed = if is_timed { 0 } else { untimed + 1 };
        if is_timed && schedule.is_none() && time_every > 1 {
            previous_end = Instant::now();
        }
        let mut from = previous_end;
        let mut begin = previous_end;
        if let Some(schedule) = &mut schedule {
            from = schedule.next();
            if !schedule::wait(from, || control.state.load(Ordering::Relaxed) == STOPPED) {
                break;
            }
            begin = Instant::now();
        }
        let operations = match caller.call() {
            Ok(operations) => operations,
            Err(failure) => {
                if let Ok(mut first) = control.failure.lock() {
                    first.get_or_insert(failure);
                }
                break;
            }
        };
        total += operations;
        control.done[worker].store(total, Ordering::Relaxed);
        let state = control.state.load(Ordering::Relaxed);
        if state == MEASURED {
            tally.operations += operations;
        }
        if is_timed {
            let end = Instant::now();
            previous_end = end;
            // Under way when the time ended is too late to count, but a stall at the end must show.
            if state != WARMUP {
                latency.record(end - from, operations);
            }
            if state == MEASURED && schedule.is_some() {
                service.record(end - begin, operations);
                tally.last_lag = begin - from;
                tally.max_lag = tally.max_lag.max(tally.last_lag);
            }
        }
        if state == STOPPED {
            break;
        }
    }
    tally.latency = Some(latency);
    tally.service = Some(service);
    tally
}

fn add_up(tallies: Vec<Tally>, (seconds, cpu): (f64, Duration), interrupted: bool) -> Measured {
    let mut sum = Measured {
        operations: 0,
        seconds,
        cpu,
        latency: Latency::new(),
        service: Latency::new(),
        max_lag: Duration::ZERO,
        last_lag: Duration::ZERO,
        interrupted,
    };
    for tally in tallies {
        sum.operations += tally.operations;
        tally.latency.iter().for_each(|latency| sum.latency.add(latency));
        tally.service.iter().for_each(|service| sum.service.add(service));
        sum.max_lag = sum.max_lag.max(tally.max_lag);
        sum.last_lag = sum.last_lag.max(tally.last_lag);
    }
    sum
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
