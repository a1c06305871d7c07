//! Chunk files: made ahead of need, filled with blocks, known by what they hold, used again.
//!
//! `supply.rs` makes them and takes them back, `blocks.rs` fills them (for writers and for compaction),
//! `budget.rs` and `floor.rs` say how many there may be, `sample.rs` and `catalogue.rs` keep what compaction
//! must know of a full one.

pub(crate) mod blocks;
pub(crate) mod budget;
pub(crate) mod catalogue;
pub(crate) mod floor;
pub(crate) mod register;
pub(crate) mod sample;
pub(crate) mod supply;
