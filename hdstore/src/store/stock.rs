//! Memory for the tables that a group adds keys to, taken before its stream's lock.
//!
//! Invariant: a key that comes takes at most one piece of 64 bytes, the first bucket of an empty table or one
//! more for a chain (`index/insert.rs`). So with as many pieces as keys may come, no insert of the group
//! fails, whatever others did to its tables since; what growth wants, buckets for chains where it lags among
//! it, comes apart from that, or waits for a later insert. What was not needed is given back when the stock
//! is dropped, after the lock.
//!
//! Caller: `group.rs`. Cost: two visits of the thread's lane for each key that is new.

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

    /// Takes memory for so many keys in all; `Err` with the bytes that could not be had.
    pub(super) fn take_for_inserts(&mut self, count: usize) -> Result<(), u64> {
        self.for_inserts.reserve(count.saturating_sub(self.for_inserts.len()));
        while self.for_inserts.len() < count {
            let taken = self.node.take_index_memory(BUCKET, Holding::Nothing);
            let piece = taken.map_err(|NoRoom| BUCKET)?;
            self.for_inserts.push(piece);
        }
        Ok(())
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
        let pieces = self.for_growth.iter().map(|(_, piece)| piece).chain(&self.for_inserts);
        pieces.for_each(|piece| self.node.free_now(Location::from_offset(*piece)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const _: () = assert!(BUCKET == 64);

    #[test]
    fn a_directory_has_the_bytes_that_growth_asks_for() {
        assert_eq!(crate::index::segments::DIRECTORY_WORDS * 8, 512);
    }
}
