//! Who acts: what a lock belongs to.
//!
//! In Hazelcast a lock belongs to a thread of a member or of a client. Here it belongs to a [`Caller`]: a
//! handle of a map has one, a clone of the handle another, and a client's threads will have theirs from
//! the wire.

use std::sync::atomic::{AtomicI64, Ordering};

/// Who acts on a map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Caller {
    /// The member, or the client, that the caller is of.
    pub origin: u128,
    /// Which of its threads, or handles.
    pub thread: i64,
}

impl Caller {
    /// Nobody of a user's, who locks nothing.
    pub(crate) const NOBODY: Caller = Caller { origin: 0, thread: 0 };
}

/// Gives the callers of one member their numbers.
#[derive(Debug)]
pub(crate) struct Callers {
    origin: u128,
    next: AtomicI64,
}

impl Callers {
    pub(crate) fn new(origin: u128) -> Callers {
        Callers { origin, next: AtomicI64::new(1) }
    }

    /// Somebody who was not there before.
    pub(crate) fn another(&self) -> Caller {
        Caller { origin: self.origin, thread: self.next.fetch_add(1, Ordering::Relaxed) }
    }
}
