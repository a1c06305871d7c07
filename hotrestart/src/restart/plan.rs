//! The plan: which chunks there are, and which of their blocks count.
//!
//! Only headers are read here, 4 KiB per chunk. A chunk is *settled* when all its blocks are known to
//! count: its life's end is decided, or its blocks lie below what is known flushed (or, in the same boot,
//! written: then no completed write was lost). The others are the tail, judged in order.
//!
//! Of several undecided lives only the first counts: the others were openings that did not get to their
//! end, and hold nothing but some of the first one's records, logged again.

use std::collections::BTreeMap;

use super::read::ChunkReader;
use super::torn_headers::Judge;
use crate::error::{OpenError, Problem};
use crate::format::chunk::CHUNK_HEADER_LEN;
use crate::format::manifest::LifeState;
use crate::format::{
    ALIGNMENT, BootId, ChunkHeader, ChunkHeaderError, ChunkId, FileNumber, FreedBlocks, LifeNumber,
    Manifest,
};
use crate::io::{DirEntry, Disk};

/// A chunk's file with its header.
#[derive(Clone, Debug)]
pub(crate) struct ChunkFile {
    pub(crate) name: String,
    pub(crate) header: ChunkHeader,
    /// Whether the header is damaged in the file.
    pub(crate) is_restored: bool,
}

/// A settled chunk: its blocks from the first up to `end` must all be there.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    pub(crate) file: ChunkFile,
    pub(crate) end: u64,
}

/// The part of a writer's history that is not settled.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    pub(crate) life: u64,
    pub(crate) writer: u32,
    pub(crate) chunks: Vec<ChunkFile>,
    /// Blocks below this are settled.
    pub(crate) from: u64,
    /// Blocks below this must be there.
    pub(crate) mark: u64,
    /// Whether the life ran in this boot, so that completed writes and log buffers are still there.
    pub(crate) same_boot: bool,
}

/// The chunks by life and writer.
type Sequences = BTreeMap<(u64, u32), Vec<ChunkFile>>;

/// What a restart does.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) settled: Vec<Settled>,
    pub(crate) tails: Vec<Tail>,
    pub(crate) problems: Vec<Problem>,
    /// Keys and values of the store when its newest chunk was begun.
    pub(crate) live_bytes: u64,
    pub(crate) highest_file: u32,
    /// Ends that are known without looking at blocks, of writers of lives that are undecided: life, writer,
    /// blocks that count.
    pub(crate) ends: Vec<(u64, u32, u64)>,
    /// Files with blocks that count, or stay behind those, and may not be flushed.
    pub(crate) unflushed: Vec<String>,
    /// Files without any block that counts. They may go once nothing turned out to be missing.
    pub(crate) unused: Vec<String>,
    /// Those of them whose headers cannot be read: where blocks turn out to be missing they may be in these.
    pub(crate) unreadable: Vec<Problem>,
    /// The clock by which chunks age, as far as it was noted.
    pub(crate) clock: u64,
    newest_chunk: u64,
    /// Held chunks that were found, and their files.
    held: BTreeMap<ChunkId, String>,
}

impl Plan {
    /// Has the last chunk of survivors flushed: behind what counts of it may be copies that were written and
    /// never flushed, and whoever holds the chunk is promised that none of its bytes changes any more.
    fn flush_end_of(&mut self, life: u64, writer: u32) {
        let is_own = |settled: &&Settled| {
            (settled.file.header.life.0, settled.file.header.writer.0) == (life, writer)
        };
        if let Some(last) = self.settled.iter().rev().find(is_own) {
            self.unflushed.push(last.file.name.clone());
        }
    }
}

/// The one undecided life that counts.
pub(crate) fn undecided(manifest: &Manifest) -> Option<LifeNumber> {
    let open = manifest.lives.iter().filter(|life| life.state == LifeState::Open);
    open.map(|life| life.number).min()
}

/// Reads all headers and makes the plan.
pub(crate) fn make(
    disk: &dyn Disk,
    entries: &[DirEntry],
    manifest: &Manifest,
    boot: BootId,
) -> Result<Plan, OpenError> {
    let mut plan = Plan::default();
    let mut sequences = Sequences::new();
    let mut unreadable = Vec::new();
    let mut reader = ChunkReader::new(disk, CHUNK_HEADER_LEN, 1)?;
    for entry in entries {
        let Some(number) = FileNumber::from_file_name(&entry.name) else { continue };
        plan.highest_file = plan.highest_file.max(number.0);
        let bytes = match reader.read_one(&entry.name, CHUNK_HEADER_LEN) {
            Ok(bytes) => bytes,
            // A file that ends before its header was never a chunk in use.
            Err(_) if entry.len < CHUNK_HEADER_LEN as u64 => {
                plan.unused.push(entry.name.clone());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match ChunkHeader::decode(&bytes) {
            Ok(header) => accept(entry, (header, false), manifest, &mut sequences, &mut plan)?,
            Err(ChunkHeaderError::Version { found }) => {
                let reason =
                    format!("chunk format version {found} is newer than this program knows");
                return Err(OpenError::NewerFormat { file: entry.name.clone(), reason });
            }
            Err(ChunkHeaderError::Features(unknown)) => {
                let reason = format!("needs features that this program does not know: {unknown}");
                return Err(OpenError::NewerFormat { file: entry.name.clone(), reason });
            }
            Err(error) => unreadable.push((entry, error)),
        }
    }
    let unreadable = judge_unreadable(disk, unreadable, manifest, boot, &mut sequences, &mut plan)?;
    let mut missing = false;
    for life in &manifest.lives {
        for writer in 0..life.valid_blocks.len() as u32 {
            let mut chunks = sequences.remove(&(life.number.0, writer)).unwrap_or_default();
            chunks.sort_by_key(|chunk| chunk.header.first_block);
            let freed = Freed { blocks: &life.freed, writer };
            let chunks = freed.without(&mut plan, chunks);
            let before = plan.problems.len();
            let valid = life.valid_blocks[writer as usize];
            match life.state {
                LifeState::Cut => settle_cut(&mut plan, chunks, life.number.0, &freed, valid),
                LifeState::Open if undecided(manifest) != Some(life.number) => {
                    plan.ends.push((life.number.0, writer, 0));
                    // Else openings that fail for want of space would leave less of it each time.
                    plan.unused.extend(chunks.into_iter().map(|chunk| chunk.name));
                }
                LifeState::Open if life.compactor() == Some(writer) => {
                    // What it had copied counts when the manifest says so, which it does for flushed blocks.
                    plan.ends.push((life.number.0, writer, valid));
                    settle_cut(&mut plan, chunks, life.number.0, &freed, valid);
                }
                LifeState::Open => {
                    let same_boot = life.boot == boot;
                    settle_open(&mut plan, chunks, life.number.0, &freed, (valid, same_boot));
                }
            }
            if life.compactor() == Some(writer) {
                plan.flush_end_of(life.number.0, writer);
            }
            missing |= plan.problems.len() > before;
        }
    }
    for ((life, writer), chunks) in sequences {
        // A life is forgotten when compaction has freed all its chunks; files may still look like them.
        let is_forgotten =
            life < manifest.life.0 && manifest.lives.iter().all(|listed| listed.number.0 != life);
        for chunk in chunks {
            if is_forgotten {
                plan.unused.push(chunk.name);
                continue;
            }
            plan.problems.push(Problem {
                file: chunk.name,
                offset: 40,
                what: format!(
                    "life {life}, writer {writer}: no such life or writer in the manifest"
                ),
            });
        }
    }
    for held in &manifest.held {
        if !plan.held.contains_key(&held.chunk) {
            missing = true;
            plan.problems.push(Problem {
                file: String::new(),
                offset: 0,
                what: format!("chunk {} is missing, which hold {} keeps", held.chunk, held.holder),
            });
        }
    }
    // A header that cannot be read matters when anything is missing; else nothing in its chunk counts.
    if missing {
        plan.problems.splice(0..0, unreadable);
    } else {
        plan.unused.extend(unreadable.iter().map(|problem| problem.file.clone()));
        plan.unreadable = unreadable;
    }
    // Whatever else is thought of it, a held chunk stays as it is.
    plan.unused.retain(|name| !plan.held.values().any(|held| held == name));
    Ok(plan)
}

/// Judges the chunks whose headers cannot be read: damage is a problem, and its chunk counts as far as its
/// header can be restored. Returns the others, in which nothing counts unless something else is missing.
fn judge_unreadable(
    disk: &dyn Disk,
    unreadable: Vec<(&DirEntry, ChunkHeaderError)>,
    manifest: &Manifest,
    boot: BootId,
    sequences: &mut Sequences,
    plan: &mut Plan,
) -> Result<Vec<Problem>, OpenError> {
    let mut others = Vec::new();
    if unreadable.is_empty() {
        return Ok(others);
    }
    let known = sequences.values().flatten().map(|chunk| &chunk.header);
    let life = undecided(manifest).and_then(|life| manifest.life(life));
    let judge = Judge::new(manifest, life.is_some_and(|life| life.boot == boot), known);
    let mut reader = ChunkReader::new(disk, manifest.chunk_size as usize, 1)?;
    for (entry, error) in unreadable {
        let is_blank = error == ChunkHeaderError::Blank;
        let is_whole = entry.len == manifest.chunk_size;
        // Most of the blank ones were made ahead of need, and are not read for nothing.
        let may_count = is_whole
            && (!is_blank
                || judge.may_count(&reader.read_one(&entry.name, CHUNK_HEADER_LEN + ALIGNMENT)?));
        let damage = match may_count {
            true => judge.judge(&reader.read_one(&entry.name, entry.len as usize)?),
            false => None,
        };
        let Some(damage) = damage else {
            if is_blank {
                plan.unused.push(entry.name.clone());
            } else {
                others.push(Problem::chunk_header(&entry.name, &error, ""));
            }
            continue;
        };
        plan.problems.push(Problem::chunk_header(&entry.name, &error, &damage.what));
        if let Some(header) = damage.restored {
            accept(entry, (header, true), manifest, sequences, plan)?;
        }
    }
    Ok(others)
}

fn accept(
    entry: &DirEntry,
    (header, is_restored): (ChunkHeader, bool),
    manifest: &Manifest,
    sequences: &mut Sequences,
    plan: &mut Plan,
) -> Result<(), OpenError> {
    if header.store != manifest.store {
        return Err(OpenError::AnotherStore {
            file: entry.name.clone(),
            expected: manifest.store.to_string(),
            found: header.store.to_string(),
        });
    }
    if header.chunk_size != manifest.chunk_size || entry.len != manifest.chunk_size {
        plan.problems.push(Problem {
            file: entry.name.clone(),
            offset: 56,
            what: format!(
                "a chunk of {} bytes in a file of {}, expected {}",
                header.chunk_size, entry.len, manifest.chunk_size
            ),
        });
        return Ok(());
    }
    if header.chunk.0 >= plan.newest_chunk {
        plan.newest_chunk = header.chunk.0;
        plan.live_bytes = header.live_bytes;
    }
    if manifest.held.iter().any(|held| held.chunk == header.chunk) {
        plan.held.insert(header.chunk, entry.name.clone());
    }
    plan.clock = plan.clock.max(header.clock + header.chunk_size);
    let place = sequences.entry((header.life.0, header.writer.0)).or_default();
    place.push(ChunkFile { name: entry.name.clone(), header, is_restored });
    Ok(())
}

fn missing_blocks(life: u64, writer: u32, from: u64, to: u64) -> Problem {
    Problem {
        file: String::new(),
        offset: 0,
        what: format!("blocks {from} to {} of writer {writer} in life {life} are missing", to - 1),
    }
}

/// What compaction has freed of one writer's blocks.
struct Freed<'a> {
    blocks: &'a FreedBlocks,
    writer: u32,
}

impl Freed<'_> {
    /// The chunks that are not freed; the others are void.
    fn without(&self, plan: &mut Plan, chunks: Vec<ChunkFile>) -> Vec<ChunkFile> {
        let (freed, left): (Vec<ChunkFile>, Vec<ChunkFile>) =
            chunks.into_iter().partition(|chunk| {
                let first = chunk.header.first_block.0;
                self.blocks.covers(self.writer, &(first..first + 1))
            });
        plan.unused.extend(freed.into_iter().map(|chunk| chunk.name));
        left
    }

    /// The end of a chunk's blocks: where the next chunk begins, or what was freed after it, or `end`.
    fn end_of(&self, first: u64, next: Option<u64>, end: u64) -> u64 {
        let gap = self.blocks.first_gap(self.writer, first..next.unwrap_or(end));
        gap.map_or(end, |gap| gap.end)
    }

    /// Tells of blocks that are missing and not freed.
    fn missing(&self, plan: &mut Plan, life: u64, blocks: std::ops::Range<u64>) {
        if let Some(gap) = self.blocks.first_gap(self.writer, blocks) {
            plan.problems.push(missing_blocks(life, self.writer, gap.start, gap.end));
        }
    }
}

/// A life whose end is decided: all blocks below `valid` must be there, but for those that were freed; those
/// from it on are void.
fn settle_cut(plan: &mut Plan, chunks: Vec<ChunkFile>, life: u64, freed: &Freed<'_>, valid: u64) {
    let mut next = 0;
    let (counting, void): (Vec<ChunkFile>, Vec<ChunkFile>) =
        chunks.into_iter().partition(|chunk| chunk.header.first_block.0 < valid);
    plan.unused.extend(void.into_iter().map(|chunk| chunk.name));
    let firsts: Vec<u64> = counting.iter().map(|chunk| chunk.header.first_block.0).collect();
    for (index, file) in counting.into_iter().enumerate() {
        let first = firsts[index];
        freed.missing(plan, life, next..first);
        next = freed.end_of(first, firsts.get(index + 1).copied(), valid);
        plan.settled.push(Settled { file, end: next });
    }
    freed.missing(plan, life, next..valid);
}

/// A life that ended without a decision: what is known flushed is settled, the rest is its tail.
fn settle_open(
    plan: &mut Plan,
    chunks: Vec<ChunkFile>,
    life: u64,
    freed: &Freed<'_>,
    (known_flushed, same_boot): (u64, bool),
) {
    let known = |chunk: &ChunkFile| {
        let flushed = chunk.header.flushed.0;
        if same_boot { flushed.max(chunk.header.written.0) } else { flushed }
    };
    // What was freed was flushed, and the manifest says what else was when anything was freed last.
    let freed_end = freed.blocks.end(freed.writer).max(known_flushed);
    let mark = chunks.iter().map(known).max().unwrap_or(0).max(freed_end);
    let flushed = chunks.iter().map(|chunk| chunk.header.flushed.0).max().unwrap_or(0);
    let flushed = flushed.max(freed_end);
    let firsts: Vec<u64> = chunks.iter().map(|chunk| chunk.header.first_block.0).collect();
    let mut next = 0;
    let mut tail = Vec::new();
    for (index, file) in chunks.into_iter().enumerate() {
        let after = firsts.get(index + 1).copied();
        // A chunk that has something after it, be it freed, is whole.
        let end = freed.end_of(firsts[index], after, u64::MAX);
        let end = (end != u64::MAX).then_some(end);
        if end.is_none_or(|end| end > flushed) {
            plan.unflushed.push(file.name.clone());
        }
        match end {
            Some(end) if end <= mark && tail.is_empty() => {
                freed.missing(plan, life, next..firsts[index]);
                plan.settled.push(Settled { file, end });
                next = end;
            }
            _ => tail.push(file),
        }
    }
    let from = freed.blocks.next_kept(freed.writer, next);
    plan.tails.push(Tail { life, writer: freed.writer, chunks: tail, from, mark, same_boot });
}
