//! Runs the program and hands back what a script sees.

use std::path::Path;
use std::process::Command;

/// What a script sees of one run.
pub struct Run {
    /// Exit status.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Names the process with which a run is to die: a test that is killed leaves none behind.
pub const DIES_WITH: &str = "BENCH_HARNESS_DIES_WITH";

/// Runs `bench-harness` with these arguments.
pub fn run(arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_bench-harness"))
        .args(arguments)
        .env(DIES_WITH, std::process::id().to_string())
        .output()
        .expect("the program starts");
    Run {
        status: output.status.code().expect("ended by itself"),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A report.
pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).expect("the report is there")).expect("it is JSON")
}
