//! Which blocks count: the rule of recovery, applied to what was found.
//!
//! Invariants: the blocks of a writer that count are a prefix of its numbers. A missing block below the
//! manifest's cut, or below the known-flushed mark of a life that is not cut yet, is a problem; anything
//! above is the torn tail of a crash. See `docs/format.md`, sections 6 to 8.

use std::collections::BTreeMap;
use std::ops::Range;

use super::chunks::ChunkFile;
use super::survey::Survey;
use crate::format::manifest::{Life, LifeState};
use crate::format::{LifeNumber, WriterId};

/// How far the blocks of one writer of one life count.
#[derive(Clone, Debug, Default)]
pub(super) struct Extent {
    /// Blocks below this number count.
    pub(super) valid: u64,
    /// Blocks below this number are known flushed.
    pub(super) known_flushed: u64,
    /// How many blocks there are that do not count.
    pub(super) void_blocks: u64,
}

/// Where the blocks of one writer are, by number: indices of chunk and block.
type Places = BTreeMap<u64, (usize, usize)>;

pub(super) fn judge(survey: &mut Survey) {
    let Some(manifest) = survey.manifest.clone() else { return };
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

fn judge_writer(survey: &mut Survey, life: &Life, writer: WriterId) {
    let (places, known_flushed) = places_of(survey, life.number, writer);
    let cut = life.valid_blocks.get(writer.0 as usize).copied().unwrap_or(0);
    let first_missing = first_missing(&places);
    let (valid, needed) = match life.state {
        LifeState::Cut => (cut, cut),
        LifeState::Open => (first_missing, known_flushed),
    };
    for missing in missing_below(&places, needed) {
        report_missing(survey, life.number, writer, &missing, known_flushed);
    }
    let void_blocks = places.range(valid..).count() as u64;
    if life.state == LifeState::Open && void_blocks > 0 {
        let life = life.number;
        let text = format!(
            "life {life}, writer {writer}: a torn tail: block {valid} is missing, above the mark \
             of {known_flushed} known flushed; {void_blocks} blocks after it are void"
        );
        survey.notes.push(text);
    }
    survey.extents.insert((life.number, writer), Extent { valid, known_flushed, void_blocks });
}

fn places_of(survey: &mut Survey, life: LifeNumber, writer: WriterId) -> (Places, u64) {
    let mut places = Places::new();
    let mut known_flushed = 0;
    let mut wrong = Vec::new();
    for (chunk_index, chunk) in survey.chunks.iter().enumerate() {
        let Ok(header) = &chunk.header else { continue };
        if (header.life, header.writer) != (life, writer) {
            continue;
        }
        known_flushed = known_flushed.max(header.flushed.0);
        let mut least = header.first_block.0;
        for (block_index, (offset, block)) in chunk.blocks.iter().enumerate() {
            known_flushed = known_flushed.max(block.flushed.0);
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
    (places, known_flushed)
}

fn first_missing(places: &Places) -> u64 {
    let in_order = places.keys().zip(0..).take_while(|(number, index)| **number == *index);
    in_order.count() as u64
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
    known_flushed: u64,
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
        format!("{blocks} of writer {writer} of life {life} (flushed below {known_flushed})");
    survey.problem(&file, offset, &expected, &found);
}
