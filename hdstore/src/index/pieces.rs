//! The pieces of memory that a table is made of: which it wants next, putting them in place, what they come
//! to.
//!
//! Invariant: a bucket below the count lies in a segment that is in place, reached through a directory and a
//! leaf that are in place; each is published before the count that needs it. Pieces are zeroed before, never
//! move, and go only with the whole table (`detach.rs`).
//!
//! Caller: `store/put.rs` asks before the stream's lock what the next insert may need; `grow.rs` puts it in
//! place.

use std::sync::atomic::Ordering::{Relaxed, Release};

use super::segments::{DIRECTORY_WORDS, Path, leaf_bytes, path, segment_bytes};
use super::table::{DIRECTORY, ENTRIES, Spare, Table, Wants};
use super::word::BUCKET;

impl Table<'_> {
    /// Whether the next insert may need anything; asked without the lock.
    #[inline]
    pub(crate) fn wants_any(&self) -> bool {
        let buckets = self.buckets();
        buckets == 0 || super::grow::is_due(self.get(ENTRIES) + 1, buckets)
    }

    /// What the next insert may need; asked without the lock.
    pub(crate) fn wants(&self) -> Wants {
        let buckets = self.buckets();
        if buckets == 0 {
            return Wants { bucket_0: true, ..Wants::default() };
        }
        if !self.wants_any() {
            return Wants::default();
        }
        // A split that lags has met a chain, and needs buckets for the new one's.
        let overflow = super::grow::is_overdue(self.get(ENTRIES), buckets);
        Wants { overflow, ..self.wants_of_split() }
    }

    /// What the next split needs; asked without the lock.
    pub(crate) fn wants_of_split(&self) -> Wants {
        let buckets = self.buckets();
        Wants {
            directory: self.get(DIRECTORY) == 0,
            leaf: leaf_bytes(buckets),
            segment: segment_bytes(buckets),
            ..Wants::default()
        }
    }

    /// Calls `each` with the bytes of each piece that the table may want while `count` keys come; asked
    /// without the lock. What it lacks then, growth waits for.
    pub(crate) fn wants_of_growth(&self, count: u64, mut each: impl FnMut(u64)) {
        let first = self.buckets().max(1);
        // A split that lags has met a chain: each key that comes brings a bucket for the new one's.
        if super::grow::is_overdue(self.get(ENTRIES), first) {
            (0..count).for_each(|_| each(BUCKET));
        }
        let entries = self.get(ENTRIES) + count;
        let splits = first..first + count;
        for bucket in splits.take_while(|buckets| super::grow::is_due(entries, *buckets)) {
            if bucket == first && self.get(DIRECTORY) == 0 {
                each(DIRECTORY_WORDS * 8);
            }
            leaf_bytes(bucket).into_iter().chain(segment_bytes(bucket)).for_each(&mut each);
        }
    }

    /// Puts a spare directory, leaf and segment in place for the bucket that comes next. False when one is
    /// missing.
    pub(super) fn extend(&self, bucket: u64, spare: &mut Spare) -> bool {
        if self.get(DIRECTORY) == 0 {
            let Some(directory) = spare.directory.take() else { return false };
            self.lead_to(DIRECTORY, directory);
        }
        let directory = self.get(DIRECTORY);
        let (list, slot) = match path(bucket) {
            Path::Small { word, .. } => (directory, word),
            Path::Leaf { word, entry, .. } => {
                if let Some(bytes) = leaf_bytes(bucket)
                    && self.arena.word(directory + word * 8).load(Relaxed) == 0
                {
                    let Some((_, leaf)) = spare.leaf.take_if(|leaf| leaf.0 == bytes) else {
                        return false;
                    };
                    self.arena.word(directory + word * 8).store(leaf, Release);
                }
                (self.arena.word(directory + word * 8).load(Relaxed), entry)
            }
        };
        if let Some(bytes) = segment_bytes(bucket)
            && self.arena.word(list + slot * 8).load(Relaxed) == 0
        {
            let Some((_, segment)) = spare.segment.take_if(|segment| segment.0 == bytes) else {
                return false;
            };
            self.arena.word(list + slot * 8).store(segment, Release);
        }
        true
    }

    /// Bytes of index memory besides the header: buckets, directory, leaves.
    pub(crate) fn index_bytes(&self) -> u64 {
        self.pieces().bytes(self.arena) + self.overflow_buckets() * BUCKET
    }
}
