//! Changes of a map over the user's database: the database first, then memory.
//!
//! Invariants: the key is claimed from before the database is asked until memory has changed, so what the
//! database is told of a key it is told in the order in which memory changes. An error of the database has
//! changed nothing in memory. What the database has taken and memory cannot, memory lets go, so that the next
//! read asks the database. All of it runs in one task that nobody's going away ends (`map_store/calls.rs`).
//!
//! What may go wrong: the process dies between the database and memory. Nobody was told of the change then;
//! the database has it, and memory may have the value before.

use std::sync::Arc;

use super::core::{Changed, MapCore};
use super::foresight::Foreseen;
use super::op::{Going, Kind, Life, Op, When};
use crate::data::PartitionId;
use crate::error::MapError;
use crate::map_store::{Backing, Bytes, NoOutcome};
use crate::partition::{Claim, Locked};
use crate::record::NewValue;
use crate::scratch::{self, Scratch};
use crate::user::Refused;

/// An operation that outlives who asked for it.
struct OwnOp {
    kind: OwnKind,
    when: OwnWhen,
    returns_old: bool,
}

enum OwnKind {
    Put(Bytes, Life),
    Remove(Going),
    SetTtl(u64),
    Load(Bytes),
}

enum OwnWhen {
    Always,
    Absent,
    Present,
    Same(Bytes),
}

impl OwnOp {
    fn of(op: &Op<'_>) -> OwnOp {
        let kind = match op.kind {
            Kind::Put { value, life } => OwnKind::Put(value.plain().to_vec(), life),
            Kind::Remove(going) => OwnKind::Remove(going),
            Kind::SetTtl(ttl_ms) => OwnKind::SetTtl(ttl_ms),
            Kind::Load(value) => OwnKind::Load(value.plain().to_vec()),
        };
        let when = match op.when {
            When::Always => OwnWhen::Always,
            When::Absent => OwnWhen::Absent,
            When::Present => OwnWhen::Present,
            When::Same(value) => OwnWhen::Same(value.to_vec()),
        };
        OwnOp { kind, when, returns_old: op.returns_old }
    }

    fn op(&self) -> Op<'_> {
        let kind = match &self.kind {
            OwnKind::Put(entry, life) => Kind::Put { value: NewValue::new(entry), life: *life },
            OwnKind::Remove(going) => Kind::Remove(*going),
            OwnKind::SetTtl(ttl_ms) => Kind::SetTtl(*ttl_ms),
            OwnKind::Load(entry) => Kind::Load(NewValue::new(entry)),
        };
        let when = match &self.when {
            OwnWhen::Always => When::Always,
            OwnWhen::Absent => When::Absent,
            OwnWhen::Present => When::Present,
            OwnWhen::Same(value) => When::Same(value),
        };
        Op { kind, when, returns_old: self.returns_old }
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
        MapError::MapStore { map: self.name.clone(), call: "(some call)", source: why.into() }
    }

    pub(super) fn not_done(&self, call: &'static str, source: Refused) -> MapError {
        match source {
            Refused::Data(source) => self.bad_data(source),
            Refused::Own(source) => MapError::MapStore { map: self.name.clone(), call, source },
        }
    }

    /// Changes a key that is claimed in the map's database and then in memory, and gives it back.
    pub(super) async fn change_backed(
        self: &Arc<Self>,
        claim: Claim,
        (partition, key): (PartitionId, &[u8]),
        op: &Op<'_>,
    ) -> Result<Changed, MapError> {
        let (core, key, op) = (Arc::clone(self), Box::<[u8]>::from(key), OwnOp::of(op));
        self.in_background(async move {
            let (place, op) = ((partition, &*key), op.op());
            if op.asks_database() {
                core.load_claimed(place).await?;
            }
            let foreseen = core.foresee(&key, &op)?;
            let foreseen = core.store(&key, &op, foreseen).await?;
            core.carry_out(claim, place, &op, foreseen)
        })
        .await
    }

    /// Tells the database what was foreseen. What comes true then.
    pub(super) async fn store(
        &self,
        key: &[u8],
        op: &Op<'_>,
        foreseen: Foreseen,
    ) -> Result<Foreseen, MapError> {
        if self.deferring().is_some() {
            return Ok(foreseen);
        }
        let ready = self.backing().ready(&self.name).await;
        let (_, Some(store)) = ready.map_err(|source| self.not_done("init", source))? else {
            return Ok(foreseen);
        };
        self.await_older((self.partition_of(key)?, key)).await?;
        match foreseen {
            Foreseen::Put(entry) => {
                let own = store.store(key, NewValue::new(&entry).stored()).await;
                let own = own.map_err(|source| self.not_done("store", source))?;
                self.note_taken();
                Ok(Foreseen::Put(own.map_or(entry, |own| plain(&own))))
            }
            Foreseen::Remove { .. } if op.kind == Kind::Remove(Going::Removed) => {
                let deleted = store.delete(key).await;
                deleted.map_err(|source| self.not_done("delete", source))?;
                self.note_taken();
                Ok(foreseen)
            }
            foreseen => Ok(foreseen),
        }
    }

    /// Lets a key go that memory could not give a value which the database has.
    pub(super) fn let_go(
        &self,
        locked: &mut Locked<'_>,
        key: &[u8],
        error: MapError,
    ) -> Result<Changed, MapError> {
        if !self.is_stored() || self.deferring().is_some() {
            return Err(error);
        }
        match self.apply(locked, key, &Op::removal(Going::Evicted)) {
            Ok(_) => {
                tracing::warn!(map = self.name, %error, "stored, and not kept in memory");
                Ok(Changed { is_done: true, old: None, put: None })
            }
            Err(_) => Err(error),
        }
    }
}

/// An entry of which nothing is known but its value.
pub(super) fn plain(value: &[u8]) -> Scratch {
    let mut entry = scratch::take();
    entry.push(NewValue::PLAIN);
    entry.extend_from_slice(value);
    entry
}
