//! Holds: sets of chunks that stay as they are until they are released.
//!
//! Invariant: this table says what the manifest says, and a chunk in it is no victim of compaction and never
//! freed; so its file is neither used again nor removed, in this life or a later one. A hold is added after
//! the manifest has it, and taken out after the manifest has forgotten it. Callers: `store/hold.rs` changes
//! it, compaction asks. See `docs/compaction.md`, "Holds".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::manifest::HeldChunk;
use crate::format::{ChunkId, HoldId};
use crate::sync::{Mutex, lock};

/// All holds of a store.
#[derive(Debug)]
pub(crate) struct Holds {
    by_id: Mutex<BTreeMap<HoldId, BTreeSet<ChunkId>>>,
    next: AtomicU64,
}

impl Holds {
    /// What the manifest had when the life began. Ids of different lives never meet.
    pub(crate) fn of(held: &[HeldChunk], life: u64) -> Holds {
        let mut by_id: BTreeMap<HoldId, BTreeSet<ChunkId>> = BTreeMap::new();
        for HeldChunk { chunk, holder } in held {
            by_id.entry(*holder).or_default().insert(*chunk);
        }
        Holds { by_id: Mutex::new(by_id), next: AtomicU64::new(life << 32) }
    }

    /// An id that no hold of this store ever had.
    pub(crate) fn next_id(&self) -> HoldId {
        HoldId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn add(&self, id: HoldId, chunks: BTreeSet<ChunkId>) {
        lock(&self.by_id).insert(id, chunks);
    }

    /// Whether there was such a hold.
    pub(crate) fn remove(&self, id: HoldId) -> bool {
        lock(&self.by_id).remove(&id).is_some()
    }

    pub(crate) fn contains(&self, id: HoldId) -> bool {
        lock(&self.by_id).contains_key(&id)
    }

    /// Every hold, with how many chunks it has.
    pub(crate) fn list(&self) -> Vec<(HoldId, u64)> {
        lock(&self.by_id).iter().map(|(id, chunks)| (*id, chunks.len() as u64)).collect()
    }

    /// Every chunk that any hold has.
    pub(crate) fn chunks(&self) -> BTreeSet<ChunkId> {
        lock(&self.by_id).values().flatten().copied().collect()
    }
}
