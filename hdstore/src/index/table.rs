//! A table: the buckets of one map in one stream, searched by anybody and changed by one.
//!
//! Invariant: a key is in at most one word, in its home bucket, its second bucket or the chain of either; a word never
//! moves without being readable in one of both places all the time, and every move changes the version beside the bucket
//! count before the old place is cleared. `find` needs no lock: a hit is checked against the key by the caller, and a miss
//! counts only when count and version are still those it started from.
//!
//! Callers: `store/`. All methods that change anything are called under the stream's lock. Cost of a hit: the home bucket's
//! line and the slot's; of a miss two buckets' lines, fetched together.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::segments::{DIRECTORY_WORDS, Path, leaf_bytes, path, segment_bytes};
use super::word::{BUCKET, WORDS, Word, address, second, tag_of};
use crate::arena::Arena;
use crate::ids::{Location, MapId, StreamId};
use crate::sync::fence;

/// Bytes of a table's header: all that an empty table costs.
pub(crate) const TABLE_BYTES: u64 = 64;
const _: () = assert!(TABLE_BYTES == 64, "1,000 maps of 271 partitions, empty, cost at most 40 MB");

/// Bucket count in the low 40 bits, version in the high 24: it changes with every move of a word.
const BUCKETS: u64 = 0;
const COUNT_MASK: u64 = (1 << 40) - 1;
const VERSION_STEP: u64 = 1 << 40;
const BUCKET_0: u64 = 8;
const ENTRIES: u64 = 16;
const LIVE_BYTES: u64 = 24;
const SLOT_BYTES: u64 = 32;
/// Overflow buckets in the low 22 bits, location of the first free one in the others.
const OVERFLOW: u64 = 40;
const OVERFLOW_BITS: u32 = 22;
/// Map id (32 bits), stream (16), walks under way (16).
const IDENTITY: u64 = 48;
const WALK: u64 = 1 << 48;
const DIRECTORY: u64 = 56;

/// A table of one node.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    arena: &'a Arena,
    header: u64,
}

/// A word of the index and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) place: u64,
    pub(crate) word: Word,
}

/// Memory that a table may need for its next insert, taken before its stream's lock. All zeros.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spare {
    pub(crate) bucket_0: Option<u64>,
    pub(crate) directory: Option<u64>,
    pub(crate) leaf: Option<(u64, u64)>,
    pub(crate) segment: Option<(u64, u64)>,
    pub(crate) overflow: Option<u64>,
}

/// Which pieces of memory a table's next insert may need, in bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) bucket_0: bool,
    pub(crate) directory: bool,
    pub(crate) leaf: Option<u64>,
    pub(crate) segment: Option<u64>,
    pub(crate) overflow: bool,
}

/// What a table holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableCounts {
    pub(crate) entries: u64,
    pub(crate) live_bytes: u64,
    pub(crate) slot_bytes: u64,
    pub(crate) buckets: u64,
    pub(crate) overflow_buckets: u64,
}

impl<'a> Table<'a> {
    pub(crate) fn at(arena: &'a Arena, header: u64) -> Table<'a> {
        Table { arena, header }
    }

    /// Sets a fresh, zeroed header up.
    pub(crate) fn create(&self, map: MapId, stream: StreamId) {
        self.set(IDENTITY, u64::from(map.0) | u64::from(stream.0) << 32);
    }

    /// Notes that a walk over the table begins: until it ends, words stay in their bucket's family. The caller then takes
    /// and lets go the stream's lock, so that a change under way is over.
    pub(crate) fn begin_walk(&self) {
        self.arena.word(self.header + IDENTITY).fetch_add(WALK, Relaxed);
    }

    pub(crate) fn end_walk(&self) {
        self.arena.word(self.header + IDENTITY).fetch_sub(WALK, Relaxed);
    }

    fn get(&self, field: u64) -> u64 {
        self.arena.word(self.header + field).load(Relaxed)
    }

    fn set(&self, field: u64, value: u64) {
        self.arena.word(self.header + field).store(value, Relaxed);
    }

    pub(super) fn arena(&self) -> &'a Arena {
        self.arena
    }

    /// Bucket count and version together: equal at two times when no word has moved in between.
    pub(crate) fn shape(&self) -> u64 {
        self.arena.word(self.header + BUCKETS).load(Acquire)
    }

    /// Whether the shape is still the one that was read before the words that the caller has looked at.
    pub(crate) fn is_shape(&self, shape: u64) -> bool {
        fence(Acquire);
        self.arena.word(self.header + BUCKETS).load(Relaxed) == shape
    }

    pub(crate) fn buckets(&self) -> u64 {
        self.shape() & COUNT_MASK
    }

    /// Publishes a bucket count. Whoever misses a key that moved before this looks again.
    pub(super) fn publish_buckets(&self, buckets: u64) {
        let version = self.get(BUCKETS) & !COUNT_MASK;
        self.arena
            .word(self.header + BUCKETS)
            .store(version.wrapping_add(VERSION_STEP) | buckets, Release);
    }

    /// Publishes that words were copied elsewhere, before they are cleared where they were.
    pub(super) fn publish_moves(&self) {
        self.publish_buckets(self.get(BUCKETS) & COUNT_MASK);
    }

    pub(crate) fn counts(&self) -> TableCounts {
        TableCounts {
            entries: self.get(ENTRIES),
            live_bytes: self.get(LIVE_BYTES),
            slot_bytes: self.get(SLOT_BYTES),
            buckets: self.get(BUCKETS) & COUNT_MASK,
            overflow_buckets: self.overflow_buckets(),
        }
    }

    pub(crate) fn entries(&self) -> u64 {
        self.get(ENTRIES)
    }

    /// Notes that an entry came.
    pub(crate) fn add(&self, live_bytes: u64, slot_bytes: u64) {
        self.set(ENTRIES, self.get(ENTRIES) + 1);
        self.set(LIVE_BYTES, self.get(LIVE_BYTES) + live_bytes);
        self.set(SLOT_BYTES, self.get(SLOT_BYTES) + slot_bytes);
    }

    /// Notes that an entry left.
    pub(crate) fn sub(&self, live_bytes: u64, slot_bytes: u64) {
        self.set(ENTRIES, self.get(ENTRIES) - 1);
        self.set(LIVE_BYTES, self.get(LIVE_BYTES) - live_bytes);
        self.set(SLOT_BYTES, self.get(SLOT_BYTES) - slot_bytes);
    }

    /// Where a bucket lies.
    #[inline(always)]
    pub(super) fn bucket(&self, bucket: u64) -> u64 {
        if bucket == 0 {
            return self.arena.word(self.header + BUCKET_0).load(Acquire);
        }
        let directory = self.arena.word(self.header + DIRECTORY).load(Acquire);
        match path(bucket) {
            Path::Small { word, index } => {
                self.arena.word(directory + word * 8).load(Acquire) + index * BUCKET
            }
            Path::Leaf { word, entry, index } => {
                let leaf = self.arena.word(directory + word * 8).load(Acquire);
                self.arena.word(leaf + entry * 8).load(Acquire) + index * BUCKET
            }
        }
    }

    /// Fetches the lines that a search for `hash` starts with.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        let buckets = self.buckets();
        if buckets > 0 {
            self.arena.prefetch(self.bucket(address(hash, buckets)));
            self.arena.prefetch(self.bucket(address(second(hash), buckets)));
        }
    }

    /// The first word that may be the key's home, for prefetching its slot; no promise.
    #[inline]
    pub(crate) fn likely(&self, hash: u64) -> Option<Word> {
        let buckets = self.buckets();
        if buckets == 0 {
            return None;
        }
        let tag = tag_of(hash);
        let home = self.bucket(address(hash, buckets));
        let other = self.bucket(address(second(hash), buckets));
        let place = [home, other].into_iter().find_map(|base| {
            let mask = self.with_tag(base, tag);
            (mask != 0).then(|| base + u64::from(mask.trailing_zeros()) * 8)
        });
        let word = self.load(place?);
        word.has_tag(tag).then_some(word)
    }

    #[inline]
    pub(super) fn load(&self, place: u64) -> Word {
        Word(self.arena.word(place).load(Acquire))
    }

    /// Replaces a word: the one store by which readers see a new value, or none.
    #[inline]
    pub(crate) fn publish(&self, place: u64, word: Word) {
        self.arena.word(place).store(word.0, Release);
    }

    /// Finds the word of a key: the first with the hash's tag that `is_key` accepts.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is_key: impl FnMut(Word) -> bool) -> Option<Found> {
        let tag = tag_of(hash);
        loop {
            let shape = self.shape();
            let buckets = shape & COUNT_MASK;
            if buckets == 0 {
                return None;
            }
            let home_bucket = address(hash, buckets);
            let second_bucket = address(second(hash), buckets);
            let home = self.bucket(home_bucket);
            let other = self.bucket(second_bucket);
            self.arena.prefetch(other);
            if let Some(found) = self.scan(home, tag, &mut is_key) {
                return Some(found);
            }
            if let Some(found) = self.scan(other, tag, &mut is_key) {
                return Some(found);
            }
            if let Some(found) = self.scan_chain(home, tag, &mut is_key) {
                return Some(found);
            }
            if second_bucket != home_bucket
                && let Some(found) = self.scan_chain(other, tag, &mut is_key)
            {
                return Some(found);
            }
            if self.is_shape(shape) {
                return None;
            }
        }
    }

    /// Which words of a bucket have a tag, a bit for each. Without a branch, so that the processor goes on to the slot, and
    /// to the next search, while the bucket's line is on its way.
    #[inline(always)]
    fn with_tag(&self, base: u64, tag: u64) -> u32 {
        let words = self.arena.line(base);
        let bit = |index: usize| u32::from(Word(words[index]).tag() == tag) << index;
        (0..WORDS as usize).fold(0, |mask, index| mask | bit(index))
    }

    #[inline(always)]
    fn scan(&self, base: u64, tag: u64, is_key: &mut impl FnMut(Word) -> bool) -> Option<Found> {
        let mut mask = self.with_tag(base, tag);
        while mask != 0 {
            let place = base + u64::from(mask.trailing_zeros()) * 8;
            let word = self.load(place);
            if word.has_tag(tag) && is_key(word) {
                return Some(Found { place, word });
            }
            mask &= mask - 1;
        }
        None
    }

    #[cold]
    fn scan_chain(
        &self,
        home: u64,
        tag: u64,
        is_key: &mut impl FnMut(Word) -> bool,
    ) -> Option<Found> {
        let mut link = self.load(home + (WORDS - 1) * 8);
        while link.is_link() {
            let base = link.location().offset();
            if let Some(found) = self.scan(base, tag, is_key) {
                return Some(found);
            }
            link = self.load(base + (WORDS - 1) * 8);
        }
        None
    }

    /// What the next insert may need; asked without the lock.
    pub(crate) fn wants(&self) -> Wants {
        let buckets = self.buckets();
        if buckets == 0 {
            return Wants { bucket_0: true, ..Wants::default() };
        }
        if !super::grow::is_due(self.get(ENTRIES) + 1, buckets) {
            return Wants::default();
        }
        Wants {
            bucket_0: false,
            directory: self.get(DIRECTORY) == 0,
            leaf: leaf_bytes(buckets),
            segment: segment_bytes(buckets),
            // A split that lags has met a chain, and needs buckets for the new one's.
            overflow: super::grow::is_overdue(self.get(ENTRIES), buckets),
        }
    }

    /// Puts a new key's word into a free place; makes one by moving another key to its other place when both are full.
    /// `Err` when that needs memory that `spare` does not have.
    pub(crate) fn insert(
        &self,
        hash: u64,
        word: Word,
        spare: &mut Spare,
        hash_of: impl Fn(Location) -> u64,
    ) -> Result<(), Wants> {
        let mut buckets = self.buckets();
        if buckets == 0 {
            let Some(bucket) = spare.bucket_0.take() else {
                return Err(Wants { bucket_0: true, ..Wants::default() });
            };
            self.arena.word(self.header + BUCKET_0).store(bucket, Release);
            buckets = 1;
            self.publish_buckets(buckets);
        }
        let home = self.bucket(address(hash, buckets));
        let other = self.bucket(address(second(hash), buckets));
        // The emptier of the two: buckets that have not split yet in this round of growth get twice as many keys as those
        // that have, and only both places together keep the load even.
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

    /// Empties a place of a full bucket by moving its word to the key's other bucket, if one of them has room there.
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

    /// Keeps an overflow bucket that was emptied for the next chain of this table. A reader that is still in it finds words
    /// of this table only, and looks again when it misses.
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

    /// Puts the spare overflow bucket into stock, for a split that needs several, and says how many are in stock, up to `enough`.
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

    fn overflow_buckets(&self) -> u64 {
        self.get(OVERFLOW) & ((1 << OVERFLOW_BITS) - 1)
    }

    /// Moves words from a bucket's chain to the bucket, and takes the chain's first bucket out when it is empty.
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
            // What is left, if anything, stands in the last word: a link or an entry, and takes the place of the link here.
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
        let words = self.arena.line(base);
        let bit = |index: usize| u32::from(words[index] == 0) << index;
        (0..WORDS as usize).fold(0, |mask, index| mask | bit(index))
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

    /// Hangs a zeroed bucket at the end of a full chain and puts `word` there. The last word of the former end moves along,
    /// and is readable in one place or the other at every moment.
    pub(super) fn chain(&self, home: u64, overflow: u64, word: Word) {
        let mut last = home + (WORDS - 1) * 8;
        while self.load(last).is_link() {
            last = self.load(last).location().offset() + (WORDS - 1) * 8;
        }
        self.publish(overflow, self.load(last));
        self.publish(overflow + 8, word);
        self.publish(last, Word::link(overflow));
    }

    /// Puts a spare directory, leaf and segment in place for the bucket that comes next. False when one is missing.
    pub(super) fn extend(&self, bucket: u64, spare: &mut Spare) -> bool {
        if self.get(DIRECTORY) == 0 {
            let Some(directory) = spare.directory.take() else { return false };
            self.arena.word(self.header + DIRECTORY).store(directory, Release);
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

    /// Gives an empty table `buckets` buckets at once. `more` gets what each piece wants and brings it, or the bytes that
    /// could not be had; what was put in place until then stays.
    pub(crate) fn presize(
        &self,
        buckets: u64,
        mut more: impl FnMut(Wants) -> Result<Spare, u64>,
    ) -> Result<(), u64> {
        let mut spare = more(Wants { bucket_0: true, ..Wants::default() })?;
        let Some(bucket_0) = spare.bucket_0.take() else { return Err(BUCKET) };
        self.arena.word(self.header + BUCKET_0).store(bucket_0, Release);
        self.publish_buckets(1);
        for bucket in 1..buckets {
            let wants = Wants {
                directory: self.get(DIRECTORY) == 0,
                leaf: leaf_bytes(bucket),
                segment: segment_bytes(bucket),
                ..Wants::default()
            };
            if wants != Wants::default() {
                let mut spare = more(wants)?;
                if !self.extend(bucket, &mut spare) {
                    return Err(wants.segment.unwrap_or(BUCKET));
                }
            }
            self.publish_buckets(bucket + 1);
        }
        Ok(())
    }

    /// Calls `each` with every entry word of a bucket and, for a bucket with a chain, of the chain.
    pub(crate) fn for_each_in_bucket(&self, bucket: u64, mut each: impl FnMut(Found)) {
        let mut base = self.bucket(bucket);
        loop {
            for index in 0..WORDS {
                let place = base + index * 8;
                let word = self.load(place);
                if word.is_entry() {
                    each(Found { place, word });
                }
            }
            let link = self.load(base + (WORDS - 1) * 8);
            if !link.is_link() {
                return;
            }
            base = link.location().offset();
        }
    }

    /// Bytes of index memory besides the header: buckets, directory, leaves.
    pub(crate) fn index_bytes(&self) -> u64 {
        let buckets = self.get(BUCKETS) & COUNT_MASK;
        if buckets == 0 {
            return 0;
        }
        let mut bytes = BUCKET + self.overflow_buckets() * BUCKET;
        if self.get(DIRECTORY) != 0 {
            bytes += DIRECTORY_WORDS * 8;
        }
        let mut bucket = 1;
        // A piece may be in place for a bucket that is not yet split off; it is found by its word, not by the count.
        while bucket <= buckets && self.get(DIRECTORY) != 0 && self.is_in_place(bucket) {
            bytes += segment_bytes(bucket).unwrap_or(0) + leaf_bytes(bucket).unwrap_or(0);
            bucket += segment_bytes(bucket).unwrap_or(BUCKET) / BUCKET;
        }
        bytes
    }

    fn is_in_place(&self, bucket: u64) -> bool {
        let directory = self.get(DIRECTORY);
        match path(bucket) {
            Path::Small { word, .. } => self.arena.word(directory + word * 8).load(Relaxed) != 0,
            Path::Leaf { word, entry, .. } => {
                let leaf = self.arena.word(directory + word * 8).load(Relaxed);
                leaf != 0 && self.arena.word(leaf + entry * 8).load(Relaxed) != 0
            }
        }
    }
}
