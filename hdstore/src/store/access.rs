//! The two ways to an entry's bytes: under a pin, or under the lock of its stream; and the way to fill a new
//! one.
//!
//! Invariant: every view made here borrows what protects it, and every word it is made from was loaded from
//! an index while the protection was in place. With this file, `store/` needs no unsafe code elsewhere.
#![allow(unsafe_code)] // views of protected slots; docs/unsafe.md

use std::sync::atomic::Ordering::Relaxed;

use crate::arena::Arena;
use crate::arena::layout::STREAM_HEAD;
use crate::entry::layout;
use crate::entry::view::{self, EntryParts, EntryView};
use crate::error::Error;
use crate::hash::IndexHash;
use crate::ids::{Location, Seq, StreamId};
use crate::index::table::{Found, Homes, Table};
use crate::index::word::Word;
use crate::reclaim::hazard::Published;
use crate::reclaim::pin::Pinned;
use crate::slab::Slot;
use crate::store::node::Prepared;
use crate::sync::MutexGuard;

/// A stream whose lock is held: its head may be read and changed.
pub(crate) struct Locked<'a> {
    arena: &'a Arena,
    head: u64,
    _guard: MutexGuard<'a, ()>,
}

impl<'a> Locked<'a> {
    #[inline]
    pub(crate) fn new(
        arena: &'a Arena,
        index_in_node: u64,
        guard: MutexGuard<'a, ()>,
    ) -> Locked<'a> {
        Locked { arena, head: arena.layout().streams + index_in_node * STREAM_HEAD, _guard: guard }
    }

    /// The highest seq that was given.
    #[inline]
    pub(crate) fn seq(&self) -> Seq {
        Seq(self.arena.word(self.head).load(Relaxed))
    }

    /// The seq of the next change.
    #[inline]
    pub(crate) fn next_seq(&self, stream: StreamId) -> Result<Seq, Error> {
        let seq = self.seq();
        if seq >= Seq::MAX {
            return Err(Error::SeqExhausted { stream: stream.0, seq: seq.0 });
        }
        Ok(Seq(seq.0 + 1))
    }

    #[inline]
    pub(crate) fn set_seq(&self, seq: Seq) {
        self.arena.word(self.head).store(seq.0, Relaxed);
    }

    /// Where in the log's order the last record lies.
    #[inline]
    pub(crate) fn position(&self) -> u64 {
        self.arena.word(self.head + 8).load(Relaxed)
    }

    #[inline]
    pub(crate) fn set_position(&self, position: u64) {
        self.arena.word(self.head + 8).store(position, Relaxed);
    }
}

/// Finds a key under a pin.
#[inline]
pub(crate) fn find_pinned<'p>(
    arena: &'p Arena,
    table: Table<'p>,
    homes: Homes,
    key: &[u8],
    _pin: &'p Pinned<'_>,
) -> Option<EntryView<'p>> {
    let mut hit = None;
    table.find(homes, |word| {
        // SAFETY: the word was loaded under the pin, which lasts for 'p.
        let view = unsafe { EntryView::at(arena, word.location()) };
        let equal = is_same(view.key(), key);
        debug_assert!(!equal || word.may_have(view.seq()), "a word names its slot's tenant");
        if equal {
            hit = Some(view);
        }
        equal
    });
    hit
}

/// Finds the entry that was published with a seq, under a pin. A seq is given once in a stream, so no key is
/// compared, and most words of other entries of the same key are told by themselves.
#[inline]
pub(crate) fn find_stamp<'p>(
    arena: &'p Arena,
    table: Table<'p>,
    homes: Homes,
    seq: Seq,
    _pin: &'p Pinned<'_>,
) -> Option<EntryView<'p>> {
    let mut hit = None;
    table.find(homes, |word| {
        if !word.may_have(seq) {
            return false;
        }
        // SAFETY: the word was loaded under the pin, which lasts for 'p.
        let view = unsafe { EntryView::at(arena, word.location()) };
        let equal = view.seq() == seq;
        if equal {
            hit = Some(view);
        }
        equal
    });
    hit
}

/// Whether two keys are equal; the most common length is compared without a call.
#[inline]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    match (<&[u8; 8]>::try_from(one), <&[u8; 8]>::try_from(other)) {
        (Ok(one), Ok(other)) => u64::from_ne_bytes(*one) == u64::from_ne_bytes(*other),
        _ => one == other,
    }
}

/// The view of a word that was loaded from the index under `pin`.
///
/// The caller loaded `word` from an index of this arena after `pin` was taken.
#[inline]
pub(crate) fn view_pinned<'p>(arena: &'p Arena, word: Word, _pin: &'p Pinned<'_>) -> EntryView<'p> {
    // SAFETY: as the caller states; the pin lasts for 'p.
    unsafe { EntryView::at(arena, word.location()) }
}

/// Finds a key under its stream's lock.
#[inline]
pub(crate) fn find_locked<'l>(
    arena: &'l Arena,
    table: Table<'l>,
    homes: Homes,
    key: &[u8],
    _locked: &'l Locked<'_>,
) -> Option<(Found, EntryView<'l>)> {
    let mut hit = None;
    let found = table.find(homes, |word| {
        // SAFETY: only the holder of the lock retires entries of this stream, and the lock lasts for 'l.
        let view = unsafe { EntryView::at(arena, word.location()) };
        let equal = is_same(view.key(), key);
        debug_assert!(!equal || word.may_have(view.seq()), "a word names its slot's tenant");
        if equal {
            hit = Some(view);
        }
        equal
    })?;
    hit.map(|view| (found, view))
}

/// The view of a word that stands in the locked stream's table.
pub(crate) fn view_locked<'l>(
    arena: &'l Arena,
    word: Word,
    _locked: &'l Locked<'_>,
) -> EntryView<'l> {
    // SAFETY: as in `find_locked`.
    unsafe { EntryView::at(arena, word.location()) }
}

/// The index hash of the entry at a location that stands in the locked stream's table.
pub(crate) fn hash_locked(
    arena: &Arena,
    hash: &IndexHash,
    location: Location,
    _locked: &Locked<'_>,
) -> u64 {
    // SAFETY: as in `find_locked`; the view ends in this call.
    hash.of(unsafe { EntryView::at(arena, location) }.key())
}

/// The view of a slot that a guard has published.
#[inline]
pub(crate) fn view_published<'g>(
    arena: &'g Arena,
    location: Location,
    _published: &'g Published<'_>,
) -> EntryView<'g> {
    // SAFETY: the guard published this location while a pin protected it, and gives it up when it is dropped,
    // after 'g.
    unsafe { EntryView::at(arena, location) }
}

/// Fills a slot that was taken for this entry and that nobody else knows, but for its seq.
#[inline]
pub(crate) fn fill(arena: &Arena, slot: Slot, parts: &EntryParts<'_>, value: &[u8]) {
    debug_assert_eq!(parts.value_len, value.len() as u64);
    fill_head(arena, slot, parts);
    // SAFETY: as in `fill_head`; the head was just written with this length.
    unsafe { view::write_value(arena, slot, 0, value) };
}

/// Like [`fill`], but for the value, which comes piece by piece.
#[inline]
pub(crate) fn fill_head(arena: &Arena, slot: Slot, parts: &EntryParts<'_>) {
    // SAFETY: the slot comes from `Node::prepare` for this need and is not published.
    unsafe { view::write_head(arena, slot, parts) };
}

/// Writes a piece of the value of a slot whose head is filled; false when it does not lie within the value.
pub(crate) fn fill_piece(
    arena: &Arena,
    prepared: &mut Prepared<'_>,
    from: u64,
    piece: &[u8],
) -> bool {
    let Some(slot) = prepared.slot() else { return false };
    // SAFETY: the slot is the caller's alone and its head was written; the view ends in this call.
    let value_len = unsafe { EntryView::at(arena, slot.location) }.value_len();
    if from.checked_add(piece.len() as u64).is_none_or(|end| end > value_len) {
        return false;
    }
    // SAFETY: as above; the piece lies within the value.
    unsafe { view::write_value(arena, slot, from, piece) };
    true
}

/// The entry in a slot whose head is filled and that nobody else knows. What has not been written of its
/// value is what the memory held before.
pub(crate) fn view_prepared<'p>(
    arena: &'p Arena,
    prepared: &'p Prepared<'_>,
) -> Option<EntryView<'p>> {
    let slot = prepared.slot()?;
    // SAFETY: the slot is the caller's as long as `prepared` is borrowed; `fill_piece` borrows it mutably.
    Some(unsafe { EntryView::at(arena, slot.location) })
}

/// Bytes of keys and values of an entry.
#[inline]
pub(crate) fn live_bytes(view: &EntryView<'_>) -> u64 {
    view.key_len() + view.value_len()
}

/// Bytes that an entry of these lengths needs.
#[inline]
pub(crate) fn need(key: &[u8], value_len: u64, expiry_ms: Option<u64>) -> u64 {
    layout::need(key.len(), value_len, expiry_ms.is_some())
}
