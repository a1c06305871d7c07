//! Pins: a reader's promise that it is inside a call, and the epochs that order pins and retirements.
//!
//! Invariant: a batch of retired slots sealed at epoch e is freed only when no record shows a pin of an epoch <= e. A
//! pin taken after the epoch moved past e was ordered after the batch's index words were replaced, and cannot reach them.
//!
//! A pin is a plain store: where the kernel has `membarrier`, the reclaiming side pays for the ordering instead (one system
//! call per some thousand retired slots). `docs/decisions/0002-asymmetric-pin.md` has the measurement beside
//! crossbeam-epoch. Without `membarrier`, and under loom or Miri, both sides fence.
//!
//! Each thread owns one record per store, found through a thread-local list; readers never wait for each other.
#![allow(unsafe_code)] // the membarrier system call; docs/unsafe.md

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering as StdOrdering};
use std::sync::{Arc, OnceLock, Weak};

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};

#[cfg(not(loom))]
const RECORDS: usize = 64;
#[cfg(loom)]
const RECORDS: usize = 3;

/// One thread's pin.
struct Record {
    /// 0 when not pinned, else the epoch at which the pin was taken.
    epoch: AtomicU64,
    /// When an explicit pin was taken, in monotonic milliseconds + 1; 0 for a pin inside a call.
    since_ms: AtomicU64,
    owned: AtomicBool,
}

struct Block {
    records: Box<[CachePadded<Record>]>,
    next: OnceLock<Box<Block>>,
}

impl Block {
    fn new() -> Block {
        let record = || Record {
            epoch: AtomicU64::new(0),
            since_ms: AtomicU64::new(0),
            owned: AtomicBool::new(false),
        };
        Block {
            records: (0..RECORDS).map(|_| CachePadded::new(record())).collect(),
            next: OnceLock::new(),
        }
    }
}

/// All pins of one store.
pub(crate) struct Pins {
    shared: Arc<Shared>,
}

struct Shared {
    id: u64,
    epoch: CachePadded<AtomicU64>,
    first: Block,
    /// Whether a pin may leave the fence to the reclaiming side.
    asymmetric: bool,
}

/// A pin. While it lives, no slot that it can reach is used again.
pub(crate) struct Pinned<'a> {
    record: &'a Record,
    id: u64,
    index: usize,
    /// A pin belongs to its thread.
    not_send: PhantomData<*const ()>,
}

/// The oldest pin that holds reclamation back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OldestPin {
    pub(crate) epoch: u64,
    /// Monotonic milliseconds at which it was taken, where that is known.
    pub(crate) since_ms: Option<u64>,
}

struct Local {
    id: u64,
    index: usize,
    depth: u32,
    shared: Weak<Shared>,
}

/// The records that this thread owns, given back when it ends.
struct Locals(Vec<Local>);

impl Drop for Locals {
    fn drop(&mut self) {
        for local in &self.0 {
            if let Some(shared) = local.shared.upgrade() {
                let record = shared.record(local.index);
                record.epoch.store(0, Ordering::Release);
                record.owned.store(false, Ordering::Release);
            }
        }
    }
}

thread_local! {
    static LOCALS: RefCell<Locals> = const { RefCell::new(Locals(Vec::new())) };
}

static NEXT_ID: StdAtomicU64 = StdAtomicU64::new(1);

impl Pins {
    pub(crate) fn new() -> Pins {
        Pins {
            shared: Arc::new(Shared {
                id: NEXT_ID.fetch_add(1, StdOrdering::Relaxed),
                epoch: CachePadded::new(AtomicU64::new(1)),
                first: Block::new(),
                asymmetric: register_membarrier(),
            }),
        }
    }

    /// Pins the calling thread. Pins nest.
    #[inline]
    pub(crate) fn pin(&self) -> Pinned<'_> {
        let (index, outermost) = LOCALS
            .try_with(|locals| {
                let locals = &mut locals.borrow_mut().0;
                let local = match locals.iter_mut().find(|local| local.id == self.shared.id) {
                    Some(local) => local,
                    None => self.register(locals),
                };
                local.depth += 1;
                (local.index, local.depth == 1)
            })
            // A destructor of another thread-local may read after ours ran: it gets a record of its own.
            .unwrap_or_else(|_| (self.shared.claim(), true));
        let record = self.shared.record(index);
        if outermost {
            let epoch = self.shared.epoch.load(Ordering::Acquire);
            record.epoch.store(epoch, Ordering::Relaxed);
            self.reader_fence();
        }
        Pinned { record, id: self.shared.id, index, not_send: PhantomData }
    }

    #[inline]
    fn reader_fence(&self) {
        if self.shared.asymmetric {
            std::sync::atomic::compiler_fence(StdOrdering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    #[cold]
    fn register<'l>(&self, locals: &'l mut Vec<Local>) -> &'l mut Local {
        locals.retain(|local| local.shared.strong_count() > 0);
        let index = self.shared.claim();
        let shared = Arc::downgrade(&self.shared);
        locals.push(Local { id: self.shared.id, index, depth: 0, shared });
        let last = locals.len() - 1;
        &mut locals[last]
    }

    /// Ends the current epoch for what was retired in it, and returns it: pins from now on are of a later one.
    pub(crate) fn advance(&self) -> u64 {
        self.shared.epoch.fetch_add(1, Ordering::AcqRel)
    }

    /// The oldest pin, after making sure that every pin that could hold an older slot is seen. Costs a system call.
    pub(crate) fn oldest(&self) -> Option<OldestPin> {
        if self.shared.asymmetric {
            membarrier();
        } else {
            fence(Ordering::SeqCst);
        }
        let mut oldest: Option<OldestPin> = None;
        let mut block = &self.shared.first;
        loop {
            for record in block.records.iter() {
                let epoch = record.epoch.load(Ordering::Acquire);
                if epoch != 0 && oldest.is_none_or(|found| epoch < found.epoch) {
                    let since_ms = record.since_ms.load(Ordering::Relaxed).checked_sub(1);
                    oldest = Some(OldestPin { epoch, since_ms });
                }
            }
            match block.next.get() {
                Some(next) => block = next,
                None => return oldest,
            }
        }
    }
}

impl Shared {
    #[inline]
    fn record(&self, index: usize) -> &Record {
        let mut block = &self.first;
        for _ in 0..index / RECORDS {
            block = block.next.get().expect("a claimed record's block exists");
        }
        &block.records[index % RECORDS]
    }

    fn claim(&self) -> usize {
        let mut block = &self.first;
        let mut base = 0;
        loop {
            for (index, record) in block.records.iter().enumerate() {
                let free = !record.owned.load(Ordering::Relaxed);
                if free
                    && record
                        .owned
                        .compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                {
                    return base + index;
                }
            }
            base += RECORDS;
            block = block.next.get_or_init(|| Box::new(Block::new()));
        }
    }
}

impl Pinned<'_> {
    /// Notes when an explicit pin was taken, so that an error can name its age.
    pub(crate) fn note_time(&self, monotonic_ms: u64) {
        if self.record.since_ms.load(Ordering::Relaxed) == 0 {
            self.record.since_ms.store(monotonic_ms + 1, Ordering::Relaxed);
        }
    }
}

impl Drop for Pinned<'_> {
    #[inline]
    fn drop(&mut self) {
        let outermost = LOCALS
            .try_with(|locals| {
                let locals = &mut locals.borrow_mut().0;
                let local = locals
                    .iter_mut()
                    .find(|local| local.id == self.id && local.index == self.index)?;
                local.depth -= 1;
                Some(local.depth == 0)
            })
            .ok()
            .flatten();
        if outermost.unwrap_or(true) {
            self.record.since_ms.store(0, Ordering::Relaxed);
            self.record.epoch.store(0, Ordering::Release);
            if outermost.is_none() {
                self.record.owned.store(false, Ordering::Release);
            }
        }
    }
}

#[cfg(any(miri, loom, not(target_os = "linux")))]
fn register_membarrier() -> bool {
    false
}

#[cfg(any(miri, loom, not(target_os = "linux")))]
fn membarrier() {
    fence(Ordering::SeqCst);
}

#[cfg(not(any(miri, loom, not(target_os = "linux"))))]
const MEMBARRIER_PRIVATE_EXPEDITED: libc::c_long = 8;
#[cfg(not(any(miri, loom, not(target_os = "linux"))))]
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED: libc::c_long = 16;

/// Registers the process for expedited barriers; false where the kernel has or allows none.
#[cfg(not(any(miri, loom, not(target_os = "linux"))))]
fn register_membarrier() -> bool {
    // SAFETY: the call takes three integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0 }
}

/// Makes every running thread of the process execute a full barrier.
#[cfg(not(any(miri, loom, not(target_os = "linux"))))]
fn membarrier() {
    // SAFETY: as above.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_PRIVATE_EXPEDITED, 0, 0) };
    assert!(result == 0, "membarrier worked when it was registered");
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pin_older_than_the_retirement_is_seen_and_a_younger_one_does_not_hold_it() {
        let pins = Pins::new();
        assert_eq!(pins.oldest(), None);
        let pin = pins.pin();
        let sealed = pins.advance();
        assert!(pins.oldest().is_some_and(|pin| pin.epoch <= sealed));
        let nested = pins.pin();
        drop(pin);
        assert!(pins.oldest().is_some_and(|pin| pin.epoch <= sealed), "the nested pin keeps it");
        drop(nested);
        let young = pins.pin();
        assert!(pins.oldest().is_some_and(|pin| pin.epoch > sealed));
        drop(young);
        assert_eq!(pins.oldest(), None);
    }

    #[test]
    fn records_of_ended_threads_are_used_again_and_more_threads_than_a_block_fit() {
        let pins = Pins::new();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                for _ in 0..RECORDS + 10 {
                    scope.spawn(|| drop(pins.pin()));
                }
            });
        }
        assert_eq!(pins.oldest(), None);
        let highest = pins.shared.claim();
        assert!(highest < 2 * RECORDS + 20, "{highest}");
    }

    #[test]
    fn an_explicit_pin_tells_its_age() {
        let pins = Pins::new();
        let pin = pins.pin();
        pin.note_time(41);
        assert_eq!(pins.oldest().and_then(|pin| pin.since_ms), Some(41));
    }
}
