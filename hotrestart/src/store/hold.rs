//! Holds, as users see them: chunks that stay as they are, for who copies or checks them.
//!
//! Invariants: when `hold` returns, everything that was acknowledged before the call lies in the held chunks,
//! below their stable bytes, and the manifest names them, durably. Until the hold is released none of them is
//! freed, used again or removed, whatever happens to the store, and none of their stable bytes changes. A
//! hold is not released when its value is dropped: a copy that died half made is reported at the next
//! opening, and whoever knows what became of it releases it by its id.
//!
//! Called by users. What may go wrong: the log is poisoned, no space for the manifest's lines, a round of
//! compaction that does not end. Cost: one flush, the end of a round, one change of the manifest. See
//! `docs/compaction.md`, "Holds".

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Store;
use crate::chunks::register::Registered;
use crate::dir::manifests::Manifests;
use crate::durability::{Durability, LogFailure};
use crate::format::manifest::{BuffersPlace, HeldChunk, LifeState};
use crate::format::{FileNumber, HoldId, LifeNumber, Manifest};
use crate::io::IoError;
use crate::log::Shared;

/// A set of chunks that stay as they are until [`Store::release`] ends that.
#[derive(Clone, Debug)]
pub struct Hold {
    id: HoldId,
    files: Vec<HeldFile>,
    manifest: Manifest,
}

/// A held chunk's file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldFile {
    /// Its name in the store's directory.
    pub name: String,
    /// The chunk in it.
    pub chunk: u64,
    /// The life that filled the chunk.
    pub life: u64,
    /// The writer that filled it; the compactor is the last one.
    pub writer: u32,
    /// Bytes from the file's start that are flushed, and never change while the chunk is held. What lies
    /// beyond is no part of what is held: the chunk may still be being filled.
    pub stable_bytes: u64,
}

/// A hold of a store, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HoldSummary {
    /// Its identity.
    pub id: HoldId,
    /// How many chunks it has.
    pub chunks: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// Why chunks could not be held, or not released. Nothing has changed, unless it says so.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// What was acknowledged could not be made durable in time.
    #[error(transparent)]
    Log(#[from] LogFailure),
    /// A round of compaction did not end in time.
    #[error("a round of compaction did not end within {waited_ms} ms")]
    Busy {
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// The manifest could not be written. Nothing has changed, unless the store is poisoned by that: then the
    /// next opening may find the hold as it was or as it was asked for.
    #[error("the manifest cannot be written, so nothing is held or released: {source}")]
    Manifest {
        /// Why.
        r#source: IoError,
    },
}

impl Hold {
    /// By this it is released.
    #[must_use]
    pub fn id(&self) -> HoldId {
        self.id
    }

    /// The files with its chunks, in the order of their names.
    #[must_use]
    pub fn files(&self) -> &[HeldFile] {
        &self.files
    }

    /// What the manifest of a store has to say that consists of the held chunks alone: name and content of a
    /// file. Beside it the held files, each with its stable bytes and zeros up to its length: that is a store
    /// with all that was acknowledged before this hold was made, and with a prefix of each stream's history.
    #[must_use]
    pub fn manifest(&self) -> (&'static str, Vec<u8>) {
        (self.manifest.file_name(), self.manifest.encode())
    }
}

impl Store {
    /// Holds everything that was acknowledged before this call: makes it durable, and keeps the chunks that
    /// it lies in as they are until [`Store::release`] is called with the hold's id, through any crash and
    /// restart. The store goes on meanwhile; held chunks are not compacted, and their bytes come on top of
    /// the disk budget.
    ///
    /// Dropping the value releases nothing: what copies the files may have died, and what it had copied is
    /// only worth something while the rest is there. A hold that nobody knows any more is in
    /// [`Store::holds`], in [`Stats`](crate::Stats) and in the report of every opening.
    ///
    /// A store without any record has nothing to hold; such a hold is forgotten when the store ends.
    ///
    /// ```
    /// use hotrestart::{MapOptions, Store, codec::{Bytes, U64}};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::builder().memory_limit_bytes(64 << 20).open(dir.path())?;
    /// let map = store.map::<U64, Bytes>("m", MapOptions::default())?;
    /// map.insert(&1, b"one")?;
    /// let hold = store.hold()?;
    /// for file in hold.files() {
    ///     println!("{}: {} bytes", file.name, file.stable_bytes);
    /// }
    /// assert_eq!(store.holds().len(), 1);
    /// assert!(store.release(hold.id())?);
    /// # drop(map);
    /// # store.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`HoldError`]. It waits for durability as long as a change does, and for a round of compaction as long
    /// as a put waits for room.
    pub fn hold(&self) -> Result<Hold, HoldError> {
        let shared = &self.shared;
        shared.check()?;
        self.persist_within(Durability::Synced, Some(shared.ack_timeout))?;
        let deadline = Instant::now() + shared.put_timeout;
        let Some(_pause) = shared.compaction.gate.pause(deadline, || shared.check().is_ok()) else {
            shared.check()?;
            return Err(HoldError::Busy { waited_ms: shared.put_timeout.as_millis() as u64 });
        };
        let mut manifests =
            shared.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let image = image(shared, &manifests.current);
        let files = files_of(shared, &image);
        let (id, chunks) = (shared.holds.next_id(), chunks_of(&files));
        let held = chunks.iter().map(|chunk| HeldChunk { chunk: *chunk, holder: id });
        let generation = manifests.current.generation;
        let grown = manifests.grow(|manifest| manifest.held.extend(held));
        grown.map_err(|source| self.manifest_failed(&mut manifests, generation, source))?;
        shared.holds.add(id, chunks);
        let files = files.into_iter().map(|(file, chunk)| held_file(file, &chunk)).collect();
        Ok(Hold { id, files, manifest: image })
    }

    /// All holds that were not released, whoever made them, in this life or a former one.
    pub fn holds(&self) -> Vec<HoldSummary> {
        summaries(&self.shared)
    }

    /// Ends a hold, durably: its chunks are compacted like all others from then on. Returns whether there was
    /// such a hold.
    ///
    /// # Errors
    /// [`HoldError`]: the chunks stay held.
    pub fn release(&self, id: HoldId) -> Result<bool, HoldError> {
        let shared = &self.shared;
        shared.check()?;
        let mut manifests =
            shared.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !shared.holds.contains(id) {
            return Ok(false);
        }
        let generation = manifests.current.generation;
        let updated = manifests.update(|manifest| manifest.held.retain(|held| held.holder != id));
        updated.map_err(|source| self.manifest_failed(&mut manifests, generation, source))?;
        let is_released = shared.holds.remove(id);
        shared.floor.note_sudden_fall();
        Ok(is_released)
    }

    /// A copy of the manifest whose extent is unknown is poison. Else the other may say by now what did not
    /// happen, and is written again.
    fn manifest_failed(
        &self,
        manifests: &mut Manifests,
        generation: u64,
        source: IoError,
    ) -> HoldError {
        if source.is_of_unknown_extent() {
            self.shared.poison.set(source.clone());
        } else {
            self.shared.take_back(manifests, generation, &source);
        }
        HoldError::Manifest { source }
    }
}

/// The holds of a store.
pub(crate) fn summaries(shared: &Shared) -> Vec<HoldSummary> {
    let summary =
        |(id, chunks)| HoldSummary { id, chunks, bytes: chunks * shared.supply.chunk_size() };
    shared.holds.list().into_iter().map(summary).collect()
}

/// What the manifest would say had the store ended now, with all that is flushed.
fn image(shared: &Shared, current: &Manifest) -> Manifest {
    let mut image = current.clone();
    image.held.clear();
    image.closed_cleanly = false;
    let number = image.life;
    if let Some(life) = image.lives.iter_mut().find(|life| life.number == number) {
        life.state = LifeState::Cut;
        life.buffers = BuffersPlace::None;
        // Of the compactor those blocks count of which the manifest says so.
        for (blocks, flushed) in life.valid_blocks.iter_mut().zip(&shared.counters.flushed_blocks) {
            *blocks = flushed.load(Ordering::Acquire);
        }
    }
    image
}

/// The chunks in which blocks count.
fn files_of(shared: &Shared, image: &Manifest) -> Vec<(FileNumber, Registered)> {
    let counts = |life: LifeNumber, writer: u32, first_block: u64| {
        let life = image.lives.iter().find(|listed| listed.number == life);
        life.and_then(|life| life.valid_blocks.get(writer as usize))
            .is_some_and(|blocks| first_block < *blocks)
    };
    let mut files = shared.catalogue.register.all();
    files.retain(|(_, chunk)| counts(chunk.life, chunk.writer, chunk.first_block));
    files
}

fn chunks_of(files: &[(FileNumber, Registered)]) -> BTreeSet<crate::format::ChunkId> {
    files.iter().map(|(_, chunk)| chunk.id).collect()
}

fn held_file(file: FileNumber, chunk: &Registered) -> HeldFile {
    HeldFile {
        name: file.file_name(),
        chunk: chunk.id.0,
        life: chunk.life.0,
        writer: chunk.writer,
        stable_bytes: chunk.stable_bytes,
    }
}
