//! The bytes of a store's directory: pure functions between structures and byte slices.
//!
//! Each file is one section of `docs/format.md`, which is the contract. Nothing here does I/O, allocates on
//! a hot path, or trusts its input: a decoder of disk content returns a typed error for every input that is
//! not valid, and never panics or reads beyond the slice it was given. Encoders panic when their caller
//! breaks an invariant (a buffer too small, a length over its limit).
//!
//! Callers: the writers (encode), the loader, the compactor and `inspect` (decode).

pub mod binding;
pub mod block;
mod bytes;
pub mod chunk;
pub mod chunk_damage;
pub mod crc;
pub mod directory;
pub mod features;
pub mod freed;
pub mod ids;
pub mod manifest;
mod manifest_decode;
pub mod record;
pub mod record_read;
pub mod varint;
pub mod walk;

pub use binding::Binding;
pub use block::{BlockError, BlockHeader, BlockKind};
pub use chunk::{ChunkHeader, ChunkHeaderError, ChunkOrigin};
pub use directory::{Directory, DirectoryBuilder, DirectoryError, DirectoryLine, LineKind};
pub use freed::{FreedBlocks, FreedRange};
pub use ids::{
    BlockNumber, BootId, ChunkId, FileNumber, HoldId, LifeNumber, MapId, StoreId, StreamId,
    WriterId,
};
pub use manifest::{Manifest, ManifestError};
pub use record::{RecordHeader, RecordKind};
pub use record_read::{Record, RecordError, Records};
pub use walk::{ChunkWalk, Walked};

/// The version of every format in this module; a reader refuses any other by name.
pub const FORMAT_VERSION: u32 = 1;

/// What every write to a chunk is aligned to, in bytes: the offset, the length and the memory.
pub const ALIGNMENT: usize = 4096;
