//! Inserting: a place for a new key's word, and the chains of buckets that are full in spite of two places.
//!
//! Invariant: a word that moves is copied first, the version changes next, the old place is cleared last; so
//! a reader finds it in one place or the other, or sees the new version and looks again. An overflow bucket
//! that is not in a chain is empty but for its last word, and is in its table's stock.
//!
//! Caller: `store/put.rs` and `store/apply.rs` under the stream's lock, `grow.rs`. Cost: the two buckets'
//! lines; up to eight slots' lines when both are full.

use std::sync::atomic::Ordering::Acquire;

use super::table::{
    BUCKET_0, COUNT_MASK, Homes, IDENTITY, OVERFLOW, OVERFLOW_BITS, Spare, Table, WALK, Wants,
};
use super::word::{WORDS, Word, address, second};
use crate::ids::Location;

impl Table<'_> {
    /// Puts a new key's word into a free place; makes one by moving another key to its other place when both
    /// are full. `Err` when that needs memory that `spare` does not have.
    pub(crate) fn insert(
        &self,
        homes: Homes,
        word: Word,
        spare: &mut Spare,
        hash_of: impl Fn(Location) -> u64,
    ) -> Result<(), Wants> {
        if self.buckets() == 0 {
            let Some(bucket) = spare.bucket_0.take() else {
                return Err(Wants { bucket_0: true, ..Wants::default() });
            };
            self.lead_to(BUCKET_0, bucket);
            self.publish_buckets(1);
        }
        let Homes { shape, home, other, .. } = self.still(homes);
        let buckets = shape & COUNT_MASK;
        // The emptier of the two: buckets that have not split yet in this round of growth get twice as many
        // keys as those that have, and only both places together keep the load even.
        let (first, then) = if self.free_words(other) > self.free_words(home) {
            (other, home)
        } else {
            (home, other)
        };
        let place = self
            .free_place(first)
            .or_else(|| self.free_place(then))
            .or_else(|| self.free_place_in_chain(home))
            .or_else(|| self.make_place(home, buckets, &hash_of))
            .or_else(|| self.make_place(other, buckets, &hash_of));
        if let Some(place) = place {
            self.publish(place, word);
            return Ok(());
        }
        let Some(overflow) = self.take_overflow(spare) else {
            return Err(Wants { overflow: true, ..Wants::default() });
        };
        self.chain(home, overflow, word);
        Ok(())
    }

    /// Empties a place of a full bucket by moving its word to the key's other bucket, if one of them has room
    /// there.
    #[cold]
    fn make_place(
        &self,
        base: u64,
        buckets: u64,
        hash_of: &impl Fn(Location) -> u64,
    ) -> Option<u64> {
        if self.get(IDENTITY) >= WALK {
            return None;
        }
        for index in 0..WORDS {
            self.arena.prefetch(self.load(base + index * 8).location().offset());
        }
        for index in 0..WORDS {
            let place = base + index * 8;
            let word = self.load(place);
            if !word.is_entry() {
                continue;
            }
            let hash = hash_of(word.location());
            let both =
                [self.bucket(address(hash, buckets)), self.bucket(address(second(hash), buckets))];
            let elsewhere = both
                .into_iter()
                .filter(|other| *other != base)
                .find_map(|other| self.free_place(other));
            if let Some(target) = elsewhere {
                self.publish(target, word);
                self.publish_moves();
                self.publish(place, Word::EMPTY);
                return Some(place);
            }
        }
        None
    }

    /// An empty overflow bucket: one that was used before, or the spare.
    pub(super) fn take_overflow(&self, spare: &mut Spare) -> Option<u64> {
        let state = self.get(OVERFLOW);
        let free = state >> OVERFLOW_BITS;
        if free == 0 {
            let bucket = spare.overflow.take()?;
            self.count_overflow(state);
            return Some(bucket);
        }
        let base = Location(free).offset();
        let next = self.load(base + (WORDS - 1) * 8);
        let next = if next.is_link() { next.location().0 } else { 0 };
        self.publish(base + (WORDS - 1) * 8, Word::EMPTY);
        self.set(OVERFLOW, self.overflow_buckets() | next << OVERFLOW_BITS);
        Some(base)
    }

    /// Keeps an overflow bucket that was emptied for the next chain of this table. A reader that is still in
    /// it finds words of this table only, and looks again when it misses.
    fn keep_overflow(&self, base: u64) {
        let free = self.get(OVERFLOW) >> OVERFLOW_BITS;
        let next = if free == 0 { Word::EMPTY } else { Word::link(Location(free).offset()) };
        self.publish(base + (WORDS - 1) * 8, next);
        self.set(
            OVERFLOW,
            self.overflow_buckets() | Location::from_offset(base).0 << OVERFLOW_BITS,
        );
    }

    /// Counts one overflow bucket more; a table with four millions of them stops counting.
    fn count_overflow(&self, state: u64) {
        if self.overflow_buckets() < (1 << OVERFLOW_BITS) - 1 {
            self.set(OVERFLOW, state + 1);
        }
    }

    /// Puts the spare overflow bucket into stock, for a split that needs several, and says how many are in
    /// stock, up to `enough`.
    pub(super) fn stock_overflow(&self, spare: &mut Spare, enough: u64) -> u64 {
        if let Some(bucket) = spare.overflow.take() {
            self.count_overflow(self.get(OVERFLOW));
            self.keep_overflow(bucket);
        }
        let mut stocked = 0;
        let mut free = self.get(OVERFLOW) >> OVERFLOW_BITS;
        while free != 0 && stocked < enough {
            stocked += 1;
            let next = self.load(Location(free).offset() + (WORDS - 1) * 8);
            free = if next.is_link() { next.location().0 } else { 0 };
        }
        stocked
    }

    pub(super) fn overflow_buckets(&self) -> u64 {
        self.get(OVERFLOW) & ((1 << OVERFLOW_BITS) - 1)
    }

    /// Moves words from a bucket's chain to the bucket, and takes the chain's first bucket out when it is
    /// empty.
    pub(super) fn shorten_chain(&self, home: u64) {
        let link = home + (WORDS - 1) * 8;
        while self.load(link).is_link() {
            let base = self.load(link).location().offset();
            for index in 0..WORDS {
                let from = base + index * 8;
                if self.load(from).is_entry()
                    && let Some(place) = self.free_place(home)
                {
                    self.publish(place, self.load(from));
                    self.publish_moves();
                    self.publish(from, Word::EMPTY);
                }
            }
            if (0..WORDS - 1).any(|index| !self.load(base + index * 8).is_empty()) {
                return;
            }
            // What is left, if anything, stands in the last word: a link or an entry, and takes the place of
            // the link here: a copy that hides the old place, before any version says so (`scan_chain`).
            self.publish(link, self.load(base + (WORDS - 1) * 8));
            self.publish_moves();
            self.keep_overflow(base);
        }
    }

    fn free_words(&self, base: u64) -> usize {
        self.empty(base).count_ones() as usize
    }

    pub(super) fn free_place(&self, base: u64) -> Option<u64> {
        let empty = self.empty(base);
        (empty != 0).then(|| base + u64::from(empty.trailing_zeros()) * 8)
    }

    /// Which words of a bucket are empty, a bit for each.
    #[inline]
    fn empty(&self, base: u64) -> u32 {
        let words = self.arena.words(base);
        let bit = |index: usize| u32::from(words[index].load(Acquire) == 0);
        (0..WORDS as usize).rev().fold(0, |mask, index| mask << 1 | bit(index))
    }

    pub(super) fn free_place_in_chain(&self, home: u64) -> Option<u64> {
        let mut link = self.load(home + (WORDS - 1) * 8);
        while link.is_link() {
            let base = link.location().offset();
            if let Some(place) = self.free_place(base) {
                return Some(place);
            }
            link = self.load(base + (WORDS - 1) * 8);
        }
        None
    }

    /// Hangs a zeroed bucket at the end of a full chain and puts `word` there. The last word of the former
    /// end moves along, and is readable in one place or the other at every moment.
    pub(super) fn chain(&self, home: u64, overflow: u64, word: Word) {
        let mut last = home + (WORDS - 1) * 8;
        while self.load(last).is_link() {
            last = self.load(last).location().offset() + (WORDS - 1) * 8;
        }
        self.publish(overflow, self.load(last));
        self.publish(overflow + 8, word);
        self.publish(last, Word::link(overflow));
    }
}
