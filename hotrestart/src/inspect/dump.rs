//! Prints the records of a store, in the order of the files and then those in log buffers, as text or as
//! lines of JSON.
//!
//! Invariant: only records of blocks that count are printed, unless void ones are asked for; bytes are
//! escaped, so that the output is one line of ASCII per record whatever the store holds.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::records::{BUFFERS, content_of};
use super::survey::Survey;
use super::{InspectError, Options, at_rest};
use crate::format::{BlockKind, MapId, Record, RecordKind, Records};

const SHORT_LEN: usize = 48;

/// What is printed, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct DumpOptions {
    /// Whole keys and values instead of their first 48 bytes.
    pub full: bool,
    /// Only this map.
    pub map: Option<MapId>,
    /// Also the records of blocks that do not count.
    pub include_void: bool,
    /// Lines of JSON instead of text.
    pub json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    offset: u64,
    life: u64,
    writer: u32,
    block: u64,
    is_void: bool,
    kind: &'static str,
    map: u32,
    stream: u32,
    seq: u64,
    expiry_ms: Option<u64>,
    run: Option<u64>,
    part: Option<u32>,
    key: String,
    value_len: u32,
    value: String,
}

/// Writes the records to `out` and returns whether the survey found the store sound.
///
/// # Errors
/// When the directory is no store, cannot be read, is of another version, or `out` fails.
pub fn dump(
    path: &Path,
    places: &Options,
    options: DumpOptions,
    out: &mut dyn Write,
) -> Result<bool, InspectError> {
    at_rest(path, places, || dump_at_rest(path, places, options, out))
}

fn dump_at_rest(
    path: &Path,
    places: &Options,
    options: DumpOptions,
    out: &mut dyn Write,
) -> Result<bool, InspectError> {
    let mut survey = Survey::of(path, places)?;
    let chunks = std::mem::take(&mut survey.chunks);
    let known = survey.manifest.iter().flat_map(|manifest| &manifest.maps);
    let mut is_there = known.map(|map| map.id).any(|id| options.map.is_none_or(|map| map == id));
    for chunk in &chunks {
        let Ok(header) = &chunk.header else { continue };
        let extent = survey.extents.get(&(header.life, header.writer));
        let valid = extent.map_or(0, |extent| extent.valid);
        let Some(content) = content_of(&mut survey, chunk) else { continue };
        let records = |block: &&(u64, _)| matches_kind(&block.1);
        for (offset, block) in chunk.blocks.iter().filter(records) {
            let is_void = block.number.0 >= valid;
            let Some(bytes) = content.get(*offset as usize..) else { continue };
            if (is_void && !options.include_void) || bytes.len() < block.sealed_len() {
                continue;
            }
            for record in Records::new(block.payload(bytes)).map_while(Result::ok) {
                if options.map.is_some_and(|map| map != record.map) {
                    continue;
                }
                is_there = true;
                let place = offset + crate::format::block::BLOCK_HEADER_LEN as u64;
                let line = Line {
                    file: &chunk.name,
                    offset: place + record.offset as u64,
                    life: header.life.0,
                    writer: header.writer.0,
                    block: block.number.0,
                    is_void,
                    ..line_of(&record, options.full)
                };
                write_line(&line, options.json, out)?;
            }
        }
    }
    if let Some(undecided) = &survey.undecided {
        let records = undecided.rooms().flat_map(|(writer, block, offset, bytes)| {
            let records = Records::new(bytes).map_while(Result::ok);
            records.map(move |record| (writer, block, offset + record.offset, record))
        });
        for (writer, block, offset, record) in records {
            if options.map.is_some_and(|map| map != record.map) {
                continue;
            }
            is_there = true;
            let line = Line {
                file: BUFFERS,
                offset: offset as u64,
                life: undecided.life.0,
                writer: writer.0,
                block,
                ..line_of(&record, options.full)
            };
            write_line(&line, options.json, out)?;
        }
    }
    match options.map.filter(|_| !is_there) {
        Some(map) => Err(InspectError::NoMap { path: path.to_owned(), map: map.0 }),
        None => Ok(survey.problems.is_empty()),
    }
}

fn matches_kind(block: &crate::format::BlockHeader) -> bool {
    block.kind == BlockKind::Records
}

fn line_of(record: &Record<'_>, full: bool) -> Line<'static> {
    Line {
        file: "",
        offset: 0,
        life: 0,
        writer: 0,
        block: 0,
        is_void: false,
        kind: match record.kind {
            RecordKind::Entry => "entry",
            RecordKind::Absence => "absence",
            RecordKind::Part => "part",
            RecordKind::Clear => "clear",
        },
        map: record.map.0,
        stream: record.stream.0,
        seq: record.seq,
        expiry_ms: record.expiry,
        run: record.part.map(|part| part.run),
        part: record.part.map(|part| part.number),
        key: escaped(record.key, full),
        value_len: record.value_len,
        value: escaped(record.value, full),
    }
}

fn escaped(bytes: &[u8], full: bool) -> String {
    if full || bytes.len() <= SHORT_LEN {
        return bytes.escape_ascii().to_string();
    }
    format!("{}... ({} bytes)", bytes[..SHORT_LEN].escape_ascii(), bytes.len())
}

fn write_line(line: &Line<'_>, json: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    if json {
        serde_json::to_writer(&mut *out, line).map_err(std::io::Error::from)?;
        return Ok(writeln!(out)?);
    }
    let Line { file, offset, life, writer, block, kind, map, stream, seq, .. } = line;
    write!(out, "{file}:{offset} life {life} writer {writer} block {block}")?;
    if line.is_void {
        write!(out, " void")?;
    }
    write!(out, " {kind} map {map} stream {stream} seq {seq}")?;
    if let Some(expiry) = line.expiry_ms {
        write!(out, " expiry {expiry}")?;
    }
    if let (Some(run), Some(part)) = (line.run, line.part) {
        write!(out, " run {run} part {part}")?;
    }
    Ok(writeln!(out, " key \"{}\" value[{}] \"{}\"", line.key, line.value_len, line.value)?)
}
