//! A map as bytes: what typed handles, and later clients, ask of it.
//!
//! Invariant: a change of a key happens under its partition's lock, after the key's state was asked
//! whether the caller may change it; so changes of a key follow one another, and whoever is told of them
//! is told in that order. A read asks nobody.
//!
//! What may go wrong: the store refuses (memory, disk, poison), and nothing changed; a caller that waits
//! goes away, and whoever comes after it is let through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hotrestart::codec::Bytes;
use hotrestart::{Clock, StreamId};

use super::foresight::{Foreseen, Stored};
use super::intercepting::Interceptors;
use super::op::{Fate, Op, Rules, Seen, Value};
use super::storing_behind::{RoomWait, is_full};
use crate::caller::Caller;
use crate::data::{DataError, DataRef, PartitionId};
use crate::error::MapError;
use crate::events::{Audience, Lanes, Listeners};
use crate::map_store::{Backing, Behind};
use crate::partition::{Claim, KeyPlace, Locked, MapNo, Outcome, Partitions, Wanted};
use crate::record::Head;
use crate::scratch::Scratch;
use crate::stats::MapCounts;

type Part = hotrestart::Map<Bytes, Bytes>;

/// A map of a member.
pub(crate) struct MapCore {
    pub(crate) no: MapNo,
    pub(crate) name: String,
    pub(crate) rules: Rules,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) clock: Arc<dyn Clock>,
    /// All of the map, and its part in each partition.
    pub(crate) whole: Part,
    pub(crate) parts: Box<[Part]>,
    /// Set before its locks are forgotten.
    pub(crate) is_gone: AtomicBool,
    /// Whether some entry may live otherwise than the map says.
    pub(crate) has_own_lives: AtomicBool,
    /// Who is told of changes, and where they wait to be told.
    pub(crate) listeners: Listeners,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) interceptors: Interceptors,
    /// The map's database, if it has one.
    pub(crate) backing: Option<Arc<Backing>>,
    pub(crate) counts: MapCounts,
}

impl std::fmt::Debug for MapCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapCore")
            .field("name", &self.name)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// What a change did.
#[derive(Debug)]
pub(crate) struct Changed {
    /// Whether its condition held, so that it happened. Of a removal: whether the key was there.
    pub(crate) is_done: bool,
    /// What was there before (the stored form of its value), where the operation asks for it.
    pub(crate) old: Option<Vec<u8>>,
    /// What was put, where an interceptor had a say.
    pub(crate) put: Option<Scratch>,
}

impl MapCore {
    /// The partition of a key, by Hazelcast's rule.
    #[inline]
    pub(crate) fn partition_of(&self, key: &[u8]) -> Result<PartitionId, MapError> {
        let key = DataRef::from_stored(key).map_err(|source| self.bad_data(source))?;
        Ok(key.partition(self.partitions.count()))
    }

    #[inline]
    pub(crate) fn part(&self, partition: PartitionId) -> &Part {
        &self.parts[partition.0 as usize]
    }

    /// Calls `look` with what is known of an entry and its value, without waiting for anybody.
    #[inline]
    pub(crate) fn read<R>(
        &self,
        key: &[u8],
        look: impl FnOnce(Seen<'_>) -> Result<R, DataError>,
    ) -> Result<Option<R>, MapError> {
        let part = self.part(self.partition_of(key)?);
        let found = part.get_with(key, |bytes| {
            let (head, value) = Head::split(bytes)?;
            look(Seen { head, value })
        });
        let found = found.map_err(|source| self.refused(source))?;
        found.transpose().map_err(|source| self.bad_data(source))
    }

    /// Changes a key, once the caller may.
    #[inline]
    pub(crate) async fn change(
        self: &Arc<Self>,
        caller: Caller,
        key: &[u8],
        op: &Op<'_>,
    ) -> Result<Changed, MapError> {
        let place = (self.partition_of(key)?, key);
        if let Some(changed) = self.change_at_once(caller, place, op) {
            return changed;
        }
        // Boxed, so that a future that need not wait, as nearly always, is small.
        let changed = Box::pin(self.change_later(caller, place, op, None)).await?;
        Ok(changed.expect("it waits for ever"))
    }

    /// Changes a key, once the caller may; `None` when it could not, or when there was no room for what is to
    /// wait for the database, until `deadline_ms` (monotonic).
    pub(crate) async fn change_until(
        self: &Arc<Self>,
        caller: Caller,
        key: &[u8],
        op: &Op<'_>,
        deadline_ms: u64,
    ) -> Result<Option<Changed>, MapError> {
        let place = (self.partition_of(key)?, key);
        match self.change_at_once(caller, place, op) {
            Some(changed) => changed.map(Some),
            None => self.change_later(caller, place, op, Some(deadline_ms)).await,
        }
    }

    /// Changes a key if the caller may do so now, and nothing is to be waited for.
    #[inline]
    fn change_at_once(
        &self,
        caller: Caller,
        (partition, key): (PartitionId, &[u8]),
        op: &Op<'_>,
    ) -> Option<Result<Changed, MapError>> {
        let mut locked = self.partitions.lock(partition);
        // Looked at under the lock: see `pass_partitions`.
        let has_a_say = self.interceptors.are_there()
            || self.backing.is_some() && self.must_ask_database(key, op);
        let may = !has_a_say && locked.admits((self.no, key), caller);
        may.then(|| self.apply(&mut locked, key, op)).filter(|changed| !is_full(changed))
    }

    async fn change_later(
        self: &Arc<Self>,
        caller: Caller,
        place: (PartitionId, &[u8]),
        op: &Op<'_>,
        deadline_ms: Option<u64>,
    ) -> Result<Option<Changed>, MapError> {
        match self.claim(caller, place, Wanted::Claim, deadline_ms).await? {
            Some(claim) => {
                let mut room = RoomWait::until(deadline_ms);
                let changed = self.change_claimed(claim, place, (op, None), &mut room).await;
                match is_full(&changed) && room.is_deadline {
                    true => Ok(None),
                    false => changed.map(Some),
                }
            }
            None => Ok(None),
        }
    }

    /// Claims a key for a caller, so that nobody changes it until the claim is gone; `None` where the caller
    /// does not get it ([`MapCore::take`]).
    pub(crate) async fn claim(
        &self,
        caller: Caller,
        (partition, key): (PartitionId, &[u8]),
        wanted: Wanted,
        deadline_ms: Option<u64>,
    ) -> Result<Option<Claim>, MapError> {
        let is_taken = self.take(caller, (partition, key), wanted, deadline_ms).await?;
        Ok(is_taken.then(|| Claim::new(self.place(partition, key))))
    }

    /// Claims a key for a caller, whatever time that takes.
    pub(super) async fn claim_for(
        &self,
        caller: Caller,
        (partition, key): (PartitionId, &[u8]),
        wanted: Wanted,
    ) -> Result<Claim, MapError> {
        let claim = self.claim(caller, (partition, key), wanted, None).await?;
        Ok(claim.expect("it waits for ever"))
    }

    /// Changes a key that the caller has claimed, in the map's database first where it has one, and gives it
    /// back; `known` is what is there, where the caller knows.
    pub(crate) async fn change_claimed(
        self: &Arc<Self>,
        claim: Claim,
        place: (PartitionId, &[u8]),
        (op, known): (&Op<'_>, Option<Stored>),
        room: &mut RoomWait,
    ) -> Result<Changed, MapError> {
        if self.backing.is_some() {
            self.begin_initial_load();
        }
        let (claim, known) = match known {
            None if op.asks_database() && self.backing.is_some() => {
                let (claim, found) = self.look(claim, place, op).await?;
                (claim, Some(found))
            }
            known => (claim, known),
        };
        match self.foresee(place.1, op, known)? {
            Foreseen::Same => self.carry_out(claim, place, op, room).await,
            Foreseen::Unmet(old) => {
                Ok(Changed { is_done: false, old: old.filter(|_| op.returns_old), put: None })
            }
            Foreseen::Met(decided) if self.stores_first(op) => {
                self.change_stored(claim, place, decided, op.returns_old).await
            }
            Foreseen::Met(decided) => {
                let changed = self.carry_out(claim, place, &decided.op(), room).await?;
                self.intercept_after(place.1, &decided);
                Ok(decided.outcome(op.returns_old, changed.is_done))
            }
        }
    }

    /// Changes memory of a key that is claimed, once there is room for what is to wait for the database, and
    /// gives it back.
    pub(super) async fn carry_out(
        self: &Arc<Self>,
        claim: Claim,
        (partition, key): (PartitionId, &[u8]),
        op: &Op<'_>,
        room: &mut RoomWait,
    ) -> Result<Changed, MapError> {
        loop {
            {
                let mut locked = self.partitions.lock(partition);
                let changed = self.apply(&mut locked, key, op);
                if !is_full(&changed) {
                    claim.give_back(&mut locked);
                    return changed;
                }
            }
            self.await_room(room).await?;
        }
    }

    /// Passes every partition's lock: whoever comes to one afterwards sees what was done before.
    pub(super) fn pass_partitions(&self) {
        for partition in (0..self.partitions.count()).map(PartitionId) {
            drop(self.partitions.lock(partition));
        }
    }

    /// Does what an operation asks, now; fails, with nothing changed, where what is to wait for the database
    /// has no room ([`is_full`]).
    pub(super) fn apply(
        &self,
        locked: &mut Locked<'_>,
        key: &[u8],
        op: &Op<'_>,
    ) -> Result<Changed, MapError> {
        let part = self.part(locked.partition());
        let audience = self.audience((locked.partition(), key), op);
        let tells_values = audience.as_ref().is_some_and(Audience::wants_values);
        let (mut old, mut was_there) = (None, false);
        let now_ms = || self.clock.wall_ms();
        let has_own_lives = self.has_own_lives.load(Ordering::Relaxed);
        let fate = if audience.is_some() || op.must_look(&self.rules, has_own_lives) {
            let seen = part.get_with(key, |bytes| {
                let (head, value) = Head::split(bytes)?;
                let seen = Seen { head, value };
                let fate = op.decide(Some(seen), &self.rules, now_ms);
                let copies = op.returns_old
                    || tells_values
                    || matches!(fate, Fate::Put { value: Value::Old, .. });
                Ok((fate, copies.then(|| value.to_vec())))
            });
            match seen.map_err(|source| self.refused(source))? {
                None => op.decide(None, &self.rules, now_ms),
                Some(seen) => {
                    let (fate, value) = seen.map_err(|source| self.bad_data(source))?;
                    (old, was_there) = (value, true);
                    fate
                }
            }
        } else {
            op.decide(None, &self.rules, now_ms)
        };
        let place = (locked.partition(), key);
        let done = match fate {
            Fate::Refused => Ok(false),
            Fate::Remove => match self.behind_of(op) {
                // What was looked for and is nowhere the database does not have either.
                Some(_) if op.asks_database() && !was_there => Ok(false),
                Some(behind) => self.change_behind(behind, place, None),
                None => part.remove(key).map_err(|source| self.refused(source)),
            },
            Fate::Put { head, value, expiry_ms } => {
                let behind = self.behind_of(op);
                let done = match value {
                    Value::New(value) if head == Head::default() => {
                        self.put(place, (value.plain(), value.stored()), expiry_ms, behind)
                    }
                    Value::New(value) => {
                        self.put_with(place, (&head, value.stored()), expiry_ms, behind)
                    }
                    Value::Old => {
                        let value = old.as_deref().expect("copied above");
                        self.put_with(place, (&head, value), expiry_ms, behind)
                    }
                };
                done.map(|()| true)
            }
        };
        if let Some(audience) = audience.filter(|_| !is_full(&done)) {
            let seen = (was_there, old.as_deref());
            self.tell(locked, key, (fate, op, done.as_ref().ok().copied()), seen, audience);
        }
        Ok(Changed { is_done: done?, old: old.filter(|_| op.returns_old), put: None })
    }

    #[inline]
    fn put(
        &self,
        (partition, key): (PartitionId, &[u8]),
        (entry, value): (&[u8], &[u8]),
        expiry_ms: Option<u64>,
        behind: Option<&Behind>,
    ) -> Result<(), MapError> {
        if let Some(behind) = behind {
            let entry = Some((entry, expiry_ms, value));
            return self.change_behind(behind, (partition, key), entry).map(drop);
        }
        let part = self.part(partition);
        match expiry_ms {
            None => part.insert(key, entry),
            Some(expiry_ms) => part.insert_expiring(key, entry, expiry_ms),
        }
        .map_err(|source| self.refused(source))
    }

    /// Puts an entry of which more is known than its value.
    fn put_with(
        &self,
        place: (PartitionId, &[u8]),
        (head, value): (&Head, &[u8]),
        expiry_ms: Option<u64>,
        behind: Option<&Behind>,
    ) -> Result<(), MapError> {
        if head.ttl_ms.is_some() || head.max_idle_ms.is_some() {
            self.has_own_lives.store(true, Ordering::Relaxed);
        }
        let mut entry = crate::scratch::take();
        head.append(&mut entry);
        entry.extend_from_slice(value);
        self.put(place, (&entry, value), expiry_ms, behind)
    }

    /// Takes a key for a caller, or waits for it until `deadline_ms` (monotonic). Whether the caller has it:
    /// it does unless the time was over, or the key is locked and was wanted unlocked.
    pub(crate) async fn take(
        &self,
        caller: Caller,
        (partition, key): (PartitionId, &[u8]),
        wanted: Wanted,
        deadline_ms: Option<u64>,
    ) -> Result<bool, MapError> {
        let place = self.place(partition, key);
        let taken = place.clone().take(caller, wanted, deadline_ms);
        // Whoever came after the map's locks were forgotten sees it here; others were told.
        if self.is_gone.load(Ordering::Acquire) {
            if matches!(taken, Ok(true)) {
                place.release(wanted.undone_by(caller));
            }
            return Err(self.gone());
        }
        match taken {
            Ok(is_taken) => Ok(is_taken),
            Err(wait) => match wait.await {
                Outcome::Granted => Ok(true),
                Outcome::TimedOut | Outcome::Locked => Ok(false),
                Outcome::Gone => Err(self.gone()),
            },
        }
    }

    pub(crate) fn place(&self, partition: PartitionId, key: &[u8]) -> KeyPlace {
        KeyPlace {
            partitions: Arc::clone(&self.partitions),
            partition,
            map: self.no,
            key: key.into(),
        }
    }

    #[cold]
    pub(crate) fn bad_data(&self, source: DataError) -> MapError {
        MapError::Data { map: self.name.clone(), source }
    }

    #[cold]
    pub(crate) fn refused(&self, source: hotrestart::Error) -> MapError {
        match source {
            hotrestart::Error::Dropped { .. } => self.gone(),
            source => MapError::Store { map: self.name.clone(), source },
        }
    }

    #[cold]
    pub(crate) fn gone(&self) -> MapError {
        MapError::Gone { map: self.name.clone() }
    }
}

/// The stream of a partition.
pub(crate) fn stream_of(partition: PartitionId) -> StreamId {
    StreamId(partition.0)
}
