//! `hotrestart-inspect`: reads a store offline, without writing.
//!
//! Exit codes: 0 sound, 1 corrupt, 2 usage, not a store, in use, unreadable, or of another version. The work
//! is in `hotrestart::inspect`; this file is its command line.

mod tables;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use hotrestart::format::MapId;
use hotrestart::inspect::{DumpOptions, InspectError, Options, Report, check, dump};
use tables::{check_text, list_text};

/// Reads a store offline, without writing.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 sound, 1 corrupt, 2 usage, not a store, in use by a running process, \
                  unreadable, or of another version."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks every checksum and counts what is live and what is garbage. Keeps about 80 bytes per key in
    /// memory.
    Check(Place),
    /// Checks, too, and shows manifests, lives, maps and chunks.
    List(Place),
    /// Prints the records.
    Dump {
        #[command(flatten)]
        place: Place,
        /// Print whole keys and values, not only their first 48 bytes.
        #[arg(long)]
        full: bool,
        /// Print only the records of the map with this id.
        #[arg(long)]
        map: Option<u32>,
        /// Also print the records of blocks that do not count.
        #[arg(long)]
        void: bool,
    },
}

#[derive(Args)]
struct Place {
    /// The store's directory.
    dir: PathBuf,
    /// Also write the result to this file (`dump`: one object per record and line).
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The tmpfs in which the store's log buffers are.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    buffers: PathBuf,
    /// Look at a store that a process has open: what it writes meanwhile may be told as corrupt.
    #[arg(long)]
    live: bool,
}

impl Place {
    fn options(&self) -> Options {
        Options { buffers_dir: self.buffers.clone(), live: self.live, ..Options::default() }
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Check(place) => check(&place.dir, &place.options()).and_then(|report| {
            print(&check_text(&report))?;
            write_report(&report, place.json.as_deref())
        }),
        Command::List(place) => check(&place.dir, &place.options()).and_then(|report| {
            print(&list_text(&report))?;
            write_report(&report, place.json.as_deref())
        }),
        Command::Dump { place, full, map, void } => {
            let map = map.map(MapId);
            let options = DumpOptions { full, map, include_void: void, json: false };
            dump_to(&place, options)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(InspectError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("hotrestart-inspect: {error}");
            ExitCode::from(2)
        }
    }
}

fn print(text: &str) -> Result<(), InspectError> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn write_report(report: &Report, json: Option<&Path>) -> Result<bool, InspectError> {
    if let Some(path) = json {
        let mut file = BufWriter::new(create(path)?);
        serde_json::to_writer_pretty(&mut file, report).map_err(std::io::Error::from)?;
        writeln!(file)?;
        file.flush()?;
    }
    Ok(report.is_sound)
}

fn dump_to(place: &Place, options: DumpOptions) -> Result<bool, InspectError> {
    if let Some(path) = &place.json {
        let mut file = BufWriter::new(create(path)?);
        let options = DumpOptions { json: true, ..options };
        dump(&place.dir, &place.options(), options, &mut file)?;
        file.flush()?;
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let is_sound = dump(&place.dir, &place.options(), options, &mut out)?;
    out.flush()?;
    Ok(is_sound)
}

fn create(path: &Path) -> Result<File, InspectError> {
    File::create(path).map_err(|error| InspectError::Unreadable { path: path.to_owned(), error })
}
