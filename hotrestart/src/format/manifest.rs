//! The manifest: what a store is, before any of its records is judged; the structure and its encoding.
//!
//! Invariant: a manifest validates only as a whole; every byte up to its length is covered by its checksum.
//! Two copies are written in turn, so that a valid one survives any crash. The store's opening, closing and
//! map creation write it; opening and `inspect` read it. Decoding is in `manifest_decode.rs`.
//! See `docs/format.md`, section 6.

use hdstore::Placement;

use super::FORMAT_VERSION;
use super::bytes::{put_u32, put_u64};
use super::crc;
use super::features::{COMPACTION, UnknownFeatures};
use super::freed::FreedBlocks;
use super::ids::{BootId, ChunkId, FileNumber, HoldId, LifeNumber, MapId, StoreId, StreamId};

/// The names of the two copies; the one with index `generation % 2` holds a generation.
pub const MANIFEST_NAMES: [&str; 2] = ["manifest.0", "manifest.1"];
/// The longest manifest, in bytes: more than a store with a million maps needs.
pub const MANIFEST_LEN_MAX: u64 = 1 << 30;

pub(super) const MAGIC: [u8; 8] = *b"HDMANIF1";
pub(super) const HEADER_LEN: usize = 152;
pub(super) const COUNTS_AT: usize = 136;
pub(super) const CRC_AT: usize = 32;
pub(crate) const LIFE_LEN: usize = 32;
pub(crate) const FREED_LEN: usize = 24;
pub(super) const MAP_LEN: usize = 16;
pub(super) const STREAM_RECORD_LEN: usize = 32;
pub(super) const HELD_LEN: usize = 16;
pub(super) const FLAG_CLEAN: u32 = 1;

/// What a store is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Counts the manifests of a store, from 1.
    pub generation: u64,
    /// The store's identity.
    pub store: StoreId,
    /// The size of every chunk, in bytes.
    pub chunk_size: u64,
    /// How many streams the store has; fixed at its creation.
    pub streams: u32,
    /// True after a clean close, until the next opening.
    pub closed_cleanly: bool,
    /// The seed of the index hash.
    pub hash_seed: u64,
    /// The number of the current or last opening.
    pub life: LifeNumber,
    /// The latest time that was persisted, in milliseconds since 1970-01-01 UTC.
    pub latest_time_ms: u64,
    /// The bytes of memory in use at the clean close; 0 if it was none.
    pub memory_bytes: u64,
    /// The id that the next new map gets.
    pub next_map: MapId,
    /// The number that the next new chunk file gets.
    pub next_file: FileNumber,
    /// The id that the next chunk gets.
    pub next_chunk: ChunkId,
    /// No stream gives a seq below this any more.
    pub seq_start: u64,
    /// No stream has given a seq at or above this.
    pub seq_limit: u64,
    /// Every life of which a chunk exists.
    pub lives: Vec<Life>,
    /// Every map.
    pub maps: Vec<MapRecord>,
    /// Epoch history and floor of streams; none in this version.
    pub stream_records: Vec<StreamRecord>,
    /// Chunks that stay as they are until who holds them releases them.
    pub held: Vec<HeldChunk>,
}

/// One opening of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Life {
    /// Its number.
    pub number: LifeNumber,
    /// The boot in which it ran.
    pub boot: BootId,
    /// Whether its end is decided.
    pub state: LifeState,
    /// Where its log buffers are.
    pub buffers: BuffersPlace,
    /// Per writer the number of its valid blocks. While the life is open: how many are known flushed, as of
    /// the last time that compaction freed anything; of the compactor, the last, those that count in any
    /// case.
    pub valid_blocks: Vec<u64>,
    /// Blocks that compaction has freed.
    pub freed: FreedBlocks,
}

/// Whether the end of a life is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LifeState {
    /// It runs, or has ended without a recovery since.
    Open,
    /// It has ended; blocks beyond the valid ones are void for ever.
    Cut,
}

/// Where the log buffers of a life are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BuffersPlace {
    /// Nowhere: nothing unwritten is left.
    None,
    /// In shared memory.
    SharedMemory,
    /// In the store's directory.
    Directory,
}

/// One map of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapRecord {
    /// Its identity.
    pub id: MapId,
    /// Its name.
    pub name: String,
    /// The name of the codec of its keys.
    pub key_type: String,
    /// The name of the codec of its values.
    pub value_type: String,
    /// The durability of a put that asks for none.
    pub durability: DurabilityCode,
    /// Who says in which stream a key lies.
    pub placement: Placement,
}

/// A durability as the manifest stores it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DurabilityCode {
    /// Acknowledged in the log buffer.
    Buffered,
    /// Acknowledged when the device has completed the write.
    Written,
    /// Acknowledged when a flush after the write has returned.
    Synced,
}

/// Epoch history and floor of one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamRecord {
    /// The stream.
    pub stream: StreamId,
    /// The epoch.
    pub epoch: u64,
    /// The first seq of the epoch.
    pub first_seq: u64,
    /// The floor.
    pub floor: u64,
}

/// A chunk that is neither freed nor used again yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldChunk {
    /// The chunk.
    pub chunk: ChunkId,
    /// The hold that it belongs to.
    pub holder: HoldId,
}

/// Why bytes are no manifest. Offsets are those in the file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ManifestError {
    /// An empty file: created, never written.
    #[error("the manifest is empty")]
    Empty,
    /// Fewer bytes than the manifest says it has, or than the smallest has.
    #[error("manifest: expected {expected} bytes, found {found}")]
    TooShort {
        /// The bytes expected.
        expected: u64,
        /// The bytes there are.
        found: usize,
    },
    /// The first eight bytes are another's.
    #[error("magic at offset 0: expected {:?}, found {found:?}", MAGIC.escape_ascii().to_string())]
    Magic {
        /// The bytes found, escaped.
        found: String,
    },
    /// A length outside its limits.
    #[error("length at offset 24: expected {HEADER_LEN} to {MANIFEST_LEN_MAX}, found {found}")]
    Length {
        /// The length found.
        found: u64,
    },
    /// The checksum does not match.
    #[error(
        "checksum at offset {CRC_AT}: expected {expected:#010x}, found {found:#010x} \
        (the version at offset 8 reads {version})"
    )]
    Checksum {
        /// The checksum of the bytes as they are.
        expected: u32,
        /// The checksum that is stored.
        found: u32,
        /// What the version field reads.
        version: u32,
    },
    /// Another version of the format.
    #[error("manifest format version {found}: this program knows version {FORMAT_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Features that this version does not know.
    #[error("the store needs features that this program does not know: {0}")]
    Features(UnknownFeatures),
    /// A field whose value is none.
    #[error("{field} at offset {offset}: found {found}")]
    Field {
        /// The field.
        field: &'static str,
        /// Where it is.
        offset: usize,
        /// What it holds.
        found: u64,
    },
}

impl Manifest {
    /// The name of the file that holds this generation.
    #[must_use]
    pub fn file_name(&self) -> &'static str {
        MANIFEST_NAMES[(self.generation % 2) as usize]
    }

    /// The life with this number, if it is listed.
    #[must_use]
    pub fn life(&self, number: LifeNumber) -> Option<&Life> {
        self.lives.iter().find(|life| life.number == number)
    }

    /// The manifest's bytes.
    ///
    /// # Panics
    /// When a text is longer than 65,535 bytes; map names are checked where maps are made.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        put_u32(&mut out, 8, FORMAT_VERSION);
        let has_freed = self.lives.iter().any(|life| !life.freed.ranges().is_empty());
        put_u32(&mut out, 12, if has_freed { COMPACTION } else { 0 });
        put_u64(&mut out, 16, self.generation);
        out[40..56].copy_from_slice(&self.store.0);
        put_u64(&mut out, 56, self.chunk_size);
        put_u32(&mut out, 64, self.streams);
        put_u32(&mut out, 68, if self.closed_cleanly { FLAG_CLEAN } else { 0 });
        put_u64(&mut out, 72, self.hash_seed);
        put_u64(&mut out, 80, self.life.0);
        put_u64(&mut out, 88, self.latest_time_ms);
        put_u64(&mut out, 96, self.memory_bytes);
        put_u32(&mut out, 104, self.next_map.0);
        put_u32(&mut out, 108, self.next_file.0);
        put_u64(&mut out, 112, self.next_chunk.0);
        put_u64(&mut out, 120, self.seq_start);
        put_u64(&mut out, 128, self.seq_limit);
        let counts =
            [self.lives.len(), self.maps.len(), self.stream_records.len(), self.held.len()];
        for (index, count) in counts.into_iter().enumerate() {
            put_u32(&mut out, COUNTS_AT + 4 * index, count as u32);
        }
        self.lives.iter().for_each(|life| life.append_to(&mut out));
        self.maps.iter().for_each(|map| map.append_to(&mut out));
        for record in &self.stream_records {
            out.extend_from_slice(&record.stream.0.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            for number in [record.epoch, record.first_seq, record.floor] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        for held in &self.held {
            out.extend_from_slice(&held.chunk.0.to_le_bytes());
            out.extend_from_slice(&held.holder.0.to_le_bytes());
        }
        let len = out.len() as u64;
        put_u64(&mut out, 24, len);
        let crc = crc::crc32c(&out);
        put_u32(&mut out, CRC_AT, crc);
        out
    }
}

impl Life {
    /// Which of the writers is the compactor; `None` if none is listed.
    #[must_use]
    pub fn compactor(&self) -> Option<u32> {
        self.valid_blocks.len().checked_sub(1).map(|last| last as u32)
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.0.to_le_bytes());
        out.extend_from_slice(&self.boot.0);
        let state = match self.state {
            LifeState::Open => 1,
            LifeState::Cut => 2,
        };
        let buffers = match self.buffers {
            BuffersPlace::None => 0,
            BuffersPlace::SharedMemory => 1,
            BuffersPlace::Directory => 2,
        };
        out.extend_from_slice(&[state, buffers, 0, 0]);
        out.extend_from_slice(&(self.valid_blocks.len() as u32).to_le_bytes());
        for blocks in &self.valid_blocks {
            out.extend_from_slice(&blocks.to_le_bytes());
        }
        let freed = self.freed.ranges();
        out.extend_from_slice(&(freed.len() as u64).to_le_bytes());
        for range in freed {
            out.extend_from_slice(&u64::from(range.writer).to_le_bytes());
            out.extend_from_slice(&range.first.to_le_bytes());
            out.extend_from_slice(&range.end.to_le_bytes());
        }
    }
}

impl MapRecord {
    fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0.to_le_bytes());
        let class: u32 = match self.placement {
            Placement::ByHash => 0,
            Placement::ByOwner => 1,
        };
        out.extend_from_slice(&class.to_le_bytes());
        let texts = [&self.name, &self.key_type, &self.value_type];
        for text in texts {
            let len = u16::try_from(text.len()).expect("a text of a map fits 65,535 bytes");
            out.extend_from_slice(&len.to_le_bytes());
        }
        let durability = match self.durability {
            DurabilityCode::Buffered => 1,
            DurabilityCode::Written => 2,
            DurabilityCode::Synced => 3,
        };
        out.extend_from_slice(&[durability, 0]);
        texts.iter().for_each(|text| out.extend_from_slice(text.as_bytes()));
    }
}
