//! The writer: a state machine from sealed turns to blocks, flushes and watermarks.
//!
//! Invariant: a turn counts as written when its block is (`chunks/blocks.rs`), as flushed when a flush that
//! was begun after that has ended; its buffer is released when it is written. After any failure of a write
//! or flush the machine submits nothing more.
//!
//! `step` is given the time and the completions, and returns what to submit; it makes no system call and
//! never blocks. Driven by `drive.rs`, and by the simulations.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdstore::{IndexHash, StreamId};

use super::progress::Progress;
use crate::buffers::ring::Ring;
use crate::chunks::blocks::{Blocks, Counters, Step};
use crate::chunks::supply::Supply;
use crate::format::block::BLOCK_HEADER_LEN;
use crate::format::{DirectoryLine, Record, Records};
use crate::io::{Completion, IoBuf};
use crate::poison::Poison;

/// When a writer acts by itself, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    /// A record is on the device within this time.
    pub(crate) write_ms: u64,
    /// And flushed within this.
    pub(crate) flush_ms: u64,
}

/// The state machine.
pub(crate) struct Writer {
    blocks: Blocks,
    ring: Arc<Ring>,
    progress: Arc<Progress>,
    supply: Arc<Supply>,
    poison: Arc<Poison>,
    counters: Arc<Counters>,
    hash: IndexHash,
    intervals: Intervals,
    /// The next turn to write.
    next_turn: u64,
    /// When the active turn got its first record, as far as noticed.
    filling_since_ms: Option<(u64, u64)>,
    /// Per turn that is not flushed, the highest seq of each stream in it.
    seqs: VecDeque<(u64, Vec<(u32, u64)>)>,
    highest: Highest,
    closing: bool,
}

impl Writer {
    #[allow(clippy::too_many_arguments, reason = "the parts are made by the store, once")]
    pub(crate) fn new(
        blocks: Blocks,
        ring: Arc<Ring>,
        progress: Arc<Progress>,
        supply: Arc<Supply>,
        poison: Arc<Poison>,
        counters: Arc<Counters>,
        hash: IndexHash,
        intervals: Intervals,
    ) -> Writer {
        let highest = Highest::new(counters.durable.len());
        Writer {
            blocks,
            ring,
            progress,
            supply,
            poison,
            counters,
            hash,
            intervals,
            next_turn: 0,
            filling_since_ms: None,
            seqs: VecDeque::new(),
            highest,
            closing: false,
        }
    }

    /// From now on everything is written, the chunk sealed and flushed; `is_drained` says when.
    pub(crate) fn close(&mut self) {
        if !self.closing {
            self.closing = true;
            self.ring.close();
        }
    }

    /// Whether everything that was committed is flushed, and the last chunk sealed.
    pub(crate) fn is_drained(&self) -> bool {
        self.poison.get().is_some()
            || (self.ring.is_ended(self.next_turn) && self.blocks.is_drained())
    }

    /// Whether the rest cannot be written, since a chunk is needed and the disk is full.
    pub(crate) fn lacks_space(&self) -> bool {
        !self.blocks.has_chunk()
            && !self.blocks.has_writes()
            && self.supply.no_space_bytes().is_some()
            && !self.ring.is_ended(self.next_turn)
    }

    /// The number of blocks written so far: what a clean close records.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks.written()
    }

    /// One step: takes completions in, returns submissions, at most `room` of them.
    pub(crate) fn step(&mut self, now_ms: u64, completions: Vec<Completion>, room: usize) -> Step {
        for completion in completions {
            if let Err(error) = self.blocks.complete(completion.token, completion) {
                self.poison.set(error);
            }
        }
        let mut step = Step::default();
        if self.poison.get().is_some() {
            self.progress.notify();
            self.ring.notify_all();
            return step;
        }
        self.note_written(now_ms);
        self.seal_what_is_due(now_ms);
        while step.submissions.len() + 3 <= room && self.submit_next(&mut step) {}
        if step.submissions.len() < room {
            if self.blocks.can_flush() && self.is_flush_due(now_ms) {
                self.blocks.begin_flush(self.progress.written());
            }
            self.blocks.submit_flush(&mut step, room);
        }
        step.again_in_ms = self.next_deadline(now_ms);
        step
    }

    /// Raises the watermarks by what has completed in order.
    fn note_written(&mut self, now_ms: u64) {
        if let Some(turn) = self.blocks.note_written(now_ms) {
            self.ring.release(turn + 1);
            self.progress.set_written(turn + 1);
        }
        if let Some(turn) = self.blocks.note_flushed() {
            while self.seqs.front().is_some_and(|(of_turn, _)| *of_turn < turn) {
                for (stream, seq) in self.seqs.pop_front().into_iter().flat_map(|(_, seqs)| seqs) {
                    self.counters.durable[stream as usize].fetch_max(seq, Ordering::Release);
                }
            }
            self.progress.set_flushed(turn);
        }
    }

    fn seal_what_is_due(&mut self, now_ms: u64) {
        let active = self.ring.active_turn();
        if self.ring.reserved_bytes(active) == 0 {
            self.filling_since_ms = None;
            return;
        }
        let since = match self.filling_since_ms {
            Some((turn, since)) if turn == active => since,
            _ => {
                self.filling_since_ms = Some((active, now_ms));
                now_ms
            }
        };
        let wanted = self.progress.wanted_written() > active && !self.blocks.has_writes();
        if wanted || now_ms.saturating_sub(since) >= self.intervals.write_ms {
            self.ring.seal_turn(active);
        }
    }

    /// Submits the next sealed turn, with what belongs before and after it. False when there is none, or
    /// no chunk.
    fn submit_next(&mut self, step: &mut Step) -> bool {
        let Some(sealed) = self.ring.sealed(self.next_turn) else {
            // At a clean close: the directory of a chunk that is not full.
            if self.closing && self.ring.is_ended(self.next_turn) {
                self.blocks.end_chunk(self.blocks.next_number(), step);
            }
            return false;
        };
        let clock = self.counters.clock.load(Ordering::Relaxed);
        if !self.blocks.has_chunk() {
            if !self.blocks.open_chunk(sealed.number, clock, step) {
                return false;
            }
            self.ring.note_chunk();
        }
        let slice = IoBuf::from(self.ring.block(self.next_turn, sealed.payload_len));
        let payload = &slice[BLOCK_HEADER_LEN..BLOCK_HEADER_LEN + sealed.payload_len];
        let records = list_records(&mut self.blocks, &self.hash, payload, &mut self.highest);
        self.seqs.push_back((self.next_turn, self.highest.take()));
        let of_block = (sealed.number, sealed.payload_len, records);
        self.blocks.append(slice, of_block, Some(self.next_turn), step);
        self.counters.clock.fetch_add(sealed.payload_len as u64, Ordering::Relaxed);
        self.next_turn += 1;
        if sealed.ends_chunk {
            self.blocks.end_chunk(sealed.number + 1, step);
        }
        true
    }

    fn is_flush_due(&self, now_ms: u64) -> bool {
        let (written, flushed) = (self.progress.written(), self.progress.flushed());
        let wanted = self.progress.wanted_flushed() > flushed && written > flushed;
        let due = self
            .blocks
            .dirty_since_ms()
            .is_some_and(|since| now_ms.saturating_sub(since) >= self.intervals.flush_ms);
        wanted || due || (self.closing && !self.blocks.has_writes())
    }

    fn next_deadline(&self, now_ms: u64) -> Option<u64> {
        let seal = self.filling_since_ms.map(|(_, since)| since + self.intervals.write_ms);
        let flush = self.blocks.dirty_since_ms().map(|since| since + self.intervals.flush_ms);
        // A sealed turn that is not whole yet, or has no chunk, is looked at again soon.
        let active = self.ring.active_turn();
        let is_waiting = self.next_turn < active || self.ring.is_sealed(active) || self.closing;
        let stuck = is_waiting.then_some(now_ms + 1);
        [seal, flush, stuck].into_iter().flatten().min().map(|at| at.saturating_sub(now_ms).max(1))
    }
}

/// The highest seq of each stream in a block, while its records are listed.
struct Highest {
    /// By stream, 0 for one that the block has not.
    seqs: Box<[u64]>,
    streams: Vec<u32>,
}

impl Highest {
    fn new(streams: usize) -> Highest {
        Highest { seqs: vec![0; streams].into(), streams: Vec::new() }
    }

    fn note(&mut self, stream: StreamId, seq: u64) {
        let highest = &mut self.seqs[stream.0 as usize];
        // Parts of values have no seq.
        if *highest == 0 && seq > 0 {
            self.streams.push(stream.0);
        }
        *highest = seq.max(*highest);
    }

    /// What was noted; the next block starts over.
    fn take(&mut self) -> Vec<(u32, u64)> {
        let seqs = &mut self.seqs;
        self.streams
            .drain(..)
            .map(|stream| (stream, std::mem::take(&mut seqs[stream as usize])))
            .collect()
    }
}

/// Lists the records of the next block's payload and notes the highest seq of each stream. Returns how many
/// records there are.
fn list_records(
    blocks: &mut Blocks,
    hash: &IndexHash,
    payload: &[u8],
    highest: &mut Highest,
) -> u32 {
    let base = blocks.payload_base();
    let mut records = 0;
    for record in Records::read_ahead(payload) {
        let record: Record<'_> = record.expect("the store's own records are valid");
        records += 1;
        let line = DirectoryLine::of(&record, base + record.offset, |key| hash.of(key));
        let body = record.key.len() + record.value.len();
        blocks.list(record.map, record.stream, &line, record.len, body);
        highest.note(record.stream, record.seq);
    }
    records
}
