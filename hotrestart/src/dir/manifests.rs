//! The manifest on disk: two copies, read at opening, rewritten in turn.
//!
//! Invariant: at every moment one copy is whole. Each change writes both copies, one after the other,
//! each flushed before the next is touched, so that between changes either copy alone is enough.

use std::sync::Arc;

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
}

/// Reads both copies.
pub(crate) fn read(disk: &dyn Disk) -> Result<Copies, IoError> {
    let mut copies = Copies { newest: None, bad: Vec::new(), count: 0 };
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
    pub(crate) fn new(disk: Arc<dyn Disk>, current: Manifest, copies: usize) -> Manifests {
        Manifests { disk, current, is_new: copies < MANIFEST_NAMES.len() }
    }

    /// Changes the manifest, durably. When it fails, the change is not there for this process, and may or
    /// may not be found by the next.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<(), IoError> {
        let mut next = self.current.clone();
        change(&mut next);
        for _ in MANIFEST_NAMES {
            next.generation += 1;
            self.disk.write_small(next.file_name(), &next.encode())?;
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
