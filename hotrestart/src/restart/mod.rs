//! Restart: from files back to memory, as a fold in any order.
//!
//! `plan.rs` reads the chunks' headers and says which blocks count, with `torn_headers.rs` for those that
//! cannot be read; `read.rs` and `fold.rs` read and apply
//! chunks in parallel; `tail.rs` judges the end of a life that was not closed, with what its log buffers
//! still hold; `beyond.rs` applies that; `runs.rs` puts long values together; `rest.rs` loads what found no
//! memory at first; `report.rs` says what was found. `docs/restart.md` has the rules.

pub(crate) mod beyond;
pub(crate) mod fold;
pub(crate) mod gather;
pub(crate) mod plan;
pub(crate) mod read;
pub mod report;
mod rest;
pub(crate) mod runs;
pub(crate) mod tail;
pub(crate) mod torn_headers;
