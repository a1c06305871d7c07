//! Per key: the version issued last and the version acknowledged last, in memory that outlives the child.
//!
//! Owns the invariant of the whole check: a version is issued here before the store hears of it and
//! acknowledged here after the store said so, and each key has one writer at a time. So after SIGKILL at
//! any instruction a key's value must be a version between the two. 8 bytes a key.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::raw::shared_words::SharedWords;

const HEADER: usize = 8;
const STAGE: usize = 0;
const LOADED: usize = 1;

/// What the child is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening the store and putting every key once.
    Loading,
    /// Overwriting until killed.
    Overwriting,
}

/// The table of one run.
#[derive(Debug)]
pub struct Table {
    words: SharedWords,
}

/// One key's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Given to the store last; 0 = never put.
    pub issued: u32,
    /// Acknowledged by the store last; 0 = never.
    pub acknowledged: u32,
}

impl Table {
    /// An empty table for this many keys.
    pub fn create(entries: u64) -> io::Result<Table> {
        let count = usize::try_from(entries).map_err(io::Error::other)?;
        Ok(Table { words: SharedWords::create(HEADER + count)? })
    }

    /// The parent's table, in the child.
    pub fn open(path: &Path) -> io::Result<Table> {
        Ok(Table { words: SharedWords::open(path)? })
    }

    /// The path to give to the child.
    pub fn path(&self) -> PathBuf {
        self.words.path()
    }

    /// Keys in the table.
    pub fn entries(&self) -> u64 {
        (self.words.words().len() - HEADER) as u64
    }

    /// The child's stage.
    pub fn stage(&self) -> Stage {
        match self.words.words()[STAGE].load(Ordering::Acquire) {
            0 => Stage::Loading,
            _ => Stage::Overwriting,
        }
    }

    /// Loading is over.
    pub fn begin_overwriting(&self) {
        self.words.words()[STAGE].store(1, Ordering::Release);
    }

    /// Keys loaded so far.
    pub fn loaded(&self) -> u64 {
        self.words.words()[LOADED].load(Ordering::Relaxed)
    }

    /// Counts loaded keys.
    pub fn add_loaded(&self, count: u64) {
        self.words.words()[LOADED].fetch_add(count, Ordering::Relaxed);
    }

    /// The next version of a key, noted as issued. Only the key's own thread may call this.
    pub fn issue(&self, index: u64) -> u32 {
        let row = &self.words.words()[HEADER + index as usize];
        let versions = unpack(row.load(Ordering::Relaxed));
        let issued = versions.issued.checked_add(1).expect("2^32 versions of one key in one run");
        row.store(pack(Versions { issued, ..versions }), Ordering::Release);
        issued
    }

    /// The store said that this version of the key is done.
    pub fn acknowledge(&self, index: u64, version: u32) {
        let row = &self.words.words()[HEADER + index as usize];
        let versions = unpack(row.load(Ordering::Relaxed));
        let acknowledged = versions.acknowledged.max(version);
        row.store(pack(Versions { acknowledged, ..versions }), Ordering::Release);
    }

    /// A key's row.
    pub fn versions(&self, index: u64) -> Versions {
        unpack(self.words.words()[HEADER + index as usize].load(Ordering::Acquire))
    }
}

fn pack(versions: Versions) -> u64 {
    u64::from(versions.issued) << 32 | u64::from(versions.acknowledged)
}

fn unpack(word: u64) -> Versions {
    Versions { issued: (word >> 32) as u32, acknowledged: word as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_issued_and_not_acknowledged_is_seen_as_such_by_the_other_process() {
        let parent = Table::create(3).expect("create");
        let child = Table::open(&parent.path()).expect("open");
        assert_eq!(child.entries(), 3);
        let first = child.issue(2);
        child.acknowledge(2, first);
        assert_eq!(child.issue(2), 2);
        assert_eq!(parent.versions(2), Versions { issued: 2, acknowledged: 1 });
        assert_eq!(parent.versions(1), Versions { issued: 0, acknowledged: 0 });
        child.begin_overwriting();
        assert_eq!(parent.stage(), Stage::Overwriting);
    }

    #[test]
    fn the_later_acknowledgement_of_a_batch_is_not_taken_back_by_the_earlier() {
        let table = Table::create(1).expect("create");
        let (first, second) = (table.issue(0), table.issue(0));
        table.acknowledge(0, second);
        table.acknowledge(0, first);
        assert_eq!(table.versions(0), Versions { issued: 2, acknowledged: 2 });
    }
}
