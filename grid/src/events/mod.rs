//! Events: who is told what happened to a map, in which order, and by whom.
//!
//! Whoever changes a key queues what happened under the partition's lock, so that what is told of a key is
//! told in the order in which it happened; another thread tells it, so no code of a user runs under a lock.
//! An event is of memory alone: those that nobody was told of when a member stops are gone, and one that
//! finds the queue full is lost, which its listeners are told. A writer never waits for a listener.
//!
//! Called by `map/` for each change. Cost where nobody listens to a map: one look at an atomic.

mod lanes;
mod listeners;

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub(crate) use lanes::Lanes;
pub(crate) use listeners::{Audience, Listener, Listeners, Wish};

use crate::data::PartitionId;

/// How the listeners of a member are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventConfig {
    /// Threads that call listeners; 5 by default. What happens to one partition is told by one of them.
    pub threads: NonZeroUsize,
    /// How many events may wait for them, each thread's share for itself, at least one; 1,000,000 by default.
    /// Those beyond are lost. All maps of a member share this, so a listener that is slow may cost listeners
    /// of other maps events.
    pub queue_capacity: usize,
    /// How many bytes they may take, likewise; 64 MiB by default. An event that waits alone may be longer.
    pub queue_capacity_bytes: usize,
}

impl Default for EventConfig {
    fn default() -> EventConfig {
        EventConfig {
            threads: const { NonZeroUsize::new(5).unwrap() },
            queue_capacity: 1_000_000,
            queue_capacity_bytes: 64 << 20,
        }
    }
}

/// What happened to an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum EntryEventKind {
    /// It was put where there was none.
    Added,
    /// It was put where there was one.
    Updated,
    /// It was removed.
    Removed,
    /// It was evicted: it is gone, and the map's database, if there is one, was not told.
    Evicted,
    /// It was loaded from the map's database.
    Loaded,
}

/// A listener: never used twice by one process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ListenerId(pub(crate) u64);

/// What happened to an entry, in bytes: its key and the stored forms of its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EntryChange {
    pub(crate) kind: EntryEventKind,
    pub(crate) key: Box<[u8]>,
    /// Where somebody wants values: what the entry has now, and what it had before.
    pub(crate) value: Option<Box<[u8]>>,
    pub(crate) old: Option<Box<[u8]>>,
}

/// All entries of a partition are gone at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Emptied {
    pub(crate) partition: PartitionId,
    /// How many there were.
    pub(crate) entries: u64,
    /// Whether they were evicted; else cleared.
    pub(crate) is_evicted: bool,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    Entry(EntryChange),
    Emptied(Emptied),
}

/// What a listener is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told<'a> {
    Event(&'a Event),
    /// So many events were lost, after those that were told and before those that come.
    Lost(u64),
}

/// A listener's code.
pub(crate) type Tell = Arc<dyn Fn(Told<'_>) + Send + Sync>;

/// Lets go what may have a user's code in it, whose drop may panic. Under no lock.
pub(crate) fn let_go<T>(of_users: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(of_users))) {
        tracing::error!("a listener panicked when it was dropped");
        // It may have a drop of its own that panics.
        std::mem::forget(panic);
    }
}
