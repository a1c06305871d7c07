//! Many keys that one call wants to have to itself.
//!
//! Invariant: nobody waits for a key while it holds another, so nobody waits in a circle, whatever others
//! hold meanwhile (locks, keys that a processor has, keys of other batches). What is free is claimed, dealt
//! with and given back; then the rest is waited for, holding nothing. Each wait ends with a key, in the order
//! of coming, so a batch among others makes its way. Cost: a look at each key that is left, each time.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::core::MapCore;
use crate::caller::Caller;
use crate::data::PartitionId;
use crate::error::MapError;
use crate::map_store::Bytes;
use crate::partition::{Claim, Wanted};

/// Keys, with what is to become of each.
pub(super) type Keyed<T> = BTreeMap<(PartitionId, Bytes), T>;

/// A key that is claimed, with what is to become of it.
pub(super) struct Claimed<T> {
    pub(super) partition: PartitionId,
    pub(super) key: Bytes,
    pub(super) claim: Claim,
    pub(super) then: T,
}

impl<T> Claimed<T> {
    pub(super) fn map<U>(self, then: impl FnOnce(T) -> U) -> Claimed<U> {
        let Claimed { partition, key, claim, then: before } = self;
        Claimed { partition, key, claim, then: then(before) }
    }
}

/// The first so many of some keys.
pub(super) fn take_batch<T>(keys: &mut Keyed<T>, batch_size: usize) -> Keyed<T> {
    let rest = match keys.keys().nth(batch_size).cloned() {
        Some(first) => keys.split_off(&first),
        None => BTreeMap::new(),
    };
    std::mem::replace(keys, rest)
}

impl MapCore {
    /// Claims those of some keys that are free, which are some keys no more; where none is, waits for one.
    /// None are claimed where all that were left are locked, and wanted unlocked.
    ///
    /// # Errors
    /// [`MapError::Gone`].
    pub(super) async fn claim_some<T>(
        &self,
        caller: Caller,
        keys: &mut Keyed<T>,
        wanted: Wanted,
    ) -> Result<Vec<Claimed<T>>, MapError> {
        let mut claimed = self.claim_free(caller, keys, wanted)?;
        while claimed.is_empty()
            && let Some(((partition, key), then)) = keys.pop_first()
        {
            let claim = self.claim(caller, (partition, &key), wanted, None).await?;
            if let Some(claim) = claim {
                claimed = self.claim_free(caller, keys, wanted)?;
                claimed.push(Claimed { partition, key, claim, then });
            }
        }
        Ok(claimed)
    }

    fn claim_free<T>(
        &self,
        caller: Caller,
        keys: &mut Keyed<T>,
        wanted: Wanted,
    ) -> Result<Vec<Claimed<T>>, MapError> {
        let mut claimed = Vec::with_capacity(keys.len());
        for ((partition, key), then) in std::mem::take(keys) {
            let place = self.place(partition, &key);
            if matches!(place.clone().take(caller, wanted, Some(0)), Ok(true)) {
                let claim = Claim::new(place);
                claimed.push(Claimed { partition, key, claim, then });
            } else {
                keys.insert((partition, key), then);
            }
        }
        // Whoever came after the map's locks were forgotten sees it here.
        if self.is_gone.load(Ordering::Acquire) { Err(self.gone()) } else { Ok(claimed) }
    }
}
