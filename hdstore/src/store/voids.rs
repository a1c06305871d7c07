//! Clears while a store loads: below which seq everything of a table is void.
//!
//! Invariant: a record older than the newest clear of its table is not in memory when the load ends, whatever
//! the order in which both come. One that comes after the clear is passed over under the stream's lock; what
//! was there before is found and removed by [`Loading::drop_void`], once per pass.
//!
//! Callers: `apply.rs` and `fill.rs` under the lock of the record's stream, so that what is noted here and
//! the index agree. Cost: one load for each record while no clear was met; then a second. 8 bytes for each
//! stream of a map that was cleared, on the heap, until the load ends.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::Inner;
use super::access::{live_bytes, view_locked};
use super::apply::Loading;
use super::maps::MapCore;
use super::node::{Holding, NoRoom};
use crate::error::Error;
use crate::ids::{MapId, Seq, StreamId};
use crate::index::word::Word;
use crate::log::Log;
use crate::slab::batch::BATCH_BYTES;

/// The table held entries when its newest clear was met.
const IS_LATE: u64 = 1 << 63;

/// By map and stream, the seq of the newest clear.
pub(crate) struct Voids {
    is_any: AtomicBool,
    streams: u32,
    by_map: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl Voids {
    pub(crate) fn new(maps: usize, streams: u32) -> Voids {
        let by_map = (0..maps).map(|_| OnceLock::new()).collect();
        Voids { is_any: AtomicBool::new(false), streams, by_map }
    }

    fn word(&self, map: usize, stream: StreamId) -> Option<&AtomicU64> {
        self.by_map[map].get()?.get(stream.0 as usize)
    }

    /// The seq of a table's newest clear; 0 when there is none.
    fn seq(&self, map: usize, stream: StreamId) -> Seq {
        Seq(self.word(map, stream).map_or(0, |word| word.load(Relaxed) & !IS_LATE))
    }

    /// Notes a clear, under the stream's lock; returns whether it is the newest.
    fn raise(&self, map: usize, stream: StreamId, seq: Seq, is_late: bool) -> bool {
        let streams = self.streams;
        let of_map =
            self.by_map[map].get_or_init(|| (0..streams).map(|_| AtomicU64::new(0)).collect());
        let Some(word) = of_map.get(stream.0 as usize) else { return false };
        let before = word.load(Relaxed);
        if before & !IS_LATE >= seq.0 {
            return false;
        }
        word.store(seq.0 | before & IS_LATE | if is_late { IS_LATE } else { 0 }, Relaxed);
        self.is_any.store(true, Relaxed);
        true
    }
}

impl<L: Log> Loading<L> {
    /// Whether a record is void, since its table was cleared later.
    #[inline]
    pub fn is_void(&self, map: MapId, stream: StreamId, seq: Seq) -> bool {
        self.voids.is_any.load(Relaxed)
            && self.maps.number(map).is_some_and(|number| seq < self.voids.seq(number, stream))
    }

    /// The newest clear of each table of which one was met.
    pub fn cleared(&self) -> Vec<(MapId, StreamId, Seq)> {
        let mut cleared = Vec::new();
        for (number, map) in self.maps.iter().enumerate() {
            for stream in (0..self.voids.streams).map(StreamId) {
                let seq = self.voids.seq(number, stream);
                if seq > Seq(0) {
                    cleared.push((map.spec.id, stream, seq));
                }
            }
        }
        cleared
    }

    /// Takes a clear in; returns whether it is the newest of its table.
    pub(crate) fn apply_clear(&self, map: MapId, stream: StreamId, seq: Seq) -> bool {
        let inner = &*self.store.inner;
        let (Some(number), Some(core)) = (self.maps.number(map), self.map(map)) else {
            return false;
        };
        let place = inner.place(core, stream);
        let locked = inner.lock_stream(&place);
        locked.set_seq(locked.seq().max(seq));
        self.voids.raise(number, stream, seq, place.table.entries() > 0)
    }

    /// Removes what was entered before the clear that makes it void was met. To be called when all records
    /// have come, before [`Loading::next_pass`], and whenever memory is short.
    ///
    /// # Errors
    /// No memory for a batch of removed slots.
    pub fn drop_void(&self) -> Result<(), Error> {
        for (number, core) in self.maps.iter().enumerate() {
            for stream in (0..self.voids.streams).map(StreamId) {
                let Some(word) = self.voids.word(number, stream) else { continue };
                if word.fetch_and(!IS_LATE, Relaxed) & IS_LATE != 0 {
                    let seq = self.voids.seq(number, stream);
                    self.store.inner.drop_below(core, stream, seq)?;
                }
            }
        }
        Ok(())
    }
}

impl<L: Log> Inner<L> {
    /// Removes every entry of a table that is older than `seq`.
    fn drop_below(&self, map: &MapCore<L>, stream: StreamId, seq: Seq) -> Result<(), Error> {
        let place = self.place(map, stream);
        let arena = &place.node.arena;
        let mut bucket = 0;
        loop {
            let prepared = place
                .node
                .prepare(None, Holding::Nothing)
                .map_err(|NoRoom| self.capacity(place.node, BATCH_BYTES))?;
            let locked = self.lock_stream(&place);
            let mut older = None;
            while older.is_none() && bucket < place.table.buckets() {
                place.table.for_each_in_bucket(bucket, |found| {
                    if view_locked(arena, found.word, &locked).seq() < seq {
                        older = Some(found);
                    }
                });
                bucket += u64::from(older.is_none());
            }
            let Some(found) = older else { return Ok(()) };
            let view = view_locked(arena, found.word, &locked);
            let (location, slot_bytes) = (view.location(), place.node.slot_bytes(&view));
            place.table.sub(live_bytes(&view), slot_bytes);
            place.table.publish(found.place, Word::EMPTY);
            drop(locked);
            prepared.settle(Some((location, slot_bytes)));
        }
    }
}
