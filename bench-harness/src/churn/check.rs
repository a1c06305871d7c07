//! Whether the store holds what the ledger says: every key, every byte, and nothing else.
//!
//! All threads together, each over its share of the keys; a get and a look at each byte of the value. Called
//! after each pattern and after the restart, while nobody changes anything.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::ledger::Ledger;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::workload::keys::Keys;
use crate::workload::values::{Judgement, Values};

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Keys that are there as they must be.
    pub entries: u64,
    /// Keys that are not there, or have an older value.
    pub lost: u64,
    /// Keys with a value that they never had or no longer have, and keys that were removed and are there.
    pub wrong: u64,
}

impl Checked {
    /// Entries that are not as they must be.
    pub fn bad(&self) -> u64 {
        self.lost + self.wrong
    }
}

/// Compares all keys.
pub fn check(
    engine: &Engine,
    ledger: &Ledger,
    seed: u64,
    threads: u32,
) -> Result<Checked, Failure> {
    let (entries, lost, wrong) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let share = |thread: u64| -> Result<(), Failure> {
        let keys = Keys::new(8, seed);
        let mut key = Vec::new();
        for index in (thread..ledger.keys()).step_by(threads as usize) {
            let kept = ledger.get(index);
            keys.write(index, &mut key);
            let judge = |value: &[u8]| {
                Values::new(kept.size, seed).judge(index, value, kept.version, kept.version)
            };
            match (engine.get(&key, judge)?, kept.is_present) {
                (None, false) => {}
                (Some(Judgement::Good), true) => _ = entries.fetch_add(1, Relaxed),
                (None | Some(Judgement::Lost), true) => _ = lost.fetch_add(1, Relaxed),
                (Some(_), _) => _ = wrong.fetch_add(1, Relaxed),
            }
        }
        Ok(())
    };
    let results: Vec<Result<(), Failure>> = std::thread::scope(|scope| {
        let handles: Vec<_> =
            (0..u64::from(threads)).map(|thread| scope.spawn(move || share(thread))).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        handles.into_iter().map(join).collect()
    });
    results.into_iter().collect::<Result<(), Failure>>()?;
    let mut checked = Checked {
        entries: entries.into_inner(),
        lost: lost.into_inner(),
        wrong: wrong.into_inner(),
    };
    // Keys that nobody ever put would not be asked for.
    checked.wrong += engine.len().saturating_sub(checked.entries + checked.bad());
    Ok(checked)
}
