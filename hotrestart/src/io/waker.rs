//! Makes one `Queue::wait` return from another thread.
//!
//! Invariant: a wake is never lost: a wait that begins after it returns at once. Wakes before the same
//! wait count as one. A wake that finds another one pending costs one atomic step, the first one a system
//! call.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, lock};

/// A handle to the thread that waits on a queue; cheap to clone.
#[derive(Clone, Debug)]
pub struct Waker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    is_pending: AtomicBool,
    signal: Signal,
}

#[derive(Debug)]
enum Signal {
    /// The waiter never sleeps.
    None,
    Condition(Mutex<()>, Condvar),
    Event(File),
}

impl Waker {
    fn new(signal: Signal) -> Waker {
        Waker { inner: Arc::new(Inner { is_pending: AtomicBool::new(false), signal }) }
    }

    pub(super) fn of_flag() -> Waker {
        Waker::new(Signal::None)
    }

    pub(crate) fn of_condition() -> Waker {
        Waker::new(Signal::Condition(Mutex::new(()), Condvar::new()))
    }

    pub(super) fn of_event(event: File) -> Waker {
        Waker::new(Signal::Event(event))
    }

    /// Makes the present `wait` return, or the next one.
    pub fn wake(&self) {
        if self.inner.is_pending.swap(true, Ordering::AcqRel) {
            return;
        }
        match &self.inner.signal {
            Signal::None => {}
            Signal::Condition(mutex, condition) => {
                drop(lock(mutex));
                condition.notify_one();
            }
            Signal::Event(event) => {
                let mut event: &File = event;
                event.write_all(&1_u64.to_ne_bytes()).expect("an event counter takes a one");
            }
        }
    }

    /// Whether a wake has come since the last call.
    pub(super) fn take(&self) -> bool {
        self.inner.is_pending.swap(false, Ordering::AcqRel)
    }

    /// Sleeps until a wake or the deadline.
    pub(crate) fn sleep(&self, deadline: Option<Instant>) {
        let Signal::Condition(mutex, condition) = &self.inner.signal else {
            panic!("only the queue of system calls sleeps on a condition");
        };
        let mut guard = lock(mutex);
        while !self.take() {
            guard = match deadline {
                None => condition.wait(guard).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    condition.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}
