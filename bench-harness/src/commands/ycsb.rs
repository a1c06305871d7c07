//! The caller of `mixed`: one operation of a YCSB mix a call.
//!
//! Reads are checked as `gets` does. Inserts go beyond the loaded keys; workload D reads by zipfian
//! distance from the newest readable key.

use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::SmallRng;

use crate::cli::choices::Workload;
use crate::cli::settings::Settings;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::measure::phase::Caller;
use crate::workload::choice::{Choice, Zipfian, thread_random};
use crate::workload::keys::Keys;
use crate::workload::latest::Inserted;
use crate::workload::mix::{self, Operation};
use crate::workload::values::Values;

/// How a mix chooses the key of a read or an update.
#[derive(Clone)]
pub enum MixedChoice<'a> {
    /// Among the loaded keys.
    Loaded(Choice),
    /// By distance from the newest.
    Latest(&'a Zipfian),
}

/// One worker's operations.
pub struct Mixer<'a> {
    engine: &'a Engine,
    workload: Workload,
    choice: MixedChoice<'a>,
    inserted: &'a Inserted,
    random: SmallRng,
    keys: Keys,
    values: Values,
    key: Vec<u8>,
    value: Vec<u8>,
    version: u32,
    wrong: &'a AtomicU64,
}

impl<'a> Mixer<'a> {
    /// A worker of the mix.
    pub fn new(
        engine: &'a Engine,
        settings: &Settings,
        workload: Workload,
        choice: MixedChoice<'a>,
        inserted: &'a Inserted,
        worker: u64,
        wrong: &'a AtomicU64,
    ) -> Mixer<'a> {
        Mixer {
            engine,
            workload,
            choice,
            inserted,
            random: thread_random(settings.data.seed, worker),
            keys: Keys::new(settings.data.key_size, settings.data.seed),
            values: Values::new(settings.data.value_size, settings.data.seed),
            key: Vec::new(),
            value: Vec::new(),
            version: 1,
            wrong,
        }
    }

    fn draw(&mut self) -> u64 {
        match &self.choice {
            MixedChoice::Loaded(choice) => choice.draw(&mut self.random),
            MixedChoice::Latest(zipfian) => {
                let newest = self.inserted.readable() - 1;
                newest - zipfian.rank(&mut self.random).min(newest)
            }
        }
    }

    fn read(&mut self, index: u64) -> Result<(), Failure> {
        self.keys.write(index, &mut self.key);
        let values = &self.values;
        let whole = self.engine.get(&self.key, |value| values.is_whole(index, value))?;
        if whole != Some(true) {
            self.wrong.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn put(&mut self, index: u64) -> Result<(), Failure> {
        self.version = self.version.checked_add(1).unwrap_or(1);
        self.keys.write(index, &mut self.key);
        self.values.write(index, self.version, &mut self.value);
        self.engine.put(&self.key, &self.value)
    }
}

impl Caller for Mixer<'_> {
    fn call(&mut self) -> Result<u64, Failure> {
        match mix::draw(self.workload, &mut self.random) {
            Operation::Read => {
                let index = self.draw();
                self.read(index)?;
            }
            Operation::Update => {
                let index = self.draw();
                self.put(index)?;
            }
            Operation::ReadModifyWrite => {
                let index = self.draw();
                self.read(index)?;
                self.put(index)?;
            }
            Operation::Insert => {
                let index = self.inserted.issue();
                self.put(index)?;
                self.inserted.acknowledge(index);
            }
        }
        Ok(1)
    }
}
