//! What a map's database has and memory does not: loaded when it is asked for.
//!
//! Invariants: a key is claimed while it is loaded, so that what comes from the database hides nothing that
//! was put or removed meanwhile; locks of callers, which are about changes, do not hold it up. What memory
//! has no room for is returned all the same; where it was to replace what memory has, that is let go. Many
//! keys are claimed as `claiming.rs` says, so a load among changes may ask the database in several calls.
//! What the database refuses together is loaded key by key, so one bad row keeps no other from being loaded;
//! the first error is returned at the end, or when so many are refused in a row that it may be down.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::stream::{Stream, StreamExt, TryStreamExt};

use super::claiming::{Claimed, Keyed, take_batch};
use super::core::MapCore;
use super::foresight::Stored;
use super::op::{Kind, Op, When};
use super::storing::plain;
use super::storing_many::GIVES_UP_AFTER;
use crate::caller::Caller;
use crate::data::PartitionId;
use crate::error::MapError;
use crate::map_store::{AnyLoader, Bytes};
use crate::partition::{Claim, Wanted};
use crate::record::NewValue;
use crate::user::Refused;

/// Keys that are to be loaded.
pub(super) type Keys = Keyed<()>;

/// What of many keys is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Load {
    /// That memory has what the database has, where it has nothing.
    Missing,
    /// That memory has what the database has, also instead of something else.
    Replacing,
    /// Values: memory's, or else the database's.
    Values,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Loaded {
    /// Values that the database had, or is to have.
    pub(super) count: u64,
    /// All values, where they were asked for.
    pub(super) values: Vec<(Bytes, Bytes)>,
    first_error: Option<MapError>,
}

impl Loaded {
    fn and(mut self, mut other: Loaded) -> Loaded {
        self.values.append(&mut other.values);
        self.count += other.count;
        self.first_error = self.first_error.or(other.first_error);
        self
    }

    /// If nothing was refused.
    fn whole(mut self) -> Result<Loaded, MapError> {
        self.first_error.take().map_or(Ok(self), Err)
    }
}

/// What one key has.
pub(super) struct Fetched {
    pub(super) value: Stored,
    /// Whether memory has it, too.
    pub(super) kept: Result<(), MapError>,
}

impl Fetched {
    fn kept(value: Stored) -> Fetched {
        Fetched { value, kept: Ok(()) }
    }
}

impl MapCore {
    /// The value of a key that memory does not have (stored form), from the database.
    pub(super) async fn load(
        self: &Arc<Self>,
        caller: Caller,
        key: &[u8],
    ) -> Result<Stored, MapError> {
        let partition = self.partition_of(key)?;
        let claim = self.claim_for(caller, (partition, key), Wanted::Load).await?;
        self.fetch(claim, (partition, key)).await.map(|(_, fetched)| fetched.value)
    }

    /// The value of a key that is claimed (stored form), from memory or from the database.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        claim: Claim,
        (partition, key): (PartitionId, &[u8]),
    ) -> Result<(Claim, Fetched), MapError> {
        let (core, key) = (Arc::clone(self), Box::<[u8]>::from(key));
        self.in_background(async move {
            let fetched = core.load_claimed((partition, &key)).await?;
            Ok((claim, fetched))
        })
        .await
    }

    async fn load_claimed(&self, place: (PartitionId, &[u8])) -> Result<Fetched, MapError> {
        let key = place.1;
        let found = self.read(key, |seen| Ok(seen.value.to_vec()))?;
        if found.is_some() {
            return Ok(Fetched::kept(found));
        }
        let value = match self.waiting_value(place)? {
            Some(waiting) => waiting,
            None => {
                let ready = self.backing().ready(&self.name).await;
                let (loader, _) = ready.map_err(|source| self.not_done(("init", source), None))?;
                let loaded = loader.load(key).await;
                loaded.map_err(|source| self.not_done(("load", source), Some(key)))?
            }
        };
        let kept = value.as_ref().map_or(Ok(()), |value| self.keep(place, value, When::Absent));
        Ok(Fetched { value, kept })
    }

    /// What of a key waits for the database: a value, or that it goes.
    fn waiting_value(
        &self,
        (partition, key): (PartitionId, &[u8]),
    ) -> Result<Option<Stored>, MapError> {
        let waiting = self.behind().map(|behind| behind.newest(partition, key)).transpose();
        waiting.map(Option::flatten).map_err(|source| self.refused(source))
    }

    /// Keeps what was loaded, if there is room.
    fn keep(
        &self,
        (partition, key): (PartitionId, &[u8]),
        value: &[u8],
        when: When<'_>,
    ) -> Result<(), MapError> {
        let entry = plain(value);
        let op = Op { kind: Kind::Load(NewValue::new(&entry)), when, returns_old: false };
        let kept = self.apply(&mut self.partitions.lock(partition), key, &op);
        kept.map(drop).inspect_err(|error| {
            tracing::debug!(map = self.name, %error, "what was loaded is not kept in memory");
        })
    }

    /// Has all keys that the database names loaded, in batches, several at a time. How many it had.
    pub(super) async fn load_everything(
        self: &Arc<Self>,
        caller: Caller,
        load: Load,
    ) -> Result<u64, MapError> {
        let core = Arc::clone(self);
        self.in_background(async move {
            let config = core.backing().config();
            let batches = core.batches_of_database().await?.map(|batch| {
                let core = Arc::clone(&core);
                async move { core.load_many(caller, batch?, load).await }
            });
            let loaded = batches.buffer_unordered(config.load_parallelism.get());
            let all = |all: Loaded, loaded| async { Ok(all.and(loaded)) };
            Ok(loaded.try_fold(Loaded::default(), all).await?.whole()?.count)
        })
        .await
    }

    /// Has everything loaded once, and waits for it. How much there was.
    pub(super) async fn load_initially(self: &Arc<Self>) -> Result<u64, MapError> {
        let Some(backing) = &self.backing else { return Ok(0) };
        let load = || self.load_everything(Caller::NOBODY, Load::Missing);
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

    /// Has many keys loaded, a batch after the other.
    pub(super) async fn load_in_batches(
        self: &Arc<Self>,
        caller: Caller,
        mut keys: Keys,
        load: Load,
    ) -> Result<Loaded, MapError> {
        let batch_size = self.backing().config().batch_size.get();
        let mut loaded = Loaded::default();
        while !keys.is_empty() {
            let batch = take_batch(&mut keys, batch_size);
            loaded = loaded.and(self.load_many(caller, batch, load).await?);
        }
        loaded.whole()
    }

    /// The keys that the database names, in batches.
    pub(super) async fn batches_of_database(
        &self,
    ) -> Result<impl Stream<Item = Result<Keys, MapError>> + Send, MapError> {
        let ready = self.backing().ready(&self.name).await;
        let (loader, _) = ready.map_err(|source| self.not_done(("init", source), None))?;
        let batches = loader.load_all_keys().try_chunks(self.backing().config().batch_size.get());
        Ok(batches.map(|batch| {
            let keys = batch.map_err(|error| self.not_done(("load_all_keys", error.1), None))?;
            keys.into_iter().map(|key| Ok(((self.partition_of(&key)?, key), ()))).collect()
        }))
    }

    async fn load_many(
        self: &Arc<Self>,
        caller: Caller,
        mut keys: Keys,
        load: Load,
    ) -> Result<Loaded, MapError> {
        let mut loaded = Loaded::default();
        while !keys.is_empty() {
            let claimed = self.claim_some(caller, &mut keys, Wanted::Load).await?;
            let core = Arc::clone(self);
            let some = self.in_background(async move { core.load_batch(claimed, load).await });
            loaded = loaded.and(some.await?);
        }
        Ok(loaded)
    }

    /// Has keys loaded that are claimed.
    async fn load_batch(&self, claimed: Vec<Claimed<()>>, load: Load) -> Result<Loaded, MapError> {
        let mut wanted = Vec::with_capacity(claimed.len());
        let mut done = Loaded::default();
        for Claimed { partition, key, .. } in &claimed {
            let place = (*partition, &key[..]);
            match load {
                Load::Missing if self.read(key, |_| Ok(()))?.is_some() => continue,
                Load::Values => {
                    if let Some(value) = self.read(key, |seen| Ok(seen.value.to_vec()))? {
                        done.values.push((key.clone(), value));
                        continue;
                    }
                }
                Load::Missing | Load::Replacing => {}
            }
            // The database does not know yet.
            match self.waiting_value(place)? {
                Some(Some(value)) => {
                    let _ = self.keep(place, &value, When::Absent);
                    done.count += 1;
                    if load == Load::Values {
                        done.values.push((key.clone(), value));
                    }
                }
                Some(None) => {}
                None => wanted.push(key.clone()),
            }
        }
        let Some(first) = wanted.first() else { return Ok(done) };
        let ready = self.backing().ready(&self.name).await;
        let (loader, _) = ready.map_err(|source| self.not_done(("init", source), None))?;
        let failed = |source| self.not_done(("load_all", source), Some(first));
        let mut loaded = match loader.load_all(&wanted).await {
            Ok(loaded) => loaded,
            Err(source) => {
                let error = failed(source);
                if wanted.len() == 1 {
                    done.first_error = Some(error);
                    return Ok(done);
                }
                tracing::warn!(%error, keys = wanted.len(), "they are loaded one by one");
                self.load_each(loader, &wanted, &mut done.first_error).await?
            }
        };
        let asked: BTreeSet<&Bytes> = wanted.iter().collect();
        if loaded.iter().any(|(key, _)| !asked.contains(key)) {
            return Err(failed(Refused::Own("it gave a key that was not asked for".into())));
        }
        for (key, value) in &loaded {
            self.keep_loaded((self.partition_of(key)?, key), value, load)?;
        }
        done.count += loaded.len() as u64;
        if load == Load::Values {
            done.values.append(&mut loaded);
        }
        Ok(done)
    }

    /// Loads keys one by one; what is refused is told by the first error, and ends nothing but where nothing
    /// else comes.
    async fn load_each(
        &self,
        loader: &dyn AnyLoader,
        wanted: &[Bytes],
        first_error: &mut Option<MapError>,
    ) -> Result<Vec<(Bytes, Bytes)>, MapError> {
        let (mut loaded, mut refused_in_row) = (Vec::new(), 0);
        for key in wanted {
            match loader.load(key).await {
                Ok(value) => {
                    loaded.extend(value.map(|value| (key.clone(), value)));
                    refused_in_row = 0;
                }
                Err(source) => {
                    let error = self.not_done(("load", source), Some(key));
                    refused_in_row += 1;
                    if refused_in_row == GIVES_UP_AFTER {
                        return Err(error);
                    }
                    first_error.get_or_insert(error);
                }
            }
        }
        Ok(loaded)
    }

    /// Keeps what was loaded of a key that is claimed, if there is room; else lets go what was to be
    /// replaced.
    fn keep_loaded(
        &self,
        place: (PartitionId, &[u8]),
        value: &[u8],
        load: Load,
    ) -> Result<(), MapError> {
        if load != Load::Replacing {
            let _ = self.keep(place, value, When::Absent);
            return Ok(());
        }
        let kept = self.keep(place, value, When::Always);
        kept.or_else(|_| self.let_go(&mut self.partitions.lock(place.0), place.1))
    }
}
