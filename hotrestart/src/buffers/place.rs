//! The files of log buffers: in shared memory where it has room, else in the store's directory.
//!
//! Invariant: a file is named by store and life, has mode 0600, and its memory is all there before it is
//! used, so that a full tmpfs is found here and not as a fault in a put. Whoever opens a store removes
//! the files of dead stores that lie beside its own: a file that no live process has locked, and whose boot
//! has passed or whose store's directory, remembered in it, has been missing for a day.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::layout::{FILE_HEADER, Geometry, Owner};
use crate::format::manifest::BuffersPlace;
use crate::format::{BootId, LifeNumber, StoreId};
use crate::io::{AlignedBuf, Region};

/// Where the path of the store's directory stands in the file's header, for the sweep of orphans.
const PATH_AT: u64 = 128;
/// The mode of a file whose store's directory was not found.
const MARKED: u32 = 0o400;
/// How long such a file is kept.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
const PATH_MAX: usize = FILE_HEADER - PATH_AT as usize - 4;

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

fn shared_name(store: StoreId, life: LifeNumber) -> String {
    format!("hotrestart-{store}-{:016x}", life.0)
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
                regions.insert(shared_name(owner.store, owner.life), Arc::clone(&region));
                Ok(Made { region, place: BuffersPlace::SharedMemory, fallback: None, lock: None })
            }
            Places::Files { shared, directory } => {
                let name = shared_name(owner.store, owner.life);
                // A life that never began may have left its buffers; the manifest does not know them.
                for place in [BuffersPlace::SharedMemory, BuffersPlace::Directory] {
                    self.remove(owner.store, owner.life, place)?;
                }
                match make_file(&shared.join(&name), geometry, owner, directory) {
                    Ok((region, lock)) => Ok(Made {
                        region,
                        place: BuffersPlace::SharedMemory,
                        fallback: None,
                        lock: Some(lock),
                    }),
                    Err(error) => {
                        let path = directory.join(directory_name(owner.life));
                        let (region, lock) = make_file(&path, geometry, owner, directory)?;
                        let fallback = Some(format!("{}: {error}", shared.display()));
                        let place = BuffersPlace::Directory;
                        Ok(Made { region, place, fallback, lock: Some(lock) })
                    }
                }
            }
        }
    }

    /// The bytes of the buffers of an earlier life; `None` when they are gone.
    pub(crate) fn read(
        &self,
        store: StoreId,
        life: LifeNumber,
        place: BuffersPlace,
    ) -> std::io::Result<Option<Vec<u8>>> {
        match self {
            Places::Memory(regions) => {
                let regions = regions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                Ok(regions.get(&shared_name(store, life)).map(copy_of))
            }
            Places::Files { .. } => {
                let Some(path) = self.path(store, life, place) else { return Ok(None) };
                match std::fs::read(path) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Removes the buffers of a life.
    pub(crate) fn remove(
        &self,
        store: StoreId,
        life: LifeNumber,
        place: BuffersPlace,
    ) -> std::io::Result<()> {
        if let Places::Memory(regions) = self {
            let mut regions = regions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            regions.remove(&shared_name(store, life));
            return Ok(());
        }
        let Some(path) = self.path(store, life, place) else { return Ok(()) };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, store: StoreId, life: LifeNumber, place: BuffersPlace) -> Option<PathBuf> {
        match (self, place) {
            (Places::Files { shared, .. }, BuffersPlace::SharedMemory) => {
                Some(shared.join(shared_name(store, life)))
            }
            (Places::Files { directory, .. }, BuffersPlace::Directory) => {
                Some(directory.join(directory_name(life)))
            }
            _ => None,
        }
    }

    /// Removes buffers of stores that are dead: of another boot, or whose directory is gone. Returns how
    /// many.
    pub(crate) fn sweep(&self, boot: BootId) -> u64 {
        let Places::Files { shared, .. } = self else { return 0 };
        let mut swept = 0;
        for entry in std::fs::read_dir(shared).into_iter().flatten().flatten() {
            let is_ours =
                entry.file_name().to_str().is_some_and(|name| name.starts_with("hotrestart-"));
            if is_ours && is_dead(&entry.path(), boot) && std::fs::remove_file(entry.path()).is_ok()
            {
                swept += 1;
            }
        }
        swept
    }
}

/// Whether a file of buffers belongs to nobody any more. A live store holds a lock on its file. A
/// directory that is not where it was may have been moved, or lie in another mount namespace: the file is
/// then marked (its mode, and the time of that), and given up when the mark is a day old.
fn is_dead(path: &Path, boot: BootId) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut header = [0; FILE_HEADER];
    if file.try_lock().is_err() || file.read_exact_at(&mut header, 0).is_err() {
        return false;
    }
    let Ok((_, owner)) = Geometry::decode(&header) else { return false };
    if owner.boot != boot {
        return true;
    }
    let at = PATH_AT as usize;
    let len =
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let Some(bytes) = header.get(at + 4..at + 4 + len) else { return false };
    use std::os::unix::ffi::OsStrExt;
    let directory = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let is_gone = len > 0 && directory.is_absolute() && matches!(directory.try_exists(), Ok(false));
    is_gone && is_marked_long_ago(&file).unwrap_or(false)
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
    let made = file
        .try_lock()
        .map_err(std::io::Error::from)
        .and_then(|()| fill_file(&file, geometry, owner, directory));
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
    use std::os::unix::ffi::OsStrExt;
    let len = geometry.file_bytes();
    crate::io::allocate(file, len as u64)?;
    file.write_all_at(&geometry.encode(owner), 0)?;
    let directory = std::fs::canonicalize(directory)?;
    let bytes = directory.as_os_str().as_bytes();
    if bytes.len() <= PATH_MAX {
        let mut path = (bytes.len() as u32).to_le_bytes().to_vec();
        path.extend_from_slice(bytes);
        file.write_all_at(&path, PATH_AT)?;
    }
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
