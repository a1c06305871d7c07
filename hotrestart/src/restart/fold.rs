//! The fold: blocks to records to memory, from any number of threads, in any order.
//!
//! Invariant: the newest record of each key wins (`hdstore::Loading`), so neither the order of chunks nor
//! the number of threads changes the result. Records go in groups, so that their cache misses run side by
//! side. Every block's checksum has been checked by the walk before its records are looked at.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdstore::{Applied, Change, IndexHash, Loading, Seq, Stamp};

use super::gather::Gather;
use super::plan::Settled;
use super::read::ChunkReader;
use super::report::Progress;
use super::runs::Runs;
use crate::chunks::catalogue::Catalogue;
use crate::error::{OpenError, Problem};
use crate::format::{BlockKind, ChunkWalk, MapId, Record, RecordKind, Records, StreamId, Walked};
use crate::io::Disk;
use crate::log::{DiskLog, Shared};
use crate::runs::RunOf;

/// Records that go to memory together.
const GROUP: usize = 64;
/// Chunks that a thread reads ahead of the one it applies.
const BUFFERS: usize = 3;

type OnProgress<'a> = Option<&'a (dyn Fn(&Progress) + Send + Sync)>;

/// What all threads of a restart share.
pub(crate) struct Fold<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) loading: &'a Loading<DiskLog>,
    pub(crate) runs: Runs,
    log: &'a Shared,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) hash: IndexHash,
    pub(crate) chunk_size: usize,
    pub(crate) salvage: bool,
    problems: Mutex<Vec<Problem>>,
    /// By stream, the highest seq that was found.
    seqs: Box<[AtomicU64]>,
    bytes_total: AtomicU64,
    bytes_read: AtomicU64,
    chunks: AtomicU64,
    records: AtomicU64,
    start: Instant,
    on_progress: OnProgress<'a>,
    last_report_ms: AtomicU64,
}

/// A record that was applied from beyond what the disk holds without a gap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Relog {
    pub(crate) map: MapId,
    pub(crate) stream: StreamId,
    pub(crate) key: Vec<u8>,
    pub(crate) seq: u64,
}

impl<'a> Fold<'a> {
    pub(crate) fn new(
        disk: &'a dyn Disk,
        loading: &'a Loading<DiskLog>,
        log: &'a Shared,
        (chunk_size, streams): (u64, u32),
        salvage: bool,
        start: Instant,
        on_progress: OnProgress<'a>,
    ) -> Fold<'a> {
        Fold {
            disk,
            loading,
            runs: Runs::default(),
            catalogue: &log.catalogue,
            hash: log.hash.clone(),
            log,
            chunk_size: chunk_size as usize,
            salvage,
            problems: Mutex::default(),
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

    pub(crate) fn expect_chunks(&self, chunks: usize) {
        self.bytes_total.fetch_add((chunks * self.chunk_size) as u64, Ordering::Relaxed);
    }

    pub(crate) fn problem(&self, problem: Problem) {
        self.problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(problem);
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

    /// Applies settled chunks from `threads` threads.
    pub(crate) fn run(&self, settled: &[Settled], threads: usize) -> Result<(), OpenError> {
        let next = AtomicUsize::new(0);
        let threads = threads.min(settled.len());
        let results: Vec<Result<(), OpenError>> = std::thread::scope(|scope| {
            let spawned: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let mut reader = ChunkReader::new(self.disk, self.chunk_size, BUFFERS)?;
                        let take = || {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            settled.get(index).map(|chunk| (chunk, chunk.file.name.clone()))
                        };
                        reader.read_all(self.chunk_size, take, |chunk, bytes| {
                            self.chunk(chunk, bytes)
                        })
                    })
                })
                .collect();
            spawned.into_iter().map(join).collect()
        });
        results.into_iter().collect()
    }

    /// Notes that a chunk was read, and reports progress now and then.
    pub(crate) fn note_chunk(&self, bytes: usize) {
        let bytes_done = self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        self.chunks.fetch_add(1, Ordering::Relaxed);
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
        let header = &chunk.file.header;
        let mut next = header.first_block.0;
        let mut gather = Gather::new(&chunk.file, &self.hash);
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
                    if block.number.0 < chunk.end {
                        gather.block(offset, block.kind, payload);
                    }
                    if block.kind == BlockKind::Records && block.number.0 < chunk.end {
                        let from = (header.life.0, header.writer.0);
                        self.payload(from, &chunk.file.name, offset, payload, None)?;
                    }
                }
                Walked::Gap { offset, error, .. } => {
                    is_whole = false;
                    self.problem(Problem {
                        file: chunk.file.name.clone(),
                        offset: offset as u64,
                        what: format!(
                            "block {next} of {} to {}: {error}",
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
        if is_whole {
            gather.finish(chunk.end, self.catalogue);
        }
        self.note_chunk(bytes.len());
        Ok(())
    }

    fn missing(&self, file: &str, offset: usize, from: u64, to: u64) {
        let what = format!(
            "blocks {from} to {} are missing, with all records in them",
            to.max(from + 1) - 1
        );
        self.problem(Problem { file: file.to_owned(), offset: offset as u64, what });
    }

    /// Applies the records of a block's payload; `relog` collects their keys.
    pub(crate) fn payload(
        &self,
        from: (u64, u32),
        file: &str,
        offset: usize,
        payload: &[u8],
        mut relog: Option<&mut Vec<Relog>>,
    ) -> Result<(), OpenError> {
        let mut group: Vec<Applied<'_>> = Vec::with_capacity(GROUP);
        let mut count = 0;
        for record in Records::new(payload) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    self.problem(Problem {
                        file: file.to_owned(),
                        offset: offset as u64,
                        what: error.to_string(),
                    });
                    break;
                }
            };
            count += 1;
            if let Some(highest) = self.seqs.get(record.stream.0 as usize)
                && highest.load(Ordering::Relaxed) < record.seq
            {
                highest.fetch_max(record.seq, Ordering::Relaxed);
            }
            if record.kind == RecordKind::Part || record.is_run_head() {
                self.run_record(from, file, offset, &record, relog.as_deref_mut())?;
                continue;
            }
            self.check_map(file, offset, &record);
            if let Some(relog) = relog.as_deref_mut() {
                relog.push(Relog {
                    map: record.map,
                    stream: record.stream,
                    key: record.key.to_vec(),
                    seq: record.seq,
                });
            }
            group.push(applied(&record));
            if group.len() == GROUP {
                self.loading.apply(&group).map_err(OpenError::Memory)?;
                group.clear();
            }
        }
        self.loading.apply(&group).map_err(OpenError::Memory)?;
        self.records.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    fn check_map(&self, file: &str, offset: usize, record: &Record<'_>) {
        if !self.loading.knows(record.map) {
            let what = format!("a record of map {}, which the manifest does not have", record.map);
            self.problem(Problem { file: file.to_owned(), offset: offset as u64, what });
        }
    }

    fn run_record(
        &self,
        (life, writer): (u64, u32),
        file: &str,
        offset: usize,
        record: &Record<'_>,
        relog: Option<&mut Vec<Relog>>,
    ) -> Result<(), OpenError> {
        self.check_map(file, offset, record);
        match self.runs.add(life, writer, record) {
            Ok(None) => {}
            Ok(Some(whole)) => {
                let change =
                    Change::Entry { key: &whole.key, value: &whole.value, expiry_ms: whole.expiry };
                let (map, stream, seq) = (whole.map, whole.stream, Seq(whole.seq));
                let stamp = Stamp { map, stream, hash: self.hash.of(&whole.key), seq };
                if let Some(part) = record.part {
                    self.log.runs.set(part.run, RunOf::Entry(stamp));
                }
                self.loading
                    .apply(&[Applied { map, stream, seq, change }])
                    .map_err(OpenError::Memory)?;
                if let Some(relog) = relog {
                    relog.push(Relog { map, stream, key: whole.key, seq: whole.seq });
                }
            }
            Err(what) => {
                self.problem(Problem { file: file.to_owned(), offset: offset as u64, what });
            }
        }
        Ok(())
    }
}

fn applied<'a>(record: &Record<'a>) -> Applied<'a> {
    let change = match record.kind {
        RecordKind::Absence => Change::Absence { key: record.key },
        _ => Change::Entry { key: record.key, value: record.value, expiry_ms: record.expiry },
    };
    Applied { map: record.map, stream: record.stream, seq: Seq(record.seq), change }
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
