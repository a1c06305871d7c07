//! One worker of a churn: the patterns of change, each over the worker's own keys.
//!
//! A worker owns the keys whose index is its number modulo the workers, so that the ledger has one writer a
//! line. A put that the store refuses for want of memory or disk changed nothing; what the worker then does
//! is part of its pattern. See docs/benchmarking.md, "churn".

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::SmallRng;

use super::Pattern;
use super::ledger::Ledger;
use crate::engine::{Engine, Put};
use crate::failure::Failure;
use crate::workload::choice::{Choice, thread_random};
use crate::workload::keys::Keys;
use crate::workload::values::Values;

/// Bytes of a value, but where sizes drift.
pub const VALUE_BYTES: u32 = 239;
/// Values drift from the first size to the second and back.
pub const DRIFT_BYTES: (u32, u32) = (32, 8192);
/// The share of the keys that fit which overwrites use: what is replaced needs memory until readers left.
const FILLED: f64 = 0.94;
/// The share of its keys that a wave removes.
const REMOVED: f64 = 0.9;

/// What all workers of a pattern share.
pub struct Shared<'a> {
    /// The store.
    pub engine: &'a Engine,
    /// What must be in it.
    pub ledger: &'a Ledger,
    /// Seed of keys, values and choices.
    pub seed: u64,
    /// Workers.
    pub workers: u64,
    /// How long the pattern goes on.
    pub time: Duration,
    /// Set when all shall stop.
    pub stop: &'a AtomicBool,
    /// Set by each worker that has filled its share.
    pub filled: &'a AtomicU64,
    /// What was done.
    pub counts: &'a Counts,
}

/// Counts of all workers, for the report.
#[derive(Debug, Default)]
pub struct Counts {
    /// Puts and removals that the store did.
    pub operations: AtomicU64,
    /// Removals among them.
    pub removals: AtomicU64,
    /// Puts refused since memory was full.
    pub refused_memory: AtomicU64,
    /// Puts refused since the disk budget was used up, or the log had no room.
    pub refused_disk: AtomicU64,
}

/// One worker.
pub struct Worker<'a> {
    shared: &'a Shared<'a>,
    number: u64,
    random: SmallRng,
    keys: Keys,
    key: Vec<u8>,
    value: Vec<u8>,
    done: u64,
    asked: u64,
    is_over: bool,
}

/// Operations after which a worker tells how far it is.
const TELL: u64 = 256;

impl<'a> Worker<'a> {
    /// The worker with a number below the count of workers.
    pub fn new(shared: &'a Shared<'a>, number: u64) -> Worker<'a> {
        Worker {
            shared,
            number,
            random: thread_random(shared.seed, number),
            keys: Keys::new(8, shared.seed),
            key: Vec::new(),
            value: Vec::new(),
            done: 0,
            asked: 0,
            is_over: false,
        }
    }

    /// Goes on with a pattern until its time is up.
    pub fn run(&mut self, pattern: Pattern) -> Result<(), Failure> {
        let result = match pattern {
            Pattern::Uniform | Pattern::Zipfian => self.overwrite(pattern),
            Pattern::Waves => self.wave(),
            Pattern::Drift => self.drift(),
        };
        self.tell();
        result
    }

    fn overwrite(&mut self, pattern: Pattern) -> Result<(), Failure> {
        let fit = self.insert_all(VALUE_BYTES)?;
        let used = ((fit as f64 * FILLED) as u64).max(1);
        for ordinal in used..fit {
            self.remove(ordinal)?;
        }
        let end = self.begin();
        let choice = Choice::over(used, pattern.choice());
        while self.goes_on(end) {
            let ordinal = choice.draw(&mut self.random);
            self.put(ordinal, VALUE_BYTES)?;
        }
        Ok(())
    }

    fn wave(&mut self) -> Result<(), Failure> {
        let end = self.begin();
        while self.goes_on(end) {
            let fit = self.insert_until(end)?;
            for ordinal in 0..fit {
                if !self.goes_on(end) {
                    break;
                }
                if self.random.random_bool(REMOVED) {
                    self.remove(ordinal)?;
                }
            }
        }
        Ok(())
    }

    fn drift(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        let end = self.begin();
        let keys = self.own_keys();
        let (small, large) = (f64::from(DRIFT_BYTES.0).ln(), f64::from(DRIFT_BYTES.1).ln());
        let mut size = DRIFT_BYTES.0;
        let mut step = 0_u64;
        while self.goes_on(end) {
            if step.is_multiple_of(TELL) {
                let share = start.elapsed().as_secs_f64() / self.shared.time.as_secs_f64();
                let way = 1.0 - (2.0 * share.min(1.0) - 1.0).abs();
                size = (small + (large - small) * way).exp() as u32;
            }
            step += 1;
            let ordinal = self.random.random_range(0..keys);
            if self.put(ordinal, size)? == Put::NoMemory {
                for _ in 0..4 {
                    let victim = self.random.random_range(0..keys);
                    self.remove(victim)?;
                }
            }
        }
        Ok(())
    }

    /// Puts each of the worker's keys that is not there, until one does not fit. Returns how many it passed.
    fn insert_all(&mut self, size: u32) -> Result<u64, Failure> {
        for ordinal in 0..self.own_keys() {
            let is_there = self.shared.ledger.get(self.index(ordinal)).is_present;
            if self.shared.stop.load(Relaxed)
                || (!is_there && self.put(ordinal, size)? == Put::NoMemory)
            {
                return Ok(ordinal);
            }
        }
        Ok(self.own_keys())
    }

    fn insert_until(&mut self, end: Instant) -> Result<u64, Failure> {
        let mut from = 0;
        while self.goes_on(end) && from < self.own_keys() {
            let to = (from + TELL).min(self.own_keys());
            for ordinal in from..to {
                let is_there = self.shared.ledger.get(self.index(ordinal)).is_present;
                if !is_there && self.put(ordinal, VALUE_BYTES)? == Put::NoMemory {
                    return Ok(ordinal);
                }
            }
            from = to;
        }
        Ok(from)
    }

    /// The keys are in place: the pattern's time begins.
    fn begin(&mut self) -> Instant {
        self.shared.filled.fetch_add(1, Relaxed);
        Instant::now() + self.shared.time
    }

    fn goes_on(&mut self, end: Instant) -> bool {
        self.asked += 1;
        if self.asked.is_multiple_of(TELL) {
            self.is_over |= self.shared.stop.load(Relaxed) || Instant::now() >= end;
        }
        !self.is_over
    }

    fn own_keys(&self) -> u64 {
        self.shared.ledger.keys() / self.shared.workers
    }

    fn index(&self, ordinal: u64) -> u64 {
        ordinal * self.shared.workers + self.number
    }

    fn put(&mut self, ordinal: u64, size: u32) -> Result<Put, Failure> {
        let index = self.index(ordinal);
        let version = self.shared.ledger.get(index).version.checked_add(1).unwrap_or(1);
        self.keys.write(index, &mut self.key);
        Values::new(size, self.shared.seed).write(index, version, &mut self.value);
        let put = self.shared.engine.try_put(&self.key, &self.value)?;
        match put {
            Put::Done => self.shared.ledger.put(index, version, size),
            Put::NoMemory => _ = self.shared.counts.refused_memory.fetch_add(1, Relaxed),
            Put::NoDisk => {
                self.shared.counts.refused_disk.fetch_add(1, Relaxed);
                // It took its time: whether the pattern is over is asked at once.
                self.asked = TELL - 1;
            }
        }
        self.note();
        Ok(put)
    }

    fn remove(&mut self, ordinal: u64) -> Result<(), Failure> {
        let index = self.index(ordinal);
        if self.shared.ledger.get(index).is_present {
            self.keys.write(index, &mut self.key);
            if !self.shared.engine.remove(&self.key)? {
                return Err(Failure::wrong(format!("key {index} was there and was not found")));
            }
            self.shared.ledger.remove(index);
            self.shared.counts.removals.fetch_add(1, Relaxed);
        }
        self.note();
        Ok(())
    }

    fn note(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(TELL) {
            self.shared.counts.operations.fetch_add(TELL, Relaxed);
        }
    }

    fn tell(&mut self) {
        self.shared.counts.operations.fetch_add(self.done % TELL, Relaxed);
        self.done = 0;
    }
}
