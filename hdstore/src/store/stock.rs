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
}

impl<'n> Stock<'n> {
    pub(super) fn new(node: &'n Node) -> Stock<'n> {
        Stock { node, for_inserts: Vec::new(), for_growth: Vec::new() }
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

    /// Takes a piece for growth, if there is one.
    pub(super) fn take_for_growth(&mut self, bytes: u64) {
        if let Ok(piece) = self.node.take_index_memory(bytes, Holding::Nothing) {
            self.for_growth.push((bytes, piece));
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
    use super::*;
    use crate::Store;
    use crate::config::MEMORY_LIMIT_MIN;

    const _: () = assert!(BUCKET == 64);

    #[test]
    fn a_directory_has_the_bytes_that_growth_asks_for() {
        assert_eq!(crate::index::segments::DIRECTORY_WORDS * 8, 512);
    }
    #[test]
    fn memory_that_growth_has_is_there_for_the_keys_of_its_group() {
        let store = Store::builder().memory_limit_bytes(MEMORY_LIMIT_MIN).lanes(1).in_memory();
        let store = store.expect("a store");
        let node = &store.inner.nodes[0];
        let mut others = Stock::new(node);
        let full = (1..).find(|count| others.take_for_inserts(*count).is_err());
        let full = full.expect("memory ends");
        // As much as comes free goes to growth first.
        for piece in others.for_inserts.drain(full / 2..) {
            node.free_now(Location::from_offset(piece));
        }
        let mut stock = Stock::new(node);
        (0..full).for_each(|_| stock.take_for_growth(BUCKET));
        assert!(stock.for_growth.len() > 100, "{} pieces", stock.for_growth.len());
        assert_eq!(stock.take_for_inserts(100), Ok(()));
        assert_eq!(stock.inserts(), 100);
    }
}
