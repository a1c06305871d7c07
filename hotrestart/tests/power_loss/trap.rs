//! A disk that goes wrong, or is slow, where only compaction is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hotrestart::Builder;
use hotrestart::io::{
    DirEntry, Disk, FileHandle, Fill, IoError, IoErrorClass, IoKind, IoOperation, OpenMode, Queue,
};

use super::bench::{Machine, Patient};

/// The disk. What happens how often is set at any time.
#[derive(Clone, Debug)]
pub struct Trap {
    pub disk: Patient,
    /// Opening a chunk to read it panics after so many times.
    pub reads: Arc<AtomicU32>,
    /// The compactor's thread panics after it gave so many chunks back, once the manifest says that they are
    /// free.
    pub returns: Arc<AtomicU32>,
    /// So many removals find no space, as on file systems that copy on write.
    pub removals: Arc<AtomicU32>,
    /// So many chunks cannot be opened for want of file handles.
    pub handles: Arc<AtomicU32>,
    /// Opening a chunk to read it takes so many milliseconds.
    pub opening_ms: Arc<AtomicU32>,
}

fn one_less(left: u32) -> Option<u32> {
    left.checked_sub(1)
}

impl Trap {
    fn return_chunk(&self, name: &str) {
        if std::thread::current().name() == Some("hr-compactor") {
            let left = self.returns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
            assert!(left.is_ok(), "{name}: a panic that the test asked for");
        }
    }
}

impl Disk for Trap {
    fn create(&self, name: &str, len: u64, fill: Fill) -> Result<FileHandle, IoError> {
        self.disk.create(name, len, fill)
    }

    fn open(&self, name: &str, mode: OpenMode) -> Result<FileHandle, IoError> {
        let one_fails =
            || self.handles.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        if mode == OpenMode::Read {
            let opening_ms = self.opening_ms.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(opening_ms.into()));
        }
        if mode == OpenMode::Read && one_fails() {
            return Err(IoError::from_errno(IoOperation::Open, name, libc::EMFILE));
        }
        if mode == OpenMode::Read {
            let left = self.reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
            assert!(left.is_ok(), "{name}: a panic that the test asked for");
        } else {
            self.return_chunk(name);
        }
        self.disk.open(name, mode)
    }

    fn len(&self, file: &FileHandle) -> Result<u64, IoError> {
        self.disk.len(file)
    }

    fn list(&self) -> Result<Vec<DirEntry>, IoError> {
        self.disk.list()
    }

    fn remove(&self, name: &str) -> Result<(), IoError> {
        self.return_chunk(name);
        if self.removals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            let error = IoError::from_errno(IoOperation::Remove, name, libc::ENOSPC);
            return Err(error.of_class(IoErrorClass::NoSpace { needed: 1, available: 0 }));
        }
        self.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), IoError> {
        self.disk.rename(from, to)
    }

    fn sync_dir(&self) -> Result<(), IoError> {
        self.disk.sync_dir()
    }

    fn read_small(&self, name: &str, max_len: u64) -> Result<Vec<u8>, IoError> {
        self.disk.read_small(name, max_len)
    }

    fn write_small(&self, name: &str, content: &[u8]) -> Result<(), IoError> {
        self.disk.write_small(name, content)
    }

    fn queue(&self, depth: u32) -> Result<Box<dyn Queue>, IoError> {
        self.disk.queue(depth)
    }

    fn kind(&self) -> IoKind {
        self.disk.kind()
    }
}

/// The disk of a machine with nothing set.
pub fn trap_of(machine: &Machine) -> Trap {
    let disk = Patient(machine.disk.clone(), Arc::clone(&machine.full_for_small_files));
    Trap {
        disk,
        reads: Arc::new(AtomicU32::new(u32::MAX)),
        returns: Arc::new(AtomicU32::new(u32::MAX)),
        removals: Arc::default(),
        handles: Arc::default(),
        opening_ms: Arc::default(),
    }
}

/// The settings of a store on it.
pub fn builder(machine: &Machine, trap: &Trap) -> Builder {
    machine.builder().writers(1).simulated(
        Arc::new(trap.clone()),
        Arc::clone(&machine.regions),
        [1; 16],
    )
}
