//! Freeing: the manifest says that a chunk's blocks are void, then its file is used again.
//!
//! Invariant: a file is given back only after the manifest that voids its blocks is durable. So bytes of a
//! former life of a file never count, whatever a crash leaves of its header, and whoever misses the blocks
//! knows why. The same manifest says which of the compactor's own blocks count, so that a survivor counts
//! when its victim does not any more, and never beside it. A life of which every block is void is forgotten.
//! Caller: the compactor's thread, which blocks here for the manifest's two writes and flushes.

use std::sync::atomic::Ordering;

use crate::chunks::blocks::Counters;
use crate::chunks::catalogue::Chunk;
use crate::format::manifest::LifeState;
use crate::format::{FileNumber, Manifest};
use crate::io::IoError;
use crate::log::Shared;

/// Frees chunks. Of the compactor's blocks those below `blocks` count from the same moment on.
///
/// # Errors
/// When the manifest cannot be written: then nothing was freed. Once it is written nothing fails any more, so
/// that no chunk is freed twice.
///
/// # Panics
/// When a chunk is held: it was no victim then.
pub(crate) fn free(shared: &Shared, chunks: &[Chunk], blocks: u64) -> Result<(), IoError> {
    let files: Vec<FileNumber> = chunks.iter().map(|chunk| chunk.file).collect();
    let mut manifests = shared.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let held = shared.holds.chunks();
    assert!(chunks.iter().all(|chunk| !held.contains(&chunk.id)), "a victim is held: {chunks:?}");
    manifests.update(|manifest| void(manifest, chunks, blocks, &shared.counters))?;
    // Under the lock, so that who holds chunks finds none that the manifest voids.
    shared.catalogue.register.remove(&files);
    drop(manifests);
    let (held, max) = shared.supply.files();
    // Beyond the budget only every other file is used again, so that puts go on while the store shrinks.
    let keep = if held > max { files.len().div_ceil(2) } else { files.len() };
    let removed = shared.supply.take_back(&files, keep);
    shared.floor.give_back(removed);
    shared.pace();
    Ok(())
}

fn void(manifest: &mut Manifest, chunks: &[Chunk], blocks: u64, counters: &Counters) {
    let current = manifest.life;
    if let Some(life) = manifest.lives.iter_mut().find(|life| life.number == current) {
        // What a victim's successors lie in is flushed. That is said here, too, since the chunks that say so
        // may be lost, and then nobody would miss what was in them.
        for (known, flushed) in life.valid_blocks.iter_mut().zip(&counters.flushed_blocks) {
            *known = flushed.load(Ordering::Acquire);
        }
        if let Some(compactor) = life.valid_blocks.last_mut() {
            *compactor = blocks;
        }
    }
    for chunk in chunks {
        let life = manifest.lives.iter_mut().find(|life| life.number == chunk.life);
        if let Some(life) = life {
            life.freed.add(chunk.writer, chunk.blocks.clone());
        }
    }
    manifest.lives.retain(|life| {
        let is_void =
            |(writer, blocks): (usize, &u64)| life.freed.covers(writer as u32, &(0..*blocks));
        life.state == LifeState::Open || !life.valid_blocks.iter().enumerate().all(is_void)
    });
}
