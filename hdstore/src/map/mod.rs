//! Typed maps: what users call.
//!
//! Writing is in this file, reading in `read.rs`, several keys at once in `batch.rs`, values that outlive a
//! call in `guard.rs`, read-modify-write in `entry.rs`, changes that happen together in `group.rs`, maps
//! whose owner places their keys in `part.rs`. No user code runs under a lock or while anything is
//! half-written: closures see values that are complete, and what they return is put by an ordinary
//! conditional put.

pub mod batch;
pub mod entry;
pub mod group;
pub mod guard;
mod part;
pub mod read;

use std::marker::PhantomData;
use std::sync::Arc;

use crate::codec::Codec;
use crate::error::Error;
use crate::ids::StreamId;
use crate::log::{Log, NoLog, Placement};
use crate::store::put::{Condition, Done, NewEntry};
use crate::store::{Inner, MapCore, Store};
use part::Scope;

/// Settings of a map, used when it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapOptions<Level = ()> {
    pub(crate) level: Level,
    pub(crate) placement: Placement,
}

impl<Level> MapOptions<Level> {
    /// How durable a change is before it is acknowledged, in the log's own terms.
    #[must_use]
    pub fn durability(self, level: Level) -> Self {
        MapOptions { level, ..self }
    }
}

/// A map of a store. Cheap to clone; clones are the same map. All methods may be called from any number of
/// threads.
pub struct Map<K: Codec, V: Codec, L: Log = NoLog> {
    pub(crate) inner: Arc<Inner<L>>,
    pub(crate) core: Arc<MapCore<L>>,
    scope: Scope,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Codec, V: Codec, L: Log> Clone for Map<K, V, L> {
    fn clone(&self) -> Self {
        let (inner, core) = (Arc::clone(&self.inner), Arc::clone(&self.core));
        Map { inner, core, scope: self.scope, types: PhantomData }
    }
}

impl<K: Codec, V: Codec, L: Log> std::fmt::Debug for Map<K, V, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (spec, scope) = (&self.core.spec, &self.scope);
        f.debug_struct("Map").field("spec", spec).field("scope", scope).finish_non_exhaustive()
    }
}

impl<L: Log> Store<L> {
    /// Opens the map of this name, making it when it is not there. Options count only when it is made, but
    /// for who places its keys, which must be as it was then. A map whose drop is under way may still be
    /// opened; what is asked of it afterwards is refused with [`Error::Dropped`].
    ///
    /// # Errors
    /// [`Error::MapType`] when the map holds other types, [`Error::MapPlacement`], [`Error::MapName`],
    /// [`Error::TooManyMaps`], no memory, or a log that refuses.
    pub fn map<K: Codec, V: Codec>(
        &self,
        name: &str,
        options: MapOptions<L::Level>,
    ) -> Result<Map<K, V, L>, Error> {
        let MapOptions { level, placement } = options;
        let core = self.inner.open_map(name, &K::name(), &V::name(), (level, placement))?;
        let scope = Scope::of(placement);
        Ok(Map { inner: Arc::clone(&self.inner), core, scope, types: PhantomData })
    }
}

impl<K: Codec, V: Codec, L: Log> Map<K, V, L> {
    /// The map's name.
    pub fn name(&self) -> &str {
        &self.core.spec.name
    }

    /// How durable a change is before it is acknowledged: what the map was made with, whatever later openings
    /// asked for.
    pub fn durability(&self) -> L::Level {
        self.core.spec.level
    }

    /// Gives a key a value, whatever it had before. Returns when the map's durability is reached.
    ///
    /// # Errors
    /// Nothing changed: [`Error::EmptyKey`], [`Error::TooLarge`], [`Error::Capacity`],
    /// [`Error::Unreclaimed`], [`Error::Codec`], [`Error::Dropped`], [`Error::NoStream`], or [`Error::Log`]
    /// before the change. An [`Error::Log`] may also say that the change is visible but not known to be
    /// durable.
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, codec::Bytes};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Bytes, Bytes>("m", MapOptions::default())?;
    /// map.insert(b"key", b"value")?;
    /// assert_eq!(map.get_owned(b"key")?.as_deref(), Some(&b"value"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "put")]
    #[doc(alias = "set")]
    pub fn insert(&self, key: &K::Encode, value: &V::Encode) -> Result<(), Error> {
        self.put(key, value, None, Condition::None).map(drop)
    }

    /// Like [`Map::insert`], but the entry is absent from `expiry_ms` on (milliseconds since 1970-01-01 UTC,
    /// by the store's clock). It keeps its memory until [`Store::sweep`] comes by, which nobody calls
    /// unasked.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    pub fn insert_expiring(
        &self,
        key: &K::Encode,
        value: &V::Encode,
        expiry_ms: u64,
    ) -> Result<(), Error> {
        self.put(key, value, Some(expiry_ms), Condition::None).map(drop)
    }

    /// Gives a key a value if it has none. Returns whether it did.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, codec::{Str, U64}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Str, U64>("m", MapOptions::default())?;
    /// assert!(map.insert_if_absent("a", &1)?);
    /// assert!(!map.insert_if_absent("a", &2)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "putIfAbsent")]
    pub fn insert_if_absent(&self, key: &K::Encode, value: &V::Encode) -> Result<bool, Error> {
        self.put(key, value, None, Condition::Absent)
    }

    /// Gives a key a new value if its present one has the same bytes as `expected`. Returns whether it did.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, codec::{Str, U64}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Str, U64>("m", MapOptions::default())?;
    /// map.insert("a", &1)?;
    /// assert!(map.compare_exchange("a", &1, &2)?);
    /// assert!(!map.compare_exchange("a", &1, &3)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "replace")]
    pub fn compare_exchange(
        &self,
        key: &K::Encode,
        expected: &V::Encode,
        new: &V::Encode,
    ) -> Result<bool, Error> {
        let expected = V::encode(expected)?;
        self.put(key, new, None, Condition::Value(&expected))
    }

    /// Removes a key. Returns whether it was there.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, codec::{Str, U64}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Str, U64>("m", MapOptions::default())?;
    /// map.insert("a", &1)?;
    /// assert!(map.remove("a")?);
    /// assert!(!map.remove("a")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "delete")]
    pub fn remove(&self, key: &K::Encode) -> Result<bool, Error> {
        let key = K::encode(key)?;
        let stream = self.stream_of(&key)?;
        let was_live = std::cell::Cell::new(false);
        let ticket = self.inner.remove_if(&self.core, stream, &key, |view| {
            was_live.set(!self.inner.is_expired(view));
            true
        })?;
        self.settle(ticket)?;
        Ok(ticket.is_some() && was_live.get())
    }

    /// Removes every entry, of a handle of one stream those there; returns how many there were, expired ones
    /// included. In each stream all go at once: a put of the stream comes wholly before or wholly after, a
    /// reader finds all or none of it, and it is one record in the log. The streams follow one another, so a
    /// put to a stream that had its turn stays.
    ///
    /// It takes microseconds a stream, whatever the map holds. The memory comes free bit by bit, by later
    /// puts and removes, [`Store::maintain`], [`Store::sweep`], and as soon as a put finds no other;
    /// `Stats::detached_bytes` has what is left. Guards, walks and batches keep what they found.
    ///
    /// # Errors
    /// As for [`Map::insert`]; streams that had their turn stay cleared. An [`Error::Log`] which says that
    /// the outcome is unknown is about them.
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, codec::{Str, U64}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Str, U64>("m", MapOptions::default())?;
    /// map.insert("a", &1)?;
    /// map.insert("b", &2)?;
    /// assert_eq!(map.clear()?, 2);
    /// assert!(map.is_empty() && map.get("a")?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "removeAll")]
    #[doc(alias = "evictAll")]
    pub fn clear(&self) -> Result<u64, Error> {
        let mut tickets = Vec::new();
        let cleared = self.inner.clear(&self.core, self.range(), &mut tickets);
        // Also when a later stream was refused: what had its turn is said to stay cleared.
        tickets.into_iter().try_for_each(|ticket| self.settle(Some(ticket)))?;
        cleared
    }

    /// Like [`Map::clear`], for the map's part in one stream.
    ///
    /// # Errors
    /// As for [`Map::insert`], [`Error::Stream`], and [`Error::OtherStream`] on a handle of another stream.
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, StreamId, codec::U64};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).streams(2).in_memory()?;
    /// let map = store.map::<U64, U64>("m", MapOptions::default())?;
    /// for n in 0..100 {
    ///     map.insert(&n, &n)?;
    /// }
    /// let gone = map.clear_stream(StreamId(1))?;
    /// assert!(gone > 0 && map.len() == 100 - gone);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear_stream(&self, stream: StreamId) -> Result<u64, Error> {
        self.check_scope(stream)?;
        let Some(cleared) = self.inner.clear_stream(&self.core, stream)? else { return Ok(0) };
        self.settle(Some(cleared.ticket))?;
        Ok(cleared.entries)
    }

    #[inline]
    pub(crate) fn put(
        &self,
        key: &K::Encode,
        value: &V::Encode,
        expiry_ms: Option<u64>,
        condition: Condition<'_>,
    ) -> Result<bool, Error> {
        self.put_bytes(&K::encode(key)?, &V::encode(value)?, expiry_ms, condition)
    }

    #[inline]
    pub(crate) fn put_bytes(
        &self,
        key: &[u8],
        value: &[u8],
        expiry_ms: Option<u64>,
        condition: Condition<'_>,
    ) -> Result<bool, Error> {
        let entry = NewEntry { key, value, expiry_ms };
        match self.inner.put(&self.core, self.stream_of(key)?, entry, condition)? {
            Done::Put(ticket) => {
                self.settle(Some(ticket))?;
                Ok(true)
            }
            Done::Refused => Ok(false),
        }
    }

    /// Waits until a change is as durable as the map asks.
    #[inline]
    pub(crate) fn settle(&self, ticket: Option<L::Ticket>) -> Result<(), Error> {
        match ticket {
            Some(ticket) => self.inner.log.settle(ticket, self.core.spec.level).map_err(Error::Log),
            None => Ok(()),
        }
    }
}
