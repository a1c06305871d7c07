//! Lanes: small stocks of free slots and of retired ones, so that a put takes one short, uncontended lock
//! here instead of a class's.
//!
//! Invariant: a slot in a stash is free and in no page's list. A lane is shared by the threads that hash to
//! it and guarded by one mutex; there are at least as many lanes as processors.

use super::class::{CLASSES, Class};
use crate::ids::Location;
use crate::reclaim::retire::OpenBatch;

/// Slots that a stash holds at most.
pub(crate) const STASH_MAX: usize = 31;
/// Bytes that a stash of large slots aims at.
const STASH_BYTES: u32 = 64 * 1024;

/// Free slots of one class, as locations.
#[derive(Clone)]
pub(crate) struct Stash {
    len: usize,
    slots: [u64; STASH_MAX],
    /// A batch out of the depot, with the slots that come next.
    pub(super) batch: Option<Location>,
}

impl Stash {
    pub(crate) fn pop(&mut self) -> Option<u64> {
        self.len = self.len.checked_sub(1)?;
        Some(self.slots[self.len])
    }

    /// The slot that the next `pop` gives, unless the stash must be filled first.
    pub(crate) fn top(&self) -> Option<u64> {
        self.slots[..self.len].last().copied()
    }

    pub(crate) fn push(&mut self, location: u64) {
        self.slots[self.len] = location;
        self.len += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// How many slots of a class a stash may hold.
pub(crate) fn stash_max(class: Class) -> usize {
    ((STASH_BYTES / class.slot_bytes()) as usize).clamp(2, STASH_MAX)
}

/// One lane.
pub(crate) struct Lane {
    pub(crate) stashes: Box<[Stash]>,
    pub(crate) retired: OpenBatch,
}

impl Lane {
    /// Batches of free slots that the lane has begun.
    pub(crate) fn begun_batches(&self) -> u64 {
        self.stashes.iter().filter(|stash| stash.batch.is_some()).count() as u64
    }

    pub(crate) fn new() -> Lane {
        Lane {
            stashes: vec![Stash { len: 0, slots: [0; STASH_MAX], batch: None }; CLASSES]
                .into_boxed_slice(),
            retired: OpenBatch::default(),
        }
    }
}
