//! The machinery that tries to break a store: whole stores on a simulated disk, stepped on one thread from
//! one seed.
//!
//! `steps.rs` crashes them at every step, `widths.rs` loads one directory in every order and width,
//! `faults.rs` has each I/O call fail once. `world.rs`, `oracle.rs`, `script.rs` and `holding.rs` are the
//! workbench. A few seconds of each run with the other tests; `scripts/machinery` runs it for as long as one
//! likes. `docs/testing.md` has the whole story.
//!
//! `HOTRESTART_SEED` begins at another seed (a failing test prints its own), `HOTRESTART_SECONDS` is how long
//! fresh seeds are tried.

mod faults;
mod found;
mod full;
mod groups;
mod holding;
mod oracle;
mod script;
mod steps;
mod storms;
mod widths;
mod world;

use std::time::{Duration, Instant};

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs `each` with seed after seed: so many of them, or as long as the environment says.
fn with_seeds(first: u64, count: u64, mut each: impl FnMut(u64)) -> u64 {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with HOTRESTART_SEED={}", self.0);
            }
        }
    }
    let first = from_environment("HOTRESTART_SEED").unwrap_or(first);
    let long = from_environment("HOTRESTART_SECONDS").map(Duration::from_secs);
    let start = Instant::now();
    let mut seed = first;
    while long.map_or(seed < first + count, |long| start.elapsed() < long) {
        let _seed = Seed(seed);
        each(seed);
        seed += 1;
    }
    seed - first
}
