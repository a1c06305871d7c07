//! Slabs: slots of every size out of one pool of pages.
//!
//! Invariant: a free slot is in exactly one place: a lane's stash, a batch of the depot or its page's list
//! (slab slots), or the large slots' free lists. What a free slot of a batch or a stash holds is nobody's
//! business: its former tenant's bytes stay until the next one writes.
//!
//! Callers: `store/node.rs`. Cost of a take: a stash operation; once in up to 123 of them a class's lock;
//! without batches in the depot, once in up to 31 a class's lock and as many list steps, and once per 256 KiB
//! a page from the pool. Of a put: a stash operation, once in up to 16 a class's lock and list steps.

pub(crate) mod batch;
pub(crate) mod class;
pub(crate) mod depot;
pub(crate) mod lane;
pub(crate) mod large;
pub(crate) mod page;
pub(crate) mod sparse;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

use crate::arena::Arena;
use crate::arena::layout::PAGE;
use crate::ids::Location;
use crate::sync::{Mutex, lock};
use batch::Batch;
use class::{CLASSES, Class};
use depot::Depot;
use lane::{Lane, stash_max};
use large::LargeSlots;
use page::{PageId, PageMeta, PagePool, offset_of, page_of};
use sparse::Sparse;

/// A slot that was taken and is its taker's alone until it is published: where it is, and how large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) location: Location,
    /// Bytes of its class, or what a large slot has committed.
    pub(crate) bytes: u64,
}

/// All slabs of a node.
pub(crate) struct Slabs {
    pub(crate) pool: PagePool,
    pub(crate) large: LargeSlots,
    pub(crate) depot: Depot,
    pub(crate) sparse: Sparse,
    classes: Box<[CachePadded<Mutex<ClassLists>>]>,
    /// By class, the free slots of its pages, those never used included; written under the class's lock.
    free_slots: Box<[CachePadded<AtomicU64>]>,
}

/// Where the free slots of a class are, but for the lanes' stashes.
#[derive(Default)]
struct ClassLists {
    /// The first page with room, as page number + 1.
    with_room: u64,
    /// The first page that is set apart, likewise.
    apart: u64,
    /// The first batch in the depot.
    depot: Option<Location>,
}

impl Slabs {
    pub(crate) fn new(warm_max_bytes: u64, depot_max_bytes: u64) -> Slabs {
        Slabs {
            pool: PagePool::new(),
            large: LargeSlots::new(warm_max_bytes),
            depot: Depot::new(depot_max_bytes),
            sparse: Sparse::new(),
            classes: (0..CLASSES).map(|_| CachePadded::default()).collect(),
            free_slots: (0..CLASSES).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Takes a slot of at least `need` bytes; `None` when the memory at hand has none.
    #[inline]
    pub(crate) fn take(&self, arena: &Arena, lane: &mut Lane, need: u64) -> Option<Slot> {
        match Class::of(need) {
            Some(class) => self.take_of(arena, lane, class),
            None => {
                let location = self.large.take(arena, need)?;
                arena.unpoison(location.offset(), need);
                Some(Slot { location, bytes: large::committed_bytes(arena, location) })
            }
        }
    }

    /// Takes a slot of a class.
    #[inline]
    pub(crate) fn take_of(&self, arena: &Arena, lane: &mut Lane, class: Class) -> Option<Slot> {
        let stash = &mut lane.stashes[usize::from(class.0)];
        let location = match stash.pop() {
            Some(location) => Location(location),
            None => self.refill(arena, lane, class)?,
        };
        // The lines of the slot that comes next are on their way when it is taken: stores to lines that are
        // far away fill the store buffer, and every locked step after them waits.
        if let Some(next) = lane.stashes[usize::from(class.0)].top() {
            arena.prefetch_bytes(Location(next).offset(), class.slot_bytes().into());
        }
        Some(Self::hand_out(arena, location, class))
    }

    /// Makes a free slot of a class its taker's.
    #[inline]
    fn hand_out(arena: &Arena, location: Location, class: Class) -> Slot {
        let bytes = class.slot_bytes().into();
        arena.unpoison(location.offset(), bytes);
        Slot { location, bytes }
    }

    /// Frees a slot that nobody can reach any more.
    pub(crate) fn put(&self, arena: &Arena, lane: &mut Lane, location: Location) {
        if large::is_large(arena, location) {
            arena.poison(location.offset(), large::committed_bytes(arena, location));
            return self.large.put(arena, location);
        }
        let (class, is_apart) =
            PageMeta::of(arena, page_of(arena, location.offset())).class_and_apart();
        arena.poison(location.offset(), u64::from(class.slot_bytes()));
        if is_apart {
            return self.put_apart(arena, class, location);
        }
        let stash = &mut lane.stashes[usize::from(class.0)];
        if stash.len() >= stash_max(class) {
            self.spill(arena, lane, class, stash_max(class) / 2);
        }
        lane.stashes[usize::from(class.0)].push(location.0);
    }

    /// Puts all stashed slots of a lane, and what it has begun of a batch, back to their pages, so that empty
    /// pages can serve others.
    pub(crate) fn flush(&self, arena: &Arena, lane: &mut Lane) {
        for class in (0..CLASSES as u8).map(Class) {
            self.flush_begun(arena, lane, class);
        }
        for class in (0..CLASSES as u8).map(Class) {
            self.spill(arena, lane, class, 0);
        }
    }

    /// Fills a stash and returns one more slot.
    fn refill(&self, arena: &Arena, lane: &mut Lane, class: Class) -> Option<Location> {
        if self.refill_from_depot(arena, lane, class) {
            return lane.stashes[usize::from(class.0)].pop().map(Location);
        }
        let mut lists = lock(&self.classes[usize::from(class.0)]);
        let first = self.take_from_pages(arena, &mut lists, class)?;
        let stash = &mut lane.stashes[usize::from(class.0)];
        let before = stash.len();
        while stash.len() + 1 < stash_max(class) {
            // The pool is asked for the first slot only: a stash must not take the last page for slots nobody
            // needs.
            let Some(location) = Self::take_listed(arena, &mut lists.with_room, class) else {
                break;
            };
            stash.push(location.0);
        }
        self.sub_free(class, (stash.len() - before) as u64 + 1);
        Some(first)
    }

    fn take_from_pages(
        &self,
        arena: &Arena,
        lists: &mut ClassLists,
        class: Class,
    ) -> Option<Location> {
        if lists.with_room == 0 {
            let page = self.pool.take(arena, class)?;
            link(arena, &mut lists.with_room, page);
            self.add_free(class, capacity_of(class));
        }
        Self::take_listed(arena, &mut lists.with_room, class)
    }

    /// Notes that pages of a class have so many free slots more. Under the class's lock.
    fn add_free(&self, class: Class, slots: u64) {
        let free = &self.free_slots[usize::from(class.0)];
        free.store(free.load(Relaxed) + slots, Relaxed);
    }

    fn sub_free(&self, class: Class, slots: u64) {
        let free = &self.free_slots[usize::from(class.0)];
        free.store(free.load(Relaxed) - slots, Relaxed);
    }

    /// Takes a slot from the first page with room.
    fn take_listed(arena: &Arena, list: &mut u64, class: Class) -> Option<Location> {
        let page = PageId(list.checked_sub(1)?);
        let meta = PageMeta::of(arena, page);
        let slot_bytes = u64::from(class.slot_bytes());
        let location = if meta.free_head() != 0 {
            let location = Location(meta.free_head());
            meta.set_free_head(arena.word(location.offset() + 8).load(Relaxed));
            meta.set_free_count(meta.free_count() - 1);
            location
        } else {
            let index = meta.carved();
            meta.set_carved(index + 1);
            Location::from_offset(offset_of(arena, page) + index * slot_bytes)
        };
        if meta.free_count() == 0 && meta.carved() == capacity_of(class) {
            unlink(arena, list, page);
        }
        Some(location)
    }

    /// Moves slots from a stash to their pages until `keep` are left.
    fn spill(&self, arena: &Arena, lane: &mut Lane, class: Class, keep: usize) {
        let stash = &mut lane.stashes[usize::from(class.0)];
        if stash.len() <= keep {
            return;
        }
        let mut lists = lock(&self.classes[usize::from(class.0)]);
        self.add_free(class, (stash.len() - keep) as u64);
        while stash.len() > keep {
            let Some(location) = stash.pop() else { break };
            self.give_to_page(arena, &mut lists, class, Location(location));
        }
    }

    /// Puts a slot into its page's list; a page that is all free goes back to the pool.
    fn give_to_page(&self, arena: &Arena, lists: &mut ClassLists, class: Class, slot: Location) {
        let page = page_of(arena, slot.offset());
        let meta = PageMeta::of(arena, page);
        arena.word(slot.offset() + 8).store(meta.free_head(), Relaxed);
        meta.set_free_head(slot.0);
        meta.set_free_count(meta.free_count() + 1);
        if !meta.listed() {
            link(arena, &mut lists.with_room, page);
        }
        if meta.free_count() == meta.carved() && meta.carved() <= capacity_of(class) {
            self.sub_free(class, capacity_of(class));
            if meta.is_apart() {
                unlink(arena, &mut lists.apart, page);
                self.sparse.note_emptied(class);
            } else {
                unlink(arena, &mut lists.with_room, page);
            }
            arena.unpoison(offset_of(arena, page), PAGE);
            self.pool.put(arena, page);
        }
    }

    /// Bytes of the place of a slot that was taken for `need` bytes: as `slot_bytes`, without a look at its
    /// page.
    #[inline]
    pub(crate) fn slot_bytes_for(&self, arena: &Arena, location: Location, need: u64) -> u64 {
        match Class::of(need) {
            Some(class) => class.slot_bytes().into(),
            None => large::committed_bytes(arena, location),
        }
    }

    /// Bytes of a slot's place: of its class, or what a large slot has committed.
    pub(crate) fn slot_bytes(&self, arena: &Arena, location: Location) -> u64 {
        if large::is_large(arena, location) {
            return large::committed_bytes(arena, location);
        }
        let class = PageMeta::of(arena, page_of(arena, location.offset())).class();
        u64::from(class.slot_bytes())
    }

    /// Bytes of pages in use that hold no slot in use, stashes not counted: free slots, uncarved room and
    /// tails.
    pub(crate) fn free_bytes_in_pages(&self, arena: &Arena) -> u64 {
        let mut free = 0;
        for page in 0..self.pool.counts().ever {
            let meta = PageMeta::of(arena, PageId(page));
            if meta.in_use() {
                let slot = u64::from(meta.class().slot_bytes());
                let used = meta.carved().saturating_sub(meta.free_count()) * slot;
                free += PAGE - used.min(PAGE);
            }
        }
        free
    }

    /// Bytes that a lane's stashes hold.
    pub(crate) fn stashed_bytes(arena: &Arena, lane: &Lane) -> u64 {
        let of = |(class, stash): (usize, &lane::Stash)| {
            let begun = stash.batch.map_or(0, |batch| Batch::at(arena, batch).bytes());
            stash.len() as u64 * u64::from(Class(class as u8).slot_bytes()) + begun
        };
        lane.stashes.iter().enumerate().map(of).sum()
    }
}

/// Slots of a page.
fn capacity_of(class: Class) -> u64 {
    PAGE / u64::from(class.slot_bytes())
}

/// Puts a page at the head of its class's list.
fn link(arena: &Arena, list: &mut u64, page: PageId) {
    let meta = PageMeta::of(arena, page);
    meta.set_previous(0);
    meta.set_next(*list);
    meta.set_listed(true);
    if *list != 0 {
        PageMeta::of(arena, PageId(*list - 1)).set_previous(page.0 + 1);
    }
    *list = page.0 + 1;
}

/// Takes a page out of its class's list.
fn unlink(arena: &Arena, list: &mut u64, page: PageId) {
    let meta = PageMeta::of(arena, page);
    let (previous, next) = (meta.previous(), meta.next());
    if previous == 0 {
        *list = next;
    } else {
        PageMeta::of(arena, PageId(previous - 1)).set_next(next);
    }
    if next != 0 {
        PageMeta::of(arena, PageId(next - 1)).set_previous(previous);
    }
    meta.set_listed(false);
}
