//! What is in a chunk: its records as directory lines, from its directory or from the records themselves.
//!
//! Invariant: the lines of a chunk come in the same order at every reading; nothing is believed that its
//! block's checksum does not cover. Caller: the compactor. A chunk is read whole when its records' own bytes
//! are needed (facts of absence, values in parts) or when it has no directory, as at the end of a life that
//! was not closed; else its directory is enough.

use std::ops::Range;

use hdstore::IndexHash;

use crate::chunks::catalogue::Chunk;
use crate::chunks::sample::{self, Sample};
use crate::format::block::{self, BLOCK_HEADER_LEN};
use crate::format::directory::LINE_LEN;
use crate::format::{
    Binding, BlockKind, ChunkWalk, Directory, DirectoryLine, MapId, Records, StreamId, Walked,
};

/// One record of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) map: MapId,
    pub(crate) stream: StreamId,
    pub(crate) line: DirectoryLine,
}

impl Line {
    /// The sample that it makes.
    pub(crate) fn sample(&self) -> Sample {
        sample::of_line(self.map, self.stream, &self.line)
    }
}

/// Which bytes of a chunk's file must be read to know its records.
pub(crate) fn wanted(chunk: &Chunk, chunk_size: usize) -> Range<usize> {
    match &chunk.directory {
        Some(directory) if chunk.absences == 0 && !chunk.has_runs => directory.clone(),
        _ => 0..chunk_size,
    }
}

/// Which bytes must be read to know which records there are, but not what is in them.
pub(crate) fn wanted_to_survey(chunk: &Chunk, chunk_size: usize) -> Range<usize> {
    chunk.directory.clone().unwrap_or(0..chunk_size)
}

/// The lines of a chunk, from the bytes that one of these names.
///
/// # Errors
/// Says what is damaged, and where.
pub(crate) fn read(
    chunk: &Chunk,
    binding: Binding,
    bytes: &[u8],
    at: &Range<usize>,
    hash: &IndexHash,
) -> Result<Vec<Line>, String> {
    let listed = chunk.directory.as_ref().map_or(0, |directory| directory.len() / LINE_LEN);
    let mut lines = Vec::with_capacity(listed);
    each(chunk, binding, (bytes, at), hash, |line| lines.push(line))?;
    Ok(lines)
}

/// Gives each line of a chunk to `take`, from bytes that begin and end as `at` says.
///
/// # Errors
/// Says what is damaged, and where; what was given before that is no part of the chunk either.
pub(crate) fn each(
    chunk: &Chunk,
    binding: Binding,
    (bytes, at): (&[u8], &Range<usize>),
    hash: &IndexHash,
    take: impl FnMut(Line),
) -> Result<(), String> {
    let is_whole = at.start == 0;
    if is_whole {
        check_blocks(chunk, binding, bytes)?;
    }
    match &chunk.directory {
        Some(directory) => {
            let bytes = &bytes[directory.start - at.start..directory.end - at.start];
            of_directory(binding, bytes, take)
                .map_err(|what| format!("at {}: {what}", directory.start))
        }
        None => of_records(chunk, binding, bytes, hash, take),
    }
}

fn check_blocks(chunk: &Chunk, binding: Binding, bytes: &[u8]) -> Result<(), String> {
    let mut next = chunk.blocks.start;
    for walked in ChunkWalk::new(bytes, binding) {
        match walked {
            Walked::Block { header, .. } if header.number.0 == next => next += 1,
            Walked::Block { offset, header, .. } if header.number.0 < chunk.blocks.end => {
                return Err(format!("at {offset}: block {}, expected {next}", header.number));
            }
            Walked::Gap { offset, error, .. } if next < chunk.blocks.end => {
                return Err(format!("at {offset}: block {next}: {error}"));
            }
            _ => {}
        }
        if next == chunk.blocks.end {
            return Ok(());
        }
    }
    Err(format!("block {next} of {:?} is not there", chunk.blocks))
}

fn of_directory(binding: Binding, bytes: &[u8], mut take: impl FnMut(Line)) -> Result<(), String> {
    let header = block::check(bytes, binding).map_err(|error| error.to_string())?;
    let directory = Directory::decode(header.payload(bytes)).map_err(|error| error.to_string())?;
    for table in directory.tables() {
        let (map, stream) = (table.map, table.stream);
        table.lines().for_each(|line| take(Line { map, stream, line }));
    }
    Ok(())
}

fn of_records(
    chunk: &Chunk,
    binding: Binding,
    bytes: &[u8],
    hash: &IndexHash,
    mut take: impl FnMut(Line),
) -> Result<(), String> {
    for walked in ChunkWalk::new(bytes, binding) {
        let Walked::Block { offset, header, payload } = walked else { continue };
        if header.number.0 >= chunk.blocks.end {
            break;
        }
        if header.kind == BlockKind::Directory {
            continue;
        }
        let base = offset + BLOCK_HEADER_LEN;
        for record in Records::read_ahead(payload) {
            let record = record.map_err(|error| format!("at {base}: {error}"))?;
            let line = DirectoryLine::of(&record, base + record.offset, |key| hash.of(key));
            take(Line { map: record.map, stream: record.stream, line });
        }
    }
    Ok(())
}
