//! Atomics and locks: the standard ones; loom's when a model is checked (`--cfg loom`); those of
//! `stepped.rs` when random schedules of a whole store are run (`--cfg shuttle`).
//!
//! Everything that loom models takes its atomics from here, and everything that two threads of a store
//! share for longer than one step takes its locks from here. A lock is never poisoned for us: what it
//! guards is consistent at every step, so a panic elsewhere must not take the store down with it.

#[cfg(shuttle)]
mod stepped;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock};
#[cfg(shuttle)]
pub(crate) use stepped::{AtomicBool, AtomicU64, Ordering, fence};

/// Thread-locals: the standard ones, or those of loom's or shuttle's threads, which all run on one thread
/// of the system.
macro_rules! thread_locals {
    ($($(#[$attribute:meta])* static $name:ident : $type:ty = const { $initial:expr };)*) => {
        #[cfg(not(any(loom, shuttle)))]
        std::thread_local! { $($(#[$attribute])* static $name: $type = const { $initial };)* }
        #[cfg(loom)]
        loom::thread_local! { $($(#[$attribute])* static $name: $type = $initial;)* }
        #[cfg(shuttle)]
        shuttle::thread_local! { $($(#[$attribute])* static $name: $type = $initial;)* }
    };
}
pub(crate) use thread_locals;

/// Takes a lock whatever happened to its former owners.
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

/// Sleeps, or lets the other threads of a schedule run.
pub(crate) fn sleep(duration: std::time::Duration) {
    #[cfg(not(shuttle))]
    std::thread::sleep(duration);
    #[cfg(shuttle)]
    shuttle::thread::sleep(duration);
}
