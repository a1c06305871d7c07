//! Waiting for a key, without a thread.
//!
//! Invariant: what was granted is either taken over by who polls, or given back when the future is
//! dropped; so a caller that goes away in the middle holds nobody up.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::keys::Ticket;
use super::{KeyPlace, Wanted};
use crate::caller::Caller;

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// The caller has what it wanted.
    Granted,
    /// The time was over before.
    TimedOut,
    /// It is locked, and was wanted unlocked.
    Locked,
    /// The map is gone.
    Gone,
}

/// Where a wait's outcome comes to lie.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    state: Mutex<(Option<Outcome>, Option<Waker>)>,
}

impl Slot {
    /// Ends the wait; who is to be woken.
    pub(crate) fn set(&self, outcome: Outcome) -> Option<Waker> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = Some(outcome);
        state.1.take()
    }

    /// The outcome, if there is one yet.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The outcome, or a task that waits for it from now on.
    fn poll(&self, waker: &Waker) -> Option<Outcome> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_none() {
            state.1 = Some(waker.clone());
        }
        state.0
    }
}

/// Ends when a key is the caller's, or when it will not be.
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub(crate) struct Wait {
    place: KeyPlace,
    caller: Caller,
    wanted: Wanted,
    ticket: Ticket,
    slot: Arc<Slot>,
    is_over: bool,
}

impl Wait {
    pub(super) fn new(
        place: KeyPlace,
        caller: Caller,
        wanted: Wanted,
        (ticket, slot): (Ticket, Arc<Slot>),
    ) -> Wait {
        Wait { place, caller, wanted, ticket, slot, is_over: false }
    }
}

impl Future for Wait {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        match self.slot.poll(context.waker()) {
            None => Poll::Pending,
            Some(outcome) => {
                self.is_over = true;
                Poll::Ready(outcome)
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut locked = self.place.partitions.lock(self.place.partition);
        // Under the partition's lock nothing is granted meanwhile.
        let was_granted = self.slot.outcome() == Some(Outcome::Granted);
        if was_granted {
            locked.release(self.place.place(), self.wanted.undone_by(self.caller));
        } else {
            locked.withdraw(self.place.place(), self.ticket);
        }
    }
}
