//! What is told of changes, in bytes: queued by the change itself, under its partition's lock; see
//! [`crate::events`].
//!
//! Invariants: what readers see is told, and nothing else is: also what a change did that failed since nobody
//! knows whether the log keeps it. What goes with all of a partition is told in the partition's order, once
//! for all who listen to all keys, and as its own removal to who listens to one.

use std::sync::atomic::Ordering;

use super::core::MapCore;
use super::op::{Fate, Going, Kind, Op, Value};
use crate::data::PartitionId;
use crate::error::MapError;
use crate::events::{
    Audience, Emptied, EntryChange, EntryEventKind, Event, ListenerId, Tell, Wish, let_go,
};
use crate::partition::Locked;
use crate::stats::Counted;

/// A partition before it is emptied: how many entries it has, and those of them to whose key somebody
/// listens.
pub(super) struct Before {
    entries: u64,
    heard: Vec<(EntryChange, Audience)>,
}

impl MapCore {
    /// From when this returns on each change that begins is told.
    pub(super) fn add_listener(&self, wish: Wish, tell: Tell) -> Result<ListenerId, MapError> {
        let id = self.listeners.add(wish, tell);
        if self.is_gone.load(Ordering::Acquire) {
            self.remove_listener(id);
            return Err(self.gone());
        }
        self.pass_partitions();
        Ok(id)
    }

    /// Has nothing more be told to a listener. Whether it was there.
    pub(super) fn remove_listener(&self, id: ListenerId) -> bool {
        let removed = self.listeners.remove(id);
        let was_there = !removed.is_empty();
        if was_there {
            // Whoever has it in hand has a partition's lock, or is one of those who tell.
            self.pass_partitions();
        }
        let_go(removed);
        was_there
    }

    /// The same of all listeners.
    pub(crate) fn remove_listeners(&self) {
        let removed = self.listeners.remove_all();
        self.pass_partitions();
        let_go(removed);
    }

    /// Who is to be told when an operation changes a key.
    #[inline]
    pub(super) fn audience(
        &self,
        (partition, key): (PartitionId, &[u8]),
        op: &Op<'_>,
    ) -> Option<Audience> {
        match op.kind {
            Kind::SetTtl(_) => None,
            Kind::Put { .. } | Kind::Load(_) | Kind::Remove(_) => {
                self.listeners.of_key(partition, key)
            }
        }
    }

    /// Queues what an operation has made of a key: whether it is done, which nobody knows after an error.
    #[cold]
    pub(super) fn tell(
        &self,
        locked: &Locked<'_>,
        key: &[u8],
        (fate, op, is_done): (Fate<'_>, &Op<'_>, Option<bool>),
        (was_there, old): (bool, Option<&[u8]>),
        audience: Audience,
    ) {
        let (kind, value) = match fate {
            Fate::Put { value: Value::New(value), .. } => {
                let kind = match (op.kind, was_there) {
                    (Kind::Load(_), _) => EntryEventKind::Loaded,
                    (_, true) => EntryEventKind::Updated,
                    (_, false) => EntryEventKind::Added,
                };
                (kind, Some(value.stored()))
            }
            Fate::Remove => (gone(op.kind == Kind::Remove(Going::Evicted)), None),
            Fate::Put { value: Value::Old, .. } | Fate::Refused => return,
        };
        let is_visible = || match self.read(key, |seen| Ok(Some(seen.value) == value)) {
            Ok(Some(is_same)) => is_same,
            Ok(None) => value.is_none() && was_there,
            Err(_) => false,
        };
        if audience.wants(kind) && is_done.unwrap_or_else(is_visible) {
            let copy =
                |value: Option<&[u8]>| value.filter(|_| audience.wants_values()).map(Box::from);
            let change = EntryChange { kind, key: key.into(), value: copy(value), old: copy(old) };
            self.queue(locked, Event::Entry(change), audience);
        }
    }

    /// What is to be known of a partition before it is emptied, where anybody listens.
    pub(super) fn before_emptied(
        &self,
        locked: &Locked<'_>,
        going: Going,
    ) -> Result<Option<Before>, MapError> {
        if !self.listeners.are_there() {
            return Ok(None);
        }
        let partition = locked.partition();
        let kind = gone(going == Going::Evicted);
        let mut heard = Vec::new();
        for (key, audience) in self.listeners.of_keys(partition) {
            let copy = |value: &[u8]| audience.wants_values().then(|| Box::from(value));
            if audience.wants(kind)
                && let Some(old) = self.read(&key, |seen| Ok(copy(seen.value)))?
            {
                heard.push((EntryChange { kind, key, value: None, old }, audience));
            }
        }
        Ok(Some(Before { entries: self.part(partition).len(), heard }))
    }

    /// Queues that a partition is empty: how many entries are gone, which nobody knows after an error.
    pub(super) fn tell_emptied(
        &self,
        locked: &Locked<'_>,
        going: Going,
        before: Option<Before>,
        gone: Option<u64>,
    ) {
        let Some(Before { entries, heard }) = before else { return };
        let partition = locked.partition();
        let is_empty = || self.part(partition).is_empty();
        let entries = gone.unwrap_or_else(|| if is_empty() { entries } else { 0 });
        if entries == 0 {
            return;
        }
        for (change, audience) in heard {
            self.queue(locked, Event::Entry(change), audience);
        }
        if let Some(audience) = self.listeners.of_all() {
            let is_evicted = going == Going::Evicted;
            self.queue(
                locked,
                Event::Emptied(Emptied { partition, entries, is_evicted }),
                audience,
            );
        }
    }

    fn queue(&self, locked: &Locked<'_>, event: Event, audience: Audience) {
        if self.lanes.push(locked.partition(), event, audience) {
            self.counts.count(Counted::Event);
        }
    }
}

fn gone(is_evicted: bool) -> EntryEventKind {
    if is_evicted { EntryEventKind::Evicted } else { EntryEventKind::Removed }
}
