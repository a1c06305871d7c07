//! A ring's memory as loom sees it (`--cfg loom` only).
//!
//! Invariant: each control word is one of loom's atomics, made before any thread can look at it, and each
//! eight bytes at a buffer's start have a cell that is touched whenever the bytes are handed out. So loom
//! fails when two threads have the same bytes without an order between them: two rooms that overlap, a
//! block that is read before its rooms are committed, a buffer that is used again before its release was
//! seen. The bytes themselves lie in the region as ever; loom runs all threads of a model on one thread of
//! the system.
//!
//! Who calls: `ring.rs`. Cost: only models pay it.
#![allow(unsafe_code)] // cells that loom watches are shared between threads; docs/unsafe.md

use std::collections::HashMap;

use loom::cell::UnsafeCell;

use super::layout::{Geometry, TABLE};
use crate::sync::AtomicU64;

const GRANULE: usize = 8;
/// Bytes of a buffer that are watched; a model uses no more of it.
const WATCHED: usize = 192;

/// Eight bytes of a buffer.
struct Granule(UnsafeCell<()>);

// SAFETY: the cell is never looked into; loom judges the accesses.
unsafe impl Sync for Granule {}

/// The words and bytes of one writer's ring.
pub(super) struct Watched {
    words: HashMap<usize, AtomicU64>,
    bytes: HashMap<usize, Granule>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("words", &self.words.len()).finish_non_exhaustive()
    }
}

impl Watched {
    pub(super) fn new(geometry: &Geometry) -> Watched {
        let (mut words, mut bytes) = (HashMap::new(), HashMap::new());
        for slot in 0..geometry.buffers_per_writer {
            let control = geometry.of_writer(0).control(slot);
            let end = TABLE + geometry.records_max as usize * 8;
            for field in (0..end).step_by(8) {
                words.insert(control + field, AtomicU64::new(0));
            }
            let data = geometry.of_writer(0).data(slot);
            for at in (0..WATCHED).step_by(GRANULE) {
                bytes.insert(data + at, Granule(UnsafeCell::new(())));
            }
        }
        Watched { words, bytes }
    }

    pub(super) fn word(&self, at: usize) -> &AtomicU64 {
        self.words.get(&at).expect("a word of this ring's control areas")
    }

    /// Notes that the calling thread has these bytes to itself.
    pub(super) fn touch(&self, at: usize, len: usize) {
        for granule in (at / GRANULE * GRANULE..at + len).step_by(GRANULE) {
            self.bytes[&granule].0.with_mut(|_| ());
        }
    }
}
