//! Growth: one bucket at a time, by the operation that made it due, in well under the time of a put.
//!
//! Invariant: a reader finds every key at every step. The words that move are copied into the new bucket
//! before the new count is published, and cleared in the old one after; what stays is not touched. Memory for
//! the new bucket was taken before the lock; without it, or when a chain would be needed for the new bucket,
//! growth waits for the next insert.
//!
//! Whether a word moves depends on its key's hash, read from its slot: the eight slots are fetched together.

use super::segments::BUCKETS_MAX;
use super::table::{Found, Spare, Table};
use super::word::{WORDS, Word, address, second, splits_next};
use crate::ids::Location;

/// Mean entries per bucket at which a table grows, as a fraction: 6.5, a load of 0.81.
const LOAD_NUMERATOR: u64 = 13;
const LOAD_DENOMINATOR: u64 = 2;

/// Whether a table of `buckets` buckets should grow to hold `entries`.
#[inline]
pub(crate) fn is_due(entries: u64, buckets: u64) -> bool {
    entries * LOAD_DENOMINATOR > buckets * LOAD_NUMERATOR && buckets + 1 < BUCKETS_MAX
}

/// Whether growth lags behind by more than a few inserts.
pub(crate) fn is_overdue(entries: u64, buckets: u64) -> bool {
    is_due(entries, buckets + 2)
}

/// Buckets for a table that is to hold `entries`.
pub(crate) fn buckets_for(entries: u64) -> u64 {
    (entries * LOAD_DENOMINATOR).div_ceil(LOAD_NUMERATOR).clamp(1, BUCKETS_MAX - 1)
}

impl Table<'_> {
    /// Splits one bucket if the table is due for it. Called under the stream's lock. Returns whether it did.
    pub(crate) fn grow(&self, spare: &mut Spare, hash_of: impl Fn(Location) -> u64) -> bool {
        let buckets = self.buckets();
        buckets > 0 && is_due(self.entries(), buckets) && self.split(spare, hash_of)
    }

    /// Splits one bucket of a table that has any. Called under the stream's lock. False when memory for it is
    /// not at hand.
    pub(crate) fn split(&self, spare: &mut Spare, hash_of: impl Fn(Location) -> u64) -> bool {
        let buckets = self.buckets();
        if buckets + 1 >= BUCKETS_MAX || !self.extend(buckets, spare) {
            return false;
        }
        let split = splits_next(buckets);
        self.for_each_in_bucket(split, |found| {
            self.arena().prefetch(found.word.location().offset())
        });
        let mut moving: [Option<Found>; WORDS as usize] = [None; WORDS as usize];
        let mut count = 0;
        self.for_each_in_bucket(split, |found| {
            if !stays(hash_of(found.word.location()), split, buckets) {
                if count < moving.len() {
                    moving[count] = Some(found);
                }
                count += 1;
            }
        });
        if count > moving.len() {
            return self.grow_chained(split, buckets, spare, &hash_of);
        }
        let target = self.bucket(buckets);
        for (index, found) in moving.iter().flatten().enumerate() {
            self.publish(target + index as u64 * 8, found.word);
        }
        self.publish_buckets(buckets + 1);
        for found in moving.iter().flatten() {
            self.publish(found.place, Word::EMPTY);
        }
        self.shorten_chain(self.bucket(split));
        true
    }

    /// The rare split of a bucket with a chain of which more than a bucket's worth moves: the overflow
    /// buckets for the new bucket's chain must be at hand, else each insert that comes brings one, and growth
    /// waits.
    #[cold]
    fn grow_chained(
        &self,
        split: u64,
        buckets: u64,
        spare: &mut Spare,
        hash_of: &impl Fn(Location) -> u64,
    ) -> bool {
        let mut moving = Vec::new();
        self.for_each_in_bucket(split, |found| {
            if !stays(hash_of(found.word.location()), split, buckets) {
                moving.push(found);
            }
        });
        // A bucket of a chain gives its last word up for a link to the next one.
        let wanted = (moving.len() as u64 - 1).div_ceil(WORDS - 1) - 1;
        if self.stock_overflow(spare, wanted) < wanted {
            return false;
        }
        let target = self.bucket(buckets);
        for (index, found) in moving.iter().take(WORDS as usize).enumerate() {
            self.publish(target + index as u64 * 8, found.word);
        }
        for found in moving.iter().skip(WORDS as usize) {
            if let Some(place) = self.free_place_in_chain(target) {
                self.publish(place, found.word);
            } else {
                let overflow =
                    self.take_overflow(spare).expect("as many as are wanted were counted");
                self.chain(target, overflow, found.word);
            }
        }
        self.publish_buckets(buckets + 1);
        for found in &moving {
            self.publish(found.place, Word::EMPTY);
        }
        self.shorten_chain(self.bucket(split));
        true
    }
}

/// Whether a word of the split bucket can still be found there when the table has one bucket more.
fn stays(hash: u64, split: u64, buckets: u64) -> bool {
    address(hash, buckets + 1) == split || address(second(hash), buckets + 1) == split
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::testbed::{Testbed, hash};

    #[test]
    fn a_bucket_whose_chain_grew_long_while_memory_was_short_splits_when_there_is_some_again() {
        // Growth was refused while 40 keys came, of which 38 belong to the bucket that comes next.
        let hashes: Vec<u64> =
            (0..40).map(|key| hash(u64::from(key > 1), u64::from(key > 1), key)).collect();
        let bed = Testbed::new(hashes);
        (0..40).for_each(|key| bed.insert(key));
        assert_eq!(bed.table().buckets(), 1);
        let mut tries = 0;
        while bed.table().buckets() == 1 {
            tries += 1;
            assert!(tries < 10, "growth waits for ever");
            bed.grow();
        }
        for key in 0..40 {
            assert_eq!(bed.find(key), Some(0), "key {key} is lost");
        }
        let counts = bed.table().counts();
        assert_eq!((counts.entries, counts.buckets), (40, 2));
    }
}
