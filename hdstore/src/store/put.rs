//! Putting: the order of steps.
//!
//! Before the stream's lock: check the condition, take a slot and the memory that the table may need, find
//! room in the log, then copy key and value to both. What is far away (buckets, the new slot, the old one,
//! the stream's lock and head, which another core may have changed last) is asked for before it is needed,
//! and the log's record is written while it comes. Under the lock: find the old word, check the condition
//! again, take the seq, complete the record, publish the word, split a bucket if one is due. After it: retire
//! the old slot. So the lock is held for no allocation, no system call and no copy of a value.
//!
//! What may go wrong: no memory (`Capacity`), readers asleep (`Unreclaimed`), no room in the log; each before
//! anything changed. A record's room that turns out to lie before the stream's last record is given up and
//! taken anew, since after a crash a prefix of the stream must come back.

use super::access::{Locked, fill, find_locked, find_pinned, hash_locked, live_bytes, need};
use super::node::{Holding, NoRoom, Node};
use super::{Inner, MapCore, Place};
use crate::clock::Clock;
use crate::entry::layout::KEY_MAX;
use crate::entry::view::{EntryParts, EntryView, write_seq};
use crate::error::Error;
use crate::ids::{Location, Seq, StreamId};
use crate::index::table::{Homes, Spare, Wants};
use crate::index::word::{Word, tag_of};
use crate::log::{Change, Log};
use crate::reclaim::pin::OldestPin;
use crate::slab::class::SLOT_MAX;

/// A batch of reads that is younger than this, in milliseconds, is waited for like a read.
const PASSING_MS: u64 = 50;

/// When a put may happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Condition<'a> {
    /// Always.
    None,
    /// Only when the key is not there.
    Absent,
    /// Only when the key has this very value.
    Value(&'a [u8]),
    /// Only when the key's entry is still this one.
    Seq(Seq),
}

impl Condition<'_> {
    pub(super) fn holds(&self, view: Option<&EntryView<'_>>) -> bool {
        match (self, view) {
            (Condition::None, _) | (Condition::Absent, None) => true,
            (Condition::Absent, Some(_)) | (_, None) => false,
            (Condition::Value(value), Some(view)) => view.value() == *value,
            (Condition::Seq(seq), Some(view)) => view.seq() == *seq,
        }
    }
}

/// What a put did.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Done<T> {
    /// The key has the value.
    Put(T),
    /// The condition did not hold; nothing changed.
    Refused,
}

/// An entry to put.
#[derive(Clone, Copy)]
pub(crate) struct NewEntry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) expiry_ms: Option<u64>,
}

impl<L: Log> Inner<L> {
    pub(crate) fn check_lengths(&self, key: &[u8], value_len: u64) -> Result<(), Error> {
        if key.is_empty() {
            return Err(Error::EmptyKey);
        }
        if key.len() > KEY_MAX {
            return Err(Error::TooLarge {
                what: "key",
                len: key.len() as u64,
                max: KEY_MAX as u64,
            });
        }
        if value_len > self.value_max_bytes {
            return Err(Error::TooLarge {
                what: "value",
                len: value_len,
                max: self.value_max_bytes,
            });
        }
        Ok(())
    }

    pub(crate) fn put(
        &self,
        map: &MapCore<L>,
        stream: StreamId,
        entry: NewEntry<'_>,
        condition: Condition<'_>,
    ) -> Result<Done<L::Ticket>, Error> {
        let place = self.place(map, stream);
        let homes = self.prefetch(&place, self.hash.of(entry.key));
        self.prefetch_head(&place);
        self.put_from(map, (homes, &place), entry, condition)
    }

    /// A put whose search begins at `homes`, in a place of the key's stream.
    pub(crate) fn put_from(
        &self,
        map: &MapCore<L>,
        (mut homes, place): (Homes, &Place<'_>),
        entry: NewEntry<'_>,
        condition: Condition<'_>,
    ) -> Result<Done<L::Ticket>, Error> {
        self.check_lengths(entry.key, entry.value.len() as u64)?;
        map.check()?;
        self.log.check().map_err(Error::Log)?;
        let (hash, stream) = (homes.hash(), place.stream);
        let need = need(entry.key, entry.value.len() as u64, entry.expiry_ms);
        // A look before the lock refuses early. A plain put below the bound has nothing to be refused for.
        if !matches!(condition, Condition::None) || !place.node.has_room_to_retire() {
            let was_there = {
                let pin = self.pin();
                let view = find_pinned(&place.node.arena, place.table, homes, entry.key, &pin);
                if !condition.holds(view.as_ref().filter(|view| !self.is_expired(view))) {
                    return Ok(Done::Refused);
                }
                view.is_some()
            };
            if was_there {
                self.may_retire(place.node)?;
            }
        }
        let prepared = place
            .node
            .prepare(Some(need), Holding::Nothing)
            .map_err(|NoRoom| self.capacity(place.node, need))?;
        let mut spare = Spares::new(place.node);
        if place.table.wants_any() {
            let wants = place.table.wants();
            spare.take(wants).map_err(|bytes| self.capacity(place.node, bytes))?;
        }
        let Some(slot) = prepared.slot() else { return Err(self.capacity(place.node, need)) };
        let parts = EntryParts {
            key: entry.key,
            value_len: entry.value.len() as u64,
            expiry_ms: entry.expiry_ms,
        };
        let change =
            Change::Entry { key: entry.key, value: entry.value, expiry_ms: entry.expiry_ms };
        // An atomic step waits until all writes before it are in the cache: reserving comes before the
        // copies, and the line of the entry that is to be replaced while they are made.
        // A long value is copied before all the same: nobody's block waits for that.
        let mut is_filled = need > u64::from(SLOT_MAX);
        if is_filled {
            fill(&place.node.arena, slot, &parts, entry.value);
        }
        loop {
            let mut room = self.log.reserve(map.spec.id, stream, change).map_err(Error::Log)?;
            self.prefetch_entry(place, &mut homes);
            if !is_filled {
                fill(&place.node.arena, slot, &parts, entry.value);
                is_filled = true;
            }
            self.log.write(&mut room, change);
            let locked = self.lock_stream(place);
            map.check()?;
            let position = L::position(&room);
            if position < locked.position() {
                continue;
            }
            let old = find_locked(&place.node.arena, place.table, homes, entry.key, &locked);
            let current = old.as_ref().map(|(_, view)| view).filter(|view| !self.is_expired(view));
            if !condition.holds(current) {
                return Ok(Done::Refused);
            }
            let seq = locked.next_seq(stream)?;
            if !self.log.admits(seq) {
                drop((locked, room));
                self.log.wait_to_admit(seq).map_err(Error::Log)?;
                continue;
            }
            write_seq(&place.node.arena, slot.location, seq);
            let new = Word::entry(tag_of(hash), seq, slot.location);
            let slot_bytes = slot.bytes;
            let live = (entry.key.len() + entry.value.len()) as u64;
            let retired = match old {
                Some((found, view)) => {
                    let is_as_long = live_bytes(&view) == live
                        && view.expiry_ms().is_some() == entry.expiry_ms.is_some();
                    let old_slot = if is_as_long && need <= u64::from(SLOT_MAX) {
                        slot_bytes
                    } else {
                        place.node.slot_bytes(&view)
                    };
                    place.table.replace((live_bytes(&view), old_slot), (live, slot_bytes));
                    place.table.publish(found.place, new);
                    Some((view.location(), old_slot))
                }
                None => {
                    let hash_of =
                        |location| hash_locked(&place.node.arena, &self.hash, location, &locked);
                    // Not by the homes of before: a put may have waited for the log since, without a pin.
                    let homes = place.table.homes(hash);
                    if let Err(wants) = place.table.insert(homes, new, &mut spare.spare, hash_of) {
                        drop((locked, room));
                        spare.take(wants).map_err(|bytes| self.capacity(place.node, bytes))?;
                        continue;
                    }
                    place.table.add(live, slot_bytes);
                    None
                }
            };
            let ticket = self.log.commit(room, seq);
            locked.set_seq(seq);
            locked.set_position(position);
            if retired.is_none() {
                self.grow(place, &mut spare.spare, &locked);
            }
            drop(locked);
            prepared.settle(retired);
            return Ok(Done::Put(ticket));
        }
    }

    /// Brings the lines in that a search starts with. Under a pin: the table may be cleared meanwhile.
    #[inline]
    pub(super) fn prefetch(&self, place: &Place<'_>, hash: u64) -> Homes {
        let _pin = self.pin();
        place.table.prefetch(hash)
    }

    /// Brings the line in of the entry that a key may have.
    #[inline]
    fn prefetch_entry(&self, place: &Place<'_>, homes: &mut Homes) {
        let _pin = self.pin();
        if let Some(word) = place.table.likely(homes) {
            place.node.arena.prefetch(word.location().offset());
        }
    }

    /// Splits a bucket of the table if one is due.
    pub(crate) fn grow(&self, place: &Place<'_>, spare: &mut Spare, locked: &Locked<'_>) {
        let arena = &place.node.arena;
        place.table.grow(spare, |location| hash_locked(arena, &self.hash, location, locked));
    }

    /// Refuses when memory of replaced values has reached its bound.
    pub(crate) fn may_retire(&self, node: &Node) -> Result<(), Error> {
        self.may_retire_bytes(node, 0)
    }

    /// The same for changes that leave so many bytes behind at once.
    pub(super) fn may_retire_bytes(&self, node: &Node, bytes: u64) -> Result<(), Error> {
        let age_ms = |since_ms: u64| self.clock.monotonic_ms().saturating_sub(since_ms);
        let passing =
            |pin: &OldestPin| pin.since_ms.is_none_or(|since_ms| age_ms(since_ms) < PASSING_MS);
        node.may_retire(bytes, passing).map_err(|oldest| Error::Unreclaimed {
            unreclaimed_bytes: node.unreclaimed_bytes().0,
            bound_bytes: node.unreclaimed_max_bytes(),
            oldest_pin_ms: oldest.and_then(|pin| pin.since_ms).map(age_ms),
        })
    }
}

/// Memory for a table's growth, given back when it was not needed.
pub(crate) struct Spares<'a> {
    node: &'a Node,
    /// Whether anything was ever taken.
    is_any: bool,
    pub(crate) spare: Spare,
}

impl<'a> Spares<'a> {
    /// None yet; it is taken before the stream's lock.
    pub(crate) fn new(node: &'a Node) -> Spares<'a> {
        Spares { node, is_any: false, spare: Spare::default() }
    }

    /// Takes what is wanted and not there yet; `Err` with the bytes that could not be had.
    #[inline]
    pub(crate) fn take(&mut self, wants: Wants) -> Result<(), u64> {
        if wants == Wants::default() {
            return Ok(());
        }
        self.take_wanted(wants)
    }

    #[cold]
    fn take_wanted(&mut self, wants: Wants) -> Result<(), u64> {
        self.is_any = true;
        let node = self.node;
        let take =
            |bytes: u64| node.take_index_memory(bytes, Holding::Nothing).map_err(|NoRoom| bytes);
        let spare = &mut self.spare;
        if wants.bucket_0 && spare.bucket_0.is_none() {
            spare.bucket_0 = Some(take(64)?);
        }
        if wants.overflow && spare.overflow.is_none() {
            spare.overflow = Some(take(64)?);
        }
        // What only growth needs may be missing: the table then grows at a later insert.
        if wants.directory && spare.directory.is_none() {
            spare.directory = take(512).ok();
        }
        if let Some(bytes) = wants.leaf
            && spare.leaf.is_none()
        {
            spare.leaf = take(bytes).ok().map(|offset| (bytes, offset));
        }
        if let Some(bytes) = wants.segment
            && spare.segment.is_none()
        {
            spare.segment = take(bytes).ok().map(|offset| (bytes, offset));
        }
        Ok(())
    }
}

impl Drop for Spares<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_any {
            return;
        }
        let spare = self.spare;
        let pairs = [spare.leaf, spare.segment].into_iter().flatten().map(|(_, offset)| offset);
        for offset in
            [spare.bucket_0, spare.overflow, spare.directory].into_iter().flatten().chain(pairs)
        {
            self.node.free_now(Location::from_offset(offset));
        }
    }
}
