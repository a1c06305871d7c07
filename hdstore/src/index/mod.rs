//! The index: from a key's hash to its slot, without locks for readers (`docs/format.md`, section 3).
//!
//! A table is one map in one stream. It grows by one bucket at a time (linear hashing); a key has two places,
//! its home bucket and a second one, so that buckets of eight words stay full without chains. One writer at a
//! time changes a table (its stream's lock); readers follow it by the order of its stores:
//!
//! - an overwrite replaces one word in place, so a key that is there is found at every moment;
//! - a split first copies the moving words into the new bucket, then publishes the new bucket count, then
//!   clears them in the old one; a reader that misses looks at the count again and starts over if it changed;
//! - a table is cleared by publishing a count of 0; its pieces go when no reader can be in them any more.

pub(crate) mod detach;
pub(crate) mod grow;
mod insert;
#[cfg(all(test, loom))]
mod models;
mod pieces;
pub(crate) mod segments;
pub(crate) mod table;
#[cfg(test)]
pub(crate) mod testbed;
pub(crate) mod word;
