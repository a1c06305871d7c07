//! Retired slots: batches in the arena, sealed with an epoch, freed in order.
//!
//! Invariant: a retired slot is in exactly one batch (or among the held ones) until it is free. Room for it
//! is promised before the index changes, so that retiring itself cannot fail. What waits is counted; `store/`
//! refuses overwrites beyond the stated bound.
//!
//! The bytes of a batch are in `slab/batch.rs`.

use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering};

use crate::arena::Arena;
use crate::ids::Location;
use crate::slab::batch::{BATCH_SLOTS, Batch};
use crate::slab::class::Class;
use crate::slab::large;
use crate::sync::Mutex;

/// Empty batches that a lane keeps.
const SPARES: usize = 2;

/// The batch that a lane is filling, and its empty spares.
#[derive(Default)]
pub(crate) struct OpenBatch {
    batch: Option<Location>,
    count: u64,
    bytes: u64,
    /// Bytes of each of its slots; 0 when they differ, or are no slots of a slab.
    each_bytes: u64,
    promised: u64,
    spares: Vec<Location>,
}

/// A full batch on its way to the queue.
pub(crate) struct SealedBatch {
    batch: Location,
    count: u64,
    bytes: u64,
    class: Option<Class>,
}

impl OpenBatch {
    /// Whether one more retirement can be promised without the open batch, which may then be sealed whenever
    /// it is worth it.
    pub(crate) fn has_spare_room(&self) -> bool {
        self.spares.len() as u64 * BATCH_SLOTS > self.promised
    }

    /// Whether one more retirement can be promised.
    pub(crate) fn has_room(&self) -> bool {
        let here = if self.batch.is_some() { BATCH_SLOTS - self.count } else { 0 };
        here + self.spares.len() as u64 * BATCH_SLOTS > self.promised
    }

    /// Whether another batch should be had while there is memory: two more than the open one, so that at the
    /// limit retirements go on until those come back.
    pub(crate) fn wants_spare(&self) -> bool {
        self.spares.len() < SPARES || !self.has_spare_room()
    }

    /// Takes a spare that no promise needs.
    pub(crate) fn take_spare(&mut self) -> Option<Location> {
        let here = if self.batch.is_some() { BATCH_SLOTS - self.count } else { 0 };
        let left = self.spares.len().checked_sub(1)? as u64;
        if here + left * BATCH_SLOTS < self.promised {
            return None;
        }
        self.spares.pop()
    }

    pub(crate) fn add_spare(&mut self, batch: Location) {
        self.spares.push(batch);
    }

    pub(crate) fn promise(&mut self) {
        debug_assert!(self.has_room());
        self.promised += 1;
    }

    /// A promise was not needed.
    pub(crate) fn release(&mut self) {
        self.promised -= 1;
    }

    /// Retires a slot under a promise. Returns the batch when it is full or holds `bytes_max`.
    pub(crate) fn retire(
        &mut self,
        arena: &Arena,
        location: Location,
        bytes: u64,
        bytes_max: u64,
    ) -> Option<SealedBatch> {
        self.promised -= 1;
        let batch = *self.batch.get_or_insert_with(|| {
            self.spares.pop().expect("room was promised before the index changed")
        });
        Batch::at(arena, batch).set_slot(self.count, location);
        if self.count == 0 {
            self.each_bytes = bytes;
        }
        if self.each_bytes != bytes || large::is_large(arena, location) {
            self.each_bytes = 0;
        }
        self.count += 1;
        self.bytes += bytes;
        let must_stay = !self.spares_suffice();
        if self.count == BATCH_SLOTS || (self.bytes >= bytes_max && !must_stay) {
            return self.seal();
        }
        None
    }

    /// Seals what there is, unless a promise depends on it.
    pub(crate) fn seal_early(&mut self) -> Option<SealedBatch> {
        if !self.spares_suffice() {
            return None;
        }
        self.seal()
    }

    /// Whether every promise can be kept without the open batch.
    fn spares_suffice(&self) -> bool {
        self.spares.len() as u64 * BATCH_SLOTS >= self.promised
    }

    fn seal(&mut self) -> Option<SealedBatch> {
        let batch = self.batch.take()?;
        let class = (self.each_bytes != 0).then(|| Class::of(self.each_bytes)).flatten();
        let sealed = SealedBatch { batch, count: self.count, bytes: self.bytes, class };
        self.count = 0;
        self.bytes = 0;
        Some(sealed)
    }

    /// Bytes of retired slots in the open batch.
    pub(crate) fn open_bytes(&self) -> u64 {
        self.bytes
    }

    /// Batches that the lane holds.
    pub(crate) fn batches(&self) -> u64 {
        u64::from(self.batch.is_some()) + self.spares.len() as u64
    }
}

/// The sealed batches of a node, oldest first.
pub(crate) struct RetiredQueue {
    state: Mutex<QueueState>,
    sealed_bytes: StdAtomicU64,
    sealed_batches: StdAtomicU64,
    held_bytes: StdAtomicU64,
}

/// What the queue's lock guards.
#[derive(Default)]
pub(crate) struct QueueState {
    head: Option<Location>,
    tail: Option<Location>,
    /// Slots whose epoch has passed, held back by a published guard alone, with their bytes.
    pub(crate) held: Vec<(u64, u64)>,
    /// The published slots, collected at each pass.
    pub(crate) published: Vec<u64>,
}

impl RetiredQueue {
    pub(crate) fn new() -> RetiredQueue {
        RetiredQueue {
            state: Mutex::new(QueueState::default()),
            sealed_bytes: StdAtomicU64::new(0),
            sealed_batches: StdAtomicU64::new(0),
            held_bytes: StdAtomicU64::new(0),
        }
    }

    pub(crate) fn state(&self) -> &Mutex<QueueState> {
        &self.state
    }

    /// Queues a sealed batch under the epoch that `advance` ended.
    pub(crate) fn push(&self, arena: &Arena, sealed: &SealedBatch, advance: impl FnOnce() -> u64) {
        let batch = Batch::at(arena, sealed.batch);
        batch.set_next(None);
        batch.set_counts(sealed.count, sealed.bytes, sealed.class);
        let mut state = crate::sync::lock(&self.state);
        // Under the lock, so that the queue is in the order of its epochs.
        batch.set_epoch(advance());
        match state.tail {
            Some(tail) => Batch::at(arena, tail).set_next(Some(sealed.batch)),
            None => state.head = Some(sealed.batch),
        }
        state.tail = Some(sealed.batch);
        self.sealed_bytes.fetch_add(sealed.bytes, Ordering::Relaxed);
        self.sealed_batches.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the oldest batch if its epoch is before `oldest_pin`.
    pub(crate) fn pop(
        &self,
        arena: &Arena,
        state: &mut QueueState,
        oldest_pin: u64,
    ) -> Option<Location> {
        let head = Batch::at(arena, state.head?);
        if head.epoch() >= oldest_pin {
            return None;
        }
        state.head = head.next();
        if state.head.is_none() {
            state.tail = None;
        }
        self.sealed_bytes.fetch_sub(head.bytes(), Ordering::Relaxed);
        self.sealed_batches.fetch_sub(1, Ordering::Relaxed);
        Some(head.location)
    }

    pub(crate) fn add_held(&self, bytes: u64) {
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub_held(&self, bytes: u64) {
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of retired slots that wait for pins.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn sealed_batches(&self) -> u64 {
        self.sealed_batches.load(Ordering::Relaxed)
    }

    /// Bytes of retired slots that wait for published guards alone.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::arena::Budget;
    use crate::arena::layout::Layout;
    use crate::arena::os::PageKind;
    use crate::slab::batch::BATCH_BYTES;

    #[test]
    fn a_change_under_way_does_not_keep_a_batch_of_large_slots_open() {
        let layout = Layout::new(16 << 20, 1, 1 << 20);
        let budget = std::sync::Arc::new(Budget::new(16 << 20));
        let arena = Arena::new(layout, budget, 0, None, PageKind::Small).expect("address space");
        let mut open = OpenBatch::default();
        let mut next_batch = Location::from_offset(arena.layout().pages);
        let mut promise = |open: &mut OpenBatch| {
            if !open.has_spare_room() {
                open.add_spare(next_batch);
                next_batch = Location(next_batch.0 + BATCH_BYTES / 8);
            }
            open.promise();
        };
        // One change waits, as for room in a log, while others come and go.
        promise(&mut open);
        for slot in 1..=1_000 {
            promise(&mut open);
            let _ = open.retire(&arena, Location(slot), 60_000, 100_000);
            assert!(open.open_bytes() <= 3 * 60_000, "{} bytes stay open", open.open_bytes());
        }
    }

    #[test]
    fn more_promises_than_one_spare_holds_are_all_kept_when_batches_are_sealed_early() {
        let layout = Layout::new(16 << 20, 1, 1 << 20);
        let budget = std::sync::Arc::new(Budget::new(16 << 20));
        let arena = Arena::new(layout, budget, 0, None, PageKind::Small).expect("address space");
        let mut open = OpenBatch::default();
        let mut next_batch = Location::from_offset(arena.layout().pages);
        let promises = BATCH_SLOTS + 30;
        for _ in 0..promises {
            if !open.has_room() {
                open.add_spare(next_batch);
                next_batch = Location(next_batch.0 + BATCH_BYTES / 8);
            }
            open.promise();
        }
        let mut sealed = 0;
        for slot in 1..=promises {
            // One byte is enough to seal, so each retirement seals as early as promises allow.
            sealed += open.retire(&arena, Location(slot), 1, 1).map_or(0, |batch| batch.count);
            sealed += open.seal_early().map_or(0, |batch| batch.count);
        }
        assert_eq!(sealed, promises);
    }
}
