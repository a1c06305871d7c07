//! Lanes: what was queued to be told, and the threads that tell it.
//!
//! Invariants: what is queued for a partition lies in one lane, in the order in which it was queued, and one
//! thread tells it; what concerns all of a map is told when every lane has come to it, so after all that was
//! queued before. What waits in a lane is bounded, in events and in bytes; an event beyond that is counted
//! for each of its listeners, who are told the count at that place. A lane whose listener takes its time
//! holds up its own partitions' events alone.
//!
//! Called under a partition's lock to queue; by the member's threads, or its `step`, to tell. A listener's
//! code runs under no lock. Cost of queuing: an uncontended lock, and, where the lane's thread sleeps, a
//! wake.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use super::{Audience, EntryChange, EventConfig, Listener, MapChange, Told};
use crate::data::PartitionId;

/// What an event takes beyond its bytes, about.
const EVENT_BYTES: usize = 200;

/// What waits to be told.
enum Queued {
    Entry(EntryChange, Audience),
    /// Of all of a map: told by the lane that comes to it last.
    Map(Arc<OfMap>),
    Lost(Arc<Listener>, u64),
}

struct OfMap {
    change: MapChange,
    audience: Audience,
    /// Lanes that have not come to it.
    left: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Queued>,
    bytes: usize,
    /// Who has lost events since the queue was full, and how many.
    lost: Vec<(Arc<Listener>, u64)>,
    is_asleep: bool,
    is_stopped: bool,
}

impl Queue {
    /// The losses come into the queue where they happened.
    fn note_lost(&mut self) {
        self.waiting
            .extend(self.lost.drain(..).map(|(listener, count)| Queued::Lost(listener, count)));
    }

    fn lose(&mut self, audience: &Audience, change: &EntryChange) {
        for listener in audience.listeners().filter(|listener| listener.wants(change.kind)) {
            match self.lost.iter_mut().find(|(other, _)| Arc::ptr_eq(other, listener)) {
                Some((_, count)) => *count += 1,
                None => self.lost.push((Arc::clone(listener), 1)),
            }
        }
    }

    fn take(&mut self) -> Option<Queued> {
        if self.waiting.is_empty() {
            self.note_lost();
        }
        let queued = self.waiting.pop_front()?;
        if let Queued::Entry(change, _) = &queued {
            self.bytes -= bytes(change);
        }
        Some(queued)
    }
}

fn bytes(change: &EntryChange) -> usize {
    let EntryChange { key, value, old, .. } = change;
    let values = [value, old].into_iter().flatten();
    EVENT_BYTES + key.len() + values.map(|value| value.len()).sum::<usize>()
}

#[derive(Default)]
struct Lane {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Lane {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        let is_asleep = std::mem::take(&mut queue.is_asleep);
        drop(queue);
        if is_asleep {
            self.changed.notify_one();
        }
    }

    /// What is to be told next; waits for it. `None` when the lane is stopped.
    fn next(&self) -> Option<Queued> {
        let mut queue = self.queue();
        loop {
            if queue.is_stopped {
                return None;
            }
            if let Some(queued) = queue.take() {
                return Some(queued);
            }
            queue.is_asleep = true;
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// All lanes of a member.
pub(crate) struct Lanes {
    each: Box<[Lane]>,
    /// How much may wait in each.
    capacity: usize,
    capacity_bytes: usize,
    lost: AtomicU64,
    /// Held by who tells all: what is told by two has no order.
    telling: Mutex<()>,
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes").field("count", &self.each.len()).finish_non_exhaustive()
    }
}

impl Lanes {
    pub(crate) fn new(config: &EventConfig) -> Lanes {
        let lanes = config.threads.get();
        Lanes {
            each: (0..lanes).map(|_| Lane::default()).collect(),
            capacity: config.queue_capacity.div_ceil(lanes),
            capacity_bytes: config.queue_capacity_bytes.div_ceil(lanes),
            lost: AtomicU64::new(0),
            telling: Mutex::default(),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.each.len()
    }

    /// Queues what happened to an entry of this partition, whose lock the caller has.
    pub(crate) fn push(&self, partition: PartitionId, change: EntryChange, audience: Audience) {
        let lane = &self.each[partition.0 as usize % self.each.len()];
        let mut queue = lane.queue();
        if queue.is_stopped {
            return;
        }
        let bytes = bytes(&change);
        let is_full = queue.waiting.len() >= self.capacity
            // However long one is, it is told when no other waits.
            || (queue.bytes > 0 && queue.bytes + bytes > self.capacity_bytes);
        if is_full {
            queue.lose(&audience, &change);
            if self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::warn!("events are lost, as listeners are slower than changes");
            }
            return;
        }
        queue.note_lost();
        queue.bytes += bytes;
        queue.waiting.push_back(Queued::Entry(change, audience));
        lane.wake(queue);
    }

    /// Queues what happened to all of a map.
    pub(crate) fn push_of_map(&self, change: MapChange, audience: Audience) {
        let of_map = Arc::new(OfMap { change, audience, left: AtomicUsize::new(self.each.len()) });
        for lane in &self.each {
            let mut queue = lane.queue();
            if !queue.is_stopped {
                queue.note_lost();
                queue.waiting.push_back(Queued::Map(Arc::clone(&of_map)));
                lane.wake(queue);
            }
        }
    }

    /// Tells what is queued for a lane, until it is stopped.
    pub(crate) fn run(&self, lane: usize) {
        while let Some(queued) = self.each[lane].next() {
            tell_and_drop(queued);
        }
    }

    /// Tells what is queued now, by this thread; not what listeners cause meanwhile. Nothing where another
    /// thread, or a listener's caller, is doing so. For lanes without threads.
    pub(crate) fn tell_all(&self) {
        let _only_one = match self.telling.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        for lane in &self.each {
            let count = {
                let mut queue = lane.queue();
                queue.note_lost();
                queue.waiting.len()
            };
            for _ in 0..count {
                // In a statement of its own: a listener's code runs under no lock.
                let queued = lane.queue().take();
                queued.into_iter().for_each(tell_and_drop);
            }
        }
    }

    /// Events that nobody was told of, as a lane was full.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Nothing more is told; what is queued is dropped.
    pub(crate) fn stop(&self) {
        for lane in &self.each {
            let mut queue = lane.queue();
            queue.is_stopped = true;
            let dropped = std::mem::take(&mut queue.waiting);
            let lost = std::mem::take(&mut queue.lost);
            drop(queue);
            lane.changed.notify_all();
            // A user's code may go with them.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop((dropped, lost)))) {
                std::mem::forget(panic);
            }
        }
    }
}

/// Tells what is queued. A listener that was removed meanwhile goes here, and its drop may panic.
fn tell_and_drop(queued: Queued) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| tell(queued))) {
        tracing::error!("a listener panicked when it was dropped");
        // It may have a drop of its own that panics.
        std::mem::forget(panic);
    }
}

fn tell(queued: Queued) {
    match queued {
        Queued::Entry(change, audience) => {
            audience.listeners().for_each(|listener| listener.tell(Told::Entry(&change)));
        }
        Queued::Map(of_map) => {
            if of_map.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                let OfMap { change, audience, .. } = &*of_map;
                audience.listeners().for_each(|listener| listener.tell(Told::Map(*change)));
            }
        }
        Queued::Lost(listener, count) => listener.tell(Told::Lost(count)),
    }
}
