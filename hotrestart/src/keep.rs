//! What the manifest must say ahead of need: the time, a limit of seqs, and bytes for what is freed later.
//!
//! Invariant: a chunk file is made only once the manifest has the bytes to free it (`dir/claim.rs`), a seq is
//! given only below a limit that the manifest has, and a clock that is set back finds a time in it that is
//! ten seconds old at most. A full disk is no failure here: whatever is due stays due. Caller: the keeper,
//! and the opening before it logs anything again. Each writes and flushes, so none is called by a put. See
//! `docs/durability.md`, "A full disk".

use std::sync::atomic::Ordering;

use crate::io::{IoError, IoErrorClass};
use crate::log::Shared;

/// The time in the manifest is at most this old while entries may expire, in milliseconds.
const TIME_STEP_MS: u64 = 10_000;

fn is_no_space(error: &IoError) -> bool {
    matches!(error.class, IoErrorClass::NoSpace { .. })
}

impl Shared {
    /// Writes the time to the manifest now and then, if anything may expire: a clock that is set back after a
    /// crash revives nothing that had expired by then. For the keeper: it writes and flushes.
    pub(crate) fn keep_time(&self, now_ms: u64) {
        // Without such entries the keeper does not wait for who writes the manifest.
        if !self.has_expiring.load(Ordering::Relaxed) {
            return;
        }
        let mut manifests =
            self.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if now_ms < manifests.current.latest_time_ms.saturating_add(TIME_STEP_MS) {
            return;
        }
        match manifests.update(|manifest| manifest.latest_time_ms = now_ms) {
            Ok(()) => {}
            Err(error) if is_no_space(&error) => {}
            Err(error) => self.poison.set(error),
        }
    }

    /// Raises the limit of the seqs in the manifest when that is due. For the keeper: it writes and flushes.
    pub(crate) fn keep_seqs_ahead(&self) {
        let Some(limit) = self.seqs.due() else { return };
        let mut manifests =
            self.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match manifests.update(|manifest| manifest.seq_limit = manifest.seq_limit.max(limit)) {
            Ok(()) => self.seqs.raise(limit),
            // It is due as before, so the keeper tries again.
            Err(error) if is_no_space(&error) => {
                tracing::warn!(%error, "no space to raise the limit of seqs; changes may have to wait");
            }
            Err(error) => self.poison.set(error),
        }
    }

    /// Fills the stock of chunks, once the manifest has the bytes to free as many. Returns whether any was
    /// made.
    pub(crate) fn restock(&self) -> bool {
        if let Some(files) = self.supply.files_to_claim() {
            let mut manifests =
                self.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match manifests.claim_for(files) {
                Ok(()) => {}
                Err(error) if is_no_space(&error) => {
                    self.supply.note_no_space(&error);
                }
                Err(error) => self.poison.set(error),
            }
            self.supply.set_files_claimed(manifests.files_claimed());
        }
        self.supply.restock()
    }
}
