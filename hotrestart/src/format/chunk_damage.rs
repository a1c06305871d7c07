//! What a chunk's header still says when its checksum does not match.
//!
//! Invariant: a header is restored only if the checksum that it bears says so: its fields, or these with one
//! bit turned round, and zeros for all that this version writes as zeros. So whatever hits only the zeros,
//! and a single bit anywhere, is made good, and nothing is guessed; of the arbitrary bytes with a chunk's
//! magic one in five million is restored by chance. Callers: `restart/torn_headers.rs`, which asks the
//! chunk's blocks as well. Cost: up to 900 checksums of 4 KiB, for a header that is damaged. See
//! `docs/format.md`, section 7.

use std::ops::Range;

use super::bytes::{id_at, u32_at, u64_at};
use super::chunk::{CHUNK_HEADER_LEN, CRC_AT, ChunkHeader};
use super::ids::{ChunkId, LifeNumber, StoreId, WriterId};

/// Where something is that may differ from header to header.
const FIELDS: [Range<usize>; 3] = [0..96, 168..176, CRC_AT..CHUNK_HEADER_LEN];

/// The header that the first bytes of a chunk were before they were damaged, if that can be known.
#[must_use]
pub fn restore(bytes: &[u8]) -> Option<ChunkHeader> {
    let bytes = bytes.get(..CHUNK_HEADER_LEN)?;
    let mut header = [0; CHUNK_HEADER_LEN];
    for field in FIELDS {
        header[field.clone()].copy_from_slice(&bytes[field]);
    }
    if let Ok(header) = ChunkHeader::decode(&header) {
        return Some(header);
    }
    FIELDS.into_iter().flatten().flat_map(|at| (0..8).map(move |bit| (at, bit))).find_map(
        |(at, bit)| {
            header[at] ^= 1 << bit;
            let decoded = ChunkHeader::decode(&header);
            header[at] ^= 1 << bit;
            decoded.ok()
        },
    )
}

/// What the fields of a damaged header say, each of which may be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    /// The store.
    pub store: StoreId,
    /// The chunk.
    pub chunk: ChunkId,
    /// The life.
    pub life: LifeNumber,
    /// The writer.
    pub writer: WriterId,
    /// Whether the chunk holds survivors.
    pub is_survivors: bool,
}

impl Said {
    /// What the header at the start of `bytes` says; `None` when these are fewer than a header has.
    #[must_use]
    pub fn by(bytes: &[u8]) -> Option<Said> {
        let bytes = bytes.get(..CHUNK_HEADER_LEN)?;
        Some(Said {
            store: StoreId(id_at(bytes, 16)),
            chunk: ChunkId(u64_at(bytes, 32)),
            life: LifeNumber(u64_at(bytes, 40)),
            writer: WriterId(u32_at(bytes, 48)),
            is_survivors: u32_at(bytes, 52) == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{BlockNumber, ChunkOrigin};

    fn header() -> (ChunkHeader, Vec<u8>) {
        let header = ChunkHeader {
            store: StoreId([7; 16]),
            chunk: ChunkId(3 << 32 | 5),
            life: LifeNumber(3),
            writer: WriterId(1),
            chunk_size: 1 << 20,
            first_block: BlockNumber(77),
            flushed: BlockNumber(70),
            written: BlockNumber(75),
            live_bytes: 123_456,
            origin: ChunkOrigin::Changes,
            clock: 9_876_543,
        };
        let mut bytes = vec![0; CHUNK_HEADER_LEN];
        header.encode_into(&mut bytes);
        (header, bytes)
    }

    #[test]
    fn every_single_bit_of_a_chunk_header_can_be_made_good() {
        let (header, mut bytes) = header();
        for at in 0..CHUNK_HEADER_LEN {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert_eq!(restore(&bytes).as_ref(), Some(&header), "byte {at}, bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn what_hits_only_zeros_can_be_made_good_and_two_wrong_bits_of_fields_never_are() {
        let (header, mut bytes) = header();
        bytes[100..168].fill(0xa5);
        bytes[512..3_584].fill(0xff);
        bytes[40] ^= 1;
        assert_eq!(restore(&bytes), Some(header), "zeros and one bit");
        for (at, bit) in (0..96).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            if (at, bit) != (40, 0) {
                bytes[at] ^= 1 << bit;
                assert_eq!(restore(&bytes), None, "byte {at}, bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn a_header_of_which_a_crash_cut_off_a_part_is_no_header() {
        let (older, before) = header();
        let mut after = before.clone();
        ChunkHeader { chunk: ChunkId(3 << 32 | 6), first_block: BlockNumber(80), ..older }
            .encode_into(&mut after);
        for before in [before, vec![0; CHUNK_HEADER_LEN]] {
            for sectors in 1..(1 << 8) - 1 {
                let mut torn = before.clone();
                for sector in (0..8).filter(|sector| sectors >> sector & 1 == 1) {
                    let sector = sector * 512..(sector + 1) * 512;
                    torn[sector.clone()].copy_from_slice(&after[sector]);
                }
                if torn != before && torn != after {
                    assert_eq!(restore(&torn), None, "sectors {sectors:08b}");
                }
            }
        }
        assert_eq!(restore(&[]), None);
        assert_eq!(Said::by(&after).map(|said| said.chunk), Some(ChunkId(3 << 32 | 6)));
    }
}
