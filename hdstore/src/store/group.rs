//! Groups: several changes of one stream, all or none of them.
//!
//! The order is that of a put (`put.rs`), with everything that may fail or wait before the first thing that
//! anybody sees. Before the stream's lock: lengths, a look at every key, slots, a promise of retirement for
//! each change, memory for each key that may be new (`stock.rs`), one room in the log for all records. Under
//! the lock, first what may still refuse or start over: dropped maps, the room's place, seqs, how many keys
//! are new, the conditions. Then, and nothing of this fails: each change in its order with a seq of its own,
//! the log's one step that completes all records, growth. After it: what was replaced is retired.
//!
//! Invariant: until the first word is published nothing has changed, and from then on everything will be.
//! Readers see each key as it was or as it is, one by one: no view over a group is promised. What a key's
//! earlier change in the group did is there for the later one, and may be seen for a moment.
//!
//! Cost under the lock: that of as many puts, at most [`GROUP_CHANGES_MAX`]; no allocation, no system call,
//! no copy. `docs/decisions/0016-a-group-is-one-room.md` has the reasons.

use std::borrow::Cow;

use super::access::{Locked, fill, find_locked, find_pinned, hash_locked, live_bytes, need};
use super::node::{Holding, NoRoom, Node, Prepared};
use super::put::{Condition, Done};
use super::stock::Stock;
use super::{Inner, MapCore, Place};
use crate::clock::Clock;
use crate::entry::view::{EntryParts, EntryView, write_seq};
use crate::error::Error;
use crate::ids::{Location, MapId, Seq, StreamId};
use crate::index::table::Homes;
use crate::index::word::{Word, tag_of};
use crate::log::{Change, Log};
use crate::slab::batch::BATCH_BYTES;

/// Changes and conditions of a group, at most: so long may others of the stream have to wait for it.
pub const GROUP_CHANGES_MAX: usize = 256;

/// A key of a map.
pub(crate) struct KeyOf<'a, L: Log> {
    pub(crate) map: &'a MapCore<L>,
    pub(crate) key: Cow<'a, [u8]>,
}

/// One change of a group.
pub(crate) struct GroupChange<'a, L: Log> {
    pub(crate) of: KeyOf<'a, L>,
    /// Value and expiry; none if the key is removed.
    pub(crate) value: Option<(Cow<'a, [u8]>, Option<u64>)>,
}

/// What must hold of a key before a group, or none of it is done.
pub(crate) struct GroupCondition<'a, L: Log> {
    pub(crate) of: KeyOf<'a, L>,
    pub(crate) condition: Condition<'a>,
}

/// What a group did: for each change whether its key was there; nothing to wait for when it left no record.
pub(crate) type GroupDone<T> = (Vec<bool>, Option<T>);

/// Where a key of a group is looked for.
struct Target<'n> {
    place: Place<'n>,
    hash: u64,
    homes: Homes,
}

/// What the changes of a group have been given before the lock, and what became of each.
struct Work<'n> {
    prepared: Vec<Prepared<'n>>,
    /// What is retired afterwards, by change.
    retired: Vec<Option<(Location, u64)>>,
    seqs: Vec<Option<Seq>>,
    was_there: Vec<bool>,
    stock: Stock<'n>,
}

impl<L: Log> GroupChange<'_, L> {
    fn need(&self) -> Option<u64> {
        let (value, expiry_ms) = self.value.as_ref()?;
        Some(need(&self.of.key, value.len() as u64, *expiry_ms))
    }

    fn for_log(&self) -> (MapId, Change<'_>) {
        let key = &*self.of.key;
        let change = match &self.value {
            Some((value, expiry_ms)) => Change::Entry { key, value, expiry_ms: *expiry_ms },
            None => Change::Absence { key },
        };
        (self.of.map.spec.id, change)
    }
}

impl<L: Log> Inner<L> {
    /// Makes all changes of a group, in their order, or none. What their keys are in must be of the stream.
    pub(crate) fn change_group(
        &self,
        stream: StreamId,
        changes: &[GroupChange<'_, L>],
        conditions: &[GroupCondition<'_, L>],
    ) -> Result<Done<GroupDone<L::Ticket>>, Error> {
        self.check_group(stream, changes, conditions)?;
        let mut targets: Vec<Target<'_>> =
            changes.iter().map(|change| self.target(stream, &change.of)).collect();
        let asked: Vec<Target<'_>> =
            conditions.iter().map(|condition| self.target(stream, &condition.of)).collect();
        let Some(node) = targets.iter().chain(&asked).map(|target| target.place.node).next() else {
            return Ok(Done::Put((Vec::new(), None)));
        };
        let look = self.look_before(node, changes, &mut targets);
        if !node.has_room_to_retire_bytes(look.replaced_bytes) {
            self.may_retire_bytes(node, look.replaced_bytes)?;
        }
        let mut work = self.prepare_group(node, changes, &targets)?;
        let mut inserts = look.inserts;
        work.stock.take_for_inserts(inserts).map_err(|bytes| self.capacity(node, bytes))?;
        for (index, target) in targets.iter().enumerate() {
            let table = target.place.table;
            let is_first = targets[..index].iter().all(|other| !other.place.table.is(&table));
            if is_first && inserts > 0 {
                table.wants_of_growth(inserts as u64, |bytes| work.stock.take_for_growth(bytes));
            }
        }
        let for_log: Vec<_> = changes.iter().map(GroupChange::for_log).collect();
        loop {
            work.stock.take_for_inserts(inserts).map_err(|bytes| self.capacity(node, bytes))?;
            let mut room = match for_log.is_empty() {
                true => None,
                false => Some(self.log.reserve_group(stream, &for_log).map_err(Error::Log)?),
            };
            let locked = self.lock_head(stream);
            changes.iter().try_for_each(|change| change.of.map.check())?;
            conditions.iter().try_for_each(|condition| condition.of.map.check())?;
            let position = room.as_ref().map_or(0, L::group_position);
            if room.is_some() && position < locked.position() {
                continue;
            }
            let now_ms = self.clock.wall_ms();
            if !holds(node, conditions, &asked, now_ms, &locked) {
                return Ok(Done::Refused);
            }
            inserts = inserts_at_most(changes, &targets, |Target { place, homes, .. }, key| {
                find_locked(&node.arena, place.table, *homes, key, &locked).is_none()
            });
            if inserts > work.stock.inserts() {
                continue;
            }
            let first = locked.next_seq(stream)?;
            let last = Seq(first.0 + changes.len().saturating_sub(1) as u64);
            if last > Seq::MAX {
                return Err(Error::SeqExhausted { stream: stream.0, seq: locked.seq().0 });
            }
            if !self.log.admits(last) {
                drop((locked, room));
                self.log.wait_to_admit(last).map_err(Error::Log)?;
                continue;
            }
            // From here on nothing fails, and nobody's code runs.
            let last = self.apply_group(&locked, changes, &targets, now_ms, &mut work);
            let mut ticket = None;
            if let (Some(room), Some(last)) = (&mut room, last) {
                ticket = Some(self.log.commit_group(room, &work.seqs));
                locked.set_seq(last);
                locked.set_position(position);
            }
            drop(locked);
            let Work { prepared, retired, was_there, .. } = work;
            prepared.into_iter().zip(retired).for_each(|(each, retired)| each.settle(retired));
            return Ok(Done::Put((was_there, ticket)));
        }
    }

    fn check_group(
        &self,
        stream: StreamId,
        changes: &[GroupChange<'_, L>],
        conditions: &[GroupCondition<'_, L>],
    ) -> Result<(), Error> {
        self.check_stream(stream)?;
        let found = changes.len() + conditions.len();
        if found > GROUP_CHANGES_MAX {
            return Err(Error::GroupTooLong { found, max: GROUP_CHANGES_MAX });
        }
        for change in changes {
            let value_len = change.value.as_ref().map_or(0, |(value, _)| value.len() as u64);
            self.check_lengths(&change.of.key, value_len)?;
            change.of.map.check()?;
        }
        for condition in conditions {
            self.check_lengths(&condition.of.key, 0)?;
            condition.of.map.check()?;
        }
        self.log.check().map_err(Error::Log)
    }

    fn target(&self, stream: StreamId, of: &KeyOf<'_, L>) -> Target<'_> {
        let (hash, place) = (self.hash.of(&of.key), self.place(of.map, stream));
        let homes = self.prefetch(&place, hash);
        Target { place, hash, homes }
    }

    /// Looks at every key without the lock: brings in what is far away, and says what will be needed.
    fn look_before(
        &self,
        node: &Node,
        changes: &[GroupChange<'_, L>],
        targets: &mut [Target<'_>],
    ) -> Look {
        let pin = self.pin();
        for target in &mut *targets {
            if let Some(word) = target.place.table.likely(&mut target.homes) {
                node.arena.prefetch(word.location().offset());
            }
        }
        let mut replaced_bytes = 0;
        let inserts = inserts_at_most(changes, targets, |Target { place, homes, .. }, key| {
            let old = find_pinned(&node.arena, place.table, *homes, key, &pin);
            replaced_bytes += old.as_ref().map_or(0, |view| node.slot_bytes(view));
            old.is_none()
        });
        Look { replaced_bytes, inserts }
    }

    /// Takes a slot for each value, and fills it; and promises a retirement for each change.
    fn prepare_group<'n>(
        &self,
        node: &'n Node,
        changes: &[GroupChange<'_, L>],
        targets: &[Target<'n>],
    ) -> Result<Work<'n>, Error> {
        let count = changes.len();
        let mut prepared = Vec::with_capacity(count);
        for change in changes {
            let need = change.need();
            let each = node
                .prepare(need, Holding::Nothing)
                .map_err(|NoRoom| self.capacity(node, need.unwrap_or(BATCH_BYTES)))?;
            if let (Some(slot), Some((value, expiry_ms))) = (each.slot(), &change.value) {
                let (key, value_len) = (&*change.of.key, value.len() as u64);
                let parts = EntryParts { key, value_len, expiry_ms: *expiry_ms };
                fill(&node.arena, slot, &parts, value);
            }
            prepared.push(each);
        }
        debug_assert_eq!(targets.len(), count);
        Ok(Work {
            prepared,
            retired: vec![None; count],
            seqs: vec![None; count],
            was_there: vec![false; count],
            stock: Stock::new(node),
        })
    }

    /// Makes the changes. Returns the last seq that was given, if any.
    fn apply_group(
        &self,
        locked: &Locked<'_>,
        changes: &[GroupChange<'_, L>],
        targets: &[Target<'_>],
        now_ms: u64,
        work: &mut Work<'_>,
    ) -> Option<Seq> {
        let mut last = None;
        for (index, (change, target)) in changes.iter().zip(targets).enumerate() {
            let Target { place, hash, homes } = target;
            let (node, arena, table) = (place.node, &place.node.arena, place.table);
            let seq = Seq(last.unwrap_or(locked.seq()).0 + 1);
            let old = find_locked(arena, table, *homes, &change.of.key, locked);
            work.was_there[index] = old.as_ref().is_some_and(|(_, view)| is_alive(view, now_ms));
            let old = old.map(|(found, view)| {
                (found.place, view.location(), live_bytes(&view), node.slot_bytes(&view))
            });
            let retired = old.map(|(_, location, _, bytes)| (location, bytes));
            let Some(slot) = work.prepared[index].slot() else {
                let Some((at, _, old_live, old_slot)) = old else { continue };
                table.sub(old_live, old_slot);
                table.publish(at, Word::EMPTY);
                (work.retired[index], work.seqs[index], last) = (retired, Some(seq), Some(seq));
                continue;
            };
            write_seq(arena, slot.location, seq);
            let value_len = change.value.as_ref().map_or(0, |(value, _)| value.len());
            let live = (change.of.key.len() + value_len) as u64;
            let slot_bytes = slot.bytes;
            let new = Word::entry(tag_of(*hash), seq, slot.location);
            match old {
                Some((at, _, old_live, old_slot)) => {
                    table.replace((old_live, old_slot), (live, slot_bytes));
                    table.publish(at, new);
                }
                None => {
                    let hash_of = |location| hash_locked(arena, &self.hash, location, locked);
                    work.stock.insert(table, |spare| {
                        table.insert(table.homes(*hash), new, spare, hash_of)
                    });
                    table.add(live, slot_bytes);
                    work.stock.grow(table, |spare| self.grow(place, spare, locked));
                }
            }
            (work.retired[index], work.seqs[index], last) = (retired, Some(seq), Some(seq));
        }
        last
    }
}

/// What a look at the keys of a group has found.
struct Look {
    /// Bytes of slots that it will replace.
    replaced_bytes: u64,
    /// Keys that it will add.
    inserts: usize,
}

fn is_alive(view: &EntryView<'_>, now_ms: u64) -> bool {
    view.expiry_ms().is_none_or(|expiry_ms| expiry_ms > now_ms)
}

/// Whether all conditions hold.
fn holds<L: Log>(
    node: &Node,
    conditions: &[GroupCondition<'_, L>],
    asked: &[Target<'_>],
    now_ms: u64,
    locked: &Locked<'_>,
) -> bool {
    conditions.iter().zip(asked).all(|(condition, Target { place, homes, .. })| {
        let found = find_locked(&node.arena, place.table, *homes, &condition.of.key, locked);
        let view = found.map(|(_, view)| view).filter(|view| is_alive(view, now_ms));
        condition.condition.holds(view.as_ref())
    })
}

/// How many keys the group may add: those that it puts and that are not there, and those that it removes,
/// since it may put them again. What `is_new` says is asked once of each.
fn inserts_at_most<'n, L: Log>(
    changes: &[GroupChange<'_, L>],
    targets: &[Target<'n>],
    mut is_new: impl FnMut(&Target<'n>, &[u8]) -> bool,
) -> usize {
    let (mut inserts, mut puts) = (0, 0);
    for (change, target) in changes.iter().zip(targets) {
        let is_put = change.value.is_some();
        let is_new = is_new(target, &change.of.key);
        inserts += usize::from(is_new == is_put);
        puts += usize::from(is_put);
    }
    inserts.min(puts)
}
