//! The page table and the node-wide pool of slab pages.
//!
//! Invariant: a page is in exactly one state: never used, free (committed, in the pool), in use by one class,
//! or given back. Its words are written only under the lock that its state names: the pool's for free and
//! given-back pages, the class's for pages in use. Pages belong to no map and no stream, so memory freed by
//! one map serves every other.
//!
//! Cost: a page is taken once per 256 KiB of new slots. Committing (a system call, up to 2 MiB of page
//! faults) happens here when nobody called `maintain` ahead of need; it is never done under a stream's lock.

use std::sync::atomic::Ordering::Relaxed;

use super::class::Class;
use crate::arena::Arena;
use crate::arena::layout::{PAGE, PAGE_META};
use crate::arena::os::{GIB, PageKind, UNIT};
use crate::sync::{Mutex, lock};

/// The number of a slab page in its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PageId(pub(crate) u64);

const STATE_FREE: u64 = 1;
const STATE_USED: u64 = 2;
const STATE_GIVEN_BACK: u64 = 3;
/// In the word of state and class, so that whoever frees a slot has it at hand: the page is set apart.
const APART: u64 = 1 << 32;
/// Words of a page, of which the first stays when it is taken.
const WORDS: u64 = PAGE_META / 8;
/// Where the note of a try to empty the page has the number of the walk.
const WALK_SHIFT: u32 = 32;

/// The words of a page in the page table.
pub(crate) struct PageMeta<'a> {
    arena: &'a Arena,
    base: u64,
}

impl<'a> PageMeta<'a> {
    pub(crate) fn of(arena: &'a Arena, page: PageId) -> PageMeta<'a> {
        PageMeta { arena, base: arena.layout().page_table + page.0 * PAGE_META }
    }

    fn get(&self, word: u64) -> u64 {
        self.arena.word(self.base + word * 8).load(Relaxed)
    }

    fn set(&self, word: u64, value: u64) {
        self.arena.word(self.base + word * 8).store(value, Relaxed);
    }

    fn state(&self) -> u64 {
        self.get(0) & 0xff
    }

    fn kind(&self) -> PageKind {
        match (self.get(0) >> 16) & 0xff {
            0 => PageKind::Small,
            1 => PageKind::Transparent,
            2 => PageKind::Huge2M,
            _ => PageKind::Huge1G,
        }
    }

    fn set_state(&self, state: u64, class: Class, kind: PageKind) {
        self.set(0, state | u64::from(class.0) << 8 | (kind as u64) << 16);
    }

    pub(crate) fn class(&self) -> Class {
        Class((self.get(0) >> 8) as u8)
    }

    /// The class of its slots, and whether it is set apart.
    #[inline]
    pub(crate) fn class_and_apart(&self) -> (Class, bool) {
        let word = self.get(0);
        (Class((word >> 8) as u8), word & APART != 0)
    }

    /// Whether no slot of it is given out, so that it becomes empty.
    pub(crate) fn is_apart(&self) -> bool {
        self.get(0) & APART != 0
    }

    pub(crate) fn set_apart(&self, is_apart: bool) {
        self.set(0, if is_apart { self.get(0) | APART } else { self.get(0) & !APART });
    }

    /// Slots that were in use when the page could not be emptied, and the walk that tried.
    pub(crate) fn tried(&self) -> Option<(u64, u32)> {
        let note = self.get(7);
        let used = (note & ((1 << WALK_SHIFT) - 1)).checked_sub(1)?;
        Some((used, (note >> WALK_SHIFT) as u32))
    }

    pub(crate) fn set_tried(&self, used: u64, walk: u32) {
        self.set(7, (used + 1) | u64::from(walk) << WALK_SHIFT);
    }

    pub(crate) fn in_use(&self) -> bool {
        self.state() == STATE_USED
    }

    /// Head of the page's list of free slots: a location, 0 for none.
    pub(crate) fn free_head(&self) -> u64 {
        self.get(1)
    }

    pub(crate) fn set_free_head(&self, location: u64) {
        self.set(1, location);
    }

    /// Slots in that list.
    pub(crate) fn free_count(&self) -> u64 {
        self.get(2)
    }

    pub(crate) fn set_free_count(&self, count: u64) {
        self.set(2, count);
    }

    /// Slots carved from the page's start so far.
    pub(crate) fn carved(&self) -> u64 {
        self.get(3)
    }

    pub(crate) fn set_carved(&self, slots: u64) {
        self.set(3, slots);
    }

    /// The next page of the list this one is in, as number + 1.
    pub(crate) fn next(&self) -> u64 {
        self.get(4)
    }

    pub(crate) fn set_next(&self, page_plus_one: u64) {
        self.set(4, page_plus_one);
    }

    /// The page before it, as number + 1.
    pub(crate) fn previous(&self) -> u64 {
        self.get(5)
    }

    pub(crate) fn set_previous(&self, page_plus_one: u64) {
        self.set(5, page_plus_one);
    }

    /// Whether it is in its class's list of pages with room.
    pub(crate) fn listed(&self) -> bool {
        self.get(6) != 0
    }

    pub(crate) fn set_listed(&self, listed: bool) {
        self.set(6, u64::from(listed));
    }
}

/// The pool of a node.
pub(crate) struct PagePool {
    state: Mutex<PoolState>,
}

struct PoolState {
    /// Free pages, linked through `next`, as number + 1.
    free_head: u64,
    free_pages: u64,
    /// Pages given back to the system.
    given_back_head: u64,
    given_back_pages: u64,
    /// Pages ever committed.
    pages: u64,
}

/// What the pool holds, in pages.
pub(crate) struct PoolCounts {
    pub(crate) free: u64,
    pub(crate) ever: u64,
}

impl PagePool {
    pub(crate) fn new() -> PagePool {
        PagePool {
            state: Mutex::new(PoolState {
                free_head: 0,
                free_pages: 0,
                given_back_head: 0,
                given_back_pages: 0,
                pages: 0,
            }),
        }
    }

    /// Takes a page for a class; `None` at the memory limit.
    pub(crate) fn take(&self, arena: &Arena, class: Class) -> Option<PageId> {
        let mut pool = lock(&self.state);
        if pool.free_head == 0 && !Self::take_back(&mut pool, arena) {
            Self::commit(&mut pool, arena, false)?;
        }
        let page = PageId(pool.free_head - 1);
        let meta = PageMeta::of(arena, page);
        pool.free_head = meta.next();
        pool.free_pages -= 1;
        meta.set_state(STATE_USED, class, meta.kind());
        for clear in 1..WORDS {
            meta.set(clear, 0);
        }
        Some(page)
    }

    /// Puts an empty page back.
    pub(crate) fn put(&self, arena: &Arena, page: PageId) {
        let mut pool = lock(&self.state);
        let meta = PageMeta::of(arena, page);
        debug_assert!(meta.in_use(), "only a page in use can become free");
        meta.set_state(STATE_FREE, Class(0), meta.kind());
        meta.set_next(pool.free_head);
        pool.free_head = page.0 + 1;
        pool.free_pages += 1;
    }

    /// Commits until `pages` are free or the limit is near, finding the memory now. Returns the pages
    /// committed.
    pub(crate) fn commit_ahead(&self, arena: &Arena, pages: u64) -> u64 {
        let mut pool = lock(&self.state);
        let before = pool.pages;
        while pool.free_pages < pages && Self::commit(&mut pool, arena, true).is_some() {}
        pool.pages - before
    }

    /// Gives up to `pages` free pages back to the system and says how many.
    pub(crate) fn give_back(&self, arena: &Arena, pages: u64) -> u64 {
        let mut pool = lock(&self.state);
        let mut kept = 0;
        let mut given = 0;
        while pool.free_head != 0 && given < pages {
            let page = PageId(pool.free_head - 1);
            let meta = PageMeta::of(arena, page);
            pool.free_head = meta.next();
            pool.free_pages -= 1;
            if arena.give_back_page(offset_of(arena, page), PAGE, meta.kind()) {
                meta.set_state(STATE_GIVEN_BACK, Class(0), meta.kind());
                meta.set_next(pool.given_back_head);
                pool.given_back_head = page.0 + 1;
                pool.given_back_pages += 1;
                given += 1;
            } else {
                meta.set_next(kept);
                kept = page.0 + 1;
            }
        }
        while kept != 0 {
            let meta = PageMeta::of(arena, PageId(kept - 1));
            let next = meta.next();
            meta.set_next(pool.free_head);
            pool.free_head = kept;
            pool.free_pages += 1;
            kept = next;
        }
        given
    }

    pub(crate) fn counts(&self) -> PoolCounts {
        let pool = lock(&self.state);
        PoolCounts { free: pool.free_pages, ever: pool.pages }
    }

    /// Makes a page that was given back usable again.
    fn take_back(pool: &mut PoolState, arena: &Arena) -> bool {
        if pool.given_back_head == 0 {
            return false;
        }
        let page = PageId(pool.given_back_head - 1);
        let meta = PageMeta::of(arena, page);
        if !arena.recommit_page(PAGE, meta.kind()) {
            return false;
        }
        pool.given_back_head = meta.next();
        pool.given_back_pages -= 1;
        meta.set_state(STATE_FREE, Class(0), meta.kind());
        meta.set_next(pool.free_head);
        pool.free_head = page.0 + 1;
        pool.free_pages += 1;
        true
    }

    /// Commits the next pages and their part of the page table: 1 GiB where such a page is to be had, else
    /// 2 MiB.
    fn commit(pool: &mut PoolState, arena: &Arena, populate: bool) -> Option<()> {
        Self::commit_range(pool, arena, GIB, |offset| arena.commit_gib(offset)).or_else(|| {
            Self::commit_range(pool, arena, UNIT, |offset| {
                arena.commit_unit(offset, UNIT, populate)
            })
        })
    }

    fn commit_range(
        pool: &mut PoolState,
        arena: &Arena,
        len: u64,
        commit: impl FnOnce(u64) -> Option<PageKind>,
    ) -> Option<()> {
        let layout = arena.layout();
        let count = len / PAGE;
        let offset = layout.pages + pool.pages * PAGE;
        if pool.pages + count > layout.pages_max || !offset.is_multiple_of(len) {
            return None;
        }
        let table_before = (pool.pages * PAGE_META).next_multiple_of(4096);
        let table_after = ((pool.pages + count) * PAGE_META).next_multiple_of(4096);
        if !arena.commit_small(table_after - table_before) {
            return None;
        }
        let Some(kind) = commit(offset) else {
            arena.uncommit_small(table_after - table_before);
            return None;
        };
        for page in (pool.pages..pool.pages + count).rev() {
            let meta = PageMeta::of(arena, PageId(page));
            meta.set_state(STATE_FREE, Class(0), kind);
            meta.set_next(pool.free_head);
            pool.free_head = page + 1;
        }
        pool.pages += count;
        pool.free_pages += count;
        Some(())
    }
}

/// The page that a slab slot at `offset` lies in.
pub(crate) fn page_of(arena: &Arena, offset: u64) -> PageId {
    debug_assert!(offset >= arena.layout().pages);
    PageId((offset - arena.layout().pages) / PAGE)
}

/// Where a page starts.
pub(crate) fn offset_of(arena: &Arena, page: PageId) -> u64 {
    arena.layout().pages + page.0 * PAGE
}
