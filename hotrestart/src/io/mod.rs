//! The seam between the state machines and a disk: files by name, and queues of reads, writes and flushes.
//!
//! Invariants: a buffer belongs to the queue from `submit` until its completion gives it back; a
//! completion is whole or an error, never short; names and contents are durable only after the flush and
//! the directory sync that make them so. Offsets, lengths and memory of every transfer are multiples of
//! 4096. Three backends are equal and pass one parity test: `sim` (seeded, with faults), `syscall` and
//! `uring`. Callers: writers, compactor, loader (queues), opening and chunk making (`Disk`). Metadata
//! calls block. See `docs/format.md`, section 5, for the names.

mod buffer;
mod directory;
mod error;
mod file;
pub mod probe;
#[cfg(test)]
mod probe_tests;
pub mod sim;

mod syscall;
mod system;
mod transfer;
mod uring;
mod uring_slots;
mod waker;

use std::fmt::Debug;
use std::time::Duration;

pub use buffer::{AlignedBuf, IoBuf, Region, RegionSlice};
pub use error::{IoError, IoErrorClass, IoOperation};
pub use file::FileHandle;
pub use probe::{IoChoice, ProbeReport, choose};
pub use syscall::SyscallDisk;
pub(crate) use system::allocate;
pub use uring::UringDisk;
pub use waker::Waker;

use crate::format::ALIGNMENT;

/// One directory on one file system. Shared by all threads; its calls block and are off the hot path.
pub trait Disk: Send + Sync + Debug {
    /// Makes a file of full size that does not exist yet. It is durable only once it is flushed and its
    /// name is synced. When it fails no file is left behind.
    ///
    /// # Errors
    /// `AlreadyExists`, `NoSpace` with the bytes needed and available, or any other class.
    fn create(&self, name: &str, len: u64, fill: Fill) -> Result<FileHandle, IoError>;

    /// Opens a file, bypassing the page cache where the file system allows it.
    ///
    /// # Errors
    /// `NotFound`, `Permission`, or any other class.
    fn open(&self, name: &str, mode: OpenMode) -> Result<FileHandle, IoError>;

    /// The length of an open file, in bytes.
    ///
    /// # Errors
    /// When the file system does not tell.
    fn len(&self, file: &FileHandle) -> Result<u64, IoError>;

    /// Every regular file of the directory, in the order of the names.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&self) -> Result<Vec<DirEntry>, IoError>;

    /// Removes a name; durable after `sync_dir`.
    ///
    /// # Errors
    /// `NotFound`, or any other class.
    fn remove(&self, name: &str) -> Result<(), IoError>;

    /// Gives a file another name, replacing what had it; durable after `sync_dir`.
    ///
    /// # Errors
    /// `NotFound`, or any other class.
    fn rename(&self, from: &str, to: &str) -> Result<(), IoError>;

    /// Makes every earlier creation, renaming and removal durable.
    ///
    /// # Errors
    /// `Failed`: what is durable is unknown.
    fn sync_dir(&self) -> Result<(), IoError>;

    /// The content of a small file of any length, read through the page cache.
    ///
    /// # Errors
    /// `NotFound`; `TooLong` when the file exceeds `max_len`; any other class.
    fn read_small(&self, name: &str, max_len: u64) -> Result<Vec<u8>, IoError>;

    /// Writes `content` at the start of a small file, creates it if need be, and flushes it; what the file
    /// has beyond stays. Not atomic: after a crash the bytes may be old, new or a mix. A new name is durable
    /// only after `sync_dir`. Where the file has that many bytes already no space is needed, on file systems
    /// that overwrite in place.
    ///
    /// # Errors
    /// `NoSpace` when nothing was written for want of space; any other class.
    fn write_small(&self, name: &str, content: &[u8]) -> Result<(), IoError>;

    /// A queue that takes up to `depth` operations at a time. It must be used on the thread that made it.
    ///
    /// # Errors
    /// When the system refuses the ring or the event that the queue needs.
    fn queue(&self, depth: u32) -> Result<Box<dyn Queue>, IoError>;

    /// Which backend this is.
    fn kind(&self) -> IoKind;
}

/// Operations of one thread, by token. Not `Send`: a ring is bound to the thread that made it.
pub trait Queue: Debug {
    /// Takes an operation; it begins no later than the next `poll` or `wait`. Operations may be done in any
    /// order. Ordering a flush after writes is the caller's: submit it when their completions have come.
    ///
    /// # Panics
    /// When `in_flight` equals `capacity`, or the operation is not aligned (see `Op`).
    fn submit(&mut self, token: u64, op: Op);

    /// The operations that were submitted and whose completions have not been handed out.
    fn in_flight(&self) -> usize;

    /// The most operations that may be in flight.
    fn capacity(&self) -> usize;

    /// Waits until there is a completion, a wake or the timeout, and appends the completions to `out`. A
    /// wake that came before the call counts. `None` waits for ever.
    ///
    /// # Errors
    /// When the queue itself fails; operations in flight are then of unknown outcome.
    fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Completion>)
    -> Result<(), IoError>;

    /// Appends the completions that are there, without waiting for more.
    ///
    /// # Errors
    /// As `wait`.
    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<(), IoError>;

    /// A handle with which any thread makes one `wait` return.
    fn waker(&self) -> Waker;
}

/// One operation. The handle keeps the file open, and the buffer belongs to the queue, until it completes.
#[derive(Debug)]
pub enum Op {
    /// Writes the whole buffer at `offset`, within the file's length.
    Write {
        /// The file.
        file: FileHandle,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is written: all of it.
        buf: IoBuf,
    },
    /// Reads `len` bytes at `offset` into the start of the buffer.
    Read {
        /// The file.
        file: FileHandle,
        /// Where in the file, in bytes.
        offset: u64,
        /// Where the bytes go.
        buf: IoBuf,
        /// How many; at most the buffer's length.
        len: usize,
    },
    /// Makes durable every write to the file that had completed when this was submitted.
    Flush {
        /// The file.
        file: FileHandle,
    },
}

impl Op {
    /// The rules that all backends share, whether or not the file system enforces them.
    fn assert_valid(&self) {
        let (offset, len, buf) = match self {
            Op::Write { offset, buf, .. } => (*offset, buf.len(), buf),
            Op::Read { offset, buf, len, .. } => (*offset, *len, buf),
            Op::Flush { .. } => return,
        };
        let alignment = ALIGNMENT as u64;
        assert!(offset.is_multiple_of(alignment), "offset {offset} is no multiple of {alignment}");
        assert!(
            len > 0 && len.is_multiple_of(ALIGNMENT),
            "length {len} is no multiple of {alignment}"
        );
        assert!(len <= buf.len(), "{len} bytes into a buffer of {}", buf.len());
        assert!(buf.address().is_multiple_of(ALIGNMENT), "memory is not aligned to {alignment}");
    }
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// The token it was submitted with.
    pub token: u64,
    /// The bytes transferred, always all of them (0 for a flush), or why not.
    pub result: Result<usize, IoError>,
    /// The buffer of a read or write.
    pub buf: Option<IoBuf>,
}

/// What a new file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// Allocated, reads as zeros; the first write to each place also changes metadata.
    Allocate,
    /// Zeros that have really been written.
    Zero,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// For reading only.
    Read,
    /// For reading and writing.
    ReadWrite,
}

/// One file of the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// Its length, in bytes.
    pub len: u64,
    /// What it occupies on the device, in bytes.
    pub allocated_bytes: u64,
}

/// The backends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IoKind {
    /// io_uring.
    Uring,
    /// `preadv2`, `pwritev2` and `fdatasync` on the calling thread.
    Syscall,
    /// The simulated disk.
    Sim,
}

impl std::fmt::Display for IoKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IoKind::Uring => "uring",
            IoKind::Syscall => "syscall",
            IoKind::Sim => "sim",
        })
    }
}
