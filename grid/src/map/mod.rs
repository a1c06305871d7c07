//! Maps, as users call them: typed, asynchronous, with Hazelcast's meaning.
//!
//! `op.rs` decides what a change makes of an entry, `core.rs` does it, `locking.rs`, `telling.rs` and
//! `bulk.rs` have locks, who is told, and what concerns many keys; all of that in bytes. This file,
//! `process.rs` (changes that a user's code decides) and `blocking.rs` turn types into bytes and back. No
//! code of a user runs under a lock.

pub mod blocking;
mod bulk;
mod claiming;
pub(crate) mod core;
mod foresight;
pub(crate) mod intercepting;
mod listening;
mod loading;
mod locking;
pub(crate) mod op;
mod process;
mod storing;
mod storing_behind;
mod storing_many;
mod telling;
mod view;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use self::core::{Changed, MapCore};
pub use self::intercepting::{Interceptor, InterceptorError, InterceptorId};
pub use self::listening::{EntryEvent, Listen, MapEvent};
use self::op::{Going, Kind, Life, Op, When};
pub use self::process::Entry;
pub use self::storing_behind::DeadLetter;
pub use self::view::EntryView;
use crate::caller::{Caller, Callers};
use crate::data::{DataRef, PartitionId, Serial};
use crate::error::MapError;
use crate::record::NewValue;
use crate::scratch::{self, Scratch};
use crate::stats::{Counted, LocalMapStats, Operation};

/// How long an entry is to live. What is not said stays as it was: as long as the entry lived before, or
/// as the map says.
///
/// ```
/// use std::time::Duration;
/// use hdgrid::Lifetime;
/// let session = Lifetime::ttl(Duration::from_secs(3600)).max_idle(Duration::from_secs(600));
/// # let _ = session;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lifetime(Life);

impl Lifetime {
    /// So long after it was put. Zero: for ever.
    #[must_use]
    pub fn ttl(after: Duration) -> Lifetime {
        Lifetime(Life { ttl_ms: Some(ms(after)), max_idle_ms: None })
    }

    /// For ever, also where the map says otherwise.
    #[must_use]
    pub fn forever() -> Lifetime {
        Lifetime(Life { ttl_ms: Some(0), max_idle_ms: Some(0) })
    }

    /// And no longer than so long after it was used last. Zero: for ever.
    #[must_use]
    pub fn max_idle(self, after: Duration) -> Lifetime {
        Lifetime(Life { max_idle_ms: Some(ms(after)), ..self.0 })
    }
}

/// A time in whole milliseconds, rounded up: what is not zero stays so.
pub(crate) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A map of a member: Hazelcast's `IMap`.
///
/// Keys are the same when their bytes are. All methods may be called from any number of threads and tasks.
///
/// A handle is a *caller*, to whom locks belong: what a handle has locked it may change, and unlock, in
/// whatever task it is used. A clone is another caller.
pub struct Map<K: Serial, V: Serial> {
    core: Arc<MapCore>,
    callers: Arc<Callers>,
    caller: Caller,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Serial, V: Serial> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Map::new(Arc::clone(&self.core), Arc::clone(&self.callers))
    }
}

impl<K: Serial, V: Serial> std::fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (core, caller) = (&self.core, &self.caller);
        f.debug_struct("Map").field("core", core).field("caller", caller).finish_non_exhaustive()
    }
}

impl<K: Serial, V: Serial> Map<K, V> {
    pub(crate) fn new(core: Arc<MapCore>, callers: Arc<Callers>) -> Map<K, V> {
        let caller = callers.another();
        Map { core, callers, caller, types: PhantomData }
    }

    /// The map's name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// To whom the locks of this handle belong.
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// The partition that a key lies in, by Hazelcast's rule.
    ///
    /// # Errors
    /// [`MapError::Data`] when the key has no bytes.
    #[doc(alias = "getPartition")]
    pub fn partition_of(&self, key: &K::Encode) -> Result<PartitionId, MapError> {
        self.core.partition_of(&self.key(key)?)
    }

    /// A copy of a key's value.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn get(&self, key: &K::Encode) -> Result<Option<V::Owned>, MapError> {
        let _under_way = self.core.counts.begin(Operation::Get);
        let key = self.key(key)?;
        if self.core.interceptors.are_there() {
            return Box::pin(self.get_intercepted(&key)).await;
        }
        let value = self.core.read(&key, |seen| V::read(DataRef::from_stored(seen.value)?))?;
        self.count_hit(value.is_some());
        if value.is_none() && self.core.backing.is_some() {
            return self.read_found(Box::pin(self.core.load(self.caller, &key)).await?);
        }
        Ok(value)
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "containsKey")]
    pub async fn contains_key(&self, key: &K::Encode) -> Result<bool, MapError> {
        let key = self.key(key)?;
        let is_there = self.core.read(&key, |_| Ok(()))?.is_some();
        if !is_there && self.core.backing.is_some() {
            return Ok(Box::pin(self.core.load(self.caller, &key)).await?.is_some());
        }
        Ok(is_there)
    }

    /// Gives a key a value, and returns the one before. It lives as long as the one before was to live,
    /// or as the map says.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn put(
        &self,
        key: &K::Encode,
        value: &V::Encode,
    ) -> Result<Option<V::Owned>, MapError> {
        self.old(self.put_when(key, value, Lifetime::default(), (When::Always, true)).await?)
    }

    /// Like [`Map::put`], of an entry that lives so long.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn put_with(
        &self,
        key: &K::Encode,
        value: &V::Encode,
        lifetime: Lifetime,
    ) -> Result<Option<V::Owned>, MapError> {
        self.old(self.put_when(key, value, lifetime, (When::Always, true)).await?)
    }

    /// Gives a key a value, without a look at the one before.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn set(&self, key: &K::Encode, value: &V::Encode) -> Result<(), MapError> {
        self.put_when(key, value, Lifetime::default(), (When::Always, false)).await.map(drop)
    }

    /// Like [`Map::set`], of an entry that lives so long.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn set_with(
        &self,
        key: &K::Encode,
        value: &V::Encode,
        lifetime: Lifetime,
    ) -> Result<(), MapError> {
        self.put_when(key, value, lifetime, (When::Always, false)).await.map(drop)
    }

    /// Like [`Map::put`], but gives up when the key is locked for so long, or, over a database that hears of
    /// changes later, when for so long none of them makes room. Whether the value was put. What the database
    /// is asked takes as long as it takes.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "tryPut")]
    pub async fn try_put(
        &self,
        key: &K::Encode,
        value: &V::Encode,
        timeout: Duration,
    ) -> Result<bool, MapError> {
        let _under_way = self.core.counts.begin(Operation::Put);
        let (key, value) = (self.key(key)?, self.value(value)?);
        let kind = Kind::Put { value: NewValue::new(&value), life: Life::default() };
        let op = Op { kind, when: When::Always, returns_old: false };
        let deadline_ms = self.deadline_ms(timeout);
        let changed = self.core.change_until(self.caller, &key, &op, deadline_ms).await?;
        Ok(changed.is_some())
    }

    /// Gives a key a value if it has none, and returns the one that it has.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "putIfAbsent")]
    pub async fn put_if_absent(
        &self,
        key: &K::Encode,
        value: &V::Encode,
    ) -> Result<Option<V::Owned>, MapError> {
        self.old(self.put_when(key, value, Lifetime::default(), (When::Absent, true)).await?)
    }

    /// Like [`Map::put_if_absent`], of an entry that lives so long.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn put_if_absent_with(
        &self,
        key: &K::Encode,
        value: &V::Encode,
        lifetime: Lifetime,
    ) -> Result<Option<V::Owned>, MapError> {
        self.old(self.put_when(key, value, lifetime, (When::Absent, true)).await?)
    }

    /// Gives a key a value if it has one, and returns the one before.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn replace(
        &self,
        key: &K::Encode,
        value: &V::Encode,
    ) -> Result<Option<V::Owned>, MapError> {
        self.old(self.put_when(key, value, Lifetime::default(), (When::Present, true)).await?)
    }

    /// Gives a key a value if its present one has the bytes of `expected`. Whether it did.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "replace")]
    pub async fn replace_if_same(
        &self,
        key: &K::Encode,
        expected: &V::Encode,
        value: &V::Encode,
    ) -> Result<bool, MapError> {
        let expected = self.value(expected)?;
        let when = When::Same(NewValue::new(&expected).stored());
        Ok(self.put_when(key, value, Lifetime::default(), (when, false)).await?.is_done)
    }

    /// Removes a key, and returns its value.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn remove(&self, key: &K::Encode) -> Result<Option<V::Owned>, MapError> {
        self.old(self.remove_when(key, When::Always, true).await?)
    }

    /// Removes a key, without a look at its value. Whether it was there.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn delete(&self, key: &K::Encode) -> Result<bool, MapError> {
        Ok(self.remove_when(key, When::Always, false).await?.is_done)
    }

    /// Removes a key if its value has the bytes of `expected`. Whether it did.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "remove")]
    pub async fn remove_if_same(
        &self,
        key: &K::Encode,
        expected: &V::Encode,
    ) -> Result<bool, MapError> {
        let expected = self.value(expected)?;
        let when = When::Same(NewValue::new(&expected).stored());
        Ok(self.remove_when(key, when, false).await?.is_done)
    }

    /// Like [`Map::remove`], but gives up when the key is locked for so long. Whether the key was there
    /// and is removed. The time bounds what it does of [`Map::try_put`].
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "tryRemove")]
    pub async fn try_remove(&self, key: &K::Encode, timeout: Duration) -> Result<bool, MapError> {
        let _under_way = self.core.counts.begin(Operation::Remove);
        let key = self.key(key)?;
        // What only the database has is there, too.
        let returns_old = self.core.backing.is_some();
        let op = Op { returns_old, ..Op::removal(Going::Removed) };
        let changed =
            self.core.change_until(self.caller, &key, &op, self.deadline_ms(timeout)).await?;
        Ok(changed.is_some_and(|changed| changed.is_done))
    }

    /// Removes a key as [`Map::delete`] does, but does not tell the map's database, which still has it.
    /// Without a database it is gone. Whether it was there.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn evict(&self, key: &K::Encode) -> Result<bool, MapError> {
        let key = self.key(key)?;
        let op = Op::removal(Going::Evicted);
        Ok(self.core.change(self.caller, &key, &op).await?.is_done)
    }

    /// Has an entry live so long from now on; zero: for ever. Whether there is one.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "setTtl")]
    pub async fn set_ttl(&self, key: &K::Encode, ttl: Duration) -> Result<bool, MapError> {
        let key = self.key(key)?;
        let op = Op { kind: Kind::SetTtl(ms(ttl)), when: When::Present, returns_old: false };
        Ok(self.core.change(self.caller, &key, &op).await?.is_done)
    }

    /// What is known of an entry. This is no use of it.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "getEntryView")]
    pub async fn get_entry_view(
        &self,
        key: &K::Encode,
    ) -> Result<Option<EntryView<V::Owned>>, MapError> {
        let key = self.key(key)?;
        view::of::<V>(&self.core, &key)
    }

    /// What the map did and has, of this member. Passes the lock of each partition, in turn.
    #[doc(alias = "getLocalMapStats")]
    pub fn local_map_stats(&self) -> LocalMapStats {
        self.core.stats()
    }

    #[cold]
    async fn get_intercepted(&self, key: &[u8]) -> Result<Option<V::Owned>, MapError> {
        let mut found = self.core.read(key, |seen| Ok(seen.value.to_vec()))?;
        self.count_hit(found.is_some());
        if found.is_none() && self.core.backing.is_some() {
            found = self.core.load(self.caller, key).await?;
        }
        self.read_found(self.core.intercept_get(key, found)?)
    }

    fn read_found(&self, stored: Option<Vec<u8>>) -> Result<Option<V::Owned>, MapError> {
        stored.map(|stored| self.read_value(&stored)).transpose()
    }

    fn read_value(&self, stored: &[u8]) -> Result<V::Owned, MapError> {
        crate::user::read::<V>(stored).map_err(|source| self.core.bad_data(source))
    }

    #[inline]
    fn count_hit(&self, is_hit: bool) {
        if is_hit {
            self.core.counts.count(Counted::Hit);
        }
    }

    /// Puts a value if what is there allows it; with what was there, if that is asked for.
    #[inline]
    async fn put_when(
        &self,
        key: &K::Encode,
        value: &V::Encode,
        lifetime: Lifetime,
        (when, returns_old): (When<'_>, bool),
    ) -> Result<Changed, MapError> {
        let is_set = !returns_old && when == When::Always;
        let operation = if is_set { Operation::Set } else { Operation::Put };
        let _under_way = self.core.counts.begin(operation);
        let (key, value) = (self.key(key)?, self.value(value)?);
        let kind = Kind::Put { value: NewValue::new(&value), life: lifetime.0 };
        self.core.change(self.caller, &key, &Op { kind, when, returns_old }).await
    }

    /// Removes a key if what is there allows it; with what was there, if that is asked for.
    async fn remove_when(
        &self,
        key: &K::Encode,
        when: When<'_>,
        returns_old: bool,
    ) -> Result<Changed, MapError> {
        let _under_way = self.core.counts.begin(Operation::Remove);
        let key = self.key(key)?;
        let op = Op { when, returns_old, ..Op::removal(Going::Removed) };
        self.core.change(self.caller, &key, &op).await
    }

    #[inline]
    fn key(&self, key: &K::Encode) -> Result<Scratch, MapError> {
        let mut bytes = scratch::take();
        K::append(key, &mut bytes).map_err(|source| self.core.bad_data(source))?;
        Ok(bytes)
    }

    /// A value as [`NewValue`] wants it.
    #[inline]
    fn value(&self, value: &V::Encode) -> Result<Scratch, MapError> {
        let mut bytes = scratch::take();
        bytes.push(NewValue::PLAIN);
        V::append(value, &mut bytes).map_err(|source| self.core.bad_data(source))?;
        Ok(bytes)
    }

    fn old(&self, changed: Changed) -> Result<Option<V::Owned>, MapError> {
        self.read_found(changed.old)
    }

    fn deadline_ms(&self, timeout: Duration) -> u64 {
        self.core.clock.monotonic_ms().saturating_add(ms(timeout))
    }
}
