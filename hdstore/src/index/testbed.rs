//! A table on its own, for tests and models: keys are numbers, their hashes are chosen, slots are never
//! looked into.
//!
//! A location stands for a key and a version of its value, so that a search can be judged without any slot.
//! Memory is given out once and never taken back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::table::{Spare, Table, Wants};
use super::word::{Word, second, tag_of};
use crate::arena::layout::Layout;
use crate::arena::os::PageKind;
use crate::arena::{Arena, Budget};
use crate::ids::{Location, Seq};

const VERSIONS: u64 = 64;

/// An arena, a table in it, and the hash of each key.
pub(crate) struct Testbed {
    arena: Arena,
    next: AtomicU64,
    hashes: Vec<u64>,
}

/// A hash whose home and second place are the buckets of these numbers, in a table that has them, and with
/// that tag.
pub(crate) fn hash(home: u64, second_place: u64, tag: u64) -> u64 {
    assert!(home < 256 && second_place < 256);
    (0..1 << 20)
        .map(|middle| home | middle << 8 | tag << 34)
        .find(|hash| second(*hash) & 255 == second_place)
        .expect("one in 256 has it")
}

impl Testbed {
    pub(crate) fn new(hashes: Vec<u64>) -> Testbed {
        let layout = Layout::new(16 << 20, 1, 1 << 20);
        let budget = Arc::new(Budget::new(16 << 20));
        let arena = Arena::new(layout, budget, 0, None, PageKind::Small).expect("address space");
        let next = AtomicU64::new(arena.layout().pages + 64);
        Testbed { arena, next, hashes }
    }

    pub(crate) fn table(&self) -> Table<'_> {
        Table::at(&self.arena, self.arena.layout().pages)
    }

    fn take(&self, bytes: u64) -> u64 {
        let offset = self.next.fetch_add(bytes.next_multiple_of(64), Relaxed);
        // Loom makes a word when it is first looked at, which must be before it is published, as a put zeroes
        // it.
        for word in 0..bytes / 8 {
            let _ = self.arena.word(offset + word * 8);
        }
        offset
    }

    /// What a put would bring along.
    pub(crate) fn spare(&self, wants: Wants) -> Spare {
        Spare {
            bucket_0: wants.bucket_0.then(|| self.take(64)),
            directory: wants.directory.then(|| self.take(512)),
            leaf: wants.leaf.map(|bytes| (bytes, self.take(bytes))),
            segment: wants.segment.map(|bytes| (bytes, self.take(bytes))),
            overflow: wants.overflow.then(|| self.take(64)),
        }
    }

    /// The word of a version, whose slot is written like an entry before its publication.
    fn filled(&self, key: usize, version: u64) -> Word {
        let location = Location(key as u64 * VERSIONS + version + 1);
        self.arena.word(location.offset()).store(location.0, Relaxed);
        Word::entry(tag_of(self.hashes[key]), Seq(1), location)
    }

    fn is_key(&self, word: Word, key: usize) -> bool {
        let location = word.location();
        let content = self.arena.word(location.offset()).load(Relaxed);
        assert_eq!(content, location.0, "a word was seen before its slot");
        (location.0 - 1) / VERSIONS == key as u64
    }

    pub(crate) fn hash_of(&self, location: Location) -> u64 {
        self.hashes[((location.0 - 1) / VERSIONS) as usize]
    }

    /// Puts a key that is not there, as a put does, without growing the table.
    pub(crate) fn insert(&self, key: usize) {
        let table = self.table();
        let mut spare = self.spare(Wants { bucket_0: table.buckets() == 0, ..Wants::default() });
        let word = self.filled(key, 0);
        let hash_of = |location| self.hash_of(location);
        if let Err(wants) = table.insert(table.homes(self.hashes[key]), word, &mut spare, hash_of) {
            spare = self.spare(wants);
            table
                .insert(table.homes(self.hashes[key]), word, &mut spare, hash_of)
                .expect("all is at hand");
        }
        table.add(0, 0);
    }

    /// Splits a bucket if one is due, bringing what the table wants.
    pub(crate) fn grow(&self) -> bool {
        let table = self.table();
        table.grow(&mut self.spare(table.wants()), |location| self.hash_of(location))
    }

    /// The version of a key's value that a search finds.
    pub(crate) fn find(&self, key: usize) -> Option<u64> {
        let found = self
            .table()
            .find(self.table().homes(self.hashes[key]), |word| self.is_key(word, key))?;
        Some((found.word.location().0 - 1) % VERSIONS)
    }

    /// The same, by homes and a likely word that were looked up before the search.
    #[cfg(loom)]
    pub(crate) fn find_as_of_before(&self, key: usize) -> Option<u64> {
        let table = self.table();
        let mut homes = table.homes(self.hashes[key]);
        let _ = table.likely(&mut homes);
        let found = table.find(homes, |word| self.is_key(word, key))?;
        Some((found.word.location().0 - 1) % VERSIONS)
    }

    /// Replaces a key's word.
    #[cfg(loom)]
    pub(crate) fn overwrite(&self, key: usize, version: u64) {
        self.replace(key, self.filled(key, version));
    }

    /// Takes a key out.
    #[cfg(loom)]
    pub(crate) fn remove(&self, key: usize) {
        self.replace(key, Word::EMPTY);
        self.table().sub(0, 0);
    }

    #[cfg(loom)]
    fn replace(&self, key: usize, word: Word) {
        let table = self.table();
        let found = table.find(table.homes(self.hashes[key]), |word| self.is_key(word, key));
        table.publish(found.expect("the key is there").place, word);
    }
}
