//! Whose a file of log buffers in shared memory is, where several directories have one store: a copy beside
//! its original, a store made of held chunks.
//!
//! Invariant: a file belongs to the directory that it was made for, known by the number that its file system
//! gives it, which a rename keeps and a copy does not get, and by the time of its making, since numbers are
//! given again. Only that directory's openings remove it. Another directory of the same store may read it
//! when nobody can want it for himself any more: no process has it locked, and the directory that it names is
//! not there, or is another one now, as after a move to another file system or a new mount. Of several such
//! files the one that names the directory's own path is meant. Else what lies in it is another's, and is
//! left alone. Where the file system notes no time of making (NFS), a number that is given again to a copy
//! is taken for a rename.
//!
//! Called by `place.rs`. Cost: one look at the directory; a listing of the shared memory where there is no
//! file of the directory's own. See `docs/format.md`, section 5, and `docs/restart.md`.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::layout::FILE_HEADER;
use crate::format::{LifeNumber, StoreId};

/// Where the path of the store's directory stands in the file's header.
const PATH_AT: usize = 128;
const PATH_MAX: usize = FILE_HEADER - PATH_AT - 4;
/// With this every name of a file of log buffers begins.
pub(super) const PREFIX: &str = "hotrestart-";

/// A directory, as its file system numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectoryId {
    device: u64,
    inode: u64,
    /// Nanoseconds since 1970; 0 where the file system does not say.
    born: u64,
}

impl DirectoryId {
    pub(super) fn of(directory: &Path) -> std::io::Result<DirectoryId> {
        let metadata = std::fs::metadata(directory)?;
        let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = born.map_or(0, |since| since.as_nanos() as u64);
        Ok(DirectoryId { device: metadata.dev(), inode: metadata.ino(), born })
    }

    /// The directory in the name of a file; `None` where it has none.
    fn in_name(name: &str) -> Option<DirectoryId> {
        let (_, numbers) = name.rsplit_once('-')?;
        let mut numbers = numbers.split('.').map(|text| u64::from_str_radix(text, 16).ok());
        let mut next = || numbers.next().flatten();
        Some(DirectoryId { device: next()?, inode: next()?, born: next()? })
    }
}

/// What the buffers of a life are called whichever directory they belong to.
pub(super) fn stem(store: StoreId, life: LifeNumber) -> String {
    format!("{PREFIX}{store}-{:016x}", life.0)
}

/// What the buffers of a life are called.
pub(super) fn file_name(store: StoreId, life: LifeNumber, directory: DirectoryId) -> String {
    let DirectoryId { device, inode, born } = directory;
    format!("{}-{device:x}.{inode:x}.{born:x}", stem(store, life))
}

/// What there is of the log buffers of a life.
#[derive(Debug)]
pub(super) enum Found {
    /// None.
    Nothing,
    /// The directory's own.
    Own(PathBuf),
    /// Those of a directory that is not there any more: to be read, and left.
    Orphan(PathBuf),
    /// Another's.
    OfAnother(OfAnother),
}

/// Log buffers that belong to another directory of the same store.
#[derive(Clone, Debug)]
pub(crate) struct OfAnother {
    pub(crate) file: PathBuf,
    /// Whose it is, in words.
    pub(crate) owner: String,
}

/// Looks for the buffers of a life of the store in `directory`.
pub(super) fn find(
    shared: &Path,
    (store, life): (StoreId, LifeNumber),
    directory: &Path,
) -> std::io::Result<Found> {
    let id = DirectoryId::of(directory)?;
    let own = shared.join(file_name(store, life, id));
    if own.try_exists()? {
        return Ok(Found::Own(own));
    }
    let entries = match std::fs::read_dir(shared) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        entries => entries?,
    };
    let (stem, here) = (stem(store, life), std::fs::canonicalize(directory)?);
    let (mut of_another, mut orphan) = (None, None);
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(&stem)) else { continue };
        let path = shared.join(name);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let is_in_use = file.try_lock_shared().is_err();
        let owner = match owner_of(&file, name)? {
            Owner::There(there) if DirectoryId::of(&there).is_ok_and(|there| there == id) => {
                return Ok(Found::Own(path));
            }
            Owner::There(there) => there.display().to_string(),
            _ if is_in_use => "a store that is open".to_owned(),
            Owner::Unknown => "a directory whose path is too long to be noted".to_owned(),
            Owner::Gone(there) if there == here => return Ok(Found::Orphan(path)),
            Owner::Gone(_) if orphan.is_none() => {
                orphan = Some(path);
                continue;
            }
            Owner::Gone(_) => "one of several directories that are not there any more".to_owned(),
        };
        of_another = Some(OfAnother { file: path, owner });
    }
    let found = of_another.map(Found::OfAnother).or(orphan.map(Found::Orphan));
    Ok(found.unwrap_or(Found::Nothing))
}

/// The directory that a file of log buffers was made for.
pub(super) enum Owner {
    There(PathBuf),
    /// It was here.
    Gone(PathBuf),
    /// Its path was not noted.
    Unknown,
}

/// Whose a file of this name is. Where nobody can tell whether a directory is there it is taken to be.
pub(super) fn owner_of(file: &File, name: &str) -> std::io::Result<Owner> {
    let Some(directory) = path_in(file)? else { return Ok(Owner::Unknown) };
    match (DirectoryId::of(&directory), DirectoryId::in_name(name)) {
        (Err(error), _) if is_missing(&error) => Ok(Owner::Gone(directory)),
        (Ok(there), Some(owner)) if there != owner => Ok(Owner::Gone(directory)),
        _ => Ok(Owner::There(directory)),
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Writes the path of the store's directory into the header, if it fits.
pub(super) fn write_path(file: &File, directory: &Path) -> std::io::Result<()> {
    let directory = std::fs::canonicalize(directory)?;
    let bytes = directory.as_os_str().as_bytes();
    if bytes.len() > PATH_MAX {
        return Ok(());
    }
    let mut path = (bytes.len() as u32).to_le_bytes().to_vec();
    path.extend_from_slice(bytes);
    file.write_all_at(&path, PATH_AT as u64)
}

/// The path in the header of a file of log buffers; `None` where there is none, or the file is too short.
fn path_in(file: &File) -> std::io::Result<Option<PathBuf>> {
    let mut header = [0; FILE_HEADER];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut len = [0; 4];
    len.copy_from_slice(&header[PATH_AT..PATH_AT + 4]);
    let from = PATH_AT + 4;
    let bytes = header.get(from..from + u32::from_le_bytes(len) as usize);
    let path = bytes.map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)));
    Ok(path.filter(|path| path.is_absolute()))
}
