//! What ties a block to its chunk: the checksum of store, chunk and life, from which its CRC starts.
//!
//! Invariant: bytes of another store, another chunk or a former life never validate. A chunk id is never
//! used twice, so a binding is as unique as 32 bits allow. Writers compute one per chunk, readers one per
//! chunk header. See `docs/format.md`, section 7.

use super::crc;
use super::ids::{ChunkId, LifeNumber, StoreId};

/// The checksum that every block of one chunk starts from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Binding(u32);

impl Binding {
    /// The binding of the chunk `chunk` in the life `life` of `store`.
    #[must_use]
    pub fn of(store: StoreId, chunk: ChunkId, life: LifeNumber) -> Binding {
        let mut crc = crc::crc32c(&store.0);
        crc = crc::crc32c_append(crc, &chunk.0.to_le_bytes());
        Binding(crc::crc32c_append(crc, &life.0.to_le_bytes()))
    }

    /// The CRC-32C of `bytes`, started from this binding.
    #[must_use]
    pub fn crc(self, bytes: &[u8]) -> u32 {
        crc::crc32c_append(self.0, bytes)
    }

    /// The one binding from which `bytes` give `crc`.
    #[must_use]
    pub fn that_gives(crc: u32, bytes: &[u8]) -> Binding {
        Binding(crc::crc32c_before(crc, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_store_chunk_or_life_gives_another_binding() {
        let own = Binding::of(StoreId([1; 16]), ChunkId(2), LifeNumber(3));
        assert_ne!(own, Binding::of(StoreId([2; 16]), ChunkId(2), LifeNumber(3)));
        assert_ne!(own, Binding::of(StoreId([1; 16]), ChunkId(3), LifeNumber(3)));
        assert_ne!(own, Binding::of(StoreId([1; 16]), ChunkId(2), LifeNumber(4)));
        assert_ne!(own.crc(b"same bytes"), crc::crc32c(b"same bytes"));
        assert_eq!(Binding::that_gives(own.crc(b"same bytes"), b"same bytes"), own);
    }
}
