//! When which partition has a lease or a wait that ends.
//!
//! A member has one of these; whoever drives it (a thread, or a test with a clock of its own) calls
//! `Partitions::tick` when the first time has come. Cost: a step in an ordered set for a deadline that
//! comes before all others of its partition.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::data::PartitionId;

/// Partitions by the time when they are to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    due: BTreeSet<(u64, PartitionId)>,
    is_stopped: bool,
}

impl Timers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition is to be looked at then.
    pub(crate) fn set(&self, at_ms: u64, partition: PartitionId) {
        let mut state = self.state();
        state.due.insert((at_ms, partition));
        if state.due.first() == Some(&(at_ms, partition)) {
            self.changed.notify_all();
        }
    }

    /// The partitions whose time has come.
    pub(crate) fn take_due(&self, now_ms: u64) -> Vec<PartitionId> {
        let mut state = self.state();
        let later = state.due.split_off(&(now_ms.saturating_add(1), PartitionId(0)));
        let due = std::mem::replace(&mut state.due, later);
        due.into_iter().map(|(_, partition)| partition).collect()
    }

    /// Sleeps for `at_most`, or until an earlier time is set. Whether to go on.
    pub(crate) fn sleep(&self, now_ms: impl Fn() -> u64, at_most: Duration) -> bool {
        let state = self.state();
        if state.is_stopped {
            return false;
        }
        let until_next = state.due.first().map(|(at_ms, _)| at_ms.saturating_sub(now_ms()));
        let time = until_next.map_or(at_most, |ms| at_most.min(Duration::from_millis(ms)));
        if time.is_zero() {
            return true;
        }
        let waited = self.changed.wait_timeout(state, time);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.is_stopped
    }

    /// Ends the sleep for good.
    pub(crate) fn stop(&self) {
        self.state().is_stopped = true;
        self.changed.notify_all();
    }
}
