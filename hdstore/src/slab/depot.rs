//! The depot: whole batches of free slots, as they came out of reclamation, until a lane wants them.
//!
//! Overwrites free slots by the batch and take as many; through the pages' lists each would be touched,
//! listed and unlisted again. So a batch whose slots are all of one class goes to that class's list here as
//! it is, and a lane whose stash is empty takes a whole one.
//!
//! Invariant: the slots of a batch in the depot, or of one that a lane has begun, are free and in no page's
//! list. The depot holds at most `bytes_max`; beyond that, and when memory is short (`Slabs::flush_depot`),
//! slots go to their pages, so that every class can have them.
//!
//! Callers: `slab/mod.rs`, `store/node.rs`. Cost: a class's lock once for up to 123 slots.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::batch::Batch;
use super::class::{CLASSES, Class};
use super::lane::{Lane, stash_max};
use super::{ClassLists, Slabs};
use crate::arena::Arena;
use crate::ids::Location;
use crate::sync::lock;

/// How much the depot holds, and may hold.
pub(crate) struct Depot {
    bytes: AtomicU64,
    batches: AtomicU64,
    bytes_max: u64,
}

impl Depot {
    pub(super) fn new(bytes_max: u64) -> Depot {
        Depot { bytes: AtomicU64::new(0), batches: AtomicU64::new(0), bytes_max }
    }

    /// Bytes of free slots.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Batches that list them.
    pub(crate) fn batches(&self) -> u64 {
        self.batches.load(Relaxed)
    }
}

impl Slabs {
    /// Takes a batch of slots, all of one class, that nobody can reach any more; false when the depot is
    /// full, or pages of the class are set apart.
    pub(crate) fn put_batch(&self, arena: &Arena, batch: Batch<'_>, class: Class) -> bool {
        let bytes = batch.bytes();
        if self.depot.bytes() + bytes > self.depot.bytes_max {
            return false;
        }
        let mut lists = lock(&self.classes[usize::from(class.0)]);
        // Slots of pages that are set apart go to their pages.
        if !lists.may_wait() {
            return false;
        }
        #[cfg(asan)]
        for slot in batch.slots() {
            arena.poison(slot.offset(), class.slot_bytes().into());
        }
        self.depot.bytes.fetch_add(bytes, Relaxed);
        self.depot.batches.fetch_add(1, Relaxed);
        batch.set_next(lists.depot);
        lists.depot = Some(batch.location);
        let _ = arena;
        true
    }

    /// Takes a batch out of the depot.
    fn take_batch<'a>(&self, arena: &'a Arena, lists: &mut ClassLists) -> Option<Batch<'a>> {
        let batch = Batch::at(arena, lists.depot?);
        lists.depot = batch.next();
        self.depot.bytes.fetch_sub(batch.bytes(), Relaxed);
        self.depot.batches.fetch_sub(1, Relaxed);
        Some(batch)
    }

    /// Fills an empty stash from the batch that the lane has begun, or from the next of the depot; false when
    /// there is none.
    pub(super) fn refill_from_depot(&self, arena: &Arena, lane: &mut Lane, class: Class) -> bool {
        let stash = &mut lane.stashes[usize::from(class.0)];
        let begun = stash.batch.map(|batch| Batch::at(arena, batch));
        let next = || self.take_batch(arena, &mut lock(&self.classes[usize::from(class.0)]));
        let Some(batch) = begun.or_else(next) else { return false };
        let (count, slot_bytes) = (batch.count(), u64::from(class.slot_bytes()));
        let left = count - count.min(stash_max(class) as u64);
        (left..count).for_each(|index| stash.push(batch.slot(index).0));
        batch.set_counts(left, left * slot_bytes, Some(class));
        stash.batch = (left > 0).then_some(batch.location);
        if left == 0 {
            self.put_empty(arena, lane, batch.location);
        }
        true
    }

    /// Frees a batch that lists nothing any more: the lane's next retirements want one, also when memory is
    /// so short that no other could be had.
    pub(crate) fn put_empty(&self, arena: &Arena, lane: &mut Lane, batch: Location) {
        if lane.retired.wants_spare() {
            lane.retired.add_spare(batch);
        } else {
            self.put(arena, lane, batch);
        }
    }

    /// Gives what a lane has begun of a batch to the pages.
    pub(super) fn flush_begun(&self, arena: &Arena, lane: &mut Lane, class: Class) {
        let begun = lane.stashes[usize::from(class.0)].batch.take();
        if let Some(batch) = begun {
            self.give_to_pages(arena, class, Batch::at(arena, batch));
            self.put_empty(arena, lane, batch);
        }
    }

    /// Gives all slots of the depot to their pages, so that empty pages can serve others. Returns the
    /// batches, which list nothing any more, as a list.
    pub(crate) fn flush_depot(&self, arena: &Arena) -> Option<Location> {
        let mut emptied = None;
        if self.depot.batches() == 0 {
            return emptied;
        }
        for class in (0..CLASSES as u8).map(Class) {
            loop {
                let taken = self.take_batch(arena, &mut lock(&self.classes[usize::from(class.0)]));
                let Some(batch) = taken else { break };
                self.give_to_pages(arena, class, batch);
                batch.set_next(emptied);
                emptied = Some(batch.location);
            }
        }
        emptied
    }

    fn give_to_pages(&self, arena: &Arena, class: Class, batch: Batch<'_>) {
        let mut lists = lock(&self.classes[usize::from(class.0)]);
        self.add_free(class, batch.count());
        for slot in batch.slots() {
            self.give_to_page(arena, &mut lists, class, slot);
        }
    }
}
