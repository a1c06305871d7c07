//! Walks the blocks of one chunk in order, over the damage if there is any.
//!
//! Invariant: every byte from the first block's place to the end of the chunk is in exactly one item: a
//! valid block, or a gap where none begins. After an invalid block the next one is searched at each
//! multiple of 4096. Whether a gap is the chunk's unused end, a torn tail or corruption is for the caller
//! to judge, by block numbers and the known-flushed mark. The loader and `inspect` call it with a whole
//! chunk in memory. Cost: one CRC over the blocks; in a gap one comparison per 4096 bytes. See
//! `docs/format.md`, section 8.

use super::block::{self, BlockError, BlockHeader};
use super::chunk::CHUNK_HEADER_LEN;
use super::{ALIGNMENT, Binding};

/// One stretch of a chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Walked<'a> {
    /// A valid block.
    Block {
        /// Where it begins in the chunk.
        offset: usize,
        /// Its header.
        header: BlockHeader,
        /// Its payload; the first byte is at `offset` + 64 in the chunk.
        payload: &'a [u8],
    },
    /// Bytes in which no valid block begins.
    Gap {
        /// Where it begins in the chunk.
        offset: usize,
        /// Its length in bytes.
        len: usize,
        /// Why no block begins at `offset`.
        error: BlockError,
    },
}

/// The iterator over the blocks and gaps of a chunk.
#[derive(Clone, Debug)]
pub struct ChunkWalk<'a> {
    chunk: &'a [u8],
    offset: usize,
    binding: Binding,
    found: Option<BlockHeader>,
}

impl<'a> ChunkWalk<'a> {
    /// Walks `chunk`, which begins with the chunk's header; the binding is the header's.
    #[must_use]
    pub fn new(chunk: &'a [u8], binding: Binding) -> ChunkWalk<'a> {
        ChunkWalk { chunk, offset: CHUNK_HEADER_LEN, binding, found: None }
    }

    fn block(&mut self, header: BlockHeader) -> Walked<'a> {
        let offset = self.offset;
        let payload = header.payload(&self.chunk[offset..]);
        self.offset += header.sealed_len();
        Walked::Block { offset, header, payload }
    }
}

impl<'a> Iterator for ChunkWalk<'a> {
    type Item = Walked<'a>;

    fn next(&mut self) -> Option<Walked<'a>> {
        if let Some(header) = self.found.take() {
            return Some(self.block(header));
        }
        if self.offset >= self.chunk.len() {
            return None;
        }
        let error = match block::check(&self.chunk[self.offset..], self.binding) {
            Ok(header) => return Some(self.block(header)),
            Err(error) => error,
        };
        let offset = self.offset;
        self.offset += ALIGNMENT;
        while self.offset < self.chunk.len() && self.found.is_none() {
            match block::check(&self.chunk[self.offset..], self.binding) {
                Ok(header) => self.found = Some(header),
                Err(_) => self.offset += ALIGNMENT,
            }
        }
        let end = self.offset.min(self.chunk.len());
        Some(Walked::Gap { offset, len: end - offset, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ids::{BlockNumber, ChunkId, LifeNumber, StoreId};
    use crate::format::{BlockKind, block::BLOCK_HEADER_LEN};

    fn chunk_of(payloads: &[usize], len: usize, binding: Binding) -> Vec<u8> {
        let mut chunk = vec![0; len];
        let mut offset = CHUNK_HEADER_LEN;
        for (number, payload_len) in payloads.iter().enumerate() {
            chunk[offset + BLOCK_HEADER_LEN..][..*payload_len].fill(7);
            let header = BlockHeader {
                number: BlockNumber(number as u64),
                flushed: BlockNumber(0),
                written: BlockNumber(0),
                payload_len: *payload_len as u32,
                records: 0,
                live_mib: 0,
                kind: BlockKind::Records,
            };
            offset += block::seal(&mut chunk[offset..], &header, binding);
        }
        chunk
    }

    fn binding(chunk: u64) -> Binding {
        Binding::of(StoreId([1; 16]), ChunkId(chunk), LifeNumber(1))
    }

    fn stretches(chunk: &[u8]) -> Vec<(usize, usize, Option<u64>)> {
        ChunkWalk::new(chunk, binding(1))
            .map(|walked| match walked {
                Walked::Block { offset, header, .. } => {
                    (offset, header.sealed_len(), Some(header.number.0))
                }
                Walked::Gap { offset, len, .. } => (offset, len, None),
            })
            .collect()
    }

    #[test]
    fn a_damaged_block_does_not_hide_the_blocks_after_it() {
        let mut chunk = chunk_of(&[100, 9000, 10], 40_960, binding(1));
        let whole = stretches(&chunk);
        assert_eq!(
            whole,
            [
                (4096, 4096, Some(0)),
                (8192, 12_288, Some(1)),
                (20_480, 4096, Some(2)),
                (24_576, 16_384, None)
            ]
        );
        chunk[8192 + 5000] ^= 1;
        assert_eq!(stretches(&chunk)[1], (8192, 12_288, None));
        assert_eq!(stretches(&chunk)[2], whole[2]);
    }

    #[test]
    fn blocks_of_the_chunk_that_the_file_held_before_are_a_gap() {
        let mut chunk = chunk_of(&[100, 100, 100, 100], 24_576, binding(9));
        let fresh = chunk_of(&[100], 8192, binding(1));
        chunk[4096..8192].copy_from_slice(&fresh[4096..]);
        assert_eq!(stretches(&chunk), [(4096, 4096, Some(0)), (8192, 16_384, None)]);
    }

    #[test]
    fn a_chunk_of_any_length_is_covered_without_a_hole() {
        for len in [0, 1, 4096, 4097, 8191, 8192, 12_000] {
            let mut at = CHUNK_HEADER_LEN;
            for (offset, stretch, _) in stretches(&vec![0; len]) {
                assert_eq!(offset, at);
                at += stretch;
            }
            assert_eq!(at, len.max(CHUNK_HEADER_LEN));
        }
    }
}
