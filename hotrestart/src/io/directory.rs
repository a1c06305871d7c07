//! A directory of the operating system: everything that the two real backends share but the queue.
//!
//! Invariant: a creation that fails leaves no file behind; whether O_DIRECT is used is decided once, when
//! the directory is opened. Callers: `SyscallDisk` and `UringDisk`. See `docs/format.md`, section 5, for
//! the names.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::{IoError, IoErrorClass, IoOperation};
use super::{AlignedBuf, DirEntry, FileHandle, Fill, OpenMode, system};

const ZERO_WRITE_LEN: usize = 1 << 20;

/// A directory, open.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
    is_direct: bool,
}

impl Directory {
    pub(super) fn open(path: &Path, is_direct: bool) -> Result<Directory, IoError> {
        let name = path.display().to_string();
        let handle = File::open(path)
            .map_err(|error| IoError::from_std(IoOperation::Open, &name, &error))?;
        Ok(Directory { path: path.to_owned(), handle, is_direct })
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true);
        if self.is_direct {
            options.custom_flags(libc::O_DIRECT);
        }
        options
    }

    pub(super) fn create(&self, name: &str, len: u64, fill: Fill) -> Result<FileHandle, IoError> {
        let path = self.path.join(name);
        let opened = self.options().write(true).create_new(true).mode(0o600).open(&path);
        let file = opened.map_err(|error| self.creation_failed(name, len, &error))?;
        if let Err(error) = self.fill(&file, len, fill) {
            // The name goes first, so that what it took counts as available again.
            return match std::fs::remove_file(&path) {
                Ok(()) => Err(self.creation_failed(name, len, &error)),
                Err(left) => Err(IoError::from_std(IoOperation::Remove, name, &left)),
            };
        }
        Ok(FileHandle::of_os(name, file, self.is_direct))
    }

    fn fill(&self, file: &File, len: u64, fill: Fill) -> io::Result<()> {
        // The kernel would allocate all there is before it finds that it is not enough.
        if system::available_bytes(&self.path).is_ok_and(|available| available < len) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        match system::allocate(file, len) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => write_zeros(file, len),
            Err(error) => Err(error),
            Ok(()) if fill == Fill::Zero => write_zeros(file, len),
            Ok(()) => Ok(()),
        }
    }

    fn creation_failed(&self, name: &str, needed: u64, error: &io::Error) -> IoError {
        let failed = IoError::from_std(IoOperation::Create, name, error).at(0, needed);
        if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
            let available = system::available_bytes(&self.path).unwrap_or(0);
            return failed.of_class(IoErrorClass::NoSpace { needed, available });
        }
        failed
    }

    pub(super) fn open_file(&self, name: &str, mode: OpenMode) -> Result<FileHandle, IoError> {
        let mut options = self.options();
        let opened = options.write(mode == OpenMode::ReadWrite).open(self.path.join(name));
        let file = opened.map_err(|error| IoError::from_std(IoOperation::Open, name, &error))?;
        Ok(FileHandle::of_os(name, file, self.is_direct))
    }

    pub(super) fn len(&self, file: &FileHandle) -> Result<u64, IoError> {
        let metadata = file.os().metadata();
        let metadata = metadata
            .map_err(|error| IoError::from_std(IoOperation::Length, file.name(), &error))?;
        Ok(metadata.len())
    }

    pub(super) fn list(&self) -> Result<Vec<DirEntry>, IoError> {
        let mut entries =
            self.list_files().map_err(|error| IoError::from_std(IoOperation::List, "", &error))?;
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    fn list_files(&self) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            if metadata.is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let allocated_bytes = metadata.blocks() * 512;
                entries.push(DirEntry { name, len: metadata.len(), allocated_bytes });
            }
        }
        Ok(entries)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), IoError> {
        std::fs::remove_file(self.path.join(name))
            .map_err(|error| IoError::from_std(IoOperation::Remove, name, &error))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), IoError> {
        std::fs::rename(self.path.join(from), self.path.join(to))
            .map_err(|error| IoError::from_std(IoOperation::Rename, from, &error))
    }

    pub(super) fn sync(&self) -> Result<(), IoError> {
        self.handle.sync_all().map_err(|error| {
            let failed = IoError::from_std(IoOperation::SyncDirectory, "", &error);
            failed.of_class(IoErrorClass::Failed)
        })
    }

    pub(super) fn read_small(&self, name: &str, max_len: u64) -> Result<Vec<u8>, IoError> {
        let opened = File::open(self.path.join(name));
        let file = opened.map_err(|error| IoError::from_std(IoOperation::Open, name, &error))?;
        let failed = |error| IoError::from_std(IoOperation::Read, name, &error);
        let found = file.metadata().map_err(failed)?.len();
        let mut content = Vec::new();
        (&file).take(max_len.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > max_len {
            let error = IoError::from_errno(IoOperation::Read, name, libc::EFBIG);
            return Err(error.of_class(IoErrorClass::TooLong { found }));
        }
        Ok(content)
    }

    pub(super) fn write_small(&self, name: &str, content: &[u8]) -> Result<(), IoError> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(|error| self.creation_failed(name, 0, &error))?;
        let len = content.len() as u64;
        // Space is claimed before a byte is changed, so that the lack of it leaves the old content whole.
        if let Err(error) = self.claim(&file, len) {
            return Err(self.creation_failed(name, len, &error));
        }
        let written = file.write_all_at(content, 0);
        written.map_err(|error| IoError::from_std(IoOperation::Write, name, &error).at(0, len))?;
        file.sync_data().map_err(|error| IoError::from_std(IoOperation::Flush, name, &error))
    }

    /// Claims space for the first `len` bytes of a file, beyond what it has. Its length stays, so that what
    /// is within the length has been written, and is overwritten without a change of metadata.
    fn claim(&self, file: &File, len: u64) -> io::Result<()> {
        let former = file.metadata()?.len();
        if len <= former {
            return Ok(());
        }
        if system::available_bytes(&self.path).is_ok_and(|available| available < len - former) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        match system::allocate_beyond(file, len) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                // It may have got some of it.
                file.set_len(former)?;
                Err(error)
            }
            // Where nothing can be claimed the write finds out.
            _ => Ok(()),
        }
    }
}

fn write_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = AlignedBuf::zeroed(ZERO_WRITE_LEN);
    let mut offset = 0;
    while offset < len {
        let piece = (len - offset).min(ZERO_WRITE_LEN as u64) as usize;
        file.write_all_at(&zeros[..piece], offset)?;
        offset += piece as u64;
    }
    Ok(())
}
