//! `probe`: the machine's limits, by loops as bare as they can be, to hold every other figure against.
//!
//! Each probe runs for about the seconds given, in files no larger than stated, in a folder of its own
//! that is removed afterwards. Where a probe cannot run, its figures are null and the reason is said.
//! See docs/benchmarking.md, "Limits".

mod append;
mod disk;
pub mod files;
mod memory;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cli::args::ProbeArgs;
use crate::cli::choices::Probe;
use crate::failure::Failure;
use crate::measure::latency::Percentiles;
use crate::outcome::Outcome;
use crate::report::table::Facts;
use crate::report::{document, progress, units};
use crate::system::directory::{self, Scratch};
use crate::system::interrupt;

/// What `probe` uses.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeSettings {
    /// Directory on the disk probed.
    pub dir: std::path::PathBuf,
    /// Seconds of each probe.
    pub seconds: f64,
    /// Largest file of a probe.
    pub file_size: u64,
    /// Memory that the memory probes walk.
    pub memory_size: u64,
    /// Bytes of a value in the append loop.
    pub value_size: u32,
}

/// The limits; null where a probe could not run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Limits {
    /// O_DIRECT was accepted by the file system.
    pub direct_io: bool,
    /// `uring` or `syscall`: how the sequential probes reached the disk.
    pub io_used: String,
    /// 1 MiB blocks, 8 under way.
    pub sequential_read_bytes_per_second: Option<f64>,
    /// The same, over blocks written before.
    pub sequential_write_bytes_per_second: Option<f64>,
    /// 4 KiB written over written blocks, then flushed: cycles a second.
    pub write_flush_cycles_per_second: Option<f64>,
    /// The time of such a cycle.
    pub write_flush_latency_us: Option<Percentiles>,
    /// Copying 64 MiB blocks, one thread.
    pub memcpy_bytes_per_second: Option<f64>,
    /// The same, all threads.
    pub memcpy_all_threads_bytes_per_second: Option<f64>,
    /// A load whose address depends on the load before it, on 4 KiB pages.
    pub dependent_miss_ns: Option<f64>,
    /// The same on huge pages.
    pub dependent_miss_huge_pages_ns: Option<f64>,
    /// The bare append loop: records a second of one thread.
    pub append_one_thread_per_second: Option<f64>,
    /// The same with all threads, a file each.
    pub append_all_threads_per_second: Option<f64>,
    /// Bytes of log a second of the loop with all threads.
    pub append_log_bytes_per_second: Option<f64>,
    /// The longest that the loop waited for a buffer.
    pub append_longest_wait_us: Option<f64>,
    /// Threads of "all threads".
    pub threads: u32,
    /// What could not run, and why.
    pub notes: Vec<String>,
    /// Ctrl-C came before the end.
    pub interrupted: bool,
}

/// Runs the subcommand.
pub fn command(args: &ProbeArgs) -> Result<Outcome, Failure> {
    document::check(args.json.as_deref())?;
    if args.file_size < 8 << 20 || args.memory_size < 1 << 20 {
        return Err(Failure::usage("--file-size is at least 8MiB and --memory-size at least 1MiB"));
    }
    let settings = ProbeSettings {
        dir: args.dir.clone(),
        seconds: args.seconds,
        file_size: args.file_size,
        memory_size: args.memory_size,
        value_size: args.value_size,
    };
    let made = directory::make(&settings.dir)?;
    let limits = measure(&settings, &args.only)?;
    print(&settings, &limits);
    document::write(args.json.as_deref(), "probe", &settings.dir, &settings, &limits)?;
    drop(made);
    Ok(Outcome::of(limits.interrupted, 0))
}

/// Runs probes in a folder below the directory: these, or all when none is named.
pub fn measure(settings: &ProbeSettings, only: &[Probe]) -> Result<Limits, Failure> {
    let scratch_path = settings.dir.join(format!("probe-{}", std::process::id()));
    let scratch = Scratch::claim(&scratch_path)?;
    let threads = crate::system::cpu::available();
    let mut limits = Limits { threads, ..Limits::default() };
    let time = Duration::from_secs_f64(settings.seconds.max(0.05));
    type Step = fn(&ProbeSettings, &Path, Duration, &mut Limits) -> Result<(), Failure>;
    let steps: [(Probe, &str, Step); 5] = [
        (Probe::Sequential, "sequential read and write", disk::sequential),
        (Probe::Flush, "write and flush", disk::write_and_flush),
        (Probe::Memcpy, "memcpy", memory::copy),
        (Probe::Misses, "dependent misses", memory::dependent_misses),
        (Probe::Append, "append loop", append::run),
    ];
    let is_asked = |probe| only.is_empty() || only.contains(&probe);
    for (_, name, step) in steps.into_iter().filter(|(probe, ..)| is_asked(*probe)) {
        if interrupt::requested() {
            limits.interrupted = true;
            break;
        }
        let bar = progress::step(&format!("probe: {name}"));
        step(settings, &scratch_path, time, &mut limits)?;
        bar.finish_and_clear();
    }
    drop(scratch);
    Ok(limits)
}

/// Prints the limits.
pub fn print(settings: &ProbeSettings, limits: &Limits) {
    let per_second = |value: Option<f64>| value.map(units::per_second);
    let bandwidth = |value: Option<f64>| value.map(units::gigabytes_per_second);
    let nanoseconds = |value: Option<f64>| value.map(|ns| format!("{} ns", units::digits(ns)));
    let threads = limits.threads;
    let mut facts = Facts::new("limits of this machine");
    let how = if limits.direct_io { "O_DIRECT" } else { "through the page cache" };
    let has_streamed = limits.sequential_read_bytes_per_second.is_some();
    facts
        .line_if("disk access", has_streamed.then(|| format!("{}, {how}", limits.io_used)))
        .line_if("sequential read", bandwidth(limits.sequential_read_bytes_per_second))
        .line_if("sequential write", bandwidth(limits.sequential_write_bytes_per_second))
        .line_if("write + flush", per_second(limits.write_flush_cycles_per_second))
        .line_if(
            "write + flush, p50 / p99",
            limits.write_flush_latency_us.map(|us| {
                format!("{} / {}", units::microseconds(us.p50), units::microseconds(us.p99))
            }),
        )
        .line_if("memcpy, 1 thread", bandwidth(limits.memcpy_bytes_per_second))
        .line_if(
            &format!("memcpy, {threads} threads"),
            bandwidth(limits.memcpy_all_threads_bytes_per_second),
        )
        .line_if("dependent miss, 4 KiB pages", nanoseconds(limits.dependent_miss_ns))
        .line_if("dependent miss, huge pages", nanoseconds(limits.dependent_miss_huge_pages_ns));
    let size = settings.value_size;
    facts
        .line_if(
            &format!("append loop, {size} B, 1 thread"),
            per_second(limits.append_one_thread_per_second),
        )
        .line_if(
            &format!("append loop, {size} B, {threads} threads"),
            per_second(limits.append_all_threads_per_second),
        )
        .line_if("append loop, log", bandwidth(limits.append_log_bytes_per_second))
        .line_if(
            "append loop, longest wait",
            limits.append_longest_wait_us.map(units::microseconds),
        );
    facts.print();
    for note in &limits.notes {
        println!("note: {note}");
    }
    if limits.interrupted {
        println!("interrupted: what is missing was not measured");
    }
}
