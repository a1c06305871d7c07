//! Many keys of a map over the user's database at once: in batches, each claimed, stored and changed
//! together.
//!
//! Invariants: as for one key (`storing.rs`). What the database refuses together is tried again key by key,
//! as nobody knows which of it is done; memory lets go of each key that is refused again, or not tried any
//! more. A refusal ends no batch: other keys are tried, the first error is returned at the end. So many
//! refusals in a row that the database may be down end the call.

use std::sync::Arc;

use futures_util::StreamExt;

use super::claiming::{Claimed, Keyed, take_batch};
use super::core::MapCore;
use super::foresight::{Decided, What};
use super::loading::Keys;
use super::op::{Going, Kind, Life, Op, When};
use super::storing::{NotTold, plain};
use super::storing_behind::{RoomWait, is_full};
use crate::caller::Caller;
use crate::data::PartitionId;
use crate::error::MapError;
use crate::map_store::{AnyStore, Bytes, Calls};
use crate::partition::Wanted;
use crate::record::NewValue;
use crate::user::Refused;

/// Refusals in a row after which nothing more is tried.
pub(super) const GIVES_UP_AFTER: u32 = 10;

/// What has come of a call about many keys.
#[derive(Default)]
pub(super) struct Tried {
    /// Entries that memory had, of those that were done.
    were_there: u64,
    refused_in_row: u32,
    first_error: Option<MapError>,
}

impl Tried {
    fn note(&mut self, done: Result<bool, MapError>) {
        match done {
            Ok(was_there) => {
                self.were_there += u64::from(was_there);
                self.refused_in_row = 0;
            }
            Err(error) => {
                self.refused_in_row += 1;
                // That memory is wrong about a key matters more than what another was refused for.
                let is_outdated = |error: &MapError| matches!(error, MapError::Outdated { .. });
                if is_outdated(&error) && !self.first_error.as_ref().is_some_and(is_outdated) {
                    self.first_error = Some(error);
                } else {
                    self.first_error.get_or_insert(error);
                }
            }
        }
    }

    fn is_given_up(&self) -> bool {
        self.refused_in_row >= GIVES_UP_AFTER
    }

    /// How many entries memory had.
    fn ended(self) -> Result<u64, MapError> {
        self.first_error.map_or(Ok(self.were_there), Err)
    }
}

impl MapCore {
    /// Gives many keys values (stored forms), in the database first.
    pub(super) async fn set_many(
        self: &Arc<Self>,
        caller: Caller,
        mut values: Keyed<Bytes>,
    ) -> Result<(), MapError> {
        let batch_size = self.backing().config().batch_size.get();
        let mut tried = Tried::default();
        while !values.is_empty() && !tried.is_given_up() {
            // An interceptor may ask for a key of the same batch, which must not be claimed then.
            if self.interceptors.are_there() {
                let ((_, key), value) = values.pop_first().expect("it is not empty");
                tried.note(self.set_one(caller, &key, &value).await.map(|()| true));
                continue;
            }
            let mut batch = take_batch(&mut values, batch_size);
            while !batch.is_empty() && !tried.is_given_up() {
                let claimed = self.claim_some(caller, &mut batch, Wanted::Claim).await?;
                let decide = |value: Bytes| Decided::put(plain(&value));
                tried = self.change_many(claimed, decide, tried).await?;
            }
        }
        tried.ended().map(drop)
    }

    async fn set_one(
        self: &Arc<Self>,
        caller: Caller,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), MapError> {
        let entry = plain(value);
        let kind = Kind::Put { value: NewValue::new(&entry), life: Life::default() };
        let op = Op { kind, when: When::Always, returns_old: false };
        self.change(caller, key, &op).await.map(drop)
    }

    /// Removes what memory has and what the database names, but locked keys, from both. How many entries
    /// memory had.
    pub(super) async fn clear_backed(self: &Arc<Self>, caller: Caller) -> Result<u64, MapError> {
        let mut tried = Tried::default();
        let batch_size = self.backing().config().batch_size.get();
        for partition in (0..self.partitions.count()).map(PartitionId) {
            let keys = self.part(partition).into_iter().map(|entry| entry.key_bytes().to_vec());
            let mut keys: Keys = keys.map(|key| ((partition, key), ())).collect();
            // What waits, and was evicted, neither memory has nor the database.
            let waiting = self.behind().map(|behind| behind.keys(partition)).unwrap_or_default();
            keys.extend(waiting.into_iter().map(|key| ((partition, key.to_vec()), ())));
            while !keys.is_empty() && !tried.is_given_up() {
                let batch = take_batch(&mut keys, batch_size);
                tried = self.clear_keys(caller, batch, tried).await?;
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
        let reading = reading.map_err(|outcome| self.no_outcome(outcome))?;
        while !tried.is_given_up()
            && let Some(batch) = told.recv().await
        {
            tried = self.clear_keys(caller, batch, tried).await?;
        }
        drop(told);
        let gone = tried.ended()?;
        Calls::outcome(reading).await.map_err(|outcome| self.no_outcome(outcome))??;
        Ok(gone)
    }

    async fn clear_keys(
        self: &Arc<Self>,
        caller: Caller,
        mut keys: Keys,
        mut tried: Tried,
    ) -> Result<Tried, MapError> {
        while !keys.is_empty() && !tried.is_given_up() {
            let claimed = self.claim_some(caller, &mut keys, Wanted::ClaimUnlocked).await?;
            let decide = |()| Decided::removal(Going::Cleared);
            tried = self.change_many(claimed, decide, tried).await?;
        }
        Ok(tried)
    }

    /// Does what is decided of keys that are claimed, and gives them back.
    async fn change_many<T>(
        self: &Arc<Self>,
        claimed: Vec<Claimed<T>>,
        decide: impl Fn(T) -> Decided,
        mut tried: Tried,
    ) -> Result<Tried, MapError> {
        let batch: Vec<_> = claimed.into_iter().map(|one| one.map(&decide)).collect();
        if batch.is_empty() {
            return Ok(tried);
        }
        if self.deferring().is_some() {
            for Claimed { partition, key, claim, then } in batch {
                let (place, mut room) = ((partition, &key[..]), RoomWait::default());
                let changed = self.carry_out(claim, place, &then.op(), &mut room).await;
                if is_full(&changed) {
                    // The next one would wait for room as long in vain.
                    changed?;
                    break;
                }
                tried.note(changed.map(|changed| changed.is_done));
            }
            return Ok(tried);
        }
        let core = Arc::clone(self);
        self.in_background(async move { core.change_batch(batch, tried).await }).await
    }

    async fn change_batch(
        &self,
        all: Vec<Claimed<Decided>>,
        mut tried: Tried,
    ) -> Result<Tried, MapError> {
        let store = self.store().await?;
        let mut batch = Vec::with_capacity(all.len());
        for one in all {
            match self.await_older((one.partition, &one.key)).await {
                Ok(()) => batch.push(one),
                Err(error) => tried.note(Err(error)),
            }
        }
        let together = match tell_together(store, &batch).await {
            None => None,
            Some(Ok(())) => Some(true),
            Some(Err(not_told)) => {
                let error = self.not_done(not_told, batch.first().map(|one| &one.key[..]));
                tracing::warn!(%error, keys = batch.len(), "they are tried one by one");
                Some(false)
            }
        };
        for Claimed { partition, key, claim, then: mut decided } in batch {
            let place = (partition, &key[..]);
            let told = match together {
                Some(true) => Ok(()),
                _ if tried.is_given_up() => Err(given_up(&decided)),
                _ => decided.tell(store, &key).await,
            };
            let done = match told {
                Ok(()) => {
                    self.note_taken();
                    self.follow(claim, place, &decided.op()).map(|changed| changed.is_done)
                }
                Err(not_told) => {
                    let may_be_done = together.is_some() || not_told.1.may_be_done();
                    Err(self.not_stored(claim, place, not_told, may_be_done))
                }
            };
            tried.note(done);
        }
        Ok(tried)
    }
}

/// Tells the database many changes of one kind in one call, where it can be told so.
async fn tell_together(
    store: &dyn AnyStore,
    batch: &[Claimed<Decided>],
) -> Option<Result<(), NotTold>> {
    let put = |one: &Claimed<Decided>| match &one.then.what {
        What::Put(entry, _) => Some((one.key.clone(), NewValue::new(entry).stored().to_vec())),
        What::Remove(..) => None,
    };
    let [first, _, ..] = batch else { return None };
    match &first.then.what {
        What::Put(..) if store.post_processes() => None,
        What::Put(..) => {
            let entries: Vec<(Bytes, Bytes)> = batch.iter().filter_map(put).collect();
            Some(store.store_all(&entries).await.map_err(|source| ("store_all", source)))
        }
        What::Remove(..) => {
            let keys: Vec<Bytes> = batch.iter().map(|one| one.key.clone()).collect();
            Some(store.delete_all(&keys).await.map_err(|source| ("delete_all", source)))
        }
    }
}

fn given_up(decided: &Decided) -> NotTold {
    let call = match decided.what {
        What::Put(..) => "store",
        What::Remove(..) => "delete",
    };
    (call, Refused::Own("not tried, as those before were refused".into()))
}
