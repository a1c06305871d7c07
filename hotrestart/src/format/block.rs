//! The block: the unit of one write to a chunk, a multiple of 4096 bytes.
//!
//! Invariant: a block validates only in the chunk and life it was written for, and only whole: its
//! checksum starts from the chunk's binding and covers header and payload. The zeros after the payload
//! are covered by nothing and mean nothing. Writers seal blocks in place in their log buffer; the loader,
//! the walker and `inspect` check them. Cost: one CRC over header and payload. See `docs/format.md`,
//! section 8.

use super::bytes::{put, put_u32, put_u64, u32_at, u64_at};
use super::ids::BlockNumber;
use super::{ALIGNMENT, Binding};

/// The bytes of a block header; the payload follows.
pub const BLOCK_HEADER_LEN: usize = 64;

const MAGIC: [u8; 4] = *b"HDBK";
const CRC_AT: usize = 4;
const CRC_FROM: usize = 8;

/// What a block's payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockKind {
    /// Records.
    Records,
    /// The directory of a sealed chunk: its last block.
    Directory,
}

impl BlockKind {
    const fn code(self) -> u8 {
        match self {
            BlockKind::Records => 1,
            BlockKind::Directory => 2,
        }
    }
}

/// The first 64 bytes of a block, without magic and checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockHeader {
    /// Which block of its writer and life this is.
    pub number: BlockNumber,
    /// All blocks of this writer below this number are known flushed.
    pub flushed: BlockNumber,
    /// All blocks of this writer below this number are known written.
    pub written: BlockNumber,
    /// The length of the payload, in bytes.
    pub payload_len: u32,
    /// How many records the payload holds; padding is none.
    pub records: u32,
    /// Keys and values that the store held, in MiB, rounded up.
    pub live_mib: u32,
    /// What the payload is.
    pub kind: BlockKind,
}

/// Why bytes are not a block of the chunk. Offsets count from the block's first byte.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// Fewer bytes than a block header has.
    #[error("{len} bytes are left where a block header of {BLOCK_HEADER_LEN} bytes is expected")]
    TooShort {
        /// The bytes that are left.
        len: usize,
    },
    /// No block begins here: never written, or what was written is gone.
    #[error("block magic at +0: expected {:?}, found {:?}", MAGIC.escape_ascii().to_string(),
        found.escape_ascii().to_string())]
    Magic {
        /// The four bytes found.
        found: [u8; 4],
    },
    /// A payload that would reach beyond the chunk.
    #[error("payload length at +32: expected at most {max}, found {found}")]
    Length {
        /// The most that is possible here.
        max: usize,
        /// The length found.
        found: u32,
    },
    /// The checksum does not match: damaged, torn, or of another chunk or life.
    #[error("checksum at +4: expected {expected:#010x}, found {found:#010x}")]
    Checksum {
        /// The checksum of the bytes as they are.
        expected: u32,
        /// The checksum that is stored.
        found: u32,
    },
    /// A whole block of a kind that this version does not know.
    #[error("block kind at +44: expected 1 (records) or 2 (directory), found {found}")]
    Kind {
        /// The kind found.
        found: u8,
    },
}

/// The length on disk of a block with `payload_len` bytes of payload.
#[must_use]
pub const fn sealed_len(payload_len: usize) -> usize {
    (BLOCK_HEADER_LEN + payload_len).next_multiple_of(ALIGNMENT)
}

impl BlockHeader {
    /// The length of the block on disk: header, payload and zeros.
    #[must_use]
    pub const fn sealed_len(&self) -> usize {
        sealed_len(self.payload_len as usize)
    }

    /// The payload of the block that begins at the start of `bytes` and has this header.
    ///
    /// # Panics
    /// When `bytes` is shorter than the block, which `check` has refused.
    #[must_use]
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[BLOCK_HEADER_LEN..BLOCK_HEADER_LEN + self.payload_len as usize]
    }
}

/// Turns `buf`, whose payload stands at byte 64, into a block: writes header, checksum and the zeros after
/// the payload. Returns the block's length, a multiple of 4096.
///
/// # Panics
/// When `buf` is shorter than the block.
pub fn seal(buf: &mut [u8], header: &BlockHeader, binding: Binding) -> usize {
    let len = header.sealed_len();
    let buf = &mut buf[..len];
    let end = BLOCK_HEADER_LEN + header.payload_len as usize;
    buf[..BLOCK_HEADER_LEN].fill(0);
    put(buf, 0, &MAGIC);
    put_u64(buf, 8, header.number.0);
    put_u64(buf, 16, header.flushed.0);
    put_u64(buf, 24, header.written.0);
    put_u32(buf, 32, header.payload_len);
    put_u32(buf, 36, header.records);
    put_u32(buf, 40, header.live_mib);
    buf[44] = header.kind.code();
    let crc = binding.crc(&buf[CRC_FROM..end]);
    put_u32(buf, CRC_AT, crc);
    buf[end..].fill(0);
    len
}

/// Reads and checks the block at the start of `bytes`, which may be longer than the block.
///
/// # Errors
/// When no valid block of the chunk with this binding begins there.
pub fn check(bytes: &[u8], binding: Binding) -> Result<BlockHeader, BlockError> {
    let expected = binding.crc(covered(bytes)?);
    let found = u32_at(bytes, CRC_AT);
    if expected != found {
        return Err(BlockError::Checksum { expected, found });
    }
    header_of(bytes)
}

/// The binding with which a block at the start of `bytes` would be valid, and its header. Any bytes with
/// magic and length of a block have one: it says something only to who knows which bindings there may be.
/// `None` where no block begins, whatever the binding. Costs one CRC, as `check` does.
#[must_use]
pub fn bound_to(bytes: &[u8]) -> Option<(Binding, BlockHeader)> {
    let covered = covered(bytes).ok()?;
    Some((Binding::that_gives(u32_at(bytes, CRC_AT), covered), header_of(bytes).ok()?))
}

/// Whether the first bytes are those of a block, valid or not.
#[must_use]
pub fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// What the checksum of the block at the start of `bytes` covers.
fn covered(bytes: &[u8]) -> Result<&[u8], BlockError> {
    if bytes.len() < BLOCK_HEADER_LEN {
        return Err(BlockError::TooShort { len: bytes.len() });
    }
    if !begins(bytes) {
        return Err(BlockError::Magic { found: [bytes[0], bytes[1], bytes[2], bytes[3]] });
    }
    let payload_len = u32_at(bytes, 32);
    let max = (bytes.len() / ALIGNMENT * ALIGNMENT).saturating_sub(BLOCK_HEADER_LEN);
    if payload_len as usize > max {
        return Err(BlockError::Length { max, found: payload_len });
    }
    Ok(&bytes[CRC_FROM..BLOCK_HEADER_LEN + payload_len as usize])
}

fn header_of(bytes: &[u8]) -> Result<BlockHeader, BlockError> {
    let kind = match bytes[44] {
        1 => BlockKind::Records,
        2 => BlockKind::Directory,
        found => return Err(BlockError::Kind { found }),
    };
    Ok(BlockHeader {
        number: BlockNumber(u64_at(bytes, 8)),
        flushed: BlockNumber(u64_at(bytes, 16)),
        written: BlockNumber(u64_at(bytes, 24)),
        payload_len: u32_at(bytes, 32),
        records: u32_at(bytes, 36),
        live_mib: u32_at(bytes, 40),
        kind,
    })
}
