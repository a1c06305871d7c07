//! How far a writer has got, and everybody who waits for it.
//!
//! Invariant: the watermarks only rise, and only the writer raises them: `written` past a turn when its
//! block and all before it are on the device, `flushed` when a flush that was submitted after that has
//! returned. A waiter may go away at any time. After poison the watermarks stand still and all waiters
//! are told.

use std::task::Waker;
use std::time::{Duration, Instant};

use crate::durability::Durability;
use crate::sync::{AtomicU64, Condvar, Mutex, Ordering, lock};

/// One writer's watermarks.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// All turns below are written.
    written: AtomicU64,
    /// All turns below are flushed.
    flushed: AtomicU64,
    /// Turns below this are wanted on the device soon.
    wanted_written: AtomicU64,
    /// Turns below this are wanted flushed soon.
    wanted_flushed: AtomicU64,
    waiters: Mutex<Waiters>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Waiters {
    blocked: usize,
    next_id: u64,
    tasks: Vec<(u64, Waker)>,
}

/// A task's place among the waiters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TaskId(u64);

impl Progress {
    /// Whether a turn has got as far as asked.
    #[inline]
    pub(crate) fn reached(&self, turn: u64, level: Durability) -> bool {
        match level {
            Durability::Buffered => true,
            Durability::Written => self.written.load(Ordering::Acquire) > turn,
            Durability::Synced => self.flushed.load(Ordering::Acquire) > turn,
        }
    }

    /// Notes that a turn is wanted. Returns whether that is news for the writer.
    pub(crate) fn want(&self, turn: u64, level: Durability) -> bool {
        let mark = match level {
            Durability::Buffered => return false,
            Durability::Written => &self.wanted_written,
            Durability::Synced => &self.wanted_flushed,
        };
        mark.fetch_max(turn + 1, Ordering::SeqCst) < turn + 1
    }

    pub(crate) fn wanted_written(&self) -> u64 {
        self.wanted_written.load(Ordering::SeqCst).max(self.wanted_flushed())
    }

    pub(crate) fn wanted_flushed(&self) -> u64 {
        self.wanted_flushed.load(Ordering::SeqCst)
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// The writer's: turns below `turn` are written.
    pub(crate) fn set_written(&self, turn: u64) {
        self.written.store(turn, Ordering::Release);
        self.notify();
    }

    /// The writer's: turns below `turn` are flushed.
    pub(crate) fn set_flushed(&self, turn: u64) {
        self.flushed.store(turn, Ordering::Release);
        self.notify();
    }

    /// Wakes everybody who waits.
    pub(crate) fn notify(&self) {
        let mut waiters = lock(&self.waiters);
        let blocked = waiters.blocked > 0;
        let tasks = std::mem::take(&mut waiters.tasks);
        drop(waiters);
        if blocked {
            self.moved.notify_all();
        }
        for (_, task) in tasks {
            task.wake();
        }
    }

    /// Blocks until a turn has got as far as asked (true), or `deadline` or `stop` came first (false).
    pub(crate) fn wait(
        &self,
        turn: u64,
        level: Durability,
        deadline: Option<Instant>,
        stop: impl Fn() -> bool,
    ) -> bool {
        if self.reached(turn, level) {
            return true;
        }
        let mut waiters = lock(&self.waiters);
        waiters.blocked += 1;
        let reached = loop {
            if self.reached(turn, level) {
                break true;
            }
            let left =
                deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() || stop() {
                break false;
            }
            let slice = left.min(Duration::from_secs(1));
            waiters = self
                .moved
                .wait_timeout(waiters, slice)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        };
        waiters.blocked -= 1;
        reached
    }

    /// Registers a task to be woken when a watermark moves; the task looks again then.
    pub(crate) fn register(&self, former: Option<TaskId>, waker: &Waker) -> TaskId {
        let mut waiters = lock(&self.waiters);
        if let Some(TaskId(former)) = former
            && let Some(task) = waiters.tasks.iter_mut().find(|task| task.0 == former)
        {
            task.1.clone_from(waker);
            return TaskId(former);
        }
        let id = waiters.next_id;
        waiters.next_id += 1;
        waiters.tasks.push((id, waker.clone()));
        TaskId(id)
    }

    /// Forgets a task.
    pub(crate) fn forget(&self, TaskId(id): TaskId) {
        let mut waiters = lock(&self.waiters);
        waiters.tasks.retain(|task| task.0 != id);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_that_times_out_or_goes_away_leaves_nothing_behind() {
        let progress = Progress::default();
        let soon = Some(Instant::now() + Duration::from_millis(5));
        assert!(!progress.wait(3, Durability::Written, soon, || false));
        assert!(!progress.wait(3, Durability::Written, None, || true), "poison ends the wait");
        let task = progress.register(None, Waker::noop());
        let again = progress.register(Some(task), Waker::noop());
        assert_eq!(task.0, again.0);
        progress.forget(task);
        let waiters = progress.waiters.lock().expect("nobody panicked");
        assert!(waiters.tasks.is_empty() && waiters.blocked == 0);
    }

    #[test]
    fn a_waiter_returns_when_the_watermark_passes_its_turn_and_not_before() {
        let progress = Progress::default();
        progress.set_written(3);
        assert!(
            !progress.reached(3, Durability::Written) && progress.reached(2, Durability::Written)
        );
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| progress.wait(3, Durability::Synced, None, || false));
            progress.set_written(4);
            progress.set_flushed(4);
            assert!(waiter.join().expect("no panic"));
        });
    }
}
