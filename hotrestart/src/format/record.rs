//! The record: an entry, or the fact that one is gone, as logged; the writing side.
//!
//! Invariant: a record's length depends on everything but its seq and its checksum, so that room is
//! reserved before the seq is taken under the stream's lock, and `patch_seq` completes the header. The
//! body checksum belongs to the entry, not to the chunk; whoever copies a record carries it. Callers:
//! puts and removes, the writer (padding), the compactor. Cost: about 10 ns and one copy of key and
//! value; no allocation. Reading is in `record_read.rs`. See `docs/format.md`, section 9.

use super::bytes::{put, put_u32, put_u48, put_u64};
use super::crc;
use super::ids::{MapId, StreamId};
use super::record_read::Records;
use super::varint::{VARINT_LEN_MAX, varint_len, write_varint};

/// The largest seq: 48 bits.
pub const SEQ_MAX: u64 = (1 << 48) - 1;
/// The longest key, in bytes.
pub const KEY_LEN_MAX: usize = 65_535;
/// The longest value, in bytes.
pub const VALUE_LEN_MAX: usize = 1 << 30;
/// The bytes of kind, flags, seq and body checksum, which every record begins with.
pub const FIXED_LEN: usize = 11;
/// The most bytes that a record's header takes.
pub const RECORD_HEADER_LEN_MAX: usize = FIXED_LEN + 4 * VARINT_LEN_MAX + EXPIRY_LEN + PART_LEN;
/// The shortest padding that carries its length; a shorter one is zeros.
pub const PADDING_LEN_MIN: usize = 8;

pub(super) const EXPIRY_LEN: usize = 8;
pub(super) const PART_LEN: usize = 12;
pub(super) const FLAG_EXPIRY: u8 = 1;
pub(super) const FLAG_PARTS: u8 = 2;
pub(super) const PADDING: u8 = 4;
const SEQ_AT: usize = 1;
const CRC_AT: usize = 7;

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecordKind {
    /// The key has this value.
    Entry,
    /// The key is gone: removed or expired.
    Absence,
    /// A piece of a value that is longer than a record may be.
    Part,
    /// Every key of the table is gone, as far as its records have a lower seq.
    Clear,
}

impl RecordKind {
    /// Whether a record of this kind is of a key.
    pub(super) const fn has_key(self) -> bool {
        matches!(self, RecordKind::Entry | RecordKind::Absence)
    }

    /// Whether a record of this kind has the length of a value.
    pub(super) const fn has_value(self) -> bool {
        matches!(self, RecordKind::Entry | RecordKind::Part)
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            RecordKind::Entry => 1,
            RecordKind::Absence => 2,
            RecordKind::Part => 3,
            RecordKind::Clear => 6,
        }
    }
}

/// Which run a part, or an entry whose value is in parts, belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PartOf {
    /// The run: unique in the store.
    pub run: u64,
    /// Of a part its number, from 0; of the entry the count of parts.
    pub number: u32,
}

/// Everything of a record but key and value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// What the record says.
    pub kind: RecordKind,
    /// The map.
    pub map: MapId,
    /// The stream; map and stream make the table.
    pub stream: StreamId,
    /// The place in the stream's order; 0 for a part.
    pub seq: u64,
    /// See `body_crc`; for a part the CRC of its bytes.
    pub body_crc: u32,
    /// The length of the key; 0 for a part and for a clear.
    pub key_len: u16,
    /// The length of the whole value, or of the part's bytes; 0 for an absence and for a clear.
    pub value_len: u32,
    /// When the entry expires, in milliseconds since 1970-01-01 UTC.
    pub expiry: Option<u64>,
    /// Set for a part, and for an entry whose value is in parts.
    pub part: Option<PartOf>,
}

/// The checksum of an entry or an absence: CRC-32C of key, then value, then the expiry if there is one.
#[inline]
#[must_use]
pub fn body_crc(key: &[u8], value: &[u8], expiry: Option<u64>) -> u32 {
    let crc = crc::crc32c_append(crc::crc32c(key), value);
    match expiry {
        Some(expiry) => crc::crc32c_append(crc, &expiry.to_le_bytes()),
        None => crc,
    }
}

impl RecordHeader {
    /// An entry whose value stands in the record. Seq and checksum are 0 until they are set.
    ///
    /// # Panics
    /// When key or value is longer than its limit, or the key is empty.
    #[inline]
    #[must_use]
    pub fn entry(
        map: MapId,
        stream: StreamId,
        key_len: usize,
        value_len: usize,
        expiry: Option<u64>,
    ) -> RecordHeader {
        assert!((1..=KEY_LEN_MAX).contains(&key_len), "key length {key_len}");
        assert!(value_len <= VALUE_LEN_MAX, "value length {value_len}");
        RecordHeader {
            kind: RecordKind::Entry,
            map,
            stream,
            seq: 0,
            body_crc: 0,
            key_len: key_len as u16,
            value_len: value_len as u32,
            expiry,
            part: None,
        }
    }

    /// The fact that a key is gone. Seq and checksum are 0 until they are set.
    ///
    /// # Panics
    /// When the key is longer than its limit, or empty.
    #[inline]
    #[must_use]
    pub fn absence(map: MapId, stream: StreamId, key_len: usize) -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Absence,
            ..RecordHeader::entry(map, stream, key_len, 0, None)
        }
    }

    /// The fact that a table was cleared. The seq is 0 until it is set; the checksum is that of nothing.
    #[must_use]
    pub const fn clear(map: MapId, stream: StreamId) -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Clear,
            map,
            stream,
            seq: 0,
            body_crc: 0,
            key_len: 0,
            value_len: 0,
            expiry: None,
            part: None,
        }
    }

    /// A part of a value.
    ///
    /// # Panics
    /// When the part is longer than a value may be.
    #[must_use]
    pub fn part(map: MapId, stream: StreamId, part: PartOf, bytes: &[u8]) -> RecordHeader {
        assert!(bytes.len() <= VALUE_LEN_MAX, "part length {}", bytes.len());
        RecordHeader {
            kind: RecordKind::Part,
            map,
            stream,
            seq: 0,
            body_crc: crc::crc32c(bytes),
            key_len: 0,
            value_len: bytes.len() as u32,
            expiry: None,
            part: Some(part),
        }
    }

    /// The bytes of the header: all that stands before the key, or before a part's bytes.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        let mut len = FIXED_LEN + varint_len(self.map.0) + varint_len(self.stream.0);
        if self.kind.has_key() {
            len += varint_len(self.key_len as u32);
        }
        if self.kind.has_value() {
            len += varint_len(self.value_len);
        }
        if self.expiry.is_some() {
            len += EXPIRY_LEN;
        }
        if self.part.is_some() {
            len += PART_LEN;
        }
        len
    }

    /// The bytes of value that stand in the record itself: none for an entry whose value is in parts.
    #[inline]
    #[must_use]
    pub const fn value_len_here(&self) -> usize {
        match (self.kind, self.part) {
            (RecordKind::Entry, Some(_)) => 0,
            _ => self.value_len as usize,
        }
    }

    /// The length of the whole record; it does not depend on seq and checksum.
    #[inline]
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        self.header_len() + self.key_len as usize + self.value_len_here()
    }

    /// Writes the header and returns its length. Key and value follow.
    ///
    /// # Panics
    /// When `out` is shorter than the header, or the header breaks the format's rules.
    #[inline]
    pub fn encode_header(&self, out: &mut [u8]) -> usize {
        let (is_part, has_key) = (matches!(self.kind, RecordKind::Part), self.kind.has_key());
        assert!(self.seq <= SEQ_MAX, "seq {}", self.seq);
        assert!(has_key == (self.key_len != 0), "key length {}", self.key_len);
        assert!(!is_part || self.part.is_some(), "a part of no run");
        assert!(self.expiry.is_none() || matches!(self.kind, RecordKind::Entry), "an expiry");
        assert!(self.part.is_none() || self.kind.has_value(), "a run");
        assert!(self.value_len == 0 || self.kind.has_value(), "value length {}", self.value_len);
        let mut flags = 0;
        if self.expiry.is_some() {
            flags |= FLAG_EXPIRY;
        }
        if self.part.is_some() {
            flags |= FLAG_PARTS;
        }
        out[0] = self.kind.code() | flags << 4;
        put_u48(out, SEQ_AT, self.seq);
        put_u32(out, CRC_AT, self.body_crc);
        let mut at = write_varint(out, FIXED_LEN, self.map.0);
        at = write_varint(out, at, self.stream.0);
        if has_key {
            at = write_varint(out, at, u32::from(self.key_len));
        }
        if self.kind.has_value() {
            at = write_varint(out, at, self.value_len);
        }
        if let Some(expiry) = self.expiry {
            put_u64(out, at, expiry);
            at += EXPIRY_LEN;
        }
        if let Some(part) = self.part {
            put_u64(out, at, part.run);
            put_u32(out, at + 8, part.number);
            at += PART_LEN;
        }
        at
    }

    /// Writes the whole record and returns its length. `value` is the part's bytes for a part, and empty
    /// for an absence and for an entry whose value is in parts.
    ///
    /// # Panics
    /// When `out` is shorter than the record, or key or value have another length than the header says.
    #[inline]
    pub fn encode_into(&self, key: &[u8], value: &[u8], out: &mut [u8]) -> usize {
        assert_eq!(key.len(), usize::from(self.key_len), "length of the key");
        assert_eq!(value.len(), self.value_len_here(), "length of the value");
        let at = self.encode_header(out);
        put(out, at, key);
        put(out, at + key.len(), value);
        at + key.len() + value.len()
    }
}

/// Sets the checksum of a record whose header has been encoded without it, and the key and value that follow.
/// `value` is as for [`RecordHeader::encode_into`].
///
/// # Panics When `record` is shorter than a record's fixed part with these; in debug builds also when their
/// lengths are not those that the header says.
#[inline]
pub fn write_body(record: &mut [u8], body_crc: u32, key: &[u8], value: &[u8]) {
    let at = record.len().checked_sub(key.len() + value.len()).filter(|at| *at >= FIXED_LEN);
    let at = at.expect("room for key and value");
    put_u32(record, CRC_AT, body_crc);
    put(record, at, key);
    put(record, at + key.len(), value);
    debug_assert!(
        {
            let read = Records::new(record).next().and_then(Result::ok);
            let found = read.map(|read| (read.key, read.value, read.len));
            found == Some((key, value, record.len()))
        },
        "key and value of other lengths than the header says"
    );
}

/// Sets the seq of a record that has been encoded without it.
///
/// # Panics
/// When `record` is shorter than a record's fixed part, or the seq exceeds 48 bits.
#[inline]
pub fn patch_seq(record: &mut [u8], seq: u64) {
    assert!(seq <= SEQ_MAX, "seq {seq}");
    put_u48(record, SEQ_AT, seq);
}

/// Makes padding of a record that was encoded and came to nothing. What stands behind the padding's length
/// stays, and means nothing.
///
/// # Panics
/// When `record` is shorter than a record's fixed part, or longer than 4 GiB.
#[inline]
pub fn void_record(record: &mut [u8]) {
    let len = u32::try_from(record.len()).expect("a record lies within one log buffer");
    assert!(record.len() >= FIXED_LEN, "a record of {len} bytes");
    record[..4].copy_from_slice(&[PADDING, 0, 0, 0]);
    put_u32(record, 4, len);
}

/// Fills `out`, room that was reserved and given up, so that readers step over it.
///
/// # Panics
/// When `out` is longer than 4 GiB.
pub fn write_padding(out: &mut [u8]) {
    if out.len() < PADDING_LEN_MIN {
        out.fill(0);
        return;
    }
    let len = u32::try_from(out.len()).expect("a reservation lies within one log buffer");
    out[..4].copy_from_slice(&[PADDING, 0, 0, 0]);
    put_u32(out, 4, len);
    out[PADDING_LEN_MIN..].fill(0);
}
