//! Restart: records go back into memory in any order, from any number of threads.
//!
//! Invariant: for each key the record with the highest seq wins, whatever the order, so the result does not
//! depend on it. Facts of absence take no slots: they are remembered in a table of fixed size (`facts.rs`),
//! and where that is too small, part of the keys is left to a further pass over all records
//! ([`Loading::next_pass`]). What is older than a clear of its table is void (`voids.rs`). Replaced slots are
//! retired as in a put, so it is safe, if pointless, to read while a store loads. Values that come in pieces
//! are put together in their slot (`fill.rs`).
//!
//! Caller: the loader of `hotrestart`. Records come in batches whose cache misses run side by side.

use super::access::{find_locked, find_pinned, hash_locked, live_bytes, need};
use super::facts::Facts;
use super::maps::{MapCore, MapsById};
use super::node::{Holding, NoRoom, Prepared};
use super::put::Spares;
use super::read::GROUP;
use super::voids::Voids;
use super::{Inner, Place, Store};
use crate::arena::layout::load_overdraft;
use crate::entry::view::{EntryParts, write_seq};
use crate::error::Error;
use crate::ids::{MapId, Seq, StreamId};
use crate::index::table::Homes;
use crate::index::word::{Word, tag_of};
use crate::log::{Change, Log, MapSpec};
use crate::slab::batch::BATCH_BYTES;

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

/// A store that is loading: its maps by number, and the keys that are known to be gone.
pub struct Loading<L: Log> {
    pub(crate) store: Store<L>,
    pub(super) maps: MapsById<L>,
    pub(crate) facts: Facts,
    pub(super) voids: Voids,
}

impl<L: Log> Store<L> {
    /// Enters a map that the log knows. To be called before anything is applied to it.
    ///
    /// # Errors
    /// No memory for its tables, or a number beyond the highest.
    pub fn restore_map(&self, spec: MapSpec<L::Level>) -> Result<(), Error> {
        self.inner.restore_map(spec)
    }

    /// Gives no new map a number below `next`: the log knows that all those were given, also when the maps
    /// are gone.
    pub fn raise_next_map(&self, next: MapId) {
        self.inner.raise_next_map(next);
    }

    /// Starts loading into a store that nobody reads or writes yet. Facts of absence take up to
    /// `facts_max_bytes`, and at least 24 KiB, of the process's heap, beside the memory limit, until the load
    /// ends; what they do not fit in is made up for by more passes.
    pub fn start_load(&self, facts_max_bytes: u64) -> Loading<L> {
        let maps = MapsById::of(&self.inner);
        let voids = Voids::new(maps.len(), self.inner.streams);
        let facts = Facts::new(facts_max_bytes, self.inner.seed());
        Loading { store: self.clone(), maps, facts, voids }
    }
}

impl<L: Log> Loading<L> {
    /// Applies records; the newest of each key stays. Returns how many were newer than what was there.
    ///
    /// # Errors
    /// No memory ([`Error::Capacity`]), lengths, streams or seqs that this store does not take.
    pub fn apply(&self, records: &[Applied<'_>]) -> Result<u64, Error> {
        let inner = &*self.store.inner;
        let mut newer = 0;
        for group in records.chunks(GROUP) {
            let mut targets = [const { None }; GROUP];
            for (record, target) in group.iter().zip(&mut targets) {
                inner.check_stream(record.stream)?;
                check_seq(record.stream, record.seq)?;
                if let Some(core) = self.map(record.map) {
                    let hash = key_of(record).map_or(0, |key| inner.hash.of(key));
                    let place = inner.place(core, record.stream);
                    *target = Some((place.table.prefetch(hash), place));
                }
            }
            for (homes, place) in targets.iter_mut().flatten() {
                if let Some(word) = place.table.likely(homes) {
                    place.node.arena.prefetch(word.location().offset());
                }
            }
            for (record, target) in group.iter().zip(&targets) {
                if let Some((homes, place)) = target {
                    newer += u64::from(self.apply_one(place, record, *homes)?);
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
        let locked = inner.lock_head(stream);
        locked.set_seq(locked.seq().max(seq));
        Ok(())
    }

    /// Removes the entries that are older than these records, without entering anything: it makes room. Of
    /// clears it only takes note, for [`Loading::drop_void`].
    ///
    /// # Errors
    /// As for [`Loading::apply`].
    pub fn drop_older(&self, records: &[Applied<'_>]) -> Result<(), Error> {
        let inner = &*self.store.inner;
        for record in records {
            inner.check_stream(record.stream)?;
            let Some(key) = key_of(record) else {
                self.apply_clear(record.map, record.stream, record.seq);
                continue;
            };
            if let Some(core) = self.map(record.map) {
                inner.drop_if_older(&inner.place(core, record.stream), key, record.seq)?;
            }
        }
        Ok(())
    }

    /// Whether the facts of absence were too many for one pass: then everything must be applied once more,
    /// for the keys that were left over.
    #[must_use]
    pub fn next_pass(&self) -> bool {
        self.facts.next_pass()
    }

    /// Lets the load go 4 MiB and 1/32 of the limit beyond it, until it ends: for a store that was at its
    /// limit, since its records come in another order than they did, and pages and tables fill differently.
    pub fn allow_overdraft(&self) {
        let budget = self.store.inner.nodes[0].arena.budget();
        budget.allow_overdraft(load_overdraft(budget.limit_bytes()));
    }

    /// Forgets the facts of absence: what is left is the map. Free memory beyond the limit is given back.
    /// Returns the number of entries.
    pub fn finish(self) -> u64 {
        let inner = &*self.store.inner;
        let budget = inner.nodes[0].arena.budget();
        budget.allow_overdraft(0);
        for node in &inner.nodes {
            let beyond = budget.committed_bytes().saturating_sub(budget.limit_bytes());
            if beyond > 0 {
                node.give_back(beyond);
            }
        }
        self.store.entries()
    }

    pub(crate) fn map(&self, map: MapId) -> Option<&MapCore<L>> {
        self.maps.get(map)
    }

    /// Whether the map is one of the store's.
    pub fn knows(&self, map: MapId) -> bool {
        self.map(map).is_some()
    }
}

/// A seq that a record can hold.
pub(crate) fn check_seq(stream: StreamId, seq: Seq) -> Result<(), Error> {
    if seq > Seq::MAX {
        return Err(Error::SeqExhausted { stream: stream.0, seq: seq.0 });
    }
    Ok(())
}

/// The key that a record is of; none if it is of a whole table.
fn key_of<'a>(record: &Applied<'a>) -> Option<&'a [u8]> {
    match record.change {
        Change::Entry { key, .. } | Change::Absence { key } => Some(key),
        Change::Clear => None,
    }
}

impl<L: Log> Loading<L> {
    fn apply_one(
        &self,
        place: &Place<'_>,
        record: &Applied<'_>,
        homes: Homes,
    ) -> Result<bool, Error> {
        let inner = &*self.store.inner;
        let (key, value, expiry_ms) = match record.change {
            Change::Entry { key, value, expiry_ms } => (key, value, expiry_ms),
            Change::Absence { key } => return self.apply_absence(place, record, key, homes),
            Change::Clear => return Ok(self.apply_clear(record.map, record.stream, record.seq)),
        };
        inner.check_lengths(key, value.len() as u64)?;
        let parts = EntryParts { key, value_len: value.len() as u64, expiry_ms };
        let take = |holding| {
            let prepared = inner.prepare_filled(place.node, &parts, holding)?;
            let Some(slot) = prepared.slot() else { return Ok(prepared) };
            super::access::fill(&place.node.arena, slot, &parts, value);
            Ok(prepared)
        };
        let id = RecordId { map: record.map, key, homes, seq: record.seq };
        if self.is_superseded(place, &id) {
            return Ok(false);
        }
        // Copied before the lock, which is let go only when the copy has reached the cache. With facts at
        // hand a record may yet be unwanted, and where there is no room `enter` knows what to do.
        let is_likely = self.facts.is_idle() && !self.is_void(id.map, place.stream, id.seq);
        let ready = if is_likely { take(Holding::Nothing).ok() } else { None };
        self.enter(place, &id, ready, take)
    }

    /// Whether memory has a newer entry of the key, or this one: most records of a log end here, without a
    /// lock. The stream's seq was raised above this one with that entry.
    fn is_superseded(&self, place: &Place<'_>, id: &RecordId<'_>) -> bool {
        let pin = self.store.inner.pin();
        find_pinned(&place.node.arena, place.table, id.homes, id.key, &pin)
            .is_some_and(|view| view.seq() >= id.seq)
    }

    fn apply_absence(
        &self,
        place: &Place<'_>,
        record: &Applied<'_>,
        key: &[u8],
        homes: Homes,
    ) -> Result<bool, Error> {
        let inner = &*self.store.inner;
        inner.check_lengths(key, 0)?;
        let is_known = {
            let locked = inner.lock_stream(place);
            locked.set_seq(locked.seq().max(record.seq));
            let old = find_locked(&place.node.arena, place.table, homes, key, &locked);
            if old.is_some_and(|(_, view)| view.seq() >= record.seq)
                || self.is_void(record.map, record.stream, record.seq)
            {
                return Ok(false);
            }
            let of_table = (record.map, record.stream);
            self.facts.put(self.facts.key(of_table, key, homes.hash()), record.seq)
        };
        // An entry that comes between is newer than the fact, and stays.
        inner.drop_if_older(place, key, record.seq)?;
        Ok(is_known)
    }

    /// Whether a record is the newest that is known of its key, and its key's turn has come.
    pub(crate) fn is_wanted(
        &self,
        id: &RecordId<'_>,
        stream: StreamId,
        newest: Option<Seq>,
    ) -> bool {
        match newest {
            _ if self.is_void(id.map, stream, id.seq) => false,
            Some(newest) if newest >= id.seq => false,
            // A fact that is newer than an entry has removed it, so the table need not be asked; but the key
            // may be left to another pass.
            Some(_) => {
                self.facts.is_idle()
                    || self.facts.covers(self.facts.key((id.map, stream), id.key, id.homes.hash()))
            }
            None => {
                self.facts.is_idle()
                    || !self
                        .facts
                        .hides(self.facts.key((id.map, stream), id.key, id.homes.hash()), id.seq)
            }
        }
    }

    /// Enters a record if it is wanted: from `ready`, or from a slot that `take` finds and fills.
    pub(crate) fn enter<'p>(
        &self,
        place: &Place<'p>,
        id: &RecordId<'_>,
        mut ready: Option<Prepared<'p>>,
        take: impl Fn(Holding) -> Result<Prepared<'p>, Error>,
    ) -> Result<bool, Error> {
        let inner = &*self.store.inner;
        let arena = &place.node.arena;
        let mut spare = Spares::new(place.node);
        loop {
            let wants = place.table.wants();
            spare.take(wants).map_err(|bytes| inner.capacity(place.node, bytes))?;
            let locked = inner.lock_stream(place);
            locked.set_seq(locked.seq().max(id.seq));
            let old = find_locked(arena, place.table, id.homes, id.key, &locked);
            if !self.is_wanted(id, place.stream, old.as_ref().map(|(_, view)| view.seq())) {
                return Ok(false);
            }
            let prepared = match ready.take() {
                Some(prepared) => prepared,
                None => match take(Holding::StreamLock) {
                    Ok(prepared) => prepared,
                    Err(error) if !error.is_capacity() => return Err(error),
                    Err(_) => {
                        drop(locked);
                        ready = Some(take(Holding::Nothing)?);
                        continue;
                    }
                },
            };
            let Some(slot) = prepared.slot() else { return Ok(false) };
            write_seq(arena, slot.location, id.seq);
            let new = Word::entry(tag_of(id.homes.hash()), id.seq, slot.location);
            let live = super::access::view_prepared(arena, &prepared).map_or(0, |v| live_bytes(&v));
            let replaced = match old {
                Some((found, view)) => {
                    let old_bytes = place.node.slot_bytes(&view);
                    place.table.sub(live_bytes(&view), old_bytes);
                    place.table.publish(found.place, new);
                    Some((view.location(), old_bytes))
                }
                None => {
                    let hash_of = |location| hash_locked(arena, &inner.hash, location, &locked);
                    if let Err(wants) = place.table.insert(id.homes, new, &mut spare.spare, hash_of)
                    {
                        drop(locked);
                        ready = Some(prepared);
                        spare.take(wants).map_err(|bytes| inner.capacity(place.node, bytes))?;
                        continue;
                    }
                    None
                }
            };
            place.table.add(live, slot.bytes);
            if replaced.is_none() {
                place.table.grow(&mut spare.spare, |location| {
                    hash_locked(arena, &inner.hash, location, &locked)
                });
            }
            drop(locked);
            prepared.settle(replaced);
            return Ok(true);
        }
    }
}

/// Which record: its key and its place in the stream's history.
pub(crate) struct RecordId<'a> {
    pub(crate) map: MapId,
    pub(crate) key: &'a [u8],
    pub(crate) homes: Homes,
    pub(crate) seq: Seq,
}

impl<L: Log> Inner<L> {
    /// Takes a slot for an entry of these parts.
    pub(crate) fn prepare_filled<'n>(
        &self,
        node: &'n super::Node,
        parts: &EntryParts<'_>,
        holding: Holding,
    ) -> Result<Prepared<'n>, Error> {
        let need = need(parts.key, parts.value_len, parts.expiry_ms);
        node.prepare(Some(need), holding).map_err(|NoRoom| self.capacity(node, need))
    }

    /// Removes a key's entry if it is older than `seq`.
    fn drop_if_older(&self, place: &Place<'_>, key: &[u8], seq: Seq) -> Result<(), Error> {
        let hash = self.hash.of(key);
        let arena = &place.node.arena;
        let is_older = |locked: &super::access::Locked<'_>| {
            let old = find_locked(arena, place.table, place.table.homes(hash), key, locked);
            old.is_some_and(|(_, view)| view.seq() < seq)
        };
        if !is_older(&self.lock_stream(place)) {
            return Ok(());
        }
        let prepared = place
            .node
            .prepare(None, Holding::Nothing)
            .map_err(|NoRoom| self.capacity(place.node, BATCH_BYTES))?;
        let locked = self.lock_stream(place);
        let old = find_locked(arena, place.table, place.table.homes(hash), key, &locked);
        let Some((found, view)) = old.filter(|(_, view)| view.seq() < seq) else { return Ok(()) };
        let (location, slot_bytes) = (view.location(), place.node.slot_bytes(&view));
        place.table.sub(live_bytes(&view), slot_bytes);
        place.table.publish(found.place, Word::EMPTY);
        drop(locked);
        prepared.settle(Some((location, slot_bytes)));
        Ok(())
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
        let view = super::access::find_pinned(
            &place.node.arena,
            place.table,
            place.table.homes(hash),
            key,
            &pin,
        )?;
        Some(look(view.seq(), view.value(), view.expiry_ms()))
    }
}
