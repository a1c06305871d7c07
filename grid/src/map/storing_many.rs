//! Many keys of a map over the user's database at once: in batches, each claimed, stored and changed
//! together.
//!
//! Invariants: as for one key (`storing.rs`). Keys of a batch are claimed in one order, so that nobody
//! waits in a circle. A batch that the database refuses is tried again key by key, as nobody knows which of
//! it is done; up to the first key that is refused by itself everything is done then, in the database and
//! in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::core::MapCore;
use super::foresight::Foreseen;
use super::loading::Keys;
use super::op::{Going, Kind, Life, Op, When};
use futures_util::StreamExt;

use crate::caller::Caller;
use crate::data::PartitionId;
use crate::error::MapError;
use crate::map_store::Bytes;
use crate::partition::{Claim, Wanted};
use crate::record::NewValue;

/// A key that is claimed.
type Claimed = (PartitionId, Bytes, Claim);

impl MapCore {
    /// Puts many entries (stored forms behind [`NewValue::PLAIN`]).
    pub(super) async fn set_many(
        self: &Arc<Self>,
        caller: Caller,
        mut entries: BTreeMap<(PartitionId, Bytes), Bytes>,
    ) -> Result<(), MapError> {
        let batch_size = self.backing().config().batch_size.get();
        while !entries.is_empty() {
            let rest = match entries.keys().nth(batch_size).cloned() {
                Some(first) => entries.split_off(&first),
                None => BTreeMap::new(),
            };
            let (keys, values): (Vec<_>, Vec<_>) =
                std::mem::replace(&mut entries, rest).into_iter().unzip();
            let claimed = self.claim_many(caller, keys, Wanted::Claim).await?;
            let core = Arc::clone(self);
            self.in_background(async move { core.set_batch(claimed, &values).await }).await?;
        }
        Ok(())
    }

    async fn set_batch(&self, claimed: Vec<Claimed>, entries: &[Bytes]) -> Result<(), MapError> {
        let ready = self.backing().ready(&self.name).await;
        let (_, store) = ready.map_err(|source| self.not_done("init", source))?;
        for (partition, key, _) in &claimed {
            self.await_older((*partition, key)).await?;
        }
        let op = |entry| {
            let kind = Kind::Put { value: NewValue::new(entry), life: Life::default() };
            Op { kind, when: When::Always, returns_old: false }
        };
        let mut foreseen = Vec::with_capacity(claimed.len());
        let mut together = Vec::with_capacity(claimed.len());
        for ((_, key, _), entry) in claimed.iter().zip(entries) {
            let one = self.foresee(key, &op(entry))?;
            if let Foreseen::Put(entry) = &one {
                together.push((key.clone(), NewValue::new(entry).stored().to_vec()));
            }
            foreseen.push(one);
        }
        let is_stored = match store {
            Some(store) if together.len() > 1 && !store.post_processes() => {
                let stored = store.store_all(&together).await;
                stored.map_err(|source| self.tried_one_by_one("store_all", source)).is_ok()
            }
            _ => false,
        };
        for (((partition, key, claim), entry), mut one) in
            claimed.into_iter().zip(entries).zip(foreseen)
        {
            let op = op(entry);
            if !is_stored {
                one = self.store(&key, &op, one).await?;
            }
            self.carry_out(claim, (partition, &key), &op, one)?;
        }
        Ok(())
    }

    /// Removes what memory has and what the database names, but locked keys, from both. How many entries
    /// memory had.
    pub(super) async fn clear_backed(self: &Arc<Self>, caller: Caller) -> Result<u64, MapError> {
        let mut gone = 0;
        let batch_size = self.backing().config().batch_size.get();
        for partition in (0..self.partitions.count()).map(PartitionId) {
            let keys = self.part(partition).into_iter().map(|entry| entry.key_bytes().to_vec());
            let mut keys: Vec<_> = keys.map(|key| (partition, key)).collect();
            // What waits, and was evicted, neither memory has nor the database.
            let waiting = self.behind().map(|behind| behind.keys(partition)).unwrap_or_default();
            keys.extend(waiting.into_iter().map(|key| (partition, key.to_vec())));
            keys.sort_unstable();
            keys.dedup();
            for batch in keys.chunks(batch_size) {
                gone += self.clear_keys(caller, batch.iter().cloned().collect()).await?;
            }
        }
        // What the database names is read beside what is removed: no key is claimed while the next are
        // awaited.
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let core = Arc::clone(self);
        let reading = self.backing().spawn(async move {
            let mut batches = std::pin::pin!(core.batches_of_database().await?);
            while let Some(batch) = batches.next().await {
                if tell.send(batch?).await.is_err() {
                    break;
                }
            }
            Ok::<(), MapError>(())
        });
        while let Some(batch) = told.recv().await {
            gone += self.clear_keys(caller, batch).await?;
        }
        reading.map_err(|outcome| self.no_outcome(outcome))?.await.unwrap_or(Ok(()))?;
        Ok(gone)
    }

    async fn clear_keys(self: &Arc<Self>, caller: Caller, keys: Keys) -> Result<u64, MapError> {
        self.await_room().await?;
        let claimed = self.claim_many(caller, keys, Wanted::ClaimUnlocked).await?;
        let core = Arc::clone(self);
        self.in_background(async move { core.clear_batch(claimed).await }).await
    }

    async fn clear_batch(&self, claimed: Vec<Claimed>) -> Result<u64, MapError> {
        let mut gone = 0;
        let ready = self.backing().ready(&self.name).await;
        let (_, Some(store)) = ready.map_err(|source| self.not_done("init", source))? else {
            unreachable!("only a map that is stored is cleared like this");
        };
        for (partition, key, _) in &claimed {
            self.await_older((*partition, key)).await?;
        }
        let keys: Vec<Bytes> = claimed.iter().map(|(_, key, _)| key.clone()).collect();
        let defers = self.deferring().is_some();
        let is_deleted = match &keys[..] {
            [] => return Ok(0),
            _ if defers => true,
            [_] => false,
            keys => {
                let deleted = store.delete_all(keys).await;
                deleted.map_err(|source| self.tried_one_by_one("delete_all", source)).is_ok()
            }
        };
        for (partition, key, claim) in claimed {
            if !is_deleted {
                let deleted = store.delete(&key).await;
                deleted.map_err(|source| self.not_done("delete", source))?;
            }
            let op = Op::removal(Going::Cleared);
            let removed = self.carry_out(claim, (partition, &key), &op, Foreseen::Same)?;
            gone += u64::from(removed.is_done);
        }
        Ok(gone)
    }

    /// Claims keys one after the other; those that are locked are left out where they are wanted unlocked.
    async fn claim_many(
        &self,
        caller: Caller,
        keys: impl IntoIterator<Item = (PartitionId, Bytes)>,
        wanted: Wanted,
    ) -> Result<Vec<Claimed>, MapError> {
        let mut claimed = Vec::new();
        for (partition, key) in keys {
            let claim = self.claim(caller, (partition, &key), wanted, None).await?;
            claimed.extend(claim.map(|claim| (partition, key, claim)));
        }
        Ok(claimed)
    }

    fn tried_one_by_one(&self, call: &'static str, source: crate::user::Refused) {
        let error = self.not_done(call, source);
        tracing::warn!(%error, "tried again one by one");
    }
}
