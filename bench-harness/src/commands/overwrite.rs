//! The caller that overwrites: draws keys, makes values of the next version, puts them singly or in
//! batches.
//!
//! With a table it owns the keys whose index is its number modulo the workers, so that each key has one
//! writer and its versions one order; without one all workers draw from all keys.

use rand::rngs::SmallRng;

use crate::cli::settings::Settings;
use crate::commands::load::pairs;
use crate::crash::table::Table;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::measure::phase::Caller;
use crate::workload::choice::{Choice, thread_random};
use crate::workload::keys::Keys;
use crate::workload::values::Values;

/// One worker's overwrites.
pub struct Overwriter<'a> {
    engine: &'a Engine,
    choice: Choice,
    random: SmallRng,
    keys: Keys,
    values: Values,
    batch: usize,
    key_bytes: Vec<u8>,
    value_bytes: Vec<u8>,
    issued: Vec<(u64, u32)>,
    version: u32,
    owner: Option<Owner<'a>>,
}

struct Owner<'a> {
    table: &'a Table,
    worker: u64,
    workers: u64,
}

impl<'a> Overwriter<'a> {
    /// A worker that draws from all keys.
    pub fn sharing(
        engine: &'a Engine,
        settings: &Settings,
        choice: Choice,
        worker: u64,
    ) -> Overwriter<'a> {
        Overwriter {
            engine,
            choice,
            random: thread_random(settings.data.seed, worker),
            keys: Keys::new(settings.data.key_size, settings.data.seed),
            values: Values::new(settings.data.value_size, settings.data.seed),
            batch: settings.phase.batch as usize,
            key_bytes: Vec::new(),
            value_bytes: Vec::new(),
            issued: Vec::new(),
            version: 1,
            owner: None,
        }
    }

    /// A worker that draws from its own keys and notes versions; `choice` counts only those.
    pub fn owning(
        engine: &'a Engine,
        settings: &Settings,
        choice: Choice,
        table: &'a Table,
        worker: u64,
        workers: u64,
    ) -> Overwriter<'a> {
        let mut overwriter = Overwriter::sharing(engine, settings, choice, worker);
        overwriter.owner = Some(Owner { table, worker, workers });
        overwriter
    }

    /// Draws a key and its next version.
    fn next(&mut self) -> (u64, u32) {
        let drawn = self.choice.draw(&mut self.random);
        match &self.owner {
            Some(owner) => {
                let index = drawn * owner.workers + owner.worker;
                (index, owner.table.issue(index))
            }
            None => {
                // Versions of different workers need no order here: any whole value is a good one. 0 is
                // no version.
                self.version = self.version.checked_add(1).unwrap_or(1);
                (drawn, self.version)
            }
        }
    }
}

impl Caller for Overwriter<'_> {
    fn call(&mut self) -> Result<u64, Failure> {
        self.key_bytes.clear();
        self.value_bytes.clear();
        self.issued.clear();
        for _ in 0..self.batch {
            let (index, version) = self.next();
            self.keys.append(index, &mut self.key_bytes);
            self.values.append(index, version, &mut self.value_bytes);
            self.issued.push((index, version));
        }
        if self.batch == 1 {
            self.engine.put(&self.key_bytes, &self.value_bytes)?;
        } else {
            let pairs =
                pairs(&self.key_bytes, self.keys.size(), &self.value_bytes, self.values.size());
            self.engine.put_many(&pairs)?;
        }
        if let Some(owner) = &self.owner {
            for &(index, version) in &self.issued {
                owner.table.acknowledge(index, version);
            }
        }
        Ok(self.batch as u64)
    }
}
