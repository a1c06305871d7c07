//! The caller that gets: draws keys, reads values in place, singly or in batches, and checks each
//! cheaply.
//!
//! A key that is missing, or a value that is not whole, is counted: the run then ends with exit status 1.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::SmallRng;

use crate::cli::settings::Settings;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::measure::phase::Caller;
use crate::workload::choice::{Choice, thread_random};
use crate::workload::keys::Keys;
use crate::workload::values::Values;

/// One worker's gets.
pub struct Getter<'a> {
    engine: &'a Engine,
    choice: Choice,
    random: SmallRng,
    keys: Keys,
    values: Values,
    batch: usize,
    key_bytes: Vec<u8>,
    indexes: Vec<u64>,
    wrong: &'a AtomicU64,
}

impl<'a> Getter<'a> {
    /// A worker that draws from all keys and counts what is wrong.
    pub fn new(
        engine: &'a Engine,
        settings: &Settings,
        choice: Choice,
        worker: u64,
        wrong: &'a AtomicU64,
    ) -> Getter<'a> {
        Getter {
            engine,
            choice,
            random: thread_random(settings.data.seed, worker),
            keys: Keys::new(settings.data.key_size, settings.data.seed),
            values: Values::new(settings.data.value_size, settings.data.seed),
            batch: settings.phase.batch as usize,
            key_bytes: Vec::new(),
            indexes: Vec::new(),
            wrong,
        }
    }
}

impl Caller for Getter<'_> {
    fn call(&mut self) -> Result<u64, Failure> {
        self.key_bytes.clear();
        self.indexes.clear();
        for _ in 0..self.batch {
            let index = self.choice.draw(&mut self.random);
            self.keys.append(index, &mut self.key_bytes);
            self.indexes.push(index);
        }
        let mut good = 0;
        if self.batch == 1 {
            let (index, values) = (self.indexes[0], &self.values);
            let whole = self.engine.get(&self.key_bytes, |value| values.is_whole(index, value))?;
            good += usize::from(whole == Some(true));
        } else {
            let keys: Vec<&[u8]> = self.key_bytes.chunks_exact(self.keys.size()).collect();
            self.engine.get_many(&keys, |ordinal, value| {
                let whole =
                    value.is_some_and(|value| self.values.is_whole(self.indexes[ordinal], value));
                good += usize::from(whole);
            })?;
        }
        if good < self.batch {
            self.wrong.fetch_add((self.batch - good) as u64, Ordering::Relaxed);
        }
        Ok(self.batch as u64)
    }
}
