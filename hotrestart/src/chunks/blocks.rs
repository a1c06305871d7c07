//! The blocks of one writer, or of the compactor: numbered, in chunks with header and directory, written
//! and flushed.
//!
//! Invariants: blocks are numbered without gaps in the order of their submission, each chunk's directory
//! among them; a block counts as written when it and everything submitted before it (its chunk's header
//! included) has completed; as flushed when a flush of every file with such writes, submitted after they
//! completed, has returned. A chunk goes to the catalogue when its last block is flushed.
//!
//! A part of the state machines in `writer/` and `compact/`: it makes no system call and never blocks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::catalogue::{Catalogue, Chunk, Forgettable};
use super::register::Registered;
use super::sample::{Sampler, of_line, places_of};
use super::supply::{FreshChunk, Supply};
use crate::format::block::{self, BLOCK_HEADER_LEN, BlockHeader, BlockKind, sealed_len};
use crate::format::chunk::CHUNK_HEADER_LEN;
use crate::format::directory::{LINE_LEN, TABLE_LEN};
use crate::format::{
    ALIGNMENT, Binding, BlockNumber, ChunkHeader, ChunkOrigin, DirectoryBuilder, DirectoryLine,
    FileNumber, LifeNumber, LineKind, MapId, StoreId, StreamId, WriterId,
};
use crate::io::{AlignedBuf, Completion, FileHandle, IoBuf, IoError, Op};

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
    /// By writer, how many of its blocks are flushed; the compactor is none of them.
    pub(crate) flushed_blocks: Box<[AtomicU64]>,
}

impl Counters {
    pub(crate) fn new(streams: u32, writers: u32) -> Counters {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Counters { durable: zeros(streams), flushed_blocks: zeros(writers), ..Counters::default() }
    }
}

/// Who writes.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) store: StoreId,
    pub(crate) life: LifeNumber,
    pub(crate) writer: WriterId,
    pub(crate) chunk_size: u64,
    pub(crate) origin: ChunkOrigin,
}

/// What a step of a state machine asks for.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) submissions: Vec<(u64, Op)>,
    /// When to step again at the latest, in milliseconds from now; `None`: when something happens.
    pub(crate) again_in_ms: Option<u64>,
}

/// Blocks on their way to the device.
#[derive(Debug)]
pub(crate) struct Blocks {
    identity: Identity,
    supply: Arc<Supply>,
    counters: Arc<Counters>,
    catalogue: Arc<Catalogue>,
    chunk: Option<OpenChunk>,
    directory: DirectoryBuilder,
    sampler: Sampler,
    /// Full chunks whose last block may not be flushed.
    full: VecDeque<Chunk>,
    /// Writes in the order of their submission.
    writes: VecDeque<Write>,
    first_token: u64,
    /// Blocks below these numbers are written, and flushed.
    written: u64,
    flushed: u64,
    /// Files with completed writes that no flush has covered, and where the last of these ends.
    dirty: Vec<(FileHandle, u64)>,
    flush: Option<Flush>,
    next_flush_token: u64,
    /// When something was first written that is not flushed.
    dirty_since_ms: Option<u64>,
}

#[derive(Debug)]
struct OpenChunk {
    file: FileHandle,
    header: ChunkHeader,
    binding: Binding,
    used: usize,
    absences: u32,
    absence_bytes: u32,
    has_runs: bool,
}

#[derive(Debug)]
struct Write {
    /// The owner's mark that is reached once this completes.
    mark: Option<u64>,
    /// The number of the block, unless it is a chunk's header.
    number: Option<u64>,
    file: FileHandle,
    /// Where in the file it ends.
    end: u64,
    done: bool,
}

#[derive(Debug)]
struct Flush {
    /// Files whose flush has not been submitted, for want of room in the queue.
    files: Vec<FileHandle>,
    pending: u32,
    mark: u64,
    number: u64,
    /// Up to where the files are flushed when it ends.
    ends: Vec<(FileNumber, u64)>,
}

const FLUSH_TOKENS: u64 = 1 << 63;

fn number_of(file: &FileHandle) -> FileNumber {
    FileNumber::from_file_name(file.name()).expect("a chunk's file has a number")
}

impl Blocks {
    pub(crate) fn new(
        identity: Identity,
        supply: Arc<Supply>,
        counters: Arc<Counters>,
        catalogue: Arc<Catalogue>,
    ) -> Blocks {
        Blocks {
            sampler: Sampler::new(identity.chunk_size),
            identity,
            supply,
            counters,
            catalogue,
            chunk: None,
            directory: DirectoryBuilder::new(),
            full: VecDeque::new(),
            writes: VecDeque::new(),
            first_token: 0,
            written: 0,
            flushed: 0,
            dirty: Vec::new(),
            flush: None,
            next_flush_token: FLUSH_TOKENS,
            dirty_since_ms: None,
        }
    }

    pub(crate) fn has_chunk(&self) -> bool {
        self.chunk.is_some()
    }

    /// The number of blocks that are written, in order.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// The number of blocks that are flushed, in order.
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed
    }

    /// The number that the next block gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.writes
            .iter()
            .rev()
            .find_map(|write| write.number)
            .map_or(self.written, |last| last + 1)
    }

    pub(crate) fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Whether everything submitted is flushed, and no chunk is open.
    pub(crate) fn is_drained(&self) -> bool {
        self.chunk.is_none() && self.is_flushed()
    }

    /// Whether everything submitted is flushed.
    pub(crate) fn is_flushed(&self) -> bool {
        self.writes.is_empty() && self.dirty.is_empty() && self.flush.is_none()
    }

    /// Begins a chunk with its header. False when none is at hand. `clock` is the age of what it will hold.
    pub(crate) fn open_chunk(&mut self, first_block: u64, clock: u64, step: &mut Step) -> bool {
        let Some(FreshChunk { file, id }) = self.supply.take(self.identity.origin) else {
            return false;
        };
        let header = ChunkHeader {
            store: self.identity.store,
            chunk: id,
            life: self.identity.life,
            writer: self.identity.writer,
            chunk_size: self.identity.chunk_size,
            first_block: BlockNumber(first_block),
            flushed: BlockNumber(self.flushed),
            written: BlockNumber(self.written),
            live_bytes: self.counters.live_bytes.load(Ordering::Relaxed),
            origin: self.identity.origin,
            clock,
        };
        let registered = Registered {
            id,
            life: header.life,
            writer: header.writer.0,
            first_block,
            stable_bytes: 0,
        };
        self.catalogue.register.add(number_of(&file), registered);
        let mut buf = AlignedBuf::zeroed(CHUNK_HEADER_LEN);
        header.encode_into(&mut buf);
        self.push(None, None, file.clone(), 0, buf.into(), step);
        self.chunk = Some(OpenChunk {
            file,
            binding: header.binding(),
            header,
            used: CHUNK_HEADER_LEN,
            absences: 0,
            absence_bytes: 0,
            has_runs: false,
        });
        self.counters.chunks.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Where in the open chunk the payload of the next block begins.
    ///
    /// # Panics
    /// When no chunk is open.
    pub(crate) fn payload_base(&self) -> usize {
        self.open().used + BLOCK_HEADER_LEN
    }

    /// Payload bytes that fit the next block, if at most `records` more records are in it.
    ///
    /// # Panics
    /// When no chunk is open.
    pub(crate) fn payload_room(&self, records: usize) -> usize {
        let directory = self.directory.encoded_len() + records * (LINE_LEN + TABLE_LEN);
        let taken = self.open().used + sealed_len(directory) + BLOCK_HEADER_LEN + ALIGNMENT;
        (self.identity.chunk_size as usize).saturating_sub(taken)
    }

    /// Lists a record of the next block in the directory; `len` is the record's own length, `body` that of
    /// key and value. Records come in the order of their offsets.
    #[inline]
    pub(crate) fn list(
        &mut self,
        map: MapId,
        stream: StreamId,
        line: &DirectoryLine,
        len: usize,
        body: usize,
    ) {
        self.sampler.offer(line.offset as usize, len, || of_line(map, stream, line));
        if let Some(chunk) = &mut self.chunk {
            let is_fact = u32::from(line.kind.is_fact());
            chunk.absences += is_fact;
            chunk.absence_bytes += is_fact * (len + LINE_LEN) as u32;
            chunk.has_runs |= matches!(line.kind, LineKind::Part | LineKind::Head);
        }
        self.directory.add(map, stream, line, body);
    }

    /// Seals a block, whose records were listed, and submits it. `mark` is reached once it is written.
    ///
    /// # Panics
    /// When no chunk is open.
    pub(crate) fn append(
        &mut self,
        mut buf: IoBuf,
        (number, payload_len, records): (u64, usize, u32),
        mark: Option<u64>,
        step: &mut Step,
    ) {
        let header = self.block_header(number, payload_len, records, BlockKind::Records);
        let chunk = self.chunk.as_mut().expect("a block needs an open chunk");
        let len = block::seal(&mut buf, &header, chunk.binding);
        let (file, offset) = (chunk.file.clone(), chunk.used as u64);
        chunk.used += len;
        self.push(mark, Some(number), file, offset, buf, step);
        self.counters.blocks.fetch_add(1, Ordering::Relaxed);
        self.counters.records.fetch_add(u64::from(records), Ordering::Relaxed);
    }

    /// Ends the chunk with its directory, which is block `number`. Nothing when none is open.
    pub(crate) fn end_chunk(&mut self, number: u64, step: &mut Step) {
        let Some(chunk) = self.chunk.take() else { return };
        let payload_len = self.directory.encoded_len();
        let mut buf = AlignedBuf::zeroed(sealed_len(payload_len));
        self.directory.encode_into(&mut buf[BLOCK_HEADER_LEN..]);
        let records = self.directory.records();
        let header = self.block_header(number, payload_len, records, BlockKind::Directory);
        let len = block::seal(&mut buf, &header, chunk.binding);
        assert!(
            chunk.used + len <= self.identity.chunk_size as usize,
            "room was kept for the directory"
        );
        self.directory.clear();
        let youngest = match self.identity.origin {
            ChunkOrigin::Changes => self.counters.clock.load(Ordering::Relaxed),
            ChunkOrigin::Survivors => chunk.header.clock,
        };
        let directory = chunk.used..chunk.used + len;
        let places = self.sampler.places(self.identity.chunk_size, Some(&directory));
        let samples = self.sampler.take();
        self.full.push_back(Chunk {
            id: chunk.header.chunk,
            file: number_of(&chunk.file),
            life: self.identity.life,
            writer: self.identity.writer.0,
            blocks: chunk.header.first_block.0..number + 1,
            directory: Some(directory),
            youngest,
            absences: chunk.absences,
            absence_bytes: chunk.absence_bytes,
            has_runs: chunk.has_runs,
            places: places_of(self.identity.origin, places, &samples),
            samples,
            forgettable: Forgettable::default(),
            pinned_bytes: 0.0,
            judged_at: Some(0),
            is_charged: true,
        });
        self.push(None, Some(number), chunk.file, chunk.used as u64, buf.into(), step);
    }

    fn open(&self) -> &OpenChunk {
        self.chunk.as_ref().expect("a chunk is open")
    }

    fn block_header(
        &self,
        number: u64,
        payload_len: usize,
        records: u32,
        kind: BlockKind,
    ) -> BlockHeader {
        let live_mib = self.counters.live_bytes.load(Ordering::Relaxed).div_ceil(1 << 20);
        BlockHeader {
            number: BlockNumber(number),
            flushed: BlockNumber(self.flushed),
            written: BlockNumber(self.written),
            payload_len: payload_len as u32,
            records,
            live_mib: u32::try_from(live_mib).unwrap_or(u32::MAX),
            kind,
        }
    }

    fn push(
        &mut self,
        mark: Option<u64>,
        number: Option<u64>,
        file: FileHandle,
        offset: u64,
        buf: IoBuf,
        step: &mut Step,
    ) {
        let token = self.first_token + self.writes.len() as u64;
        self.counters.bytes_submitted.fetch_add(buf.len() as u64, Ordering::Relaxed);
        let end = offset + buf.len() as u64;
        self.writes.push_back(Write { mark, number, file: file.clone(), end, done: false });
        step.submissions.push((token, Op::Write { file, offset, buf }));
    }

    /// Takes the completion of a write or a flush in.
    ///
    /// # Errors
    /// When it failed: nothing more may be submitted then.
    pub(crate) fn complete(&mut self, token: u64, completion: Completion) -> Result<(), IoError> {
        completion.result?;
        if token >= FLUSH_TOKENS {
            if let Some(flush) = &mut self.flush {
                flush.pending -= 1;
            }
        } else {
            let index = (token - self.first_token) as usize;
            self.writes[index].done = true;
        }
        Ok(())
    }

    /// Raises what is written by what has completed in order. Returns the highest mark that was reached.
    pub(crate) fn note_written(&mut self, now_ms: u64) -> Option<u64> {
        let mut mark = None;
        while let Some(write) = self.writes.pop_front_if(|write| write.done) {
            self.first_token += 1;
            mark = write.mark.or(mark);
            if let Some(number) = write.number {
                self.written = number + 1;
            }
            match self.dirty.iter_mut().find(|(file, _)| file.name() == write.file.name()) {
                Some((_, end)) => *end = write.end,
                None => self.dirty.push((write.file, write.end)),
            }
            self.dirty_since_ms.get_or_insert(now_ms);
        }
        mark
    }

    /// When a flush has ended, raises what is flushed and returns the mark that it was begun with.
    pub(crate) fn note_flushed(&mut self) -> Option<u64> {
        let flush = self.flush.take_if(|flush| flush.pending == 0 && flush.files.is_empty())?;
        self.flushed = flush.number;
        // Bytes before blocks: who sees that a block is flushed sees its bytes.
        self.catalogue.register.note_flushed(&flush.ends);
        if let Some(flushed) = self.counters.flushed_blocks.get(self.identity.writer.0 as usize) {
            flushed.store(self.flushed, Ordering::Release);
        }
        while self.full.front().is_some_and(|chunk| chunk.blocks.end <= self.flushed) {
            let chunk = self.full.pop_front();
            chunk.into_iter().for_each(|chunk| self.catalogue.add(chunk));
        }
        Some(flush.mark)
    }

    /// Since when something is written that no flush covers.
    pub(crate) fn dirty_since_ms(&self) -> Option<u64> {
        self.dirty_since_ms.filter(|_| self.flush.is_none())
    }

    /// Whether something is written and no flush is under way.
    pub(crate) fn can_flush(&self) -> bool {
        self.flush.is_none() && !self.dirty.is_empty()
    }

    /// Begins a flush of everything that is written.
    pub(crate) fn begin_flush(&mut self, mark: u64) {
        self.dirty_since_ms = None;
        let dirty = std::mem::take(&mut self.dirty);
        let ends = dirty.iter().map(|(file, end)| (number_of(file), *end)).collect();
        let files = dirty.into_iter().map(|(file, _)| file).collect();
        self.flush = Some(Flush { files, pending: 0, mark, number: self.written, ends });
    }

    /// Submits as much of a flush as the queue takes.
    pub(crate) fn submit_flush(&mut self, step: &mut Step, room: usize) {
        let Some(flush) = &mut self.flush else { return };
        while step.submissions.len() < room {
            let Some(file) = flush.files.pop() else { return };
            step.submissions.push((self.next_flush_token, Op::Flush { file }));
            self.next_flush_token += 1;
            flush.pending += 1;
            self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        }
    }
}
