//! Batches: slots of 1 KiB that list other slots, all retired or all free.
//!
//! Invariant: a batch is on one list at a time, linked through its word 1, and so are the slots in it. Word 2
//! has the epoch (retired slots), word 3 the count and the class + 1 (0: of several), word 4 the bytes, words
//! 5 to 127 the slots. Word 0 stays the slot's own.
//!
//! Callers: `reclaim/retire.rs` (retired slots wait in them) and `depot.rs` (free ones do, as they came).

use std::sync::atomic::Ordering::Relaxed;

use super::class::Class;
use crate::arena::Arena;
use crate::ids::Location;

/// Bytes of a batch.
pub(crate) const BATCH_BYTES: u64 = 1024;
/// Slots in a batch.
pub(crate) const BATCH_SLOTS: u64 = BATCH_BYTES / 8 - FIRST;

const NEXT: u64 = 1;
const EPOCH: u64 = 2;
const COUNT: u64 = 3;
const BYTES: u64 = 4;
const FIRST: u64 = 5;
const COUNT_MASK: u64 = 0xffff;
const CLASS_SHIFT: u32 = 16;

/// The words of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    arena: &'a Arena,
    pub(crate) location: Location,
}

impl<'a> Batch<'a> {
    pub(crate) fn at(arena: &'a Arena, location: Location) -> Batch<'a> {
        Batch { arena, location }
    }

    fn get(&self, word: u64) -> u64 {
        self.arena.word(self.location.offset() + word * 8).load(Relaxed)
    }

    fn set(&self, word: u64, value: u64) {
        self.arena.word(self.location.offset() + word * 8).store(value, Relaxed);
    }

    /// The batch behind this one in its list.
    pub(crate) fn next(&self) -> Option<Location> {
        Some(Location(self.get(NEXT))).filter(|next| next.0 != 0)
    }

    pub(crate) fn set_next(&self, next: Option<Location>) {
        self.set(NEXT, next.map_or(0, |next| next.0));
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.get(EPOCH)
    }

    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.set(EPOCH, epoch);
    }

    /// How many slots it lists.
    pub(crate) fn count(&self) -> u64 {
        self.get(COUNT) & COUNT_MASK
    }

    /// The class of its slots, if they are all of one.
    pub(crate) fn class(&self) -> Option<Class> {
        (self.get(COUNT) >> CLASS_SHIFT).checked_sub(1).map(|class| Class(class as u8))
    }

    /// Bytes of these slots' places.
    pub(crate) fn bytes(&self) -> u64 {
        self.get(BYTES)
    }

    pub(crate) fn set_counts(&self, count: u64, bytes: u64, class: Option<Class>) {
        self.set(COUNT, count | class.map_or(0, |class| u64::from(class.0) + 1) << CLASS_SHIFT);
        self.set(BYTES, bytes);
    }

    pub(crate) fn slot(&self, index: u64) -> Location {
        Location(self.get(FIRST + index))
    }

    pub(crate) fn set_slot(&self, index: u64, slot: Location) {
        self.set(FIRST + index, slot.0);
    }

    pub(crate) fn slots(self) -> impl Iterator<Item = Location> + 'a {
        (0..self.count()).map(move |index| self.slot(index))
    }
}
