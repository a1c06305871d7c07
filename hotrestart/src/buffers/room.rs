//! Room for one record, or for those of a group, in a log buffer.
//!
//! Invariant: its bytes and words are the room's alone until it is committed, or dropped and padding; the
//! bytes are there before the word says so. Its turn is not released before that. Caller: `ring.rs` makes
//! rooms; `log.rs` and `group.rs` fill them. Cost of a commit: one store.
#![allow(unsafe_code)] // the bytes of a room; docs/unsafe.md

use std::sync::Arc;

use super::layout::{NO_RECORD, TABLE, commit_word};
use super::ring::Ring;
use crate::format::record::write_padding;
use crate::io::Region;
use crate::sync::Ordering;

/// More than a core has under way at once would only wait for each other.
const PREFETCHED_LINES: usize = 8;

/// Room for one record, or for those of a group. Dropped without `commit` it becomes padding.
pub(crate) struct Room<'a> {
    ring: &'a Ring,
    turn: u64,
    /// The turn's buffer.
    slot: u32,
    /// In the buffer.
    offset: u32,
    len: u32,
    /// Of its words in the commit table.
    index: u32,
    words: u32,
}

impl<'a> Room<'a> {
    /// `len` bytes from `offset` on and `words` from `index` on, which the ring has handed out.
    #[inline]
    pub(super) fn new(
        ring: &'a Ring,
        (turn, slot): (u64, u32),
        (offset, index): (usize, usize),
        (len, words): (usize, usize),
    ) -> Room<'a> {
        // A buffer is shorter than 2^28 bytes.
        let (offset, len) = (offset as u32, len as u32);
        Room { ring, turn, slot, offset, len, index: index as u32, words: words as u32 }
    }

    /// The turn that the room lies in: its position in the writer's order.
    #[inline]
    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    /// The room's bytes.
    #[inline]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let ring = self.ring;
        let at = ring.places.data(self.slot) + self.offset as usize;
        #[cfg(loom)]
        ring.watched.touch(at, self.len as usize);
        // SAFETY: `reserve` gave these bytes of the region to this room alone, and the buffer is not
        // written or reused before the room is committed or dropped.
        unsafe {
            std::slice::from_raw_parts_mut(ring.region.base().as_ptr().add(at), self.len as usize)
        }
    }

    /// Asks for the lines of `len` bytes behind the room, to write them: the next room of the thread's span.
    #[inline]
    pub(super) fn prefetch_behind(&self, len: usize) {
        #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
        {
            let ring = self.ring;
            let end = (self.offset + self.len) as usize;
            let at = ring.places.data(self.slot) + end;
            for line in 0..len.div_ceil(64).min(PREFETCHED_LINES) {
                let address = ring.region.base().as_ptr().wrapping_add(at + line * 64);
                // SAFETY: a prefetch of any address is harmless. The intrinsic has none for writing that
                // every processor of this architecture takes.
                unsafe {
                    std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags));
                }
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
        let _ = len;
    }

    /// All that is in it is whole: from now on it survives the death of the process. A group's other words
    /// name nothing, so there is no moment at which some of it counts.
    #[inline]
    pub(crate) fn commit(self) {
        let first = commit_word(self.offset as usize, self.len as usize);
        self.set_words(first);
        std::mem::forget(self);
    }

    #[inline]
    fn set_words(&self, first: u64) {
        let set = |index: u32, word: u64| {
            let at = TABLE + index as usize * 8;
            self.ring.word(self.slot, at).store(word, Ordering::Release);
        };
        for index in 1..self.words {
            set(self.index + index, NO_RECORD);
        }
        set(self.index, first);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        write_padding(self.bytes());
        self.set_words(NO_RECORD);
    }
}

/// A copy of a whole region, for recovery in a simulation.
pub(crate) fn copy_region(region: &Arc<Region>) -> Vec<u8> {
    let mut copy = vec![0; region.len()];
    // SAFETY: the region has that many bytes; its store is dead, or stepped by this thread, so nobody writes
    // them.
    unsafe {
        std::ptr::copy_nonoverlapping(region.base().as_ptr(), copy.as_mut_ptr(), copy.len());
    }
    copy
}
