//! Listeners, typed: what they ask for, and what they are told.

use std::marker::PhantomData;
use std::sync::Arc;

use super::Map;
use super::core::MapCore;
use crate::data::{DataRef, PartitionId, Serial};
use crate::error::MapError;
use crate::events::{Emptied, EntryChange, EntryEventKind, Event, ListenerId, Told, Wish};

/// What a listener is told.
#[non_exhaustive]
pub enum MapEvent<'a, K: Serial, V: Serial> {
    /// Something happened to an entry.
    Entry(EntryEvent<'a, K, V>),
    /// [`Map::clear`] removed all entries of a partition at once; nothing is told of them one by one.
    Cleared {
        /// The partition: [`Map::partition_of`] says which keys those were.
        partition: PartitionId,
        /// How many there were.
        entries: u64,
    },
    /// [`Map::evict_all`] removed all entries of a partition at once, likewise.
    EvictedAll {
        /// The partition.
        partition: PartitionId,
        /// How many there were.
        entries: u64,
    },
    /// More events waited for listeners than may wait, and so many of those that this one asked for are lost:
    /// after what it was told of the keys concerned, and before what it will be. A filter was not asked about
    /// them.
    Lost {
        /// How many.
        events: u64,
    },
}

impl<K: Serial, V: Serial> std::fmt::Debug for MapEvent<'_, K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MapEvent::Entry(event) => f.debug_tuple("Entry").field(event).finish(),
            MapEvent::Cleared { partition, entries } => {
                f.debug_tuple("Cleared").field(partition).field(entries).finish()
            }
            MapEvent::EvictedAll { partition, entries } => {
                f.debug_tuple("EvictedAll").field(partition).field(entries).finish()
            }
            MapEvent::Lost { events } => write!(f, "Lost({events})"),
        }
    }
}

/// What happened to an entry. Key and values are read when they are asked for.
pub struct EntryEvent<'a, K: Serial, V: Serial> {
    change: &'a EntryChange,
    /// Whether it has the values that others may have asked for.
    has_values: bool,
    map: &'a str,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Serial, V: Serial> std::fmt::Debug for EntryEvent<'_, K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EntryEvent").field("kind", &self.kind()).finish_non_exhaustive()
    }
}

impl<K: Serial, V: Serial> EntryEvent<'_, K, V> {
    /// What happened.
    #[doc(alias = "getEventType")]
    pub fn kind(&self) -> EntryEventKind {
        self.change.kind
    }

    /// The key.
    ///
    /// # Errors
    /// [`MapError::Data`] for bytes of another type.
    #[doc(alias = "getKey")]
    pub fn key(&self) -> Result<K::Owned, MapError> {
        self.read::<K>(&self.change.key)
    }

    /// The value that the entry has after what happened; `None` where it has none, and where the listener
    /// did not ask for values.
    ///
    /// # Errors
    /// [`MapError::Data`] for bytes of another type.
    #[doc(alias = "getValue")]
    pub fn value(&self) -> Result<Option<V::Owned>, MapError> {
        self.read_value(self.change.value.as_deref())
    }

    /// The value that the entry had before, likewise.
    ///
    /// # Errors
    /// [`MapError::Data`] for bytes of another type.
    #[doc(alias = "getOldValue")]
    pub fn old_value(&self) -> Result<Option<V::Owned>, MapError> {
        self.read_value(self.change.old.as_deref())
    }

    fn read_value(&self, stored: Option<&[u8]>) -> Result<Option<V::Owned>, MapError> {
        stored.filter(|_| self.has_values).map(|value| self.read::<V>(value)).transpose()
    }

    fn read<T: Serial>(&self, stored: &[u8]) -> Result<T::Owned, MapError> {
        let read = DataRef::from_stored(stored).and_then(T::read);
        read.map_err(|source| MapError::Data { map: self.map.to_owned(), source })
    }
}

/// Which of an entry's events a listener wants.
type Filter<K, V> = Box<dyn Fn(&EntryEvent<'_, K, V>) -> bool + Send + Sync>;

/// What a listener wants to be told, before it is registered; made by [`Map::listen`].
#[must_use = "nobody listens until `register` is called"]
pub struct Listen<'a, K: Serial, V: Serial> {
    core: &'a Arc<MapCore>,
    wish: Wish,
    is_told_values: bool,
    filter: Option<Filter<K, V>>,
}

impl<K: Serial, V: Serial> std::fmt::Debug for Listen<'_, K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listen").field("map", &self.core.name).finish_non_exhaustive()
    }
}

impl<K: Serial, V: Serial> Map<K, V> {
    /// Has code be told of what happens to entries, until [`Map::remove_listener`], the map's end or the
    /// member's.
    ///
    /// It is called by the member's event threads, some time after the change, under no lock: it may take its
    /// time and may use maps. What happened in one partition it is told in that order; of different
    /// partitions, in any. When more waits than may ([`crate::EventConfig`]), events are lost, and
    /// [`MapEvent::Lost`] says so; a member that stops tells nothing more. What a change did that failed as
    /// nobody knows whether the log keeps it is told, too, where readers see it.
    ///
    /// [`Map::clear`] and [`Map::evict_all`] are told partition by partition, and key by key in those where
    /// some key is locked or changing, and over a database. A new time to live, as by [`Map::set_ttl`], and
    /// an entry's expiry are no events.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use hdgrid::{EntryEventKind, MapEvent, Member, data::Natural};
    /// # let dir = tempfile::tempdir()?;
    /// # let member = Member::builder(dir.path()).start()?;
    /// let map = member.map::<Natural<String>, Natural<i64>>("stock")?;
    /// let (tell, told) = mpsc::channel();
    /// let id = map.listen().values().only(&[EntryEventKind::Updated]).register(move |event| {
    ///     let MapEvent::Entry(entry) = event else { return };
    ///     let _ = tell.send((entry.key(), entry.old_value(), entry.value()));
    /// })?;
    /// map.blocking().set(&"tea".to_owned(), &9)?;
    /// map.blocking().set(&"tea".to_owned(), &8)?;
    /// let (key, old, new) = told.recv()?;
    /// assert_eq!((key?, old?, new?), ("tea".to_owned(), Some(9), Some(8)));
    /// assert!(map.remove_listener(id));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "addEntryListener")]
    #[doc(alias = "addLocalEntryListener")]
    pub fn listen(&self) -> Listen<'_, K, V> {
        let wish = Wish { key: None, kinds: None, wants_values: false };
        Listen { core: &self.core, wish, is_told_values: false, filter: None }
    }

    /// Has nothing more be told to a listener; each event thread may be at work with one event of it still.
    /// Whether it was there.
    #[doc(alias = "removeEntryListener")]
    pub fn remove_listener(&self, id: ListenerId) -> bool {
        self.core.remove_listener(id)
    }
}

impl<K: Serial, V: Serial> Listen<'_, K, V> {
    /// Only of this key. When it goes with all others of its partition, that is told as its own removal or
    /// eviction.
    ///
    /// # Errors
    /// [`MapError::Data`] when the key has no bytes.
    pub fn key(mut self, key: &K::Encode) -> Result<Self, MapError> {
        let mut bytes = Vec::new();
        K::append(key, &mut bytes).map_err(|source| self.core.bad_data(source))?;
        self.wish.key = Some((self.core.partition_of(&bytes)?, bytes.into()));
        Ok(self)
    }

    /// With the values before and after. Without them a change costs less.
    pub fn values(mut self) -> Self {
        self.is_told_values = true;
        self.wish.wants_values = true;
        self
    }

    /// Of what happens to entries only this.
    pub fn only(mut self, kinds: &[EntryEventKind]) -> Self {
        self.wish.kinds = Some(kinds.into());
        self
    }

    /// Of what happens to entries only where this holds. It sees values in any case: of a removal or an
    /// eviction the one before, [`EntryEvent::old_value`].
    pub fn filter(
        mut self,
        filter: impl Fn(&EntryEvent<'_, K, V>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.filter = Some(Box::new(filter));
        self.wish.wants_values = true;
        self
    }

    /// Registers the listener: each change that begins when this has returned is told.
    ///
    /// # Errors
    /// [`MapError::Gone`].
    pub fn register(
        self,
        listener: impl Fn(MapEvent<'_, K, V>) + Send + Sync + 'static,
    ) -> Result<ListenerId, MapError> {
        let Listen { core, wish, is_told_values, filter } = self;
        let map = core.name.clone();
        let tell = move |told: Told<'_>| {
            let change = match told {
                Told::Event(Event::Entry(change)) => change,
                Told::Event(Event::Emptied(emptied)) => {
                    let Emptied { partition, entries, is_evicted } = *emptied;
                    return listener(match is_evicted {
                        true => MapEvent::EvictedAll { partition, entries },
                        false => MapEvent::Cleared { partition, entries },
                    });
                }
                Told::Lost(events) => return listener(MapEvent::Lost { events }),
            };
            let event =
                |has_values| EntryEvent { change, has_values, map: &map, types: PhantomData };
            if filter.as_ref().is_none_or(|filter| filter(&event(true))) {
                listener(MapEvent::Entry(event(is_told_values)));
            }
        };
        core.add_listener(wish, Arc::new(tell))
    }
}
