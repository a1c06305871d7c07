//! Memory for the tables that a group adds keys to, taken before its stream's lock.
//!
//! Invariant: a key that comes takes at most one piece of 64 bytes, the first bucket of an empty table or one
//! more for a chain (`index/insert.rs`). So with as many pieces as keys may come, no insert of the group
//! fails, whatever others did to its tables since; what growth wants, buckets for chains where it lags among
//! it, comes apart from that, or waits for a later insert: no group is refused for memory that growth has.
//! What was not needed is given back when the stock is dropped, after the lock.
//!
//! Caller: `group.rs`. Cost: two visits of the thread's lane for each key that is new, four where growth
//! lags.

use super::node::{Holding, NoRoom, Node};
use crate::ids::Location;
use crate::index::table::{Spare, Table, Wants};
use crate::index::word::BUCKET;

/// Zeroed pieces of index memory.
pub(super) struct Stock<'n> {
    node: &'n Node,
    /// A piece for each key that may come.
    for_inserts: Vec<u64>,
    /// Pieces for growth: bytes and offset.
    for_growth: Vec<(u64, u64)>,
    /// Whether a piece for growth could not be had: each look for one may wait for readers.
    is_short: bool,
}

impl<'n> Stock<'n> {
    pub(super) fn new(node: &'n Node) -> Stock<'n> {
        Stock { node, for_inserts: Vec::new(), for_growth: Vec::new(), is_short: false }
    }

    /// How many keys may come.
    pub(super) fn inserts(&self) -> usize {
        self.for_inserts.len()
    }

    /// Takes memory for so many keys in all; `Err` with the bytes that could not be had, not even instead of
    /// growth.
    pub(super) fn take_for_inserts(&mut self, count: usize) -> Result<(), u64> {
        self.for_inserts.reserve(count.saturating_sub(self.for_inserts.len()));
        while self.for_inserts.len() < count {
            match self.node.take_index_memory(BUCKET, Holding::Nothing) {
                Ok(piece) => self.for_inserts.push(piece),
                Err(NoRoom) if self.for_growth.is_empty() => return Err(BUCKET),
                Err(NoRoom) => self.give_up_growth(),
            }
        }
        Ok(())
    }

    fn give_up_growth(&mut self) {
        let pieces = self.for_growth.drain(..).map(|(_, piece)| piece);
        pieces.for_each(|piece| self.node.free_now(Location::from_offset(piece)));
    }

    /// Takes a piece for growth, if there is one and none was missing before. After what inserts need: they
    /// must have theirs.
    pub(super) fn take_for_growth(&mut self, bytes: u64) {
        if self.is_short {
            return;
        }
        match self.node.take_index_memory(bytes, Holding::Nothing) {
            Ok(piece) => self.for_growth.push((bytes, piece)),
            Err(NoRoom) => self.is_short = true,
        }
    }

    /// Has a key inserted, for which there is a piece.
    ///
    /// # Panics
    /// When there was none.
    pub(super) fn insert(
        &mut self,
        table: Table<'_>,
        insert: impl FnOnce(&mut Spare) -> Result<(), Wants>,
    ) {
        let piece = self.for_inserts.pop();
        let mut spare = Spare::default();
        if table.buckets() == 0 {
            spare.bucket_0 = piece;
        } else {
            spare.overflow = piece;
        }
        insert(&mut spare).expect("a piece for each key that comes was taken before the lock");
        // There is room for it: it was here.
        self.for_inserts.extend(spare.bucket_0.or(spare.overflow));
    }

    /// Has a table grow with what there is for it.
    pub(super) fn grow(&mut self, table: Table<'_>, grow: impl FnOnce(&mut Spare)) {
        let wants = table.wants();
        let mut spare = Spare {
            directory: wants.directory.then(|| self.piece(512)).flatten(),
            leaf: wants.leaf.and_then(|bytes| Some((bytes, self.piece(bytes)?))),
            segment: wants.segment.and_then(|bytes| Some((bytes, self.piece(bytes)?))),
            overflow: wants.overflow.then(|| self.piece(BUCKET)).flatten(),
            ..Spare::default()
        };
        grow(&mut spare);
        let directory = spare.directory.map(|piece| (512, piece));
        let overflow = spare.overflow.map(|piece| (BUCKET, piece));
        let left = directory.into_iter().chain(spare.leaf).chain(spare.segment).chain(overflow);
        self.for_growth.extend(left);
    }

    fn piece(&mut self, bytes: u64) -> Option<u64> {
        let at = self.for_growth.iter().position(|(of, _)| *of == bytes)?;
        Some(self.for_growth.swap_remove(at).1)
    }
}

impl Drop for Stock<'_> {
    fn drop(&mut self) {
        self.give_up_growth();
        let pieces = self.for_inserts.drain(..);
        pieces.for_each(|piece| self.node.free_now(Location::from_offset(piece)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::MapOptions;
    use crate::codec::{Bytes, U64};
    use crate::ids::StreamId;
    use crate::log::NoLog;
    use crate::map::Map;
    use crate::store::Store;

    const _: () = assert!(BUCKET == 64);

    #[test]
    fn a_directory_has_the_bytes_that_growth_asks_for() {
        assert_eq!(crate::index::segments::DIRECTORY_WORDS * 8, 512);
    }

    fn take_all(node: &Node, bytes: u64) -> Vec<u64> {
        std::iter::from_fn(|| node.take_index_memory(bytes, Holding::Nothing).ok()).collect()
    }

    fn free(node: &Node, pieces: impl IntoIterator<Item = u64>) {
        pieces.into_iter().for_each(|piece| node.free_now(Location::from_offset(piece)));
    }

    fn put_group(store: &Store<NoLog>, map: &Map<U64, Bytes>, keys: std::ops::Range<u64>) -> bool {
        let keys: Vec<u64> = keys.collect();
        let mut group = store.group(StreamId(0));
        for key in &keys {
            group.insert(map, key, b"v").expect("its stream");
        }
        group.commit().is_ok_and(|outcome| outcome.is_done())
    }

    /// A full store with a table whose growth lags, and so many pieces of 64 bytes that are free.
    fn with_growth_that_lags(spared: usize) -> (Store<NoLog>, Map<U64, Bytes>, Vec<u64>) {
        let builder = Store::builder().memory_limit_bytes(32 << 20).streams(1).hash_seed(7);
        let store = builder.in_memory().expect("a store");
        let map: Map<U64, Bytes> = store.map("m", MapOptions::default()).expect("a map");
        (0..3_200).for_each(|key| map.insert(&key, b"v").expect("room"));
        let node = &store.inner.nodes[0];
        let mut taken = take_all(node, 32 << 10);
        for first in (3_200..3_800).step_by(50) {
            assert!(put_group(&store, &map, first..first + 50), "a key needs no segment");
        }
        let stats = map.stats();
        assert!(crate::index::grow::is_overdue(stats.entries, stats.buckets), "{stats:?}");
        let mut small = take_all(node, BUCKET);
        free(node, small.split_off(small.len() - spared));
        taken.append(&mut small);
        (store, map, taken)
    }

    #[test]
    fn growth_that_lags_takes_nothing_that_the_keys_of_its_group_need() {
        let (store, map, taken) = with_growth_that_lags(60);
        assert!(put_group(&store, &map, 10_000..10_050), "there is a piece for each key");
        free(&store.inner.nodes[0], taken);
        assert!(put_group(&store, &map, 20_000..20_050));
        let stats = store.stats();
        assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    }

    /// Between the first look at its keys and the lock others may have removed some, so that more are new.
    #[test]
    fn memory_that_growth_has_is_there_for_the_keys_of_its_group() {
        let store = Store::builder().memory_limit_bytes(32 << 20).in_memory().expect("a store");
        let node = &store.inner.nodes[0];
        let mut taken = take_all(node, BUCKET);
        free(node, taken.drain(..100));
        let mut stock = Stock::new(node);
        (0..200).for_each(|_| stock.take_for_growth(BUCKET));
        assert_eq!(stock.for_growth.len(), 100);
        assert_eq!((stock.take_for_inserts(100), stock.inserts()), (Ok(()), 100));
        free(node, taken);
    }

    /// Each look for memory waits up to a second for whoever reads.
    #[test]
    fn growth_that_finds_no_memory_does_not_wait_for_readers_again_for_each_key() {
        let (store, map, taken) = with_growth_that_lags(60);
        let node = &store.inner.nodes[0];
        let pin = store.inner.pin();
        let mut removed = 0;
        while node.retired.sealed_batches() == 0 {
            assert!(map.remove(&removed).expect("room to retire"));
            removed += 1;
        }
        let start = Instant::now();
        assert!(put_group(&store, &map, 10_000..10_050), "there is a piece for each key");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}, {removed} removed: {:?}", map.stats());
        drop(pin);
        free(node, taken);
    }
}
