//! `doctor`: what this machine offers to a store, and what to change.
//!
//! Reads only, except for one small file in the directory that it removes. Exit status 0 whatever it
//! finds, unless the directory cannot be used (3). See docs/benchmarking.md, "doctor".

mod disk;
mod kernel;
mod memory;

use serde::Serialize;

use crate::cli::args::DoctorArgs;
use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::report::{document, table};
use crate::system::directory;

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As good as it gets.
    Ok,
    /// Works, but something better could be had.
    Fair,
    /// Costs speed or safety.
    Bad,
    /// Cannot be told here.
    Unknown,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// How good it is.
    pub verdict: Verdict,
    /// What to change, and how; empty if nothing.
    pub change: String,
}

impl Finding {
    fn new(what: &'static str, found: impl Into<String>, verdict: Verdict) -> Finding {
        Finding { what, found: found.into(), verdict, change: String::new() }
    }

    fn change(mut self, change: impl Into<String>) -> Finding {
        self.change = change.into();
        self
    }
}

#[derive(Serialize)]
struct Settings<'a> {
    dir: &'a std::path::Path,
}

#[derive(Serialize)]
struct Results {
    findings: Vec<Finding>,
}

/// Runs the subcommand.
pub fn command(args: &DoctorArgs) -> Result<Outcome, Failure> {
    document::check(args.json.as_deref())?;
    let made = directory::make(&args.dir)?;
    let mut findings = kernel::findings();
    findings.extend(memory::findings());
    findings.extend(disk::findings(&args.dir)?);
    let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
    table::print(&["what", "found", "ok?", "what to change"], &rows, false);
    let results = Results { findings };
    document::write(
        args.json.as_deref(),
        "doctor",
        &args.dir,
        &Settings { dir: &args.dir },
        &results,
    )?;
    drop(made);
    Ok(Outcome::Sound)
}

fn row(finding: &Finding) -> Vec<String> {
    let verdict = match finding.verdict {
        Verdict::Ok => "yes",
        Verdict::Fair => "fair",
        Verdict::Bad => "no",
        Verdict::Unknown => "?",
    };
    vec![finding.what.to_owned(), finding.found.clone(), verdict.to_owned(), finding.change.clone()]
}
