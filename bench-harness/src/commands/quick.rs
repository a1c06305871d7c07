//! `quick`: the whole harness, small: limits, write, read, mixed, kill and restart, in under two minutes.
//!
//! Works in a directory of its own that it removes, needs no root, and ends in a table that sets this
//! machine's figures beside its limits and beside what Hazelcast publishes. See docs/benchmarking.md,
//! "quick".

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use super::{mixed, quick_table, read, restart, write};
use crate::cli::args::QuickArgs;
use crate::cli::choices::{Durability, HugePages, Workload};
use crate::cli::settings::{DataSettings, KeyChoice, PhaseSettings, Settings, StoreSettings};
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::probe::{self, Limits, ProbeSettings};
use crate::report::document;
use crate::system::directory::Scratch;
use crate::system::{cpu, interrupt, memory};

/// The value sizes of the published rows.
pub const VALUE_SIZES: [u32; 2] = [239, 1007];

/// Bytes of keys and values that each store holds, at most.
const LIVE_BYTES_MOST: u64 = 500_000_000;

/// Entries of those, at most.
const ENTRIES_MOST: u64 = 2_000_000;

/// Memory and file of the probes.
const PROBE_BYTES: u64 = 512 << 20;

/// Results of one value size.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries loaded.
    pub entries: u64,
    /// Limits, with the append loop at this value size.
    pub limits: Limits,
    /// `write`.
    pub write: write::Results,
    /// `restart`.
    pub restart: restart::Results,
}

/// Results of `quick`.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    /// Per value size.
    pub rows: Vec<Row>,
    /// `read`, at the smaller value size.
    pub read: Option<read::Results>,
    /// `mixed`, workload A, at the smaller value size.
    pub mixed: Option<mixed::Results>,
    /// All of it.
    pub seconds: f64,
    /// Ctrl-C came before the end.
    pub interrupted: bool,
}

#[derive(Serialize)]
struct Echo<'a> {
    dir: &'a Path,
    io: crate::cli::choices::Io,
    io_used: Option<String>,
    threads: u32,
    value_sizes: [u32; 2],
}

/// Runs the subcommand.
pub fn command(args: &QuickArgs) -> Result<Outcome, Failure> {
    document::check(args.json.as_deref())?;
    let start = Instant::now();
    let scratch = Scratch::claim(&args.dir)?;
    let mut results = Results::default();
    let mut io_used = None;
    let outcome = run(args, &mut results, &mut io_used);
    results.seconds = start.elapsed().as_secs_f64();
    results.interrupted = interrupt::requested();
    // An interrupt in the middle of a step ends that step early; what was finished is shown.
    outcome?;
    quick_table::print(&args.dir, &results);
    let echo = Echo {
        dir: &args.dir,
        io: args.io,
        io_used,
        threads: cpu::available(),
        value_sizes: VALUE_SIZES,
    };
    document::write(args.json.as_deref(), "quick", &args.dir, &echo, &results)?;
    drop(scratch);
    let bad = results.rows.iter().map(|row| row.restart.lost + row.restart.wrong).sum::<u64>()
        + results.read.as_ref().map_or(0, |read| read.phase.wrong)
        + results.mixed.as_ref().map_or(0, |mixed| mixed.phase.wrong);
    Ok(Outcome::of(results.interrupted, bad))
}

fn run(
    args: &QuickArgs,
    results: &mut Results,
    io_used: &mut Option<String>,
) -> Result<(), Failure> {
    for value_size in VALUE_SIZES {
        let Some(row) = row(args, value_size, io_used)? else { return Ok(()) };
        results.rows.push(row);
    }
    let mut settings = settings(args, "read", VALUE_SIZES[0], 2.0);
    results.read = Some(read::run(&mut settings)?);
    discard(&settings)?;
    if interrupt::requested() {
        return Ok(());
    }
    let mut settings = self::settings(args, "mixed", VALUE_SIZES[0], 2.0);
    settings.distribution = KeyChoice::Zipfian;
    settings.workload = Some(Workload::A);
    results.mixed = Some(mixed::run(&mut settings, Workload::A)?);
    discard(&settings)
}

/// None once interrupted: a row is whole or not there.
fn row(
    args: &QuickArgs,
    value_size: u32,
    io_used: &mut Option<String>,
) -> Result<Option<Row>, Failure> {
    let probes = ProbeSettings {
        dir: args.dir.clone(),
        seconds: 1.0,
        file_size: PROBE_BYTES,
        memory_size: PROBE_BYTES,
        value_size,
    };
    let limits = probe::measure(&probes, &[])?;
    if interrupt::requested() {
        return Ok(None);
    }
    let mut settings = settings(args, "write", value_size, 6.0);
    let write = write::run(&mut settings)?;
    *io_used = settings.store.io_used.clone();
    discard(&settings)?;
    if interrupt::requested() {
        return Ok(None);
    }
    let mut settings = self::settings(args, "restart", value_size, 2.0);
    let restart = restart::run(&mut settings, 1)?;
    discard(&settings)?;
    Ok(Some(Row { value_size, entries: settings.data.entries, limits, write, restart }))
}

/// The settings of one step, in a directory of its own.
fn settings(args: &QuickArgs, step: &str, value_size: u32, seconds: f64) -> Settings {
    let memory_limit = memory::default_limit_bytes();
    let entry_bytes = u64::from(value_size) + 8;
    let live_bytes = LIVE_BYTES_MOST.min(memory_limit / 4);
    Settings {
        store: StoreSettings {
            dir: args.dir.join(format!("{step}-{value_size}")),
            memory_limit,
            io: args.io,
            io_used: None,
            huge_pages: HugePages::Auto,
            disk_budget: 2.0,
        },
        data: DataSettings {
            entries: (live_bytes / entry_bytes).clamp(1000, ENTRIES_MOST),
            value_size,
            key_size: 8,
            threads: cpu::available(),
            durability: Durability::Buffered,
            seed: 1,
            pin: false,
        },
        phase: PhaseSettings {
            seconds,
            warmup: 1.0,
            batch: 1,
            in_flight: 1,
            rate: None,
            time_every: 1,
        },
        distribution: KeyChoice::Uniform,
        workload: None,
    }
}

fn discard(settings: &Settings) -> Result<(), Failure> {
    let dir = &settings.store.dir;
    std::fs::remove_dir_all(dir).map_err(Failure::file("remove", dir))
}
