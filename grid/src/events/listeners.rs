//! Who listens to a map.
//!
//! Invariants: a change that begins when `add` has returned is told, whoever makes it: `add` is followed by a
//! passage through every partition's lock (`MapCore::add_listener`). After `remove` has returned nothing more
//! begins to be told. Who is asked for is asked for under the partition's lock alone, so what `remove`
//! returns, dropped after such a passage, has its user's code dropped under no partition's lock.
//!
//! Cost of a look: an atomic where nobody listens; where somebody listens to one key, a lock that nobody
//! else wants, and a step in a hash map. Registering costs what listens to the same already.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;

use super::{EntryEventKind, Event, ListenerId, Tell, Told};
use crate::data::PartitionId;

/// Somebody who is told what happens.
pub(crate) struct Listener {
    id: ListenerId,
    /// What it wants to be told of; else everything.
    kinds: Option<Box<[EntryEventKind]>>,
    wants_values: bool,
    tell: Tell,
    is_removed: AtomicBool,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key, with its partition.
pub(crate) type OwnKey = (PartitionId, Box<[u8]>);

/// What somebody wants to be told.
pub(crate) struct Wish {
    /// Of this key; else of all.
    pub(crate) key: Option<OwnKey>,
    pub(crate) kinds: Option<Box<[EntryEventKind]>>,
    pub(crate) wants_values: bool,
}

impl Listener {
    fn wants_kind(&self, kind: EntryEventKind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }

    pub(crate) fn wants(&self, event: &Event) -> bool {
        match event {
            Event::Entry(change) => self.wants_kind(change.kind),
            Event::Emptied(_) => true,
        }
    }

    /// Tells it something, unless it does not want it, or was removed. What its code panics with stays here.
    pub(crate) fn tell(&self, told: Told<'_>) {
        if matches!(told, Told::Event(event) if !self.wants(event))
            || self.is_removed.load(Ordering::Acquire)
        {
            return;
        }
        let tell = std::panic::AssertUnwindSafe(|| (self.tell)(told));
        if std::panic::catch_unwind(tell).is_err() {
            tracing::error!(
                listener = self.id.0,
                "a listener panicked; it goes on with the next event"
            );
        }
    }
}

/// Those who listen to the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    listeners: Vec<Arc<Listener>>,
    wants_values: bool,
}

impl Group {
    fn of(listeners: impl Iterator<Item = Arc<Listener>>) -> Option<Arc<Group>> {
        let listeners: Vec<_> = listeners.collect();
        let wants_values = listeners.iter().any(|listener| listener.wants_values);
        (!listeners.is_empty()).then(|| Arc::new(Group { listeners, wants_values }))
    }

    fn with(group: Option<&Arc<Group>>, listener: &Arc<Listener>) -> Option<Arc<Group>> {
        let there = group.iter().flat_map(|group| &group.listeners);
        Group::of(there.chain([listener]).cloned())
    }

    fn without(group: Option<&Arc<Group>>, id: ListenerId) -> Option<Arc<Group>> {
        let there = group.iter().flat_map(|group| &group.listeners);
        Group::of(there.filter(|listener| listener.id != id).cloned())
    }
}

/// Those who are to be told of a change.
#[derive(Clone, Debug)]
pub(crate) struct Audience {
    /// Those who listen to the key, and those who listen to all.
    groups: [Option<Arc<Group>>; 2],
}

impl Audience {
    fn of(groups: [Option<Arc<Group>>; 2]) -> Option<Audience> {
        groups.iter().any(Option::is_some).then_some(Audience { groups })
    }

    pub(crate) fn wants_values(&self) -> bool {
        self.groups.iter().flatten().any(|group| group.wants_values)
    }

    /// Whether any of them wants to be told of this.
    pub(crate) fn wants(&self, kind: EntryEventKind) -> bool {
        self.listeners().any(|listener| listener.wants_kind(kind))
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.groups.iter().flatten().flat_map(|group| &group.listeners)
    }
}

/// A listener, and the key that it listens to; else all.
type Registered = (Arc<Listener>, Option<OwnKey>);

/// Who listens to one key, by the key.
type Keys = HashMap<Box<[u8]>, Arc<Group>>;

/// All who listen to a map.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// Whether there is anybody.
    are_there: AtomicBool,
    of_all: ArcSwapOption<Group>,
    /// For each partition; made when the first listens to one key.
    of_keys: OnceLock<Box<[Mutex<Keys>]>>,
    partition_count: u32,
    /// All of them, with the key each listens to. Taken by who adds and removes.
    all: Mutex<BTreeMap<ListenerId, Registered>>,
}

/// Listeners that nobody is told of any more, to be dropped where a user's code may run.
#[derive(Debug, Default)]
#[must_use = "dropped under no lock"]
pub(crate) struct Removed {
    listeners: Vec<Arc<Listener>>,
    groups: Vec<Arc<Group>>,
}

impl Removed {
    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Listeners {
    pub(crate) fn new(partition_count: u32) -> Listeners {
        Listeners {
            are_there: AtomicBool::new(false),
            of_all: ArcSwapOption::empty(),
            of_keys: OnceLock::new(),
            partition_count,
            all: Mutex::default(),
        }
    }

    /// Whether anybody listens.
    #[inline]
    pub(crate) fn are_there(&self) -> bool {
        self.are_there.load(Ordering::Relaxed)
    }

    /// Those who are to be told of a change of this key, if any; under the lock of its partition.
    #[inline]
    pub(crate) fn of_key(&self, partition: PartitionId, key: &[u8]) -> Option<Audience> {
        if !self.are_there() {
            return None;
        }
        let of_one = self.keys(partition).and_then(|keys| keys.get(key).cloned());
        Audience::of([of_one, self.of_all.load_full()])
    }

    /// Those who listen to all keys, if any; under the lock of the partition that it is about.
    pub(crate) fn of_all(&self) -> Option<Audience> {
        Audience::of([None, self.of_all.load_full()])
    }

    /// The keys of a partition to which somebody listens, with those who do; under its lock.
    pub(crate) fn of_keys(&self, partition: PartitionId) -> Vec<(Box<[u8]>, Audience)> {
        let keys = self.keys(partition);
        let each = keys.iter().flat_map(|keys| keys.iter());
        each.map(|(key, group)| {
            let groups = [Some(Arc::clone(group)), None];
            (key.clone(), Audience { groups })
        })
        .collect()
    }

    fn keys(&self, partition: PartitionId) -> Option<MutexGuard<'_, Keys>> {
        let keys = &self.of_keys.get()?[partition.0 as usize];
        Some(keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn add(&self, wish: Wish, tell: Tell) -> ListenerId {
        let id = ListenerId(NEXT.fetch_add(1, Ordering::Relaxed));
        let Wish { key, kinds, wants_values } = wish;
        let is_removed = AtomicBool::new(false);
        let listener = Arc::new(Listener { id, kinds, wants_values, tell, is_removed });
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        match &key {
            None => {
                let group = Group::with(self.of_all.load().as_ref(), &listener);
                self.of_all.store(group);
            }
            Some((partition, key)) => {
                let make = || (0..self.partition_count).map(|_| Mutex::default()).collect();
                self.of_keys.get_or_init(make);
                let mut keys = self.keys(*partition).expect("made above");
                let group = Group::with(keys.get(key), &listener).expect("of one at least");
                keys.insert(key.clone(), group);
            }
        }
        all.insert(id, (listener, key));
        self.are_there.store(true, Ordering::Relaxed);
        id
    }

    /// Has nothing more be told to a listener.
    pub(crate) fn remove(&self, id: ListenerId) -> Removed {
        let mut removed = Removed::default();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = all.remove(&id) {
            self.take_out(one, &mut removed);
        }
        self.are_there.store(!all.is_empty(), Ordering::Relaxed);
        removed
    }

    pub(crate) fn remove_all(&self) -> Removed {
        let mut removed = Removed::default();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for one in std::mem::take(&mut *all).into_values() {
            self.take_out(one, &mut removed);
        }
        self.are_there.store(false, Ordering::Relaxed);
        removed
    }

    fn take_out(&self, (listener, key): Registered, removed: &mut Removed) {
        listener.is_removed.store(true, Ordering::Release);
        match &key {
            None => {
                let group = Group::without(self.of_all.load().as_ref(), listener.id);
                removed.groups.extend(self.of_all.swap(group));
            }
            Some((partition, key)) => {
                let mut keys = self.keys(*partition).expect("made when it was added");
                let group = Group::without(keys.get(key), listener.id);
                removed.groups.extend(keys.remove(key));
                group.map(|group| keys.insert(key.clone(), group));
            }
        }
        removed.listeners.push(listener);
    }
}
