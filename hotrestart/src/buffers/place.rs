//! The files of log buffers: in shared memory where it has room, else in the store's directory.
//!
//! Invariant: a file is named by store, life and directory (`ownership.rs`), has mode 0600, and its memory
//! is all there before it is used, so that a full tmpfs is found here and not as a fault in a put. No file
//! that a live process has locked is removed. Whoever opens a store removes the files of dead stores that
//! lie beside its own: a file that nobody has locked, and whose boot has passed or whose store's directory,
//! remembered in it, has been missing for a day.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::layout::{FILE_HEADER, Geometry, Owner};
use super::ownership::{self, DirectoryId, Found, OfAnother};
use crate::format::manifest::BuffersPlace;
use crate::format::{BootId, LifeNumber, StoreId};
use crate::io::{AlignedBuf, Region};

/// The mode of a file whose store's directory was not found.
const MARKED: u32 = 0o400;
/// How long such a file is kept.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where buffers are kept: the system's shared memory, or a test's.
#[derive(Debug)]
pub(crate) enum Places {
    /// Files in shared memory, else in the store's directory.
    Files {
        /// A tmpfs; `/dev/shm` by default.
        shared: PathBuf,
        /// The store's directory.
        directory: PathBuf,
    },
    /// Memory of this process: for simulations, in which a process only pretends to die.
    Memory(SharedRegions),
}

/// The shared memory of a simulation: it outlives the stores that use it.
pub type SharedRegions = Arc<Mutex<HashMap<String, Arc<Region>>>>;

/// Buffers that were made, and why they are not in shared memory if they are not.
pub(crate) struct Made {
    pub(crate) region: Arc<Region>,
    pub(crate) place: BuffersPlace,
    pub(crate) fallback: Option<String>,
    /// The locked file, as long as the store lives: a sweep leaves it alone.
    pub(crate) lock: Option<File>,
}

/// What there is to read of the buffers of an earlier life.
pub(crate) enum Left {
    Bytes(Vec<u8>),
    /// They are gone.
    Nothing,
    /// Those that there are belong to another directory of the same store.
    OfAnother(OfAnother),
}

fn directory_name(life: LifeNumber) -> String {
    format!("buffers-{:016x}", life.0)
}

impl Places {
    /// Makes the buffers of a life.
    pub(crate) fn make(&self, geometry: &Geometry, owner: &Owner) -> std::io::Result<Made> {
        match self {
            Places::Memory(regions) => {
                let mut buf = AlignedBuf::zeroed(geometry.file_bytes());
                buf[..72].copy_from_slice(&geometry.encode(owner));
                let region = Region::from_buf(buf);
                let mut regions = regions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                regions.insert(ownership::stem(owner.store, owner.life), Arc::clone(&region));
                Ok(Made { region, place: BuffersPlace::SharedMemory, fallback: None, lock: None })
            }
            Places::Files { shared, directory } => {
                let id = DirectoryId::of(directory)?;
                let file = shared.join(ownership::file_name(owner.store, owner.life, id));
                let in_directory = directory.join(directory_name(owner.life));
                // A life that never began may have left its buffers; the manifest does not know them.
                remove_if_free(&file)?;
                remove_if_free(&in_directory)?;
                match make_file(&file, geometry, owner, directory) {
                    Ok((region, lock)) => Ok(Made {
                        region,
                        place: BuffersPlace::SharedMemory,
                        fallback: None,
                        lock: Some(lock),
                    }),
                    Err(error) => {
                        let (region, lock) = make_file(&in_directory, geometry, owner, directory)?;
                        let fallback = Some(format!("{}: {error}", shared.display()));
                        let place = BuffersPlace::Directory;
                        Ok(Made { region, place, fallback, lock: Some(lock) })
                    }
                }
            }
        }
    }

    /// The buffers of an earlier life.
    pub(crate) fn read(
        &self,
        store: StoreId,
        life: LifeNumber,
        place: BuffersPlace,
    ) -> std::io::Result<Left> {
        let path = match (self, place) {
            (Places::Memory(regions), _) => {
                let regions = regions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let region = regions.get(&ownership::stem(store, life)).map(copy_of);
                return Ok(region.map_or(Left::Nothing, Left::Bytes));
            }
            (_, BuffersPlace::None) => return Ok(Left::Nothing),
            (Places::Files { directory, .. }, BuffersPlace::Directory) => {
                directory.join(directory_name(life))
            }
            (Places::Files { shared, directory }, BuffersPlace::SharedMemory) => {
                match ownership::find(shared, (store, life), directory)? {
                    Found::Own(path) | Found::Orphan(path) => path,
                    Found::OfAnother(other) => return Ok(Left::OfAnother(other)),
                    Found::Nothing => return Ok(Left::Nothing),
                }
            }
        };
        match std::fs::read(path) {
            Ok(bytes) => Ok(Left::Bytes(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Left::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Removes the buffers of a life, if they are this directory's own.
    pub(crate) fn remove(
        &self,
        store: StoreId,
        life: LifeNumber,
        place: BuffersPlace,
    ) -> std::io::Result<()> {
        match (self, place) {
            (Places::Memory(regions), _) => {
                let mut regions = regions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                regions.remove(&ownership::stem(store, life));
                Ok(())
            }
            (_, BuffersPlace::None) => Ok(()),
            (Places::Files { directory, .. }, BuffersPlace::Directory) => {
                remove_if_there(&directory.join(directory_name(life)))
            }
            (Places::Files { shared, directory }, BuffersPlace::SharedMemory) => {
                match ownership::find(shared, (store, life), directory)? {
                    Found::Own(path) => remove_if_there(&path),
                    Found::Orphan(_) | Found::OfAnother(_) | Found::Nothing => Ok(()),
                }
            }
        }
    }

    /// Removes buffers of stores that are dead: of another boot, or whose directory is gone. Returns how
    /// many.
    pub(crate) fn sweep(&self, boot: BootId) -> u64 {
        let Places::Files { shared, .. } = self else { return 0 };
        let mut swept = 0;
        for entry in std::fs::read_dir(shared).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.starts_with(ownership::PREFIX))
            else {
                continue;
            };
            swept += u64::from(remove_if_dead(&entry.path(), name, boot));
        }
        swept
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// As above, unless a live process has it: that of a directory which was removed, and whose number was given
/// again. It is not made anew then. Whoever only looks shares the lock, and is no owner.
fn remove_if_free(path: &Path) -> std::io::Result<()> {
    match File::open(path) {
        Ok(file) if file.try_lock_shared().is_err() => Ok(()),
        Ok(_) => remove_if_there(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a file of buffers that belongs to nobody any more; whether it did.
fn remove_if_dead(path: &Path, name: &str, boot: BootId) -> bool {
    let Ok(file) = File::open(path) else { return false };
    file.try_lock_shared().is_ok() && is_dead(&file, name, boot) && remove_if_same(&file, path)
}

/// Removes a file unless somebody else has it, or another is called like that by now: a life that never began
/// leaves its name to the next.
fn remove_if_same(file: &File, path: &Path) -> bool {
    let place = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let is_same = || Some(place(file.metadata().ok()?) == place(path.metadata().ok()?));
    // Nobody else removes it, to make another, while this one has it alone.
    file.try_lock().is_ok() && is_same() == Some(true) && std::fs::remove_file(path).is_ok()
}

/// Whether a file of buffers belongs to nobody any more. A live store has it locked for itself. A
/// directory that is not where it was may have been moved, or lie in another mount namespace: the file is
/// then marked (its mode, and the time of that), and given up when the mark is a day old.
fn is_dead(file: &File, name: &str, boot: BootId) -> bool {
    let mut header = [0; FILE_HEADER];
    if file.read_exact_at(&mut header, 0).is_err() {
        return false;
    }
    let Ok((_, owner)) = Geometry::decode(&header) else { return false };
    if owner.boot != boot {
        return true;
    }
    let is_gone = matches!(ownership::owner_of(file, name), Ok(ownership::Owner::Gone(_)));
    is_gone && is_marked_long_ago(file).unwrap_or(false)
}

/// Whether the mark of a missing directory is a day old; sets it where there is none.
fn is_marked_long_ago(file: &File) -> std::io::Result<bool> {
    let metadata = file.metadata()?;
    if metadata.permissions().mode() & 0o777 != MARKED {
        file.set_modified(SystemTime::now())?;
        file.set_permissions(Permissions::from_mode(MARKED))?;
        return Ok(false);
    }
    Ok(metadata.modified()?.elapsed().is_ok_and(|age| age >= PATIENCE))
}

fn make_file(
    path: &Path,
    geometry: &Geometry,
    owner: &Owner,
    directory: &Path,
) -> std::io::Result<(Arc<Region>, File)> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    // Who looks whether the new file is anybody's has it locked for a moment.
    let made = file.lock().and_then(|()| fill_file(&file, geometry, owner, directory));
    if made.is_err() {
        // The name must not stay behind; that it was made is all that matters then.
        let _ = std::fs::remove_file(path);
    }
    Ok((made?, file))
}

fn fill_file(
    file: &File,
    geometry: &Geometry,
    owner: &Owner,
    directory: &Path,
) -> std::io::Result<Arc<Region>> {
    let len = geometry.file_bytes();
    crate::io::allocate(file, len as u64)?;
    file.write_all_at(&geometry.encode(owner), 0)?;
    ownership::write_path(file, directory)?;
    let map = memmap2::MmapOptions::new().len(len).map_raw(file)?;
    // A forked child would take room and stamps that this process gives again.
    map.advise(memmap2::Advice::DontFork)?;
    Ok(Region::from_mapping(map))
}

fn copy_of(region: &Arc<Region>) -> Vec<u8> {
    super::room::copy_region(region)
}

/// A copy of a simulation's shared memory, as another process would find it if this one died now. Only for
/// stores that are stepped, by the thread that calls this.
#[doc(hidden)]
#[must_use]
pub fn copy_regions(regions: &SharedRegions) -> SharedRegions {
    let regions = regions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let copied = regions.iter().map(|(name, region)| {
        let bytes = copy_of(region);
        let mut buf = AlignedBuf::zeroed(bytes.len());
        buf.copy_from_slice(&bytes);
        (name.clone(), Region::from_buf(buf))
    });
    Arc::new(Mutex::new(copied.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_a_live_process_has_is_never_removed() {
        let home = tempfile::tempdir().expect("a directory");
        let (shared, directory) = (home.path().join("shared"), home.path().join("store"));
        std::fs::create_dir(&shared).expect("a directory");
        std::fs::create_dir(&directory).expect("a directory");
        let places = Places::Files { shared: shared.clone(), directory };
        let geometry = Geometry::for_chunks(256 << 10, 1, 2);
        let owner = Owner { store: StoreId([7; 16]), life: LifeNumber(3), boot: BootId([1; 16]) };
        let files = || std::fs::read_dir(&shared).expect("a directory").count();

        // As if the directory had been removed under a store, and its number given again.
        let live = places.make(&geometry, &owner).expect("made");
        let beside = places.make(&geometry, &owner).expect("made elsewhere");
        assert_eq!(
            (live.place, beside.place),
            (BuffersPlace::SharedMemory, BuffersPlace::Directory)
        );
        assert!(beside.fallback.is_some_and(|reason| reason.contains("exists")));
        assert_eq!(files(), 1);

        drop(live);
        let name =
            std::fs::read_dir(&shared).expect("a directory").next().expect("one").expect("it");
        let look = File::open(name.path()).expect("there");
        look.try_lock_shared().expect("nobody has it");
        let again = places.make(&geometry, &owner).expect("a life that never began left them");
        let place = (again.place, files());
        assert_eq!(place, (BuffersPlace::SharedMemory, 1), "who only looks holds nobody up");
    }

    #[test]
    fn a_sweep_does_not_remove_the_file_that_came_in_the_place_of_a_dead_one() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("buffers");
        let make = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            File::open(&path).expect("there")
        };
        let dead = make(b"dead");
        std::fs::remove_file(&path).expect("another sweep was faster");
        let live = make(b"live");
        assert!(!remove_if_same(&dead, &path) && path.exists());
        live.lock().expect("a store has it");
        assert!(!remove_if_same(&File::open(&path).expect("there"), &path) && path.exists());
        drop(live);
        assert!(remove_if_same(&File::open(&path).expect("there"), &path) && !path.exists());
    }
}
