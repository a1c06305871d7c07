//! The header of a chunk: who wrote it, in which life, and what was known to be safe at that time.
//!
//! Invariant: a header validates only as a whole; every bit of its 4096 bytes is covered by its checksum or
//! is the checksum. Writers encode one per chunk they begin; the loader and `inspect` decode them.
//! Cost: one CRC over 4 KiB. See `docs/format.md`, section 7.

use super::bytes::{id_at, put, put_u32, put_u64, u32_at, u64_at};
use super::crc;
use super::features::UnknownFeatures;
use super::ids::{BlockNumber, ChunkId, LifeNumber, StoreId, WriterId};
use super::{ALIGNMENT, Binding, FORMAT_VERSION};

/// The bytes of a chunk header; the first block follows.
pub const CHUNK_HEADER_LEN: usize = ALIGNMENT;
/// The smallest size of a chunk, in bytes.
pub const CHUNK_SIZE_MIN: u64 = 256 << 10;
/// The largest size of a chunk, in bytes.
pub const CHUNK_SIZE_MAX: u64 = 64 << 20;
/// The size of a chunk when none is asked for, in bytes.
pub const CHUNK_SIZE_DEFAULT: u64 = 8 << 20;

const MAGIC: [u8; 8] = *b"HDCHUNK1";
pub(super) const CRC_AT: usize = 4092;

/// True for the sizes that a chunk may have: powers of two between the smallest and the largest.
#[must_use]
pub const fn is_chunk_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && bytes >= CHUNK_SIZE_MIN && bytes <= CHUNK_SIZE_MAX
}

/// What a chunk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChunkOrigin {
    /// Changes, in the order of their writer.
    #[default]
    Changes,
    /// Records copied from other chunks.
    Survivors,
}

/// The first 4096 bytes of a chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkHeader {
    /// The store that the chunk belongs to.
    pub store: StoreId,
    /// The chunk's identity.
    pub chunk: ChunkId,
    /// The life that wrote it.
    pub life: LifeNumber,
    /// The writer that wrote it.
    pub writer: WriterId,
    /// The chunk's size in bytes, header included.
    pub chunk_size: u64,
    /// The number of its first block.
    pub first_block: BlockNumber,
    /// All blocks of this writer below this number were known flushed when the header was written.
    pub flushed: BlockNumber,
    /// All blocks of this writer below this number were known written when the header was written.
    pub written: BlockNumber,
    /// Keys and values that the store held at that time, in bytes.
    pub live_bytes: u64,
    /// Whether the chunk holds changes, or survivors that compaction copied.
    pub origin: ChunkOrigin,
    /// The age of the chunk's records: bytes of changes that the store had logged in all its lives when the
    /// chunk was begun; of survivors, when the youngest of their first victim was logged.
    pub clock: u64,
}

/// Why the first bytes of a chunk are not a header. Offsets are those in the chunk.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChunkHeaderError {
    /// Fewer bytes than a header has.
    #[error("{len} bytes where a chunk header of {CHUNK_HEADER_LEN} bytes is expected")]
    TooShort {
        /// The bytes there are.
        len: usize,
    },
    /// Nothing but zeros: a chunk made ahead of need that no writer has begun.
    #[error("no header: the first {CHUNK_HEADER_LEN} bytes are zeros")]
    Blank,
    /// The first eight bytes are another's.
    #[error("magic at offset 0: expected {:?}, found {found:?}", MAGIC.escape_ascii().to_string())]
    Magic {
        /// The bytes found, escaped.
        found: String,
    },
    /// The checksum does not match.
    #[error("checksum at offset {CRC_AT}: expected {expected:#010x}, found {found:#010x}")]
    Checksum {
        /// The checksum of the bytes as they are.
        expected: u32,
        /// The checksum that is stored.
        found: u32,
    },
    /// Another version of the format.
    #[error("chunk format version {found}: this program knows version {FORMAT_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Features that this version does not know.
    #[error("the chunk needs features that this program does not know: {0}")]
    Features(UnknownFeatures),
    /// An origin that no chunk has.
    #[error("origin {found} at offset 52 is neither 0 (changes) nor 1 (survivors)")]
    Origin {
        /// The code found.
        found: u32,
    },
    /// A size that no chunk has.
    #[error(
        "chunk size {found} at offset 56 is no power of two between {CHUNK_SIZE_MIN} and {CHUNK_SIZE_MAX}"
    )]
    ChunkSize {
        /// The size found, in bytes.
        found: u64,
    },
}

impl ChunkHeader {
    /// The binding of the chunk's blocks.
    #[must_use]
    pub fn binding(&self) -> Binding {
        Binding::of(self.store, self.chunk, self.life)
    }

    /// Writes the header to the first 4096 bytes of `out`.
    ///
    /// # Panics
    /// When `out` is shorter, or the chunk size is none.
    pub fn encode_into(&self, out: &mut [u8]) {
        assert!(is_chunk_size(self.chunk_size), "chunk size {}", self.chunk_size);
        let out = &mut out[..CHUNK_HEADER_LEN];
        out.fill(0);
        put(out, 0, &MAGIC);
        put_u32(out, 8, FORMAT_VERSION);
        put(out, 16, &self.store.0);
        put_u64(out, 32, self.chunk.0);
        put_u64(out, 40, self.life.0);
        put_u32(out, 48, self.writer.0);
        put_u64(out, 56, self.chunk_size);
        put_u64(out, 64, self.first_block.0);
        put_u64(out, 72, self.flushed.0);
        put_u64(out, 80, self.written.0);
        put_u64(out, 88, self.live_bytes);
        put_u32(out, 52, u32::from(self.origin == ChunkOrigin::Survivors));
        put_u64(out, 168, self.clock);
        let crc = crc::crc32c(&out[..CRC_AT]);
        put_u32(out, CRC_AT, crc);
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// When the bytes are no header of this version; the checksum is judged before version and features,
    /// so that a damaged header is never taken for a newer one.
    pub fn decode(bytes: &[u8]) -> Result<ChunkHeader, ChunkHeaderError> {
        let Some(bytes) = bytes.get(..CHUNK_HEADER_LEN) else {
            return Err(ChunkHeaderError::TooShort { len: bytes.len() });
        };
        if bytes[..8] != MAGIC {
            if bytes.iter().all(|byte| *byte == 0) {
                return Err(ChunkHeaderError::Blank);
            }
            return Err(ChunkHeaderError::Magic { found: bytes[..8].escape_ascii().to_string() });
        }
        let expected = crc::crc32c(&bytes[..CRC_AT]);
        let found = u32_at(bytes, CRC_AT);
        if expected != found {
            return Err(ChunkHeaderError::Checksum { expected, found });
        }
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            return Err(ChunkHeaderError::Version { found: version });
        }
        if let Some(unknown) = UnknownFeatures::among(u32_at(bytes, 12)) {
            return Err(ChunkHeaderError::Features(unknown));
        }
        let chunk_size = u64_at(bytes, 56);
        if !is_chunk_size(chunk_size) {
            return Err(ChunkHeaderError::ChunkSize { found: chunk_size });
        }
        let origin = match u32_at(bytes, 52) {
            0 => ChunkOrigin::Changes,
            1 => ChunkOrigin::Survivors,
            found => return Err(ChunkHeaderError::Origin { found }),
        };
        Ok(ChunkHeader {
            store: StoreId(id_at(bytes, 16)),
            chunk: ChunkId(u64_at(bytes, 32)),
            life: LifeNumber(u64_at(bytes, 40)),
            writer: WriterId(u32_at(bytes, 48)),
            chunk_size,
            first_block: BlockNumber(u64_at(bytes, 64)),
            flushed: BlockNumber(u64_at(bytes, 72)),
            written: BlockNumber(u64_at(bytes, 80)),
            live_bytes: u64_at(bytes, 88),
            origin,
            clock: u64_at(bytes, 168),
        })
    }
}
