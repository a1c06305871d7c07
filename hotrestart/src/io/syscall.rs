//! The backend of plain system calls: positioned reads and writes and `fdatasync`, on the calling thread.
//!
//! Invariant: the same answers as io_uring, in the order of submission. Operations run when the queue is
//! polled or waited on, so each of those may block for as long as the disk takes.
//! Chosen where io_uring is blocked, and by `--io syscall`. Cost: one system call per operation.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::directory::Directory;
use super::error::IoOperation;
use super::transfer::{Progress, Transfer};
use super::{
    Completion, DirEntry, Disk, FileHandle, Fill, IoBuf, IoError, IoKind, Op, OpenMode, Queue,
    Waker,
};

/// A directory that is read and written by plain system calls.
#[derive(Debug)]
pub struct SyscallDisk {
    directory: Directory,
}

impl SyscallDisk {
    /// Opens a directory; `is_direct` bypasses the page cache, which the file system must support.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn open(path: &Path, is_direct: bool) -> Result<SyscallDisk, IoError> {
        Ok(SyscallDisk { directory: Directory::open(path, is_direct)? })
    }
}

/// The calls that both real disks hand to their directory.
macro_rules! metadata_calls {
    () => {
        fn create(&self, name: &str, len: u64, fill: Fill) -> Result<FileHandle, IoError> {
            self.directory.create(name, len, fill)
        }

        fn open(&self, name: &str, mode: OpenMode) -> Result<FileHandle, IoError> {
            self.directory.open_file(name, mode)
        }

        fn len(&self, file: &FileHandle) -> Result<u64, IoError> {
            self.directory.len(file)
        }

        fn list(&self) -> Result<Vec<DirEntry>, IoError> {
            self.directory.list()
        }

        fn remove(&self, name: &str) -> Result<(), IoError> {
            self.directory.remove(name)
        }

        fn rename(&self, from: &str, to: &str) -> Result<(), IoError> {
            self.directory.rename(from, to)
        }

        fn sync_dir(&self) -> Result<(), IoError> {
            self.directory.sync()
        }

        fn read_small(&self, name: &str, max_len: u64) -> Result<Vec<u8>, IoError> {
            self.directory.read_small(name, max_len)
        }

        fn write_small(&self, name: &str, content: &[u8]) -> Result<(), IoError> {
            self.directory.write_small(name, content)
        }
    };
}
pub(super) use metadata_calls;

impl Disk for SyscallDisk {
    metadata_calls!();

    fn queue(&self, depth: u32) -> Result<Box<dyn Queue>, IoError> {
        let waker = Waker::of_condition();
        Ok(Box::new(SyscallQueue {
            pending: VecDeque::new(),
            capacity: depth.max(1) as usize,
            waker,
        }))
    }

    fn kind(&self) -> IoKind {
        IoKind::Syscall
    }
}

#[derive(Debug)]
struct SyscallQueue {
    pending: VecDeque<(u64, Op)>,
    capacity: usize,
    waker: Waker,
}

impl Queue for SyscallQueue {
    fn submit(&mut self, token: u64, op: Op) {
        assert!(self.pending.len() < self.capacity, "more than {} in flight", self.capacity);
        op.assert_valid();
        self.pending.push_back((token, op));
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        out: &mut Vec<Completion>,
    ) -> Result<(), IoError> {
        if self.pending.is_empty() {
            self.waker.sleep(timeout.map(|timeout| Instant::now() + timeout));
            return Ok(());
        }
        self.waker.take();
        self.poll(out)
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<(), IoError> {
        out.extend(self.pending.drain(..).map(|(token, op)| run(token, op)));
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

fn run(token: u64, op: Op) -> Completion {
    match op {
        Op::Write { file, offset, buf } => {
            let transfer = Transfer::new(IoOperation::Write, offset, buf.len());
            let result = drive(transfer, &file, |rest, offset, end| {
                file.os().write_at(&buf[rest..end], offset)
            });
            Completion { token, result, buf: Some(buf) }
        }
        Op::Read { file, offset, mut buf, len } => {
            let transfer = Transfer::new(IoOperation::Read, offset, len);
            let bytes: &mut IoBuf = &mut buf;
            let result = drive(transfer, &file, |rest, offset, end| {
                file.os().read_at(&mut bytes[rest..end], offset)
            });
            Completion { token, result, buf: Some(buf) }
        }
        Op::Flush { file } => {
            let transfer = Transfer::new(IoOperation::Flush, 0, 0);
            let result = drive(transfer, &file, |_, _, _| file.os().sync_data().map(|()| 0));
            Completion { token, result, buf: None }
        }
    }
}

/// Calls `step` with the rest's place in the buffer, its place in the file and its end in the buffer,
/// until the operation has ended.
fn drive(
    mut transfer: Transfer,
    file: &FileHandle,
    mut step: impl FnMut(usize, u64, usize) -> std::io::Result<usize>,
) -> Result<usize, IoError> {
    loop {
        let done = transfer.done();
        let answer = step(done, transfer.rest_offset(), done + transfer.rest_len());
        let answer = answer.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
        let again = answer == Err(libc::EAGAIN);
        match transfer.advance(answer, file.name()) {
            Progress::Ended(result) => return result,
            Progress::Again if again => std::thread::yield_now(),
            Progress::Again => {}
        }
    }
}
