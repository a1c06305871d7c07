//! The atomics of random schedules (`--cfg shuttle`): the standard ones, with a chance for another thread
//! before each step.
//!
//! Invariant: they have the size and the bytes of the standard ones, so that words of the arena are seen
//! through them as ever. All threads of a schedule run on one thread of the system: every step is seen by
//! all at once, so these schedules say nothing about weak memory. That is what loom's models are for.

pub(crate) use std::sync::atomic::Ordering;

/// Where another thread may go on.
#[inline]
fn step() {
    shuttle::thread::yield_now();
}

/// One step, which orders nothing that is not ordered already.
pub(crate) fn fence(_: Ordering) {
    step();
}

macro_rules! stepped {
    ($name:ident, $value:ty) => {
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub(crate) struct $name(std::sync::atomic::$name);

        impl $name {
            pub(crate) const fn new(value: $value) -> $name {
                $name(std::sync::atomic::$name::new(value))
            }

            pub(crate) fn load(&self, ordering: Ordering) -> $value {
                step();
                self.0.load(ordering)
            }

            pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                step();
                self.0.store(value, ordering);
            }

            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                step();
                self.0.compare_exchange(old, new, success, failure)
            }
        }
    };
}

stepped!(AtomicBool, bool);
stepped!(AtomicU64, u64);

impl AtomicU64 {
    pub(crate) fn fetch_add(&self, more: u64, ordering: Ordering) -> u64 {
        step();
        self.0.fetch_add(more, ordering)
    }
    pub(crate) fn fetch_sub(&self, less: u64, ordering: Ordering) -> u64 {
        step();
        self.0.fetch_sub(less, ordering)
    }
}
