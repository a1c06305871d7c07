//! Waiting at a ring: puts for room, the writer for work.
//!
//! Invariant: no wake is lost. Who waits for room is counted before it looks for the last time, and the
//! writer looks at the count after it released; the writer says that it sleeps before it looks for work
//! for the last time, and whoever makes work looks at that afterwards. A put makes a system call only
//! when the writer sleeps.

use std::time::{Duration, Instant};

use super::ring::Ring;
use crate::sync::{Ordering, fence, lock};

/// Why there is no room.
#[derive(Debug)]
pub(crate) enum NoRoom {
    /// No buffer came free in time.
    Timeout,
    /// The caller's check said to stop waiting.
    Stopped,
    /// A turn would begin with this record, and the caller has not said that there is a chunk for it.
    Begins,
}

impl Ring {
    /// Waits a little for a buffer to come free, until `deadline` at most (not at all when it is `None`); who
    /// waited asks for room once more.
    pub(crate) fn wait_for_release(
        &self,
        deadline: Option<Instant>,
        keep_on: &impl Fn() -> bool,
    ) -> Result<(), NoRoom> {
        let Some(deadline) = deadline else { return Err(NoRoom::Timeout) };
        self.count_as_waiting();
        let guard = lock(&self.free_lock);
        let mut result = Ok(());
        if self.closed.load(Ordering::Acquire) {
            // Looked at under the lock, which whoever closes takes before it tells the waiting ones.
            result = Err(NoRoom::Stopped);
        } else if !self.advance() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                result = Err(NoRoom::Timeout);
            } else if keep_on() {
                let slice = left.min(Duration::from_millis(20));
                drop(self.came_free.wait_timeout(guard, slice));
            }
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if !keep_on() {
            return Err(NoRoom::Stopped);
        }
        result
    }

    /// Counts the caller among those that wait for room; it looks for room once more after this.
    fn count_as_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The pair of the one in `release`: one of the two sees what the other did.
        fence(Ordering::SeqCst);
    }

    /// Wakes the writer if it sleeps; after the work was made.
    pub(super) fn wake(&self) {
        // The pair of the one in `about_to_sleep`: the writer sees the work, or is seen asleep.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed)
            && self.sleeping.swap(false, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
    }

    /// Wakes the writer if it sleeps, or makes its next sleep short.
    pub(crate) fn wake_writer(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    /// Says that the writer is about to sleep; it must look for work once more after this.
    pub(crate) fn about_to_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Waits until at least half of the buffers are free or being filled: what a long value asks before
    /// each of its parts, so that it never takes the room that others' records need.
    pub(crate) fn wait_for_slack(
        &self,
        timeout: Duration,
        keep_on: impl Fn() -> bool,
    ) -> Result<(), NoRoom> {
        // In this order: a turn is active before it is released, so what is released is never more.
        let used = || {
            let released = self.released.load(Ordering::Acquire);
            self.active_turn().saturating_sub(released)
        };
        let half = u64::from(self.geometry.buffers_per_writer / 2).max(1);
        if used() < half {
            return Ok(());
        }
        let deadline = Instant::now() + timeout;
        self.count_as_waiting();
        let mut guard = lock(&self.free_lock);
        let result = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if used() < half {
                break Ok(());
            }
            if !keep_on() {
                break Err(NoRoom::Stopped);
            }
            if left.is_zero() {
                break Err(NoRoom::Timeout);
            }
            guard = self
                .came_free
                .wait_timeout(guard, left.min(Duration::from_millis(20)))
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Lets everybody who waits for room look around again.
    pub(crate) fn notify_all(&self) {
        drop(self.free_lock.lock());
        self.came_free.notify_all();
    }
}
