//! A node: one arena with its slabs, lanes, published guards and retired slots.
//!
//! Invariant: what `prepare` hands out is either used and then settled, or abandoned; both in `Prepared`'s
//! hands, so a failing put leaks neither a slot nor a promise. Lock order: moving entries (and of a stream
//! what they move in), then cleared tables, then retired queue, then lane, then class, then pool.
//!
//! Cost: two short locks of the thread's own lane per put. The bound on unreclaimed memory is kept here.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use crate::arena::Arena;
use crate::entry::layout::need;
use crate::entry::view::EntryView;
use crate::ids::Location;
use crate::reclaim::hazard::Hazards;
use crate::reclaim::pin::{OldestPin, Pins};
use crate::reclaim::retire::{OpenBatch, RetiredQueue};
use crate::slab::batch::{BATCH_BYTES, Batch};
use crate::slab::class::Class;
use crate::slab::lane::Lane;
use crate::slab::{Slabs, Slot};
use crate::store::detached::DetachedQueue;
use crate::store::movement::Movement;
use crate::store::room::{PATIENCE_STEP, PATIENCE_STEPS};
use crate::sync::{Mutex, MutexGuard, lock, sleep, thread_locals, try_lock};

/// Sealed batches that are worth a look at all pins.
const BATCHES_WORTH_A_PASS: u64 = 32;

/// One NUMA node of a store.
pub(crate) struct Node {
    pub(crate) arena: Arena,
    pub(crate) slabs: Slabs,
    pub(crate) hazards: Hazards,
    pub(super) detached: DetachedQueue,
    pub(super) movement: Movement,
    pub(super) pins: Arc<Pins>,
    /// A power of two of them.
    pub(super) lanes: Box<[CachePadded<Mutex<Lane>>]>,
    pub(super) retired: RetiredQueue,
    unreclaimed_max_bytes: u64,
    batch_max_bytes: u64,
}

/// What whoever asks for memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    Nothing,
    /// A stream's lock: no entry may move for it.
    StreamLock,
}

/// How much a pass of reclamation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// What is easy: full batches, unless somebody else is at it.
    Some,
    /// Everything. Batches may wait for overwrites, which take them as they are. What comes empty, or is of
    /// several classes, goes to the caller's lane, as after any call: to a lane, not to a thread, and no lane
    /// keeps more than two empty batches and a stash of each class; the rest goes to the pages, for all. So a
    /// thread that only does upkeep withholds no more than any other; and whoever finds no memory makes a
    /// `Short` pass, empties every lane's stashes, and takes another lane's spare batch.
    All,
    /// Everything, for all sizes: slots go to their pages, and batches to the lanes.
    Short,
}

/// The memory at hand has no room.
#[derive(Debug)]
pub(crate) struct NoRoom;

/// A slot, if one was asked for, and the promise of room for one retirement.
pub(crate) struct Prepared<'a> {
    node: &'a Node,
    lane: usize,
    slot: Option<Slot>,
}

thread_locals! {
    static THREAD_INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
}

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

/// A small number of the calling thread, to spread threads over lanes and cells.
#[inline]
pub(crate) fn thread_index() -> usize {
    THREAD_INDEX
        .try_with(|index| {
            if index.get() == usize::MAX {
                index.set(NEXT_THREAD.fetch_add(1, Ordering::Relaxed));
            }
            index.get()
        })
        .unwrap_or(0)
}

impl Node {
    pub(crate) fn new(
        arena: Arena,
        pins: Arc<Pins>,
        movement: Movement,
        lanes: usize,
        unreclaimed_max_bytes: u64,
    ) -> Node {
        let lanes = lanes.next_power_of_two();
        let warm_max = arena.budget().limit_bytes() / 8;
        Node {
            slabs: Slabs::new(warm_max, unreclaimed_max_bytes / 2),
            hazards: Hazards::new(),
            detached: DetachedQueue::new(),
            movement,
            pins,
            lanes: (0..lanes).map(|_| CachePadded::new(Mutex::new(Lane::new()))).collect(),
            retired: RetiredQueue::new(),
            unreclaimed_max_bytes,
            batch_max_bytes: (unreclaimed_max_bytes / (4 * lanes as u64)).max(1),
            arena,
        }
    }

    /// The calling thread's lane, or another when that one is taken.
    #[inline]
    pub(super) fn lane(&self) -> (usize, MutexGuard<'_, Lane>) {
        let mask = self.lanes.len() - 1;
        let home = thread_index() & mask;
        for step in 0..self.lanes.len() {
            let index = (home + step) & mask;
            if let Some(lane) = try_lock(&self.lanes[index]) {
                return (index, lane);
            }
        }
        (home, lock(&self.lanes[home]))
    }

    /// Takes a slot of `need` bytes if given, and promises room for one retirement. Makes room when there is
    /// none.
    #[inline]
    pub(crate) fn prepare(
        &self,
        need: Option<u64>,
        holding: Holding,
    ) -> Result<Prepared<'_>, NoRoom> {
        if self.detached.is_any() {
            self.take_few_apart();
        }
        self.with_room(need.unwrap_or(BATCH_BYTES), holding, || self.try_prepare(need))
    }

    #[inline]
    fn try_prepare(&self, need: Option<u64>) -> Option<Prepared<'_>> {
        let (index, mut lane) = self.lane();
        if lane.retired.wants_spare() {
            match self.slabs.take(&self.arena, &mut lane, BATCH_BYTES) {
                Some(batch) => lane.retired.add_spare(batch.location),
                // At the limit the open batch must do.
                None if lane.retired.has_room() => {}
                None => lane.retired.add_spare(self.spare_of_others(index)?),
            }
        }
        let slot = match need {
            Some(need) => Some(self.slabs.take(&self.arena, &mut lane, need)?),
            None => None,
        };
        lane.retired.promise();
        Some(Prepared { node: self, lane: index, slot })
    }

    /// Promises room for one retirement, with a slot that is at hand.
    pub(super) fn promise_for(&self, slot: Slot) -> Option<Prepared<'_>> {
        let mut prepared = self.try_prepare(None)?;
        prepared.slot = Some(slot);
        Some(prepared)
    }

    /// A batch of another lane, which does not need it as much as one that has none.
    #[cold]
    fn spare_of_others(&self, but: usize) -> Option<Location> {
        let others = self.lanes.iter().enumerate().filter(|(index, _)| *index != but);
        others.filter_map(|(_, lane)| try_lock(lane)).find_map(|mut lane| lane.retired.take_spare())
    }

    /// Takes memory for the index, filled with zeros; its bytes are a power of two from 64 on.
    pub(crate) fn take_index_memory(&self, bytes: u64, holding: Holding) -> Result<u64, NoRoom> {
        debug_assert!(bytes >= 64 && bytes.is_power_of_two());
        let slot = self.with_room(bytes, holding, || {
            let (_, mut lane) = self.lane();
            self.slabs.take_of(&self.arena, &mut lane, Class::of_index(bytes))
        })?;
        let offset = slot.location.offset();
        for word in 0..bytes / 8 {
            self.arena.word(offset + word * 8).store(0, Ordering::Relaxed);
        }
        Ok(offset)
    }

    /// Takes zeroed memory for the table headers of a map.
    pub(crate) fn take_tables(&self, bytes: u64) -> Option<u64> {
        let prepared = self.prepare(Some(bytes), Holding::Nothing).ok()?;
        let slot = prepared.slot()?;
        let offset = slot.location.offset();
        for word in 0..bytes.div_ceil(8) {
            self.arena.word(offset + word * 8).store(0, Ordering::Relaxed);
        }
        prepared.settle(None);
        Some(offset)
    }

    /// Frees index memory that was never published, or a slot of a store that is still loading.
    pub(crate) fn free_now(&self, location: Location) {
        let (_, mut lane) = self.lane();
        self.slabs.put(&self.arena, &mut lane, location);
    }

    /// Bytes of an entry's slot.
    #[inline]
    pub(crate) fn slot_bytes(&self, view: &EntryView<'_>) -> u64 {
        let need = need(view.key_len() as usize, view.value_len(), view.expiry_ms().is_some());
        self.slabs.slot_bytes_for(&self.arena, view.location(), need)
    }

    /// Holds slots back, with their bytes, that published guards alone keep from being free.
    pub(super) fn hold_back(&self, slots: &[(Location, u64)]) {
        if slots.is_empty() {
            return;
        }
        let mut state = lock(self.retired.state());
        for (location, bytes) in slots {
            state.held.push((location.0, *bytes));
            self.retired.add_held(*bytes);
        }
    }

    #[inline]
    fn retire(&self, lane_index: usize, location: Location, bytes: u64) {
        let sealed = {
            let mut lane = lock(&self.lanes[lane_index]);
            lane.retired.retire(&self.arena, location, bytes, self.batch_max_bytes)
        };
        if let Some(sealed) = sealed {
            self.retired.push(&self.arena, &sealed, || self.pins.advance());
            let many = self.retired.sealed_batches() >= BATCHES_WORTH_A_PASS;
            if many || self.retired.sealed_bytes() >= self.unreclaimed_max_bytes / 2 {
                self.reclaim(Pass::Some);
            }
        }
    }

    /// Seals the open batches, but for those that promises depend on.
    pub(super) fn seal_all(&self) {
        for lane in self.lanes.iter() {
            let sealed = lock(lane).retired.seal_early();
            if let Some(sealed) = sealed {
                self.retired.push(&self.arena, &sealed, || self.pins.advance());
            }
        }
    }

    /// Frees every retired slot that no pin and no guard can reach; those of the open batches, and after a
    /// pass that is under way, unless only `Some` are asked for. Returns the slots freed.
    pub(crate) fn reclaim(&self, pass: Pass) -> u64 {
        let mut state = if pass == Pass::Some {
            match try_lock(self.retired.state()) {
                Some(state) => state,
                None => return 0,
            }
        } else {
            self.seal_all();
            lock(self.retired.state())
        };
        let oldest = self.pins.oldest().map_or(u64::MAX, |pin| pin.epoch);
        let mut published = std::mem::take(&mut state.published);
        self.hazards.collect(&mut published);
        let is_published = |location: u64| published.binary_search(&location).is_ok();
        let mut freed = 0;
        let mut held = std::mem::take(&mut state.held);
        held.retain(|(location, bytes)| {
            let keep = is_published(*location);
            if !keep {
                self.free_now(Location(*location));
                self.retired.sub_held(*bytes);
                freed += 1;
            }
            keep
        });
        while let Some(batch) = self.retired.pop(&self.arena, &mut state, oldest) {
            let listed = Batch::at(&self.arena, batch);
            let count = listed.count();
            if pass != Pass::Short
                && published.is_empty()
                && let Some(class) = listed.class()
                && self.slabs.put_batch(&self.arena, listed, class)
            {
                freed += count;
                continue;
            }
            let (_, mut lane) = self.lane();
            for location in listed.slots() {
                if is_published(location.0) {
                    let bytes = self.slabs.slot_bytes(&self.arena, location);
                    held.push((location.0, bytes));
                    self.retired.add_held(bytes);
                } else {
                    self.slabs.put(&self.arena, &mut lane, location);
                    freed += 1;
                }
            }
            drop(lane);
            self.take_back(batch, pass == Pass::Short);
        }
        state.held = held;
        state.published = published;
        freed
    }

    /// Frees a batch that lists nothing any more. When memory is short it goes to a lane that has none for
    /// its next retirements: who removes something must find one there.
    pub(super) fn take_back(&self, batch: Location, is_short: bool) {
        // First where nothing could be retired any more.
        let needs: [fn(&OpenBatch) -> bool; 2] = [|open| !open.has_room(), OpenBatch::wants_spare];
        for needs in needs.iter().filter(|_| is_short) {
            for lane in self.lanes.iter() {
                let mut lane = lock(lane);
                if needs(&lane.retired) {
                    return lane.retired.add_spare(batch);
                }
            }
        }
        self.slabs.put_empty(&self.arena, &mut self.lane().1, batch);
    }

    pub(crate) fn unreclaimed_max_bytes(&self) -> u64 {
        self.unreclaimed_max_bytes
    }

    /// Whether another overwrite may leave its old value behind without a look at the pins.
    #[inline]
    pub(crate) fn has_room_to_retire(&self) -> bool {
        self.retired.sealed_bytes() < self.unreclaimed_max_bytes
    }

    /// Whether changes that leave so many bytes behind at once may. Of more than half the bound only half is
    /// asked for, else they could wait for ever.
    #[inline]
    pub(crate) fn has_room_to_retire_bytes(&self, bytes: u64) -> bool {
        let asked = bytes.min(self.unreclaimed_max_bytes / 2);
        self.retired.sealed_bytes() + asked < self.unreclaimed_max_bytes
    }

    /// Whether changes that leave so many bytes behind at once may; names the oldest pin when not. A pin that
    /// is `passing` (inside a call, or a batch that has just begun) is waited for: its thread may only have
    /// lost the processor.
    pub(crate) fn may_retire(
        &self,
        bytes: u64,
        passing: impl Fn(&OldestPin) -> bool,
    ) -> Result<(), Option<OldestPin>> {
        if self.has_room_to_retire_bytes(bytes) {
            return Ok(());
        }
        for _ in 0..PATIENCE_STEPS {
            self.reclaim(Pass::Short);
            if self.has_room_to_retire_bytes(bytes) {
                return Ok(());
            }
            let oldest = self.pins.oldest();
            if oldest.as_ref().is_some_and(|pin| !passing(pin)) {
                return Err(oldest);
            }
            sleep(PATIENCE_STEP);
        }
        Err(self.pins.oldest())
    }
}

impl Prepared<'_> {
    /// The slot that was asked for.
    #[inline]
    pub(crate) fn slot(&self) -> Option<Slot> {
        self.slot
    }

    /// The slot is published; the entry it replaced, if any, is retired: its location, and its slot's bytes.
    #[inline]
    pub(crate) fn settle(mut self, replaced: Option<(Location, u64)>) {
        self.slot = None;
        if let Some((location, bytes)) = replaced {
            let (node, lane) = (self.node, self.lane);
            std::mem::forget(self);
            node.retire(lane, location, bytes);
        }
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        let mut lane = lock(&self.node.lanes[self.lane]);
        lane.retired.release();
        if let Some(slot) = self.slot.take() {
            self.node.slabs.put(&self.node.arena, &mut lane, slot.location);
        }
    }
}
