//! The gate between rounds of compaction and holds: neither begins in the middle of the other.
//!
//! Invariant: while a hold is being made no round is under way, so every record lies in the chunk that it was
//! logged to or in a survivor that counts, never in both; and no chunk that is about to be held is a victim.
//! The compactor passes with `begin_round` before it chooses and with `end_round` when it rests; who wants to
//! hold waits with `pause`, for which a round takes no further victim. Nothing here waits for a disk. What
//! may go wrong: a round that finds no chunk lasts long, and a hold gives up.

use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, lock};

/// Who waits looks this often whether the store has been closed or poisoned.
const WAIT_SLICE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct State {
    in_round: bool,
    pauses: u32,
}

/// The gate.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// As long as this lives no round begins.
#[derive(Debug)]
pub(crate) struct Pause<'a> {
    gate: &'a Gate,
}

impl Gate {
    /// Whether a round may begin now; then it has begun.
    pub(crate) fn begin_round(&self) -> bool {
        let mut state = lock(&self.state);
        state.in_round = state.pauses == 0;
        state.in_round
    }

    /// No victim is left of the round, if there was one.
    pub(crate) fn end_round(&self) {
        let mut state = lock(&self.state);
        if std::mem::take(&mut state.in_round) {
            self.changed.notify_all();
        }
    }

    /// Whether somebody waits for the end of the round.
    pub(crate) fn is_awaited(&self) -> bool {
        lock(&self.state).pauses > 0
    }

    /// Waits until no round is under way, and keeps the next from beginning. `None` when `deadline` came, or
    /// `keep_on` says no.
    pub(crate) fn pause(&self, deadline: Instant, keep_on: impl Fn() -> bool) -> Option<Pause<'_>> {
        let mut state = lock(&self.state);
        state.pauses += 1;
        // Dropped on the way out, it takes its count back.
        let pause = Pause { gate: self };
        while state.in_round {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !keep_on() {
                drop(state);
                return None;
            }
            let waited = self.changed.wait_timeout(state, left.min(WAIT_SLICE));
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        drop(state);
        Some(pause)
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        lock(&self.gate.state).pauses -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(30)
    }

    #[test]
    fn a_round_and_a_hold_wait_for_each_other_and_nobody_for_ever() {
        let gate = Gate::default();
        assert!(gate.begin_round());
        assert!(gate.pause(soon(), || true).is_none(), "the round goes on");
        assert!(!gate.is_awaited(), "who gave up waits no more");
        assert!(gate.pause(Instant::now() + Duration::from_secs(60), || false).is_none());
        std::thread::scope(|scope| {
            let hold = scope
                .spawn(|| gate.pause(Instant::now() + Duration::from_secs(60), || true).is_some());
            while !gate.is_awaited() {
                std::thread::yield_now();
            }
            gate.end_round();
            assert!(hold.join().expect("no panic"));
        });
        let pause = gate.pause(soon(), || true).expect("no round is under way");
        assert!(!gate.begin_round(), "not beside a hold");
        drop(pause);
        assert!(gate.begin_round());
    }
}
