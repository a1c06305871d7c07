//! `bench-harness`: fills, measures, kills and restarts a store, and says how near the machine it came.
//!
//! Parses the command line, runs one subcommand, prints its failure and ends with the exit status of the
//! contract (docs/benchmarking.md). Reading order: `cli` (what can be asked), `commands` (what is done),
//! `engine` (the only file that calls the store), `crash` (kill and check), `measure`, `workload`,
//! `probe`, `doctor`, `import`, `report`. Unsafe code is in `raw` only.

mod churn;
mod cli;
mod commands;
mod crash;
mod doctor;
mod engine;
mod failure;
mod import;
mod measure;
mod outcome;
mod probe;
mod raw;
mod report;
mod system;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use cli::args::{Cli, Command};
use failure::Failure;
use outcome::Outcome;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // What the store says once (a fallback, a repair) belongs on the user's screen. The child of
    // `restart` keeps silent: its parent opens the same store and says the same.
    if !matches!(cli.command, Command::FillUntilKilled(_)) {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .init();
    }
    match run(&cli.command) {
        Ok(outcome) => ExitCode::from(outcome.exit_status()),
        Err(failure) => {
            eprintln!("bench-harness: {failure}");
            ExitCode::from(failure.exit_status())
        }
    }
}

fn run(command: &Command) -> Result<Outcome, Failure> {
    // The child of `restart` knows its parent, and inherits what that one was told.
    if !matches!(command, Command::FillUntilKilled(_)) {
        system::parent::die_as_told()?;
    }
    system::interrupt::install()
        .map_err(|error| Failure::environment(format!("cannot watch for Ctrl-C: {error}")))?;
    match command {
        Command::Doctor(args) => doctor::command(args),
        Command::Probe(args) => probe::command(args),
        Command::Write(args) => commands::write::command(args),
        Command::Read(args) => commands::read::command(args),
        Command::Restart(args) => commands::restart::command(args),
        Command::Mixed(args) => commands::mixed::command(args),
        Command::Churn(args) => churn::command(args),
        Command::Import(args) => commands::import::command(args),
        Command::Quick(args) => commands::quick::command(args),
        Command::FillUntilKilled(args) => crash::child::command(args),
    }
}
