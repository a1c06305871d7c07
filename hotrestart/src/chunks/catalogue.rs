//! What is known of full chunks: how they come to the compactor, and what they cost in memory.
//!
//! Invariant: a chunk comes here once, when everything in it and its directory is flushed, or when it was
//! loaded at opening; so whatever the compactor sees is durable. Callers: writers and the loader (`add`),
//! the compactor (`take_new`).

use std::ops::Range;

use super::register::Register;
use super::sample::Sample;
use crate::format::{ChunkId, FileNumber, LifeNumber, StoreId};
use crate::sync::{Mutex, lock};

/// A full chunk, as far as compaction must know it.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) id: ChunkId,
    pub(crate) file: FileNumber,
    pub(crate) life: LifeNumber,
    pub(crate) writer: u32,
    /// Its blocks that count, the directory's included.
    pub(crate) blocks: Range<u64>,
    /// Where the directory's block lies, if there is one.
    pub(crate) directory: Option<Range<usize>>,
    /// The clock when its youngest record was logged.
    pub(crate) youngest: u64,
    /// Facts of absence in it, clears among them.
    pub(crate) absences: u32,
    /// What these take in it, records and lines of the directory.
    pub(crate) absence_bytes: u32,
    /// Whether parts of values, or entries of such, are in it.
    pub(crate) has_runs: bool,
    pub(crate) samples: Box<[Sample]>,
    /// Places that were looked at for them: more than there are samples where there is padding.
    pub(crate) places: u32,
    /// Facts of absence in it that may be forgotten.
    pub(crate) forgettable: Forgettable,
    /// How many chunks this life had freed when its facts of absence were judged last, or else when it came;
    /// nothing for a chunk that was loaded, of which it is not known.
    pub(crate) judged_at: Option<u64>,
    /// Bytes of facts of absence, in any chunk, that old entries in this one keep, as the last survey found.
    pub(crate) pinned_bytes: f64,
    /// Whether its memory is charged to the store's limit.
    pub(crate) is_charged: bool,
}

impl Chunk {
    /// The binding of its blocks.
    pub(crate) fn binding(&self, store: StoreId) -> crate::format::Binding {
        crate::format::Binding::of(store, self.id, self.life)
    }

    /// What must be known to read it.
    pub(crate) fn without_samples(&self) -> Chunk {
        let (id, file, life, blocks) = (self.id, self.file, self.life, self.blocks.clone());
        let (directory, forgettable) = (self.directory.clone(), self.forgettable.clone());
        Chunk { id, file, life, blocks, directory, forgettable, samples: Box::default(), ..*self }
    }

    /// Bytes of memory that knowing it costs.
    pub(crate) fn memory_bytes(&self) -> u64 {
        (size_of::<Chunk>() + size_of_val(&*self.samples)) as u64
    }
}

/// Which facts of a chunk may be forgotten, by their number among its facts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forgettable {
    bits: Vec<u64>,
    count: u32,
}

impl Forgettable {
    pub(crate) fn contains(&self, number: usize) -> bool {
        self.bits.get(number / 64).is_some_and(|bits| bits >> (number % 64) & 1 == 1)
    }

    /// How many they are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Adds the fact with this number. Nothing if it was there.
    pub(crate) fn insert(&mut self, number: usize) {
        if self.contains(number) {
            return;
        }
        if self.bits.len() <= number / 64 {
            self.bits.resize(number / 64 + 1, 0);
        }
        self.bits[number / 64] |= 1 << (number % 64);
        self.count += 1;
    }
}

/// Chunks on their way to the compactor.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    new: Mutex<Vec<Chunk>>,
    /// Those that are not full yet, too.
    pub(crate) register: Register,
}

impl Catalogue {
    pub(crate) fn add(&self, chunk: Chunk) {
        lock(&self.new).push(chunk);
    }

    /// All that came since the last call.
    pub(crate) fn take_new(&self) -> Vec<Chunk> {
        std::mem::take(&mut lock(&self.new))
    }
}
