//! The tail: the end of a life that was not closed.
//!
//! After a power loss the history of a writer ends at its first missing block above the known-flushed
//! mark: a torn tail. In the same boot nothing that was acknowledged is gone: each block is on the
//! device, or its buffer still holds its records; a number that is in neither is a directory whose write
//! was under way. A missing block below the mark is corruption in both cases; in the same boot the mark is
//! what was written, as blocks say and as buffers show that were given back. Nothing is applied here: the
//! chunks up to the first gap become settled, and what counts beyond it is handed on to be applied and
//! logged again in the new life. So a tail is read twice, and loaded by all threads, like all the rest.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::plan::{Settled, Tail};
use super::read::ChunkReader;
use super::report::Cut;
use crate::buffers::recover::LeftBehind;
use crate::error::{OpenError, Problem};
use crate::format::{BlockKind, ChunkWalk, Records, Walked};
use crate::io::Disk;

/// A block's records that count, though blocks before it are missing on the device: from a block beyond the
/// gap, or what became whole at once in a log buffer.
#[derive(Debug)]
pub(crate) struct Beyond<'l> {
    pub(crate) file: String,
    pub(crate) offset: usize,
    pub(crate) payload: Cow<'l, [u8]>,
}

/// What became of a tail.
#[derive(Debug)]
pub(crate) struct Judged<'l> {
    pub(crate) life: u64,
    pub(crate) writer: u32,
    /// Blocks of the writer that are on the device without a gap: where the life is cut.
    pub(crate) blocks: u64,
    /// The chunks of these blocks.
    pub(crate) settled: Vec<Settled>,
    /// What counts beyond them, in order.
    pub(crate) beyond: Vec<Beyond<'l>>,
    pub(crate) cut: Option<Cut>,
}

/// A valid block beyond a gap.
struct Later {
    file: String,
    offset: usize,
    payload: Vec<u8>,
    is_directory: bool,
}

/// What judging needs, and what it finds on the way.
pub(crate) struct Judging<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) chunk_size: usize,
    pub(crate) salvage: bool,
    pub(crate) problems: Vec<Problem>,
    pub(crate) bytes_read: u64,
}

/// Judges a tail.
pub(crate) fn judge<'l>(
    judging: &mut Judging<'_>,
    tail: &Tail,
    left: Option<&'l LeftBehind>,
) -> Result<Judged<'l>, OpenError> {
    let mut reader = ChunkReader::new(judging.disk, judging.chunk_size, 1)?;
    let mut next = tail.from;
    let written = left.and_then(|left| left.written.get(tail.writer as usize));
    let mut mark = tail.mark.max(written.copied().unwrap_or(0));
    let mut later: BTreeMap<u64, Later> = BTreeMap::new();
    let mut first_gap: Option<(String, usize, String)> = None;
    for chunk in &tail.chunks {
        let bytes = reader.read_one(&chunk.name, judging.chunk_size)?;
        for walked in ChunkWalk::new(&bytes, chunk.header.binding()) {
            match walked {
                Walked::Block { offset, header, payload } => {
                    mark = mark.max(header.flushed.0);
                    if tail.same_boot {
                        mark = mark.max(header.written.0);
                    }
                    let is_directory = header.kind == BlockKind::Directory;
                    if header.number.0 == next {
                        next += 1;
                    } else if header.number.0 > next {
                        // What can never count is not kept: after a power loss it may be all of the tail.
                        let may_count = left.is_some() || judging.salvage;
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
        judging.bytes_read += bytes.len() as u64;
    }
    if next < mark {
        let (file, offset, error) = first_gap.unwrap_or_default();
        judging.problems.push(Problem {
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
    let end = end_of(tail, left, &later, next, mark, judging.salvage);
    let (life, writer) = (tail.life, tail.writer);
    let void_blocks = later.range(end..).count() as u64;
    let is_cut = void_blocks > 0 || left.is_none();
    let cut = is_cut.then_some(Cut { life, writer, blocks: end, void_blocks });
    let settled = settled_below(tail, next);
    let beyond = collect_beyond(judging, tail, left, later, next..end);
    Ok(Judged { life, writer, blocks: next, settled, beyond, cut })
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

/// The chunks of the tail that have blocks below `next`.
fn settled_below(tail: &Tail, next: u64) -> Vec<Settled> {
    let ends = tail.chunks.iter().skip(1).map(|chunk| chunk.header.first_block.0).chain([next]);
    let chunks = tail.chunks.iter().zip(ends);
    let counting = chunks.filter(|(chunk, _)| chunk.header.first_block.0 < next);
    counting.map(|(file, end)| Settled { file: file.clone(), end: end.min(next) }).collect()
}

/// Checks what became whole at once, a record or a group of them: it counts as a whole or not at all.
fn check_room(bytes: &[u8]) -> Result<(), String> {
    let mut count = 0;
    for record in Records::new(bytes) {
        let record = record.map_err(|error| error.to_string())?;
        let computed = record.computed_crc().unwrap_or(record.body_crc);
        if computed != record.body_crc {
            return Err(format!(
                "record at +{}: checksum {computed:#010x}, expected {:#010x}",
                record.offset, record.body_crc
            ));
        }
        count += 1;
    }
    if count == 0 { Err("no record".to_owned()) } else { Ok(()) }
}

fn collect_beyond<'l>(
    judging: &mut Judging<'_>,
    tail: &Tail,
    left: Option<&'l LeftBehind>,
    mut later: BTreeMap<u64, Later>,
    numbers: std::ops::Range<u64>,
) -> Vec<Beyond<'l>> {
    let mut beyond = Vec::new();
    for number in numbers {
        if let Some(block) = later.remove(&number) {
            if !block.is_directory {
                let Later { file, offset, payload, .. } = block;
                beyond.push(Beyond { file, offset, payload: Cow::Owned(payload) });
            }
            continue;
        }
        let Some(left) = left else { continue };
        let Some(records) = left.blocks.get(&(tail.writer, number)) else { continue };
        for (offset, len) in records {
            let bytes = &left.bytes[*offset..offset + len];
            let (file, offset) = ("log buffers".to_owned(), *offset);
            let Err(what) = check_room(bytes) else {
                beyond.push(Beyond { file, offset, payload: Cow::Borrowed(bytes) });
                continue;
            };
            judging.problems.push(Problem {
                file,
                offset: offset as u64,
                what: format!("what was committed to block {number} is not valid: {what}"),
            });
        }
    }
    beyond
}
