//! Atomics and locks: the standard ones, or loom's when a model is checked (`--cfg loom`).
//!
//! Invariant: all that the ring, its waiting, a writer's progress and the wakers of queues share between
//! threads is taken from here, so that the models (`buffers/models.rs`, `writer/progress_models.rs`) run
//! the very code that runs in a store. Fences stand where a store must be seen before a later load of
//! another word: neither a store with `Release` nor one with `SeqCst` promises that to a load that is only
//! `Acquire`.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

/// Takes a lock whatever happened to its former owners: what our locks guard is whole at every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Lets others run in a loop that waits for their next step.
#[inline]
pub(crate) fn spin() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}
