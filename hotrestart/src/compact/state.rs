//! What the world may know of compaction: what it did, and what stopped it.
//!
//! Invariant: whatever keeps a chunk from being compacted, or all of them, is told here and shown in
//! `stats`; a compactor never dies silently. Callers: the compactor and its thread (writing), `stats`.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use super::gate::Gate;
use crate::chunks::catalogue::Chunk;
use crate::format::FileNumber;
use crate::sync::{Mutex, lock};

/// The state of compaction.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Chunks that may be compacted.
    pub(crate) chunks: AtomicU64,
    /// Chunks that were freed in this life.
    pub(crate) freed: AtomicU64,
    /// Between rounds and holds.
    pub(crate) gate: Gate,
    damaged: Mutex<BTreeMap<FileNumber, String>>,
    stopped: Mutex<Option<String>>,
}

impl State {
    /// A chunk cannot be read, or is not what was written: it is left as it is, for `inspect` and repair.
    pub(crate) fn damaged(&self, chunk: &Chunk, what: &str) {
        tracing::error!(file = %chunk.file.file_name(), what, "a chunk cannot be compacted");
        lock(&self.damaged).insert(chunk.file, what.to_owned());
    }

    /// Compaction has ended before the store did.
    pub(crate) fn stopped(&self, why: &str) {
        tracing::error!(why, "compaction has stopped");
        lock(&self.stopped).get_or_insert_with(|| why.to_owned());
    }

    /// Files that cannot be compacted, and why.
    pub(crate) fn damage(&self) -> Vec<(String, String)> {
        let damaged = lock(&self.damaged);
        damaged.iter().map(|(file, what)| (file.file_name(), what.clone())).collect()
    }

    /// Why compaction has ended, if it has.
    pub(crate) fn why_stopped(&self) -> Option<String> {
        lock(&self.stopped).clone()
    }
}
