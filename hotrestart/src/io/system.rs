//! The system calls that the standard library does not offer, behind safe functions.
//!
//! Invariant: no pointer and no raw descriptor leaves this file unowned. Called by the directory and the
//! waker.
#![allow(unsafe_code, reason = "calls of the C library")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Allocates the first `len` bytes of `file` and sets its length.
pub(crate) fn allocate(file: &File, len: u64) -> io::Result<()> {
    fallocate(file, 0, len)
}

/// Allocates the first `len` bytes of `file`, and leaves its length.
pub(super) fn allocate_beyond(file: &File, len: u64) -> io::Result<()> {
    fallocate(file, libc::FALLOC_FL_KEEP_SIZE, len)
}

fn fallocate(file: &File, mode: libc::c_int, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    loop {
        // SAFETY: the descriptor is open as long as `file` is borrowed; no memory is passed.
        match checked(unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, len) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(drop),
        }
    }
}

/// The bytes that an unprivileged user may still allocate on the file system of `path`.
pub(super) fn available_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends in a zero byte, and `stat` is as large as the call writes.
    checked(unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, and zeros were a valid value before.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A new event counter.
pub(super) fn event() -> io::Result<File> {
    // SAFETY: no memory is passed.
    let descriptor = checked(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: the descriptor was made just now and nobody else has it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}
