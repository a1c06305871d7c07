//! What a map's database has and memory does not: loaded when it is asked for.
//!
//! Invariant: a key is claimed while it is loaded, so that what comes from the database hides nothing that
//! was put or removed meanwhile; locks of callers, which are about changes, do not hold it up. What memory
//! has no room for is returned all the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::stream::{Stream, StreamExt, TryStreamExt};

use super::core::MapCore;
use super::op::{Kind, Op, When};
use super::storing::plain;
use crate::caller::Caller;
use crate::data::PartitionId;
use crate::error::MapError;
use crate::map_store::Bytes;
use crate::partition::{Claim, Wanted};
use crate::record::NewValue;

/// Keys in the order in which several are claimed: whoever does so keeps to it, so nobody waits in a circle.
pub(super) type Keys = BTreeSet<(PartitionId, Bytes)>;

impl MapCore {
    /// The value of a key that memory does not have (stored form), from the database.
    pub(super) async fn load(
        self: &Arc<Self>,
        caller: Caller,
        key: &[u8],
    ) -> Result<Option<Bytes>, MapError> {
        let partition = self.partition_of(key)?;
        let claim = self.claim_for(caller, (partition, key), Wanted::Load).await?;
        self.fetch(claim, (partition, key)).await.map(|(_, value)| value)
    }

    /// The value of a key that is claimed (stored form), from memory or from the database.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        claim: Claim,
        (partition, key): (PartitionId, &[u8]),
    ) -> Result<(Claim, Option<Bytes>), MapError> {
        let (core, key) = (Arc::clone(self), Box::<[u8]>::from(key));
        self.in_background(async move {
            let value = core.load_claimed((partition, &key)).await?;
            Ok((claim, value))
        })
        .await
    }

    /// The same, for who is in the background already.
    pub(super) async fn load_claimed(
        &self,
        (partition, key): (PartitionId, &[u8]),
    ) -> Result<Option<Bytes>, MapError> {
        let found = self.read(key, |seen| Ok(seen.value.to_vec()))?;
        if found.is_some() {
            return Ok(found);
        }
        if let Some(waiting) = self.waiting_value((partition, key))? {
            if let Some(value) = &waiting {
                self.keep((partition, key), value, When::Absent);
            }
            return Ok(waiting);
        }
        let ready = self.backing().ready(&self.name).await;
        let (loader, _) = ready.map_err(|source| self.not_done("init", source))?;
        let loaded = loader.load(key).await.map_err(|source| self.not_done("load", source))?;
        if let Some(value) = &loaded {
            self.keep((partition, key), value, When::Absent);
        }
        Ok(loaded)
    }

    /// What of a key waits for the database: a value, or that it goes.
    fn waiting_value(
        &self,
        (partition, key): (PartitionId, &[u8]),
    ) -> Result<Option<Option<Bytes>>, MapError> {
        let waiting = self.behind().map(|behind| behind.newest(partition, key)).transpose();
        waiting.map(Option::flatten).map_err(|source| self.refused(source))
    }

    /// Keeps what was loaded, if there is room.
    fn keep(&self, (partition, key): (PartitionId, &[u8]), value: &[u8], when: When<'_>) {
        let entry = plain(value);
        let op = Op { kind: Kind::Load(NewValue::new(&entry)), when, returns_old: false };
        let kept = self.apply(&mut self.partitions.lock(partition), key, &op);
        if let Err(error) = kept {
            tracing::debug!(map = self.name, %error, "what was loaded is not kept in memory");
        }
    }

    /// Has all keys that the database names loaded, in batches, several at a time: those that memory does not
    /// have, or, where `replaces`, all. How many it had.
    pub(super) async fn load_everything(
        self: &Arc<Self>,
        caller: Caller,
        replaces: bool,
    ) -> Result<u64, MapError> {
        let core = Arc::clone(self);
        self.in_background(async move {
            let config = core.backing().config();
            let batches = core.batches_of_database().await?.map(|batch| {
                let core = Arc::clone(&core);
                async move { core.load_many(caller, batch?, replaces).await }
            });
            let loaded = batches.buffer_unordered(config.load_parallelism.get());
            loaded.try_fold(0, async |count, loaded| Ok(count + loaded.len() as u64)).await
        })
        .await
    }

    /// Has everything loaded once, and waits for it. How much there was.
    pub(super) async fn load_initially(self: &Arc<Self>) -> Result<u64, MapError> {
        let Some(backing) = &self.backing else { return Ok(0) };
        let load = || self.load_everything(Caller::NOBODY, false);
        backing.initial.get_or_try_init(load).await.copied()
    }

    /// Has everything loaded once, some time, if that has not begun yet.
    pub(crate) fn begin_initial_load(self: &Arc<Self>) {
        if !self.backing().begins_initial_load() {
            return;
        }
        let core = Arc::clone(self);
        let begun = self.backing().spawn(async move {
            if let Err(error) = core.load_initially().await {
                tracing::warn!(%error, "not everything was loaded");
            }
        });
        if let Err(outcome) = begun {
            tracing::warn!(error = %self.no_outcome(outcome), "nothing is loaded");
        }
    }

    /// Has many keys loaded as [`MapCore::load_many`] does, a batch after the other.
    pub(super) async fn load_in_batches(
        self: &Arc<Self>,
        caller: Caller,
        mut keys: Keys,
        replaces: bool,
    ) -> Result<Vec<(Bytes, Bytes)>, MapError> {
        let batch_size = self.backing().config().batch_size.get();
        let mut loaded = Vec::new();
        while !keys.is_empty() {
            let rest = match keys.iter().nth(batch_size).cloned() {
                Some(first) => keys.split_off(&first),
                None => Keys::new(),
            };
            let batch = std::mem::replace(&mut keys, rest);
            loaded.extend(self.load_many(caller, batch, replaces).await?);
        }
        Ok(loaded)
    }

    /// The keys that the database names, in batches.
    pub(super) async fn batches_of_database(
        &self,
    ) -> Result<impl Stream<Item = Result<Keys, MapError>> + Send, MapError> {
        let ready = self.backing().ready(&self.name).await;
        let (loader, _) = ready.map_err(|source| self.not_done("init", source))?;
        let batches = loader.load_all_keys().try_chunks(self.backing().config().batch_size.get());
        Ok(batches.map(|batch| {
            let keys = batch.map_err(|error| self.not_done("load_all_keys", error.1))?;
            keys.into_iter().map(|key| Ok((self.partition_of(&key)?, key))).collect()
        }))
    }

    /// Has many keys loaded, all that memory does not have, or, where `replaces`, all. What the database had.
    pub(super) async fn load_many(
        self: &Arc<Self>,
        caller: Caller,
        keys: Keys,
        replaces: bool,
    ) -> Result<Vec<(Bytes, Bytes)>, MapError> {
        let mut claimed = Vec::with_capacity(keys.len());
        for (partition, key) in keys {
            let claim = self.claim_for(caller, (partition, &key), Wanted::Load).await?;
            claimed.push((partition, key, claim));
        }
        let core = Arc::clone(self);
        self.in_background(async move {
            let (mut wanted, mut waiting) = (Vec::with_capacity(claimed.len()), Vec::new());
            for (partition, key, _) in &claimed {
                if !replaces && core.read(key, |_| Ok(()))?.is_some() {
                    continue;
                }
                // The database does not know yet.
                match core.waiting_value((*partition, key))? {
                    Some(Some(value)) => {
                        core.keep((*partition, key), &value, When::Absent);
                        waiting.push((key.clone(), value));
                    }
                    Some(None) => {}
                    None => wanted.push(key.clone()),
                }
            }
            if wanted.is_empty() {
                return Ok(waiting);
            }
            let ready = core.backing().ready(&core.name).await;
            let (loader, _) = ready.map_err(|source| core.not_done("init", source))?;
            let loaded = loader.load_all(&wanted).await;
            let mut loaded = loaded.map_err(|source| core.not_done("load_all", source))?;
            let asked: BTreeSet<&Bytes> = wanted.iter().collect();
            if loaded.iter().any(|(key, _)| !asked.contains(key)) {
                let source = "it gave a key that was not asked for".into();
                let (map, call) = (core.name.clone(), "load_all");
                return Err(MapError::MapStore { map, call, source });
            }
            let when = if replaces { When::Always } else { When::Absent };
            for (key, value) in &loaded {
                core.keep((core.partition_of(key)?, key), value, when);
            }
            drop(claimed);
            loaded.append(&mut waiting);
            Ok(loaded)
        })
        .await
    }
}
