//! The child of `restart`: opens the store, loads it, overwrites until it is killed.
//!
//! Never ends by itself unless it fails; then it says why and ends with the exit status of the contract.
//! Draws nothing. Dies with its parent.

use std::time::Duration;

use super::table::{Stage, Table};
use crate::cli::args::FillArgs;
use crate::cli::settings::{PhaseSettings, Settings};
use crate::commands::load;
use crate::commands::overwrite::Overwriter;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::measure::phase;
use crate::outcome::Outcome;
use crate::report::progress;
use crate::system::parent;
use crate::workload::choice::Choice;

/// Longer than any parent waits: the end of the child is SIGKILL.
const FOREVER_SECONDS: f64 = 1e8;

/// Runs the hidden subcommand.
pub fn command(args: &FillArgs) -> Result<Outcome, Failure> {
    parent::die_with(args.parent)?;
    progress::silence();
    let settings: Settings = serde_json::from_str(&args.settings)
        .map_err(|error| Failure::usage(format!("settings of the filling process: {error}")))?;
    let table = Table::open(&args.table).map_err(Failure::file("open", &args.table))?;
    let engine = Engine::open(&settings.store, &settings.data)?;
    // After an earlier kill the store has every key.
    if table.stage() == Stage::Loading {
        load::load(&engine, &settings.data, Some(&table))?;
        table.begin_overwriting();
    }
    if settings.phase.seconds == 0.0 {
        std::thread::sleep(Duration::from_secs_f64(FOREVER_SECONDS));
    }
    let workers = u64::from(settings.data.threads) * u64::from(settings.phase.in_flight);
    let choices: Vec<Choice> = own_choices(&settings, workers);
    let make = |worker: usize| {
        // With the remainder spread, two sizes of key sets suffice.
        let share = own_keys(settings.data.entries, workers, worker as u64);
        let choice = choices.iter().find(|choice| choice.items() == share);
        let choice = choice.expect("a choice was made for both sizes").clone();
        Overwriter::owning(&engine, &settings, choice, &table, worker as u64, workers)
    };
    let phase = PhaseSettings { seconds: FOREVER_SECONDS, ..settings.phase.clone() };
    phase::run("overwrite", settings.data.threads, settings.data.pin, &phase, make, || {})?;
    Err(Failure::environment("the filling process outlived its time"))
}

/// Keys of one worker, which owns those whose index is its number modulo the workers.
fn own_keys(entries: u64, workers: u64, worker: u64) -> u64 {
    entries / workers + u64::from(worker < entries % workers)
}

fn own_choices(settings: &Settings, workers: u64) -> Vec<Choice> {
    let smaller = settings.data.entries / workers;
    [smaller, smaller + 1].map(|items| Choice::over(items, settings.distribution)).to_vec()
}
