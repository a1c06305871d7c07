//! The bytes of a file of log buffers, and the state word: pure arithmetic (`docs/format.md`, section 11).

use crate::format::block::BLOCK_HEADER_LEN;
use crate::format::crc;
use crate::format::{ALIGNMENT, BootId, LifeNumber, StoreId};

/// Bytes of the file's header.
pub(crate) const FILE_HEADER: usize = 4096;
const MAGIC: [u8; 8] = *b"HDBUFFS1";
const VERSION: u32 = 1;
const CRC_AT: usize = 68;

/// Offsets in a control area.
pub(crate) const STATE: usize = 0;
pub(crate) const NUMBER: usize = 8;
pub(crate) const CAPACITY: usize = 24;
pub(crate) const FLAGS: usize = 32;
pub(crate) const RECORDS_CAP: usize = 40;
pub(crate) const TABLE: usize = 64;

/// A flag of a control area: the chunk ends after this buffer's block.
pub(crate) const ENDS_CHUNK: u64 = 1;

/// What the file's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) writers: u32,
    pub(crate) buffers_per_writer: u32,
    pub(crate) buffer_bytes: u32,
    pub(crate) records_max: u32,
}

/// Whose buffers a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) store: StoreId,
    pub(crate) life: LifeNumber,
    pub(crate) boot: BootId,
}

impl Geometry {
    /// The geometry for chunks of a size: a buffer is a quarter of a chunk, the largest block.
    pub(crate) fn for_chunks(chunk_size: u64, writers: u32, buffers_per_writer: u32) -> Geometry {
        let buffer_bytes = (chunk_size / 4) as u32;
        Geometry { writers, buffers_per_writer, buffer_bytes, records_max: buffer_bytes / 64 }
    }

    pub(crate) fn control_bytes(&self) -> usize {
        (TABLE + self.records_max as usize * 8).next_multiple_of(ALIGNMENT)
    }

    /// The longest payload of a buffer.
    pub(crate) fn largest_payload(&self) -> usize {
        self.buffer_bytes as usize - BLOCK_HEADER_LEN
    }

    fn buffers(&self) -> usize {
        self.writers as usize * self.buffers_per_writer as usize
    }

    /// Where a writer's buffers lie.
    pub(crate) fn of_writer(&self, writer: u32) -> WriterBuffers {
        let first = writer as usize * self.buffers_per_writer as usize;
        let (control_bytes, buffer_bytes) = (self.control_bytes(), self.buffer_bytes as usize);
        let controls = FILE_HEADER + first * control_bytes;
        let data = FILE_HEADER + self.buffers() * control_bytes + first * buffer_bytes;
        WriterBuffers { controls, control_bytes, data, buffer_bytes }
    }

    /// Bytes of the whole file.
    pub(crate) fn file_bytes(&self) -> usize {
        FILE_HEADER + self.buffers() * (self.control_bytes() + self.buffer_bytes as usize)
    }

    pub(crate) fn encode(&self, owner: &Owner) -> [u8; 72] {
        let mut out = [0; 72];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.writers.to_le_bytes());
        out[16..32].copy_from_slice(&owner.store.0);
        out[32..40].copy_from_slice(&owner.life.0.to_le_bytes());
        out[40..56].copy_from_slice(&owner.boot.0);
        out[56..60].copy_from_slice(&self.buffers_per_writer.to_le_bytes());
        out[60..64].copy_from_slice(&self.buffer_bytes.to_le_bytes());
        out[64..68].copy_from_slice(&self.records_max.to_le_bytes());
        let crc = crc::crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; `Err` says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Geometry, Owner), String> {
        let Some(header) = bytes.get(..72) else {
            return Err(format!("{} bytes where a header of 72 is expected", bytes.len()));
        };
        let u32_at = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let array16 = |at: usize| {
            let mut out = [0; 16];
            out.copy_from_slice(&header[at..at + 16]);
            out
        };
        if header[..8] != MAGIC {
            return Err(format!("magic {:?}, expected {:?}", &header[..8], MAGIC));
        }
        let crc = crc::crc32c(&header[..CRC_AT]);
        if u32_at(CRC_AT) != crc {
            return Err(format!("checksum {:#010x}, expected {crc:#010x}", u32_at(CRC_AT)));
        }
        if u32_at(8) != VERSION {
            return Err(format!("version {}, this program knows {VERSION}", u32_at(8)));
        }
        let mut life = [0; 8];
        life.copy_from_slice(&header[32..40]);
        let geometry = Geometry {
            writers: u32_at(12),
            buffers_per_writer: u32_at(56),
            buffer_bytes: u32_at(60),
            records_max: u32_at(64),
        };
        let owner = Owner {
            store: StoreId(array16(16)),
            life: LifeNumber(u64::from_le_bytes(life)),
            boot: BootId(array16(40)),
        };
        Ok((geometry, owner))
    }
}

/// Where the buffers of one writer lie in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriterBuffers {
    controls: usize,
    control_bytes: usize,
    data: usize,
    buffer_bytes: usize,
}

impl WriterBuffers {
    /// Where the control area of a buffer starts.
    #[inline]
    pub(crate) fn control(&self, slot: u32) -> usize {
        self.controls + slot as usize * self.control_bytes
    }

    /// Where the bytes of a buffer start.
    #[inline]
    pub(crate) fn data(&self, slot: u32) -> usize {
        self.data + slot as usize * self.buffer_bytes
    }
}

const RECORDS_SHIFT: u32 = 28;
const SEALED: u64 = 1 << 47;
const TURN_SHIFT: u32 = 48;
const BYTES_MASK: u64 = (1 << RECORDS_SHIFT) - 1;
const RECORDS_MASK: u64 = (1 << 19) - 1;

/// The state of a buffer: bytes and records reserved, whether it is sealed, and which turn of the ring
/// this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State(pub(crate) u64);

impl State {
    /// A fresh turn.
    pub(crate) fn open(turn: u64) -> State {
        State(Self::tag(turn) << TURN_SHIFT)
    }

    fn tag(turn: u64) -> u64 {
        turn % 0xffff + 1
    }

    pub(crate) fn is_turn(self, turn: u64) -> bool {
        self.0 >> TURN_SHIFT == Self::tag(turn)
    }

    pub(crate) fn is_free(self) -> bool {
        self.0 >> TURN_SHIFT == 0
    }

    pub(crate) fn bytes(self) -> usize {
        (self.0 & BYTES_MASK) as usize
    }

    pub(crate) fn records(self) -> usize {
        ((self.0 >> RECORDS_SHIFT) & RECORDS_MASK) as usize
    }

    pub(crate) fn is_sealed(self) -> bool {
        self.0 & SEALED != 0
    }

    pub(crate) fn sealed(self) -> State {
        State(self.0 | SEALED)
    }

    /// With `count` more records of `len` bytes in all.
    #[inline]
    pub(crate) fn with(self, len: usize, count: usize) -> State {
        State(self.0 + len as u64 + ((count as u64) << RECORDS_SHIFT))
    }
}

/// A word of the commit table that names no record: padding, or a part of a group whose first word names it
/// all. It lies beyond every buffer.
pub(crate) const NO_RECORD: u64 = u32::MAX as u64;

/// A word of the commit table: where a whole record lies, or the records of a group.
pub(crate) fn commit_word(offset: usize, len: usize) -> u64 {
    offset as u64 | (len as u64) << 32
}

/// Offset and length of what was committed.
pub(crate) fn split_commit_word(word: u64) -> (usize, usize) {
    ((word & 0xffff_ffff) as usize, (word >> 32) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_do_not_overlap_and_a_header_comes_back() {
        let geometry = Geometry::for_chunks(8 << 20, 3, 4);
        let owner = Owner { store: StoreId([7; 16]), life: LifeNumber(9), boot: BootId([1; 16]) };
        assert_eq!(Geometry::decode(&geometry.encode(&owner)), Ok((geometry, owner)));
        let last_control = geometry.of_writer(2).control(3) + geometry.control_bytes();
        assert_eq!(last_control, geometry.of_writer(0).data(0));
        assert_eq!(
            geometry.of_writer(2).data(3) + geometry.buffer_bytes as usize,
            geometry.file_bytes()
        );
        assert!(geometry.of_writer(1).data(2).is_multiple_of(ALIGNMENT));
        let mut torn = geometry.encode(&owner);
        torn[33] ^= 1;
        assert!(Geometry::decode(&torn).is_err());
    }

    #[test]
    fn a_state_counts_and_its_turn_is_never_taken_for_free() {
        for turn in [0, 1, 65_534, 65_535, 65_536, u64::MAX >> 17] {
            let state = State::open(turn).with(300, 1).with(5, 7);
            assert!(state.is_turn(turn) && !state.is_turn(turn + 1) && !state.is_free());
            assert_eq!((state.bytes(), state.records(), state.is_sealed()), (305, 8, false));
            assert!(state.sealed().is_sealed() && state.sealed().bytes() == 305);
        }
    }
}
