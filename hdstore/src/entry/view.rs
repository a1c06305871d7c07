//! The bytes of an entry: written once by the owner of a slot, read by whoever is protected.
//!
//! Invariant: a slot is written by its one owner between `Slabs::take` and its publication in the index, and
//! never again until its last reader left. A reader holds a pin or a published guard from before it loaded
//! the index word until it lets the bytes go. So bytes that can be reached never change, and plain reads of
//! them are sound.
//!
//! Callers: `store/` for writing, the map's guards for reading. Both sides of the invariant are theirs to
//! keep: hence the unsafe functions here, and nowhere else in the crate that slices of slots are made.
#![allow(unsafe_code)] // slices of slots; docs/unsafe.md

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::layout::{self, EXPIRY, HAS_EXPIRY, HEADER};
use crate::arena::Arena;
use crate::ids::{Location, Seq};
use crate::slab::Slot;

/// A published entry, as one reader sees it.
#[derive(Clone, Copy)]
pub(crate) struct EntryView<'a> {
    arena: &'a Arena,
    location: Location,
    word0: u64,
    word1: u64,
}

impl<'a> EntryView<'a> {
    /// Looks at the entry at `location`.
    ///
    /// # Safety
    /// The location was loaded from an index word after the caller was protected from the slot's reuse (pin,
    /// published guard, or the lock of its stream), and the protection lasts for `'a`.
    #[inline]
    pub(crate) unsafe fn at(arena: &'a Arena, location: Location) -> EntryView<'a> {
        let offset = location.offset();
        let word0 = arena.word(offset).load(Acquire);
        let word1 = arena.word(offset + 8).load(Relaxed);
        EntryView { arena, location, word0, word1 }
    }

    #[inline]
    pub(crate) fn location(&self) -> Location {
        self.location
    }

    #[inline]
    pub(crate) fn seq(&self) -> Seq {
        layout::seq_of(self.word0)
    }

    #[inline]
    pub(crate) fn value_len(&self) -> u64 {
        layout::value_len_of(self.word1)
    }

    #[inline]
    pub(crate) fn key_len(&self) -> u64 {
        layout::key_len_of(self.word1)
    }

    fn has_expiry(&self) -> bool {
        layout::flags_of(self.word0) & HAS_EXPIRY != 0
    }

    fn key_offset(&self) -> u64 {
        self.location.offset() + HEADER + if self.has_expiry() { EXPIRY } else { 0 }
    }

    /// When the entry expires, in milliseconds since 1970, if ever.
    #[inline]
    pub(crate) fn expiry_ms(&self) -> Option<u64> {
        self.has_expiry().then(|| self.arena.word(self.location.offset() + HEADER).load(Relaxed))
    }

    #[inline]
    pub(crate) fn key(&self) -> &'a [u8] {
        self.bytes(self.key_offset(), self.key_len())
    }

    #[inline]
    pub(crate) fn value(&self) -> &'a [u8] {
        self.bytes(self.key_offset() + self.key_len(), self.value_len())
    }

    #[inline]
    fn bytes(&self, offset: u64, len: u64) -> &'a [u8] {
        // SAFETY: by the contract of `at` the slot is published and protected for `'a`, so these bytes were
        // written before publication and do not change; the lengths are the ones its owner wrote with them.
        unsafe { std::slice::from_raw_parts(self.arena.address(offset), len as usize) }
    }
}

/// What a slot is filled with before it is published.
pub(crate) struct EntryParts<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value_len: u64,
    pub(crate) expiry_ms: Option<u64>,
}

/// Writes everything but the seq and the value of an entry into a slot.
///
/// # Safety
/// The caller took the slot for at least `layout::need` of these lengths and has not published it.
#[inline]
pub(crate) unsafe fn write_head(arena: &Arena, slot: Slot, parts: &EntryParts<'_>) {
    let offset = slot.location.offset();
    let flags = if parts.expiry_ms.is_some() { HAS_EXPIRY } else { 0 };
    arena.word(offset).store(layout::word0(Seq(0), flags), Relaxed);
    arena.word(offset + 8).store(layout::word1(parts.key.len(), parts.value_len), Relaxed);
    let mut at = offset + HEADER;
    if let Some(expiry_ms) = parts.expiry_ms {
        arena.word(at).store(expiry_ms, Relaxed);
        at += EXPIRY;
    }
    // SAFETY: the slot is the caller's alone and large enough; the key lies outside the arena or in another
    // slot.
    unsafe { copy(arena, at, parts.key) };
}

/// Writes bytes of the value, from `from` on.
///
/// # Safety
/// As for [`write_head`], which was called before; `from + bytes.len()` is at most the value's length.
#[inline]
pub(crate) unsafe fn write_value(arena: &Arena, slot: Slot, from: u64, bytes: &[u8]) {
    let offset = value_offset(arena, slot.location);
    // SAFETY: the caller's promise.
    unsafe { copy(arena, offset + from, bytes) };
}

fn value_offset(arena: &Arena, location: Location) -> u64 {
    let offset = location.offset();
    let word0 = arena.word(offset).load(Relaxed);
    let word1 = arena.word(offset + 8).load(Relaxed);
    let expiry = if layout::flags_of(word0) & HAS_EXPIRY != 0 { EXPIRY } else { 0 };
    offset + HEADER + expiry + layout::key_len_of(word1)
}

/// Stamps a filled slot with its seq: the last write before publication.
#[inline]
pub(crate) fn write_seq(arena: &Arena, location: Location, seq: Seq) {
    let word = arena.word(location.offset());
    let old = word.load(Relaxed);
    word.store(layout::word0(seq, layout::flags_of(old)), std::sync::atomic::Ordering::Release);
}

/// # Safety
/// The destination is the caller's alone, lies in the arena, and does not overlap `bytes`.
#[inline]
unsafe fn copy(arena: &Arena, offset: u64, bytes: &[u8]) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), arena.address(offset), bytes.len()) };
}
