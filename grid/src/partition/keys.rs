//! Keys of a partition that are locked, claimed or waited for; of any other key nothing is known here.
//!
//! Invariants: a key is claimed by at most one, and locked by at most one caller; while a key is claimed,
//! or locked by somebody else, nobody is let through. Whoever waits is let through in the order of coming,
//! but for those who wait for a lock that another caller holds: its holder passes them, and so does who
//! only loads the key; who wants it unlocked is sent away. A key that is free has nobody waiting, so that a
//! new caller may go ahead at once, and has no state here.
//!
//! Called by `mod.rs` under the partition's lock; time is passed in (milliseconds, monotonic). It wakes
//! nobody: who is to be woken is handed to the caller, who has let the lock go then. Cost: a look-up or
//! two by hash, and a step in an ordered map where a deadline is set.

use std::collections::btree_map::BTreeMap;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use super::MapNo;
use super::wait::{Outcome, Slot};
use crate::caller::Caller;

/// The number of a wait, or of a lock's lease, in its partition: never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ticket(u64);

/// What a caller wants a key for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// To change it: it is claimed until the change is done.
    Claim,
    /// The same, but not when somebody has locked it, or does so before.
    ClaimUnlocked,
    /// To load it, which is no change that a lock of another caller is about: likewise claimed.
    Load,
    /// To lock it, for so long in milliseconds, or until it is unlocked.
    Lock {
        /// The lease.
        lease_ms: Option<u64>,
    },
}

impl Wanted {
    /// What gives it back.
    pub(crate) fn undone_by(self, caller: Caller) -> Release {
        match self {
            Wanted::Claim | Wanted::ClaimUnlocked | Wanted::Load => Release::Claim,
            Wanted::Lock { .. } => Release::Lock(caller),
        }
    }
}

/// What is given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Release {
    /// A claim.
    Claim,
    /// One of the times that a caller has locked the key.
    Lock(Caller),
    /// The lock, whoever has it.
    Force,
}

/// Where a key is: its map and its bytes.
pub(crate) type Place<'a> = (MapNo, &'a [u8]);

/// The same, kept.
type OwnPlace = (MapNo, Box<[u8]>);

/// A caller that waits for a key.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    caller: Caller,
    wanted: Wanted,
    deadline_ms: Option<u64>,
    slot: Arc<Slot>,
}

#[derive(Debug)]
struct Lock {
    caller: Caller,
    /// How often it must be unlocked.
    count: u64,
    /// When it ends by itself.
    lease: Option<(u64, Ticket)>,
}

/// A key that is not free.
#[derive(Debug, Default)]
struct Busy {
    is_claimed: bool,
    lock: Option<Lock>,
    waiting: VecDeque<Waiting>,
}

impl Busy {
    /// Whether a caller may go ahead, or be let through.
    fn admits(&self, caller: Caller, wanted: Wanted) -> bool {
        let is_anothers = self.lock.as_ref().is_some_and(|lock| lock.caller != caller);
        let is_locked_out = match wanted {
            Wanted::Load => false,
            Wanted::ClaimUnlocked => self.lock.is_some(),
            Wanted::Claim | Wanted::Lock { .. } => is_anothers,
        };
        !self.is_claimed && !is_locked_out
    }

    fn is_free(&self) -> bool {
        !self.is_claimed && self.lock.is_none() && self.waiting.is_empty()
    }
}

/// The keys of a partition that are not free.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    maps: HashMap<MapNo, HashMap<Box<[u8]>, Busy>>,
    deadlines: Deadlines,
    to_wake: Vec<Waker>,
}

/// What is to be done without the partition's lock.
#[derive(Debug)]
pub(crate) struct After {
    /// Who may go on.
    pub(crate) to_wake: Vec<Waker>,
    /// When the partition is to be looked at again, if that is not known yet.
    pub(crate) deadline_ms: Option<u64>,
}

/// Leases and waits that end by themselves, the next one first.
#[derive(Debug, Default)]
struct Deadlines {
    keys: BTreeMap<(u64, Ticket), OwnPlace>,
    last_ticket: u64,
    /// The earliest that a timer was asked for, until it was due.
    announced_ms: Option<u64>,
}

impl Deadlines {
    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn set(&mut self, at_ms: u64, ticket: Ticket, (map, key): Place<'_>) {
        self.keys.insert((at_ms, ticket), (map, key.into()));
    }

    fn first_ms(&self) -> Option<u64> {
        self.keys.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    /// The first deadline, where it comes before what a timer was asked for.
    fn newly_first(&mut self) -> Option<u64> {
        let first_ms = self.first_ms()?;
        let is_new = self.announced_ms.is_none_or(|announced_ms| first_ms < announced_ms);
        is_new.then(|| *self.announced_ms.insert(first_ms))
    }
}

impl Keys {
    /// Whether every key of the partition is free: the answer nearly always.
    #[inline]
    pub(crate) fn are_free(&self) -> bool {
        self.maps.is_empty()
    }

    /// Whether a caller may change a key now.
    #[inline]
    pub(crate) fn admits(&mut self, place: Place<'_>, caller: Caller, now_ms: u64) -> bool {
        self.admits_to(place, caller, Wanted::Claim, now_ms)
    }

    fn admits_to(&mut self, place: Place<'_>, caller: Caller, wanted: Wanted, now_ms: u64) -> bool {
        let busy = if self.are_free() { None } else { self.settled(place, now_ms) };
        busy.is_none_or(|busy| busy.admits(caller, wanted))
    }

    /// Gives a caller the key if it may have it now.
    pub(crate) fn take(
        &mut self,
        place: Place<'_>,
        caller: Caller,
        wanted: Wanted,
        now_ms: u64,
    ) -> bool {
        if !self.admits_to(place, caller, wanted, now_ms) {
            return false;
        }
        let busy = busy_of(&mut self.maps, place);
        give(busy, &mut self.deadlines, place, (caller, wanted), now_ms);
        true
    }

    /// Puts a caller at the end of those who wait for a key, until `deadline_ms`.
    pub(crate) fn wait(
        &mut self,
        place: Place<'_>,
        caller: Caller,
        wanted: Wanted,
        deadline_ms: Option<u64>,
    ) -> (Ticket, Arc<Slot>) {
        let (ticket, slot) = (self.deadlines.ticket(), Arc::<Slot>::default());
        if let Some(at_ms) = deadline_ms {
            self.deadlines.set(at_ms, ticket, place);
        }
        let waiting = Waiting { ticket, caller, wanted, deadline_ms, slot: Arc::clone(&slot) };
        busy_of(&mut self.maps, place).waiting.push_back(waiting);
        (ticket, slot)
    }

    /// Somebody does not wait any longer.
    pub(crate) fn withdraw(&mut self, place: Place<'_>, ticket: Ticket, now_ms: u64) {
        let Some(busy) = find(&mut self.maps, place) else { return };
        if let Some(at) = busy.waiting.iter().position(|waiting| waiting.ticket == ticket) {
            let gone = busy.waiting.remove(at).expect("found there");
            forget(&mut self.deadlines, &gone);
        }
        self.settled(place, now_ms);
    }

    /// Takes a key back from who had it. Whether there was anything to take back.
    pub(crate) fn release(&mut self, place: Place<'_>, release: Release, now_ms: u64) -> bool {
        let Some(busy) = self.settled(place, now_ms) else { return false };
        let ends_lock = match (release, &mut busy.lock) {
            (Release::Claim, _) => {
                let was_claimed = std::mem::take(&mut busy.is_claimed);
                self.settled(place, now_ms);
                return was_claimed;
            }
            (Release::Lock(caller), Some(lock)) if lock.caller == caller => {
                lock.count -= 1;
                lock.count == 0
            }
            (Release::Force, Some(_)) => true,
            (Release::Lock(_) | Release::Force, _) => return false,
        };
        if ends_lock {
            let lease = busy.lock.take().and_then(|lock| lock.lease);
            lease.map(|lease| self.deadlines.keys.remove(&lease));
            self.settled(place, now_ms);
        }
        true
    }

    /// Who has locked a key.
    pub(crate) fn holder(&mut self, place: Place<'_>, now_ms: u64) -> Option<Caller> {
        if self.are_free() {
            return None;
        }
        self.settled(place, now_ms)?.lock.as_ref().map(|lock| lock.caller)
    }

    /// The keys of a map that are not free, and whether each is locked; else it is claimed.
    pub(crate) fn busy(&mut self, map: MapNo, now_ms: u64) -> Vec<(Box<[u8]>, bool)> {
        self.tick(now_ms);
        let keys = self.maps.get(&map).into_iter().flatten();
        keys.map(|(key, busy)| (key.clone(), busy.lock.is_some())).collect()
    }

    /// The map is gone, and with it its locks: whoever waits hears of it.
    pub(crate) fn forget_map(&mut self, map: MapNo) {
        for (_, mut busy) in self.maps.remove(&map).into_iter().flatten() {
            let lease = busy.lock.take().and_then(|lock| lock.lease);
            lease.map(|lease| self.deadlines.keys.remove(&lease));
            for waiting in busy.waiting {
                forget(&mut self.deadlines, &waiting);
                self.to_wake.extend(waiting.slot.set(Outcome::Gone));
            }
        }
    }

    /// Ends what is over.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        if self.deadlines.announced_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.deadlines.announced_ms = None;
        }
        while self.deadlines.first_ms().is_some_and(|at_ms| at_ms <= now_ms) {
            let (_, (map, key)) = self.deadlines.keys.pop_first().expect("there is one");
            self.settled((map, &key), now_ms);
        }
    }

    /// What is to be done once the partition's lock is let go: nothing, nearly always.
    #[inline]
    pub(crate) fn after(&mut self) -> Option<After> {
        if self.to_wake.is_empty() && self.deadlines.keys.is_empty() {
            return None;
        }
        let to_wake = std::mem::take(&mut self.to_wake);
        Some(After { to_wake, deadline_ms: self.deadlines.newly_first() })
    }

    /// What a key is like once all that is over has ended and whoever can be let through was; `None` when
    /// it is free.
    fn settled(&mut self, place: Place<'_>, now_ms: u64) -> Option<&mut Busy> {
        let (map, key) = place;
        let keys = self.maps.get_mut(&map)?;
        let busy = keys.get_mut(key)?;
        if let Some(lease) = busy.lock.as_ref().and_then(|lock| lock.lease)
            && lease.0 <= now_ms
        {
            busy.lock = None;
            self.deadlines.keys.remove(&lease);
        }
        let is_late = |waiting: &Waiting| waiting.deadline_ms.is_some_and(|at_ms| at_ms <= now_ms);
        send_away(busy, is_late, Outcome::TimedOut, (&mut self.deadlines, &mut self.to_wake));
        while let Some(at) = busy.waiting.iter().position(may_go_on(busy)) {
            let waiting = busy.waiting.remove(at).expect("found there");
            forget(&mut self.deadlines, &waiting);
            let (caller, wanted) = (waiting.caller, waiting.wanted);
            give(busy, &mut self.deadlines, place, (caller, wanted), now_ms);
            self.to_wake.extend(waiting.slot.set(Outcome::Granted));
        }
        if busy.lock.is_some() {
            let is_locked_out = |waiting: &Waiting| waiting.wanted == Wanted::ClaimUnlocked;
            send_away(
                busy,
                is_locked_out,
                Outcome::Locked,
                (&mut self.deadlines, &mut self.to_wake),
            );
        }
        if !busy.is_free() {
            return self.maps.get_mut(&map)?.get_mut(key);
        }
        keys.remove(key);
        if keys.is_empty() {
            self.maps.remove(&map);
        }
        None
    }
}

fn find<'a>(
    maps: &'a mut HashMap<MapNo, HashMap<Box<[u8]>, Busy>>,
    (map, key): Place<'_>,
) -> Option<&'a mut Busy> {
    maps.get_mut(&map)?.get_mut(key)
}

fn busy_of<'a>(
    maps: &'a mut HashMap<MapNo, HashMap<Box<[u8]>, Busy>>,
    (map, key): Place<'_>,
) -> &'a mut Busy {
    maps.entry(map).or_default().entry(key.into()).or_default()
}

/// Ends waits without what was wanted.
fn send_away(
    busy: &mut Busy,
    is_one: impl Fn(&Waiting) -> bool,
    outcome: Outcome,
    (deadlines, to_wake): (&mut Deadlines, &mut Vec<Waker>),
) {
    busy.waiting.retain(|waiting| {
        let is_one = is_one(waiting);
        if is_one {
            forget(deadlines, waiting);
            to_wake.extend(waiting.slot.set(outcome));
        }
        !is_one
    });
}

/// Who among those that wait for a key may go on.
fn may_go_on(busy: &Busy) -> impl Fn(&Waiting) -> bool {
    |waiting| busy.admits(waiting.caller, waiting.wanted)
}

/// A wait is over, so its deadline is none any more.
fn forget(deadlines: &mut Deadlines, waiting: &Waiting) {
    waiting.deadline_ms.map(|at_ms| deadlines.keys.remove(&(at_ms, waiting.ticket)));
}

/// The caller, who may, gets what it wants.
fn give(
    busy: &mut Busy,
    deadlines: &mut Deadlines,
    place: Place<'_>,
    (caller, wanted): (Caller, Wanted),
    now_ms: u64,
) {
    let Wanted::Lock { lease_ms } = wanted else {
        busy.is_claimed = true;
        return;
    };
    let lock = busy.lock.get_or_insert(Lock { caller, count: 0, lease: None });
    lock.count += 1;
    // Whoever locks again renews the lease.
    lock.lease.take().map(|lease| deadlines.keys.remove(&lease));
    lock.lease = lease_ms.map(|lease_ms| {
        let lease = (now_ms.saturating_add(lease_ms), deadlines.ticket());
        deadlines.set(lease.0, lease.1, place);
        lease
    });
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
