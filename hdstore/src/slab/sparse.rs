//! Sparse pages: which could be emptied if their slots' tenants moved to other pages of the class, and
//! setting these apart so that they fill no further.
//!
//! Invariant: a page that is set apart is in its class's list of such pages instead of the one with room,
//! so no slot of it is given out, and what is freed goes straight to the page; when that was the last of
//! its slots, to the pool as ever. Of a class as many pages are set apart as its free slots make up, so the
//! others have room for every tenant and moving needs no fresh page. Setting apart ends for all pages at
//! once.
//!
//! Caller: `store/movement.rs`, which moves the tenants. Cost of a look: 64 bytes for each page; whether it
//! may find enough is known before, from a count by class. What may go wrong: a page holds what cannot move
//! (index memory, batches, what a guard keeps). It is then left alone until something of it was freed or
//! some walks have passed, and what is expected of its class halves, so that nobody walks for the same
//! pages again and again. `docs/memory.md`, "Entries move", explains it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

use super::class::{CLASSES, Class, ENTRY_CLASSES};
use super::page::{PageId, PageMeta, page_of};
use super::{ClassLists, Slabs, Slot, capacity_of, link, unlink};
use crate::arena::Arena;
use crate::arena::layout::PAGE;
use crate::ids::Location;
use crate::slab::large;
use crate::sync::lock;

/// Steps in which the pages of a class are told apart by how full they are.
const LEVELS: usize = 32;
/// Walks after which a page that could not be emptied is tried again.
const WALKS_BETWEEN_TRIES: u32 = 8;
/// What is expected of a class of which every page could be emptied.
pub(crate) const ALL: u64 = 256;

/// What is known of sparse pages.
pub(crate) struct Sparse {
    /// Pages that are set apart now.
    apart: AtomicU64,
    /// Pages that were emptied by moving their slots' tenants, ever.
    emptied: AtomicU64,
    memory: [ClassMemory; CLASSES],
}

/// What former walks found of a class.
struct ClassMemory {
    /// How much of what was set apart came free, in 256ths, halved towards the newest.
    share: AtomicU64,
    /// The fewest free slots that were seen since the share fell; all ones when it did not.
    free_slots: AtomicU64,
    /// Pages set apart for the walk under way, and those of them that were emptied.
    chosen: AtomicU64,
    emptied: AtomicU64,
}

/// A set of pages: a bit for each.
#[derive(Default)]
pub(crate) struct PageSet {
    start: u64,
    bits: Vec<u64>,
}

/// The pages of a class, as a look found them.
#[derive(Clone)]
struct Census {
    /// Pages that may be set apart, by how full they are.
    levels: [u32; LEVELS],
    free_slots: u64,
}

/// What a look at all pages found.
pub(crate) struct Outlook {
    classes: Vec<Census>,
    /// By class, how many pages are to be set apart.
    wanted: Vec<u64>,
    /// Pages that are expected to come free, in 256ths.
    pub(crate) gain: u64,
}

impl Sparse {
    pub(super) fn new() -> Sparse {
        let memory = |_| ClassMemory {
            share: AtomicU64::new(ALL),
            free_slots: AtomicU64::new(u64::MAX),
            chosen: AtomicU64::new(0),
            emptied: AtomicU64::new(0),
        };
        Sparse {
            apart: AtomicU64::new(0),
            emptied: AtomicU64::new(0),
            memory: std::array::from_fn(memory),
        }
    }

    /// Pages that are set apart now.
    pub(crate) fn apart(&self) -> u64 {
        self.apart.load(Relaxed)
    }

    /// Pages that were emptied by moving, ever.
    pub(crate) fn emptied(&self) -> u64 {
        self.emptied.load(Relaxed)
    }

    /// A page that was set apart is empty.
    pub(super) fn note_emptied(&self, class: Class) {
        self.apart.fetch_sub(1, Relaxed);
        self.emptied.fetch_add(1, Relaxed);
        self.memory[usize::from(class.0)].emptied.fetch_add(1, Relaxed);
    }
}

impl PageSet {
    /// Whether a slot lies in a page of the set.
    #[inline]
    pub(crate) fn has(&self, location: Location) -> bool {
        // What lies behind the pages, large slots, is beyond the bits as well.
        let page = (location.offset() - self.start) / PAGE;
        self.bits.get((page / 64) as usize).is_some_and(|bits| bits >> (page % 64) & 1 != 0)
    }

    fn add(&mut self, page: PageId) {
        self.bits[(page.0 / 64) as usize] |= 1 << (page.0 % 64);
    }
}

impl ClassMemory {
    /// How much of what is set apart is expected to come free, when so many slots are free. A failure counts
    /// no more when there are twice as many as there were at some time since.
    fn share_at(&self, free_slots: u64) -> u64 {
        let least = self.free_slots.load(Relaxed);
        if free_slots >= least.saturating_mul(2) {
            self.share.store(ALL, Relaxed);
            self.free_slots.store(u64::MAX, Relaxed);
        } else if free_slots < least && least != u64::MAX {
            self.free_slots.store(free_slots, Relaxed);
        }
        self.share.load(Relaxed)
    }
}

impl Census {
    const NONE: Census = Census { levels: [0; LEVELS], free_slots: 0 };
}

/// How full a page is, 0 to `LEVELS` - 1; `None` when it may not be set apart.
fn level(meta: &PageMeta<'_>, capacity: u64, walks: u32) -> Option<usize> {
    let used = used(meta);
    let is_left_alone = meta.tried().is_some_and(|(used_then, walk)| {
        used >= used_then && walks.wrapping_sub(walk) < WALKS_BETWEEN_TRIES
    });
    (meta.class().is_of_entries() && used < capacity && !is_left_alone && !meta.is_apart())
        .then_some((used * LEVELS as u64 / capacity) as usize)
}

fn used(meta: &PageMeta<'_>) -> u64 {
    meta.carved().saturating_sub(meta.free_count())
}

impl Slabs {
    /// How many pages are expected to come free if the sparsest of each class are emptied, by the free slots
    /// alone: 256ths of pages.
    pub(crate) fn expected_gain(&self) -> u64 {
        let of_class = |(class, free): (usize, &CachePadded<AtomicU64>)| {
            let free = free.load(Relaxed);
            let pages = free / capacity_of(Class(class as u8));
            if pages == 0 { 0 } else { pages * self.sparse.memory[class].share_at(free) }
        };
        self.free_slots[..ENTRY_CLASSES].iter().enumerate().map(of_class).sum()
    }

    /// Looks how many pages could be emptied. The stocks of free slots should be in their pages. `walks` is
    /// how many walks there were.
    pub(crate) fn look_for_sparse(&self, arena: &Arena, walks: u32) -> Outlook {
        let mut classes = vec![Census::NONE; CLASSES];
        for page in (0..self.pool.counts().ever).map(PageId) {
            let meta = PageMeta::of(arena, page);
            if !meta.in_use() {
                continue;
            }
            let class = meta.class();
            let (census, capacity) = (&mut classes[usize::from(class.0)], capacity_of(class));
            census.free_slots += capacity.saturating_sub(used(&meta));
            if let Some(level) = level(&meta, capacity, walks) {
                census.levels[level] += 1;
            }
        }
        let mut gain = 0;
        let mut wanted = Vec::with_capacity(CLASSES);
        for (class, census) in (0..CLASSES as u8).map(Class).zip(&classes) {
            let candidates: u64 = census.levels.iter().map(|count| u64::from(*count)).sum();
            let pages = candidates.min(census.free_slots / capacity_of(class));
            gain += pages * self.sparse.memory[usize::from(class.0)].share.load(Relaxed);
            wanted.push(pages);
        }
        Outlook { classes, wanted, gain }
    }

    /// Sets the sparsest pages apart, as many of each class as the look found, and returns them.
    pub(crate) fn set_apart(&self, arena: &Arena, outlook: &Outlook, walks: u32) -> PageSet {
        let ever = self.pool.counts().ever;
        let start = arena.layout().pages;
        let mut set = PageSet { start, bits: vec![0; ever.div_ceil(64) as usize] };
        let mut left = outlook.wanted.clone();
        // The level at which a class has as many pages as it wants, and how many of that level it takes.
        let mut last: Vec<(usize, u64)> = Vec::with_capacity(CLASSES);
        for (census, wanted) in outlook.classes.iter().zip(&outlook.wanted) {
            let (mut level, mut rest) = (0, *wanted);
            while level < LEVELS - 1 && u64::from(census.levels[level]) < rest {
                rest -= u64::from(census.levels[level]);
                level += 1;
            }
            last.push((level, rest));
        }
        for page in (0..ever).map(PageId) {
            let meta = PageMeta::of(arena, page);
            let class = meta.class();
            let index = usize::from(class.0);
            if !meta.in_use() || left[index] == 0 {
                continue;
            }
            let mut lists = lock(&self.classes[index]);
            // Under the class's lock the page stays what it is.
            if !meta.in_use() || meta.class() != class {
                continue;
            }
            let Some(level) = level(&meta, capacity_of(class), walks) else { continue };
            if level > last[index].0 || (level == last[index].0 && last[index].1 == 0) {
                continue;
            }
            if level == last[index].0 {
                last[index].1 -= 1;
            }
            left[index] -= 1;
            if meta.listed() {
                unlink(arena, &mut lists.with_room, page);
            }
            link(arena, &mut lists.apart, page);
            meta.set_apart(true);
            self.sparse.apart.fetch_add(1, Relaxed);
            self.sparse.memory[index].chosen.fetch_add(1, Relaxed);
            set.add(page);
        }
        set
    }

    /// Ends the setting apart: pages that were not emptied serve their class again. `is_judged` says whether
    /// they could have been, so that it says something of them.
    pub(crate) fn end_apart(&self, arena: &Arena, walks: u32, is_judged: bool) {
        for class in (0..CLASSES as u8).map(Class) {
            let memory = &self.sparse.memory[usize::from(class.0)];
            let chosen = memory.chosen.swap(0, Relaxed);
            let mut lists = lock(&self.classes[usize::from(class.0)]);
            while let Some(page) = lists.apart.checked_sub(1).map(PageId) {
                let meta = PageMeta::of(arena, page);
                unlink(arena, &mut lists.apart, page);
                meta.set_apart(false);
                if is_judged {
                    meta.set_tried(used(&meta), walks);
                }
                if used(&meta) < capacity_of(class) {
                    link(arena, &mut lists.with_room, page);
                }
                self.sparse.apart.fetch_sub(1, Relaxed);
            }
            let emptied = memory.emptied.swap(0, Relaxed).min(chosen);
            if chosen > 0 && is_judged {
                let share = memory.share.load(Relaxed);
                let share = (share + emptied * ALL / chosen) / 2;
                let free_slots = self.free_slots[usize::from(class.0)].load(Relaxed);
                memory.share.store(share, Relaxed);
                memory.free_slots.store(free_slots.max(1), Relaxed);
            }
        }
    }

    /// Takes a slot of a class from its pages, for an entry that moves: no fresh page, and none that is set
    /// apart.
    pub(crate) fn take_elsewhere(&self, arena: &Arena, class: Class) -> Option<Slot> {
        let mut lists = lock(&self.classes[usize::from(class.0)]);
        let location = Self::take_listed(arena, &mut lists.with_room, class)?;
        self.sub_free(class, 1);
        drop(lists);
        Some(Self::hand_out(arena, location, class))
    }

    /// Gives a free slot to its page, which is set apart.
    #[cold]
    pub(super) fn put_apart(&self, arena: &Arena, class: Class, location: Location) {
        let mut lists = lock(&self.classes[usize::from(class.0)]);
        self.add_free(class, 1);
        self.give_to_page(arena, &mut lists, class, location);
    }
}

impl ClassLists {
    /// Whether batches of free slots may wait: none of them lies in a page that is set apart.
    #[inline]
    pub(super) fn may_wait(&self) -> bool {
        self.apart == 0
    }
}

/// The class of a slot whose page is set apart.
pub(crate) fn class_if_apart(arena: &Arena, location: Location) -> Option<Class> {
    if large::is_large(arena, location) {
        return None;
    }
    let (class, is_apart) =
        PageMeta::of(arena, page_of(arena, location.offset())).class_and_apart();
    is_apart.then_some(class)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;
    use crate::arena::Budget;
    use crate::arena::layout::Layout;
    use crate::arena::os::PageKind;
    use crate::slab::lane::Lane;

    const LIMIT: u64 = 8 << 20;
    const SLOT: u64 = 4096;

    struct Bed {
        arena: Arena,
        slabs: Slabs,
        lane: Lane,
    }

    impl Bed {
        fn new() -> Bed {
            let layout = Layout::new(LIMIT, 1, 1 << 20);
            let budget = Arc::new(Budget::new(LIMIT));
            let arena =
                Arena::new(layout, budget, 0, None, PageKind::Small).expect("address space");
            Bed { arena, slabs: Slabs::new(0, 1 << 20), lane: Lane::new() }
        }

        fn take(&mut self, need: u64) -> Option<Location> {
            self.slabs.take(&self.arena, &mut self.lane, need).map(|slot| slot.location)
        }

        fn free(&mut self, location: Location) {
            self.slabs.put(&self.arena, &mut self.lane, location);
        }

        fn flush(&mut self) {
            self.slabs.flush(&self.arena, &mut self.lane);
        }

        fn page(&self, location: Location) -> PageId {
            page_of(&self.arena, location.offset())
        }

        /// Fills the limit, then leaves of every page as many slots as `left` says for its number.
        fn sparse(left: impl Fn(u64) -> usize) -> (Bed, Vec<Location>) {
            let mut bed = Bed::new();
            let all: Vec<_> = std::iter::from_fn(|| bed.take(SLOT)).collect();
            let (mut kept, mut of_page) = (Vec::new(), std::collections::HashMap::new());
            for location in all {
                let page = bed.page(location);
                let count = of_page.entry(page.0).or_insert(0);
                *count += 1;
                if *count <= left(page.0) { kept.push(location) } else { bed.free(location) }
            }
            bed.flush();
            (bed, kept)
        }
    }

    #[test]
    fn the_sparsest_pages_are_chosen_and_what_they_hold_fits_the_others() {
        // One page in four has a slot in use, the others two thirds of 64.
        let (bed, kept) = Bed::sparse(|page| if page % 4 == 0 { 1 } else { 42 });
        let outlook = bed.slabs.look_for_sparse(&bed.arena, 0);
        assert_eq!(outlook.gain, bed.slabs.expected_gain(), "the counts say what the pages say");
        let free =
            bed.slabs.free_slots[usize::from(Class::of(SLOT).expect("a class").0)].load(Relaxed);
        assert_eq!(outlook.gain / ALL, free / 64);
        let set = bed.slabs.set_apart(&bed.arena, &outlook, 0);
        assert_eq!(bed.slabs.sparse.apart(), outlook.gain / ALL);
        for location in &kept {
            let is_sparse = bed.page(*location).0 % 4 == 0;
            assert!(!is_sparse || set.has(*location), "a fuller page was chosen before a sparser");
            assert_eq!(set.has(*location), class_if_apart(&bed.arena, *location).is_some());
        }
        let class = Class::of(SLOT).expect("a class");
        let must_move = kept.iter().filter(|location| set.has(**location)).count();
        for _ in 0..must_move {
            let slot = bed.slabs.take_elsewhere(&bed.arena, class).expect("room for each");
            assert!(!set.has(slot.location), "moved to a page that shall become empty");
        }
    }

    #[test]
    fn no_slot_of_a_page_that_is_set_apart_is_given_out_and_when_empty_it_serves_other_sizes() {
        let (mut bed, kept) = Bed::sparse(|page| 1 + page as usize % 30);
        assert!(bed.take(100).is_none(), "no page is free as a whole");
        let outlook = bed.slabs.look_for_sparse(&bed.arena, 0);
        let set = bed.slabs.set_apart(&bed.arena, &outlook, 0);
        let chosen = bed.slabs.sparse.apart();
        assert!(chosen > 3);
        let (apart, others): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|location| set.has(*location));
        // Slots come and go meanwhile, those of pages that are set apart, too.
        let mut seen = HashSet::new();
        for (index, location) in apart.iter().enumerate() {
            bed.free(*location);
            if let Some(taken) = bed.take(SLOT) {
                assert!(!set.has(taken), "slot {index} was given out again");
                assert!(seen.insert(taken.0), "given out twice");
            }
        }
        assert_eq!((bed.slabs.sparse.apart(), bed.slabs.sparse.emptied()), (0, chosen));
        bed.slabs.end_apart(&bed.arena, 1, true);
        assert!(bed.take(100).is_some(), "an emptied page serves another size");
        let mut taken: HashSet<u64> = others.iter().map(|location| location.0).collect();
        taken.extend(seen);
        while let Some(location) = bed.take(SLOT) {
            assert!(taken.insert(location.0), "given out twice");
        }
        let pages = bed.slabs.pool.counts().ever - 1;
        assert_eq!(taken.len() as u64, pages * (PAGE / SLOT), "slots were lost");
    }

    #[test]
    fn pages_that_could_not_be_emptied_serve_again_and_are_expected_to_give_less() {
        let (mut bed, kept) = Bed::sparse(|_| 5);
        let mut gains = Vec::new();
        let mut tried = vec![0; bed.slabs.pool.counts().ever.div_ceil(64) as usize];
        for walk in 0..6 {
            gains.push(bed.slabs.expected_gain());
            let outlook = bed.slabs.look_for_sparse(&bed.arena, walk);
            let set = bed.slabs.set_apart(&bed.arena, &outlook, walk);
            for (tried, bits) in tried.iter_mut().zip(&set.bits) {
                assert_eq!(*tried & bits, 0, "tried again at once");
                *tried |= bits;
            }
            bed.slabs.end_apart(&bed.arena, walk + 1, true);
        }
        assert!(gains[1] <= gains[0] / 2, "{gains:?}");
        // Something of them was freed: they are tried again.
        kept.iter().step_by(2).for_each(|location| bed.free(*location));
        bed.flush();
        let outlook = bed.slabs.look_for_sparse(&bed.arena, 6);
        assert!(outlook.wanted.iter().sum::<u64>() > 10);
        let mut taken = 0;
        while bed.take(SLOT).is_some() {
            taken += 1;
        }
        let pages = bed.slabs.pool.counts().ever;
        assert_eq!(taken, pages * (PAGE / SLOT) - (kept.len() as u64 / 2), "slots were lost");
    }
}
