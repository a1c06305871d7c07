//! Lanes: what was queued to be told, and the threads that tell it.
//!
//! Invariants: what is queued for a partition lies in one lane, in the order in which it was queued, and one
//! thread tells it. What waits in a lane is bounded, in events and in bytes; an event beyond that is counted
//! for each of its listeners, who are told the count at that place. A lane whose listener takes its time
//! holds up its own partitions' events alone.
//!
//! Called under a partition's lock to queue; by the member's threads, or its `step`, to tell. A listener's
//! code runs under no lock. Cost of queuing: an uncontended lock, and, where the lane's thread sleeps, a
//! wake.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use crossbeam_utils::CachePadded;

use super::{Audience, EntryChange, Event, EventConfig, Listener, Told, let_go};
use crate::data::PartitionId;

/// What an event takes beyond its bytes, about.
const EVENT_BYTES: usize = 200;

/// What waits to be told.
enum Queued {
    Event(Event, Audience),
    Lost(Arc<Listener>, u64),
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

    fn lose(&mut self, audience: &Audience, event: &Event) {
        for listener in audience.listeners().filter(|listener| listener.wants(event)) {
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
        if let Queued::Event(event, _) = &queued {
            self.bytes -= bytes(event);
        }
        Some(queued)
    }
}

fn bytes(event: &Event) -> usize {
    let Event::Entry(EntryChange { key, value, old, .. }) = event else { return EVENT_BYTES };
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
    each: Box<[CachePadded<Lane>]>,
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
            each: (0..lanes).map(|_| CachePadded::default()).collect(),
            capacity: config.queue_capacity.div_ceil(lanes).max(1),
            capacity_bytes: config.queue_capacity_bytes.div_ceil(lanes),
            lost: AtomicU64::new(0),
            telling: Mutex::default(),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.each.len()
    }

    /// Queues what happened in this partition, whose lock the caller has. Whether it is queued.
    pub(crate) fn push(&self, partition: PartitionId, event: Event, audience: Audience) -> bool {
        let lane = &self.each[partition.0 as usize % self.each.len()];
        let mut queue = lane.queue();
        if queue.is_stopped {
            return false;
        }
        let bytes = bytes(&event);
        let is_full = queue.waiting.len() >= self.capacity
            // However long one is, it is told when no other waits.
            || (queue.bytes > 0 && queue.bytes + bytes > self.capacity_bytes);
        if is_full {
            queue.lose(&audience, &event);
            drop(queue);
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            if lost.is_power_of_two() {
                tracing::warn!(lost, "events are lost, as listeners are slower than changes");
            }
            return false;
        }
        queue.note_lost();
        queue.bytes += bytes;
        queue.waiting.push_back(Queued::Event(event, audience));
        lane.wake(queue);
        true
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
            let_go((dropped, lost));
        }
    }
}

/// Tells what is queued. A listener that was removed meanwhile goes here.
fn tell_and_drop(queued: Queued) {
    match &queued {
        Queued::Event(event, audience) => {
            audience.listeners().for_each(|listener| listener.tell(Told::Event(event)));
        }
        Queued::Lost(listener, count) => listener.tell(Told::Lost(*count)),
    }
    let_go(queued);
}
