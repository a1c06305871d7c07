//! Who listens to a map.
//!
//! Invariant: a change that begins when `add` has returned is told, whoever makes it: `add` is followed by a
//! passage through every partition's lock (`MapCore::add_listener`). After `remove` has returned nothing more
//! begins to be told. Cost of a look: an atomic where nobody listens; else a step in a hash map for those
//! who listen to one key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::{EntryEventKind, ListenerId, Tell, Told};

/// Somebody who is told what happens.
pub(crate) struct Listener {
    pub(crate) id: ListenerId,
    /// The key it listens to; else it listens to all.
    key: Option<Box<[u8]>>,
    /// What it wants to be told of; else everything.
    kinds: Option<Box<[EntryEventKind]>>,
    wants_values: bool,
    tell: Tell,
    is_removed: AtomicBool,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("id", &self.id)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// What somebody wants to be told.
pub(crate) struct Wish {
    pub(crate) key: Option<Box<[u8]>>,
    pub(crate) kinds: Option<Box<[EntryEventKind]>>,
    pub(crate) wants_values: bool,
}

impl Listener {
    pub(crate) fn wants(&self, kind: EntryEventKind) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }

    /// Tells it something, unless it does not want it, or was removed. What its code panics with stays here.
    pub(crate) fn tell(&self, told: Told<'_>) {
        if matches!(told, Told::Entry(change) if !self.wants(change.kind))
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
#[derive(Debug, Default)]
pub(crate) struct Group {
    listeners: Vec<Arc<Listener>>,
    wants_values: bool,
}

/// Those who are to be told of a change.
#[derive(Clone, Debug)]
pub(crate) struct Audience {
    /// Those who listen to the key, and those who listen to all.
    groups: [Option<Arc<Group>>; 2],
}

impl Audience {
    fn of(groups: [Option<&Arc<Group>>; 2]) -> Option<Audience> {
        let groups = groups.map(|group| group.cloned());
        groups.iter().any(Option::is_some).then_some(Audience { groups })
    }

    pub(crate) fn wants_values(&self) -> bool {
        self.groups.iter().flatten().any(|group| group.wants_values)
    }

    /// Whether any of them wants to be told of this.
    pub(crate) fn wants(&self, kind: EntryEventKind) -> bool {
        self.listeners().any(|listener| listener.wants(kind))
    }

    pub(crate) fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.groups.iter().flatten().flat_map(|group| &group.listeners)
    }
}

/// All who listen to a map, as they are at one time.
#[derive(Debug, Default)]
struct Registry {
    by_key: HashMap<Box<[u8]>, Arc<Group>>,
    of_all: Option<Arc<Group>>,
}

impl Registry {
    fn new(listeners: &[Arc<Listener>]) -> Registry {
        let mut by_key: HashMap<Box<[u8]>, Group> = HashMap::new();
        let mut of_all = Group::default();
        for listener in listeners {
            let group = match &listener.key {
                Some(key) => by_key.entry(key.clone()).or_default(),
                None => &mut of_all,
            };
            group.wants_values |= listener.wants_values;
            group.listeners.push(Arc::clone(listener));
        }
        Registry {
            by_key: by_key.into_iter().map(|(key, group)| (key, Arc::new(group))).collect(),
            of_all: (!of_all.listeners.is_empty()).then(|| Arc::new(of_all)),
        }
    }
}

/// All who listen to a map.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// Whether there is anybody.
    are_there: AtomicBool,
    registry: ArcSwap<Registry>,
    /// Taken by who adds and removes.
    all: Mutex<Vec<Arc<Listener>>>,
    next: AtomicU64,
}

impl Listeners {
    /// Those who are to be told of a change of this key, if any.
    #[inline]
    pub(crate) fn of_key(&self, key: &[u8]) -> Option<Audience> {
        if !self.are_there.load(Ordering::Relaxed) {
            return None;
        }
        let registry = self.registry.load();
        Audience::of([registry.by_key.get(key), registry.of_all.as_ref()])
    }

    /// Those who listen to all keys, if any.
    pub(crate) fn of_all(&self) -> Option<Audience> {
        Audience::of([None, self.registry.load().of_all.as_ref()])
    }

    pub(crate) fn add(&self, wish: Wish, tell: Tell) -> ListenerId {
        let id = ListenerId(self.next.fetch_add(1, Ordering::Relaxed));
        let Wish { key, kinds, wants_values } = wish;
        let is_removed = AtomicBool::new(false);
        let listener = Arc::new(Listener { id, key, kinds, wants_values, tell, is_removed });
        self.change(|all| all.push(listener));
        id
    }

    /// Whether it was there.
    pub(crate) fn remove(&self, id: ListenerId) -> bool {
        self.remove_those(|listener| listener.id == id)
    }

    pub(crate) fn remove_all(&self) {
        self.remove_those(|_| true);
    }

    fn remove_those(&self, is_one: impl Fn(&Listener) -> bool) -> bool {
        let mut removed = Vec::new();
        self.change(|all| {
            removed = all.extract_if(.., |listener| is_one(listener)).collect();
            for listener in &removed {
                listener.is_removed.store(true, Ordering::Release);
            }
        });
        // A user's code is dropped under no lock.
        !removed.is_empty()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Listener>>)) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut all);
        let before = self.registry.swap(Arc::new(Registry::new(&all)));
        self.are_there.store(!all.is_empty(), Ordering::Relaxed);
        drop(all);
        drop(before);
    }
}
