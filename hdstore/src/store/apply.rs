//! Restart: records go back into memory in any order, from any number of threads.
//!
//! Invariant: for each key the record with the highest seq wins, whatever the order, so the result does not
//! depend on it. A fact of absence is an entry with the `ABSENT` flag, which no reader sees, until
//! [`Loading::finish`] takes it out. Replaced slots are retired as in a put, so it is safe, if pointless, to
//! read while a store loads.
//!
//! Caller: the loader of `hotrestart`. Records come in batches whose cache misses run side by side.

use super::access::{find_locked, hash_locked, live_bytes, need};
use super::node::NoRoom;
use super::put::Spares;
use super::read::GROUP;
use super::{Inner, MapCore, Store};
use crate::entry::layout::{ABSENT, LIVE};
use crate::entry::view::{EntryParts, write_seq};
use crate::error::Error;
use crate::ids::{MapId, Seq, StreamId};
use crate::index::grow::buckets_for;
use crate::index::table::Wants;
use crate::index::word::{Word, tag_of};
use crate::log::{Change, Log, MapSpec};

/// A record of a stream's history.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    /// The map it belongs to.
    pub map: MapId,
    /// The stream.
    pub stream: StreamId,
    /// Its place in the stream's history.
    pub seq: Seq,
    /// What it says.
    pub change: Change<'a>,
}

/// The maps of a store that is loading, by number.
pub struct Loading<L: Log> {
    store: Store<L>,
    maps: Vec<Option<std::sync::Arc<MapCore<L>>>>,
}

impl<L: Log> Store<L> {
    /// Enters a map that the log knows. To be called before anything is applied to it.
    ///
    /// # Errors
    /// No memory for its tables, or a number beyond the highest.
    pub fn restore_map(&self, spec: MapSpec<L::Level>) -> Result<(), Error> {
        self.inner.restore_map(spec)
    }

    /// Starts loading into a store that nobody reads or writes yet.
    pub fn start_load(&self) -> Loading<L> {
        let all = self.inner.all_maps();
        let highest = all.iter().map(|map| map.spec.id.0).max().unwrap_or(0);
        let mut maps = vec![None; highest as usize + 1];
        for map in all {
            let id = map.spec.id.0 as usize;
            maps[id] = Some(map);
        }
        Loading { store: self.clone(), maps }
    }
}

impl<L: Log> Loading<L> {
    /// Makes the tables of a map large enough for `entries` in all, spread evenly over the streams.
    ///
    /// # Errors
    /// No memory.
    pub fn presize(&self, map: MapId, entries: u64) -> Result<(), Error> {
        let inner = &*self.store.inner;
        let Some(core) = self.map(map) else { return Ok(()) };
        let per_stream = entries / u64::from(inner.streams);
        for stream in 0..inner.streams {
            let place = inner.place(core, StreamId(stream));
            let mut spare = Spares::new(place.node);
            let _locked = inner.lock_stream(&place);
            let buckets = buckets_for(per_stream);
            if place.table.buckets() != 0 || buckets < 2 {
                continue;
            }
            place
                .table
                .presize(buckets, |wants: Wants| {
                    spare.take(wants)?;
                    Ok(std::mem::take(&mut spare.spare))
                })
                .map_err(|bytes| inner.capacity(place.node, bytes))?;
        }
        Ok(())
    }

    /// Applies records; the newest of each key stays. Returns how many were newer than what was there.
    ///
    /// # Errors
    /// No memory ([`Error::Capacity`]), lengths, streams or seqs that this store does not take.
    pub fn apply(&self, records: &[Applied<'_>]) -> Result<u64, Error> {
        let inner = &*self.store.inner;
        let mut newer = 0;
        for group in records.chunks(GROUP) {
            let mut hashes = [0; GROUP];
            for (record, hash) in group.iter().zip(&mut hashes) {
                inner.check_stream(record.stream)?;
                check_seq(record.stream, record.seq)?;
                *hash = inner.hash.of(key_of(record));
                if let Some(core) = self.map(record.map) {
                    inner.place(core, record.stream).table.prefetch(*hash);
                }
            }
            for (record, hash) in group.iter().zip(&hashes) {
                if let Some(core) = self.map(record.map) {
                    let place = inner.place(core, record.stream);
                    if let Some(word) = place.table.likely(*hash) {
                        place.node.arena.prefetch(word.location().offset());
                    }
                }
            }
            for (record, hash) in group.iter().zip(&hashes) {
                if let Some(core) = self.map(record.map) {
                    newer += u64::from(inner.apply_one(core, record, *hash)?);
                }
            }
        }
        Ok(newer)
    }

    /// Makes a stream go on above `seq`.
    ///
    /// # Errors
    /// A stream that the store does not have.
    pub fn raise_seq(&self, stream: StreamId, seq: Seq) -> Result<(), Error> {
        let inner = &*self.store.inner;
        inner.check_stream(stream)?;
        check_seq(stream, seq)?;
        if let Some(core) = self.maps.iter().flatten().next() {
            let locked = inner.lock_stream(&inner.place(core, stream));
            locked.set_seq(locked.seq().max(seq));
        }
        Ok(())
    }

    /// Forgets the facts of absence: what is left is the map. Returns the number of entries.
    pub fn finish(self) -> u64 {
        let inner = &*self.store.inner;
        let mut entries = 0;
        for core in self.maps.iter().flatten() {
            for stream in 0..inner.streams {
                entries += inner.drop_absent(core, StreamId(stream));
            }
        }
        entries
    }

    fn map(&self, map: MapId) -> Option<&MapCore<L>> {
        self.maps.get(map.0 as usize)?.as_deref()
    }

    /// Whether the map is one of the store's.
    pub fn knows(&self, map: MapId) -> bool {
        self.map(map).is_some()
    }
}

/// A seq that a record can hold.
fn check_seq(stream: StreamId, seq: Seq) -> Result<(), Error> {
    if seq > Seq::MAX {
        return Err(Error::SeqExhausted { stream: stream.0, seq: seq.0 });
    }
    Ok(())
}

fn key_of<'a>(record: &Applied<'a>) -> &'a [u8] {
    match record.change {
        Change::Entry { key, .. } | Change::Absence { key } => key,
    }
}

impl<L: Log> Inner<L> {
    fn apply_one(&self, map: &MapCore<L>, record: &Applied<'_>, hash: u64) -> Result<bool, Error> {
        let (key, value, expiry_ms, flags): (_, &[u8], _, _) = match record.change {
            Change::Entry { key, value, expiry_ms } => (key, value, expiry_ms, LIVE),
            Change::Absence { key } => (key, &[], None, ABSENT),
        };
        self.check_lengths(key, value.len() as u64)?;
        let place = self.place(map, record.stream);
        let arena = &place.node.arena;
        let mut spare = Spares::new(place.node);
        loop {
            let wants = place.table.wants();
            spare.take(wants).map_err(|bytes| self.capacity(place.node, bytes))?;
            let locked = self.lock_stream(&place);
            locked.set_seq(locked.seq().max(record.seq));
            let old = find_locked(arena, place.table, hash, key, &locked);
            if old.as_ref().is_some_and(|(_, view)| view.seq() >= record.seq) {
                return Ok(false);
            }
            let need = need(key, value.len() as u64, expiry_ms);
            let prepared =
                place.node.prepare(Some(need)).map_err(|NoRoom| self.capacity(place.node, need))?;
            let Some(slot) = prepared.slot() else { return Err(self.capacity(place.node, need)) };
            let parts = EntryParts { key, value_len: value.len() as u64, expiry_ms, flags };
            super::access::fill(arena, slot, &parts, value);
            write_seq(arena, slot.location, record.seq);
            let new = Word::entry(tag_of(hash), slot.generation, slot.location);
            let replaced = match old {
                Some((found, view)) => {
                    let old_bytes = place.node.slabs.slot_bytes(arena, view.location());
                    place.table.sub(live_bytes(&view), old_bytes);
                    place.table.publish(found.place, new);
                    Some(view.location())
                }
                None => {
                    let hash_of = |location| hash_locked(arena, &self.hash, location, &locked);
                    if let Err(wants) = place.table.insert(hash, new, &mut spare.spare, hash_of) {
                        drop((locked, prepared));
                        spare.take(wants).map_err(|bytes| self.capacity(place.node, bytes))?;
                        continue;
                    }
                    None
                }
            };
            let slot_bytes = place.node.slabs.slot_bytes(arena, slot.location);
            place.table.add((key.len() + value.len()) as u64, slot_bytes);
            if replaced.is_none() {
                place.table.grow(&mut spare.spare, |location| {
                    hash_locked(arena, &self.hash, location, &locked)
                });
            }
            drop(locked);
            prepared.settle(replaced);
            return Ok(true);
        }
    }

    fn drop_absent(&self, map: &MapCore<L>, stream: StreamId) -> u64 {
        let place = self.place(map, stream);
        let arena = &place.node.arena;
        let locked = self.lock_stream(&place);
        let mut absent = Vec::new();
        for bucket in 0..place.table.buckets() {
            place.table.for_each_in_bucket(bucket, |found| {
                let view = super::access::view_locked(arena, found.word, &locked);
                if view.is_absent() {
                    absent.push((found, live_bytes(&view)));
                }
            });
        }
        let mut left = absent.len() as u64;
        for (found, live) in absent {
            // Without a kilobyte to remember what is retired the fact stays: it is absent for every reader
            // and writer.
            let Ok(prepared) = place.node.prepare(None) else { break };
            let location = found.word.location();
            place.table.sub(live, place.node.slabs.slot_bytes(arena, location));
            place.table.publish(found.place, Word::EMPTY);
            prepared.settle(Some(location));
            left -= 1;
        }
        place.table.entries() - left
    }
}

impl<L: Log> Store<L> {
    /// Looks at the entry of a key in a stream: its seq, value and expiry. Expired entries are seen, too. For
    /// the log, which asks whether a record is current and copies it when it is.
    pub fn look<R>(
        &self,
        map: MapId,
        stream: StreamId,
        key: &[u8],
        look: impl FnOnce(Seq, &[u8], Option<u64>) -> R,
    ) -> Option<R> {
        let inner = &*self.inner;
        let core = inner.all_maps().into_iter().find(|core| core.spec.id == map)?;
        let place = inner.place(&core, stream);
        let pin = inner.pin();
        let hash = inner.hash.of(key);
        let view = super::access::find_pinned(&place.node.arena, place.table, hash, key, &pin)?;
        Some(look(view.seq(), view.value(), view.expiry_ms()))
    }
}
