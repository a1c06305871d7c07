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
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Takes a lock if it is free, whatever happened to its former owners.
#[inline]
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

#[cfg(not(loom))]
thread_local! {
    static THREAD_INDEX: usize = NEXT_THREAD.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(not(loom))]
static NEXT_THREAD: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// A small number of the calling thread, to spread threads over lanes.
#[cfg(not(loom))]
#[inline]
pub(crate) fn thread_index() -> usize {
    THREAD_INDEX.try_with(|index| *index).unwrap_or(0)
}

/// The same in a model, where each execution must be like the others; its threads are numbered from 0.
#[cfg(loom)]
pub(crate) fn thread_index() -> usize {
    let id = format!("{:?}", loom::thread::current().id());
    id.chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("a number")
}

/// Lets others run in a loop that waits for their next step.
#[inline]
pub(crate) fn spin() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}
