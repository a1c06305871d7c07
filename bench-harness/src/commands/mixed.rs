//! `mixed`: the YCSB core workloads A, B, C, D and F over a loaded store.
//!
//! The choice of keys is zipfian unless asked otherwise; D reads the latest by definition and refuses
//! another choice. See docs/benchmarking.md, "Workloads".

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::figures::PhaseFigures;
use super::load;
use super::ycsb::{MixedChoice, Mixer};
use crate::cli::args::MixedArgs;
use crate::cli::choices::Workload;
use crate::cli::settings::{KeyChoice, Settings};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::measure::phase;
use crate::outcome::Outcome;
use crate::report::table::Facts;
use crate::report::{document, units};
use crate::system::directory;
use crate::workload::choice::{Choice, Zipfian};
use crate::workload::latest::Inserted;

/// Results of `mixed`.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// The measured phase.
    #[serde(flatten)]
    pub phase: PhaseFigures,
    /// Entries at the end; more than loaded after workload D.
    pub entries: u64,
}

/// Runs the subcommand.
pub fn command(args: &MixedArgs) -> Result<Outcome, Failure> {
    document::check(args.store.json.as_deref())?;
    let choice = match (args.workload, args.distribution) {
        (Workload::D, Some(_)) => {
            return Err(Failure::usage(
                "--distribution does not apply to workload d, which reads the latest keys by definition",
            ));
        }
        (Workload::D, None) => KeyChoice::Latest,
        (_, distribution) => distribution.map_or(KeyChoice::Zipfian, KeyChoice::from),
    };
    let mut settings = Settings::resolve(&args.store, &args.data, &args.phase, 1, choice)?;
    settings.workload = Some(args.workload);
    directory::claim_empty(&settings.store.dir)?;
    let results = run(&mut settings, args.workload)?;
    let mut facts = Facts::new("mixed");
    facts.line("workload", format!("{:?}, {:?} keys", args.workload, settings.distribution));
    results.phase.print(&mut facts, &settings);
    facts.line("entries at the end", units::count(results.entries));
    facts.print();
    results.phase.print_remarks(&settings.phase);
    document::write(args.store.json.as_deref(), "mixed", &settings.store.dir, &settings, &results)?;
    Ok(Outcome::of(results.phase.interrupted, results.phase.wrong))
}

/// Loads, mixes and closes.
pub fn run(settings: &mut Settings, workload: Workload) -> Result<Results, Failure> {
    let engine = Engine::open(&settings.store, &settings.data)?;
    settings.store.io_used = Some(engine.io_used());
    let loaded = load::load(&engine, &settings.data, None)?;
    let mut figures =
        PhaseFigures::loaded(settings.data.entries, loaded.seconds, loaded.interrupted);
    if settings.phase.seconds > 0.0 && !loaded.interrupted {
        let entries = settings.data.entries;
        let zipfian = Zipfian::new(entries);
        let choice = match settings.distribution {
            KeyChoice::Latest => MixedChoice::Latest(&zipfian),
            other => MixedChoice::Loaded(Choice::over(entries, other)),
        };
        let (wrong, inserted) = (AtomicU64::new(0), Inserted::new(entries));
        let make = |worker: usize| {
            Mixer::new(
                &engine,
                settings,
                workload,
                choice.clone(),
                &inserted,
                worker as u64,
                &wrong,
            )
        };
        let (threads, pin) = (settings.data.threads, settings.data.pin);
        let measured = phase::run("mixed", threads, pin, &settings.phase, make, || {})?;
        figures.add(&measured, settings.phase.rate);
        figures.wrong = wrong.load(Ordering::Relaxed);
    }
    let entries = engine.len();
    engine.close()?;
    Ok(Results { phase: figures, entries })
}
