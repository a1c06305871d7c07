//! The writer: a state machine from sealed turns to blocks, flushes and watermarks.
//!
//! Invariants: blocks are numbered without gaps in the order of their turns, each chunk's directory
//! between; a turn counts as written when it and everything submitted before it (its chunk's header
//! included) has completed; as flushed when a flush of every file with such writes, submitted after they
//! completed, has returned. A buffer is released when its turn is written. After any failure of a write
//! or flush the machine submits nothing more.
//!
//! `step` is given the time and the completions, and returns what to submit; it makes no system call and
//! never blocks. Driven by `drive.rs`, and by the simulations.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hdstore::IndexHash;

use super::progress::Progress;
use super::supply::{FreshChunk, Supply};
use crate::buffers::ring::Ring;
use crate::format::block::{self, BLOCK_HEADER_LEN, BlockHeader, BlockKind, sealed_len};
use crate::format::chunk::CHUNK_HEADER_LEN;
use crate::format::record::RecordKind;
use crate::format::{
    Binding, BlockNumber, ChunkHeader, ChunkOrigin, DirectoryBuilder, DirectoryLine, LifeNumber,
    LineKind, Records, StoreId, WriterId,
};
use crate::io::{AlignedBuf, Completion, FileHandle, IoBuf, Op};
use crate::poison::Poison;

/// When a writer acts by itself, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intervals {
    /// A record is on the device within this time.
    pub(crate) write_ms: u64,
    /// And flushed within this.
    pub(crate) flush_ms: u64,
}

/// What all writers of a store share with the world.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Bytes submitted to chunks: blocks with their padding, headers, directories.
    pub(crate) bytes_submitted: AtomicU64,
    pub(crate) blocks: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) chunks: AtomicU64,
    /// Bytes of records that were logged as changes, in all lives: the clock by which chunks age.
    pub(crate) clock: AtomicU64,
    /// Keys and values of the store, as of the last look.
    pub(crate) live_bytes: AtomicU64,
    /// By stream, the highest seq that is flushed.
    pub(crate) durable: Box<[AtomicU64]>,
}

impl Counters {
    pub(crate) fn new(streams: u32) -> Counters {
        Counters {
            durable: (0..streams).map(|_| AtomicU64::new(0)).collect(),
            ..Counters::default()
        }
    }
}

/// Who a writer is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) store: StoreId,
    pub(crate) life: LifeNumber,
    pub(crate) writer: WriterId,
    pub(crate) chunk_size: u64,
}

/// The state machine.
pub(crate) struct Writer {
    identity: Identity,
    ring: Arc<Ring>,
    progress: Arc<Progress>,
    supply: Arc<Supply>,
    poison: Arc<Poison>,
    counters: Arc<Counters>,
    hash: IndexHash,
    intervals: Intervals,
    chunk: Option<OpenChunk>,
    directory: DirectoryBuilder,
    /// The next turn to write.
    next_turn: u64,
    /// Writes in the order of their submission.
    writes: VecDeque<Write>,
    first_token: u64,
    /// Numbers below are written, and flushed.
    written_number: u64,
    flushed_number: u64,
    /// Files with completed writes that no flush has covered.
    dirty: Vec<FileHandle>,
    flush: Option<Flush>,
    next_flush_token: u64,
    /// When the active turn got its first record, as far as noticed.
    filling_since_ms: Option<(u64, u64)>,
    /// When something was first written that is not flushed.
    dirty_since_ms: Option<u64>,
    /// Per turn that is not flushed, the highest seq of each stream in it.
    seqs: VecDeque<(u64, Vec<(u32, u64)>)>,
    closing: bool,
}

struct OpenChunk {
    file: FileHandle,
    binding: Binding,
    used: u64,
}

struct Write {
    /// The turn that is written once this completes.
    turn: Option<u64>,
    /// The number of the block, unless it is a chunk's header.
    number: Option<u64>,
    file: FileHandle,
    done: bool,
}

struct Flush {
    /// Files whose flush has not been submitted, for want of room in the queue.
    files: Vec<FileHandle>,
    pending: u32,
    turn: u64,
    number: u64,
}

/// What a step asks for.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) submissions: Vec<(u64, Op)>,
    /// When to step again at the latest, in milliseconds from now; `None`: when something happens.
    pub(crate) again_in_ms: Option<u64>,
}

const FLUSH_TOKENS: u64 = 1 << 63;

impl Writer {
    #[allow(clippy::too_many_arguments, reason = "the parts are made by the store, once")]
    pub(crate) fn new(
        identity: Identity,
        ring: Arc<Ring>,
        progress: Arc<Progress>,
        supply: Arc<Supply>,
        poison: Arc<Poison>,
        counters: Arc<Counters>,
        hash: IndexHash,
        intervals: Intervals,
    ) -> Writer {
        Writer {
            identity,
            ring,
            progress,
            supply,
            poison,
            counters,
            hash,
            intervals,
            chunk: None,
            directory: DirectoryBuilder::new(),
            next_turn: 0,
            writes: VecDeque::new(),
            first_token: 0,
            written_number: 0,
            flushed_number: 0,
            dirty: Vec::new(),
            flush: None,
            next_flush_token: FLUSH_TOKENS,
            filling_since_ms: None,
            dirty_since_ms: None,
            seqs: VecDeque::new(),
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
            || (self.ring.is_ended(self.next_turn)
                && self.chunk.is_none()
                && self.writes.is_empty()
                && self.dirty.is_empty()
                && self.flush.is_none())
    }

    /// Whether the rest cannot be written, since a chunk is needed and the disk is full.
    pub(crate) fn lacks_space(&self) -> bool {
        self.chunk.is_none()
            && self.writes.is_empty()
            && self.supply.no_space_bytes().is_some()
            && !self.ring.is_ended(self.next_turn)
    }

    /// The number of blocks written so far: what a clean close records.
    pub(crate) fn blocks(&self) -> u64 {
        self.written_number
    }

    /// One step: takes completions in, returns submissions, at most `room` of them.
    pub(crate) fn step(&mut self, now_ms: u64, completions: Vec<Completion>, room: usize) -> Step {
        for completion in completions {
            self.complete(completion);
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
            self.submit_flush(now_ms, &mut step, room);
        }
        step.again_in_ms = self.next_deadline(now_ms);
        step
    }

    fn complete(&mut self, completion: Completion) {
        let is_flush = completion.token >= FLUSH_TOKENS;
        if let Err(error) = completion.result {
            self.poison.set(error);
            return;
        }
        if is_flush {
            if let Some(flush) = &mut self.flush {
                flush.pending -= 1;
            }
            return;
        }
        let index = (completion.token - self.first_token) as usize;
        self.writes[index].done = true;
    }

    /// Raises the watermarks by what has completed in order.
    fn note_written(&mut self, now_ms: u64) {
        let mut turn = None;
        while self.writes.front().is_some_and(|write| write.done) {
            let Some(write) = self.writes.pop_front() else { break };
            self.first_token += 1;
            turn = write.turn.or(turn);
            if let Some(number) = write.number {
                self.written_number = number + 1;
            }
            if !self.dirty.iter().any(|file| file.name() == write.file.name()) {
                self.dirty.push(write.file);
            }
            self.dirty_since_ms.get_or_insert(now_ms);
        }
        if let Some(turn) = turn {
            self.ring.release(turn + 1);
            self.progress.set_written(turn + 1);
        }
        let flushed = self.flush.take_if(|flush| flush.pending == 0 && flush.files.is_empty());
        if let Some(Flush { turn, number, .. }) = flushed {
            self.flushed_number = number;
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
        let wanted = self.progress.wanted_written() > active && self.writes.is_empty();
        if wanted || now_ms.saturating_sub(since) >= self.intervals.write_ms {
            self.ring.seal_turn(active);
        }
    }

    /// Submits the next sealed turn, with what belongs before and after it. False when there is none, or
    /// no chunk.
    fn submit_next(&mut self, step: &mut Step) -> bool {
        let Some(sealed) = self.ring.sealed(self.next_turn) else {
            return self.closing && self.submit_last_directory(step);
        };
        if self.chunk.is_none() && !self.open_chunk(sealed.number, step) {
            return false;
        }
        let Some(chunk) = &mut self.chunk else { return false };
        let mut slice = IoBuf::from(self.ring.block(self.next_turn, sealed.payload_len));
        let header = BlockHeader {
            number: BlockNumber(sealed.number),
            flushed: BlockNumber(self.flushed_number),
            written: BlockNumber(self.written_number),
            payload_len: sealed.payload_len as u32,
            records: sealed.records,
            live_mib: live_mib(&self.counters),
            kind: BlockKind::Records,
        };
        let payload = &slice[BLOCK_HEADER_LEN..BLOCK_HEADER_LEN + sealed.payload_len];
        let base = chunk.used as usize + BLOCK_HEADER_LEN;
        let seqs = list_records(&mut self.directory, &self.hash, payload, base);
        self.seqs.push_back((self.next_turn, seqs));
        let len = block::seal(&mut slice, &header, chunk.binding);
        let (file, offset) = (chunk.file.clone(), chunk.used);
        chunk.used += len as u64;
        self.push(Some(self.next_turn), Some(sealed.number), file, offset, slice, step);
        self.counters.blocks.fetch_add(1, Ordering::Relaxed);
        self.counters.clock.fetch_add(sealed.payload_len as u64, Ordering::Relaxed);
        self.counters.records.fetch_add(u64::from(sealed.records), Ordering::Relaxed);
        self.next_turn += 1;
        if sealed.ends_chunk {
            self.submit_directory(sealed.number + 1, step);
        }
        true
    }

    /// Begins a chunk with its header. False when none is at hand.
    fn open_chunk(&mut self, first_block: u64, step: &mut Step) -> bool {
        let Some(FreshChunk { file, id }) = self.supply.take() else { return false };
        let header = ChunkHeader {
            store: self.identity.store,
            chunk: id,
            life: self.identity.life,
            writer: self.identity.writer,
            chunk_size: self.identity.chunk_size,
            first_block: BlockNumber(first_block),
            flushed: BlockNumber(self.flushed_number),
            written: BlockNumber(self.written_number),
            live_bytes: self.counters.live_bytes.load(Ordering::Relaxed),
            origin: ChunkOrigin::Changes,
            clock: self.counters.clock.load(Ordering::Relaxed),
        };
        let mut buf = AlignedBuf::zeroed(CHUNK_HEADER_LEN);
        header.encode_into(&mut buf);
        self.push(None, None, file.clone(), 0, buf.into(), step);
        self.chunk =
            Some(OpenChunk { file, binding: header.binding(), used: CHUNK_HEADER_LEN as u64 });
        self.counters.chunks.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Ends the chunk with its directory.
    fn submit_directory(&mut self, number: u64, step: &mut Step) {
        let Some(chunk) = self.chunk.take() else { return };
        let payload_len = self.directory.encoded_len();
        let mut buf = AlignedBuf::zeroed(sealed_len(payload_len));
        self.directory.encode_into(&mut buf[BLOCK_HEADER_LEN..]);
        let header = BlockHeader {
            number: BlockNumber(number),
            flushed: BlockNumber(self.flushed_number),
            written: BlockNumber(self.written_number),
            payload_len: payload_len as u32,
            records: self.directory.records(),
            live_mib: live_mib(&self.counters),
            kind: BlockKind::Directory,
        };
        let len = block::seal(&mut buf, &header, chunk.binding) as u64;
        assert!(
            chunk.used + len <= self.identity.chunk_size,
            "the ring kept room for the directory"
        );
        self.directory.clear();
        self.push(None, Some(number), chunk.file, chunk.used, buf.into(), step);
    }

    /// At a clean close: the directory of a chunk that is not full.
    fn submit_last_directory(&mut self, step: &mut Step) -> bool {
        if self.ring.is_ended(self.next_turn) && self.chunk.is_some() {
            let written =
                self.writes.iter().rev().find_map(|write| write.number).map(|number| number + 1);
            let number = written.unwrap_or(self.written_number);
            self.submit_directory(number, step);
        }
        false
    }

    fn push(
        &mut self,
        turn: Option<u64>,
        number: Option<u64>,
        file: FileHandle,
        offset: u64,
        buf: IoBuf,
        step: &mut Step,
    ) {
        let token = self.first_token + self.writes.len() as u64;
        self.counters.bytes_submitted.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.writes.push_back(Write { turn, number, file: file.clone(), done: false });
        step.submissions.push((token, Op::Write { file, offset, buf }));
    }

    /// Begins a flush when one is wanted or due, and submits as much of it as the queue takes.
    fn submit_flush(&mut self, now_ms: u64, step: &mut Step, room: usize) {
        if self.flush.is_none() && !self.dirty.is_empty() && self.is_flush_due(now_ms) {
            self.dirty_since_ms = None;
            self.flush = Some(Flush {
                files: std::mem::take(&mut self.dirty),
                pending: 0,
                turn: self.progress.written(),
                number: self.written_number,
            });
        }
        let Some(flush) = &mut self.flush else { return };
        while step.submissions.len() < room {
            let Some(file) = flush.files.pop() else { return };
            step.submissions.push((self.next_flush_token, Op::Flush { file }));
            self.next_flush_token += 1;
            flush.pending += 1;
            self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_flush_due(&self, now_ms: u64) -> bool {
        let (written, flushed) = (self.progress.written(), self.progress.flushed());
        let wanted = self.progress.wanted_flushed() > flushed && written > flushed;
        let due = self
            .dirty_since_ms
            .is_some_and(|since| now_ms.saturating_sub(since) >= self.intervals.flush_ms);
        wanted || due || (self.closing && self.writes.is_empty())
    }

    fn next_deadline(&self, now_ms: u64) -> Option<u64> {
        let seal = self.filling_since_ms.map(|(_, since)| since + self.intervals.write_ms);
        let flush = match self.flush {
            None => self.dirty_since_ms.map(|since| since + self.intervals.flush_ms),
            Some(_) => None,
        };
        // A sealed turn that is not whole yet, or has no chunk, is looked at again soon.
        let stuck =
            (self.next_turn < self.ring.active_turn() || self.closing).then_some(now_ms + 1);
        [seal, flush, stuck].into_iter().flatten().min().map(|at| at.saturating_sub(now_ms).max(1))
    }
}

fn live_mib(counters: &Counters) -> u32 {
    let bytes = counters.live_bytes.load(Ordering::Relaxed);
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX)
}

/// Adds the records of a payload to the directory and returns the highest seq of each stream; `base` is
/// the payload's place in the chunk.
fn list_records(
    directory: &mut DirectoryBuilder,
    hash: &IndexHash,
    payload: &[u8],
    base: usize,
) -> Vec<(u32, u64)> {
    let mut seqs: Vec<(u32, u64)> = Vec::new();
    for record in Records::new(payload) {
        let record = record.expect("the store's own records are valid");
        let hash = match (record.kind, record.part) {
            (RecordKind::Part, Some(part)) => part.run,
            _ => hash.of(record.key),
        };
        let line = DirectoryLine {
            seq: record.seq,
            hash,
            offset: (base + record.offset) as u32,
            kind: LineKind::of(record.kind, record.part.is_some()),
            body_crc: record.body_crc,
        };
        directory.add(record.map, record.stream, line, record.key.len() + record.value.len());
        match seqs.iter_mut().find(|(stream, _)| *stream == record.stream.0) {
            Some((_, seq)) => *seq = record.seq.max(*seq),
            None => seqs.push((record.stream.0, record.seq)),
        }
    }
    seqs
}
