//! One process at a time: an exclusive lock on the file `lock`, held as long as the store is open.
//!
//! The kernel lets a lock go a moment after its process died (a ring may keep files open until its last
//! operation ended), so taking it is tried for a second.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(1);

/// A held lock.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

/// Whether a live process has the lock. It is not taken, but for a moment, which whoever wants it waits for.
pub(crate) fn is_held(directory: &Path) -> bool {
    let lock = File::open(directory.join("lock")).map(|file| file.try_lock_shared());
    matches!(lock, Ok(Err(TryLockError::WouldBlock)))
}

/// Takes the lock; `Ok(None)` when a live process has it.
pub(crate) fn take(directory: &Path) -> std::io::Result<Option<DirLock>> {
    let path = directory.join("lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(DirLock { _file: file })),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}
