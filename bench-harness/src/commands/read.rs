//! `read`: load, then get by key; operations per second and tails.
//!
//! Every value read is checked for being whole; one that is not, or a key not found, ends with exit
//! status 1.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::figures::PhaseFigures;
use super::gets::Getter;
use super::load;
use crate::cli::args::ReadArgs;
use crate::cli::settings::{KeyChoice, Settings};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::measure::phase;
use crate::outcome::Outcome;
use crate::report::document;
use crate::report::table::Facts;
use crate::system::directory;
use crate::workload::choice::Choice;

/// Results of `read`.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// The measured phase.
    #[serde(flatten)]
    pub phase: PhaseFigures,
    /// Entries at the end.
    pub entries: u64,
}

/// Runs the subcommand.
pub fn command(args: &ReadArgs) -> Result<Outcome, Failure> {
    document::check(args.store.json.as_deref())?;
    let choice = KeyChoice::from(args.keys.distribution);
    let mut settings =
        Settings::resolve(&args.store, &args.data, &args.phase, args.batch.batch, choice)?;
    directory::claim_empty(&settings.store.dir)?;
    let results = run(&mut settings)?;
    let mut facts = Facts::new("read");
    results.phase.print(&mut facts, &settings);
    facts.print();
    results.phase.print_remarks(&settings.phase);
    document::write(args.store.json.as_deref(), "read", &settings.store.dir, &settings, &results)?;
    Ok(Outcome::of(results.phase.interrupted, results.phase.wrong))
}

/// Loads, gets and closes.
pub fn run(settings: &mut Settings) -> Result<Results, Failure> {
    let engine = Engine::open(&settings.store, &settings.data)?;
    settings.store.io_used = Some(engine.io_used());
    let loaded = load::load(&engine, &settings.data, None)?;
    let mut figures =
        PhaseFigures::loaded(settings.data.entries, loaded.seconds, loaded.interrupted);
    if settings.phase.seconds > 0.0 && !loaded.interrupted {
        let choice = Choice::over(settings.data.entries, settings.distribution);
        let wrong = AtomicU64::new(0);
        let make =
            |worker: usize| Getter::new(&engine, settings, choice.clone(), worker as u64, &wrong);
        let (threads, pin) = (settings.data.threads, settings.data.pin);
        let measured = phase::run("read", threads, pin, &settings.phase, make, || {})?;
        figures.add(&measured, settings.phase.rate);
        figures.wrong = wrong.load(Ordering::Relaxed);
    }
    let entries = engine.len();
    engine.close()?;
    Ok(Results { phase: figures, entries })
}
