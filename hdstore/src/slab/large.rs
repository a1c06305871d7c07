//! Large slots: values that no slab page holds.
//!
//! A large slot of class c is a run of 64 KiB << c of address space; a value takes the first bytes of the
//! smallest one that holds it and commits only what it needs, in steps of 4 KiB. Since each class has address
//! space for as many slots as the memory limit could ever fill, a large value never fails for want of
//! contiguous memory: only the limit can refuse it.
//!
//! Invariant: a slot's word in the table holds its committed steps; committed steps are charged. Free slots
//! keep their memory up to `warm_max_bytes` in all, so that overwriting large values makes no system calls;
//! the rest is given back.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering};

use crate::arena::Arena;
use crate::arena::layout::{LARGE_CLASSES, LARGE_MIN, LARGE_STEP};
use crate::ids::Location;
use crate::sync::{Mutex, lock};

/// All large slots of a node.
pub(crate) struct LargeSlots {
    classes: [Mutex<LargeClass>; LARGE_CLASSES],
    warm_bytes: StdAtomicU64,
    warm_max_bytes: u64,
}

#[derive(Default)]
struct LargeClass {
    /// Slots ever used.
    used: u64,
    /// Free slots that kept their memory, as index + 1, linked through the table.
    warm_head: u64,
    /// Free slots without memory.
    cold_head: u64,
}

impl LargeSlots {
    pub(crate) fn new(warm_max_bytes: u64) -> LargeSlots {
        LargeSlots {
            classes: std::array::from_fn(|_| Mutex::new(LargeClass::default())),
            warm_bytes: StdAtomicU64::new(0),
            warm_max_bytes,
        }
    }

    /// The class of the smallest slot for `need` bytes.
    fn class_of(need: u64) -> usize {
        let steps = need.div_ceil(LARGE_MIN).next_power_of_two();
        steps.ilog2() as usize
    }

    /// Takes a slot and commits `need` bytes of it; `None`, and nothing changed, at the limit.
    pub(crate) fn take(&self, arena: &Arena, need: u64) -> Option<Location> {
        let class = Self::class_of(need);
        if class >= LARGE_CLASSES || arena.layout().large_max[class] == 0 {
            return None;
        }
        let need = need.next_multiple_of(LARGE_STEP);
        let mut state = lock(&self.classes[class]);
        if state.warm_head != 0 {
            let index = state.warm_head - 1;
            let (next, committed) = split(table_word(arena, class, index).load(Relaxed));
            if committed < need && !arena.commit_small(need - committed) {
                return None;
            }
            state.warm_head = next;
            self.warm_bytes.fetch_sub(committed, Ordering::Relaxed);
            let offset = slot_offset(arena, class, index);
            let mut held = committed.max(need);
            // A much larger former tenant must not be paid for by a small one.
            if held > need + need / 8 && arena.give_back(offset + need, held - need) {
                arena.uncommit_small(held - need);
                held = need;
            }
            table_word(arena, class, index).store(join(0, held), Relaxed);
            return Some(Location::from_offset(offset));
        }
        let index = if state.cold_head != 0 {
            state.cold_head - 1
        } else {
            let (before, after) = (table_pages(state.used), table_pages(state.used + 1));
            if state.used == arena.layout().large_max[class] || !arena.commit_small(after - before)
            {
                return None;
            }
            // A fresh slot joins the cold ones first, so that its table page stays paid for if its memory
            // cannot be had.
            state.used += 1;
            table_word(arena, class, state.used - 1).store(join(state.cold_head, 0), Relaxed);
            state.cold_head = state.used;
            state.used - 1
        };
        if !arena.commit_small(need) {
            return None;
        }
        state.cold_head = split(table_word(arena, class, index).load(Relaxed)).0;
        table_word(arena, class, index).store(join(0, need), Relaxed);
        drop(state);
        let offset = slot_offset(arena, class, index);
        arena.populate(offset, need);
        Some(Location::from_offset(offset))
    }

    /// Frees a slot.
    pub(crate) fn put(&self, arena: &Arena, location: Location) {
        let (class, index) = find(arena, location);
        let mut state = lock(&self.classes[class]);
        let word = table_word(arena, class, index);
        let (_, committed) = split(word.load(Relaxed));
        let warm = self.warm_bytes.fetch_add(committed, Ordering::Relaxed) + committed;
        if warm <= self.warm_max_bytes {
            word.store(join(state.warm_head, committed), Relaxed);
            state.warm_head = index + 1;
            return;
        }
        self.warm_bytes.fetch_sub(committed, Ordering::Relaxed);
        self.cool(arena, &mut state, class, index, committed);
    }

    /// Gives the memory of all free slots back and says how many bytes that were.
    pub(crate) fn give_back_warm(&self, arena: &Arena) -> u64 {
        let mut given = 0;
        for class in 0..LARGE_CLASSES {
            let mut state = lock(&self.classes[class]);
            while state.warm_head != 0 {
                let index = state.warm_head - 1;
                let (next, committed) = split(table_word(arena, class, index).load(Relaxed));
                state.warm_head = next;
                self.warm_bytes.fetch_sub(committed, Ordering::Relaxed);
                self.cool(arena, &mut state, class, index, committed);
                given += committed;
            }
        }
        given
    }

    fn cool(
        &self,
        arena: &Arena,
        state: &mut LargeClass,
        class: usize,
        index: u64,
        committed: u64,
    ) {
        arena.give_back(slot_offset(arena, class, index), committed);
        arena.uncommit_small(committed);
        table_word(arena, class, index).store(join(state.cold_head, 0), Relaxed);
        state.cold_head = index + 1;
    }

    /// Bytes of free slots that kept their memory.
    pub(crate) fn warm_bytes(&self) -> u64 {
        self.warm_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the table of large slots that are committed.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.classes.iter().map(|class| table_pages(lock(class).used)).sum()
    }
}

/// Bytes committed for the slot at `location`.
pub(crate) fn committed_bytes(arena: &Arena, location: Location) -> u64 {
    let (class, index) = find(arena, location);
    split(table_word(arena, class, index).load(Relaxed)).1
}

/// Whether a location is that of a large slot.
pub(crate) fn is_large(arena: &Arena, location: Location) -> bool {
    location.offset() >= arena.layout().large[0]
}

fn find(arena: &Arena, location: Location) -> (usize, u64) {
    let offset = location.offset();
    let layout = arena.layout();
    let class = layout.large.iter().rposition(|start| offset >= *start).unwrap_or(0);
    (class, (offset - layout.large[class]) / (LARGE_MIN << class))
}

fn slot_offset(arena: &Arena, class: usize, index: u64) -> u64 {
    arena.layout().large[class] + index * (LARGE_MIN << class)
}

fn table_word(arena: &Arena, class: usize, index: u64) -> &crate::sync::AtomicU64 {
    arena.word(arena.layout().large_table[class] + index * 8)
}

fn table_pages(slots: u64) -> u64 {
    (slots * 8).next_multiple_of(4096)
}

/// A table word: link to the next free slot (low half), committed steps (high half).
fn join(next: u64, committed: u64) -> u64 {
    next | (committed / LARGE_STEP) << 32
}

fn split(word: u64) -> (u64, u64) {
    (word & 0xffff_ffff, (word >> 32) * LARGE_STEP)
}
