//! Detaching: a table becomes empty by a few stores; what it was made of is taken apart later, bucket by
//! bucket.
//!
//! Invariant: after `detach` no search that begins finds a word of the former table; whoever began before may
//! still walk its pieces, so none is freed before every pin of that time has ended. Pieces of a detached
//! table never change until they are freed, each exactly once: segments in the order of their buckets,
//! overflow buckets with their chain, everything else at the end.
//!
//! Callers: `store/clear.rs` detaches under the stream's lock; `store/detached.rs` takes apart. Cost: ten
//! stores, however large the table is.

use std::sync::atomic::Ordering::Relaxed;

use super::segments::{
    DIRECTORY_WORDS, Path, SMALL, leaf_bytes, leaf_bytes_of, path, segment_bytes,
};
use super::table::{
    BUCKET_0, BUCKETS, COUNT_MASK, DIRECTORY, ENTRIES, LIVE_BYTES, OVERFLOW, OVERFLOW_BITS,
    SLOT_BYTES, SLOT_BYTES_BITS, Table, place_of,
};
use super::word::{BUCKET, WORDS, Word};
use crate::arena::Arena;
use crate::ids::Location;

/// Bytes of a full segment.
const SEGMENT: u64 = BUCKET * super::segments::SEGMENT_BUCKETS;

/// What a table is made of besides its header: where its pieces are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pieces {
    pub(crate) buckets: u64,
    pub(crate) bucket_0: u64,
    /// 0 when there is none.
    pub(crate) directory: u64,
    /// The location of the first overflow bucket in stock; 0 when there is none.
    pub(crate) stock: u64,
}

impl Table<'_> {
    pub(super) fn pieces(&self) -> Pieces {
        Pieces {
            buckets: self.get(BUCKETS) & COUNT_MASK,
            bucket_0: self.get(BUCKET_0),
            directory: self.get(DIRECTORY),
            stock: self.get(OVERFLOW) >> OVERFLOW_BITS,
        }
    }

    /// Makes the table empty, for every search that begins from now on, and returns what it was made of.
    pub(crate) fn detach(&self) -> Pieces {
        let pieces = self.pieces();
        self.set(ENTRIES, 0);
        self.set(LIVE_BYTES, 0);
        // Before the shape: a walk that finds the new shape also finds that the table was cleared.
        let clears = (self.clears() + 1) & ((1 << (u64::BITS - SLOT_BYTES_BITS)) - 1);
        self.set(SLOT_BYTES, clears << SLOT_BYTES_BITS);
        self.set(OVERFLOW, 0);
        // And the shape before the pieces: a search that finds one missing looks at the shape again.
        self.publish_buckets(0);
        self.lead_to(BUCKET_0, 0);
        self.lead_to(DIRECTORY, 0);
        pieces
    }
}

impl Pieces {
    /// Bytes of the pieces in place, but for overflow buckets.
    pub(crate) fn bytes(&self, arena: &Arena) -> u64 {
        let mut bytes = if self.buckets == 0 { 0 } else { BUCKET };
        if self.directory == 0 {
            return bytes;
        }
        bytes += DIRECTORY_WORDS * 8;
        for word in 0..DIRECTORY_WORDS {
            let piece = arena.word(self.directory + word * 8).load(Relaxed);
            if piece == 0 {
                continue;
            }
            if word < SMALL {
                bytes += BUCKET << word;
                continue;
            }
            let leaf = leaf_bytes_of(word);
            // Segments come in order, so the first that is missing is the end.
            let segments =
                (0..leaf / 8).take_while(|entry| arena.word(piece + entry * 8).load(Relaxed) != 0);
            bytes += leaf + segments.count() as u64 * SEGMENT;
        }
        bytes
    }

    fn place(&self, arena: &Arena, bucket: u64) -> u64 {
        if bucket == 0 { self.bucket_0 } else { place_of(arena, self.directory, bucket) }
    }

    /// Calls `each` with the location of every entry of a bucket.
    pub(crate) fn for_each_entry(
        &self,
        arena: &Arena,
        bucket: u64,
        mut each: impl FnMut(Location),
    ) {
        let mut base = self.place(arena, bucket);
        while base != 0 {
            let word = |index: u64| Word(arena.word(base + index * 8).load(Relaxed));
            (0..WORDS)
                .map(word)
                .filter(|word| word.is_entry())
                .for_each(|word| each(word.location()));
            let link = word(WORDS - 1);
            base = if link.is_link() { link.location().offset() } else { 0 };
        }
    }

    /// Takes a bucket apart whose entries are gone: calls `free` with the place and bytes of each piece that
    /// nothing needs any more. Buckets come in order, each once.
    pub(crate) fn take_apart(&self, arena: &Arena, bucket: u64, mut free: impl FnMut(u64, u64)) {
        let place = self.place(arena, bucket);
        free_chain(arena, Word(arena.word(place + (WORDS - 1) * 8).load(Relaxed)), &mut free);
        let next = bucket + 1;
        if bucket == 0 || segment_bytes(next).is_none() {
            return;
        }
        match path(bucket) {
            Path::Small { word, index } => {
                free(place - index * BUCKET, BUCKET << word);
                arena.word(self.directory + word * 8).store(0, Relaxed);
            }
            Path::Leaf { word, entry, index } => {
                free(place - index * BUCKET, SEGMENT);
                let leaf = arena.word(self.directory + word * 8).load(Relaxed);
                arena.word(leaf + entry * 8).store(0, Relaxed);
                if leaf_bytes(next).is_some() {
                    free(leaf, leaf_bytes_of(word));
                    arena.word(self.directory + word * 8).store(0, Relaxed);
                }
            }
        }
    }

    /// Takes apart what is left when all buckets were.
    pub(crate) fn finish(&self, arena: &Arena, mut free: impl FnMut(u64, u64)) {
        if self.stock != 0 {
            free_chain(arena, Word::link(Location(self.stock).offset()), &mut free);
        }
        if self.directory != 0 {
            for word in 0..DIRECTORY_WORDS {
                let piece = arena.word(self.directory + word * 8).load(Relaxed);
                if piece != 0 && word < SMALL {
                    free(piece, BUCKET << word);
                } else if piece != 0 {
                    for entry in 0..leaf_bytes_of(word) / 8 {
                        let segment = arena.word(piece + entry * 8).load(Relaxed);
                        if segment != 0 {
                            free(segment, SEGMENT);
                        }
                    }
                    free(piece, leaf_bytes_of(word));
                }
            }
            free(self.directory, DIRECTORY_WORDS * 8);
        }
        if self.bucket_0 != 0 {
            free(self.bucket_0, BUCKET);
        }
    }
}

/// Frees the overflow buckets from a link on.
fn free_chain(arena: &Arena, mut link: Word, free: &mut impl FnMut(u64, u64)) {
    while link.is_link() {
        let base = link.location().offset();
        link = Word(arena.word(base + (WORDS - 1) * 8).load(Relaxed));
        free(base, BUCKET);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::testbed::{Testbed, hash};

    /// A put looks where its key may be, and waits for room in the log without a pin. By the time that it
    /// searches, what it has looked at may be another's memory; the shape alone says so.
    #[test]
    fn what_was_looked_up_before_a_clear_does_not_count_after_however_many_moves() {
        let key = hash(0, 0, 1);
        let bed = Testbed::new(vec![key]);
        bed.insert(0);
        let table = bed.table();
        let before = table.homes(key);
        table.detach();
        bed.insert(0);
        assert_eq!(table.buckets(), 1, "as many as before");
        let place = |homes| table.find(homes, |_| true).map(|found| found.place);
        // The clear and the first bucket are two.
        for moves in 3..=1_u64 << 24 {
            table.publish_moves();
            let is_due = moves.is_power_of_two();
            assert!(!is_due || place(before) == place(table.homes(key)), "after {moves} moves");
        }
    }
}
