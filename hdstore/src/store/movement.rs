//! Movement: entries leave sparse slab pages, so that whole pages come free for other sizes.
//!
//! A *walk* sets the sparsest pages apart (`slab/sparse.rs`), then goes over the buckets of all tables once;
//! each entry that lies in such a page gets another slot of its class, with the same bytes, seq and expiry,
//! and its word is replaced as an overwrite replaces it. The log hears nothing of it: nothing changed. Only
//! the index is read, 10 bytes an entry, and as many bytes are copied as come free, at most.
//!
//! Invariants: a reader finds the entry in the old slot or in the new one, both whole and alike; the old slot
//! is retired like any replaced one. What came later than the word that the walk has read stays: that is
//! `movement_group.rs`'s duty. What moves between buckets meanwhile, or was taken before the walk and
//! published behind it, may be missed; its page then stays, and nothing else comes of that.
//!
//! Callers: a put that finds no memory (`node.rs`), as many threads as there are, a piece each in turn; and
//! `Store::maintain`. Lock order: this file's lock, then one stream's, for the check and up to 16 stores;
//! so whoever may come here (`Node::with_room`) holds no stream's lock. What may go wrong: readers that
//! sleep keep the old slots; the walk ends when half of the bound on unreclaimed memory is used up.
//! `docs/memory.md`, "Entries move", has the rules.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

use super::access::Locked;
use super::movement_group::ENTRIES_AT_A_TIME;
use super::node::{Node, Pass};
use crate::arena::Arena;
use crate::arena::layout::PAGE;
use crate::arena::os::UNIT;
use crate::index::table::{TABLE_BYTES, Table};
use crate::index::word::BUCKET;
use crate::reclaim::pin::OldestPin;
use crate::slab::sparse::{ALL, PageSet};
use crate::sync::{Mutex, lock, try_lock};

/// Buckets of a piece of a walk.
pub(super) const BUCKETS_PER_PIECE: u64 = 1_024;
/// Of so many pages one is to be gained, else a walk is not worth it.
const PAGES_PER_GAIN: u64 = 256;
/// For so many bytes of the index one is to be gained, if it serves long values.
const INDEX_BYTES_PER_GAIN: u64 = 4;
/// Bytes that a put could copy in the time that it takes for all but copying.
const PUT_BYTES: u64 = 1024;
/// How often a group is tried for which no retirement can be promised.
const TRIES: u32 = 2;
/// Pieces that upkeep does at a time.
const PIECES_OF_UPKEEP: u32 = 64;

/// The movement of a node's entries.
pub(crate) struct Movement {
    state: Mutex<State>,
    /// The locks of all the store's streams, of which every `nodes`th is of this node, from number `node` on.
    locks: Arc<[CachePadded<Mutex<()>>]>,
    node: usize,
    nodes: usize,
    pub(super) moved: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Where the headers of each map's tables start.
    tables: Vec<u64>,
    walk: Option<Walk>,
    /// Walks that have ended.
    walks: u32,
    /// Buckets that the last walk went over.
    buckets: u64,
    /// By how much the gain was overrated when a look at the pages was in vain, in 256ths of pages.
    overrated: u64,
}

/// A walk under way.
struct Walk {
    apart: PageSet,
    /// The bucket that comes next: in which of the tables, of which of the node's streams.
    map: usize,
    stream: u64,
    bucket: u64,
    /// Buckets that were walked over.
    buckets: u64,
    /// When all was walked over: what was replaced before comes free with the last pin of this epoch.
    over: Option<u64>,
}

/// What a walk is asked for.
#[derive(Clone, Copy)]
struct Asked {
    /// Bytes that somebody needs.
    need: u64,
    /// How many times what is worth a walk must be gained.
    times: u64,
}

impl Asked {
    /// Upkeep leaves what is a little uneven to those who need it.
    const BY_UPKEEP: Asked = Asked { need: PAGE, times: 4 };
}

/// What came of moving some entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// The walk has come a piece further.
    Some,
    /// A walk has ended: what it freed can be had.
    Ended,
    /// The walk waits for readers that are inside a call.
    Blocked,
    /// No walk is worth it.
    Nothing,
}

/// How a piece of a walk ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    Walked,
    /// What was replaced waits for readers, and more must not.
    Full,
    /// No batch is left for what would be replaced.
    NoPromise,
}

impl Movement {
    pub(super) fn new(locks: Arc<[CachePadded<Mutex<()>>]>, node: usize, nodes: usize) -> Movement {
        let (state, moved) = (Mutex::new(State::default()), AtomicU64::new(0));
        Movement { state, locks, node, nodes, moved }
    }

    /// The tables of a map can be walked over from now on.
    pub(super) fn add_tables(&self, first: u64) {
        lock(&self.state).tables.push(first);
    }

    /// The tables of a map are about to go: no walk looks at them any more when this returns.
    pub(super) fn remove_tables(&self, first: u64) {
        let mut state = lock(&self.state);
        let Some(index) = state.tables.iter().position(|tables| *tables == first) else { return };
        state.tables.remove(index);
        if let Some(walk) = &mut state.walk
            && walk.map >= index
        {
            if walk.map == index {
                (walk.stream, walk.bucket) = (0, 0);
            } else {
                walk.map -= 1;
            }
        }
    }

    /// Entries that were moved, ever.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    /// How many streams this node has.
    fn streams(&self) -> u64 {
        (self.locks.len() - self.node).div_ceil(self.nodes) as u64
    }

    pub(super) fn lock_stream<'a>(&'a self, arena: &'a Arena, in_node: u64) -> Locked<'a> {
        let stream = in_node as usize * self.nodes + self.node;
        Locked::new(arena, in_node, lock(&self.locks[stream]))
    }
}

impl Node {
    /// Goes on with the walk until `attempt` succeeds, or nothing more can be done just now; begins one if it
    /// is worth it. The caller has collected what is free but elsewhere.
    pub(super) fn move_until<T>(
        &self,
        need: u64,
        attempt: &impl Fn() -> Option<T>,
    ) -> Result<T, Moved> {
        let asked = Asked { need, times: 1 };
        loop {
            let moved = self.move_some(&mut lock(&self.movement.state), asked);
            if moved != Moved::Some {
                return Err(moved);
            }
            if let Some(taken) = attempt() {
                return Ok(taken);
            }
        }
    }

    /// What upkeep does: goes on with a walk that somebody began, and at the limit begins one when much can
    /// be gained.
    pub(super) fn move_ahead(&self) {
        for _ in 0..PIECES_OF_UPKEEP {
            let Some(mut state) = try_lock(&self.movement.state) else { return };
            if state.walk.is_none() {
                let is_due = self.is_short_of_pages()
                    && self.expected_gain(&mut state, Asked::BY_UPKEEP).is_some();
                if !is_due {
                    return;
                }
                self.flush();
            }
            if self.move_some(&mut state, Asked::BY_UPKEEP) != Moved::Some {
                return;
            }
        }
    }

    /// Whether the limit is reached and hardly a page is free.
    fn is_short_of_pages(&self) -> bool {
        let (budget, pages) = (self.arena.budget(), self.slabs.pool.counts());
        budget.committed_bytes() + UNIT > budget.limit_bytes()
            && pages.free < (pages.ever / PAGES_PER_GAIN).max(1)
    }

    /// What a walk is expected to gain, in 256ths of pages; `None` when that is not worth it.
    fn expected_gain(&self, state: &mut State, asked: Asked) -> Option<u64> {
        let gain = self.slabs.expected_gain();
        state.overrated = state.overrated.min(gain);
        let is_worth_it = gain - state.overrated >= asked.times * self.worth(state, asked.need);
        is_worth_it.then_some(gain)
    }

    /// The gain that is worth a walk for whoever needs so many bytes, in 256ths of pages: a share of all
    /// pages, and of the index that must be read for it.
    fn worth(&self, state: &State, need: u64) -> u64 {
        let by_pages = self.slabs.pool.counts().ever / PAGES_PER_GAIN;
        // What comes free serves more puts the shorter their values are, and so may cost more.
        let index_bytes = state.buckets * BUCKET / INDEX_BYTES_PER_GAIN;
        let by_index = (index_bytes as f64 * need as f64 / (PUT_BYTES + need) as f64) as u64 / PAGE;
        by_pages.max(by_index).max(1) * ALL
    }

    /// Ends a walk that waits for readers, so that what it has set apart serves again. Whether there was one.
    pub(super) fn end_movement(&self) -> bool {
        let mut state = lock(&self.movement.state);
        let is_any = state.walk.is_some();
        if is_any {
            self.end_walk(&mut state, false);
        }
        is_any
    }

    /// One piece of the walk under way, or of one that begins, if it is worth it.
    fn move_some(&self, state: &mut State, asked: Asked) -> Moved {
        if state.walk.is_none() {
            state.walk = self.begin_walk(state, asked);
        }
        let State { tables, walk: Some(walk), .. } = state else { return Moved::Nothing };
        let piece = self.walk_piece(tables, walk);
        let is_over = walk.map >= tables.len();
        let is_left = !is_over && self.slabs.sparse.apart() > 0;
        if piece == Piece::Walked && is_left {
            return Moved::Some;
        }
        self.seal_all();
        if is_over && walk.over.is_none() {
            walk.over = Some(self.pins.advance());
        }
        let is_waited_for = |pin: &OldestPin| walk.over.is_none_or(|over| pin.epoch <= over);
        let reader = self.pins.oldest().filter(is_waited_for);
        self.reclaim(Pass::Short);
        let left = self.slabs.sparse.apart();
        let is_waiting = left > 0 && self.retired.sealed_batches() > 0;
        if is_waiting && reader.is_some_and(|pin| pin.since_ms.is_none()) {
            return Moved::Blocked;
        }
        if piece == Piece::Full && is_left && self.may_move() {
            return Moved::Some;
        }
        // What sleeping readers keep says nothing about the pages.
        let is_judged = left == 0 || (is_over && reader.is_none());
        self.end_walk(state, is_judged);
        Moved::Ended
    }

    /// Sets pages apart if that is worth a walk.
    fn begin_walk(&self, state: &mut State, asked: Asked) -> Option<Walk> {
        let expected = self.expected_gain(state, asked)?;
        if !self.may_move() {
            return None;
        }
        let outlook = self.slabs.look_for_sparse(&self.arena, state.walks);
        if outlook.gain < asked.times * self.worth(state, asked.need) {
            state.overrated = expected.saturating_sub(outlook.gain);
            return None;
        }
        state.overrated = 0;
        let apart = self.slabs.set_apart(&self.arena, &outlook, state.walks);
        // Whoever freed a slot of such a page a moment ago may have put it into a stock.
        self.flush();
        Some(Walk { apart, map: 0, stream: 0, bucket: 0, buckets: 0, over: None })
    }

    fn end_walk(&self, state: &mut State, is_judged: bool) {
        state.buckets = state.walk.take().map_or(0, |walk| walk.buckets);
        state.walks = state.walks.wrapping_add(1);
        self.slabs.end_apart(&self.arena, state.walks, is_judged);
    }

    /// Whether some more slots may wait for readers: half of the bound is left to overwrites.
    fn may_move(&self) -> bool {
        self.retired.sealed_bytes() < self.unreclaimed_max_bytes() / 2
    }

    /// Walks over a piece.
    fn walk_piece(&self, tables: &[u64], walk: &mut Walk) -> Piece {
        let mut found = Vec::with_capacity(2 * ENTRIES_AT_A_TIME);
        let mut left = BUCKETS_PER_PIECE;
        let mut tries = 0;
        while left > 0 {
            let Some(first) = tables.get(walk.map) else { return Piece::Walked };
            if !self.may_move() {
                self.reclaim(Pass::Short);
                if !self.may_move() {
                    return Piece::Full;
                }
            }
            let table = Table::at(&self.arena, first + walk.stream * TABLE_BYTES);
            let (bucket, is_end, group);
            let left_before = left;
            {
                let pin = self.pins.pin();
                let (clears, buckets) = (table.clears(), table.buckets());
                let range = (walk.bucket, buckets);
                (bucket, is_end) =
                    self.find_apart(&table, &walk.apart, range, &mut left, &mut found);
                let mut copied = self.copy_found(&found, &pin);
                self.publish_copied(&table, walk.stream, clears, &mut copied, &pin);
                group = copied;
            }
            // Not under the pin, which would keep what was replaced.
            let is_whole = group.is_whole;
            self.settle_moved(group);
            if !is_whole {
                // There was no room to retire anything; what lies in batches now may give some.
                self.reclaim(Pass::Short);
                tries += 1;
                if tries == TRIES {
                    return Piece::NoPromise;
                }
                // The same buckets again. A piece that ended here would count as walked, and a walk that
                // cannot go on would begin it anew for ever.
                left = left_before;
                continue;
            }
            tries = 0;
            walk.buckets += bucket - walk.bucket;
            walk.bucket = bucket;
            if is_end {
                (walk.stream, walk.bucket) = (walk.stream + 1, 0);
                left = left.saturating_sub(1);
            }
            if walk.stream == self.movement.streams() {
                (walk.map, walk.stream) = (walk.map + 1, 0);
            }
        }
        Piece::Walked
    }
}

#[cfg(all(test, not(loom)))]
#[path = "movement_tests.rs"]
mod tests;
