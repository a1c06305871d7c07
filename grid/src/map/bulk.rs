//! What concerns all of a map, or many of its keys: partition by partition, none of it at once.

use std::collections::HashMap;
use std::sync::Arc;

use hotrestart::Ref;
use hotrestart::codec::Bytes;

use super::Map;
use super::claiming::Keyed;
use super::core::MapCore;
use super::loading::{Keys, Load};
use super::op::{Going, Op};
use super::storing_behind::RoomWait;
use crate::caller::Caller;
use crate::data::{DataRef, PartitionId, Serial};
use crate::error::MapError;
use crate::partition::Wanted;
use crate::record::{Head, NewValue};
use crate::stats::Operation;

/// A key, in its stored form.
type Key = Box<[u8]>;

impl MapCore {
    /// Removes every entry whose key is not locked; how many. Keys that somebody is changing are waited for:
    /// a change that had begun comes before the removal.
    pub(crate) async fn clear(
        self: &Arc<Self>,
        caller: Caller,
        going: Going,
    ) -> Result<u64, MapError> {
        if going == Going::Cleared && self.is_stored() {
            return self.clear_backed(caller).await;
        }
        let mut gone = 0;
        for partition in (0..self.partitions.count()).map(PartitionId) {
            let (removed, claimed) = self.clear_partition(partition, going)?;
            gone += removed;
            for key in claimed {
                let place = (partition, &key[..]);
                let claim = self.claim(caller, place, Wanted::ClaimUnlocked, None).await?;
                let Some(claim) = claim else { continue };
                let removed = self
                    .carry_out(claim, place, &Op::removal(going), &mut RoomWait::default())
                    .await?;
                gone += u64::from(removed.is_done);
            }
        }
        Ok(gone)
    }

    /// Removes what nobody has locked or claimed: all at once, where no key is. How many entries are gone,
    /// and which keys are claimed.
    fn clear_partition(
        &self,
        partition: PartitionId,
        going: Going,
    ) -> Result<(u64, Vec<Key>), MapError> {
        let part = self.part(partition);
        let mut locked = self.partitions.lock(partition);
        let busy: HashMap<_, _> = locked.busy(self.no).into_iter().collect();
        if busy.is_empty() {
            let before = self.before_emptied(&locked, going)?;
            let gone = part.clear();
            self.tell_emptied(&locked, going, before, gone.as_ref().ok().copied());
            return Ok((gone.map_err(|source| self.refused(source))?, Vec::new()));
        }
        let mut gone = 0;
        for entry in part {
            let key = entry.key_bytes();
            if !busy.contains_key(key) {
                let removed = self.apply(&mut locked, key, &Op::removal(going))?;
                gone += u64::from(removed.is_done);
            }
        }
        let claimed = busy.into_iter().filter(|(_, is_locked)| !is_locked);
        Ok((gone, claimed.map(|(key, _)| key).collect()))
    }

    /// Entries, those included that have expired and were not swept yet.
    pub(crate) fn len(&self) -> u64 {
        self.whole.len()
    }

    /// Walks over all entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Ref<'_, Bytes, Bytes>> {
        self.parts.iter().flatten()
    }
}

fn load(replaces: bool) -> Load {
    if replaces { Load::Replacing } else { Load::Missing }
}

impl<K: Serial, V: Serial> Map<K, V> {
    /// Copies of the values of many keys, in their order. Of those that memory does not have the database is
    /// asked together.
    ///
    /// # Errors
    /// [`MapError`]; the first one ends the call.
    #[doc(alias = "getAll")]
    pub async fn get_all(&self, keys: &[&K::Encode]) -> Result<Vec<Option<V::Owned>>, MapError> {
        if self.core.backing.is_some() {
            return self.get_all_backed(keys).await;
        }
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.get(key).await?);
        }
        Ok(values)
    }

    /// Has the database's entries loaded: all keys that [`crate::MapLoader::load_all_keys`] names, those that
    /// memory has only where `replaces`; then what the database has takes the place of what memory has. How
    /// many the database had. Nothing without a database.
    ///
    /// # Errors
    /// [`MapError`]; what was loaded before stays.
    #[doc(alias = "loadAll")]
    pub async fn load_all(&self, replaces: bool) -> Result<u64, MapError> {
        if self.core.backing.is_none() {
            return Ok(0);
        }
        self.core.load_everything(self.caller, load(replaces)).await
    }

    /// Has these keys loaded, likewise. How many of them the database had.
    ///
    /// # Errors
    /// [`MapError`]; what was loaded before stays.
    #[doc(alias = "loadAll")]
    pub async fn load_keys(&self, keys: &[&K::Encode], replaces: bool) -> Result<u64, MapError> {
        if self.core.backing.is_none() {
            return Ok(0);
        }
        let keys = keys.iter().map(|key| Ok((self.place_of(key)?, ())));
        let keys = keys.collect::<Result<Keys, MapError>>()?;
        Ok(self.core.load_in_batches(self.caller, keys, load(replaces)).await?.count)
    }

    /// Waits until all that the database names was loaded once ([`crate::InitialMode`]), which begins now
    /// if it has not yet. How many entries that were.
    ///
    /// # Errors
    /// [`MapError::MapStore`] when it failed; the next call begins anew.
    pub async fn loaded(&self) -> Result<u64, MapError> {
        self.core.load_initially().await
    }

    async fn get_all_backed(&self, keys: &[&K::Encode]) -> Result<Vec<Option<V::Owned>>, MapError> {
        let core = &self.core;
        let places = keys.iter().map(|key| self.place_of(key));
        let places: Vec<_> = places.collect::<Result<_, MapError>>()?;
        let mut found = HashMap::new();
        let mut missing = Keys::new();
        for place in &places {
            let _under_way = core.counts.begin(Operation::Get);
            match core.read(&place.1, |seen| Ok(seen.value.to_vec()))? {
                Some(value) => {
                    self.count_hit(true);
                    found.insert(&place.1[..], value);
                }
                None => drop(missing.insert(place.clone(), ())),
            }
        }
        let loaded = core.load_in_batches(self.caller, missing, Load::Values).await?;
        found.extend(loaded.values.iter().map(|(key, value)| (&key[..], value.clone())));
        let intercepts = core.interceptors.are_there();
        let values = places.iter().map(|(_, key)| {
            let value = found.get(&key[..]).cloned();
            self.read_found(if intercepts { core.intercept_get(key, value)? } else { value })
        });
        values.collect()
    }

    fn place_of(&self, key: &K::Encode) -> Result<(PartitionId, Vec<u8>), MapError> {
        let key = self.key(key)?;
        Ok((self.core.partition_of(&key)?, key.to_vec()))
    }

    /// Gives many keys a value, each for itself: after an error some have it. Of a key that is named twice
    /// the last value counts. Over a database that is told first by [`crate::MapStore::store_all`], in
    /// batches of keys that nobody else has; where the map has interceptors, one by one.
    ///
    /// # Errors
    /// [`MapError`]. The first one ends the call; over a database that is told first every entry is tried,
    /// and the first error returned at the end, or when ten in a row were refused.
    #[doc(alias = "setAll")]
    #[doc(alias = "putAll")]
    pub async fn set_all(&self, entries: &[(&K::Encode, &V::Encode)]) -> Result<(), MapError> {
        if self.core.is_stored() && self.core.deferring().is_none() {
            let values = entries.iter().map(|(key, value)| {
                Ok((self.place_of(key)?, NewValue::new(&self.value(value)?).stored().to_vec()))
            });
            let values = values.collect::<Result<Keyed<_>, MapError>>()?;
            return self.core.set_many(self.caller, values).await;
        }
        for (key, value) in entries {
            self.set(key, value).await?;
        }
        Ok(())
    }

    /// Removes all entries as [`Map::clear`] does, but does not tell the map's database. How many are gone.
    ///
    /// # Errors
    /// [`MapError`]; partitions that had their turn stay empty.
    #[doc(alias = "evictAll")]
    pub async fn evict_all(&self) -> Result<u64, MapError> {
        self.core.clear(self.caller, Going::Evicted).await
    }

    /// Removes all entries but those of locked keys, partition by partition; a put to a partition that had
    /// its turn stays. A key that a processor has is waited for. How many are gone. Over a database, from
    /// there first, and at last also what [`crate::MapLoader::load_all_keys`] names then, which may have been
    /// put meanwhile.
    ///
    /// # Errors
    /// [`MapError`]; partitions that had their turn stay cleared. Over a database as for [`Map::set_all`]:
    /// what is not refused is gone.
    pub async fn clear(&self) -> Result<u64, MapError> {
        self.core.clear(self.caller, Going::Cleared).await
    }

    /// The number of entries; those that have expired count until they are swept.
    #[doc(alias = "size")]
    pub fn len(&self) -> u64 {
        self.core.len()
    }

    /// Whether there is no entry.
    #[doc(alias = "isEmpty")]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Walks over all entries, in no order. An entry that is there all the time is seen exactly once,
    /// with one of the values that it has meanwhile; what comes or goes may be seen or not.
    ///
    /// ```
    /// # use hdgrid::{Member, data::{Natural, Raw}};
    /// # let dir = tempfile::tempdir()?;
    /// # let member = Member::builder(dir.path()).start()?;
    /// let map = member.map::<Natural<u32>, Natural<String>>("m")?;
    /// map.blocking().set(&1, &"one".to_owned())?;
    /// let all = map.iter().collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(all, [(1, "one".to_owned())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "entrySet")]
    pub fn iter(&self) -> impl Iterator<Item = Result<(K::Owned, V::Owned), MapError>> {
        self.core.entries().map(|entry| {
            let read = || {
                let key = K::read(DataRef::from_stored(entry.key_bytes())?)?;
                let (_, value) = Head::split(entry.value_bytes())?;
                Ok((key, V::read(DataRef::from_stored(value)?)?))
            };
            read().map_err(|source| self.core.bad_data(source))
        })
    }
}
