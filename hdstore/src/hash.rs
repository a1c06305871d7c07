//! The hashes: which stream a key goes to, and where in a table it lies.
//!
//! Bucket, second place and tag come from a hash of 48 bits with the store's seed (`docs/format.md`, section
//! 3): few enough for a line of a chunk's directory, so that a log can look a record up without its key.
//! The stream of a key, where the store chooses it, comes from a hash without seed: it must be the same at
//! every opening, and the keys of one stream must still spread over the whole of their table.

use rapidhash::v3::{RapidSecrets, rapidhash_v3, rapidhash_v3_micro_inline};

use crate::ids::StreamId;

/// The index hash of one store. The log needs it for the directories of its chunks.
#[derive(Clone, Debug)]
pub struct IndexHash {
    secrets: RapidSecrets,
}

impl IndexHash {
    /// The bits of a hash.
    pub const BITS: u32 = 48;

    /// The hash with a seed.
    pub fn new(seed: u64) -> IndexHash {
        IndexHash { secrets: RapidSecrets::seed(seed) }
    }

    /// The hash of a key: below `1 << IndexHash::BITS`.
    #[inline]
    pub fn of(&self, key: &[u8]) -> u64 {
        rapidhash_v3_micro_inline::<true, false>(key, &self.secrets) >> (64 - Self::BITS)
    }
}

/// The stream of a key in a store of `streams` streams.
#[inline]
pub(crate) fn stream_of(key: &[u8], streams: u32) -> StreamId {
    let hash = rapidhash_v3(key) >> 32;
    StreamId(((hash * u64::from(streams)) >> 32) as u32)
}
