//! `churn`: everything changes for hours at the memory limit and the disk budget, in four patterns, while
//! every bound is looked at every second; after each pattern every key is checked, and at the end the store
//! is closed, opened and checked again.
//!
//! See docs/benchmarking.md, "churn".

mod check;
mod ledger;
mod watch;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use self::check::{Checked, check};
use self::ledger::Ledger;
use self::watch::Watch;
use self::worker::{Counts, Shared, Worker};
use crate::cli::args::ChurnArgs;
use crate::cli::choices::Durability;
use crate::cli::settings::{DataSettings, KeyChoice, StoreSettings};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::report::table::{self, Facts};
use crate::report::{document, progress, units};
use crate::system::{cpu, directory, interrupt};

/// Bytes of the limit for each key there is: fewer than an entry with the shortest value needs, so that
/// memory is full before the keys are used up.
const LIMIT_BYTES_PER_KEY: u64 = 80;

/// How everything changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Overwrites of 239 B, every key alike.
    Uniform,
    /// Overwrites of 239 B, zipfian keys.
    Zipfian,
    /// Inserts until memory is full, then most keys are removed, and so on.
    Waves,
    /// Values from 32 B to 8 KiB and back; what does not fit drives others out.
    Drift,
}

impl Pattern {
    const ALL: [Pattern; 4] = [Pattern::Uniform, Pattern::Zipfian, Pattern::Waves, Pattern::Drift];

    fn name(self) -> &'static str {
        match self {
            Pattern::Uniform => "uniform",
            Pattern::Zipfian => "zipfian",
            Pattern::Waves => "waves",
            Pattern::Drift => "drift",
        }
    }

    fn choice(self) -> KeyChoice {
        match self {
            Pattern::Zipfian => KeyChoice::Zipfian,
            _ => KeyChoice::Uniform,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
struct Settings {
    #[serde(flatten)]
    store: StoreSettings,
    seconds: f64,
    patterns: Vec<Pattern>,
    threads: u32,
    seed: u64,
    keys: u64,
}

/// What one pattern did.
#[derive(Debug, Serialize)]
struct PatternResult {
    pattern: Pattern,
    seconds: f64,
    operations: u64,
    removals: u64,
    refused_memory: u64,
    refused_disk: u64,
    /// The median of the seconds of the first third, the second and the last.
    first_third_per_second: f64,
    middle_third_per_second: f64,
    last_third_per_second: f64,
    /// Time on cpus for each operation, the store's own threads included, in the same three thirds: who else
    /// uses the machine changes that least.
    cpu_us_per_operation: [f64; 3],
    memory_max_bytes: u64,
    unreclaimed_max_bytes: u64,
    /// While values drift in size: the fewest bytes of live records since memory was full.
    live_min_bytes: Option<u64>,
    rss_max_bytes: Option<u64>,
    disk_max_bytes: u64,
    disk_ratio_max: f64,
    over_budget_seconds: u64,
    problems: Vec<String>,
    checked: Checked,
}

#[derive(Debug, Serialize)]
struct Results {
    patterns: Vec<PatternResult>,
    restart_seconds: Option<f64>,
    checked_after_restart: Option<Checked>,
    interrupted: bool,
}

/// Runs the subcommand.
pub fn command(args: &ChurnArgs) -> Result<Outcome, Failure> {
    let mut store = StoreSettings::resolve(&args.store);
    directory::claim_empty(&store.dir)?;
    let threads = args.threads.unwrap_or_else(cpu::available);
    let keys = store.memory_limit / LIMIT_BYTES_PER_KEY / u64::from(threads) * u64::from(threads);
    let data = DataSettings {
        entries: keys,
        value_size: worker::VALUE_BYTES,
        key_size: 8,
        threads,
        durability: Durability::Buffered,
        seed: args.seed,
        pin: false,
    };
    let engine = Engine::open(&store, &data)?;
    store.io_used = Some(engine.io_used());
    let patterns =
        if args.pattern.is_empty() { Pattern::ALL.to_vec() } else { args.pattern.clone() };
    let (seconds, seed) = (args.seconds, args.seed);
    let settings = Settings { store, seconds, patterns, threads, seed, keys };
    let results = run(engine, &settings, &data)?;
    print(&settings, &results);
    let dir = &settings.store.dir;
    document::write(args.store.json.as_deref(), "churn", dir, &settings, &results)?;
    let bad = |result: &PatternResult| result.checked.bad() + result.problems.len() as u64;
    let bad: u64 = results.patterns.iter().map(bad).sum();
    let bad_later = results.checked_after_restart.map_or(0, |checked| checked.bad());
    Ok(Outcome::of(results.interrupted, bad + bad_later))
}

fn run(engine: Engine, settings: &Settings, data: &DataSettings) -> Result<Results, Failure> {
    let ledger = Ledger::new(settings.keys);
    let mut patterns: Vec<PatternResult> = Vec::new();
    for &pattern in &settings.patterns {
        if !patterns.is_empty() {
            engine.clear()?;
            ledger.clear();
        }
        patterns.push(churn(&engine, &ledger, settings, pattern)?);
        if interrupt::requested() {
            return Ok(Results {
                patterns,
                restart_seconds: None,
                checked_after_restart: None,
                interrupted: true,
            });
        }
    }
    engine.close()?;
    let start = Instant::now();
    let engine = Engine::reopen(&settings.store, data, &progress::bytes("restart", 0))?;
    let restart_seconds = Some(start.elapsed().as_secs_f64());
    let checked = check(&engine, &ledger, settings.seed, settings.threads)?;
    engine.close()?;
    Ok(Results {
        patterns,
        restart_seconds,
        checked_after_restart: Some(checked),
        interrupted: false,
    })
}

/// One pattern: filled, changed for its time, checked.
fn churn(
    engine: &Engine,
    ledger: &Ledger,
    settings: &Settings,
    pattern: Pattern,
) -> Result<PatternResult, Failure> {
    let (stop, filled, counts) = (AtomicBool::new(false), AtomicU64::new(0), Counts::default());
    let workers = u64::from(settings.threads);
    let share = settings.seconds / settings.patterns.len() as f64;
    let shared = Shared {
        engine,
        ledger,
        seed: settings.seed,
        workers,
        time: Duration::from_secs_f64(share),
        stop: &stop,
        filled: &filled,
        counts: &counts,
    };
    let mut watch = Watch::default();
    let mut by_second: Vec<Second> = Vec::new();
    let start = Instant::now();
    let result: Result<f64, Failure> = std::thread::scope(|scope| {
        let spawn = |number| {
            let shared = &shared;
            scope.spawn(move || Worker::new(shared, number).run(pattern))
        };
        let handles: Vec<_> = (0..workers).map(spawn).collect();
        let bar = progress::time(pattern.name(), shared.time);
        let (mut former, mut former_cpu, mut began) = (0, cpu::process_time(), None);
        while handles.iter().any(|handle| !handle.is_finished()) {
            std::thread::sleep(Duration::from_secs(1));
            let ended = handles.iter().any(std::thread::ScopedJoinHandle::is_finished);
            if interrupt::requested() || ended {
                stop.store(true, Relaxed);
            }
            let figures = engine.figures();
            watch.look(start.elapsed().as_secs(), settings.store.disk_budget, &figures);
            if pattern == Pattern::Drift && counts.refused_memory.load(Relaxed) > 0 && !ended {
                watch.look_while_full(start.elapsed().as_secs(), &figures);
            }
            let (operations, cpu) = (counts.operations.load(Relaxed), cpu::process_time());
            if filled.load(Relaxed) == workers && !ended {
                let began = *began.get_or_insert_with(Instant::now);
                let cpu = cpu.saturating_sub(former_cpu);
                by_second.push(Second { operations: operations - former, cpu });
                bar.set_position(began.elapsed().as_millis() as u64);
            }
            watch.count(start.elapsed().as_secs(), operations - former);
            bar.set_prefix(units::per_second((operations - former) as f64));
            (former, former_cpu) = (operations, cpu);
        }
        bar.finish_and_clear();
        for handle in handles {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(began.map_or(0.0, |began: Instant| began.elapsed().as_secs_f64()))
    });
    let seconds = result?;
    // The first second of counting has the end of the filling in it.
    let third = |of: usize| {
        let counted = by_second.get(1..).unwrap_or_default();
        &counted[counted.len() * of / 3..counted.len() * (of + 1) / 3]
    };
    Ok(PatternResult {
        pattern,
        seconds,
        operations: counts.operations.load(Relaxed),
        removals: counts.removals.load(Relaxed),
        refused_memory: counts.refused_memory.load(Relaxed),
        refused_disk: counts.refused_disk.load(Relaxed),
        first_third_per_second: median_rate(third(0)),
        middle_third_per_second: median_rate(third(1)),
        last_third_per_second: median_rate(third(2)),
        cpu_us_per_operation: [0, 1, 2].map(|of| cpu_us(third(of))),
        memory_max_bytes: watch.memory_max_bytes,
        unreclaimed_max_bytes: watch.unreclaimed_max_bytes,
        live_min_bytes: watch.live_min_bytes,
        rss_max_bytes: watch.rss_max_bytes,
        disk_max_bytes: watch.disk_max_bytes,
        disk_ratio_max: watch.ratio_max,
        over_budget_seconds: watch.over_budget_seconds,
        problems: watch.problems,
        checked: check(engine, ledger, settings.seed, settings.threads)?,
    })
}

/// What was done in a second.
struct Second {
    operations: u64,
    cpu: Duration,
}

fn median_rate(seconds: &[Second]) -> f64 {
    let mut sorted: Vec<u64> = seconds.iter().map(|second| second.operations).collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0) as f64
}

fn cpu_us(seconds: &[Second]) -> f64 {
    let cpu: Duration = seconds.iter().map(|second| second.cpu).sum();
    let operations: u64 = seconds.iter().map(|second| second.operations).sum();
    cpu.as_secs_f64() * 1e6 / operations.max(1) as f64
}

fn print(settings: &Settings, results: &Results) {
    let header = [
        "churn",
        "operations",
        "first third",
        "middle",
        "last third",
        "us of cpu, by thirds",
        "memory",
        "least live",
        "disk",
        "ratio",
        "refused",
        "entries",
        "lost",
        "wrong",
    ];
    let row = |result: &PatternResult| {
        vec![
            result.pattern.name().to_owned(),
            units::count(result.operations),
            units::per_second(result.first_third_per_second),
            units::per_second(result.middle_third_per_second),
            units::per_second(result.last_third_per_second),
            result.cpu_us_per_operation.map(units::digits).join(" "),
            units::bytes(result.memory_max_bytes),
            result.live_min_bytes.map_or_else(|| "-".to_owned(), units::bytes),
            units::bytes(result.disk_max_bytes),
            units::digits(result.disk_ratio_max),
            units::count(result.refused_memory + result.refused_disk),
            units::count(result.checked.entries),
            units::count(result.checked.lost),
            units::count(result.checked.wrong),
        ]
    };
    table::print(&header, &results.patterns.iter().map(row).collect::<Vec<_>>(), true);
    println!();
    let mut facts = Facts::new("bounds");
    facts
        .line("memory limit", units::bytes(settings.store.memory_limit))
        .line("disk budget, of live records", units::digits(settings.store.disk_budget));
    if let (Some(seconds), Some(checked)) = (results.restart_seconds, results.checked_after_restart)
    {
        let found = format!(
            "{}: {} entries, {} lost, {} wrong",
            units::seconds(seconds),
            units::count(checked.entries),
            units::count(checked.lost),
            units::count(checked.wrong)
        );
        facts.line("closed and opened again", found);
    }
    facts.print();
    for result in &results.patterns {
        for problem in &result.problems {
            println!("BROKEN, {}: {problem}", result.pattern.name());
        }
    }
}
