//! The fold: blocks to records to memory, from any number of threads, in any order.
//!
//! Invariant: the newest record of each key wins (`hdstore::Loading`), so neither the order of chunks nor
//! the number of threads changes the result. Chunks are taken from the newest to the oldest all the same:
//! what is superseded is then met when its successor is there, and takes no memory. Where one thread is ahead
//! of another it may; a chunk for which memory ran out is put by, and loaded when the others are done
//! (`rest.rs`).
//!
//! Records go in groups, so that their cache misses run side by side. Every block's checksum has been
//! checked by the walk before its records are looked at.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdstore::{Applied, Change, Loading, Seq};

use super::beyond::Relog;
use super::gather::Gather;
use super::plan::Settled;
use super::read::ChunkReader;
use super::report::Progress;
use super::runs::{Added, PartPlace, Runs};
use super::tail::Beyond;
use crate::error::{OpenError, Problem};
use crate::format::block::BLOCK_HEADER_LEN;
use crate::format::{
    BlockKind, ChunkOrigin, ChunkWalk, MapId, Record, RecordKind, Records, Walked,
};
use crate::io::Disk;
use crate::log::{DiskLog, Shared};

/// Records that go to memory together.
pub(super) const GROUP: usize = 64;
/// Chunks that a thread reads ahead of the one it applies.
const BUFFERS: usize = 3;

type OnProgress<'a> = Option<&'a (dyn Fn(&Progress) + Send + Sync)>;

/// What all threads of a restart share.
pub(crate) struct Fold<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) loading: &'a Loading<DiskLog>,
    pub(super) runs: Runs<'a>,
    pub(super) log: &'a Shared,
    pub(super) chunk_size: usize,
    /// What lies beyond the settled chunks, in order.
    pub(super) beyond: &'a [Beyond<'a>],
    pub(super) relog: Mutex<Vec<Relog>>,
    problems: Mutex<Vec<Problem>>,
    /// Later passes meet the same records again.
    pub(super) is_first_pass: AtomicBool,
    /// Maps below this number that the manifest does not have were dropped: all of theirs is void.
    next_map: MapId,
    /// By stream, the highest seq that was found.
    seqs: Box<[AtomicU64]>,
    bytes_total: AtomicU64,
    bytes_read: AtomicU64,
    chunks: AtomicU64,
    pub(super) records: AtomicU64,
    start: Instant,
    on_progress: OnProgress<'a>,
    last_report_ms: AtomicU64,
}

/// An entry's record and its line in a directory are at least 35 bytes and its key and value; its slot and
/// its place in the index are 33 and those, but for the rounding of longer slots, a sixteenth, and pages that
/// are not full: one part in so many.
const MEMORY_EXTRA: u64 = 8;

/// Of so many chunks, one shows what is to come.
const OUTLOOK_PART: usize = 32;

/// Where a payload is: its file, and its first byte there.
pub(super) struct Source<'s> {
    pub(super) name: &'s Arc<str>,
    pub(super) offset: usize,
    /// Whether the records were copied from memory, where they may have gone bad before.
    pub(super) is_copied: bool,
}

impl<'a> Fold<'a> {
    pub(crate) fn new(
        disk: &'a dyn Disk,
        loading: &'a Loading<DiskLog>,
        log: &'a Shared,
        (chunk_size, streams, threads): (u64, u32, usize),
        beyond: &'a [Beyond<'a>],
        start: Instant,
        on_progress: OnProgress<'a>,
    ) -> Fold<'a> {
        Fold {
            disk,
            loading,
            runs: Runs::new(loading, log, threads * chunk_size as usize),
            log,
            chunk_size: chunk_size as usize,
            beyond,
            relog: Mutex::default(),
            problems: Mutex::default(),
            is_first_pass: AtomicBool::new(true),
            next_map: log.next_map(),
            seqs: (0..streams).map(|_| AtomicU64::new(0)).collect(),
            bytes_total: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            records: AtomicU64::new(0),
            start,
            on_progress,
            last_report_ms: AtomicU64::new(0),
        }
    }

    /// Adds a problem, unless it is known.
    pub(crate) fn problem(&self, problem: Problem) {
        let mut problems = self.problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    pub(crate) fn take_problems(&self) -> Vec<Problem> {
        std::mem::take(&mut self.problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// By stream, the highest seq that was found; 0 without a record.
    pub(crate) fn highest_seqs(&self) -> Vec<u64> {
        self.seqs.iter().map(|highest| highest.load(Ordering::Relaxed)).collect()
    }

    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (of(&self.bytes_read), of(&self.chunks), of(&self.records))
    }

    /// Loads everything: `settled`, in this order, from `threads` threads, in as many passes as facts of
    /// absence need. About `live_bytes` of keys and values are to be expected.
    pub(crate) fn load(
        &self,
        settled: &[Settled],
        threads: usize,
        live_bytes: u64,
    ) -> Result<(), OpenError> {
        loop {
            let bytes = (settled.len() * self.chunk_size) as u64;
            let bytes_total = self.bytes_read.load(Ordering::Relaxed) + bytes;
            self.bytes_total.store(bytes_total, Ordering::Relaxed);
            let is_all_in = self.load_beyond()?;
            let is_first = self.is_first_pass.load(Ordering::Relaxed);
            let put_by = self.run(settled, threads, is_first.then_some(live_bytes))?;
            if !put_by.is_empty() || !is_all_in {
                self.load_put_by(settled, put_by)?;
            }
            self.finish_runs()?;
            self.loading.drop_void().map_err(OpenError::Memory)?;
            if !self.loading.next_pass() {
                return Ok(());
            }
            self.is_first_pass.store(false, Ordering::Relaxed);
        }
    }

    /// Applies settled chunks; returns the numbers of those for which memory ran out.
    fn run(
        &self,
        settled: &[Settled],
        threads: usize,
        live_bytes: Option<u64>,
    ) -> Result<Vec<usize>, OpenError> {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let outlook_at = (settled.len() / OUTLOOK_PART).max(1);
        let threads = threads.min(settled.len());
        let results: Vec<Result<Vec<usize>, OpenError>> = std::thread::scope(|scope| {
            let spawned: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let mut put_by = Vec::new();
                        let mut reader = ChunkReader::new(self.disk, self.chunk_size, BUFFERS)?;
                        let take = || {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            settled.get(index).map(|chunk| (index, chunk.file.name.clone()))
                        };
                        reader.read_all(self.chunk_size, take, |index, bytes| {
                            match self.chunk(&settled[index], bytes) {
                                Err(error) if is_no_memory(&error) => put_by.push(index),
                                other => other?,
                            }
                            self.note_bytes(bytes.len());
                            if done.fetch_add(1, Ordering::Relaxed) + 1 == outlook_at
                                && let Some(live_bytes) = live_bytes
                            {
                                let bytes = (settled.len() * self.chunk_size) as u64;
                                self.loading.expect(live_bytes, bytes + bytes / MEMORY_EXTRA);
                            }
                            Ok(())
                        })?;
                        Ok(put_by)
                    })
                })
                .collect();
            spawned.into_iter().map(join).collect()
        });
        let mut put_by = results.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        put_by.sort_unstable();
        Ok(put_by)
    }

    /// Notes that bytes were read, and reports progress now and then.
    pub(crate) fn note_bytes(&self, bytes: usize) {
        let bytes_done = self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let Some(on_progress) = self.on_progress else { return };
        let elapsed = self.start.elapsed();
        let now = elapsed.as_millis() as u64;
        let last = self.last_report_ms.load(Ordering::Relaxed);
        let due = now >= last + 100 || bytes_done == self.bytes_total.load(Ordering::Relaxed);
        let mine = due
            && self
                .last_report_ms
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if mine {
            on_progress(&Progress {
                bytes_done,
                bytes_total: self.bytes_total.load(Ordering::Relaxed),
                records: self.records.load(Ordering::Relaxed),
                elapsed: Duration::from_millis(now),
            });
        }
    }

    fn chunk(&self, chunk: &Settled, bytes: &[u8]) -> Result<(), OpenError> {
        let name: Arc<str> = chunk.file.name.as_str().into();
        let (mut count, mut of_runs) = (0, Vec::new());
        let mut gather = self.gather(chunk);
        let is_whole = self.payloads(chunk, bytes, gather.as_mut(), |offset, payload| {
            let is_copied = chunk.file.header.origin == ChunkOrigin::Survivors;
            let source = Source { name: &name, offset, is_copied };
            count += self.payload(&source, payload, &mut of_runs)?;
            Ok(())
        })?;
        self.run_records(&name, &of_runs)?;
        self.note_chunk(chunk, gather.filter(|_| is_whole), count);
        Ok(())
    }

    /// What gathers for compaction from a chunk, the first time that it is loaded. None from one whose header
    /// is damaged, which stays as it is.
    pub(super) fn gather<'c>(&'c self, chunk: &'c Settled) -> Option<Gather<'c>> {
        let is_first = self.is_first_pass.load(Ordering::Relaxed);
        (is_first && !chunk.file.is_restored).then(|| Gather::new(&chunk.file, &self.log.hash))
    }

    /// Counts a chunk that is loaded, once, and hands on what was gathered from it.
    pub(super) fn note_chunk(&self, chunk: &Settled, gathered: Option<Gather<'_>>, records: u64) {
        if !self.is_first_pass.load(Ordering::Relaxed) {
            return;
        }
        self.records.fetch_add(records, Ordering::Relaxed);
        self.chunks.fetch_add(1, Ordering::Relaxed);
        if let Some(gathered) = gathered {
            gathered.finish(chunk.end, &self.log.catalogue);
        }
    }

    /// Calls `each` with the payload of each block that counts, and reports those that are missing. Returns
    /// whether none is.
    pub(super) fn payloads<'b>(
        &self,
        chunk: &Settled,
        bytes: &'b [u8],
        mut gather: Option<&mut Gather<'_>>,
        mut each: impl FnMut(usize, &'b [u8]) -> Result<(), OpenError>,
    ) -> Result<bool, OpenError> {
        let header = &chunk.file.header;
        let mut next = header.first_block.0;
        let mut is_whole = true;
        for walked in ChunkWalk::new(bytes, header.binding()) {
            if next >= chunk.end {
                break;
            }
            match walked {
                Walked::Block { offset, header: block, payload } => {
                    if block.number.0 != next {
                        self.missing(&chunk.file.name, offset, next, block.number.0);
                        is_whole = false;
                    }
                    next = block.number.0 + 1;
                    if block.number.0 < chunk.end
                        && let Some(gather) = &mut gather
                    {
                        gather.block(offset, block.kind, payload);
                    }
                    if block.kind == BlockKind::Records && block.number.0 < chunk.end {
                        each(offset + BLOCK_HEADER_LEN, payload)?;
                    }
                }
                Walked::Gap { offset, error, .. } => {
                    is_whole = false;
                    self.problem(Problem {
                        file: chunk.file.name.clone(),
                        offset: offset as u64,
                        what: format!(
                            "expected block {next} of writer {} of life {} (of {} to {} in this chunk), with \
                             its records; found {error}",
                            header.writer.0,
                            header.life.0,
                            header.first_block.0,
                            chunk.end - 1
                        ),
                    });
                }
            }
        }
        if next < chunk.end {
            self.missing(&chunk.file.name, bytes.len(), next, chunk.end);
            is_whole = false;
        }
        Ok(is_whole)
    }

    fn missing(&self, file: &str, offset: usize, from: u64, to: u64) {
        self.problem(Problem::missing_blocks(file, offset as u64, from..to.max(from + 1)));
    }

    /// The whole records of a payload; what follows one that is not valid is a problem.
    pub(super) fn records_of<'p>(
        &'p self,
        source: &'p Source<'p>,
        payload: &'p [u8],
    ) -> impl Iterator<Item = Record<'p>> {
        Records::new(payload).map_while(move |record| match record {
            Ok(record) => Some(record),
            Err(error) => {
                let file = source.name.to_string();
                let offset = source.offset as u64;
                self.problem(Problem { file, offset, what: error.to_string() });
                None
            }
        })
    }

    /// Applies the records of a payload but for those of runs, which are collected with the places of their
    /// bytes. Returns how many there were.
    pub(super) fn payload<'p>(
        &self,
        source: &Source<'_>,
        payload: &'p [u8],
        of_runs: &mut Vec<(Record<'p>, usize)>,
    ) -> Result<u64, OpenError> {
        let mut group: Vec<Applied<'_>> = Vec::with_capacity(GROUP);
        let mut count = 0;
        for record in Records::read_ahead(payload) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    self.problem(Problem {
                        file: source.name.to_string(),
                        offset: source.offset as u64,
                        what: error.to_string(),
                    });
                    break;
                }
            };
            count += 1;
            if !self.note(source, &record) {
                continue;
            }
            if is_of_run(&record) {
                let start = record.offset + record.len - record.value.len();
                of_runs.push((record, source.offset + start));
                continue;
            }
            group.push(applied(&record));
            if group.len() == GROUP {
                self.loading.apply(&group).map_err(OpenError::Memory)?;
                group.clear();
            }
        }
        self.loading.apply(&group).map_err(OpenError::Memory)?;
        Ok(count)
    }

    /// Remembers the seq of a record and whether its map is known. Returns whether it is to be applied: not
    /// when its map was dropped, nor when its bytes are not those that were put, where that is in question,
    /// since its block's checksum says only what was copied.
    pub(super) fn note(&self, source: &Source<'_>, record: &Record<'_>) -> bool {
        if let Some(highest) = self.seqs.get(record.stream.0 as usize)
            && highest.load(Ordering::Relaxed) < record.seq
        {
            highest.fetch_max(record.seq, Ordering::Relaxed);
        }
        if !self.loading.knows(record.map) {
            if record.map < self.next_map {
                return false;
            }
            let what = format!("a record of map {}, which the manifest does not have", record.map);
            let offset = source.offset as u64;
            self.problem(Problem { file: source.name.to_string(), offset, what });
        }
        self.log.note_expiry(record.expiry);
        let is_sound = !source.is_copied || is_as_put(record);
        if !is_sound {
            let what = format!(
                "a record of map {}, stream {}, with seq {}: its bytes went bad in memory before they were \
                 copied here (checksum {:#010x}, expected {:#010x})",
                record.map,
                record.stream,
                record.seq,
                record.computed_crc().unwrap_or_default(),
                record.body_crc
            );
            let offset = (source.offset + record.offset) as u64;
            self.problem(Problem { file: source.name.to_string(), offset, what });
        }
        is_sound
    }

    /// Takes in the heads and then the parts of runs in a chunk.
    pub(super) fn run_records(
        &self,
        name: &Arc<str>,
        records: &[(Record<'_>, usize)],
    ) -> Result<(), OpenError> {
        for (head, offset) in records.iter().filter(|(record, _)| record.is_run_head()) {
            self.added(name, *offset, self.runs.add_head(head, false)?);
        }
        for (part, offset) in records.iter().filter(|(record, _)| !record.is_run_head()) {
            let (offset, len) = (*offset, part.value.len());
            let place = PartPlace::File { name: Arc::clone(name), offset, len };
            self.added(name, offset, self.runs.add_part(part, place)?);
        }
        Ok(())
    }

    /// What became of a run.
    pub(super) fn added(&self, file: &str, offset: usize, added: Added) {
        match added {
            Added::UnderWay | Added::Whole(None) => {}
            Added::Whole(Some(relog)) => {
                let mut all = self.relog.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                all.push(relog);
            }
            Added::Bad(what) => {
                self.problem(Problem { file: file.to_owned(), offset: offset as u64, what });
            }
        }
    }
}

/// Whether memory ran out, which may be since others were ahead.
pub(super) fn is_no_memory(error: &OpenError) -> bool {
    matches!(
        error,
        OpenError::Memory(hdstore::Error::Capacity { .. } | hdstore::Error::Unreclaimed { .. })
    )
}

pub(super) fn is_of_run(record: &Record<'_>) -> bool {
    record.kind == RecordKind::Part || record.is_run_head()
}

/// Whether a record's bytes are those that were put.
pub(super) fn is_as_put(record: &Record<'_>) -> bool {
    record.computed_crc().is_none_or(|computed| computed == record.body_crc)
}

pub(super) fn applied<'a>(record: &Record<'a>) -> Applied<'a> {
    let change = match record.kind {
        RecordKind::Absence => Change::Absence { key: record.key },
        RecordKind::Clear => Change::Clear,
        _ => Change::Entry { key: record.key, value: record.value, expiry_ms: record.expiry },
    };
    Applied { map: record.map, stream: record.stream, seq: Seq(record.seq), change }
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
