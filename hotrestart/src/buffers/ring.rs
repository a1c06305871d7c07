//! The ring of one writer's log buffers: reservations, and one turn after the other.
//!
//! Invariant: bytes and words of the commit table are handed out by one successful step on the state word of
//! the active buffer, to a room or to a thread's span (`span.rs`), so no two rooms overlap; a sealed buffer
//! hands out none. A room becomes whole by one word, however many records are in it; a turn is whole when
//! every word is set that was handed out. A buffer is used again only after the writer released it, which it
//! does when the block is on the device. The turn counts the uses of buffers from 0; turn n lies in buffer
//! n mod count, and holds the block whose number stands in its control area.
//!
//! Who calls: puts (`reserve`, `Room::commit`) from any thread; the writer's half is `turns.rs`. What may go
//! wrong: no buffer is free, and the caller waits up to its deadline. A sealed turn waits for its rooms,
//! never for a stream's lock; a room that is dropped becomes padding (`room.rs`). Cost of a reservation: the
//! lock of the thread's own lane, and for one in sixteen records of 250 bytes at most (`span.rs` has the
//! test) a compare-exchange on a line shared by the putting threads of this writer.
#![allow(unsafe_code)] // the region's bytes and words; docs/unsafe.md

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::layout::{
    CAPACITY, ENDS_CHUNK, FLAGS, Geometry, NUMBER, RECORDS_CAP, STATE, State, WriterBuffers,
};
use super::plan::ChunkFill;
pub(crate) use super::room::Room;
use super::span::{Lanes, Span, Wish};
pub(crate) use super::waiting::NoRoom;
use crate::format::block::{BLOCK_HEADER_LEN, sealed_len};
use crate::format::chunk::CHUNK_HEADER_LEN;
use crate::io::{Region, Waker};
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, lock, spin};

/// The smallest room that is worth going on with in a chunk, as a part of a buffer.
const WORTH_A_BLOCK: usize = 8;

/// In `Ring::bars`: the active turn was begun while chunks were so few that puts may not use it.
const RESTRICTED: u64 = 1;
/// And the store shrinks faster than compaction can free.
const PACED: u64 = 2;

/// One writer's buffers.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(super) region: Arc<Region>,
    pub(super) geometry: Geometry,
    pub(super) places: WriterBuffers,
    chunk_size: usize,
    pub(super) active: crossbeam_utils::CachePadded<AtomicU64>,
    pub(super) released: crossbeam_utils::CachePadded<AtomicU64>,
    pub(super) lanes: Lanes,
    pub(super) fill: Mutex<ChunkFill>,
    /// Tables that the store has: the most that a directory lists.
    tables: AtomicU64,
    pub(super) chunks_planned: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) came_free: Condvar,
    pub(super) free_lock: Mutex<()>,
    pub(super) sleeping: AtomicBool,
    pub(super) closed: AtomicBool,
    /// Who must not take room in the active turn without a further look: `RESTRICTED`, `PACED`.
    bars: AtomicU64,
    pub(super) waker: OnceLock<Waker>,
    #[cfg(loom)]
    pub(super) watched: super::watched::Watched,
}

/// Whether a record may be the first of its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// It may: there are chunks for another buffer.
    May,
    /// Nobody has looked.
    MayNot,
}

impl Ring {
    pub(crate) fn new(
        region: Arc<Region>,
        geometry: Geometry,
        writer: u32,
        chunk_size: u64,
    ) -> Ring {
        let ring = Ring {
            region,
            places: geometry.of_writer(writer),
            geometry,
            chunk_size: chunk_size as usize,
            active: AtomicU64::new(0).into(),
            released: AtomicU64::new(0).into(),
            lanes: Lanes::new(),
            fill: Mutex::new(ChunkFill::new(0)),
            tables: AtomicU64::new(1),
            chunks_planned: AtomicU64::new(1),
            waiting: AtomicU64::new(0),
            came_free: Condvar::new(),
            free_lock: Mutex::new(()),
            sleeping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            bars: AtomicU64::new(0),
            waker: OnceLock::new(),
            #[cfg(loom)]
            watched: super::watched::Watched::new(&geometry),
        };
        ring.open_turn(0, 0, ring.largest_payload(), geometry.records_max as usize);
        ring
    }

    /// The longest record that a buffer takes.
    pub(crate) fn record_max(chunk_size: u64) -> usize {
        (chunk_size / 4) as usize - 8192
    }

    fn largest_payload(&self) -> usize {
        self.geometry.largest_payload()
    }

    pub(crate) fn set_waker(&self, waker: Waker) {
        // A second writer thread for the same ring would be a broken invariant; the first waker stays.
        let _ = self.waker.set(waker);
    }

    /// How many tables there are from now on; before the first record of a new one. The room for the
    /// directory was planned when the active turn was opened, so that one ends, unless it is the chunk's
    /// first: any directory fits beside that.
    pub(crate) fn set_tables(&self, tables: u64) {
        let mut fill = lock(&self.fill);
        let former = self.tables.swap(tables.max(1), Ordering::Relaxed);
        let turn = self.active_turn();
        let must_end = former < tables && fill.used != CHUNK_HEADER_LEN;
        fill.is_planned_anew |= must_end;
        drop(fill);
        if must_end {
            loop {
                let state = self.state(turn);
                if !state.is_turn(turn) || state.is_sealed() {
                    break;
                }
                self.seal(turn, state);
            }
        }
    }

    /// The buffer of a turn. A division: what looks at many words of a turn asks once.
    #[inline]
    pub(super) fn slot(&self, turn: u64) -> u32 {
        (turn % u64::from(self.geometry.buffers_per_writer)) as u32
    }

    #[inline]
    pub(super) fn control(&self, turn: u64, field: usize) -> &AtomicU64 {
        self.word(self.slot(turn), field)
    }

    #[cfg(loom)]
    pub(super) fn word(&self, slot: u32, field: usize) -> &AtomicU64 {
        self.watched.word(self.places.control(slot) + field)
    }

    #[cfg(not(loom))]
    #[inline]
    pub(super) fn word(&self, slot: u32, field: usize) -> &AtomicU64 {
        let at = self.places.control(slot) + field;
        debug_assert!(at + 8 <= self.region.len() && at.is_multiple_of(8));
        // SAFETY: the word lies in the region (the geometry made the region's length), is aligned, and is
        // only ever accessed as an atomic; it lives as long as the region, which `self` holds.
        unsafe { &*self.region.base().as_ptr().add(at).cast::<AtomicU64>() }
    }

    #[inline]
    pub(super) fn state(&self, turn: u64) -> State {
        State(self.control(turn, STATE).load(Ordering::Acquire))
    }

    /// Prepares a free buffer for a turn: its commit table is zero already.
    fn open_turn(&self, turn: u64, number: u64, capacity: usize, records: usize) {
        self.control(turn, NUMBER).store(number, Ordering::Relaxed);
        self.control(turn, CAPACITY).store(capacity as u64, Ordering::Relaxed);
        self.control(turn, RECORDS_CAP).store(records as u64, Ordering::Relaxed);
        self.control(turn, FLAGS).store(0, Ordering::Relaxed);
        self.control(turn, STATE).store(State::open(turn).0, Ordering::Release);
    }

    /// Whether a put must look before it takes room in the active turn: that is only for changes that may use
    /// the last chunks, or changes are paced.
    #[inline]
    pub(crate) fn is_restricted(&self) -> bool {
        self.bars.load(Ordering::Relaxed) != 0
    }

    /// Whether a removal must look, too.
    #[inline]
    pub(crate) fn is_paced(&self) -> bool {
        self.bars.load(Ordering::Relaxed) & PACED != 0
    }

    /// Says before a turn's first record that it is only for changes that may use the last chunks, or takes
    /// it back.
    pub(crate) fn restrict(&self, restricted: bool) {
        self.bar(RESTRICTED, restricted);
    }

    /// Says that changes must look whether they have to wait, or takes it back.
    pub(crate) fn pace(&self, paced: bool) {
        self.bar(PACED, paced);
    }

    fn bar(&self, whom: u64, barred: bool) {
        let is_barred = self.bars.load(Ordering::Relaxed) & whom != 0;
        // The line is shared by all who put: it is not written when nothing changes.
        match (is_barred, barred) {
            (false, true) => _ = self.bars.fetch_or(whom, Ordering::Relaxed),
            (true, false) => _ = self.bars.fetch_and(!whom, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Room of which the calling thread has reserved the bytes and words ahead, if there is.
    #[inline(always)]
    pub(crate) fn room_at_hand(&self, (len, count): (usize, usize)) -> Option<Room<'_>> {
        self.room_in_span(&mut *self.lanes.mine()?, len, count)
    }

    /// Finds room for `len` bytes of `count` records that become whole at once, waiting until `deadline` (not
    /// at all when it is `None`). `keep_on` is asked while waiting.
    #[inline]
    pub(crate) fn reserve(
        &self,
        (len, count): (usize, usize),
        first: First,
        deadline: Option<Instant>,
        keep_on: impl Fn() -> bool,
    ) -> Result<Room<'_>, NoRoom> {
        loop {
            let mut lane = self.lanes.mine();
            if let Some(span) = &mut lane
                && let Some(room) = self.room_in_span(span, len, count)
            {
                return Ok(room);
            }
            let turn = self.active.load(Ordering::Acquire);
            let state = self.state(turn);
            if !state.is_turn(turn) {
                // After the end the last turn is released and no other follows.
                if self.closed.load(Ordering::Acquire) {
                    return Err(NoRoom::Stopped);
                }
                spin();
                continue;
            }
            if state.is_sealed() {
                drop(lane);
                if !self.advance() {
                    if self.closed.load(Ordering::Acquire) {
                        return Err(NoRoom::Stopped);
                    }
                    self.wait_for_release(deadline, &keep_on)?;
                }
                continue;
            }
            let slot = self.slot(turn);
            let capacity = self.word(slot, CAPACITY).load(Ordering::Relaxed) as usize;
            let (bytes, index) = (state.bytes(), state.records());
            let records = self.word(slot, RECORDS_CAP).load(Ordering::Relaxed) as usize;
            let fits = |(len, count)| bytes + len <= capacity && index + count <= records;
            if !fits((len, count)) {
                drop(lane);
                self.seal(turn, state);
                continue;
            }
            if index == 0 && first == First::MayNot {
                return Err(NoRoom::Begins);
            }
            // A record that is too long for the span has left it open, and its turn may have ended since: a
            // lane notes one span, and what is noted of this turn would make the ring forget the other.
            if let Some(span) = &mut lane
                && span.is_open()
                && span.turn != turn
            {
                self.close_span(span);
            }
            let wish = Wish::new(lane.as_deref_mut(), turn, (len, count), fits);
            let reserved = wish.reserved();
            let word = self.word(slot, STATE);
            let taken = word.compare_exchange(
                state.0,
                state.with(reserved.0, reserved.1).0,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if taken.is_ok() {
                if index == 0 {
                    self.wake();
                }
                let at = BLOCK_HEADER_LEN + bytes;
                // Tags of turns repeat: a thread that slept that long holds room in a later turn, and
                // gives it up. No turn is released while a room in it is not committed.
                if self.released.load(Ordering::Acquire) > turn {
                    drop(Room::new(self, (turn, slot), (at, index), reserved));
                    continue;
                }
                wish.begin(slot, (at, index));
                return Ok(Room::new(self, (turn, slot), (at, index), (len, count)));
            }
        }
    }

    /// Room in the calling thread's span. One of a turn that was sealed is closed, and one that is too short.
    #[inline]
    fn room_in_span(&self, span: &mut Span, len: usize, count: usize) -> Option<Room<'_>> {
        if !span.is_open() {
            return None;
        }
        // The turn is not released before the span is closed, so the state is this turn's.
        let is_sealed = State(self.word(span.slot, STATE).load(Ordering::Acquire)).is_sealed();
        if !is_sealed && let Some(taken) = span.take(len, count) {
            let room = Room::new(self, (span.turn, span.slot), taken, (len, count));
            // By the time that it is written they are here, and no atomic step waits for them.
            room.prefetch_behind(len.min(span.left_bytes()));
            return Some(room);
        }
        if is_sealed || span.ends_for(len) {
            self.close_span(span);
        }
        None
    }

    /// Makes padding of what is left of a span, and says that nothing is missing there.
    #[cold]
    pub(super) fn close_span(&self, span: &mut Span) {
        let turn = (span.turn, span.slot);
        let (bytes, words) = span.rest();
        drop(Room::new(self, turn, (bytes.start, words.start), (bytes.len(), words.len())));
    }

    /// Seals the buffer of a turn if it is still in this state, and opens the next one if it is free.
    pub(super) fn seal(&self, turn: u64, state: State) {
        let word = self.control(turn, STATE);
        let sealed = word
            .compare_exchange(state.0, state.sealed().0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok();
        if sealed {
            self.advance();
            self.wake();
        }
    }

    /// Opens the turn after a sealed one. False when its buffer is not free yet.
    pub(super) fn advance(&self) -> bool {
        let mut fill = lock(&self.fill);
        let turn = self.active.load(Ordering::Acquire);
        let state = self.state(turn);
        if !state.is_sealed() {
            return true;
        }
        if self.closed.load(Ordering::Acquire)
            || turn + 1
                >= self.released.load(Ordering::Acquire)
                    + u64::from(self.geometry.buffers_per_writer)
        {
            return false;
        }
        fill.used += sealed_len(state.bytes());
        fill.records += state.records();
        fill.number += 1;
        let tables = self.tables.load(Ordering::Relaxed) as usize;
        let (mut capacity, mut records) = fill.room_left(self.chunk_size, tables, &self.geometry);
        // A turn is sealed empty when a record did not fit what the chunk had left.
        let is_planned_anew = std::mem::take(&mut fill.is_planned_anew);
        let is_too_long = state.bytes() == 0 && !is_planned_anew;
        if is_too_long || capacity < self.largest_payload() / WORTH_A_BLOCK {
            self.control(turn, FLAGS).store(ENDS_CHUNK, Ordering::Release);
            // The directory is the writer's next block.
            *fill = ChunkFill::new(fill.number + 1);
            self.chunks_planned.fetch_add(1, Ordering::Relaxed);
            (capacity, records) = (self.largest_payload(), self.geometry.records_max as usize);
        }
        self.open_turn(turn + 1, fill.number, capacity, records);
        self.active.store(turn + 1, Ordering::Release);
        true
    }
}
