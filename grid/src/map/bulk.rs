//! What concerns all of a map, or many of its keys: partition by partition, none of it at once.

use hotrestart::Ref;
use hotrestart::codec::Bytes;

use super::core::MapCore;
use super::op::{Kind, Op, When};
use crate::data::PartitionId;
use crate::error::MapError;

impl MapCore {
    /// Removes every entry whose key is not locked; how many.
    pub(crate) fn clear(&self) -> Result<u64, MapError> {
        (0..self.partitions.count())
            .try_fold(0, |gone, partition| Ok(gone + self.clear_partition(PartitionId(partition))?))
    }

    fn clear_partition(&self, partition: PartitionId) -> Result<u64, MapError> {
        let part = self.part(partition);
        let mut locked = self.partitions.lock(partition);
        let kept = locked.locked(self.no);
        if kept.is_empty() {
            return part.clear().map_err(|source| self.refused(source));
        }
        let mut gone = 0;
        for entry in part {
            let key = entry.key_bytes();
            if !kept.iter().any(|kept| **kept == *key) {
                gone += u64::from(part.remove(key).map_err(|source| self.refused(source))?);
            }
        }
        Ok(gone)
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
    pub(crate) fn removal(returns_old: bool) -> Op<'static> {
        Op { kind: Kind::Remove, when: When::Always, returns_old }
    }
}
