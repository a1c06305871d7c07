//! Partitions: whose turn it is at a key.
//!
//! All that changes a key happens under the lock of its partition, in memory, without waiting
//! (`docs/decisions/0022-operations-run-where-they-are-called.md`). What must wait (for a lock of another
//! caller, for the user's database, for room in the log) lets the partition go, and the key is *claimed*
//! meanwhile: others who want to change it queue up, and go on in the order in which they came. Readers
//! never come here.
//!
//! Called by the maps for each change. Cost for a key that nobody locks, claims or waits for: one
//! uncontended lock, and a look whether there is any such key in the partition. No waker runs under the
//! lock.

mod keys;
mod wait;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use hotrestart::Clock;

use crate::caller::Caller;
use crate::data::PartitionId;
use crate::timers::Timers;
use keys::{Keys, Place, Ticket};
pub(crate) use keys::{Release, Wanted};
pub(crate) use wait::{Outcome, Wait};

/// The number of a map among a member's: never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct MapNo(pub(crate) u32);

/// The partitions of a member.
pub(crate) struct Partitions {
    each: Box<[CachePadded<Mutex<Keys>>]>,
    timers: Timers,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Partitions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partitions").field("count", &self.each.len()).finish_non_exhaustive()
    }
}

impl Partitions {
    pub(crate) fn new(count: u32, clock: Arc<dyn Clock>) -> Partitions {
        let each = (0..count).map(|_| CachePadded::default()).collect();
        Partitions { each, timers: Timers::default(), clock }
    }

    /// How many there are.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.each.len() as u32
    }

    /// Has a partition to oneself.
    #[inline]
    pub(crate) fn lock(&self, partition: PartitionId) -> Locked<'_> {
        let keys = self.each[partition.0 as usize].lock();
        let keys = Some(keys.unwrap_or_else(PoisonError::into_inner));
        Locked { partitions: self, partition, keys }
    }

    /// Ends the leases and waits that are over.
    pub(crate) fn tick(&self) {
        let now_ms = self.clock.monotonic_ms();
        for partition in self.timers.take_due(now_ms) {
            self.lock(partition).keys().tick(now_ms);
        }
    }

    /// Leases and waits by the time when they end.
    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Forgets a map's locks, and ends all waits for its keys.
    pub(crate) fn forget_map(&self, map: MapNo) {
        for partition in 0..self.count() {
            self.lock(PartitionId(partition)).keys().forget_map(map);
        }
    }
}

/// A partition that somebody has to himself. When it is let go, who may go on is woken.
pub(crate) struct Locked<'a> {
    partitions: &'a Partitions,
    partition: PartitionId,
    /// There until it is dropped.
    keys: Option<MutexGuard<'a, Keys>>,
}

impl Locked<'_> {
    #[inline]
    fn keys(&mut self) -> &mut Keys {
        self.keys.as_mut().expect("not dropped yet")
    }

    #[inline]
    pub(crate) fn partition(&self) -> PartitionId {
        self.partition
    }

    fn now_ms(&self) -> u64 {
        self.partitions.clock.monotonic_ms()
    }

    /// Whether a caller may change a key now.
    #[inline]
    pub(crate) fn admits(&mut self, place: Place<'_>, caller: Caller) -> bool {
        if self.keys().are_free() {
            return true;
        }
        let now_ms = self.now_ms();
        self.keys().admits(place, caller, now_ms)
    }

    /// Gives a caller the key if it may have it now.
    pub(crate) fn take(&mut self, place: Place<'_>, caller: Caller, wanted: Wanted) -> bool {
        let now_ms = self.now_ms();
        self.keys().take(place, caller, wanted, now_ms)
    }

    /// Takes a key back from who had it. Whether there was anything to take back.
    pub(crate) fn release(&mut self, place: Place<'_>, release: Release) -> bool {
        let now_ms = self.now_ms();
        self.keys().release(place, release, now_ms)
    }

    fn withdraw(&mut self, place: Place<'_>, ticket: Ticket) {
        let now_ms = self.now_ms();
        self.keys().withdraw(place, ticket, now_ms);
    }

    /// Who has locked a key.
    pub(crate) fn holder(&mut self, place: Place<'_>) -> Option<Caller> {
        if self.keys().are_free() {
            return None;
        }
        let now_ms = self.now_ms();
        self.keys().holder(place, now_ms)
    }

    /// The keys of a map that are not free, and whether each is locked; else it is claimed.
    pub(crate) fn busy(&mut self, map: MapNo) -> Vec<(Box<[u8]>, bool)> {
        if self.keys().are_free() {
            return Vec::new();
        }
        let now_ms = self.now_ms();
        self.keys().busy(map, now_ms)
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        let mut keys = self.keys.take().expect("dropped once");
        let Some(after) = keys.after() else { return };
        drop(keys);
        if let Some(at_ms) = after.deadline_ms {
            self.partitions.timers.set(at_ms, self.partition);
        }
        after.to_wake.into_iter().for_each(std::task::Waker::wake);
    }
}

/// A key of a map, by which its partition is found again.
#[derive(Clone, Debug)]
pub(crate) struct KeyPlace {
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) partition: PartitionId,
    pub(crate) map: MapNo,
    pub(crate) key: Box<[u8]>,
}

impl KeyPlace {
    fn place(&self) -> Place<'_> {
        (self.map, &self.key)
    }

    /// Takes what is wanted, or waits for it until `deadline_ms` (monotonic). Whether it was there, where
    /// nothing is to be waited for.
    pub(crate) fn take(
        self,
        caller: Caller,
        wanted: Wanted,
        deadline_ms: Option<u64>,
    ) -> Result<bool, Wait> {
        let mut locked = self.partitions.lock(self.partition);
        if locked.take(self.place(), caller, wanted) {
            return Ok(true);
        }
        let is_in_vain = wanted == Wanted::ClaimUnlocked && locked.holder(self.place()).is_some();
        if is_in_vain || deadline_ms.is_some_and(|at_ms| at_ms <= locked.now_ms()) {
            return Ok(false);
        }
        let waiting = locked.keys().wait(self.place(), caller, wanted, deadline_ms);
        drop(locked);
        Err(Wait::new(self, caller, wanted, waiting))
    }

    /// Takes a key back from who had it. Whether there was anything to take back.
    pub(crate) fn release(&self, release: Release) -> bool {
        self.partitions.lock(self.partition).release(self.place(), release)
    }

    /// Who has locked the key.
    pub(crate) fn holder(&self) -> Option<Caller> {
        self.partitions.lock(self.partition).holder(self.place())
    }
}

/// A key that somebody has claimed: free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    /// There until it is given back.
    place: Option<KeyPlace>,
}

impl Claim {
    /// Of a key that was taken for a change.
    pub(crate) fn new(place: KeyPlace) -> Claim {
        Claim { place: Some(place) }
    }

    /// Gives the key back under the lock under which it was changed.
    pub(crate) fn give_back(mut self, locked: &mut Locked<'_>) {
        if let Some(place) = self.place.take() {
            locked.release(place.place(), Release::Claim);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            place.release(Release::Claim);
        }
    }
}
