//! `restart`: fill in a child, kill it, drop the page cache, reopen, check every entry.
//!
//! `seconds` runs from the call of open until any key can be read; the check comes after and has its own
//! time. Then the same files are read bare, for comparison. Leaves the store behind, closed cleanly. See
//! docs/benchmarking.md, "restart".

use std::time::Instant;

use serde::Serialize;

use crate::cli::args::RestartArgs;
use crate::cli::settings::{KeyChoice, Settings};
use crate::crash::table::Table;
use crate::crash::{supervise, verify};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::probe::files;
use crate::report::table::Facts;
use crate::report::{document, progress, units};
use crate::system::{directory, interrupt, page_cache};

/// Bytes of the store's files that are read bare for comparison, at most.
const BARE_READ_MAX_BYTES: u64 = 4 << 30;

/// Results of `restart`.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// From the call of open until any key can be read.
    pub seconds: f64,
    /// The check's time.
    pub verify_seconds: f64,
    /// Entries after the restart.
    pub entries: u64,
    /// Bytes of keys and values.
    pub live_bytes: u64,
    /// Live bytes by 1e9 and seconds.
    pub gb_per_second: f64,
    /// Bytes read from the log.
    pub disk_bytes_read: u64,
    /// The same by 1e9 and seconds.
    pub disk_gb_per_second: f64,
    /// Bytes a second of a bare O_DIRECT read of the same files, by 1e9; null where that cannot be had.
    pub bare_read_gb_per_second: Option<f64>,
    /// Entries a second.
    pub entries_per_second: f64,
    /// Whether the page cache was dropped before.
    pub page_cache_dropped: bool,
    /// Keys whose value is older than their last acknowledged one, or gone.
    pub lost: u64,
    /// Keys or bytes never issued.
    pub wrong: u64,
    /// Keys checked, at all restarts.
    pub checked: u64,
    /// Records read from the log.
    pub records: u64,
    /// How often the filling process was killed.
    pub kills: u32,
    /// Ctrl-C came before the end.
    pub interrupted: bool,
    #[serde(skip)]
    page_cache: &'static str,
    #[serde(skip)]
    examples: Vec<String>,
}

/// Runs the subcommand.
pub fn command(args: &RestartArgs) -> Result<Outcome, Failure> {
    document::check(args.store.json.as_deref())?;
    let choice = KeyChoice::from(args.keys.distribution);
    let mut settings =
        Settings::resolve(&args.store, &args.data, &args.phase, args.batch.batch, choice)?;
    let callers = u64::from(settings.data.threads) * u64::from(settings.phase.in_flight);
    if settings.data.entries < callers {
        return Err(Failure::usage(format!(
            "--entries {} is fewer than the {callers} callers: each key has one writer here",
            settings.data.entries
        )));
    }
    directory::claim_empty(&settings.store.dir)?;
    let results = run(&mut settings, args.kills)?;
    print(&settings, &results);
    document::write(
        args.store.json.as_deref(),
        "restart",
        &settings.store.dir,
        &settings,
        &results,
    )?;
    Ok(Outcome::of(results.interrupted, results.lost + results.wrong))
}

/// Fills, kills, reopens, checks and closes.
pub fn run(settings: &mut Settings, kills: u32) -> Result<Results, Failure> {
    let table = Table::create(settings.data.entries).map_err(|error| {
        Failure::environment(format!("cannot get memory for the table of versions: {error}"))
    })?;
    let mut earlier = verify::Verdict::default();
    for kill in 1..kills {
        supervise::fill_and_kill(settings, &table, kill)?;
        if kill % 2 == 0 && !interrupt::requested() {
            let bar = progress::bytes("restart", 0);
            let engine = Engine::reopen(&settings.store, &settings.data, &bar)?;
            bar.finish_and_clear();
            earlier.add(verify::verify(&engine, &table, &settings.data)?);
            engine.close()?;
        }
    }
    supervise::fill_and_kill(settings, &table, kills)?;
    let page_cache = page_cache::drop_for(&settings.store.dir)?;
    let bar = progress::bytes("restart", 0);
    let start = Instant::now();
    let engine = Engine::reopen(&settings.store, &settings.data, &bar)?;
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    settings.store.io_used = Some(engine.io_used());
    let recovered = engine.recovered();
    let entries = engine.len();
    let entry_bytes = u64::from(settings.data.key_size) + u64::from(settings.data.value_size);
    let live_bytes = entries * entry_bytes;
    let start = Instant::now();
    let mut verdict = verify::verify(&engine, &table, &settings.data)?;
    verdict.add(earlier);
    let verify_seconds = start.elapsed().as_secs_f64();
    engine.close()?;
    let files = directory::files(&settings.store.dir)?;
    let bare_read = files::read_bare(&files, BARE_READ_MAX_BYTES)?;
    Ok(Results {
        seconds,
        verify_seconds,
        entries,
        live_bytes,
        gb_per_second: live_bytes as f64 / 1e9 / seconds,
        disk_bytes_read: recovered.bytes_read,
        disk_gb_per_second: recovered.bytes_read as f64 / 1e9 / seconds,
        bare_read_gb_per_second: bare_read.map(|rate| rate / 1e9),
        entries_per_second: entries as f64 / seconds,
        page_cache_dropped: page_cache.dropped(),
        lost: verdict.lost,
        wrong: verdict.wrong,
        checked: verdict.checked,
        records: recovered.records,
        kills,
        interrupted: verdict.interrupted,
        page_cache: page_cache.describe(),
        examples: verdict.examples,
    })
}

fn print(settings: &Settings, results: &Results) {
    let mut facts = Facts::new("restart after SIGKILL");
    facts
        .line("until any key can be read", units::seconds(results.seconds))
        .line("killed", units::count(u64::from(results.kills)) + " x")
        .line("entries", units::count(results.entries))
        .line("live", units::bytes(results.live_bytes))
        .line("live, restarted", format!("{} GB/s", units::digits(results.gb_per_second)))
        .line("read from disk", units::bytes(results.disk_bytes_read))
        .line("disk", format!("{} GB/s", units::digits(results.disk_gb_per_second)))
        .line_if(
            "a bare read of the same files",
            results.bare_read_gb_per_second.map(|bare| {
                let share = results.disk_gb_per_second / bare * 100.0;
                format!("{} GB/s; the restart has {share:.0} % of it", units::digits(bare))
            }),
        )
        .line("entries, restarted", units::per_second(results.entries_per_second))
        .line("page cache", results.page_cache)
        .line(
            "checked",
            format!(
                "{} keys in {}",
                units::count(results.checked),
                units::seconds(results.verify_seconds)
            ),
        )
        .line("lost", units::count(results.lost))
        .line("wrong", units::count(results.wrong))
        .line("I/O", settings.store.io_used.clone().unwrap_or_default());
    facts.print();
    for example in &results.examples {
        println!("seed {}: {example}", settings.data.seed);
    }
    if results.interrupted {
        println!(
            "interrupted: filled less than asked, killed early, checked as far as the table says"
        );
    }
}
