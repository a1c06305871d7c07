//! The record; the reading side: an iterator over the records of a block's payload.
//!
//! Invariant: any bytes give records and then either the end or one typed error; nothing is read beyond the
//! payload, nothing is allocated, nothing panics. Kinds of later versions are refused by name. The body
//! checksum is handed out, not checked: the block's checksum has covered it, and `inspect`, scrub and the
//! compactor check it where they need to. Callers: the loader, the compactor, `inspect`.
//! Cost: a few nanoseconds a record. See `docs/format.md`, section 9.

use super::bytes::{u32_at, u48_at, u64_at};
use super::crc;
use super::ids::{MapId, StreamId};
use super::record::{
    EXPIRY_LEN, FIXED_LEN, FLAG_EXPIRY, FLAG_PARTS, KEY_LEN_MAX, PADDING, PADDING_LEN_MIN,
    PART_LEN, PartOf, RecordHeader, RecordKind, VALUE_LEN_MAX, body_crc,
};
use super::varint::read_varint;

/// One record, borrowed from the payload it stands in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// What the record says.
    pub kind: RecordKind,
    /// The map.
    pub map: MapId,
    /// The stream.
    pub stream: StreamId,
    /// The place in the stream's order; 0 for a part.
    pub seq: u64,
    /// The checksum that the record carries, see `format::record::body_crc`.
    pub body_crc: u32,
    /// The key; empty for a part and for a clear.
    pub key: &'a [u8],
    /// The value or the part's bytes; empty for an absence, for a clear, and for an entry whose value is in
    /// parts.
    pub value: &'a [u8],
    /// The length of the whole value, also when it is in parts.
    pub value_len: u32,
    /// When the entry expires, in milliseconds since 1970-01-01 UTC.
    pub expiry: Option<u64>,
    /// Set for a part, and for an entry whose value is in parts.
    pub part: Option<PartOf>,
    /// Where the record begins in the payload.
    pub offset: usize,
    /// The length of the whole record.
    pub len: usize,
}

impl Record<'_> {
    /// True for an entry whose value stands in parts elsewhere.
    #[must_use]
    pub fn is_run_head(&self) -> bool {
        self.kind == RecordKind::Entry && self.part.is_some()
    }

    /// The checksum of the body as it is; `None` for an entry whose value is in parts.
    #[must_use]
    pub fn computed_crc(&self) -> Option<u32> {
        match self.kind {
            RecordKind::Part => Some(crc::crc32c(self.value)),
            RecordKind::Entry if self.part.is_some() => None,
            _ => Some(body_crc(self.key, self.value, self.expiry)),
        }
    }

    /// The header that encodes to this record, to copy it elsewhere with its seq and checksum.
    #[must_use]
    pub fn header(&self) -> RecordHeader {
        RecordHeader {
            kind: self.kind,
            map: self.map,
            stream: self.stream,
            seq: self.seq,
            body_crc: self.body_crc,
            key_len: self.key.len() as u16,
            value_len: self.value_len,
            expiry: self.expiry,
            part: self.part,
        }
    }
}

/// Why bytes are no record. Every offset is that of the record's first byte in the payload.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// The payload ends before the record does.
    #[error("record at +{offset} needs {needed} bytes, {left} are left")]
    TooShort {
        /// Where the record begins.
        offset: usize,
        /// The bytes that the record needs, as far as it could be read.
        needed: usize,
        /// The bytes from its beginning to the end of the payload.
        left: usize,
    },
    /// A kind that the format knows and this version does not.
    #[error("record at +{offset} is a {name} record, which this program does not know")]
    Unsupported {
        /// Where the record begins.
        offset: usize,
        /// What it is.
        name: &'static str,
    },
    /// A kind that no version has.
    #[error("record at +{offset}: kind expected 1 to 6, found {found}")]
    Kind {
        /// Where the record begins.
        offset: usize,
        /// The kind found.
        found: u8,
    },
    /// Flags that a record of this kind does not have, or lacks one it must have.
    #[error("record at +{offset}: flags {found:#x} are not those of a record of kind {kind}")]
    Flags {
        /// Where the record begins.
        offset: usize,
        /// The kind.
        kind: u8,
        /// The flags found.
        found: u8,
    },
    /// A number that ends nowhere, is too large or is written too long.
    #[error("record at +{offset}: {field} is not a valid number")]
    Number {
        /// Where the record begins.
        offset: usize,
        /// Which number.
        field: &'static str,
    },
    /// A length outside its limits.
    #[error("record at +{offset}: {field} expected {min} to {max}, found {found}")]
    Limit {
        /// Where the record begins.
        offset: usize,
        /// Which length.
        field: &'static str,
        /// The least allowed.
        min: usize,
        /// The most allowed.
        max: usize,
        /// The length found.
        found: usize,
    },
}

/// The iterator over the records of a payload; it steps over padding and ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    payload: &'a [u8],
    offset: usize,
    /// What was read ahead.
    fetched: usize,
}

/// Bytes that are read ahead of their records.
const AHEAD_BYTES: usize = 4096;

impl<'a> Records<'a> {
    /// Iterates over the payload of a block of records.
    #[must_use]
    pub fn new(payload: &'a [u8]) -> Records<'a> {
        Records { payload, offset: 0, fetched: payload.len() }
    }

    /// The same for who wants all of them, out of memory that another processor or the device wrote: lines
    /// are read ahead side by side, where each record's header would be waited for.
    #[must_use]
    pub fn read_ahead(payload: &'a [u8]) -> Records<'a> {
        Records { payload, offset: 0, fetched: 0 }
    }

    /// Iterates from `offset`, where a record begins; a directory's entry tells one.
    #[must_use]
    pub fn starting_at(payload: &'a [u8], offset: usize) -> Records<'a> {
        Records { payload, offset, fetched: payload.len() }
    }

    #[inline]
    fn fetch_ahead(&mut self) {
        let end = self.payload.len().min(self.fetched + AHEAD_BYTES);
        let read =
            self.payload[self.fetched..end].iter().step_by(64).fold(0, |read, byte| read ^ byte);
        std::hint::black_box(read);
        self.fetched = end;
    }

    fn fail(&mut self, error: RecordError) -> Option<Result<Record<'a>, RecordError>> {
        self.offset = self.payload.len();
        Some(Err(error))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // Not what lies behind a long value's first bytes: who reads records only passes over that.
        self.fetched = self.fetched.max(self.offset);
        while self.fetched < self.payload.len() && self.fetched < self.offset + AHEAD_BYTES {
            self.fetch_ahead();
        }
        loop {
            match *self.payload.get(self.offset)? {
                0 => self.offset += 1,
                PADDING => match padding_len(self.payload, self.offset) {
                    Ok(len) => self.offset += len,
                    Err(error) => return self.fail(error),
                },
                _ => break,
            }
        }
        match read_record(self.payload, self.offset) {
            Ok(record) => {
                self.offset += record.len;
                Some(Ok(record))
            }
            Err(error) => self.fail(error),
        }
    }
}

fn padding_len(payload: &[u8], offset: usize) -> Result<usize, RecordError> {
    let left = payload.len() - offset;
    if left < PADDING_LEN_MIN {
        return Err(RecordError::TooShort { offset, needed: PADDING_LEN_MIN, left });
    }
    let found = u32_at(payload, offset + 4) as usize;
    if !(PADDING_LEN_MIN..=left).contains(&found) {
        let (field, min) = ("length of the padding", PADDING_LEN_MIN);
        return Err(RecordError::Limit { offset, field, min, max: left, found });
    }
    Ok(found)
}

#[inline]
fn kind_of(byte: u8, offset: usize) -> Result<(RecordKind, u8), RecordError> {
    let flags = byte >> 4;
    let (kind, allowed, required) = match byte & 0x0f {
        1 => (RecordKind::Entry, FLAG_EXPIRY | FLAG_PARTS, 0),
        2 => (RecordKind::Absence, 0, 0),
        3 => (RecordKind::Part, FLAG_PARTS, FLAG_PARTS),
        kind @ (0 | PADDING) => return Err(RecordError::Flags { offset, kind, found: flags }),
        5 => return Err(RecordError::Unsupported { offset, name: "group" }),
        6 => (RecordKind::Clear, 0, 0),
        7 => return Err(RecordError::Unsupported { offset, name: "drop" }),
        found => return Err(RecordError::Kind { offset, found }),
    };
    if flags & !allowed != 0 || flags & required != required {
        return Err(RecordError::Flags { offset, kind: kind.code(), found: flags });
    }
    Ok((kind, flags))
}

#[inline]
fn read_record(payload: &[u8], offset: usize) -> Result<Record<'_>, RecordError> {
    let bytes = &payload[offset..];
    let (kind, flags) = kind_of(bytes[0], offset)?;
    let too_short = |needed| RecordError::TooShort { offset, needed, left: bytes.len() };
    if bytes.len() < FIXED_LEN {
        return Err(too_short(FIXED_LEN));
    }
    let number = |at: usize, field: &'static str| {
        read_varint(bytes, at).ok_or(RecordError::Number { offset, field })
    };
    let (map, at) = number(FIXED_LEN, "map id")?;
    let (stream, mut at) = number(at, "stream")?;
    let (mut key_len, mut value_len) = (0, 0);
    if kind.has_key() {
        (key_len, at) = number(at, "key length")?;
        if !(1..=KEY_LEN_MAX as u32).contains(&key_len) {
            let (field, found) = ("key length", key_len as usize);
            return Err(RecordError::Limit { offset, field, min: 1, max: KEY_LEN_MAX, found });
        }
    }
    if kind.has_value() {
        (value_len, at) = number(at, "value length")?;
        if value_len > VALUE_LEN_MAX as u32 {
            let (field, found) = ("value length", value_len as usize);
            return Err(RecordError::Limit { offset, field, min: 0, max: VALUE_LEN_MAX, found });
        }
    }
    let mut expiry = None;
    if flags & FLAG_EXPIRY != 0 {
        if bytes.len() < at + EXPIRY_LEN {
            return Err(too_short(at + EXPIRY_LEN));
        }
        expiry = Some(u64_at(bytes, at));
        at += EXPIRY_LEN;
    }
    let mut part = None;
    if flags & FLAG_PARTS != 0 {
        if bytes.len() < at + PART_LEN {
            return Err(too_short(at + PART_LEN));
        }
        part = Some(PartOf { run: u64_at(bytes, at), number: u32_at(bytes, at + 8) });
        at += PART_LEN;
    }
    let here = if kind == RecordKind::Entry && part.is_some() { 0 } else { value_len as usize };
    let key_end = at + key_len as usize;
    let len = key_end + here;
    if bytes.len() < len {
        return Err(too_short(len));
    }
    Ok(Record {
        kind,
        map: MapId(map),
        stream: StreamId(stream),
        seq: u48_at(bytes, 1),
        body_crc: u32_at(bytes, 7),
        key: &bytes[at..key_end],
        value: &bytes[key_end..len],
        value_len,
        expiry,
        part,
        offset,
        len,
    })
}
