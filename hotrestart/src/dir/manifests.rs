//! The manifest on disk: two copies, read at opening, rewritten in turn.
//!
//! Invariants: at every moment one copy is whole. Each change writes both copies, one after the other,
//! each flushed before the next is touched, so that between changes either copy alone is enough. Both files
//! are longer than what they hold: they have the bytes that freeing may come to need (`claim.rs`), claimed
//! while there was space, so that a full disk never keeps a store from freeing. They never get shorter.
//! Callers: whoever changes what the manifest says; the keeper claims before chunk files are made. See
//! `docs/durability.md`, "A full disk".

use std::sync::Arc;

use super::claim;
use crate::format::ALIGNMENT;
use crate::format::manifest::{MANIFEST_LEN_MAX, MANIFEST_NAMES};
use crate::format::{Manifest, ManifestError};
use crate::io::{Disk, IoError, IoErrorClass};

/// The manifest of an open store.
#[derive(Debug)]
pub(crate) struct Manifests {
    disk: Arc<dyn Disk>,
    pub(crate) current: Manifest,
    /// Whether the names of the copies may not be durable yet.
    is_new: bool,
    /// By copy, the bytes that its file has, written once at least.
    lens: [u64; 2],
    /// Chunk files for which bytes were asked.
    files: u64,
}

/// What the two copies hold.
#[derive(Debug)]
pub(crate) struct Copies {
    /// The newest valid one.
    pub(crate) newest: Option<Manifest>,
    /// Copies that are there and not valid, with the reason.
    pub(crate) bad: Vec<(&'static str, ManifestError)>,
    /// How many copies are there.
    pub(crate) count: usize,
    /// By copy, the bytes that its file has on the device.
    lens: [u64; 2],
}

/// Reads both copies.
pub(crate) fn read(disk: &dyn Disk) -> Result<Copies, IoError> {
    let mut copies = Copies { newest: None, bad: Vec::new(), count: 0, lens: [0; 2] };
    for entry in disk.list()? {
        if let Some(copy) = MANIFEST_NAMES.iter().position(|name| *name == entry.name) {
            // Who copies files may leave holes where there were zeros.
            copies.lens[copy] = entry.len.min(entry.allocated_bytes);
        }
    }
    for name in MANIFEST_NAMES {
        let bytes = match disk.read_small(name, MANIFEST_LEN_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.class == IoErrorClass::NotFound => continue,
            Err(error) => return Err(error),
        };
        copies.count += 1;
        match Manifest::decode(&bytes) {
            Ok(manifest) => {
                let newer = copies
                    .newest
                    .as_ref()
                    .is_none_or(|found| found.generation < manifest.generation);
                if newer {
                    copies.newest = Some(manifest);
                }
            }
            Err(error) => copies.bad.push((name, error)),
        }
    }
    Ok(copies)
}

impl Manifests {
    pub(crate) fn new(disk: Arc<dyn Disk>, current: Manifest, copies: &Copies) -> Manifests {
        let is_new = copies.count < MANIFEST_NAMES.len();
        Manifests { disk, current, is_new, lens: copies.lens, files: 0 }
    }

    /// Changes the manifest, durably. When it fails, the change is not there for this process, and may or
    /// may not be found by the next. On a full disk it works for all that `claim.rs` names.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<(), IoError> {
        let mut next = self.current.clone();
        change(&mut next);
        match self.claim(claim::bound(&next, self.files)) {
            Err(error) if !is_no_space(&error) => Err(error),
            _ => self.write_both(next, 0),
        }
    }

    /// Changes the manifest by something that stays in it, and for which nothing was claimed yet: a map, or
    /// chunks that are held. On a full disk that is refused as long as it would use up what freeing needs.
    ///
    /// # Errors
    /// As for [`Manifests::update`]. `NoSpace` changes nothing where files are overwritten in place;
    /// elsewhere one copy may say the change (`Shared::take_back`).
    pub(crate) fn grow(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<(), IoError> {
        let mut next = self.current.clone();
        change(&mut next);
        self.claim(claim::bound(&next, self.files))?;
        self.write_both(next, 0)
    }

    /// Claims what a store of so many chunk files may need, before they are made.
    ///
    /// # Errors
    /// `NoSpace`, or any other class.
    pub(crate) fn claim_for(&mut self, files: u64) -> Result<(), IoError> {
        self.claim(claim::bound(&self.current, files))?;
        self.files = files;
        Ok(())
    }

    /// For how many chunk files enough is claimed, of those that were asked for.
    pub(crate) fn files_claimed(&self) -> u64 {
        let has_enough = claim::bound(&self.current, self.files) <= self.claimed();
        if has_enough { self.files } else { 0 }
    }

    /// The store has, or is about to have, so many chunk files: the next change claims what they may need.
    pub(crate) fn expect_files(&mut self, files: u64) {
        self.files = self.files.max(files);
    }

    fn claimed(&self) -> u64 {
        self.lens.iter().copied().min().unwrap_or(0)
    }

    /// Makes both files at least so long, and twice that, so that it is rarely done.
    fn claim(&mut self, needed: u64) -> Result<(), IoError> {
        if needed <= self.claimed() {
            return Ok(());
        }
        let len = (2 * needed).next_multiple_of(ALIGNMENT as u64).min(MANIFEST_LEN_MAX);
        self.write_both(self.current.clone(), len)
    }

    /// Writes both copies, each padded with zeros to `len`: bytes that were written once are there on a full
    /// disk, too, where an allocation that was not written may want metadata.
    fn write_both(&mut self, mut next: Manifest, len: u64) -> Result<(), IoError> {
        for _ in MANIFEST_NAMES {
            next.generation += 1;
            let mut bytes = next.encode();
            bytes.resize(bytes.len().max(len as usize), 0);
            self.disk.write_small(next.file_name(), &bytes)?;
            let written = &mut self.lens[(next.generation % 2) as usize];
            *written = (*written).max(bytes.len() as u64);
            if self.is_new {
                self.disk.sync_dir()?;
            }
            // What a copy says is not taken back, also when the next cannot be written.
            self.current.generation = next.generation;
        }
        self.is_new = false;
        self.current = next;
        Ok(())
    }
}

fn is_no_space(error: &IoError) -> bool {
    matches!(error.class, IoErrorClass::NoSpace { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::claim::tests::manifest;
    use crate::io::sim::SimDisk;

    #[test]
    fn after_each_change_either_copy_alone_says_all_of_it() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let copies = read(&*disk).expect("readable");
        let mut manifests = Manifests::new(Arc::clone(&disk), manifest(1, 2), &copies);
        for time_ms in 1..6 {
            manifests.update(|manifest| manifest.latest_time_ms = time_ms).expect("room");
            for name in MANIFEST_NAMES {
                let bytes = disk.read_small(name, MANIFEST_LEN_MAX).expect("it is there");
                let copy = Manifest::decode(&bytes).expect("valid");
                assert_eq!(copy.latest_time_ms, time_ms, "{name}");
            }
        }
    }
}
