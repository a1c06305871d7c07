//! Tables that were cleared: they wait for readers, then are taken apart a piece at a time.
//!
//! Invariant: what a table was made of is freed when every pin that was there when it was detached has ended;
//! a slot that a guard has published then waits for that guard alone. Each byte stays charged to the limit
//! until it is free, and is counted (`Stats::detached_bytes`). Tables wait in a list in the arena, oldest
//! first; one record of the list is always kept in reserve, so that a full store can be cleared.
//!
//! Callers: `clear.rs` (adds), every put and remove (a few buckets while there is any), `node.rs` (a put that
//! finds no memory), `Store::maintain`, `Store::sweep`, `Store::give_back`. Cost: as for freeing each entry,
//! some 50 ns; nothing while no table waits. `docs/memory.md` has the rules.

use std::sync::atomic::{AtomicU64, Ordering, Ordering::Relaxed};

use super::node::{Holding, NoRoom, Node};
use crate::arena::Arena;
use crate::ids::Location;
use crate::index::detach::Pieces;
use crate::index::word::BUCKET;
use crate::reclaim::pin::OldestPin;
use crate::slab::class::Class;
use crate::sync::{Mutex, lock, try_lock};

/// A record of the list: words of a slot, of which the first stays the slot's own.
pub(crate) const RECORD_BYTES: u64 = 80;
const NEXT: u64 = 8;
const EPOCH: u64 = 16;
const BUCKETS: u64 = 24;
const CURSOR: u64 = 32;
const BUCKET_0: u64 = 40;
const DIRECTORY: u64 = 48;
const STOCK: u64 = 56;
const BYTES: u64 = 64;

/// Buckets that a put or a remove takes apart while a table waits: more entries than it can add.
const BUCKETS_PER_CHANGE: u64 = 4;
/// Buckets that are taken apart at a time when memory is short, or by upkeep.
pub(crate) const BUCKETS_PER_ROUND: u64 = 4_096;
/// A look at all pins costs a system call: of the changes that find the oldest table not yet free of
/// readers, every so many take it.
const CHANGES_PER_LOOK: u32 = 64;

/// The cleared tables of a node.
pub(crate) struct DetachedQueue {
    state: Mutex<State>,
    tables: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct State {
    head: Option<Location>,
    tail: Option<Location>,
    reserve: Option<Location>,
    /// No pin is left of an epoch below this.
    free_below: u64,
    changes: u32,
    published: Vec<u64>,
}

/// What came of taking apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Something was freed.
    Some,
    /// No table waits, or another thread takes it apart.
    Nothing,
    /// Readers may still be in the oldest one.
    Blocked(Option<OldestPin>),
}

/// A record for a table that will be detached; given back when it is not.
pub(crate) struct Record<'a> {
    node: &'a Node,
    location: Option<Location>,
}

impl DetachedQueue {
    pub(crate) fn new() -> DetachedQueue {
        DetachedQueue {
            state: Mutex::new(State::default()),
            tables: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Whether a table waits.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        self.tables.load(Relaxed) != 0
    }

    /// Bytes of the tables that wait, their entries' slots included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Bytes of the record in reserve.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        if lock(&self.state).reserve.is_some() { record_bytes() } else { 0 }
    }
}

impl Node {
    /// Makes sure that a record is in reserve: before the first table that could need it.
    pub(crate) fn reserve_record(&self) -> Result<(), NoRoom> {
        if lock(&self.detached.state).reserve.is_some() {
            return Ok(());
        }
        let record = self.take_record()?;
        lock(&self.detached.state).keep(self, record);
        Ok(())
    }

    fn take_record(&self) -> Result<Location, NoRoom> {
        self.with_room(RECORD_BYTES, Holding::Nothing, || {
            let (_, mut lane) = self.lane();
            self.slabs.take(&self.arena, &mut lane, RECORD_BYTES)
        })
        .map(|slot| slot.location)
    }

    /// A record for a table that is to be cleared: from free memory, else the one in reserve.
    pub(crate) fn record(&self) -> Result<Record<'_>, NoRoom> {
        let location = match self.take_record() {
            Ok(location) => location,
            Err(NoRoom) => lock(&self.detached.state).reserve.take().ok_or(NoRoom)?,
        };
        Ok(Record { node: self, location: Some(location) })
    }

    /// The same for who must not wait for readers: other threads wait for what it has locked.
    pub(crate) fn record_at_once(&self) -> Result<Record<'_>, NoRoom> {
        loop {
            let taken = {
                let (_, mut lane) = self.lane();
                self.slabs.take(&self.arena, &mut lane, RECORD_BYTES)
            };
            let location = taken.map(|slot| slot.location);
            let location = location.or_else(|| lock(&self.detached.state).reserve.take());
            if location.is_some() {
                return Ok(Record { node: self, location });
            }
            if self.take_apart(BUCKETS_PER_ROUND) != Taken::Some {
                return Err(NoRoom);
            }
        }
    }

    /// Takes up to `buckets` buckets apart, if readers have left them.
    pub(crate) fn take_apart(&self, buckets: u64) -> Taken {
        let mut state = lock(&self.detached.state);
        self.take_apart_locked(&mut state, buckets)
    }

    /// Takes all tables apart that no reader can be in.
    pub(crate) fn take_all_apart(&self) {
        while self.take_apart(BUCKETS_PER_ROUND) == Taken::Some {}
    }

    /// What each change does while a table waits.
    #[cold]
    pub(crate) fn take_few_apart(&self) {
        let Some(mut state) = try_lock(&self.detached.state) else { return };
        let Some(head) = state.head else { return };
        let is_free = self.arena.word(head.offset() + EPOCH).load(Relaxed) < state.free_below;
        state.changes = state.changes.wrapping_add(1);
        if is_free || state.changes % CHANGES_PER_LOOK == 1 {
            self.take_apart_locked(&mut state, BUCKETS_PER_CHANGE);
        }
    }

    fn take_apart_locked(&self, state: &mut State, mut buckets: u64) -> Taken {
        let Some(mut head) = state.head else { return Taken::Nothing };
        let mut published = std::mem::take(&mut state.published);
        let mut is_collected = false;
        let taken = loop {
            let epoch = self.arena.word(head.offset() + EPOCH).load(Relaxed);
            if epoch >= state.free_below {
                let oldest = self.pins.oldest();
                let newest = state.tail.unwrap_or(head).offset() + EPOCH;
                let next_epoch = self.arena.word(newest).load(Relaxed) + 1;
                state.free_below = oldest.map_or(next_epoch, |pin| pin.epoch.min(next_epoch));
                if epoch >= state.free_below {
                    break if is_collected { Taken::Some } else { Taken::Blocked(oldest) };
                }
                // Guards were published under pins that have ended by now, so this sees them all.
                is_collected = false;
            }
            if !is_collected {
                self.hazards.collect(&mut published);
                is_collected = true;
            }
            buckets -= self.take_table_apart(state, head, buckets, &published).min(buckets);
            match state.head {
                Some(next) if buckets > 0 => head = next,
                _ => break Taken::Some,
            }
        };
        state.published = published;
        taken
    }

    /// Takes up to `most` buckets of a table apart; returns what that cost, at least 1.
    fn take_table_apart(
        &self,
        state: &mut State,
        record: Location,
        most: u64,
        published: &[u64],
    ) -> u64 {
        let arena = &self.arena;
        let word = |field: u64| arena.word(record.offset() + field);
        let field = |field: u64| word(field).load(Relaxed);
        let pieces = Pieces {
            buckets: field(BUCKETS),
            bucket_0: field(BUCKET_0),
            directory: field(DIRECTORY),
            stock: field(STOCK),
        };
        let from = field(CURSOR);
        let to = pieces.buckets.min(from + most);
        let mut freed_bytes = 0;
        let mut held = Vec::new();
        {
            let (_, mut lane) = self.lane();
            let mut free = |location: Location| self.slabs.put(arena, &mut lane, location);
            let ahead = to.min(from + BUCKETS_PER_CHANGE);
            (from..ahead).for_each(|bucket| prefetch_entries(arena, &pieces, bucket));
            for bucket in from..to {
                if bucket + BUCKETS_PER_CHANGE < to {
                    prefetch_entries(arena, &pieces, bucket + BUCKETS_PER_CHANGE);
                }
                pieces.for_each_entry(arena, bucket, |location| {
                    let bytes = self.slabs.slot_bytes(arena, location);
                    freed_bytes += bytes;
                    if published.binary_search(&location.0).is_ok() {
                        held.push((location, bytes));
                    } else {
                        free(location);
                    }
                });
                pieces.take_apart(arena, bucket, |place, bytes| {
                    freed_bytes += bytes;
                    free(Location::from_offset(place));
                });
            }
            if to == pieces.buckets {
                pieces.finish(arena, |place, _| free(Location::from_offset(place)));
            }
        }
        self.hold_back(&held);
        if to < pieces.buckets {
            let freed_bytes = freed_bytes.min(field(BYTES));
            word(CURSOR).store(to, Relaxed);
            word(BYTES).store(field(BYTES) - freed_bytes, Relaxed);
            self.detached.bytes.fetch_sub(freed_bytes, Relaxed);
            return to - from;
        }
        self.detached.bytes.fetch_sub(field(BYTES), Relaxed);
        let next = field(NEXT);
        state.head = (next != 0).then_some(Location(next));
        if next == 0 {
            state.tail = None;
        }
        state.keep(self, record);
        self.detached.tables.fetch_sub(1, Ordering::Relaxed);
        (to - from).max(1)
    }
}

impl State {
    /// Keeps a record in reserve, or frees it when there is one.
    fn keep(&mut self, node: &Node, record: Location) {
        if self.reserve.is_some() {
            node.free_now(record);
        } else {
            self.reserve = Some(record);
        }
    }
}

impl Record<'_> {
    /// Queues a table that was detached and held `slot_bytes` of entries and `overflow` overflow buckets.
    pub(crate) fn queue(mut self, pieces: &Pieces, slot_bytes: u64, overflow: u64) {
        let Some(record) = self.location.take() else { return };
        let (node, arena) = (self.node, &self.node.arena);
        let bytes = slot_bytes + pieces.bytes(arena) + overflow * BUCKET + record_bytes();
        let set =
            |field: u64, value: u64| arena.word(record.offset() + field).store(value, Relaxed);
        set(NEXT, 0);
        set(BUCKETS, pieces.buckets);
        set(CURSOR, 0);
        set(BUCKET_0, pieces.bucket_0);
        set(DIRECTORY, pieces.directory);
        set(STOCK, pieces.stock);
        set(BYTES, bytes);
        let mut state = lock(&node.detached.state);
        // Under the lock, so that the list is in the order of its epochs.
        set(EPOCH, node.pins.advance());
        match state.tail {
            Some(tail) => arena.word(tail.offset() + NEXT).store(record.0, Relaxed),
            None => state.head = Some(record),
        }
        state.tail = Some(record);
        node.detached.bytes.fetch_add(bytes, Relaxed);
        node.detached.tables.fetch_add(1, Relaxed);
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if let Some(record) = self.location.take() {
            lock(&self.node.detached.state).keep(self.node, record);
        }
    }
}

fn prefetch_entries(arena: &Arena, pieces: &Pieces, bucket: u64) {
    pieces.for_each_entry(arena, bucket, |location| arena.prefetch(location.offset()));
}

fn record_bytes() -> u64 {
    Class::of(RECORD_BYTES).map_or(0, |class| u64::from(class.slot_bytes()))
}
