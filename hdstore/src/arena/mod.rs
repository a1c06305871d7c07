//! A node's arena: one reservation, its regions, and the accounting of what is committed.
//!
//! Invariant: every byte that is touched was charged before to the store's one [`Budget`], metadata included,
//! so the sum of what the store holds never passes the memory limit. Everything is addressed by offset from
//! the arena's base; no pointer is kept anywhere, so that a sealed arena can be attached again at another
//! address.
//!
//! Callers: `slab/` (pages and large slots), `index/` and `store/` (words). Views of words are safe here,
//! since a word is an atomic; views of entries are not, and live in `entry/view.rs` alone.
#![allow(unsafe_code)] // words as atomics, copies into owned slots; docs/unsafe.md

pub(crate) mod layout;
pub(crate) mod numa;
pub(crate) mod os;
mod poison;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering};

use layout::Layout;
use os::{PageKind, Reservation, UNIT};

/// The memory limit of a store and what of it is committed, by kind of page.
#[derive(Debug)]
pub(crate) struct Budget {
    limit_bytes: u64,
    committed_bytes: StdAtomicU64,
    /// What may be committed beyond the limit, while a store loads that was at its limit.
    overdraft_bytes: StdAtomicU64,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Budget {
        let (committed_bytes, overdraft_bytes) = (StdAtomicU64::new(0), StdAtomicU64::new(0));
        Budget { limit_bytes, committed_bytes, overdraft_bytes }
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    pub(crate) fn committed_bytes(&self) -> u64 {
        self.committed_bytes.load(Ordering::Relaxed)
    }

    /// Charges `bytes`, or charges nothing and says no.
    #[must_use]
    pub(crate) fn charge(&self, bytes: u64) -> bool {
        let most_bytes = self.limit_bytes + self.overdraft_bytes.load(Ordering::Relaxed);
        self.committed_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |committed| {
                committed.checked_add(bytes).filter(|sum| *sum <= most_bytes)
            })
            .is_ok()
    }

    /// Allows to commit so much beyond the limit from now on; 0 ends that.
    pub(crate) fn allow_overdraft(&self, bytes: u64) {
        self.overdraft_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn refund(&self, bytes: u64) {
        let before = self.committed_bytes.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "refunded more than was charged");
    }
}

/// One node's arena.
pub(crate) struct Arena {
    memory: Reservation,
    layout: Layout,
    /// The layout's end, in words.
    end_words: u64,
    budget: Arc<Budget>,
    node: u32,
    /// The physical node that the memory is asked from, where the kernel took the request.
    bound_to: Option<u32>,
    want: PageKind,
    /// The system had no page of 1 GiB when it was asked.
    gib_refused: std::sync::atomic::AtomicBool,
    /// Bytes committed by kind of page: small, transparent, 2 MiB, 1 GiB.
    by_kind: [StdAtomicU64; 4],
    /// Under loom the words are loom's, made when they are first looked at; the memory is not touched.
    #[cfg(loom)]
    loom_words: std::sync::Mutex<std::collections::HashMap<u64, Box<crate::sync::AtomicU64>>>,
}

/// Eight words of an arena that lie together.
#[cfg(not(loom))]
pub(crate) type Words<'a> = &'a [crate::sync::AtomicU64; 8];
/// Eight words of an arena that lie together.
#[cfg(loom)]
pub(crate) type Words<'a> = [&'a crate::sync::AtomicU64; 8];

/// What an arena has committed, in bytes, by what backs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommittedBytes {
    /// NUMA node.
    pub node: u32,
    /// On pages of 4 KiB.
    pub small: u64,
    /// On ranges for which transparent huge pages were asked.
    pub transparent: u64,
    /// On explicit pages of 2 MiB.
    pub huge_2m: u64,
    /// On explicit pages of 1 GiB.
    pub huge_1g: u64,
}

impl CommittedBytes {
    /// The sum over all kinds of pages.
    pub fn total(&self) -> u64 {
        self.small + self.transparent + self.huge_2m + self.huge_1g
    }
}

impl Arena {
    /// Reserves the address space of a node. `bind_to` asks for that node's memory.
    pub(crate) fn new(
        layout: Layout,
        budget: Arc<Budget>,
        node: u32,
        bind_to: Option<u32>,
        want: PageKind,
    ) -> io::Result<Arena> {
        let memory = Reservation::new(layout.end)?;
        let bound_to = bind_to.filter(|physical| memory.bind(0, layout.end, *physical));
        memory.keep_small(0, layout.pages);
        let large = layout.large[0];
        memory.keep_small(large, layout.end - large);
        Ok(Arena {
            memory,
            end_words: layout.end / 8,
            layout,
            budget,
            node,
            bound_to,
            want,
            gib_refused: std::sync::atomic::AtomicBool::new(false),
            by_kind: Default::default(),
            #[cfg(loom)]
            loom_words: Default::default(),
        })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Whether the kernel took the request for this node's memory.
    pub(crate) fn bound(&self) -> bool {
        self.bound_to.is_some()
    }

    pub(crate) fn committed(&self) -> CommittedBytes {
        let of = |kind: PageKind| self.by_kind[kind as usize].load(Ordering::Relaxed);
        CommittedBytes {
            node: self.node,
            small: of(PageKind::Small),
            transparent: of(PageKind::Transparent),
            huge_2m: of(PageKind::Huge2M),
            huge_1g: of(PageKind::Huge1G),
        }
    }

    /// Charges bytes of 4 KiB pages (metadata, large slots). False, and nothing charged, at the limit.
    #[must_use]
    pub(crate) fn commit_small(&self, bytes: u64) -> bool {
        let charged = self.budget.charge(bytes);
        if charged {
            self.by_kind[PageKind::Small as usize].fetch_add(bytes, Ordering::Relaxed);
        }
        charged
    }

    /// Gives a charge of 4 KiB pages back after their memory was given back.
    pub(crate) fn uncommit_small(&self, bytes: u64) {
        self.by_kind[PageKind::Small as usize].fetch_sub(bytes, Ordering::Relaxed);
        self.budget.refund(bytes);
    }

    /// Commits a range of slab pages, a multiple of 2 MiB; `None`, and nothing changed, at the limit.
    pub(crate) fn commit_unit(&self, offset: u64, len: u64, populate: bool) -> Option<PageKind> {
        if !self.budget.charge(len) {
            return None;
        }
        let kind = self.memory.back(offset, len, self.want);
        if let Some(physical) = self.bound_to
            && self.want >= PageKind::Huge2M
        {
            // Asking for explicit huge pages made a new mapping there, which forgot the node.
            self.memory.bind(offset, len, physical);
        }
        if populate {
            self.memory.populate(offset, len);
        }
        self.by_kind[kind as usize].fetch_add(len, Ordering::Relaxed);
        Some(kind)
    }

    /// Commits 1 GiB of slab pages on one explicit page of that size; `None`, and nothing changed, when that
    /// was not asked for, or the limit or the system has none. After the system refused once it is not asked
    /// again.
    pub(crate) fn commit_gib(&self, offset: u64) -> Option<PageKind> {
        let asked = self.want == PageKind::Huge1G && !self.gib_refused.load(Ordering::Relaxed);
        if !asked || !self.budget.charge(os::GIB) {
            return None;
        }
        if !self.memory.back_with_gib(offset) {
            self.gib_refused.store(true, Ordering::Relaxed);
            self.budget.refund(os::GIB);
            return None;
        }
        if let Some(physical) = self.bound_to {
            self.memory.bind(offset, os::GIB, physical);
        }
        self.by_kind[PageKind::Huge1G as usize].fetch_add(os::GIB, Ordering::Relaxed);
        Some(PageKind::Huge1G)
    }

    /// Charges a slab page again that was given back.
    #[must_use]
    pub(crate) fn recommit_page(&self, bytes: u64, kind: PageKind) -> bool {
        let charged = self.budget.charge(bytes);
        if charged {
            self.by_kind[kind as usize].fetch_add(bytes, Ordering::Relaxed);
        }
        charged
    }

    /// Gives an empty slab page back to the system. False when it cannot be (explicit huge pages).
    pub(crate) fn give_back_page(&self, offset: u64, bytes: u64, kind: PageKind) -> bool {
        let possible = matches!(kind, PageKind::Small | PageKind::Transparent);
        if !possible || !self.memory.give_back(offset, bytes) {
            return false;
        }
        self.by_kind[kind as usize].fetch_sub(bytes, Ordering::Relaxed);
        self.budget.refund(bytes);
        true
    }

    /// Gives the memory of a range back (its charge is the caller's to refund).
    pub(crate) fn give_back(&self, offset: u64, len: u64) -> bool {
        self.memory.give_back(offset, len)
    }

    /// Finds pages for a charged range now, so that no later access to it faults.
    pub(crate) fn populate(&self, offset: u64, len: u64) {
        self.memory.populate(offset, len);
    }

    /// The atomic word at `offset`, a multiple of 8.
    ///
    /// # Panics
    /// When the offset is outside the arena or not aligned: an index word or a list is broken then.
    #[inline(always)]
    pub(crate) fn word(&self, offset: u64) -> &crate::sync::AtomicU64 {
        // One comparison for both: bits that a multiple of 8 does not have come to the top.
        assert!(offset.rotate_right(3) < self.end_words, "a broken offset: {offset:#x}");
        #[cfg(loom)]
        return self.loom_word(offset);
        #[cfg(not(loom))]
        self.mapped_word(offset)
    }

    /// The eight words from `offset` on, a multiple of 8.
    ///
    /// # Panics
    /// As [`Arena::word`], when they do not all lie inside.
    #[inline(always)]
    pub(crate) fn words(&self, offset: u64) -> Words<'_> {
        assert!(offset.rotate_right(3) < self.end_words - 7, "a broken offset: {offset:#x}");
        #[cfg(loom)]
        return std::array::from_fn(|index| self.loom_word(offset + index as u64 * 8));
        #[cfg(not(loom))]
        // SAFETY: as in `mapped_word`, for each of the eight.
        unsafe {
            &*self.address(offset).cast::<[crate::sync::AtomicU64; 8]>()
        }
    }

    #[cfg(loom)]
    fn loom_word(&self, offset: u64) -> &crate::sync::AtomicU64 {
        let mut words = crate::sync::lock(&self.loom_words);
        let word: *const _ =
            &**words.entry(offset).or_insert_with(|| Box::new(crate::sync::AtomicU64::new(0)));
        // SAFETY: a box is never taken out of the table before `self` ends, and does not move with it.
        unsafe { &*word }
    }

    #[cfg(not(loom))]
    #[inline(always)]
    fn mapped_word(&self, offset: u64) -> &crate::sync::AtomicU64 {
        let address = self.memory.base().as_ptr().wrapping_add(offset as usize);
        // SAFETY: the word lies inside the reservation and is aligned (asserted by the caller; the base is
        // aligned), is initialised (fresh pages are zero), and lives as long as `self`. Whoever writes it
        // does so through an atomic, or owns the slot around it alone, before it is published and after its
        // last reader left.
        unsafe { &*address.cast::<crate::sync::AtomicU64>() }
    }

    /// The address of a byte, for `entry/view.rs` and for prefetching.
    #[inline]
    pub(crate) fn address(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset < self.layout.end);
        self.memory.base().as_ptr().wrapping_add(offset as usize)
    }

    /// Asks the processor to fetch the cache line at `offset`.
    #[inline]
    pub(crate) fn prefetch(&self, offset: u64) {
        #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.address(offset).cast_const().cast()) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
        let _ = offset;
    }

    /// Asks the processor to fetch the cache line of `target`, to write it: no other core has it then.
    #[inline]
    pub(crate) fn prefetch_to_write<T>(target: *const T) {
        #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
        // SAFETY: a prefetch of any address is harmless. The intrinsic has none for writing that every
        // processor of this architecture takes.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) target, options(nostack, preserves_flags));
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
        let _ = target;
    }

    /// Brings the first lines of `bytes` bytes near: of a long value the rest comes by itself, in order.
    #[inline]
    pub(crate) fn prefetch_bytes(&self, offset: u64, bytes: u64) {
        for line in 0..bytes.div_ceil(64).min(PREFETCHED_LINES) {
            self.prefetch(offset + line * 64);
        }
    }

    /// Bytes of address space.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.memory.len()
    }
}

/// More than a core has under way at once would only wait for each other.
const PREFETCHED_LINES: u64 = 8;

const _: () = assert!(UNIT.is_multiple_of(layout::PAGE));

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn no_word_is_handed_out_that_is_not_aligned_or_does_not_lie_inside() {
        let layout = Layout::new(16 << 20, 1, 1 << 20);
        let arena = Arena::new(layout, Arc::new(Budget::new(16 << 20)), 0, None, PageKind::Small);
        let arena = arena.expect("address space");
        let end = arena.layout().end;
        let is_word = |at: u64| catch_unwind(AssertUnwindSafe(|| _ = arena.word(at))).is_ok();
        let are_words = |at: u64| catch_unwind(AssertUnwindSafe(|| _ = arena.words(at))).is_ok();
        assert!([0, 8, end - 8].into_iter().all(is_word));
        assert!([0, 8, end - 64].into_iter().all(are_words));
        for at in [end, end + 8, 1 << 61, 1 << 63, u64::MAX - 7, u64::MAX] {
            assert!(!is_word(at) && !are_words(at), "{at:#x} is outside");
        }
        for at in (1..8).chain(end - 7..end) {
            assert!(!is_word(at) && !are_words(at), "{at:#x} is not aligned");
        }
        for at in (end - 56..end).step_by(8) {
            assert!(!are_words(at), "the words from {at:#x} on end outside");
        }
    }
}
