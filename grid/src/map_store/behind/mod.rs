//! Changes of a map that reach its database later: what of them waits, in the store and in memory.
//!
//! Invariants: a change that waits is a record in a map of the member's own, in the same stream as the
//! entry and written in one group with it; so after a crash both are there or none. The record goes when
//! the database has taken the change, so each change reaches the database at least once. What the queues
//! know is what the records say: both change under the queue's lock, but that the record of what was told
//! goes first: who looks for it then asks the database, which has it.
//!
//! A record has the key's bytes and eight of a number (big-endian) as its key, and as its value
//!
//! | bytes | |
//! | --- | --- |
//! | 1 | 0: the key gets a value; 1: it goes |
//! | 8 | when it is due, milliseconds since 1970, little-endian |
//! | the rest | the value in its stored form |
//!
//! What may go wrong: the store refuses the group, and nothing has changed; a record cannot be removed, and
//! the change is told again, before later ones of its key.

mod aside;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use hotrestart::codec::Bytes;
use hotrestart::{Clock, DiskLog, Durability, GroupOutcome, MapOptions, StreamId, hdstore};
use tokio::sync::Notify;

use super::MapStoreConfig;
use super::queue::{Due, Queue, Refusal, Retry};
use crate::data::PartitionId;

type Part = hotrestart::Map<Bytes, Bytes>;

/// Names of maps that are the member's own begin so.
pub(crate) const OWN: &str = "hd:";

const STORE: u8 = 0;
const DELETE: u8 = 1;
const HEAD: usize = 9;

/// The name of the map that has what waits of another.
pub(crate) fn records_of(map: &str) -> String {
    format!("{OWN}pending:{map}")
}

/// A change on its way to the database.
#[derive(Debug)]
pub(crate) struct Away {
    pub(crate) partition: PartitionId,
    pub(crate) due: Due,
    /// The value (stored form); nothing where the key goes.
    pub(crate) value: Option<Vec<u8>>,
}

/// A change of one key, and what stands for it in the map itself.
pub(crate) struct Change<'a> {
    pub(crate) part: &'a Part,
    pub(crate) stream: StreamId,
    pub(crate) partition: PartitionId,
    pub(crate) key: &'a [u8],
    /// The entry, when it expires, and its value (stored form); nothing where the key goes.
    pub(crate) entry: Option<(&'a [u8], Option<u64>, &'a [u8])>,
}

/// Why a change was not done.
#[derive(Debug)]
pub(crate) enum NotChanged {
    /// As many wait as may: nothing has changed.
    Full,
    /// As for [`hdstore::Group::commit`].
    Refused(hotrestart::Error),
}

/// What waits of a map.
pub(crate) struct Behind {
    /// Whether changes wait; else only those do that waited before the map was written through.
    pub(crate) defers: bool,
    delay_ms: u64,
    coalesces: bool,
    capacity: u64,
    retry: Retry,
    memory: hdstore::Store<DiskLog>,
    records: Box<[Part]>,
    queues: Box<[CachePadded<Mutex<Queue>>]>,
    /// Partitions by the time when something of them is due.
    schedule: Mutex<BTreeSet<(u64, PartitionId)>>,
    clock: Arc<dyn Clock>,
    /// Something is due earlier than was thought, or time has passed.
    pub(crate) wake: Notify,
    /// Something was stored or set aside.
    pub(crate) settled: Notify,
    waiting: AtomicU64,
    taken: AtomicU64,
    refusals: AtomicU64,
    /// Batches in a row of which nothing was taken.
    in_vain: AtomicU64,
    is_stopped: AtomicBool,
}

impl Behind {
    /// Of a map that is written behind, or that was and has changes that wait still; else nothing.
    ///
    /// # Errors
    /// As for opening a map.
    pub(crate) fn open(
        memory: &hdstore::Store<DiskLog>,
        map: &str,
        config: &MapStoreConfig,
        streams: &[StreamId],
        (options, clock): (MapOptions<Durability>, &Arc<dyn Clock>),
    ) -> Result<Option<Behind>, hotrestart::Error> {
        let name = records_of(map);
        let defers = !config.write_delay.is_zero();
        if !defers && !memory.maps().iter().any(|known| known.0 == name) {
            return Ok(None);
        }
        // With the entry a record is as durable as that; that it goes may be lost with all that came later.
        let whole: Part = memory.map(&name, options.durability(Durability::Buffered))?;
        if !defers && whole.is_empty() {
            return Ok(None);
        }
        let records: Result<Box<[Part]>, _> =
            streams.iter().map(|stream| whole.in_stream(*stream)).collect();
        let behind = Behind {
            defers,
            delay_ms: crate::map::ms(config.write_delay),
            coalesces: config.write_coalescing,
            capacity: config.write_capacity.get(),
            retry: Retry {
                refused_max: config.refusals_max.get(),
                first_ms: crate::map::ms(config.retry_first).max(1),
                longest_ms: crate::map::ms(config.retry_longest).max(1),
            },
            memory: memory.clone(),
            records: records?,
            queues: streams.iter().map(|_| CachePadded::default()).collect(),
            schedule: Mutex::default(),
            clock: Arc::clone(clock),
            wake: Notify::new(),
            settled: Notify::new(),
            waiting: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            in_vain: AtomicU64::new(0),
            is_stopped: AtomicBool::new(false),
        };
        behind.take_up();
        Ok(Some(behind))
    }

    /// Takes up what a former life has left.
    fn take_up(&self) {
        let (now_ms, wall_ms) = (self.clock.monotonic_ms(), self.clock.wall_ms());
        for (partition, records) in (0..).map(PartitionId).zip(&self.records) {
            let mut found: Vec<(Vec<u8>, u64, u64)> = Vec::new();
            for entry in records {
                let (name, record) = (entry.key_bytes(), entry.value_bytes());
                let Some((key, number)) = name.split_last_chunk::<8>() else { continue };
                let Some((_, due, _)) = split(record) else { continue };
                let left_ms = due.saturating_sub(wall_ms).min(self.delay_ms);
                let due_ms = now_ms.saturating_add(left_ms);
                found.push((key.to_vec(), u64::from_be_bytes(*number), due_ms));
            }
            found.sort_unstable_by_key(|(_, number, _)| *number);
            self.waiting.fetch_add(found.len() as u64, Ordering::Relaxed);
            let mut queue = self.queue(partition);
            for (key, number, due_ms) in found {
                queue.push(&key, number, due_ms);
            }
            self.announce(partition, &mut queue);
        }
    }

    /// Does a change in the map, and has it wait: in the place of one of its key that waits, or, while there
    /// is room, as one more. Whether the key was there.
    pub(crate) fn change(&self, change: &Change<'_>) -> Result<bool, NotChanged> {
        let mut queue = self.queue(change.partition);
        let (number, replaces) = queue.number_for(change.key, self.coalesces);
        if !replaces && !self.takes_room() {
            return Err(NotChanged::Full);
        }
        let (done, waits) = self.write(change, number, replaces);
        if waits {
            queue.push(change.key, number, self.clock.monotonic_ms().saturating_add(self.delay_ms));
            self.announce(change.partition, &mut queue);
        } else if !replaces {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.settled.notify_waiters();
        }
        done.map_err(NotChanged::Refused)
    }

    /// Takes room for one more change, if there is any.
    fn takes_room(&self) -> bool {
        let one_more = |waiting: u64| (waiting < self.capacity).then(|| waiting + 1);
        self.waiting.try_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Writes a change and the record of it. Whether the key was there, and whether the change waits now.
    fn write(
        &self,
        change: &Change<'_>,
        number: u64,
        replaces: bool,
    ) -> (Result<bool, hotrestart::Error>, bool) {
        let Change { part, stream, partition, key, entry } = *change;
        let records = &self.records[partition.0 as usize];
        let name = name(key, number);
        let kind = if entry.is_some() { STORE } else { DELETE };
        let value = entry.map_or(&[][..], |(_, _, value)| value);
        let due = self.clock.wall_ms().saturating_add(self.delay_ms).to_le_bytes();
        let record = [&[kind][..], &due, value].concat();
        let write = || {
            let mut group = self.memory.group(stream);
            match entry {
                Some((entry, None, _)) => group.insert(part, key, entry)?,
                Some((entry, Some(at_ms), _)) => group.insert_expiring(part, key, entry, at_ms)?,
                None => group.remove(part, key)?,
            };
            group.insert(records, &name, &record)?;
            match group.commit()? {
                GroupOutcome::Done(were_there) => Ok(were_there[0]),
                GroupOutcome::Refused => unreachable!("there is no condition"),
            }
        };
        let done = write();
        // After an error it may be there all the same, though not known to be durable.
        let waits = done.is_ok() || (!replaces && matches!(records.get(&name), Ok(Some(_))));
        (done, waits)
    }

    /// What waits of a key: its newest value, or that it goes.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(crate) fn newest(
        &self,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<Option<Option<Vec<u8>>>, hotrestart::Error> {
        let queue = self.queue(partition);
        let Some(number) = queue.newest(key) else { return Ok(None) };
        self.record(partition, key, number)
    }

    fn record(
        &self,
        partition: PartitionId,
        key: &[u8],
        number: u64,
    ) -> Result<Option<Option<Vec<u8>>>, hotrestart::Error> {
        let found = self.records[partition.0 as usize].get(&name(key, number))?;
        Ok(found.and_then(|entry| {
            let (kind, _, value) = split(entry.value_bytes())?;
            Some((kind == STORE).then(|| value.to_vec()))
        }))
    }

    /// Takes changes that are due, at most so many.
    pub(crate) fn take(&self, most: usize) -> Vec<Away> {
        let now_ms = self.clock.monotonic_ms();
        let mut away = Vec::new();
        while away.len() < most {
            let mut schedule = self.schedule();
            let Some((_, partition)) = schedule.first().copied().filter(|first| first.0 <= now_ms)
            else {
                break;
            };
            schedule.pop_first();
            drop(schedule);
            let mut queue = self.queue(partition);
            queue.looked_at();
            for due in queue.take(now_ms, most - away.len()) {
                match self.record(partition, &due.key, due.number) {
                    Ok(Some(value)) => away.push(Away { partition, due, value }),
                    Ok(None) => {
                        tracing::error!("the record of a change that waits is gone");
                        queue.stored(&due);
                        self.waiting.fetch_sub(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a change that waits cannot be read");
                        queue.given_back(&due, now_ms.saturating_add(self.retry.longest_ms));
                    }
                }
            }
            self.announce(partition, &mut queue);
        }
        away
    }

    /// The database has taken something.
    pub(crate) fn note_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.in_vain.store(0, Ordering::Relaxed);
    }

    /// The database has taken these changes: their records go, which may wait for room in the log. What does
    /// not go is told again.
    pub(crate) fn stored(&self, told: &[Away]) {
        for away in told {
            // Nobody takes the place of what is away: it goes without the lock, as that may take long.
            let is_gone = self.forget(away);
            let mut queue = self.queue(away.partition);
            match is_gone {
                true => queue.stored(&away.due),
                false => {
                    let now_ms = self.clock.monotonic_ms();
                    queue.given_back(&away.due, now_ms.saturating_add(self.retry.longest_ms));
                }
            }
            self.announce(away.partition, &mut queue);
        }
        self.settled.notify_waiters();
    }

    /// Whether a change that is away need not be told any more: a newer one of its key waits, and changes
    /// coalesce. Stays so until it comes back.
    pub(crate) fn is_outdated(&self, away: &Away) -> bool {
        self.coalesces && self.queue(away.partition).newest(&away.due.key) != Some(away.due.number)
    }

    /// The database has refused a change: it is tried again later, or set aside. In place of one that is
    /// outdated the newer one is; its record goes, which may wait for room in the log.
    pub(crate) fn refused(&self, away: &Away, why: &str) {
        let goes = self.is_outdated(away) && self.forget(away);
        let now_ms = self.clock.monotonic_ms();
        self.refusals.fetch_add(1, Ordering::Relaxed);
        let mut queue = self.queue(away.partition);
        let taken = self.taken.load(Ordering::Relaxed);
        let refusal = match goes {
            true => queue.refused_for_newer(&away.due, now_ms, &self.retry),
            false => queue.refused(&away.due, (now_ms, taken), &self.retry, || why.to_owned()),
        };
        self.announce(away.partition, &mut queue);
        drop(queue);
        if refusal == Refusal::Aside {
            tracing::error!(why, "a change that the database refuses is set aside");
        }
        if goes || refusal == Refusal::Aside {
            self.settled.notify_waiters();
        }
    }

    /// Changes were not tried, since the database takes nothing: they wait longer each time in a row.
    pub(crate) fn give_back<'a>(&self, untried: impl IntoIterator<Item = &'a Away>) {
        let in_row = self.in_vain.fetch_add(1, Ordering::Relaxed).min(32);
        let wait_ms = (self.retry.first_ms << in_row).min(self.retry.longest_ms);
        let due_ms = self.clock.monotonic_ms().saturating_add(wait_ms);
        for away in untried {
            let mut queue = self.queue(away.partition);
            queue.given_back(&away.due, due_ms);
            self.announce(away.partition, &mut queue);
        }
    }

    /// Keys of a partition of which changes wait.
    pub(crate) fn keys(&self, partition: PartitionId) -> Vec<Arc<[u8]>> {
        self.queue(partition).keys().cloned().collect()
    }

    /// When something is due next.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.schedule().first().map(|(at_ms, _)| *at_ms)
    }

    /// Has everything that waits be due now. By partition, the number below which everything is to be stored
    /// for what waits now to be.
    pub(crate) fn hurry(&self) -> Vec<u64> {
        let now_ms = self.clock.monotonic_ms();
        let numbers = (0..self.queues.len() as u32).map(PartitionId).map(|partition| {
            let mut queue = self.queue(partition);
            queue.hurry(now_ms);
            self.announce(partition, &mut queue);
            queue.next_number()
        });
        numbers.collect()
    }

    /// Whether all below these numbers is stored, but what is set aside.
    pub(crate) fn is_stored_below(&self, numbers: &[u64]) -> bool {
        let partitions = (0..).map(PartitionId).zip(numbers);
        partitions
            .into_iter()
            .all(|(partition, number)| self.queue(partition).is_stored_below(*number))
    }

    /// Whether nothing of a key waits; or why the oldest change of it is set aside.
    pub(crate) fn is_settled(&self, partition: PartitionId, key: &[u8]) -> Result<bool, Arc<str>> {
        self.queue(partition).is_settled(key)
    }

    /// Whether no more may wait.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting() >= self.capacity
    }

    /// Changes that wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How often the database has refused a change.
    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Has nothing more be taken.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.wake.notify_waiters();
        self.wake.notify_one();
        self.settled.notify_waiters();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }

    /// Removes the record of a change that is done with. Whether it is gone.
    fn forget(&self, away: &Away) -> bool {
        let name = name(&away.due.key, away.due.number);
        let removed = self.records[away.partition.0 as usize].remove(&name);
        match &removed {
            Ok(_) => _ = self.waiting.fetch_sub(1, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "what waited and is done with waits still"),
        }
        removed.is_ok()
    }

    fn announce(&self, partition: PartitionId, queue: &mut Queue) {
        if let Some(at_ms) = queue.newly_due() {
            self.schedule().insert((at_ms, partition));
            self.wake.notify_one();
        }
    }

    fn queue(&self, partition: PartitionId) -> MutexGuard<'_, Queue> {
        self.queues[partition.0 as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn schedule(&self) -> MutexGuard<'_, BTreeSet<(u64, PartitionId)>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until something holds that changes with what is stored.
pub(crate) async fn until(behind: &Behind, holds: impl Fn() -> bool) {
    loop {
        let mut settled = std::pin::pin!(behind.settled.notified());
        settled.as_mut().enable();
        if holds() {
            return;
        }
        settled.await;
    }
}

fn name(key: &[u8], number: u64) -> Vec<u8> {
    [key, &number.to_be_bytes()].concat()
}

/// A record's kind, when it is due, and its value.
fn split(record: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (head, value) = record.split_at_checked(HEAD)?;
    let due = u64::from_le_bytes(head[1..].try_into().expect("eight bytes"));
    matches!(head[0], STORE | DELETE).then_some((head[0], due, value))
}
