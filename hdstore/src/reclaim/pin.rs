//! Pins: a reader's promise that it is inside a call, and the epochs that order pins and retirements.
//!
//! Invariant: a batch of retired slots sealed at epoch e is freed only when no record shows a pin of an epoch
//! <= e. A pin taken after the epoch moved past e was ordered after the batch's index words were replaced,
//! and cannot reach them.
//!
//! A pin is a plain store: where the kernel has `membarrier`, the reclaiming side pays for the ordering
//! instead (one system call per some thousand retired slots). `docs/decisions/0002-asymmetric-pin.md` has the
//! measurement beside crossbeam-epoch. Without `membarrier`, and under loom or Miri, both sides fence.
//!
//! Each thread owns one record per store, found through a thread-local; readers never wait for each other. A
//! record goes back when its thread has ended *and* its last pin has: a pin may outlive the thread (leaked,
//! or in a thread-local that is dropped later), and what was read under it may be in use elsewhere.
//!
//! What may go wrong: `membarrier` may fail for want of kernel memory; then nothing is freed in that pass.
#![allow(unsafe_code)] // the membarrier system call, a thread-local pointer to a record; docs/unsafe.md

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering as StdOrdering};
use std::sync::{Arc, OnceLock, Weak};

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicBool, AtomicU64, Ordering, fence, thread_locals};

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
    /// How many pins nest. Only the owner looks at it.
    depth: StdAtomicU64,
    /// Whether the last pin gives the record back, since the owner's thread-locals are gone. Only the owner
    /// looks at it.
    orphaned: std::sync::atomic::AtomicBool,
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
            depth: StdAtomicU64::new(0),
            orphaned: std::sync::atomic::AtomicBool::new(false),
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
    shared: Weak<Shared>,
}

/// The records that this thread owns, given back when it ends.
struct Locals(Vec<Local>);

impl Drop for Locals {
    fn drop(&mut self) {
        let _ = LAST.try_with(|last| last.set((0, std::ptr::null())));
        for local in &self.0 {
            if let Some(shared) = local.shared.upgrade() {
                let record = shared.record(local.index);
                if record.depth.load(StdOrdering::Relaxed) == 0 {
                    record.owned.store(false, Ordering::Release);
                } else {
                    record.orphaned.store(true, StdOrdering::Relaxed);
                }
            }
        }
    }
}

thread_locals! {
    static LOCALS: RefCell<Locals> = const { RefCell::new(Locals(Vec::new())) };
    /// The store last pinned by this thread and its record there: all that a pin needs, most of the time.
    static LAST: Cell<(u64, *const Record)> = const { Cell::new((0, std::ptr::null())) };
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
        let record = self.record();
        let depth = record.depth.load(StdOrdering::Relaxed);
        record.depth.store(depth + 1, StdOrdering::Relaxed);
        if depth == 0 {
            let epoch = self.shared.epoch.load(Ordering::Acquire);
            // Release: whoever reads this epoch also sees the guards that this thread published under former
            // pins.
            record.epoch.store(epoch, Ordering::Release);
            self.reader_fence();
        }
        Pinned { record, not_send: PhantomData }
    }

    /// The calling thread's record.
    #[inline]
    fn record(&self) -> &Record {
        let (id, record) = LAST.with(Cell::get);
        if id == self.shared.id {
            // SAFETY: the number is this store's alone, so the record was found in its blocks, which live as
            // long as `self` and never move. The thread owns it: the pointer is cleared when its records are
            // given back.
            return unsafe { &*record };
        }
        self.record_by_search()
    }

    #[cold]
    fn record_by_search(&self) -> &Record {
        let owned = LOCALS.try_with(|locals| {
            let locals = &mut locals.borrow_mut().0;
            if let Some(local) = locals.iter().find(|local| local.id == self.shared.id) {
                return local.index;
            }
            locals.retain(|local| local.shared.strong_count() > 0);
            let index = self.shared.claim();
            locals.push(Local { id: self.shared.id, index, shared: Arc::downgrade(&self.shared) });
            index
        });
        match owned {
            Ok(index) => {
                let record = self.shared.record(index);
                LAST.with(|last| last.set((self.shared.id, record)));
                record
            }
            // A destructor of another thread-local may read after ours ran: each such pin gets a record of
            // its own.
            Err(_) => {
                let record = self.shared.record(self.shared.claim());
                record.orphaned.store(true, StdOrdering::Relaxed);
                record
            }
        }
    }

    #[inline]
    fn reader_fence(&self) {
        if self.shared.asymmetric {
            std::sync::atomic::compiler_fence(StdOrdering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// Ends the current epoch for what was retired in it, and returns it: pins from now on are of a later
    /// one.
    pub(crate) fn advance(&self) -> u64 {
        self.shared.epoch.fetch_add(1, Ordering::AcqRel)
    }

    /// The oldest pin, after making sure that every pin that could hold an older slot is seen. Costs a system
    /// call.
    pub(crate) fn oldest(&self) -> Option<OldestPin> {
        if self.shared.asymmetric {
            if !membarrier() {
                // Without the barrier there may be a pin that cannot be seen, as old as any.
                return Some(OldestPin { epoch: 0, since_ms: None });
            }
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

impl Record {
    #[cold]
    fn give_back(&self) {
        self.orphaned.store(false, StdOrdering::Relaxed);
        self.owned.store(false, Ordering::Release);
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
        let record = self.record;
        let depth = record.depth.load(StdOrdering::Relaxed) - 1;
        record.depth.store(depth, StdOrdering::Relaxed);
        if depth == 0 {
            record.since_ms.store(0, Ordering::Relaxed);
            record.epoch.store(0, Ordering::Release);
            if record.orphaned.load(StdOrdering::Relaxed) {
                record.give_back();
            }
        }
    }
}

#[cfg(any(miri, loom, shuttle, not(target_os = "linux")))]
fn register_membarrier() -> bool {
    false
}

#[cfg(any(miri, loom, shuttle, not(target_os = "linux")))]
fn membarrier() -> bool {
    fence(Ordering::SeqCst);
    true
}

#[cfg(not(any(miri, loom, shuttle, not(target_os = "linux"))))]
const MEMBARRIER_PRIVATE_EXPEDITED: libc::c_long = 8;
#[cfg(not(any(miri, loom, shuttle, not(target_os = "linux"))))]
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED: libc::c_long = 16;

/// Registers the process for expedited barriers; false where the kernel has or allows none.
#[cfg(not(any(miri, loom, shuttle, not(target_os = "linux"))))]
fn register_membarrier() -> bool {
    // SAFETY: the call takes three integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0 }
}

/// Makes every running thread of the process execute a full barrier. False when the kernel had no memory for
/// it.
#[cfg(not(any(miri, loom, shuttle, not(target_os = "linux"))))]
fn membarrier() -> bool {
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_PRIVATE_EXPEDITED, 0, 0) == 0 }
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
    fn a_pin_that_outlives_its_thread_still_holds_reclamation_back() {
        let pins = Pins::new();
        std::thread::scope(|scope| {
            scope.spawn(|| std::mem::forget(pins.pin()));
        });
        let sealed = pins.advance();
        assert!(pins.oldest().is_some_and(|pin| pin.epoch <= sealed), "what it read is in use");
    }

    #[test]
    fn pins_in_destructors_of_other_thread_locals_end_one_by_one() {
        struct Late(Option<(Pinned<'static>, Pinned<'static>)>);
        impl Drop for Late {
            fn drop(&mut self) {
                let (first, second) = self.0.take().expect("set by the thread");
                drop(first);
                assert!(pins().oldest().is_some(), "the second pin is still there");
                drop(second);
                drop((pins().pin(), pins().pin()));
            }
        }
        thread_local! { static LATE: RefCell<Late> = const { RefCell::new(Late(None)) }; }
        fn pins() -> &'static Pins {
            static PINS: OnceLock<Pins> = OnceLock::new();
            PINS.get_or_init(Pins::new)
        }
        for _ in 0..RECORDS + 1 {
            let thread = std::thread::spawn(|| {
                // Made first, so dropped last.
                LATE.with(|late| late.borrow_mut().0 = Some((pins().pin(), pins().pin())));
            });
            thread.join().expect("no panic");
        }
        assert_eq!(pins().oldest(), None);
        assert!(pins().shared.claim() < RECORDS, "records were given back");
    }

    #[test]
    fn an_explicit_pin_tells_its_age() {
        let pins = Pins::new();
        let pin = pins.pin();
        pin.note_time(41);
        assert_eq!(pins.oldest().and_then(|pin| pin.since_ms), Some(41));
    }
}
