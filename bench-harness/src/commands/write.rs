//! `write`: load, then overwrite; operations per second, tails, log bandwidth, amplification, memory and
//! disk.
//!
//! Leaves the store behind, closed cleanly. See docs/benchmarking.md, "write".

use serde::Serialize;

use super::figures::PhaseFigures;
use super::load;
use super::overwrite::Overwriter;
use crate::cli::args::WriteArgs;
use crate::cli::settings::{KeyChoice, Settings};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::measure::phase;
use crate::outcome::Outcome;
use crate::report::table::Facts;
use crate::report::{document, units};
use crate::system::{directory, memory};
use crate::workload::choice::Choice;

/// Results of `write`.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// The measured phase.
    #[serde(flatten)]
    pub phase: PhaseFigures,
    /// Bytes submitted to chunks a second, over the measured phase.
    pub log_bytes_per_second: Option<f64>,
    /// Bytes submitted to chunks over bytes of keys and values put, of the measured phase, or of the
    /// load if it was left out.
    pub write_amplification: Option<f64>,
    /// Bytes written to make chunks ready, since the store was opened.
    pub zero_fill_bytes: u64,
    /// Bytes allocated on disk at the end.
    pub disk_bytes: u64,
    /// Bytes of keys and values at the end.
    pub live_bytes: u64,
    /// VmRSS and hugetlb pages at the end; VmRSS includes shared mappings.
    pub rss_bytes: Option<u64>,
    /// Entries at the end.
    pub entries: u64,
}

/// Runs the subcommand.
pub fn command(args: &WriteArgs) -> Result<Outcome, Failure> {
    document::check(args.store.json.as_deref())?;
    let choice = KeyChoice::from(args.keys.distribution);
    let mut settings =
        Settings::resolve(&args.store, &args.data, &args.phase, args.batch.batch, choice)?;
    directory::claim_empty(&settings.store.dir)?;
    let results = run(&mut settings)?;
    print(&settings, &results);
    document::write(args.store.json.as_deref(), "write", &settings.store.dir, &settings, &results)?;
    Ok(Outcome::of(results.phase.interrupted, results.phase.wrong))
}

/// Loads, overwrites and closes.
pub fn run(settings: &mut Settings) -> Result<Results, Failure> {
    let engine = Engine::open(&settings.store, &settings.data)?;
    settings.store.io_used = Some(engine.io_used());
    let loaded = load::load(&engine, &settings.data, None)?;
    let mut figures =
        PhaseFigures::loaded(settings.data.entries, loaded.seconds, loaded.interrupted);
    let entry_bytes = u64::from(settings.data.key_size) + u64::from(settings.data.value_size);
    let mut put_bytes = settings.data.entries * entry_bytes;
    let mut log_bytes = engine.log_bytes();
    let mut log_bytes_per_second = None;
    if settings.phase.seconds > 0.0 && !loaded.interrupted {
        let choice = Choice::over(settings.data.entries, settings.distribution);
        let make =
            |worker: usize| Overwriter::sharing(&engine, settings, choice.clone(), worker as u64);
        let mut before = 0;
        let (threads, pin) = (settings.data.threads, settings.data.pin);
        let measured = phase::run("write", threads, pin, &settings.phase, make, || {
            before = engine.log_bytes()
        })?;
        log_bytes = engine.log_bytes() - before;
        log_bytes_per_second =
            Some(log_bytes as f64 / measured.seconds).filter(|rate| rate.is_finite());
        put_bytes = measured.operations * entry_bytes;
        figures.add(&measured, settings.phase.rate);
    }
    let results = Results {
        phase: figures,
        log_bytes_per_second,
        write_amplification: (put_bytes > 0).then(|| log_bytes as f64 / put_bytes as f64),
        zero_fill_bytes: engine.zero_fill_bytes(),
        disk_bytes: directory::allocated_bytes(&settings.store.dir)?,
        live_bytes: engine.len() * entry_bytes,
        rss_bytes: memory::resident_bytes(),
        entries: engine.len(),
    };
    engine.close()?;
    Ok(results)
}

fn print(settings: &Settings, results: &Results) {
    let mut facts = Facts::new("write");
    results.phase.print(&mut facts, settings);
    facts
        .line_if("log", results.log_bytes_per_second.map(units::gigabytes_per_second))
        .line_if("write amplification", results.write_amplification.map(units::digits))
        .line("zero fill", units::bytes(results.zero_fill_bytes))
        .line("on disk", units::bytes(results.disk_bytes))
        .line("live", units::bytes(results.live_bytes))
        .line_if("memory of the process", results.rss_bytes.map(units::bytes))
        .line("I/O", settings.store.io_used.clone().unwrap_or_default());
    facts.print();
    results.phase.print_remarks(&settings.phase);
}
