//! The tail: the end of a life that was not closed.
//!
//! After a power loss the history of a writer ends at its first missing block above the known-flushed
//! mark: a torn tail. In the same boot nothing that was acknowledged is gone: each block is on the
//! device, or its buffer still holds its records; a number that is in neither is a directory whose write
//! was under way. A missing block below the mark is corruption in both cases. Blocks are applied in their
//! order, so nothing beyond the end is ever applied; what lies beyond the disk's first gap is collected
//! to be logged again in the new life.

use std::collections::BTreeMap;

use super::fold::{Fold, Relog};
use super::gather::Gather;
use super::plan::Tail;
use super::read::ChunkReader;
use super::report::Cut;
use crate::buffers::recover::LeftBehind;
use crate::error::{OpenError, Problem};
use crate::format::{BlockKind, ChunkWalk, Records, Walked};

/// What became of a tail.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) life: u64,
    pub(crate) writer: u32,
    /// Blocks of the writer that are on the device without a gap: where the life is cut.
    pub(crate) blocks: u64,
    pub(crate) relog: Vec<Relog>,
    pub(crate) cut: Option<Cut>,
}

/// A valid block beyond a gap.
struct Later {
    file: String,
    offset: usize,
    payload: Vec<u8>,
    is_directory: bool,
}

/// Judges and applies a tail.
pub(crate) fn judge(
    fold: &Fold<'_>,
    tail: &Tail,
    left: Option<&LeftBehind>,
) -> Result<Judged, OpenError> {
    let from = (tail.life, tail.writer);
    let mut reader = ChunkReader::new(fold.disk, fold.chunk_size, 1)?;
    let mut next = tail.from;
    let mut mark = tail.mark;
    let mut later: BTreeMap<u64, Later> = BTreeMap::new();
    let mut first_gap: Option<(String, usize, String)> = None;
    for chunk in &tail.chunks {
        let bytes = reader.read_one(&chunk.name, fold.chunk_size)?;
        let mut gather = Gather::new(chunk, &fold.hash);
        for walked in ChunkWalk::new(&bytes, chunk.header.binding()) {
            match walked {
                Walked::Block { offset, header, payload } => {
                    mark = mark.max(header.flushed.0);
                    if tail.same_boot {
                        mark = mark.max(header.written.0);
                    }
                    let is_directory = header.kind == BlockKind::Directory;
                    if header.number.0 == next {
                        gather.block(offset, header.kind, payload);
                        if !is_directory {
                            fold.payload(from, &chunk.name, offset, payload, None)?;
                        }
                        next += 1;
                    } else if header.number.0 > next {
                        // What can never count is not kept: after a power loss it may be all of the tail.
                        let may_count = left.is_some() || fold.salvage;
                        let block = Later {
                            file: chunk.name.clone(),
                            offset,
                            payload: if may_count { payload.to_vec() } else { Vec::new() },
                            is_directory,
                        };
                        later.insert(header.number.0, block);
                    }
                }
                Walked::Gap { offset, error, .. } => {
                    first_gap
                        .get_or_insert_with(|| (chunk.name.clone(), offset, error.to_string()));
                }
            }
        }
        gather.finish(next, fold.catalogue);
        fold.note_chunk(bytes.len());
    }
    if next < mark {
        let (file, offset, error) = first_gap.unwrap_or_default();
        fold.problem(Problem {
            file,
            offset: offset as u64,
            what: format!(
                "blocks {next} to {} of writer {} in life {} were on the device and are not valid: {error}",
                mark - 1,
                tail.writer,
                tail.life
            ),
        });
    }
    let mut judged =
        Judged { life: tail.life, writer: tail.writer, blocks: next, relog: Vec::new(), cut: None };
    let end = end_of(tail, left, &later, next, mark, fold.salvage);
    apply_beyond(fold, tail, left, &later, next..end, &mut judged.relog)?;
    let void_blocks = later.range(end..).count() as u64;
    if void_blocks > 0 || left.is_none() {
        judged.cut = Some(Cut { life: tail.life, writer: tail.writer, blocks: end, void_blocks });
    }
    Ok(judged)
}

/// Where the writer's history ends: the number after its last block that counts.
fn end_of(
    tail: &Tail,
    left: Option<&LeftBehind>,
    later: &BTreeMap<u64, Later>,
    next: u64,
    mark: u64,
    salvage: bool,
) -> u64 {
    let last_later = later.keys().next_back().map_or(next, |number| number + 1);
    match left {
        Some(left) => {
            let of_writer = left.blocks.range((tail.writer, 0)..=(tail.writer, u64::MAX));
            of_writer.map(|((_, number), _)| number + 1).max().unwrap_or(next).max(last_later)
        }
        // Below the mark everything was acknowledged: what is left of it counts when damage is to be
        // passed over.
        None if salvage && next < mark => mark.min(last_later),
        None => next,
    }
}

fn apply_beyond(
    fold: &Fold<'_>,
    tail: &Tail,
    left: Option<&LeftBehind>,
    later: &BTreeMap<u64, Later>,
    numbers: std::ops::Range<u64>,
    relog: &mut Vec<Relog>,
) -> Result<(), OpenError> {
    let from = (tail.life, tail.writer);
    for number in numbers {
        if let Some(block) = later.get(&number) {
            if !block.is_directory {
                fold.payload(from, &block.file, block.offset, &block.payload, Some(relog))?;
            }
            continue;
        }
        let Some(left) = left else { continue };
        let Some(records) = left.blocks.get(&(tail.writer, number)) else { continue };
        for (offset, len) in records {
            let bytes = &left.bytes[*offset..offset + len];
            let whole = Records::new(bytes).next();
            let is_valid = matches!(&whole, Some(Ok(record))
                if record.computed_crc().is_none_or(|crc| crc == record.body_crc));
            if !is_valid {
                fold.problem(Problem {
                    file: "log buffers".to_owned(),
                    offset: *offset as u64,
                    what: format!("a committed record of block {number} is not valid: {whole:?}"),
                });
                continue;
            }
            fold.payload(from, "log buffers", *offset, bytes, Some(relog))?;
        }
    }
    Ok(())
}
