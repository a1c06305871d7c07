//! What an old entry costs that keeps facts of absence: by chunk, found by a survey on its way.
//!
//! A fact is needed as long as an older entry of its key is in any chunk. Where keys come and go that have an
//! old record each in chunks that are hardly garbage, every time leaves one more fact, and all are needed.
//! Within a victim the newest implies the others (`implied.rs`), but in another order of keys they never meet
//! in one. So such entries are garbage that costs more than its own bytes: with the chunk that it is in, the
//! facts go that nothing else keeps.
//!
//! Invariant: an estimate; it changes what is worth compacting, never what may be forgotten. Of keys one in
//! `ONE_IN` is looked at. An entry counts when a fact that the survey took in has its key, as far as the
//! survey tells keys apart, and memory does not have it. Who is taken for such without being one is so in all
//! chunks alike. Caller: the survey. Cost: a look into memory for one in `ONE_IN` of the entries whose keys
//! have facts, and 12 bytes a chunk while the survey lasts.

use std::ops::ControlFlow;

use hdstore::{Stamp, Stamps};
use rapidhash::RapidHashMap;

use super::lines::Line;
use crate::format::ChunkId;
use crate::log::DiskLog;

/// One key of so many is looked at.
const ONE_IN: u64 = 8;

/// Old entries that keep facts, as far as one survey has seen them.
#[derive(Debug, Default)]
pub(super) struct Pins {
    by_chunk: RapidHashMap<ChunkId, u32>,
    all: u64,
    /// Of the chunk that is being looked at, entries of keys with facts.
    asked: Vec<Stamp>,
}

impl Pins {
    /// An entry of the chunk that is being looked at, whose key has a fact.
    pub(super) fn offer(&mut self, entry: &Line) {
        if entry.line.hash.is_multiple_of(ONE_IN) {
            self.asked.push(entry.sample().stamp);
        }
    }

    /// The chunk that was being looked at is this one, and was looked at whole.
    pub(super) fn end_chunk(&mut self, chunk: ChunkId, stamps: &Stamps<DiskLog>) {
        let mut current = 0;
        stamps.current(&self.asked, |_, _| {
            current += 1;
            ControlFlow::Continue(())
        });
        let old = self.asked.len() as u32 - current;
        self.asked.clear();
        if old > 0 {
            self.by_chunk.insert(chunk, old);
            self.all += u64::from(old);
        }
    }

    /// The bytes of facts that old entries in this chunk keep, when all keep so many.
    pub(super) fn kept_by(&self, chunk: ChunkId, kept_bytes: f64) -> f64 {
        let old = self.by_chunk.get(&chunk).copied().unwrap_or(0);
        kept_bytes * f64::from(old) / self.all.max(1) as f64
    }
}
