//! Which blocks count: the rule of recovery, applied to what was found.
//!
//! Invariants: the blocks of a writer that count are a prefix of its numbers. A missing block below the
//! manifest's cut, or below the known-flushed mark of a life that is not cut yet, is a problem; anything
//! above is the torn tail of a crash. In the boot in which a life ran the mark is what is known written, and
//! what its log buffers hold counts like blocks on the device. Of several lives that are not cut only the
//! first counts: the others are openings that did not get to their end. So an opening judges
//! (`restart/plan.rs`, `restart/tail.rs`). See `docs/format.md`, sections 6 to 8.

use std::collections::BTreeMap;
use std::ops::Range;

use super::chunks::ChunkFile;
use super::report::counted;
use super::survey::Survey;
use crate::format::manifest::{HeldChunk, Life, LifeState};
use crate::format::{BlockNumber, FreedBlocks, HoldId, LifeNumber, Manifest, WriterId};

/// How far the blocks of one writer of one life count.
#[derive(Clone, Debug, Default)]
pub(super) struct Extent {
    /// Blocks below this number count.
    pub(super) valid: u64,
    /// Blocks below this number are known flushed.
    pub(super) known_flushed: u64,
    /// Blocks below this number are known written.
    known_written: u64,
    /// How many blocks there are that do not count.
    pub(super) void_blocks: u64,
}

/// Where the blocks of one writer are, by number: indices of chunk and block.
type Places = BTreeMap<u64, (usize, usize)>;

pub(super) fn judge(survey: &mut Survey) {
    let Some(manifest) = survey.manifest.clone() else { return };
    set_freed_aside(survey, &manifest);
    judge_holds(survey, &manifest);
    for life in &manifest.lives {
        let chunks_of = |chunk: &&ChunkFile| {
            chunk
                .header
                .as_ref()
                .is_ok_and(|header| header.store == manifest.store && header.life == life.number)
        };
        let own = survey.chunks.iter().filter(chunks_of);
        let seen =
            own.filter_map(|chunk| chunk.header.as_ref().ok()).map(|header| header.writer.0 + 1);
        let writers = seen.max().unwrap_or(0).max(life.valid_blocks.len() as u32);
        for writer in (0..writers).map(WriterId) {
            judge_writer(survey, life, writer);
        }
    }
}

/// Chunks that are held must be there; who holds them is told.
fn judge_holds(survey: &mut Survey, manifest: &Manifest) {
    let mut by_hold: BTreeMap<HoldId, u64> = BTreeMap::new();
    for HeldChunk { chunk, holder } in &manifest.held {
        *by_hold.entry(*holder).or_default() += 1;
        let headers = survey.chunks.iter().filter_map(|chunk| chunk.header.as_ref().ok());
        if !headers.clone().any(|header| header.chunk == *chunk) {
            let found = format!("chunk {chunk} is missing, which hold {holder} keeps");
            survey.problem("", 0, "every chunk that is held", &found);
        }
    }
    for (hold, count) in by_hold {
        let chunks = counted(count, "chunk", "chunks");
        survey.notes.push(format!("hold {hold} keeps {chunks}, until it is released"));
    }
}

/// Chunks that compaction has freed hold nothing that counts, whatever is left of them.
fn set_freed_aside(survey: &mut Survey, manifest: &Manifest) {
    let mut count = 0;
    for chunk in &mut survey.chunks {
        let Ok(header) = &chunk.header else { continue };
        if header.store != manifest.store {
            continue;
        }
        let first = header.first_block.0;
        let is_freed = match manifest.life(header.life) {
            Some(life) => life.freed.covers(header.writer.0, &(first..first + 1)),
            None => header.life < manifest.life,
        };
        if is_freed {
            chunk.blocks.clear();
            chunk.gaps.clear();
            count += 1;
        }
    }
    if count > 0 {
        let chunks = counted(count, "chunk", "chunks");
        survey.notes.push(format!("{chunks} freed by compaction, to be used again"));
    }
}

fn judge_writer(survey: &mut Survey, life: &Life, writer: WriterId) {
    let (places, mut extent) = places_of(survey, life.number, writer);
    let cut = life.valid_blocks.get(writer.0 as usize).copied().unwrap_or(0);
    let undecided = survey.undecided.take();
    let needed = match (&undecided, life.state) {
        (_, LifeState::Cut) => {
            extent.valid = cut;
            cut
        }
        (Some(undecided), LifeState::Open)
            if undecided.life == life.number && life.compactor() == Some(writer.0) =>
        {
            extent.valid = cut;
            cut
        }
        (Some(undecided), LifeState::Open) if undecided.life == life.number => {
            extent.known_flushed = extent.known_flushed.max(cut);
            extent.known_written = extent.known_written.max(cut);
            let last = places.keys().next_back().map_or(0, |number| number + 1);
            extent.valid = match undecided.left {
                Some(_) => {
                    undecided.blocks_of(writer).map(|number| number + 1).fold(last, u64::max)
                }
                None => first_missing(&places, &life.freed, writer),
            };
            if undecided.same_boot {
                extent.known_written.max(undecided.written_of(writer))
            } else {
                extent.known_flushed
            }
        }
        (_, LifeState::Open) => 0,
    };
    let missing = missing_below(&places, needed);
    let missing = missing.into_iter().filter_map(|gap| life.freed.first_gap(writer.0, gap));
    for missing in missing {
        report_missing(survey, life.number, writer, &missing, needed);
    }
    extent.void_blocks = places.range(extent.valid..).count() as u64;
    survey.undecided = undecided;
    note_end(survey, life, writer, &places, &extent);
    survey.extents.insert((life.number, writer), extent);
}

/// Notes how a life that is not cut ended.
fn note_end(survey: &mut Survey, life: &Life, writer: WriterId, places: &Places, extent: &Extent) {
    let Some(undecided) = survey.undecided.as_mut() else { return };
    let Extent { valid, known_flushed, void_blocks, .. } = *extent;
    let number = life.number;
    if life.state != LifeState::Open {
        return;
    }
    if undecided.life != number {
        if void_blocks > 0 {
            survey.notes.push(format!(
                "life {number}, writer {writer}: an opening that did not get to its end: its {} void",
                is_or_are(void_blocks)
            ));
        }
        return;
    }
    let is_only_here = |number: &u64| !places.contains_key(number);
    let only_here: Vec<(WriterId, u64)> =
        undecided.blocks_of(writer).filter(is_only_here).map(|number| (writer, number)).collect();
    if !only_here.is_empty() {
        survey.notes.push(format!(
            "life {number}, writer {writer}: {} only in its log buffers, and counted",
            is_or_are(only_here.len() as u64)
        ));
    }
    undecided.only_here.extend(only_here);
    if void_blocks > 0 && life.compactor() == Some(writer.0) {
        survey.notes.push(format!(
            "life {number}, writer {writer}: compaction was under way: its last {} void, since what they \
             were copied from counts",
            is_or_are(void_blocks)
        ));
    } else if void_blocks > 0 {
        survey.notes.push(format!(
            "life {number}, writer {writer}: a torn tail: block {valid} is missing, above the mark of \
             {known_flushed} known flushed; beyond it {} void",
            is_or_are(void_blocks)
        ));
    }
}

fn is_or_are(blocks: u64) -> String {
    format!("{} {}", counted(blocks, "block", "blocks"), if blocks == 1 { "is" } else { "are" })
}

fn places_of(survey: &mut Survey, life: LifeNumber, writer: WriterId) -> (Places, Extent) {
    let mut places = Places::new();
    let mut extent = Extent::default();
    let mut mark = |flushed: BlockNumber, written: BlockNumber| {
        extent.known_flushed = extent.known_flushed.max(flushed.0);
        extent.known_written = extent.known_written.max(flushed.0).max(written.0);
    };
    let mut wrong = Vec::new();
    for (chunk_index, chunk) in survey.chunks.iter().enumerate() {
        let Ok(header) = &chunk.header else { continue };
        if (header.life, header.writer) != (life, writer) {
            continue;
        }
        mark(header.flushed, header.written);
        let mut least = header.first_block.0;
        for (block_index, (offset, block)) in chunk.blocks.iter().enumerate() {
            mark(block.flushed, block.written);
            let number = block.number.0;
            let taken = places.insert(number, (chunk_index, block_index));
            if number < least || taken.is_some() {
                wrong.push((chunk.name.clone(), *offset, least, number));
            }
            least = least.max(number + 1);
        }
    }
    for (file, offset, least, number) in wrong {
        survey.problem(
            &file,
            offset,
            &format!("block {least} or later"),
            &format!("block {number}"),
        );
    }
    (places, extent)
}

fn first_missing(places: &Places, freed: &FreedBlocks, writer: WriterId) -> u64 {
    let mut next = freed.next_kept(writer.0, 0);
    while places.contains_key(&next) {
        next = freed.next_kept(writer.0, next + 1);
    }
    next
}

fn missing_below(places: &Places, end: u64) -> Vec<Range<u64>> {
    let mut missing = Vec::new();
    let mut next = 0;
    for number in places.range(..end).map(|(number, _)| *number).chain([end]) {
        if next < number {
            missing.push(next..number);
        }
        next = number + 1;
    }
    missing
}

fn report_missing(
    survey: &mut Survey,
    life: LifeNumber,
    writer: WriterId,
    missing: &Range<u64>,
    mark: u64,
) {
    let is_candidate = |chunk: &&ChunkFile| {
        chunk.header.as_ref().is_ok_and(|header| {
            let own = (header.life, header.writer) == (life, writer);
            own && header.first_block.0 <= missing.start
        })
    };
    let first_block =
        |chunk: &&ChunkFile| chunk.header.as_ref().map_or(0, |header| header.first_block.0);
    let holder = survey.chunks.iter().filter(is_candidate).max_by_key(first_block);
    let gap = holder.and_then(|chunk| Some((chunk, chunk.gap_before(missing.end)?)));
    let (file, offset, found) = match (holder, gap) {
        (_, Some((chunk, (offset, error)))) => (chunk.name.clone(), *offset, error.to_string()),
        (Some(chunk), None) => {
            (chunk.name.clone(), chunk.bytes, "the chunk ends before it".to_owned())
        }
        (None, None) => (String::new(), 0, "no chunk that could hold it".to_owned()),
    };
    let blocks = match missing.end - missing.start {
        1 => format!("block {}", missing.start),
        _ => format!("blocks {} to {}", missing.start, missing.end - 1),
    };
    let expected =
        format!("{blocks} of writer {writer} of life {life} (known to be there below {mark})");
    survey.problem(&file, offset, &expected, &found);
}
