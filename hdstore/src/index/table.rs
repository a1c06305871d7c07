//! A table: the buckets of one map in one stream, searched by anybody and changed by one.
//!
//! Invariant: a key is in at most one word, in its home bucket, its second bucket or the chain of either; a
//! word never moves without being readable in one of both places all the time, and every move changes the
//! version beside the bucket count before the old place is cleared (but where it takes the place of the link
//! that led to it: `scan_chain`). `find` needs no lock: a hit is checked
//! against the key by the caller, and a miss counts only when count and version are still those it started
//! from. A table may be cleared at any moment (`detach.rs`), so whoever looks into its pieces holds a pin or
//! the stream's lock, and what is not in place reads as an empty bucket.
//!
//! Callers: `store/`. All methods that change anything are called under the stream's lock. Cost of a hit: the
//! home bucket's line and the slot's; of a miss two buckets' lines, fetched together.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::segments::{BUCKETS_MAX, Path, path};
use super::word::{BUCKET, WORDS, Word, address, second, tag_of};
use crate::arena::layout::SUPERBLOCK;
use crate::arena::{Arena, Words};
use crate::ids::{MapId, Seq, StreamId};
use crate::sync::fence;

/// Bytes of a table's header: all that an empty table costs.
pub(crate) const TABLE_BYTES: u64 = 64;
const _: () = assert!(TABLE_BYTES == 64, "1,000 maps of 271 partitions, empty, cost at most 40 MB");

// The words of a header.
/// Bucket count in the low 27 bits, version in the high 37: it changes with every move of a word. A put looks
/// where its key may be, may wait for the log without a pin, and goes by what it saw if the shape is the
/// same: that comes again only after hours in which nothing happens but moves.
pub(super) const BUCKETS: usize = 0;
const COUNT_BITS: u32 = 27;
pub(super) const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const VERSION_STEP: u64 = 1 << COUNT_BITS;
const _: () = assert!(BUCKETS_MAX <= COUNT_MASK, "the count of the largest table has its bits");
pub(super) const BUCKET_0: usize = 1;
pub(super) const ENTRIES: usize = 2;
pub(super) const LIVE_BYTES: usize = 3;
/// Bytes of slots in the low 48 bits, and how often the table was cleared in the others.
pub(super) const SLOT_BYTES: usize = 4;
pub(super) const SLOT_BYTES_BITS: u32 = 48;
/// Overflow buckets in the low 22 bits, location of the first free one in the others.
pub(super) const OVERFLOW: usize = 5;
pub(super) const OVERFLOW_BITS: u32 = 22;
/// Map id (32 bits), stream (16), walks under way (16).
pub(super) const IDENTITY: usize = 6;
pub(super) const WALK: u64 = 1 << 48;
pub(super) const DIRECTORY: usize = 7;
/// A bucket that is always empty: it stands for every bucket that is not in place. The end of the superblock.
const NOTHING: u64 = SUPERBLOCK - BUCKET;

/// A table of one node.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(super) arena: &'a Arena,
    header: u64,
    words: Words<'a>,
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

/// Where a search for a hash begins: its two buckets, as long as the table has this shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Homes {
    pub(super) hash: u64,
    pub(super) shape: u64,
    pub(super) home: u64,
    pub(super) other: u64,
    /// The word that a look ahead found there, and where: the key's own, but for one in some thousand.
    likely: Option<Found>,
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

impl Homes {
    /// The hash that is searched for.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

impl<'a> Table<'a> {
    #[inline]
    pub(crate) fn at(arena: &'a Arena, header: u64) -> Table<'a> {
        Table { arena, header, words: arena.words(header) }
    }

    /// Sets a fresh, zeroed header up.
    pub(crate) fn create(&self, map: MapId, stream: StreamId) {
        self.set(IDENTITY, u64::from(map.0) | u64::from(stream.0) << 32);
    }

    /// Whether both are one table of the same node.
    pub(crate) fn is(&self, other: &Table<'_>) -> bool {
        self.header == other.header
    }

    /// Notes that a walk over the table begins: until it ends, words stay in their bucket's family. The
    /// caller then takes and lets go the stream's lock, so that a change under way is over.
    pub(crate) fn begin_walk(&self) {
        self.words[IDENTITY].fetch_add(WALK, Relaxed);
    }

    pub(crate) fn end_walk(&self) {
        self.words[IDENTITY].fetch_sub(WALK, Relaxed);
    }

    #[inline]
    pub(super) fn get(&self, field: usize) -> u64 {
        self.words[field].load(Relaxed)
    }

    #[inline]
    pub(super) fn set(&self, field: usize, value: u64) {
        self.words[field].store(value, Relaxed);
    }

    /// Publishes what a word of the header leads to.
    pub(super) fn lead_to(&self, field: usize, place: u64) {
        self.words[field].store(place, Release);
    }

    #[inline]
    pub(super) fn arena(&self) -> &'a Arena {
        self.arena
    }

    /// Bucket count and version together: equal at two times when no word has moved in between.
    #[inline]
    pub(crate) fn shape(&self) -> u64 {
        self.words[BUCKETS].load(Acquire)
    }

    /// Whether the shape is still the one that was read before the words that the caller has looked at.
    #[inline]
    pub(crate) fn is_shape(&self, shape: u64) -> bool {
        fence(Acquire);
        self.words[BUCKETS].load(Relaxed) == shape
    }

    #[inline]
    pub(crate) fn buckets(&self) -> u64 {
        self.shape() & COUNT_MASK
    }

    /// Publishes a bucket count. Whoever misses a key that moved before this looks again.
    pub(super) fn publish_buckets(&self, buckets: u64) {
        let version = self.get(BUCKETS) & !COUNT_MASK;
        self.words[BUCKETS].store(version.wrapping_add(VERSION_STEP) | buckets, Release);
    }

    /// Publishes that words were copied elsewhere, before they are cleared where they were.
    pub(super) fn publish_moves(&self) {
        self.publish_buckets(self.get(BUCKETS) & COUNT_MASK);
    }

    pub(crate) fn counts(&self) -> TableCounts {
        TableCounts {
            entries: self.get(ENTRIES),
            live_bytes: self.get(LIVE_BYTES),
            slot_bytes: self.get(SLOT_BYTES) & ((1 << SLOT_BYTES_BITS) - 1),
            buckets: self.get(BUCKETS) & COUNT_MASK,
            overflow_buckets: self.overflow_buckets(),
        }
    }

    #[inline]
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

    /// Notes that an entry took another's place. The line is shared with whoever looks something up: it is
    /// not written when nothing changes.
    #[inline]
    pub(crate) fn replace(&self, former: (u64, u64), new: (u64, u64)) {
        if former.0 != new.0 {
            self.set(LIVE_BYTES, self.get(LIVE_BYTES) - former.0 + new.0);
        }
        if former.1 != new.1 {
            self.set(SLOT_BYTES, self.get(SLOT_BYTES) - former.1 + new.1);
        }
    }

    /// How often the table was cleared, mod 65,536.
    pub(crate) fn clears(&self) -> u64 {
        self.get(SLOT_BYTES) >> SLOT_BYTES_BITS
    }

    /// Where a bucket lies. One that is not in place, since the table was cleared after its count was read,
    /// is empty; the reader then finds another shape and looks again.
    #[inline(always)]
    pub(super) fn bucket(&self, bucket: u64) -> u64 {
        let at = |field: usize| self.words[field].load(Acquire);
        let place =
            if bucket == 0 { at(BUCKET_0) } else { place_of(self.arena, at(DIRECTORY), bucket) };
        if place == 0 { NOTHING } else { place }
    }

    /// Where a search begins that began at `homes`: there, if the table still has their shape.
    #[inline]
    pub(super) fn still(&self, homes: Homes) -> Homes {
        if self.shape() == homes.shape { homes } else { self.homes(homes.hash) }
    }

    /// Where a search for `hash` begins, by the shape that the table has now.
    #[inline]
    pub(crate) fn homes(&self, hash: u64) -> Homes {
        let shape = self.shape();
        let buckets = shape & COUNT_MASK;
        if buckets == 0 {
            return Homes { hash, shape, home: NOTHING, other: NOTHING, likely: None };
        }
        let home = self.bucket(address(hash, buckets));
        let other = self.bucket(address(second(hash), buckets));
        Homes { hash, shape, home, other, likely: None }
    }

    /// Fetches the lines that a search for `hash` begins with, and says where they are.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) -> Homes {
        let homes = self.homes(hash);
        self.arena.prefetch(homes.home);
        self.arena.prefetch(homes.other);
        homes
    }

    /// The first word that may be the key's, for prefetching its slot; no promise. A search from these homes
    /// looks at it first.
    #[inline]
    pub(crate) fn likely(&self, homes: &mut Homes) -> Option<Word> {
        if homes.likely.is_none() {
            homes.likely = self.likely_in(homes);
        }
        homes.likely.map(|found| found.word)
    }

    /// The word of an entry that may have a seq. None where the table has no such word of the hash: then the
    /// table has no entry with that seq. A search from these homes looks at it first.
    #[inline]
    pub(crate) fn may_have(&self, homes: &mut Homes, seq: Seq) -> Option<Word> {
        homes.likely = self.find(*homes, |word| word.may_have(seq));
        homes.likely.map(|found| found.word)
    }

    #[inline(always)]
    fn likely_in(&self, homes: &Homes) -> Option<Found> {
        if self.shape() != homes.shape {
            return None;
        }
        let tag = tag_of(homes.hash);
        let in_bucket = |base| {
            let mask = self.with_tag(base, tag);
            (mask != 0).then(|| base + u64::from(mask.trailing_zeros()) * 8)
        };
        let place = in_bucket(homes.home).or_else(|| in_bucket(homes.other))?;
        let word = self.load(place);
        word.has_tag(tag).then_some(Found { place, word })
    }

    #[inline]
    pub(super) fn load(&self, place: u64) -> Word {
        Word(self.arena.word(place).load(Acquire))
    }

    /// Whether a word still stands where it was found.
    #[inline]
    pub(crate) fn has(&self, found: &Found) -> bool {
        self.load(found.place) == found.word
    }

    /// Replaces a word: the one store by which readers see a new value, or none.
    #[inline]
    pub(crate) fn publish(&self, place: u64, word: Word) {
        self.arena.word(place).store(word.0, Release);
    }

    /// Finds the word of a key: the first with the hash's tag that `is_key` accepts. `homes` may be from
    /// before, if the caller's pin or lock began since: then they count only if the table still has their
    /// shape.
    #[inline]
    pub(crate) fn find(&self, homes: Homes, mut is_key: impl FnMut(Word) -> bool) -> Option<Found> {
        let tag = tag_of(homes.hash);
        let mut homes = self.still(homes);
        if let Some(found) = homes.likely
            && self.has(&found)
            && is_key(found.word)
        {
            return Some(found);
        }
        loop {
            let Homes { hash, shape, home, other, .. } = homes;
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
            if other != home
                && let Some(found) = self.scan_chain(other, tag, &mut is_key)
            {
                return Some(found);
            }
            if self.is_shape(shape) {
                return None;
            }
            homes = self.homes(hash);
        }
    }

    /// Which words of a bucket have a tag, a bit for each. Without a branch, so that the processor goes on to
    /// the slot, and to the next search, while the bucket's line is on its way.
    #[inline(always)]
    fn with_tag(&self, base: u64, tag: u64) -> u32 {
        let words = self.arena.words(base);
        let bit = |index: usize| u32::from(Word(words[index].load(Acquire)).tag() == tag);
        (0..WORDS as usize).rev().fold(0, |mask, index| mask << 1 | bit(index))
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

    /// Searches the chain of a bucket that was searched. A chain's last entry may have taken the place of the
    /// link since, by one store that no version comes before: who comes for the link looks at what is there.
    #[cold]
    fn scan_chain(
        &self,
        home: u64,
        tag: u64,
        is_key: &mut impl FnMut(Word) -> bool,
    ) -> Option<Found> {
        let mut place = home + (WORDS - 1) * 8;
        loop {
            let word = self.load(place);
            if !word.is_link() {
                return (word.has_tag(tag) && is_key(word)).then_some(Found { place, word });
            }
            let base = word.location().offset();
            if let Some(found) = self.scan(base, tag, is_key) {
                return Some(found);
            }
            place = base + (WORDS - 1) * 8;
        }
    }

    /// Calls `each` with every entry word of a bucket and, for a bucket with a chain, of the chain. The last
    /// word of a bucket is loaded once: it is a link then, or an entry (`scan_chain`).
    pub(crate) fn for_each_in_bucket(&self, bucket: u64, mut each: impl FnMut(Found)) {
        let mut base = self.bucket(bucket);
        loop {
            let mut last = Word::EMPTY;
            for index in 0..WORDS {
                let place = base + index * 8;
                last = self.load(place);
                if last.is_entry() {
                    each(Found { place, word: last });
                }
            }
            if !last.is_link() {
                return;
            }
            base = last.location().offset();
        }
    }
}

/// Where a bucket other than bucket 0 lies by a directory; 0 when it is not in place.
#[inline(always)]
pub(super) fn place_of(arena: &Arena, directory: u64, bucket: u64) -> u64 {
    if directory == 0 {
        return 0;
    }
    let (segment, index) = match path(bucket) {
        Path::Small { word, index } => (arena.word(directory + word * 8).load(Acquire), index),
        Path::Leaf { word, entry, index } => {
            let leaf = arena.word(directory + word * 8).load(Acquire);
            if leaf == 0 {
                return 0;
            }
            (arena.word(leaf + entry * 8).load(Acquire), index)
        }
    };
    if segment == 0 { 0 } else { segment + index * BUCKET }
}
