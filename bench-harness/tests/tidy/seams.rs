//! Rules about the seam for models: what loom or shuttle must see is taken from `sync.rs`, not from the
//! standard library, or a model or a schedule would not compile, or worse, look at less than there is.

use crate::tree::{files, none};

/// Places whose locks must come from the seam; `sync.rs` itself is it.
const SEAMED: [&str; 6] = [
    "hdstore/src/",
    "hotrestart/src/buffers/ring.rs",
    "hotrestart/src/buffers/turns.rs",
    "hotrestart/src/buffers/waiting.rs",
    "hotrestart/src/writer/progress.rs",
    "hotrestart/src/io/waker.rs",
];

/// Whether a line imports a lock of the standard library.
fn imports_a_lock(line: &str) -> bool {
    let locks = ["Mutex", "RwLock", "Condvar"];
    line.starts_with("use std::sync::") && locks.iter().any(|lock| line.contains(lock))
}

#[test]
fn no_lock_goes_round_the_seam() {
    let mut findings = Vec::new();
    for file in files(".rs") {
        let is_seamed = SEAMED.iter().any(|place| file.path.starts_with(place));
        if !is_seamed || file.path.contains("src/sync") {
            continue;
        }
        for (number, line) in file.text.lines().enumerate().filter(|(_, line)| imports_a_lock(line))
        {
            findings.push(format!("{}:{}: {line}", file.path, number + 1));
        }
    }
    none("locks that models must see come from crate::sync", findings);
}

#[test]
fn the_checks_of_this_file_find_what_they_look_for() {
    assert!(imports_a_lock("use std::sync::Mutex;"));
    assert!(imports_a_lock("use std::sync::{Arc, RwLock};"));
    assert!(!imports_a_lock("use std::sync::Arc;") && !imports_a_lock("use crate::sync::Mutex;"));
}
