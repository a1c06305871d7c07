//! Which chunks there are, and how many bytes of each are flushed.
//!
//! Invariant: a chunk is listed from the moment its header is submitted, or from the opening that found it,
//! until the manifest says that its blocks are freed; bytes below `stable_bytes` are flushed and are never
//! written again. So who holds the lock of the manifest sees here every chunk that the manifest does not
//! free. Callers: whoever fills or loads chunks, freeing, and holds (`docs/compaction.md`, "Holds"). Cost:
//! one short lock for each chunk and each flush; some 60 bytes of heap for each chunk.

use std::collections::BTreeMap;

use crate::format::{ChunkId, FileNumber, LifeNumber};
use crate::sync::{Mutex, lock};

/// A chunk that counts, or is being filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) id: ChunkId,
    pub(crate) life: LifeNumber,
    pub(crate) writer: u32,
    pub(crate) first_block: u64,
    /// Bytes from the start of its file that are flushed and stay as they are.
    pub(crate) stable_bytes: u64,
}

/// All chunks, by the file that has them.
#[derive(Debug, Default)]
pub(crate) struct Register {
    chunks: Mutex<BTreeMap<FileNumber, Registered>>,
}

impl Register {
    /// A chunk is begun, or was found.
    pub(crate) fn add(&self, file: FileNumber, chunk: Registered) {
        lock(&self.chunks).insert(file, chunk);
    }

    /// So many bytes of these files are flushed.
    pub(crate) fn note_flushed(&self, ends: &[(FileNumber, u64)]) {
        let mut chunks = lock(&self.chunks);
        for (file, end) in ends {
            if let Some(chunk) = chunks.get_mut(file) {
                chunk.stable_bytes = chunk.stable_bytes.max(*end);
            }
        }
    }

    /// The chunks in these files are freed.
    pub(crate) fn remove(&self, files: &[FileNumber]) {
        let mut chunks = lock(&self.chunks);
        files.iter().for_each(|file| _ = chunks.remove(file));
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(FileNumber, Registered)> {
        lock(&self.chunks).iter().map(|(file, chunk)| (*file, chunk.clone())).collect()
    }
}
