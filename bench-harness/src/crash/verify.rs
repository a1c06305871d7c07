//! The judgement after a restart: every key of the table against the store, and nothing else in the
//! store.
//!
//! Owns the meaning of `lost` and `wrong` in docs/benchmarking.md. Reads every byte of every value, on
//! all threads. A run that was interrupted while loading is judged all the same: keys never issued must
//! not be there.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::table::Table;
use crate::cli::settings::DataSettings;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::report::progress;
use crate::system::interrupt;
use crate::workload::keys::Keys;
use crate::workload::values::{Judgement, Values};

/// Keys that a thread takes at a time.
const STRIDE: u64 = 1 << 14;

/// Examples kept for the reader.
const EXAMPLES: usize = 5;

/// What the check found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Keys whose value is older than the last acknowledged one, or gone.
    pub lost: u64,
    /// Keys or bytes never issued.
    pub wrong: u64,
    /// Keys looked up.
    pub checked: u64,
    /// The first few of either kind, spelt out.
    pub examples: Vec<String>,
    /// The user stopped the fill or the check.
    pub interrupted: bool,
}

impl Verdict {
    /// Joins what another check of the same keys found.
    pub fn add(&mut self, other: Verdict) {
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.checked += other.checked;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
        self.interrupted |= other.interrupted;
    }
}

#[derive(Default)]
struct Shared {
    /// The fill was interrupted, which is no reason to leave the check out.
    interrupted_before: bool,
    next: AtomicU64,
    checked: AtomicU64,
    found: AtomicU64,
    lost: AtomicU64,
    wrong: AtomicU64,
    examples: Mutex<Vec<String>>,
}

impl Shared {
    /// The user stopped the check itself.
    fn stopped(&self) -> bool {
        interrupt::requested() && !self.interrupted_before
    }

    fn blame(&self, counter: &AtomicU64, what: impl FnOnce() -> String) {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if examples.len() < EXAMPLES {
            examples.push(what());
        }
    }
}

/// Compares the whole store with the table.
pub fn verify(engine: &Engine, table: &Table, data: &DataSettings) -> Result<Verdict, Failure> {
    let shared = Shared { interrupted_before: interrupt::requested(), ..Shared::default() };
    let bar = progress::items("verify", table.entries());
    let results: Vec<Result<(), Failure>> = std::thread::scope(|scope| {
        let check = || check_stretches(engine, table, data, &shared, &bar);
        let handles: Vec<_> = (0..data.threads).map(|_| scope.spawn(check)).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        handles.into_iter().map(join).collect()
    });
    bar.finish_and_clear();
    results.into_iter().collect::<Result<(), Failure>>()?;
    if !shared.stopped() {
        strangers(engine, &shared)?;
    }
    Ok(Verdict {
        lost: shared.lost.into_inner(),
        wrong: shared.wrong.into_inner(),
        checked: shared.checked.into_inner(),
        examples: shared.examples.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()),
        interrupted: interrupt::requested(),
    })
}

/// One thread: takes stretches of keys until none is left.
fn check_stretches(
    engine: &Engine,
    table: &Table,
    data: &DataSettings,
    shared: &Shared,
    bar: &indicatif::ProgressBar,
) -> Result<(), Failure> {
    let keys = Keys::new(data.key_size, data.seed);
    let values = Values::new(data.value_size, data.seed);
    let mut key = Vec::new();
    loop {
        let from = shared.next.fetch_add(STRIDE, Ordering::Relaxed);
        let to = (from + STRIDE).min(table.entries());
        if from >= to || shared.stopped() {
            return Ok(());
        }
        for index in from..to {
            keys.write(index, &mut key);
            let row = table.versions(index);
            let judged = engine.get(&key, |value| {
                (values.judge(index, value, row.acknowledged, row.issued), value.len())
            })?;
            if judged.is_some() {
                shared.found.fetch_add(1, Ordering::Relaxed);
            }
            match judged {
                None if row.acknowledged == 0 => {}
                None => {
                    shared.blame(&shared.lost, || format!("key {index} is gone; table: {row:?}"))
                }
                Some((Judgement::Good, _)) => {}
                Some((Judgement::Lost, _)) => {
                    shared.blame(&shared.lost, || {
                        format!("key {index} holds an older version; table: {row:?}")
                    });
                }
                Some((Judgement::Wrong, length)) => shared.blame(&shared.wrong, || {
                    format!("key {index} holds {length} bytes never issued; table: {row:?}")
                }),
            }
        }
        shared.checked.fetch_add(to - from, Ordering::Relaxed);
        bar.inc(to - from);
    }
}

/// Every key of the table was looked up: what a walk over the store finds beyond those was never issued.
fn strangers(engine: &Engine, shared: &Shared) -> Result<(), Failure> {
    let mut walked = 0_u64;
    engine.for_each(|_, _| {
        walked += 1;
        Ok(())
    })?;
    let (found, stated) = (shared.found.load(Ordering::Relaxed), engine.len());
    // Both counts may tell of the same entries: they are wrong once.
    let difference = walked.abs_diff(found).max(stated.abs_diff(found));
    if difference > 0 {
        shared.blame(&shared.wrong, || {
            format!(
                "look-ups find {found} entries, a walk {walked}, the store's count says {stated}"
            )
        });
        shared.wrong.fetch_add(difference - 1, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
