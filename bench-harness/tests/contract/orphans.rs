//! Whoever started a run and dies takes it along, and the run its filling child.
//!
//! Hazard: a killed test, or script, leaves a process behind that fills the disk for hours.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{DIES_WITH, text};

/// Runs whose command line names this directory and has this word.
fn processes_with(directory: &Path, word: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("Linux").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let names = |number: &u32| {
        let line = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        let is_own = line.starts_with(env!("CARGO_BIN_EXE_bench-harness").as_bytes());
        let line = String::from_utf8_lossy(&line);
        is_own && line.contains(text(directory)) && line.contains(word)
    };
    numbers.filter(names).collect()
}

fn wait_for(directory: &Path, word: &str, count: usize, what: &str) {
    let start = Instant::now();
    loop {
        let found = processes_with(directory, word);
        if found.len() == count {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {found:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_run_and_its_filling_child_die_with_whoever_started_them() {
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().join("s");
    // A shell between, which can be killed: it starts the run as its child and waits.
    let program = env!("CARGO_BIN_EXE_bench-harness");
    let line = format!(
        "{DIES_WITH}=$$ {program} restart --dir {} --entries 1000 --value-size 100 --seconds 60 \
         --memory-limit 64MiB; true",
        text(&directory)
    );
    let shell = Command::new("sh").args(["-c", &line]).spawn();
    let mut shell = shell.expect("a shell");
    wait_for(&directory, "fill-until-killed", 1, "the child begins");
    shell.kill().expect("it can be killed");
    shell.wait().expect("it ends");
    wait_for(&directory, "", 0, "nobody is left");
}
