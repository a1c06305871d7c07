//! Where the buckets of a table lie: segments that are added one at a time and never move.
//!
//! Bucket 0 stands alone. Buckets 1 to 511 lie in nine segments of 1, 2, 4, ... 256 buckets; all others in
//! segments of 512 (32 KiB). The table's directory (512 bytes) has the nine, then the leaves that list the
//! others: leaves of 8, 16, ... 4096 segments, then of 4096. A table of one entry costs one bucket; a table
//! of a hundred million makes three dependent loads before its bucket, the first two from lines that stay in
//! the cache.

/// Words of a directory.
pub(crate) const DIRECTORY_WORDS: u64 = 64;
/// Buckets of a full segment.
pub(crate) const SEGMENT_BUCKETS: u64 = 512;
/// Words of a directory that locate segments; the others locate leaves.
pub(crate) const SMALL: u64 = 9;
const DOUBLING_LEAVES: u64 = 10;
const LEAF_MIN: u64 = 8;
const LEAF_MAX: u64 = 4096;
/// Segments listed by the leaves that double.
const DOUBLING_SEGMENTS: u64 = LEAF_MIN * ((1 << DOUBLING_LEAVES) - 1);
/// Buckets that a directory has room for.
pub(crate) const BUCKETS_MAX: u64 = SEGMENT_BUCKETS
    * (1 + DOUBLING_SEGMENTS + LEAF_MAX * (DIRECTORY_WORDS - SMALL - DOUBLING_LEAVES));

/// How to reach a bucket other than bucket 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Through a word of the directory, which locates the segment.
    Small {
        /// The directory's word.
        word: u64,
        /// The bucket's index in the segment.
        index: u64,
    },
    /// Through a word of the directory, which locates a leaf, and a word of the leaf.
    Leaf {
        /// The directory's word.
        word: u64,
        /// The leaf's word.
        entry: u64,
        /// The bucket's index in the segment.
        index: u64,
    },
}

/// The path to a bucket, at least 1.
#[inline]
pub(crate) fn path(bucket: u64) -> Path {
    debug_assert!((1..BUCKETS_MAX).contains(&bucket));
    if bucket < SEGMENT_BUCKETS {
        let word = u64::from(bucket.ilog2());
        return Path::Small { word, index: bucket - (1 << word) };
    }
    let index = bucket % SEGMENT_BUCKETS;
    let segment = bucket / SEGMENT_BUCKETS - 1;
    if segment < DOUBLING_SEGMENTS {
        let place = segment + LEAF_MIN;
        let leaf = u64::from(place.ilog2() - LEAF_MIN.ilog2());
        return Path::Leaf { word: SMALL + leaf, entry: place - (LEAF_MIN << leaf), index };
    }
    let rest = segment - DOUBLING_SEGMENTS;
    Path::Leaf { word: SMALL + DOUBLING_LEAVES + rest / LEAF_MAX, entry: rest % LEAF_MAX, index }
}

/// Bytes of the segment that a bucket starts, if it is a segment's first.
pub(crate) fn segment_bytes(bucket: u64) -> Option<u64> {
    match path(bucket) {
        Path::Small { word, index: 0 } => Some(super::word::BUCKET << word),
        Path::Leaf { index: 0, .. } => Some(super::word::BUCKET * SEGMENT_BUCKETS),
        _ => None,
    }
}

/// Bytes of the leaf that a bucket starts, if its segment is a leaf's first.
pub(crate) fn leaf_bytes(bucket: u64) -> Option<u64> {
    match path(bucket) {
        Path::Leaf { word, entry: 0, index: 0 } => Some(leaf_bytes_of(word)),
        _ => None,
    }
}

/// Bytes of the leaf that a word of a directory locates.
pub(crate) fn leaf_bytes_of(word: u64) -> u64 {
    8 * (LEAF_MIN << (word - SMALL)).min(LEAF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_bucket_has_a_place_of_its_own() {
        let mut seen = HashSet::new();
        for bucket in
            (1..20_000).chain(4_000_000..4_010_000).chain(BUCKETS_MAX - 2_000..BUCKETS_MAX)
        {
            let (word, entry, index) = match path(bucket) {
                Path::Small { word, index } => (word, 0, index),
                Path::Leaf { word, entry, index } => (word, entry + 1, index),
            };
            assert!(word < DIRECTORY_WORDS && entry <= LEAF_MAX && index < SEGMENT_BUCKETS);
            assert!(seen.insert((word, entry, index)), "{bucket}");
        }
    }

    #[test]
    fn segments_start_where_the_former_ends() {
        let mut covered = 1;
        for bucket in 1..100_000 {
            if let Some(bytes) = segment_bytes(bucket) {
                assert_eq!(bucket, covered);
                covered += bytes / super::super::word::BUCKET;
            }
        }
    }
}
