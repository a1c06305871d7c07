//! Locks of single keys: re-entrant, with leases, for those who wait in the order in which they came.
//!
//! A lock needs no entry. It is kept in memory alone: a member that stops has none when it comes back.

use std::time::Duration;

use super::core::MapCore;
use super::{Map, ms};
use crate::caller::Caller;
use crate::data::{PartitionId, Serial};
use crate::error::MapError;
use crate::partition::{Release, Wanted};

impl MapCore {
    /// Locks a key, waiting until `deadline_ms` (monotonic). Whether the caller has it then.
    pub(crate) async fn lock(
        &self,
        caller: Caller,
        key: &[u8],
        lease_ms: Option<u64>,
        deadline_ms: Option<u64>,
    ) -> Result<bool, MapError> {
        let place = (self.partition_of(key)?, key);
        self.take(caller, place, Wanted::Lock { lease_ms }, deadline_ms).await
    }

    /// Unlocks a key once.
    pub(crate) fn unlock(&self, caller: Caller, key: &[u8]) -> Result<(), MapError> {
        let place = self.place(self.partition_of(key)?, key);
        if place.release(Release::Lock(caller)) {
            return Ok(());
        }
        Err(MapError::NotLocked { map: self.name.clone(), is_locked: place.holder().is_some() })
    }

    /// Unlocks a key wholly, whoever has locked it.
    pub(crate) fn force_unlock(&self, key: &[u8]) -> Result<(), MapError> {
        self.place(self.partition_of(key)?, key).release(Release::Force);
        Ok(())
    }

    /// How many keys are locked.
    pub(crate) fn locked(&self) -> u64 {
        let partitions = (0..self.partitions.count()).map(PartitionId);
        let locked = partitions.map(|partition| {
            let busy = self.partitions.lock(partition).busy(self.no);
            busy.iter().filter(|(_, is_locked)| *is_locked).count() as u64
        });
        locked.sum()
    }

    /// Who has locked a key.
    pub(crate) fn holder(&self, key: &[u8]) -> Result<Option<Caller>, MapError> {
        let partition = self.partition_of(key)?;
        Ok(self.partitions.lock(partition).holder((self.no, key)))
    }
}

impl<K: Serial, V: Serial> Map<K, V> {
    /// Locks a key until it is unlocked: others who would change it wait, readers do not. The key need not be
    /// there. Whoever has locked it may lock it again, and unlocks it as often.
    ///
    /// # Errors
    /// [`MapError`].
    pub async fn lock(&self, key: &K::Encode) -> Result<(), MapError> {
        let key = self.key(key)?;
        self.core.lock(self.caller, &key, None, None).await.map(drop)
    }

    /// Like [`Map::lock`], for so long at most.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "lock")]
    pub async fn lock_with_lease(&self, key: &K::Encode, lease: Duration) -> Result<(), MapError> {
        let key = self.key(key)?;
        self.core.lock(self.caller, &key, Some(ms(lease)), None).await.map(drop)
    }

    /// Like [`Map::lock`], but gives up after a time. Whether the key is locked now.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "tryLock")]
    pub async fn try_lock(&self, key: &K::Encode, timeout: Duration) -> Result<bool, MapError> {
        self.try_lock_with(key, timeout, None).await
    }

    /// Like [`Map::try_lock`], for so long at most.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "tryLock")]
    pub async fn try_lock_with_lease(
        &self,
        key: &K::Encode,
        timeout: Duration,
        lease: Duration,
    ) -> Result<bool, MapError> {
        self.try_lock_with(key, timeout, Some(ms(lease))).await
    }

    async fn try_lock_with(
        &self,
        key: &K::Encode,
        timeout: Duration,
        lease_ms: Option<u64>,
    ) -> Result<bool, MapError> {
        let key = self.key(key)?;
        let deadline_ms = Some(self.deadline_ms(timeout));
        self.core.lock(self.caller, &key, lease_ms, deadline_ms).await
    }

    /// Unlocks a key, once for each time that it was locked.
    ///
    /// # Errors
    /// [`MapError::NotLocked`] when this handle has not locked it.
    pub fn unlock(&self, key: &K::Encode) -> Result<(), MapError> {
        self.core.unlock(self.caller, &self.key(key)?)
    }

    /// Unlocks a key wholly, whoever has locked it.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "forceUnlock")]
    pub fn force_unlock(&self, key: &K::Encode) -> Result<(), MapError> {
        self.core.force_unlock(&self.key(key)?)
    }

    /// Whether anybody has locked a key.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "isLocked")]
    pub fn is_locked(&self, key: &K::Encode) -> Result<bool, MapError> {
        Ok(self.core.holder(&self.key(key)?)?.is_some())
    }
}
