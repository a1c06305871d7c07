//! Changes that a user's code decides: the `compute` family and entry processors.
//!
//! The key is claimed while the code runs, and no lock is held, so it may take its time: whoever else
//! would change the key waits, everybody else goes on. When the code panics, nothing has changed and the
//! key is free. It must not change the same key itself: it would wait for its own end.

use std::borrow::Borrow;

use super::op::{Going, Kind, Op, When};
use super::storing_behind::RoomWait;
use super::{Lifetime, Map};
use crate::data::{DataRef, Serial};
use crate::error::MapError;
use crate::partition::Wanted;
use crate::record::NewValue;
use crate::stats::Operation;

/// A key, with what it has, for an entry processor.
pub struct Entry<'a, K: Serial, V: Serial> {
    key: &'a K::Encode,
    value: Option<V::Owned>,
    is_changed: bool,
    lifetime: Lifetime,
}

impl<K: Serial, V: Serial> std::fmt::Debug for Entry<'_, K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("is_there", &self.value.is_some())
            .field("is_changed", &self.is_changed)
            .finish_non_exhaustive()
    }
}

impl<K: Serial, V: Serial> Entry<'_, K, V> {
    /// The key.
    #[doc(alias = "getKey")]
    pub fn key(&self) -> &K::Encode {
        self.key
    }

    /// Its value, as the processor has left it so far.
    #[doc(alias = "getValue")]
    pub fn value(&self) -> Option<&V::Owned> {
        self.value.as_ref()
    }

    /// Gives it a value. It lives as long as the one before was to live, or as the map says.
    #[doc(alias = "setValue")]
    pub fn set_value(&mut self, value: V::Owned) {
        self.set_value_with(value, Lifetime::default());
    }

    /// Gives it a value that lives so long.
    #[doc(alias = "setValue")]
    pub fn set_value_with(&mut self, value: V::Owned, lifetime: Lifetime) {
        (self.value, self.lifetime, self.is_changed) = (Some(value), lifetime, true);
    }

    /// Removes it.
    pub fn remove(&mut self) {
        (self.value, self.is_changed) = (None, true);
    }

    /// Takes the value out, which stays in the map unless it is replaced.
    fn take(&mut self) -> Option<V::Owned> {
        self.value.take()
    }

    fn decide(&mut self, value: Option<V::Owned>) {
        match value {
            Some(value) => self.set_value(value),
            None => self.remove(),
        }
    }
}

impl<K: Serial, V: Serial> Map<K, V> {
    /// Has `process` look at an entry and change it, with nobody else changing it meanwhile. Returns what it
    /// returns.
    ///
    /// ```
    /// # use hdgrid::{Member, data::Natural};
    /// # let dir = tempfile::tempdir()?;
    /// # let member = Member::builder(dir.path()).start()?;
    /// let map = member.map::<Natural<String>, Natural<i64>>("stock")?;
    /// map.blocking().set(&"tea".to_owned(), &9)?;
    /// let is_sold = map.blocking().execute_on_key(&"tea".to_owned(), |entry| match entry.value() {
    ///     Some(&left) if left > 0 => {
    ///         entry.set_value(left - 1);
    ///         true
    ///     }
    ///     _ => false,
    /// })?;
    /// assert!(is_sold && map.blocking().get(&"tea".to_owned())? == Some(8));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "executeOnKey")]
    #[doc(alias = "submitToKey")]
    pub async fn execute_on_key<R>(
        &self,
        key: &K::Encode,
        process: impl FnOnce(&mut Entry<'_, K, V>) -> R,
    ) -> Result<R, MapError> {
        self.process(key, process).await.map(|(_, result)| result)
    }

    /// Like [`Map::execute_on_key`], for one key after the other: each entry is changed for itself.
    ///
    /// # Errors
    /// [`MapError`]; the first one ends the call, and what was done before stays.
    #[doc(alias = "executeOnKeys")]
    pub async fn execute_on_keys<R>(
        &self,
        keys: &[&K::Encode],
        mut process: impl FnMut(&mut Entry<'_, K, V>) -> R,
    ) -> Result<Vec<R>, MapError> {
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            results.push(self.execute_on_key(key, &mut process).await?);
        }
        Ok(results)
    }

    /// Like [`Map::execute_on_key`], for every entry that `filter` holds of, one after the other. An
    /// entry that comes or goes meanwhile may be processed or not; `filter` is asked again of what the
    /// processor gets.
    ///
    /// # Errors
    /// [`MapError`]; the first one ends the call, and what was done before stays.
    #[doc(alias = "executeOnEntries")]
    pub async fn execute_on_entries<R>(
        &self,
        filter: impl Fn(&K::Encode, &V::Owned) -> bool,
        mut process: impl FnMut(&mut Entry<'_, K, V>) -> R,
    ) -> Result<Vec<(K::Owned, R)>, MapError> {
        let mut results = Vec::new();
        for found in self.iter() {
            let (key, value) = found?;
            if !filter(key.borrow(), &value) {
                continue;
            }
            let once = |entry: &mut Entry<'_, K, V>| {
                let holds = entry.value().is_some_and(|value| filter(entry.key(), value));
                holds.then(|| process(entry))
            };
            if let Some(result) = self.execute_on_key(key.borrow(), once).await? {
                results.push((key, result));
            }
        }
        Ok(results)
    }

    /// Replaces a key's value by what `compute` makes of it (`None`: absent, before or after). Returns
    /// the new one.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn compute(
        &self,
        key: &K::Encode,
        compute: impl FnOnce(Option<V::Owned>) -> Option<V::Owned>,
    ) -> Result<Option<V::Owned>, MapError> {
        let process = |entry: &mut Entry<'_, K, V>| {
            let before = entry.take();
            let after = compute(before);
            entry.decide(after);
        };
        self.process(key, process).await.map(|(value, ())| value)
    }

    /// Gives a key that has none the value that `compute` says, if any. Returns what the key has then.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "computeIfAbsent")]
    pub async fn compute_if_absent(
        &self,
        key: &K::Encode,
        compute: impl FnOnce() -> Option<V::Owned>,
    ) -> Result<Option<V::Owned>, MapError> {
        let process = |entry: &mut Entry<'_, K, V>| {
            if entry.value().is_none()
                && let Some(value) = compute()
            {
                entry.set_value(value);
            }
        };
        self.process(key, process).await.map(|(value, ())| value)
    }

    /// Replaces the value of a key that has one by what `compute` makes of it (`None`: remove it).
    /// Returns the new one.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "computeIfPresent")]
    pub async fn compute_if_present(
        &self,
        key: &K::Encode,
        compute: impl FnOnce(V::Owned) -> Option<V::Owned>,
    ) -> Result<Option<V::Owned>, MapError> {
        let process = |entry: &mut Entry<'_, K, V>| {
            if let Some(before) = entry.take() {
                let after = compute(before);
                entry.decide(after);
            }
        };
        self.process(key, process).await.map(|(value, ())| value)
    }

    /// Gives a key a value, or, if it has one, what `merge` makes of both (`None`: remove it). Returns
    /// what the key has then.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn merge(
        &self,
        key: &K::Encode,
        value: V::Owned,
        merge: impl FnOnce(V::Owned, V::Owned) -> Option<V::Owned>,
    ) -> Result<Option<V::Owned>, MapError> {
        let process = |entry: &mut Entry<'_, K, V>| {
            let after = match entry.take() {
                Some(before) => merge(before, value),
                None => Some(value),
            };
            entry.decide(after);
        };
        self.process(key, process).await.map(|(value, ())| value)
    }

    /// Replaces every value by what `replace` makes of it, one after the other.
    ///
    /// # Errors
    /// [`MapError`]; the first one ends the call, and what was done before stays.
    #[doc(alias = "replaceAll")]
    pub async fn replace_all(
        &self,
        mut replace: impl FnMut(&K::Encode, V::Owned) -> V::Owned,
    ) -> Result<(), MapError> {
        let process = |entry: &mut Entry<'_, K, V>| {
            if let Some(before) = entry.take() {
                let after = replace(entry.key(), before);
                entry.set_value(after);
            }
        };
        self.execute_on_entries(|_, _| true, process).await.map(drop)
    }

    /// Has `process` change a key. What the key has then, and what it returned.
    async fn process<R>(
        &self,
        key: &K::Encode,
        process: impl FnOnce(&mut Entry<'_, K, V>) -> R,
    ) -> Result<(Option<V::Owned>, R), MapError> {
        let _under_way = self.core.counts.begin(Operation::Process);
        let bytes = self.key(key)?;
        let place = (self.core.partition_of(&bytes)?, &bytes[..]);
        let mut claim = self.core.claim_for(self.caller, place, Wanted::Claim).await?;
        let mut value =
            self.core.read(&bytes, |seen| V::read(DataRef::from_stored(seen.value)?))?;
        let mut known = None;
        if value.is_none() && self.core.backing.is_some() {
            let (still_claimed, fetched) = self.core.fetch(claim, place).await?;
            (claim, value) = (still_claimed, self.read_found(fetched.value.clone())?);
            known = Some(fetched.value);
        }
        let mut entry = Entry { key, value, is_changed: false, lifetime: Lifetime::default() };
        let result = process(&mut entry);
        if entry.is_changed {
            let new = entry.value.as_ref().map(|value| self.value(value.borrow())).transpose()?;
            let kind = match &new {
                Some(value) => Kind::Put { value: NewValue::new(value), life: entry.lifetime.0 },
                None => Kind::Remove(Going::Removed),
            };
            let op = Op { kind, when: When::Always, returns_old: false };
            let changed = self
                .core
                .change_claimed(claim, place, (&op, known), &mut RoomWait::default())
                .await?;
            if let Some(put) = changed.put {
                entry.value = Some(self.read_value(NewValue::new(&put).stored())?);
            }
        }
        Ok((entry.value, result))
    }
}
