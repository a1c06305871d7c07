//! Groups, as users make them: changes of several keys, in one or several maps, all or none of them.
//!
//! Invariant: every key of a group lies in the group's stream, which is checked when it is added; what was
//! added is done as a whole by [`Group::commit`], or not at all. The work is in `store/group.rs`.

use std::sync::Arc;

use super::Map;
use crate::codec::Codec;
use crate::error::Error;
use crate::ids::{Seq, StreamId};
use crate::log::Log;
use crate::store::group::{GroupChange, GroupCondition, KeyOf};
use crate::store::put::{Condition, Done};
use crate::store::{Inner, Store};

/// Changes of one stream that happen together or not at all; made by [`Store::group`].
///
/// What is added does nothing until [`Group::commit`].
pub struct Group<'a, L: Log> {
    inner: &'a Inner<L>,
    stream: StreamId,
    changes: Vec<GroupChange<'a, L>>,
    conditions: Vec<GroupCondition<'a, L>>,
    /// What the most demanding of its maps asks.
    level: Option<L::Level>,
}

/// What became of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum GroupOutcome {
    /// Every change happened; of each, in order, whether its key was there, live, right before it.
    Done(Vec<bool>),
    /// A condition did not hold: nothing changed.
    Refused,
}

impl GroupOutcome {
    /// Whether the changes happened.
    pub fn is_done(&self) -> bool {
        matches!(self, GroupOutcome::Done(_))
    }
}

impl<L: Log> std::fmt::Debug for Group<'_, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (changes, conditions) = (self.changes.len(), self.conditions.len());
        f.debug_struct("Group")
            .field("stream", &self.stream)
            .field("changes", &changes)
            .field("conditions", &conditions)
            .finish_non_exhaustive()
    }
}

impl<L: Log> Store<L> {
    /// Begins a group: changes of keys of one stream, in any of the store's maps, which happen all or not at
    /// all, also when the process dies or the power goes in the middle of it.
    ///
    /// ```
    /// # use hdstore::{GroupOutcome, MapOptions, Store, StreamId, codec::{Bytes, Str, U64}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).streams(8).in_memory()?;
    /// let placed = MapOptions::default().placed_by_owner();
    /// let stock = store.map::<Str, U64>("stock", placed)?;
    /// let orders = store.map::<U64, Bytes>("orders", placed)?;
    /// stock.in_stream(StreamId(3))?.insert("tea", &9)?;
    ///
    /// let mut group = store.group(StreamId(3));
    /// group.insert(&stock, "tea", &8)?.insert(&orders, &1, b"one tea")?.remove(&orders, &0)?;
    /// assert_eq!(group.commit()?, GroupOutcome::Done(vec![true, false, false]));
    /// assert_eq!(orders.in_stream(StreamId(3))?.get_owned(&1)?.as_deref(), Some(&b"one tea"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// - Changes happen in the order in which they were added; of several of one key the last counts, and a
    ///   reader may see the others for a moment. Each has a seq of its own.
    /// - Readers see each key as it was or as it is, one by one: nobody is promised to see all of a group at
    ///   once. Writers of the stream come before it or after it.
    /// - At most 256 changes and conditions ([`GROUP_CHANGES_MAX`](crate::GROUP_CHANGES_MAX)); a log may
    ///   bound their bytes, too. Other writers of the stream wait as long as for so many puts of their own.
    pub fn group(&self, stream: StreamId) -> Group<'_, L> {
        let (changes, conditions) = (Vec::new(), Vec::new());
        Group { inner: &self.inner, stream, changes, conditions, level: None }
    }
}

impl<'a, L: Log> Group<'a, L> {
    /// Gives a key a value, whatever it had before.
    ///
    /// # Errors
    /// [`Error::Codec`]; [`Error::OtherStream`] when the key lies in another stream than the group's. Nothing
    /// was added then.
    ///
    /// # Panics
    /// When the map is of another store.
    pub fn insert<K: Codec, V: Codec>(
        &mut self,
        map: &'a Map<K, V, L>,
        key: &'a K::Encode,
        value: &'a V::Encode,
    ) -> Result<&mut Self, Error> {
        self.put(map, key, value, None)
    }

    /// Like [`Group::insert`], but the entry is absent from `expiry_ms` on (milliseconds since 1970-01-01
    /// UTC, by the store's clock).
    ///
    /// # Errors
    /// As for [`Group::insert`].
    ///
    /// # Panics
    /// When the map is of another store.
    pub fn insert_expiring<K: Codec, V: Codec>(
        &mut self,
        map: &'a Map<K, V, L>,
        key: &'a K::Encode,
        value: &'a V::Encode,
        expiry_ms: u64,
    ) -> Result<&mut Self, Error> {
        self.put(map, key, value, Some(expiry_ms))
    }

    /// Removes a key, if it is there then.
    ///
    /// # Errors
    /// As for [`Group::insert`].
    ///
    /// # Panics
    /// When the map is of another store.
    pub fn remove<K: Codec, V: Codec>(
        &mut self,
        map: &'a Map<K, V, L>,
        key: &'a K::Encode,
    ) -> Result<&mut Self, Error> {
        let of = self.key_of(map, key)?;
        Ok(self.add(map, GroupChange { of, value: None }))
    }

    /// Has the group happen only when a key is not there, before any of its changes.
    ///
    /// # Errors
    /// As for [`Group::insert`].
    ///
    /// # Panics
    /// When the map is of another store.
    ///
    /// ```
    /// # use hdstore::{GroupOutcome, MapOptions, Store, codec::{Str, U64}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).streams(1).in_memory()?;
    /// let map = store.map::<Str, U64>("m", MapOptions::default())?;
    /// let stream = map.stream_of_key("a")?;
    /// let mut group = store.group(stream);
    /// group.require_absent(&map, "a")?.insert(&map, "a", &1)?.insert(&map, "b", &1)?;
    /// assert!(group.commit()?.is_done());
    /// let mut group = store.group(stream);
    /// group.require_absent(&map, "a")?.remove(&map, "b")?;
    /// assert_eq!(group.commit()?, GroupOutcome::Refused);
    /// assert_eq!(map.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn require_absent<K: Codec, V: Codec>(
        &mut self,
        map: &'a Map<K, V, L>,
        key: &'a K::Encode,
    ) -> Result<&mut Self, Error> {
        self.require(map, key, Condition::Absent)
    }

    /// Has the group happen only when a key's entry still has this seq ([`Ref::seq`](crate::Ref::seq)),
    /// before any of its changes: nobody has changed it since.
    ///
    /// # Errors
    /// As for [`Group::insert`].
    ///
    /// # Panics
    /// When the map is of another store.
    pub fn require_seq<K: Codec, V: Codec>(
        &mut self,
        map: &'a Map<K, V, L>,
        key: &'a K::Encode,
        seq: Seq,
    ) -> Result<&mut Self, Error> {
        self.require(map, key, Condition::Seq(seq))
    }

    /// Changes that were added.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Makes all changes, or none. Returns when the most demanding of the maps' durabilities is reached for
    /// all of them. The group is empty then. After an error that says that nothing changed it is as it was,
    /// and may be tried again.
    ///
    /// # Errors
    /// Nothing changed: [`Error::GroupTooLong`]; [`Error::Dropped`] when one of the maps was dropped;
    /// [`Error::EmptyKey`], [`Error::TooLarge`], [`Error::Stream`], [`Error::Capacity`],
    /// [`Error::Unreclaimed`], or [`Error::Log`] before the change, as when the group is too long for the
    /// log. An [`Error::Log`] may also say that the changes are visible but not known to be durable: they are
    /// all kept or none is.
    pub fn commit(&mut self) -> Result<GroupOutcome, Error> {
        let done = self.inner.change_group(self.stream, &self.changes, &self.conditions)?;
        self.changes.clear();
        self.conditions.clear();
        let level = self.level.take();
        let Done::Put((was_there, ticket)) = done else { return Ok(GroupOutcome::Refused) };
        if let (Some(ticket), Some(level)) = (ticket, level) {
            self.inner.log.settle(ticket, level).map_err(Error::Log)?;
        }
        Ok(GroupOutcome::Done(was_there))
    }

    fn put<K: Codec, V: Codec>(
        &mut self,
        map: &'a Map<K, V, L>,
        key: &'a K::Encode,
        value: &'a V::Encode,
        expiry_ms: Option<u64>,
    ) -> Result<&mut Self, Error> {
        let of = self.key_of(map, key)?;
        let value = Some((V::encode(value)?, expiry_ms));
        Ok(self.add(map, GroupChange { of, value }))
    }

    fn require<K: Codec, V: Codec>(
        &mut self,
        map: &'a Map<K, V, L>,
        key: &'a K::Encode,
        condition: Condition<'a>,
    ) -> Result<&mut Self, Error> {
        let of = self.key_of(map, key)?;
        self.conditions.push(GroupCondition { of, condition });
        Ok(self)
    }

    fn add<K: Codec, V: Codec>(
        &mut self,
        map: &Map<K, V, L>,
        change: GroupChange<'a, L>,
    ) -> &mut Self {
        self.changes.push(change);
        self.level = self.level.max(Some(map.core.spec.level));
        self
    }

    fn key_of<K: Codec, V: Codec>(
        &self,
        map: &'a Map<K, V, L>,
        key: &'a K::Encode,
    ) -> Result<KeyOf<'a, L>, Error> {
        let is_of_store = std::ptr::eq(self.inner, Arc::as_ptr(&map.inner));
        assert!(is_of_store, "the map is of another store");
        let key = K::encode(key)?;
        map.check_stream_of(&key, self.stream)?;
        Ok(KeyOf { map: &map.core, key })
    }
}
