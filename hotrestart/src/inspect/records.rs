//! Every record of every block that counts: its own checksum, its place in the directory, and whether it is
//! still the newest of its key.
//!
//! Invariant: the newest seq of a key wins, absences included, whatever the order of the chunks; what is
//! older than a clear of its table is superseded, and so is everything of a map that was dropped. Keys are
//! told apart by 128 bits of hash, so that keys need not be kept; about 80 bytes of memory per key.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet, hash_map};
use std::hash::{DefaultHasher, Hasher};

use super::report::{Totals, counted};
use super::runs::Runs;
use super::survey::Survey;
use crate::format::{
    BlockKind, Directory, DirectoryLine, LineKind, MapId, Record, RecordKind, Records, StreamId,
};

/// What the log buffers are called where a file is named.
pub(super) const BUFFERS: &str = "log buffers";
/// The first byte of a block's payload, from the block's first byte.
const PAYLOAD_AT: u64 = crate::format::block::BLOCK_HEADER_LEN as u64;

/// What the records say.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    newest: HashMap<Key, Newest>,
    /// By table, its newest clear.
    clears: HashMap<(MapId, StreamId), Newest>,
    /// The maps of the manifest.
    maps: HashSet<MapId>,
    runs: Runs,
    /// Per chunk, and for the log buffers at the end, the bytes of live and of all records.
    bytes: Vec<(u64, u64)>,
    totals: Totals,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    map: MapId,
    /// A map whose owner places its keys may have one key in several streams.
    stream: StreamId,
    hash: (u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Newest {
    seq: u64,
    body_crc: u32,
    chunk: u32,
    len: u32,
    entry_bytes: u64,
    kind: RecordKind,
    run: Option<u32>,
    /// Records with this stamp but for the first.
    copies: u32,
}

/// Where a record is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) chunk: usize,
    pub(super) file: &'a str,
    /// Where the record begins in the file.
    pub(super) offset: u64,
}

/// A table's records in a chunk: seq, offset, absence, and the run of a part.
type Listed = BTreeMap<(MapId, StreamId), Vec<DirectoryLine>>;

impl Ledger {
    pub(super) fn of(survey: &mut Survey) -> Ledger {
        let mut ledger =
            Ledger { bytes: vec![(0, 0); survey.chunks.len() + 1], ..Ledger::default() };
        let maps = survey.manifest.iter().flat_map(|manifest| &manifest.maps);
        ledger.maps = maps.map(|map| map.id).collect();
        let chunks = std::mem::take(&mut survey.chunks);
        for index in 0..chunks.len() {
            let Some(content) = content_of(survey, &chunks[index]) else { continue };
            ledger.read_chunk(survey, &chunks, index, &content);
        }
        survey.chunks = chunks;
        ledger.read_buffers(survey);
        let current = ledger.current().filter_map(|(_, newest)| newest.run);
        ledger.runs.judge(survey, current);
        ledger.sum_up();
        ledger
    }

    fn read_chunk(
        &mut self,
        survey: &mut Survey,
        chunks: &[super::chunks::ChunkFile],
        index: usize,
        content: &[u8],
    ) {
        let chunk = &chunks[index];
        let Ok(header) = &chunk.header else { return };
        let extent = survey.extents.get(&(header.life, header.writer));
        let valid = extent.map_or(0, |extent| extent.valid);
        let mut listed = Listed::new();
        for (offset, block) in chunk.blocks.iter().filter(|(_, block)| block.number.0 < valid) {
            self.totals.blocks += 1;
            let Some(bytes) = content.get(*offset as usize..) else { continue };
            if bytes.len() < block.sealed_len() {
                continue;
            }
            let payload = block.payload(bytes);
            if block.kind == BlockKind::Directory {
                let before = chunk.blocks.iter().filter(|(_, other)| other.number < block.number);
                let is_whole =
                    header.first_block.0.wrapping_add(before.count() as u64) == block.number.0;
                check_directory(survey, &chunk.name, *offset, payload, &listed, is_whole);
                continue;
            }
            let mut count = 0;
            for record in Records::new(payload) {
                let record = match record {
                    Ok(record) => record,
                    Err(error) => {
                        let found = error.to_string();
                        survey.problem(&chunk.name, offset + PAYLOAD_AT, "records", &found);
                        break;
                    }
                };
                count += 1;
                let offset = offset + PAYLOAD_AT + record.offset as u64;
                let place = Place { chunk: index, file: &chunk.name, offset };
                self.add(survey, &place, &record);
                let line = DirectoryLine::of(&record, offset as usize, |_| 0);
                listed.entry((record.map, record.stream)).or_default().push(line);
            }
            if count != block.records {
                let (expected, found) = (block.records, count);
                survey.problem(
                    &chunk.name,
                    offset + 36,
                    &format!(
                        "{} in block {}",
                        counted(expected.into(), "record", "records"),
                        block.number
                    ),
                    &counted(found.into(), "record", "records"),
                );
            }
        }
    }

    /// The records that only the log buffers of a dead process hold.
    fn read_buffers(&mut self, survey: &mut Survey) {
        let Some(undecided) = survey.undecided.take() else { return };
        for (_, block, offset, bytes) in undecided.rooms() {
            let (chunk, mut found) = (self.bytes.len() - 1, "none".to_owned());
            for record in Records::new(bytes) {
                match record {
                    Ok(record) => {
                        let offset = (offset + record.offset) as u64;
                        self.totals.buffered_records += 1;
                        self.add(survey, &Place { chunk, file: BUFFERS, offset }, &record);
                        found.clear();
                    }
                    Err(error) => found = error.to_string(),
                }
            }
            if !found.is_empty() {
                let expected = format!("whole records of block {block}");
                survey.problem(BUFFERS, offset as u64, &expected, &found);
            }
        }
        survey.undecided = Some(undecided);
    }

    fn add(&mut self, survey: &mut Survey, place: &Place<'_>, record: &Record<'_>) {
        self.totals.records += 1;
        self.bytes[place.chunk].1 += record.len as u64;
        if let Some(computed) =
            record.computed_crc().filter(|computed| *computed != record.body_crc)
        {
            let expected = format!("body checksum {computed:#010x}");
            let found = format!("{:#010x}", record.body_crc);
            survey.problem(place.file, place.offset, &expected, &found);
        }
        let streams = survey.manifest.as_ref().map_or(u32::MAX, |manifest| manifest.streams);
        if record.stream.0 >= streams {
            let found = format!("stream {}", record.stream);
            survey.problem(place.file, place.offset, &format!("a stream below {streams}"), &found);
        }
        let limit = survey.manifest.as_ref().map_or(u64::MAX, |manifest| manifest.seq_limit);
        if record.seq >= limit {
            let found = format!("seq {}", record.seq);
            survey.problem(place.file, place.offset, &format!("a seq below {limit}"), &found);
        }
        if let Some(manifest) = &survey.manifest
            && !self.maps.contains(&record.map)
        {
            self.totals.dropped_records += 1;
            if record.map >= manifest.next_map {
                let expected = format!("a map below {}", manifest.next_map);
                let found = format!("map {}", record.map);
                survey.problem(place.file, place.offset, &expected, &found);
            }
            return;
        }
        let run = self.runs.add(place, record);
        if record.kind == RecordKind::Part {
            return;
        }
        let key = Key { map: record.map, stream: record.stream, hash: hash(record.key) };
        let candidate = Newest {
            seq: record.seq,
            body_crc: record.body_crc,
            chunk: place.chunk as u32,
            len: record.len as u32,
            entry_bytes: record.key.len() as u64 + u64::from(record.value_len),
            kind: record.kind,
            run,
            copies: 0,
        };
        let newest = if record.kind == RecordKind::Clear {
            known(self.clears.entry((record.map, record.stream)), candidate)
        } else {
            known(self.newest.entry(key), candidate)
        };
        let Some(newest) = newest else { return };
        match newest.seq.cmp(&record.seq) {
            Ordering::Less => *newest = candidate,
            Ordering::Equal => {
                newest.copies += 1;
                if (newest.body_crc, newest.kind) != (record.body_crc, record.kind) {
                    let expected = format!("one record with seq {} for this key", record.seq);
                    survey.problem(place.file, place.offset, &expected, "two that differ");
                }
            }
            Ordering::Greater => {}
        }
    }

    /// The newest record of each key, but for those whose table was cleared later.
    fn current(&self) -> impl Iterator<Item = (&Key, &Newest)> {
        let clear_of = |key: &Key| self.clears.get(&(key.map, key.stream));
        self.newest.iter().filter(move |(key, newest)| is_above(clear_of(key), newest))
    }

    fn sum_up(&mut self) {
        self.totals.clears = self.clears.len() as u64;
        for clear in self.clears.values() {
            self.bytes[clear.chunk as usize].0 += u64::from(clear.len);
            self.totals.copies += u64::from(clear.copies);
        }
        let is_current =
            |key: &Key, newest: &Newest| is_above(self.clears.get(&(key.map, key.stream)), newest);
        for (_, newest) in self.newest.iter().filter(|(key, newest)| is_current(key, newest)) {
            self.bytes[newest.chunk as usize].0 += u64::from(newest.len);
            self.totals.copies += u64::from(newest.copies);
            if newest.kind == RecordKind::Absence {
                self.totals.absences += 1;
                continue;
            }
            self.totals.entries += 1;
            self.totals.entry_bytes += newest.entry_bytes;
            for (chunk, len) in newest.run.into_iter().flat_map(|run| self.runs.parts_of(run)) {
                self.bytes[chunk].0 += len;
            }
        }
        self.totals.live_bytes = self.bytes.iter().map(|(live, _)| live).sum();
        let all: u64 = self.bytes.iter().map(|(_, all)| all).sum();
        self.totals.garbage_bytes = all - self.totals.live_bytes;
    }

    /// Bytes of live and of superseded records of a chunk.
    pub(super) fn bytes_of(&self, chunk: usize) -> (u64, u64) {
        let (live, all) = self.bytes[chunk];
        (live, all - live)
    }

    pub(super) fn entries_of(&self, map: MapId) -> u64 {
        let is_entry = |newest: &Newest| newest.kind == RecordKind::Entry;
        self.current().filter(|(key, newest)| key.map == map && is_entry(newest)).count() as u64
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }
}

/// Whether a record is not void by the newest clear of its table.
fn is_above(clear: Option<&Newest>, newest: &Newest) -> bool {
    clear.is_none_or(|clear| clear.seq < newest.seq)
}

/// What is known there; if that is nothing, this is from now on.
fn known<K>(entry: hash_map::Entry<'_, K, Newest>, new: Newest) -> Option<&mut Newest> {
    match entry {
        hash_map::Entry::Occupied(known) => Some(known.into_mut()),
        hash_map::Entry::Vacant(vacant) => {
            vacant.insert(new);
            None
        }
    }
}

/// Reads a chunk again; a failure is a problem of its file.
pub(super) fn content_of(survey: &mut Survey, chunk: &super::chunks::ChunkFile) -> Option<Vec<u8>> {
    match std::fs::read(survey.path.join(&chunk.name)) {
        Ok(content) => Some(content),
        Err(error) => {
            survey.problem(&chunk.name, 0, "a file that can be read", &error.to_string());
            None
        }
    }
}

fn hash(key: &[u8]) -> (u64, u64) {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(salt);
        hasher.write(key);
        hasher.finish()
    };
    (half(0), half(1))
}

/// Whether a directory's line is that of a record, whose key's hash is not known here.
fn is_same(line: &DirectoryLine, found: &DirectoryLine) -> bool {
    let hash = if found.kind == LineKind::Part { found.hash } else { line.hash };
    *line == DirectoryLine { hash, ..*found }
}

/// Compares a chunk's directory with its records. Where blocks before it are missing (`is_whole` is false)
/// the tables cannot agree, and what counts is how many records went with those blocks: one problem.
fn check_directory(
    survey: &mut Survey,
    file: &str,
    offset: u64,
    payload: &[u8],
    listed: &Listed,
    is_whole: bool,
) {
    let directory = match Directory::decode(payload) {
        Ok(directory) => directory,
        Err(error) => {
            return survey.problem(file, offset + PAYLOAD_AT, "a directory", &error.to_string());
        }
    };
    if !is_whole {
        let found: usize = listed.values().map(Vec::len).sum();
        let expected = format!(
            "the {} that the directory lists",
            counted(u64::from(directory.records), "record", "records")
        );
        survey.problem(file, offset + PAYLOAD_AT, &expected, &format!("{found} in whole blocks"));
        return;
    }
    let mut seen = 0;
    for table in directory.tables() {
        seen += 1;
        let records = listed.get(&(table.map, table.stream)).map_or(&[][..], Vec::as_slice);
        let agrees = table.lines().len() == records.len()
            && table.lines().zip(records).all(|(line, found)| is_same(&line, found));
        if !agrees {
            let expected = format!("the records of map {} in stream {}", table.map, table.stream);
            survey.problem(file, offset + PAYLOAD_AT, &expected, "a directory of others");
        }
    }
    if seen != listed.len() {
        let expected =
            format!("a directory of {}", counted(listed.len() as u64, "table", "tables"));
        survey.problem(
            file,
            offset + PAYLOAD_AT,
            &expected,
            &counted(seen as u64, "table", "tables"),
        );
    }
}
