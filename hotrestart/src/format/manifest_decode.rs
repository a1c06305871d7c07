//! Reads a manifest's bytes.
//!
//! Invariant: any input gives a manifest or a typed error; no count of the input is believed before the
//! bytes it promises are there. The checksum is judged before version and features, so that damage is
//! never taken for a newer format. Called through `Manifest::decode`. See `docs/format.md`, section 6.

use hdstore::{Placement, Seq};

use super::FORMAT_VERSION;
use super::bytes::{id_at, u16_at, u32_at, u64_at};
use super::chunk::is_chunk_size;
use super::crc;
use super::features::UnknownFeatures;
use super::freed::{FreedBlocks, FreedRange};
use super::ids::{BootId, ChunkId, FileNumber, HoldId, LifeNumber, MapId, StoreId, StreamId};
use super::manifest::{
    BuffersPlace, COUNTS_AT, CRC_AT, DurabilityCode, FLAG_CLEAN, FREED_LEN, HEADER_LEN, HELD_LEN,
    HeldChunk, LIFE_LEN, Life, LifeState, MAGIC, MANIFEST_LEN_MAX, MAP_LEN, Manifest,
    ManifestError, MapRecord, STREAM_RECORD_LEN, StreamRecord,
};

impl Manifest {
    /// Reads a manifest; bytes after its length are ignored.
    ///
    /// # Errors
    /// When the bytes are no manifest of this version.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let bytes = checked(bytes)?;
        let field =
            |field, offset| ManifestError::Field { field, offset, found: u64_at(bytes, offset) };
        let chunk_size = u64_at(bytes, 56);
        if !is_chunk_size(chunk_size) {
            return Err(field("chunk size", 56));
        }
        let (streams, flags) = (u32_at(bytes, 64), u32_at(bytes, 68));
        if streams == 0 {
            return Err(ManifestError::Field { field: "streams", offset: 64, found: 0 });
        }
        if flags & !FLAG_CLEAN != 0 {
            let found = u64::from(flags);
            return Err(ManifestError::Field { field: "flags", offset: 68, found });
        }
        let (seq_start, seq_limit) = (u64_at(bytes, 120), u64_at(bytes, 128));
        if seq_start == 0 || seq_start > seq_limit || seq_limit > Seq::MAX.0 + 1 {
            return Err(field("seq limit", 128));
        }
        let count = |index: usize| u32_at(bytes, COUNTS_AT + 4 * index);
        let mut rest = Rest { bytes, at: HEADER_LEN };
        let manifest = Manifest {
            generation: u64_at(bytes, 16),
            store: StoreId(id_at(bytes, 40)),
            chunk_size,
            streams,
            closed_cleanly: flags & FLAG_CLEAN != 0,
            hash_seed: u64_at(bytes, 72),
            life: LifeNumber(u64_at(bytes, 80)),
            latest_time_ms: u64_at(bytes, 88),
            memory_bytes: u64_at(bytes, 96),
            next_map: MapId(u32_at(bytes, 104)),
            next_file: FileNumber(u32_at(bytes, 108)),
            next_chunk: ChunkId(u64_at(bytes, 112)),
            seq_start,
            seq_limit,
            lives: rest.list(count(0), Rest::life)?,
            maps: rest.list(count(1), Rest::map)?,
            stream_records: rest.list(count(2), Rest::stream_record)?,
            held: rest.list(count(3), Rest::held)?,
        };
        if rest.at != bytes.len() {
            let found = bytes.len() as u64;
            return Err(ManifestError::Field { field: "length", offset: 24, found });
        }
        Ok(manifest)
    }
}

/// The manifest's own bytes, without what may follow, once they are known to be whole and of this version.
fn checked(bytes: &[u8]) -> Result<&[u8], ManifestError> {
    if bytes.is_empty() {
        return Err(ManifestError::Empty);
    }
    if bytes.len() < HEADER_LEN {
        return Err(ManifestError::TooShort { expected: HEADER_LEN as u64, found: bytes.len() });
    }
    if bytes[..8] != MAGIC {
        return Err(ManifestError::Magic { found: bytes[..8].escape_ascii().to_string() });
    }
    let len = u64_at(bytes, 24);
    if !(HEADER_LEN as u64..=MANIFEST_LEN_MAX).contains(&len) {
        return Err(ManifestError::Length { found: len });
    }
    let Some(own) = bytes.get(..len as usize) else {
        return Err(ManifestError::TooShort { expected: len, found: bytes.len() });
    };
    let crc = crc::crc32c_append(crc::crc32c(&own[..CRC_AT]), &[0; 4]);
    let expected = crc::crc32c_append(crc, &own[CRC_AT + 4..]);
    let (found, version) = (u32_at(own, CRC_AT), u32_at(own, 8));
    if expected != found {
        return Err(ManifestError::Checksum { expected, found, version });
    }
    if version != FORMAT_VERSION {
        return Err(ManifestError::Version { found: version });
    }
    match UnknownFeatures::among(u32_at(own, 12)) {
        Some(unknown) => Err(ManifestError::Features(unknown)),
        None => Ok(own),
    }
}

/// What of the manifest has not been read yet.
struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn list<T>(
        &mut self,
        count: u32,
        read: fn(&mut Rest<'a>) -> Result<T, ManifestError>,
    ) -> Result<Vec<T>, ManifestError> {
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(read(self)?);
        }
        Ok(list)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ManifestError> {
        let end = self.at.saturating_add(len);
        let Some(taken) = self.bytes.get(self.at..end) else {
            return Err(ManifestError::TooShort { expected: end as u64, found: self.bytes.len() });
        };
        self.at = end;
        Ok(taken)
    }

    fn life(&mut self) -> Result<Life, ManifestError> {
        let start = self.at;
        let head = self.take(LIFE_LEN)?;
        let state = match head[24] {
            1 => LifeState::Open,
            2 => LifeState::Cut,
            found => return Err(unknown_code("state of a life", start + 24, found)),
        };
        let buffers = match head[25] {
            0 => BuffersPlace::None,
            1 => BuffersPlace::SharedMemory,
            2 => BuffersPlace::Directory,
            found => return Err(unknown_code("buffers of a life", start + 25, found)),
        };
        let blocks = self.take((u32_at(head, 28) as usize).saturating_mul(8))?;
        let at = self.at;
        let count = u64_at(self.take(8)?, 0);
        let freed =
            self.take(usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(FREED_LEN))?;
        let ranges = freed.chunks_exact(FREED_LEN).map(|range| FreedRange {
            writer: u64_at(range, 0) as u32,
            first: u64_at(range, 8),
            end: u64_at(range, 16),
        });
        let field =
            ManifestError::Field { field: "freed blocks of a life", offset: at, found: count };
        let freed = FreedBlocks::from_ranges(ranges.collect()).ok_or(field)?;
        Ok(Life {
            number: LifeNumber(u64_at(head, 0)),
            boot: BootId(id_at(head, 8)),
            state,
            buffers,
            valid_blocks: blocks.chunks_exact(8).map(|number| u64_at(number, 0)).collect(),
            freed,
        })
    }

    fn map(&mut self) -> Result<MapRecord, ManifestError> {
        let start = self.at;
        let head = self.take(MAP_LEN)?;
        let placement = match u32_at(head, 4) {
            0 => Placement::ByHash,
            1 => Placement::ByOwner,
            found => {
                let (field, found) = ("stream class of a map", u64::from(found));
                return Err(ManifestError::Field { field, offset: start + 4, found });
            }
        };
        let durability = match head[14] {
            1 => DurabilityCode::Buffered,
            2 => DurabilityCode::Written,
            3 => DurabilityCode::Synced,
            found => return Err(unknown_code("durability of a map", start + 14, found)),
        };
        Ok(MapRecord {
            id: MapId(u32_at(head, 0)),
            name: self.text(u16_at(head, 8))?,
            key_type: self.text(u16_at(head, 10))?,
            value_type: self.text(u16_at(head, 12))?,
            durability,
            placement,
        })
    }

    fn text(&mut self, len: u16) -> Result<String, ManifestError> {
        let start = self.at;
        let bytes = self.take(usize::from(len))?;
        String::from_utf8(bytes.to_vec()).map_err(|error| {
            let offset = start + error.utf8_error().valid_up_to();
            unknown_code("text of a map (not UTF-8)", offset, self.bytes[offset])
        })
    }

    fn stream_record(&mut self) -> Result<StreamRecord, ManifestError> {
        let bytes = self.take(STREAM_RECORD_LEN)?;
        Ok(StreamRecord {
            stream: StreamId(u32_at(bytes, 0)),
            epoch: u64_at(bytes, 8),
            first_seq: u64_at(bytes, 16),
            floor: u64_at(bytes, 24),
        })
    }

    fn held(&mut self) -> Result<HeldChunk, ManifestError> {
        let bytes = self.take(HELD_LEN)?;
        let (chunk, holder) = (ChunkId(u64_at(bytes, 0)), HoldId(u64_at(bytes, 8)));
        Ok(HeldChunk { chunk, holder })
    }
}

fn unknown_code(field: &'static str, offset: usize, found: u8) -> ManifestError {
    ManifestError::Field { field, offset, found: u64::from(found) }
}
