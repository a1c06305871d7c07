//! The files of a simulated disk: what reads see, what is durable, and the writes in between.
//!
//! Invariants: a flush makes durable exactly the writes that had completed when it was submitted; a power
//! loss keeps the durable image and any subset of the rest, torn at the plan's unit. A clone shares the bytes
//! until either changes, so that a disk can be copied at every step. Called by `state.rs` and `crash.rs`.

use std::sync::Arc;

use super::fault::FaultPlan;
use super::random::Random;

/// One file. Offsets and lengths are in bytes.
#[derive(Clone, Default)]
pub(super) struct SimFile {
    /// What reads see.
    pub(super) current: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    is_length_durable: bool,
    unflushed: Vec<Unflushed>,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (len, unflushed) = (self.current.len(), self.unflushed.len());
        write!(f, "{len} bytes, {unflushed} unflushed writes")
    }
}

#[derive(Clone)]
struct Unflushed {
    /// When it completed, by the disk's counter of events.
    at: u64,
    offset: usize,
    bytes: Arc<Vec<u8>>,
}

impl Unflushed {
    fn apply_to(&self, image: &mut Arc<Vec<u8>>) {
        let image = Arc::make_mut(image);
        let end = self.offset + self.bytes.len();
        image.resize(image.len().max(end), 0);
        image[self.offset..end].copy_from_slice(&self.bytes);
    }
}

impl SimFile {
    /// A new file of zeros, whose length is not durable yet.
    pub(super) fn new(len: usize) -> SimFile {
        let zeros = Arc::new(vec![0; len]);
        SimFile { current: Arc::clone(&zeros), durable: zeros, ..SimFile::default() }
    }

    /// An empty file, which a write extends.
    pub(super) fn empty() -> SimFile {
        SimFile::default()
    }

    pub(super) fn write(&mut self, at: u64, offset: usize, bytes: &[u8]) {
        let write = Unflushed { at, offset, bytes: Arc::new(bytes.to_vec()) };
        write.apply_to(&mut self.current);
        self.unflushed.push(write);
    }

    /// Makes durable what had completed before `horizon`.
    pub(super) fn flush(&mut self, horizon: u64) {
        let (flushed, rest) = self.unflushed.drain(..).partition(|write| write.at < horizon);
        self.unflushed = rest;
        for write in flushed {
            write.apply_to(&mut self.durable);
        }
        self.is_length_durable = true;
    }

    /// Forgets everything that is not durable, as a device does whose cache failed.
    pub(super) fn lose_unflushed(&mut self) {
        self.unflushed.clear();
        self.current.clone_from(&self.durable);
    }

    pub(super) fn unflushed_writes(&self) -> usize {
        self.unflushed.len()
    }

    pub(super) fn flip_bit(&mut self, offset: usize, bit: u8) {
        for image in [&mut self.current, &mut self.durable] {
            if let Some(byte) = Arc::make_mut(image).get_mut(offset) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// What is left of the file when the power goes and comes back.
    pub(super) fn lose_power(&mut self, plan: &FaultPlan, random: &mut Random) {
        if !self.is_length_durable && random.chance(plan.lose_permille) {
            self.durable = Arc::default();
            self.unflushed.clear();
        }
        for mut write in std::mem::take(&mut self.unflushed) {
            if random.chance(plan.lose_permille) {
                continue;
            }
            if random.chance(plan.tear_permille) {
                write.tear(&self.durable, plan.tear_unit, random);
            }
            write.apply_to(&mut self.durable);
        }
        self.current.clone_from(&self.durable);
        self.is_length_durable = true;
    }
}

impl Unflushed {
    /// Replaces some units by what the file had there; at least one, and not all if there is more than one.
    fn tear(&mut self, before: &[u8], unit: usize, random: &mut Random) {
        let units = self.bytes.len().div_ceil(unit);
        if units == 0 {
            return;
        }
        let (lost, kept) = (random.below(units), random.below(units));
        let bytes = Arc::make_mut(&mut self.bytes);
        for index in 0..units {
            let is_lost = index == lost || (index != kept && random.chance(500));
            if !is_lost {
                continue;
            }
            let start = index * unit;
            let end = (start + unit).min(bytes.len());
            for (at, byte) in (start..end).zip(&mut bytes[start..end]) {
                *byte = before.get(self.offset + at).copied().unwrap_or(0);
            }
        }
    }
}
