//! The writer's half of a ring: turns are sealed, found whole, handed over as blocks, and released.
//!
//! Invariant: a turn is handed over only when it is sealed and every word is set that was handed out in it,
//! so nobody else touches its bytes; its commit table is zero again before its buffer is free. A sealed turn
//! waits for its rooms, never for a stream's lock, and never for a thread that does nothing: the spans of
//! those are closed here.
//!
//! Who calls: the writer's machine (`writer/machine.rs`), from one thread; anybody asks for the numbers. The
//! other half, reservations, is `ring.rs`. What may go wrong: a turn is not whole yet, and is looked at again
//! soon. Cost of a look at a turn that is whole, and of a release: a word per record. `docs/format.md`,
//! section 11.
#![allow(unsafe_code)] // the block of a sealed turn; docs/unsafe.md

use std::sync::Arc;

use super::layout::{ENDS_CHUNK, FLAGS, NUMBER, STATE, State, TABLE};
use super::ring::Ring;
use crate::format::block::sealed_len;
use crate::io::RegionSlice;
use crate::sync::{Ordering, fence, lock};

/// What the writer does with the ring; from one thread.
impl Ring {
    /// The turn that is being filled.
    pub(crate) fn active_turn(&self) -> u64 {
        self.active.load(Ordering::Acquire)
    }

    /// Chunks that the turns so far need, the active one included, and that have not been taken for them.
    pub(crate) fn wanted_chunks(&self) -> usize {
        self.chunks_planned.load(Ordering::Relaxed) as usize
    }

    /// A chunk was taken for the turns that come next.
    pub(crate) fn note_chunk(&self) {
        self.chunks_planned.fetch_sub(1, Ordering::Relaxed);
    }

    /// The last turn that has any record; `None` before the first.
    pub(crate) fn last_used_turn(&self) -> Option<u64> {
        let turn = self.active_turn();
        let state = self.state(turn);
        // A state of another turn means that this one was filled, written and released meanwhile.
        if state.is_turn(turn) && state.bytes() == 0 { turn.checked_sub(1) } else { Some(turn) }
    }

    /// Bytes reserved in a turn's buffer.
    pub(crate) fn reserved_bytes(&self, turn: u64) -> usize {
        self.state(turn).bytes()
    }

    /// Whether a turn is sealed: the active one is while no buffer is free for the next.
    pub(crate) fn is_sealed(&self, turn: u64) -> bool {
        self.state(turn).is_sealed()
    }

    /// Seals the active buffer if it is this turn's and holds anything.
    pub(crate) fn seal_turn(&self, turn: u64) {
        loop {
            let state = self.state(turn);
            if self.active_turn() != turn || state.is_sealed() || state.bytes() == 0 {
                return;
            }
            self.seal(turn, state);
        }
    }

    /// Seals the ring for ever: from now on nobody gets room.
    pub(crate) fn close(&self) {
        {
            // Nobody may be between the question whether the ring is closed and the opening of the next turn.
            let _fill = lock(&self.fill);
            self.closed.store(true, Ordering::Release);
        }
        loop {
            let state = self.state(self.active_turn());
            if state.is_sealed() {
                break;
            }
            self.seal(self.active_turn(), state);
        }
        self.notify_all();
    }

    /// Whether the ring is closed and a turn comes after everything that was put into it.
    pub(crate) fn is_ended(&self, turn: u64) -> bool {
        let active = self.active_turn();
        self.closed.load(Ordering::Acquire)
            && (turn > active || (turn == active && self.state(turn).bytes() == 0))
    }

    /// Bytes, block number and whether the chunk ends, of a turn that is sealed, accounted for and whole.
    pub(crate) fn sealed(&self, turn: u64) -> Option<SealedTurn> {
        let state = self.state(turn);
        if !state.is_turn(turn) || !state.is_sealed() {
            return None;
        }
        if !self.is_whole(turn, state) {
            // A thread that does nothing at present may have a span there.
            for mut span in self.lanes.idle() {
                if span.is_open() && span.turn <= turn {
                    self.close_span(&mut span);
                }
            }
            if !self.is_whole(turn, state) {
                return None;
            }
        }
        let is_last = self.closed.load(Ordering::Acquire) && state.bytes() > 0;
        let accounted = self.active_turn() != turn || self.advance() || is_last;
        if !accounted {
            return None;
        }
        Some(SealedTurn {
            payload_len: state.bytes(),
            number: self.control(turn, NUMBER).load(Ordering::Relaxed),
            ends_chunk: self.control(turn, FLAGS).load(Ordering::Acquire) & ENDS_CHUNK != 0,
        })
    }

    /// Whether every word is set that was handed out: what is not there yet is looked for at the end first.
    fn is_whole(&self, turn: u64, state: State) -> bool {
        let slot = self.slot(turn);
        let word = |index: usize| self.word(slot, TABLE + index * 8).load(Ordering::Acquire);
        (0..state.records()).rev().all(|index| word(index) != 0)
    }

    /// Words of a turn that were handed out, and rooms that are whole.
    #[cfg(any(test, loom))]
    pub(crate) fn handed_out(&self, turn: u64) -> (usize, usize) {
        let words = self.state(turn).records();
        let word = |index: &usize| self.control(turn, TABLE + index * 8).load(Ordering::Relaxed);
        let is_room = |word: &u64| *word != 0 && *word != super::layout::NO_RECORD;
        (words, (0..words).map(|index| word(&index)).filter(is_room).count())
    }

    /// The bytes of a sealed turn's block, for writing. The slice is the writer's until it releases the turn.
    pub(crate) fn block(&self, turn: u64, payload_len: usize) -> RegionSlice {
        let offset = self.places.data(self.slot(turn));
        #[cfg(loom)]
        self.watched.touch(offset, crate::format::block::BLOCK_HEADER_LEN + payload_len);
        // SAFETY: the turn is sealed and all its rooms are committed, so nobody else touches its buffer
        // before `release`; the writer claims it once per turn.
        unsafe { RegionSlice::claim(Arc::clone(&self.region), offset, sealed_len(payload_len)) }
    }

    /// Gives the buffers of all turns before `turn` back. Their blocks are on the device.
    pub(crate) fn release(&self, turn: u64) {
        let mut next = self.released.load(Ordering::Relaxed);
        while next < turn {
            let (slot, records) = (self.slot(next), self.state(next).records());
            for index in 0..records {
                self.word(slot, TABLE + index * 8).store(0, Ordering::Relaxed);
            }
            self.word(slot, STATE).store(0, Ordering::Release);
            next += 1;
            self.released.store(next, Ordering::Release);
        }
        // Whoever counted itself before this fence is seen below; whoever did after it sees the release.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            drop(self.free_lock.lock());
            self.came_free.notify_all();
        }
    }
}

/// A sealed turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SealedTurn {
    pub(crate) payload_len: usize,
    pub(crate) number: u64,
    pub(crate) ends_chunk: bool,
}
