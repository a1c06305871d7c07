//! The one error of the I/O seam: what was tried on which bytes of which file, and what it means.
//!
//! Invariant: every error carries a class from which the caller decides without looking at errno: refuse
//! and resume (`NoSpace`), report (`NotFound` and the like), or poison (`Failed`: what reached the disk
//! is unknown). It is `Clone`, because the first failure is repeated in every later answer.

use std::fmt;

/// A failed operation on a file or a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IoError {
    /// What was tried.
    pub operation: IoOperation,
    /// The file's name in the directory; empty for the directory or the queue itself.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// What the system said, if it was the system.
    pub errno: Option<i32>,
    /// What it means.
    pub class: IoErrorClass,
}

/// What was tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum IoOperation {
    Create,
    Open,
    Length,
    List,
    Remove,
    Rename,
    SyncDirectory,
    Read,
    Write,
    Flush,
    Queue,
}

/// What a failure means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IoErrorClass {
    /// No space to make a file: nothing has changed, and it may work later.
    NoSpace {
        /// The bytes that were asked for.
        needed: u64,
        /// The bytes that the file system has for this user.
        available: u64,
    },
    /// No file of this name.
    NotFound,
    /// A file of this name exists.
    AlreadyExists,
    /// Not allowed.
    Permission,
    /// The file ends within the bytes to be read.
    PastEnd {
        /// The bytes from the offset to the end.
        available: u64,
    },
    /// The file is longer than the caller takes.
    TooLong {
        /// Its length, in bytes.
        found: u64,
    },
    /// The system does not offer it: a blocked io_uring.
    Unavailable {
        /// Why, for the operator.
        reason: String,
    },
    /// Anything else. For a write or a flush: which bytes reached the disk is unknown.
    Failed,
}

impl IoError {
    /// An error with the class that `errno` has for every operation; space is judged by the operation.
    #[must_use]
    pub fn from_errno(operation: IoOperation, file: &str, errno: i32) -> IoError {
        let class = match errno {
            libc::ENOENT => IoErrorClass::NotFound,
            libc::EEXIST => IoErrorClass::AlreadyExists,
            libc::EACCES | libc::EPERM | libc::EROFS => IoErrorClass::Permission,
            _ => IoErrorClass::Failed,
        };
        let class = match operation {
            // A transfer has no name to miss and no permission to lose: whatever it says, it has failed.
            IoOperation::Read | IoOperation::Write | IoOperation::Flush => IoErrorClass::Failed,
            _ => class,
        };
        IoError { operation, file: file.to_owned(), offset: 0, len: 0, errno: Some(errno), class }
    }

    /// An error with the class of `error`'s errno.
    #[must_use]
    pub fn from_std(operation: IoOperation, file: &str, error: &std::io::Error) -> IoError {
        IoError::from_errno(operation, file, error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The same error about these bytes.
    #[must_use]
    pub fn at(mut self, offset: u64, len: u64) -> IoError {
        (self.offset, self.len) = (offset, len);
        self
    }

    /// The same error with another class.
    #[must_use]
    pub fn of_class(mut self, class: IoErrorClass) -> IoError {
        self.class = class;
        self
    }

    /// True when nothing was done for want of file handles or of kernel memory, so that it may work later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        let is_before_any_byte = !matches!(
            self.operation,
            IoOperation::Read
                | IoOperation::Write
                | IoOperation::Flush
                | IoOperation::SyncDirectory
        );
        is_before_any_byte && matches!(self.errno, Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
    }

    /// True when the outcome on the disk is unknown, so that nothing more may be acknowledged.
    #[must_use]
    pub fn is_of_unknown_extent(&self) -> bool {
        self.class == IoErrorClass::Failed
    }
}

impl fmt::Display for IoOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoOperation::Create => "creating",
            IoOperation::Open => "opening",
            IoOperation::Length => "asking the length of",
            IoOperation::List => "listing the directory",
            IoOperation::Remove => "removing",
            IoOperation::Rename => "renaming",
            IoOperation::SyncDirectory => "syncing the directory",
            IoOperation::Read => "reading",
            IoOperation::Write => "writing",
            IoOperation::Flush => "flushing",
            IoOperation::Queue => "running the I/O queue",
        })
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)?;
        if !self.file.is_empty() {
            write!(f, " {}", self.file)?;
        }
        if self.len > 0 {
            write!(f, " ({} bytes at {})", self.len, self.offset)?;
        }
        match &self.class {
            IoErrorClass::NoSpace { needed, available } => {
                write!(f, ": no space: {needed} bytes needed, {available} available")?;
            }
            IoErrorClass::NotFound => f.write_str(": no such file")?,
            IoErrorClass::AlreadyExists => f.write_str(": it exists already")?,
            IoErrorClass::Permission => f.write_str(": not permitted")?,
            IoErrorClass::PastEnd { available } => {
                write!(f, ": the file ends after {available} of them")?;
            }
            IoErrorClass::TooLong { found } => write!(f, ": it has {found} bytes, too many")?,
            IoErrorClass::Unavailable { reason } => write!(f, ": {reason}")?,
            IoErrorClass::Failed => f.write_str(" failed")?,
        }
        match self.errno {
            Some(errno) => write!(f, ": {}", std::io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for IoError {}
