//! Atomics and locks: the standard ones, or loom's when a model is checked (`--cfg loom`).
//!
//! Everything that loom models takes its atomics from here. A lock is never poisoned for us: what it guards
//! is consistent at every step, so a panic elsewhere must not take the store down with it.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
/// Thread-locals: the standard ones, or those of loom's threads, which all run on one thread of the system.
macro_rules! thread_locals {
    ($($(#[$attribute:meta])* static $name:ident : $type:ty = const { $initial:expr };)*) => {
        #[cfg(not(loom))]
        std::thread_local! { $($(#[$attribute])* static $name: $type = const { $initial };)* }
        #[cfg(loom)]
        loom::thread_local! { $($(#[$attribute])* static $name: $type = $initial;)* }
    };
}
pub(crate) use thread_locals;

/// Takes a lock whatever happened to its former owners.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Takes a lock if it is free, whatever happened to its former owners.
pub(crate) fn try_lock<T>(mutex: &std::sync::Mutex<T>) -> Option<std::sync::MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}
