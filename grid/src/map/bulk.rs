//! What concerns all of a map, or many of its keys: partition by partition, none of it at once.

use std::collections::HashMap;

use hotrestart::Ref;
use hotrestart::codec::Bytes;

use super::core::MapCore;
use super::op::{Going, Kind, Op, When};
use crate::caller::Caller;
use crate::data::PartitionId;
use crate::error::MapError;

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
                let op = MapCore::removal(going, false);
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

    /// The operation of a removal.
    pub(crate) fn removal(going: Going, returns_old: bool) -> Op<'static> {
        Op { kind: Kind::Remove(going), when: When::Always, returns_old }
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
