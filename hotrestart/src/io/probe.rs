//! Finds out what a directory offers: a ring that works, transfers that bypass the page cache.
//!
//! Invariant: nothing is believed that was not done once: the ring is tried with a real write and flush,
//! O_DIRECT with a real write. The file it makes for that has its name removed before it is used. On a full
//! disk, where none can be made, they are tried with a read of the manifest, so that a store opens there,
//! too. `Auto` falls back and says why; `Uring` where it is blocked is an error. Called once when a store is
//! opened.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::error::{IoErrorClass, IoOperation};
use super::uring::UringQueue;
use super::{
    AlignedBuf, Disk, FileHandle, IoError, IoKind, Op, Queue, SyscallDisk, UringDisk, system,
};
use crate::format::ALIGNMENT;
use crate::format::manifest::MANIFEST_NAMES;

const NO_DIRECT: &str = "the file system does not take O_DIRECT; the page cache is in between";

/// Which backend is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum IoChoice {
    /// io_uring where it works, else plain system calls.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Plain system calls.
    Syscall,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeReport {
    /// The backend in use.
    pub kind: IoKind,
    /// True when transfers bypass the page cache.
    pub is_direct: bool,
    /// Why they do not, if they do not.
    pub direct_refused: Option<String>,
    /// Why io_uring is not in use although it was wanted.
    pub uring_refused: Option<String>,
    /// The flags of the ring that was tried, if one was made.
    pub uring_flags: Option<&'static str>,
}

/// Opens a directory with the backend that was asked for, or the best one that works.
///
/// # Errors
/// When the directory cannot be written, or `Uring` is asked for and blocked (`Unavailable`, with the
/// reason).
pub fn choose(path: &Path, choice: IoChoice) -> Result<(Arc<dyn Disk>, ProbeReport), IoError> {
    let (trial, direct_refused) = trial_of(path)?;
    let is_direct = direct_refused.is_none();
    let mut report = ProbeReport {
        kind: IoKind::Syscall,
        is_direct,
        direct_refused,
        uring_refused: None,
        uring_flags: None,
    };
    if choice != IoChoice::Syscall {
        match try_ring(trial) {
            Ok(flags) => {
                report.kind = IoKind::Uring;
                report.uring_flags = Some(flags);
                return Ok((Arc::new(UringDisk::open(path, is_direct)?), report));
            }
            Err(error) => {
                let reason = why_refused(&error);
                if choice == IoChoice::Uring {
                    return Err(error.of_class(IoErrorClass::Unavailable { reason }));
                }
                report.uring_refused = Some(reason);
            }
        }
    }
    Ok((Arc::new(SyscallDisk::open(path, is_direct)?), report))
}

/// What is tried: a write and a flush, or a read where there is no space to write.
enum Trial {
    Write(FileHandle),
    Read(FileHandle),
}

fn trial_of(path: &Path) -> Result<(Trial, Option<String>), IoError> {
    let full = match probe_file(path) {
        Ok((file, refused)) => return Ok((Trial::Write(file), refused)),
        Err(error) if is_full(error.errno) => {
            let needed = ALIGNMENT as u64;
            let available = system::available_bytes(path).unwrap_or(0);
            error.of_class(IoErrorClass::NoSpace { needed, available })
        }
        Err(error) => return Err(error),
    };
    for name in MANIFEST_NAMES {
        let open = |flags| {
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(flags).open(path.join(name))
        };
        let mut block = AlignedBuf::zeroed(ALIGNMENT);
        if let Ok(file) = open(libc::O_DIRECT)
            && file.read_exact_at(&mut block, 0).is_ok()
        {
            return Ok((Trial::Read(FileHandle::of_os(name, file, true)), None));
        }
        if let Ok(file) = open(0)
            && file.read_exact_at(&mut block, 0).is_ok()
        {
            let file = FileHandle::of_os(name, file, false);
            return Ok((Trial::Read(file), Some(NO_DIRECT.to_owned())));
        }
    }
    Err(full)
}

fn is_full(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::ENOSPC | libc::EDQUOT))
}

/// A file without a name, open as the store's files will be, and why that is not with O_DIRECT.
fn probe_file(path: &Path) -> Result<(FileHandle, Option<String>), IoError> {
    let block = AlignedBuf::zeroed(ALIGNMENT);
    let name = format!("probe-{:08x}", std::process::id());
    let attempt = |flags| {
        let path = path.join(&name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(flags);
        let opened = options.open(&path);
        // A refusal of O_DIRECT may come after the file was made, so the name goes in either case.
        let removed = std::fs::remove_file(&path);
        let file = opened?;
        removed?;
        file.write_all_at(&block, 0)?;
        Ok::<_, std::io::Error>(file)
    };
    match attempt(libc::O_DIRECT) {
        Ok(file) => Ok((FileHandle::of_os(&name, file, true), None)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let file = attempt(0).map_err(|error| probe_failed(&name, &error))?;
            Ok((FileHandle::of_os(&name, file, false), Some(NO_DIRECT.to_owned())))
        }
        Err(error) => Err(probe_failed(&name, &error)),
    }
}

fn probe_failed(name: &str, error: &std::io::Error) -> IoError {
    IoError::from_std(IoOperation::Create, name, error).at(0, ALIGNMENT as u64)
}

fn try_ring(trial: Trial) -> Result<&'static str, IoError> {
    let mut queue = UringQueue::new(2)?;
    let buf = AlignedBuf::zeroed(ALIGNMENT).into();
    let file = match trial {
        Trial::Write(file) => {
            queue.submit(0, Op::Write { file: file.clone(), offset: 0, buf });
            file
        }
        Trial::Read(file) => {
            queue.submit(0, Op::Read { file: file.clone(), offset: 0, buf, len: ALIGNMENT });
            file
        }
    };
    let mut done = Vec::new();
    queue.wait(None, &mut done)?;
    queue.submit(1, Op::Flush { file });
    queue.wait(None, &mut done)?;
    for completion in done {
        completion.result?;
    }
    Ok(queue.flags())
}

fn why_refused(error: &IoError) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = disabled.as_deref().map_or("0", str::trim);
    match (&error.class, error.errno) {
        (IoErrorClass::Unavailable { reason }, _) => reason.clone(),
        (_, Some(libc::EPERM | libc::EACCES)) if disabled != "0" => {
            format!("io_uring is switched off: sysctl kernel.io_uring_disabled is {disabled}")
        }
        (_, Some(libc::EPERM | libc::EACCES)) => {
            "io_uring is forbidden to this process (a seccomp filter, as containers have)"
                .to_owned()
        }
        (_, Some(libc::ENOSYS)) => {
            "this kernel has no io_uring, or a seccomp filter hides it".to_owned()
        }
        (_, Some(libc::ENOMEM)) => {
            "no memory for a ring: raise the limit of locked memory (ulimit -l)".to_owned()
        }
        _ => format!("io_uring does not work here: {error}"),
    }
}
