//! What concerns all of a map, or many of its keys: partition by partition, none of it at once.

use std::collections::HashMap;

use hotrestart::Ref;
use hotrestart::codec::Bytes;

use super::Map;
use super::core::MapCore;
use super::op::{Going, Op};
use crate::caller::Caller;
use crate::data::{DataRef, PartitionId, Serial};
use crate::error::MapError;
use crate::record::Head;

/// A key, in its stored form.
type Key = Box<[u8]>;

impl MapCore {
    /// Removes every entry whose key is not locked; how many. Keys that somebody is changing are waited for:
    /// a change that had begun comes before the removal. Whoever listens is told of what is gone, also where
    /// an error or the caller ends it early.
    pub(crate) async fn clear(&self, caller: Caller, going: Going) -> Result<u64, MapError> {
        let mut gone = Gone { core: self, going, count: 0 };
        for partition in (0..self.partitions.count()).map(PartitionId) {
            let (removed, claimed) = self.clear_partition(partition)?;
            gone.count += removed;
            for key in claimed {
                let op = Op::removal(going);
                gone.count += u64::from(self.change(caller, &key, &op).await?.is_done);
            }
        }
        Ok(gone.count)
    }

    /// Removes what nobody has locked or claimed. How many entries are gone, and which keys are claimed.
    fn clear_partition(&self, partition: PartitionId) -> Result<(u64, Vec<Key>), MapError> {
        let part = self.part(partition);
        let mut locked = self.partitions.lock(partition);
        let busy: HashMap<_, _> = locked.busy(self.no).into_iter().collect();
        if busy.is_empty() {
            return Ok((part.clear().map_err(|source| self.refused(source))?, Vec::new()));
        }
        let mut gone = 0;
        for entry in part {
            let key = entry.key_bytes();
            if !busy.contains_key(key) {
                gone += u64::from(part.remove(key).map_err(|source| self.refused(source))?);
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

/// Entries that are gone with all others: told when this is dropped.
struct Gone<'a> {
    core: &'a MapCore,
    going: Going,
    count: u64,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        if self.count > 0 {
            self.core.tell_of_map(self.going, self.count);
        }
    }
}

impl<K: Serial, V: Serial> Map<K, V> {
    /// Copies of the values of many keys, in their order.
    ///
    /// # Errors
    /// [`MapError`]; the first one ends the call.
    #[doc(alias = "getAll")]
    pub async fn get_all(&self, keys: &[&K::Encode]) -> Result<Vec<Option<V::Owned>>, MapError> {
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.get(key).await?);
        }
        Ok(values)
    }

    /// Gives many keys a value, each for itself: after an error some have it.
    ///
    /// # Errors
    /// [`MapError`]; the first one ends the call.
    #[doc(alias = "setAll")]
    #[doc(alias = "putAll")]
    pub async fn set_all(&self, entries: &[(&K::Encode, &V::Encode)]) -> Result<(), MapError> {
        for (key, value) in entries {
            self.set(key, value).await?;
        }
        Ok(())
    }

    /// Removes all entries as [`Map::clear`] does, but from memory alone. How many are gone.
    ///
    /// # Errors
    /// [`MapError`]; partitions that had their turn stay empty.
    #[doc(alias = "evictAll")]
    pub async fn evict_all(&self) -> Result<u64, MapError> {
        self.core.clear(self.caller, Going::AllEvicted).await
    }

    /// Removes all entries but those of locked keys, partition by partition; a put to a partition that had
    /// its turn stays. A key that a processor has is waited for. How many are gone.
    ///
    /// # Errors
    /// [`MapError`]; partitions that had their turn stay cleared.
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
