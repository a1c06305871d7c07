//! Changes of a map over the user's database: the database first, then memory.
//!
//! Invariants: the key is claimed from before the database is asked until memory has changed, so what the
//! database is told of a key it is told in the order in which memory changes. An error of the database has
//! changed nothing. Where nobody knows what it has done (it panicked, or refused several keys together), and
//! where memory has no room for what it has taken, memory lets the key go, so that the next read asks the
//! database; where the store refuses that, too, the caller hears of it ([`MapError::Outdated`]). From the
//! question to the database on, all of it runs in one task that nobody's going away ends
//! (`map_store/calls.rs`); what is decided before, interceptors included, is decided where the operation is
//! polled.
//!
//! What may go wrong: the process dies, or its runtime is shut down, between the database and memory. Nobody
//! was told of the change then; the database has it, and memory may have the value before.

use std::sync::Arc;

use super::core::{Changed, MapCore};
use super::foresight::{Decided, Stored, What};
use super::op::{Going, Kind, Op};
use crate::data::{Data, DataRef, PartitionId};
use crate::error::MapError;
use crate::map_store::{AnyStore, Backing, NoOutcome};
use crate::partition::{Claim, Locked};
use crate::record::NewValue;
use crate::scratch::{self, Scratch};
use crate::user::Refused;

/// What the database was asked, and why it did not do so.
pub(super) type NotTold = (&'static str, Refused);

/// A change that is done, and of which the interceptors have not heard.
struct Unheard {
    core: Arc<MapCore>,
    key: Box<[u8]>,
    /// There until they have.
    done: Option<(Decided, Changed)>,
}

impl Unheard {
    fn tell(mut self, returns_old: bool) -> Changed {
        let (decided, changed) = self.done.take().expect("told once");
        self.core.intercept_after(&self.key, &decided);
        decided.outcome(returns_old, changed.is_done)
    }
}

impl Drop for Unheard {
    /// Who wanted the change has gone away, and this may be a thread that must not wait.
    fn drop(&mut self) {
        let Some((decided, _)) = self.done.take() else { return };
        if !self.core.interceptors.are_there() {
            return;
        }
        let (core, key) = (Arc::clone(&self.core), std::mem::take(&mut self.key));
        let tell = move || core.intercept_after(&key, &decided);
        let told = self.core.backing().spawn(async { tokio::task::spawn_blocking(tell).await });
        if let Err(outcome) = told {
            tracing::warn!(error = %self.core.no_outcome(outcome), "interceptors do not hear of it");
        }
    }
}

impl Decided {
    /// Tells the database, and takes what that made of it.
    pub(super) async fn tell(&mut self, store: &dyn AnyStore, key: &[u8]) -> Result<(), NotTold> {
        match &mut self.what {
            What::Put(entry, _) => {
                let own = store.store(key, NewValue::new(entry).stored()).await;
                if let Some(own) = own.map_err(|source| ("store", source))? {
                    *entry = plain(&own);
                }
                Ok(())
            }
            What::Remove(..) => store.delete(key).await.map_err(|source| ("delete", source)),
        }
    }
}

impl MapCore {
    pub(super) fn backing(&self) -> &Backing {
        self.backing.as_ref().expect("asked for by who knows that there is one")
    }

    /// Whether changes reach a database.
    pub(super) fn is_stored(&self) -> bool {
        self.backing.as_ref().is_some_and(|backing| backing.stores())
    }

    /// Whether the database is to be told of an operation before it is done.
    pub(super) fn stores_first(&self, op: &Op<'_>) -> bool {
        self.is_stored() && self.deferring().is_none() && op.is_stored()
    }

    /// Has something run to its end, whoever waits for it.
    pub(super) async fn in_background<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl Future<Output = Result<T, MapError>> + Send + 'static,
    ) -> Result<T, MapError> {
        self.begin_initial_load();
        match self.backing().run(call).await {
            Ok(done) => done,
            Err(outcome) => Err(self.no_outcome(outcome)),
        }
    }

    pub(super) fn no_outcome(&self, outcome: NoOutcome) -> MapError {
        let why = match outcome {
            NoOutcome::Panicked(message) => format!("it panicked: {message}"),
            NoOutcome::Stopped(why) => format!("it was not called to its end: {why}"),
        };
        self.not_done(("(some call)", Refused::Own(why.into())), None)
    }

    /// The error of a call, about a key where it was about one.
    pub(super) fn not_done(&self, (call, source): NotTold, key: Option<&[u8]>) -> MapError {
        match source {
            Refused::Data(source) => self.bad_data(source),
            Refused::Own(source) => {
                let (map, key) = (self.name.clone(), key.map(named));
                MapError::MapStore { map, call, key, source }
            }
        }
    }

    /// What stores, once it was told of its beginning.
    pub(super) async fn store(&self) -> Result<&dyn AnyStore, MapError> {
        let ready = self.backing().ready(&self.name).await;
        let (_, store) = ready.map_err(|source| self.not_done(("init", source), None))?;
        Ok(store.expect("asked for by who knows that there is one"))
    }

    /// What is there of a key that is claimed, for an operation that asks the database for what memory does
    /// not have.
    pub(super) async fn look(
        self: &Arc<Self>,
        claim: Claim,
        place: (PartitionId, &[u8]),
        op: &Op<'_>,
    ) -> Result<(Claim, Stored), MapError> {
        let found = self.read(place.1, |seen| Ok(seen.value.to_vec()))?;
        if found.is_some() {
            return Ok((claim, found));
        }
        let (claim, fetched) = self.fetch(claim, place).await?;
        // Only what memory has can be given another life.
        if matches!(op.kind, Kind::SetTtl(_)) {
            fetched.kept?;
        }
        Ok((claim, fetched.value))
    }

    /// Does what is decided of a key that is claimed in the map's database and then in memory, and gives it
    /// back.
    pub(super) async fn change_stored(
        self: &Arc<Self>,
        claim: Claim,
        (partition, key): (PartitionId, &[u8]),
        mut decided: Decided,
        returns_old: bool,
    ) -> Result<Changed, MapError> {
        let (core, key) = (Arc::clone(self), Box::<[u8]>::from(key));
        let unheard = self.in_background(async move {
            let place = (partition, &*key);
            core.await_older(place).await?;
            let told = decided.tell(core.store().await?, &key).await;
            if let Err(not_told) = told {
                let may_be_done = not_told.1.may_be_done();
                return Err(core.not_stored(claim, place, not_told, may_be_done));
            }
            core.note_taken();
            let changed = core.follow(claim, place, &decided.op())?;
            Ok(Unheard { core, key, done: Some((decided, changed)) })
        });
        Ok(unheard.await?.tell(returns_old))
    }

    /// Changes memory of a key that is claimed as the database was changed, and gives it back. Where memory
    /// cannot, it lets the key go.
    pub(super) fn follow(
        &self,
        claim: Claim,
        (partition, key): (PartitionId, &[u8]),
        op: &Op<'_>,
    ) -> Result<Changed, MapError> {
        let mut locked = self.partitions.lock(partition);
        let changed = self.apply(&mut locked, key, op).or_else(|error| {
            tracing::warn!(map = self.name, %error, "stored, and not kept in memory");
            self.let_go(&mut locked, key)?;
            Ok(Changed { is_done: true, old: None, put: None })
        });
        claim.give_back(&mut locked);
        changed
    }

    /// The error of a database that was told of a key that is claimed; gives the key back. Where it may have
    /// changed the key all the same, memory lets that go.
    pub(super) fn not_stored(
        &self,
        claim: Claim,
        (partition, key): (PartitionId, &[u8]),
        not_told: NotTold,
        may_be_done: bool,
    ) -> MapError {
        let mut locked = self.partitions.lock(partition);
        let let_go = if may_be_done { self.let_go(&mut locked, key) } else { Ok(()) };
        claim.give_back(&mut locked);
        let_go.err().unwrap_or_else(|| self.not_done(not_told, Some(key)))
    }

    /// Lets a key go of which the database may have something else than memory.
    pub(super) fn let_go(&self, locked: &mut Locked<'_>, key: &[u8]) -> Result<(), MapError> {
        match self.apply(locked, key, &Op::removal(Going::Evicted)) {
            Ok(_) => Ok(()),
            Err(MapError::Store { map, source }) => {
                let error = MapError::Outdated { map, key: named(key), source };
                tracing::error!(%error, "memory and database differ");
                Err(error)
            }
            Err(error) => Err(error),
        }
    }
}

fn named(key: &[u8]) -> Data {
    DataRef::from_stored(key).expect("its partition was reckoned from it").to_data()
}

/// An entry of which nothing is known but its value.
pub(super) fn plain(value: &[u8]) -> Scratch {
    let mut entry = scratch::take();
    entry.push(NewValue::PLAIN);
    entry.extend_from_slice(value);
    entry
}
