//! Long values while a store loads: put together in the slot that they will stay in.
//!
//! Invariant: the slot is its `Filling`'s alone until [`Filling::enter`] publishes it, and given back when
//! that does not happen. So a value that comes in pieces takes its own memory and no copy on the heap.
//!
//! Caller: the loader of `hotrestart`, which checks the whole value before it enters it.

use super::Place;
use super::access::{fill_head, fill_piece, find_locked, view_prepared};
use super::apply::{Loading, RecordId, check_seq};
use super::maps::MapCore;
use super::node::{Holding, Prepared};
use crate::entry::view::EntryParts;
use crate::error::Error;
use crate::ids::{MapId, Seq, StreamId};
use crate::log::Log;

/// An entry whose value comes in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    /// The map it belongs to.
    pub map: MapId,
    /// The stream.
    pub stream: StreamId,
    /// Its place in the stream's history.
    pub seq: Seq,
    /// Its key.
    pub key: &'a [u8],
    /// The length of its whole value, in bytes.
    pub value_len: u64,
    /// When it expires, in milliseconds since 1970.
    pub expiry_ms: Option<u64>,
}

/// An entry whose value is being put together.
pub struct Filling<'l, L: Log> {
    loading: &'l Loading<L>,
    map: &'l MapCore<L>,
    stream: StreamId,
    prepared: Prepared<'l>,
}

impl<L: Log> std::fmt::Debug for Filling<'_, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filling").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl<L: Log> Loading<L> {
    /// Takes the slot of an entry whose value comes in pieces. `None` when the entry is not wanted: its key
    /// has a newer one, or is gone, or is left to another pass.
    ///
    /// # Errors
    /// As for [`Loading::apply`].
    pub fn begin(&self, outline: &Outline<'_>) -> Result<Option<Filling<'_, L>>, Error> {
        let inner = &*self.store.inner;
        let Outline { map, stream, seq, key, value_len, expiry_ms } = *outline;
        inner.check_stream(stream)?;
        check_seq(stream, seq)?;
        inner.check_lengths(key, value_len)?;
        let Some(core) = self.map(map) else { return Ok(None) };
        let place = inner.place(core, stream);
        let id = RecordId { map, key, homes: place.table.homes(inner.hash.of(key)), seq };
        {
            let locked = inner.lock_stream(&place);
            let old = find_locked(&place.node.arena, place.table, id.homes, key, &locked);
            if !self.is_wanted(&id, stream, old.map(|(_, view)| view.seq())) {
                return Ok(None);
            }
        }
        let parts = EntryParts { key, value_len, expiry_ms };
        let prepared = inner.prepare_filled(place.node, &parts, Holding::Nothing)?;
        if let Some(slot) = prepared.slot() {
            fill_head(&place.node.arena, slot, &parts);
        }
        Ok(Some(Filling { loading: self, map: core, stream, prepared }))
    }
}

impl<'l, L: Log> Filling<'l, L> {
    fn place(&self) -> Place<'l> {
        self.loading.store.inner.place(self.map, self.stream)
    }

    /// Writes a piece of the value, from byte `from` on; false when it does not lie within the value.
    #[must_use]
    pub fn write(&mut self, from: u64, piece: &[u8]) -> bool {
        let arena = &self.place().node.arena;
        fill_piece(arena, &mut self.prepared, from, piece)
    }

    /// The value, as far as it has been written; elsewhere it is what the memory held before.
    pub fn value(&self) -> &[u8] {
        view_prepared(&self.place().node.arena, &self.prepared).map_or(&[], |view| view.value())
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        view_prepared(&self.place().node.arena, &self.prepared).map_or(&[], |view| view.key())
    }

    /// Enters the entry, unless it is not wanted any more; returns whether it was entered.
    ///
    /// # Errors
    /// As for [`Loading::apply`].
    pub fn enter(self, seq: Seq) -> Result<bool, Error> {
        let place = self.place();
        let key = self.key().to_vec();
        let homes = place.table.homes(self.loading.store.inner.hash.of(&key));
        let id = RecordId { map: self.map.spec.id, key: &key, homes, seq };
        let none_left = |_| Err(self.loading.store.inner.capacity(place.node, 0));
        self.loading.enter(&place, &id, Some(self.prepared), none_left)
    }
}
