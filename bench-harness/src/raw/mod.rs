//! The only folder of the harness with unsafe code: memory shared with a child, and a bare io_uring.
//!
//! Everything else builds on the two safe types here. docs/unsafe.md lists both files with their
//! invariant.

pub mod ring;
pub mod shared_words;
