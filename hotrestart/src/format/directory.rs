//! The directory of a sealed chunk: its records by table, without keys and values.
//!
//! Invariant: it lists every record of the chunk's blocks, the padding apart, each once, in the chunk's
//! order within its table. The writer adds each record of each block it seals and writes the directory as
//! the chunk's last block; the compactor and the loader read it. Cost: 16 bytes and about 20 ns a record.
//! See `docs/format.md`, section 10.

use rapidhash::RapidHashMap;

use super::bytes::{put_u32, put_u64, u32_at, u48_at, u64_at};
use super::ids::{MapId, StreamId};
use super::record::{RecordKind, SEQ_MAX};
use super::record_read::Record;

/// The bytes before the first table.
pub const DIRECTORY_HEADER_LEN: usize = 16;
/// The bytes of a table's head.
pub const TABLE_LEN: usize = 16;
/// The bytes of one record's line.
pub const LINE_LEN: usize = 20;
/// The bits of a key's index hash that a line holds.
pub const HASH_MASK: u64 = (1 << 48) - 1;

/// Where a line's kind stands, above its offset.
const KIND_SHIFT: u32 = 28;
/// The highest number of a kind.
const KIND_MAX: u32 = 4;

/// What a line's record is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LineKind {
    /// An entry with its value.
    Entry,
    /// The fact that a key is gone.
    Absence,
    /// A part of a value.
    Part,
    /// An entry whose value is in parts.
    Head,
    /// The fact that the table was cleared.
    Clear,
}

impl LineKind {
    /// The kind of a record's line.
    #[must_use]
    pub fn of(kind: RecordKind, is_in_parts: bool) -> LineKind {
        match kind {
            RecordKind::Absence => LineKind::Absence,
            RecordKind::Part => LineKind::Part,
            RecordKind::Clear => LineKind::Clear,
            RecordKind::Entry if is_in_parts => LineKind::Head,
            RecordKind::Entry => LineKind::Entry,
        }
    }

    /// Whether it says that something is gone: it must stay as long as older records of that are anywhere.
    #[must_use]
    pub const fn is_fact(self) -> bool {
        matches!(self, LineKind::Absence | LineKind::Clear)
    }
}

/// What the directory says of one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryLine {
    /// The record's seq; for a part the high 16 bits of its run's id.
    pub seq: u64,
    /// The key's index hash; for a part the run's id, for a clear 0. The low 48 bits are kept.
    pub hash: u64,
    /// Where the record begins in the chunk.
    pub offset: u32,
    /// What the record is.
    pub kind: LineKind,
    /// The record's body checksum, to be carried by whoever copies the entry from memory.
    pub body_crc: u32,
}

impl DirectoryLine {
    /// The line of a record that begins at `offset` in its chunk.
    #[must_use]
    pub fn of(
        record: &Record<'_>,
        offset: usize,
        hash: impl FnOnce(&[u8]) -> u64,
    ) -> DirectoryLine {
        let (seq, hash) = match (record.kind, record.part) {
            (RecordKind::Part, Some(part)) => (part.run >> 48, part.run & HASH_MASK),
            (RecordKind::Clear, _) => (record.seq, 0),
            _ => (record.seq, hash(record.key)),
        };
        DirectoryLine {
            seq,
            hash,
            offset: offset as u32,
            kind: LineKind::of(record.kind, record.part.is_some()),
            body_crc: record.body_crc,
        }
    }

    /// The run of a part.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.seq << 48 | self.hash
    }

    /// The line's bytes as numbers: a line that is built of bytes and then copied waits for each of its
    /// writes.
    #[inline]
    fn encode(&self) -> EncodedLine {
        assert!(self.seq <= SEQ_MAX, "seq {}", self.seq);
        assert!(self.offset >> KIND_SHIFT == 0, "offset {}", self.offset);
        let kind = match self.kind {
            LineKind::Entry => 0,
            LineKind::Absence => 1,
            LineKind::Part => 2,
            LineKind::Head => 3,
            LineKind::Clear => KIND_MAX,
        };
        let hash = self.hash & HASH_MASK;
        let place = u64::from(self.offset | kind << KIND_SHIFT);
        (self.seq | hash << 48, hash >> 16 | place << 32, self.body_crc)
    }

    fn decode(bytes: &[u8]) -> DirectoryLine {
        let word = u32_at(bytes, 12);
        let kind = match word >> KIND_SHIFT {
            0 => LineKind::Entry,
            1 => LineKind::Absence,
            2 => LineKind::Part,
            3 => LineKind::Head,
            _ => LineKind::Clear,
        };
        DirectoryLine {
            seq: u48_at(bytes, 0),
            hash: u48_at(bytes, 6),
            offset: word & ((1 << KIND_SHIFT) - 1),
            kind,
            body_crc: u32_at(bytes, 16),
        }
    }
}

/// A line as it is written: bytes 0 to 7 (seq, the start of the hash), 8 to 15 (the rest of it, kind and
/// offset) and 16 to 19 (the body checksum).
type EncodedLine = (u64, u64, u32);

/// Gathers the lines of the chunk that is being written.
#[derive(Clone, Debug, Default)]
pub struct DirectoryBuilder {
    tables: Vec<(MapId, StreamId, u32)>,
    places: RapidHashMap<(MapId, StreamId), u32>,
    lines: Vec<(u32, EncodedLine)>,
    bytes: u64,
}

impl DirectoryBuilder {
    /// An empty directory.
    #[must_use]
    pub fn new() -> DirectoryBuilder {
        DirectoryBuilder::default()
    }

    /// Adds the next record of the chunk; `bytes` are those of its key and value.
    ///
    /// # Panics
    /// When seq or offset exceed their fields.
    #[inline]
    pub fn add(&mut self, map: MapId, stream: StreamId, line: &DirectoryLine, bytes: usize) {
        let next = self.tables.len() as u32;
        let table = *self.places.entry((map, stream)).or_insert(next);
        if table == next {
            self.tables.push((map, stream, 0));
        }
        self.tables[table as usize].2 += 1;
        self.lines.push((table, line.encode()));
        self.bytes += bytes as u64;
    }

    /// How many records have been added.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.lines.len() as u32
    }

    /// The length of the directory as it stands, in bytes: the payload of its block.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        encoded_len(self.tables.len(), self.lines.len())
    }

    /// An upper bound of the length after `records` more, each perhaps of a new table.
    #[must_use]
    pub fn encoded_len_with(&self, records: usize) -> usize {
        encoded_len(self.tables.len() + records, self.lines.len() + records)
    }

    /// Writes the directory to the start of `out` and returns its length.
    ///
    /// # Panics
    /// When `out` is shorter than `encoded_len`.
    pub fn encode_into(&self, out: &mut [u8]) -> usize {
        let len = self.encoded_len();
        let out = &mut out[..len];
        put_u32(out, 0, self.tables.len() as u32);
        put_u32(out, 4, self.records());
        put_u64(out, 8, self.bytes);
        let mut places = Vec::with_capacity(self.tables.len());
        let mut at = DIRECTORY_HEADER_LEN;
        for (map, stream, records) in &self.tables {
            put_u32(out, at, map.0);
            put_u32(out, at + 4, stream.0);
            put_u32(out, at + 8, *records);
            put_u32(out, at + 12, 0);
            places.push(at + TABLE_LEN);
            at += TABLE_LEN + *records as usize * LINE_LEN;
        }
        for (table, (first, second, body_crc)) in &self.lines {
            let place = &mut places[*table as usize];
            let line = &mut out[*place..*place + LINE_LEN];
            put_u64(line, 0, *first);
            put_u64(line, 8, *second);
            put_u32(line, 16, *body_crc);
            *place += LINE_LEN;
        }
        len
    }

    /// Forgets everything, for the next chunk; keeps the memory.
    pub fn clear(&mut self) {
        self.tables.clear();
        self.places.clear();
        self.lines.clear();
        self.bytes = 0;
    }
}

fn encoded_len(tables: usize, records: usize) -> usize {
    DIRECTORY_HEADER_LEN + tables * TABLE_LEN + records * LINE_LEN
}

/// Why a payload is no directory. Offsets count from the payload's first byte.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The payload ends before the directory does.
    #[error("directory needs {needed} bytes at +{offset}, {left} are left")]
    TooShort {
        /// Where the missing part begins.
        offset: usize,
        /// How long it is.
        needed: u64,
        /// The bytes that are left.
        left: usize,
    },
    /// The tables' records do not add up to the directory's.
    #[error("directory: expected {expected} records in all tables, found {found}")]
    Records {
        /// The count in the directory's head.
        expected: u32,
        /// The sum over the tables.
        found: u64,
    },
    /// A line of a kind that the format does not have.
    #[error("directory line at +{offset}: kind expected 0 to {KIND_MAX}, found {found}")]
    Kind {
        /// Where the line begins.
        offset: usize,
        /// The kind found.
        found: u32,
    },
    /// Bytes after the last table.
    #[error("directory ends at +{expected}, the payload at +{found}")]
    TooLong {
        /// Where the last table ends.
        expected: usize,
        /// Where the payload ends.
        found: usize,
    },
}

/// A directory, checked as a whole and borrowed from its block's payload.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    /// How many records the chunk holds.
    pub records: u32,
    /// The bytes of their keys and values.
    pub bytes: u64,
    tables: &'a [u8],
}

/// The records of one table.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryTable<'a> {
    /// The map.
    pub map: MapId,
    /// The stream.
    pub stream: StreamId,
    lines: &'a [u8],
}

impl<'a> Directory<'a> {
    /// Reads the payload of a directory block.
    ///
    /// # Errors
    /// When counts and length do not fit each other, or a line is of no kind.
    pub fn decode(payload: &'a [u8]) -> Result<Directory<'a>, DirectoryError> {
        let left = payload.len();
        if left < DIRECTORY_HEADER_LEN {
            let needed = DIRECTORY_HEADER_LEN as u64;
            return Err(DirectoryError::TooShort { offset: 0, needed, left });
        }
        let records = u32_at(payload, 4);
        let mut offset = DIRECTORY_HEADER_LEN;
        let mut found = 0;
        for _ in 0..u32_at(payload, 0) {
            let left = payload.len() - offset;
            if left < TABLE_LEN {
                return Err(DirectoryError::TooShort { offset, needed: TABLE_LEN as u64, left });
            }
            let count = u64::from(u32_at(payload, offset + 8));
            let needed = TABLE_LEN as u64 + count * LINE_LEN as u64;
            if (left as u64) < needed {
                return Err(DirectoryError::TooShort { offset, needed, left });
            }
            found += count;
            let end = offset + needed as usize;
            for line in (offset + TABLE_LEN..end).step_by(LINE_LEN) {
                let kind = u32_at(payload, line + 12) >> KIND_SHIFT;
                if kind > KIND_MAX {
                    return Err(DirectoryError::Kind { offset: line, found: kind });
                }
            }
            offset = end;
        }
        if found != u64::from(records) {
            return Err(DirectoryError::Records { expected: records, found });
        }
        if offset != payload.len() {
            return Err(DirectoryError::TooLong { expected: offset, found: payload.len() });
        }
        let tables = &payload[DIRECTORY_HEADER_LEN..];
        Ok(Directory { records, bytes: u64_at(payload, 8), tables })
    }

    /// The tables, in the order in which the chunk first names them.
    pub fn tables(&self) -> impl Iterator<Item = DirectoryTable<'a>> + use<'a> {
        let mut rest = self.tables;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let lines_end = TABLE_LEN + u32_at(rest, 8) as usize * LINE_LEN;
            let (map, stream) = (MapId(u32_at(rest, 0)), StreamId(u32_at(rest, 4)));
            let lines = &rest[TABLE_LEN..lines_end];
            rest = &rest[lines_end..];
            Some(DirectoryTable { map, stream, lines })
        })
    }
}

impl<'a> DirectoryTable<'a> {
    /// The table's records, in the order of the chunk.
    pub fn lines(&self) -> impl ExactSizeIterator<Item = DirectoryLine> + use<'a> {
        self.lines.chunks_exact(LINE_LEN).map(DirectoryLine::decode)
    }
}
