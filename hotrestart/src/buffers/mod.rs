//! Log buffers: where a record lies from the moment it is committed until its block is written.
//!
//! `layout.rs` has the bytes (`docs/format.md`, section 11), `ring.rs` the reservations of one writer,
//! `turns.rs` what the writer does with what was reserved, `span.rs` what a thread has reserved ahead,
//! `room.rs` what a put fills, `waiting.rs` who waits there, `place.rs` the files in shared memory,
//! `ownership.rs` whose they are, `recover.rs` reads what a dead process left.

pub(crate) mod layout;
#[cfg(all(test, loom))]
mod models;
pub(crate) mod ownership;
pub(crate) mod place;
mod plan;
pub(crate) mod recover;
pub(crate) mod ring;
#[cfg(all(test, not(loom)))]
mod ring_tests;
mod room;
mod span;
mod turns;
mod waiting;
#[cfg(loom)]
mod watched;
