//! An open file of a disk, as a handle that queues can keep.
//!
//! Invariant: the file stays open as long as any operation on it is in flight, because each holds a clone.
//! All backends share the type; a handle must go back to the disk (or its queues) that made it.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// An open file; cheap to clone.
#[derive(Clone)]
pub struct FileHandle {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    body: Body,
}

enum Body {
    Os { file: File, is_direct: bool },
    Sim { inode: u64 },
}

impl FileHandle {
    pub(super) fn of_os(name: &str, file: File, is_direct: bool) -> FileHandle {
        let inner = Inner { name: name.to_owned(), body: Body::Os { file, is_direct } };
        FileHandle { inner: Arc::new(inner) }
    }

    pub(super) fn of_sim(name: &str, inode: u64) -> FileHandle {
        FileHandle { inner: Arc::new(Inner { name: name.to_owned(), body: Body::Sim { inode } }) }
    }

    /// The name that the file had when it was opened.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// True when transfers bypass the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        matches!(self.inner.body, Body::Os { is_direct: true, .. })
    }

    pub(super) fn os(&self) -> &File {
        match &self.inner.body {
            Body::Os { file, .. } => file,
            Body::Sim { .. } => panic!("{self:?} belongs to a simulated disk"),
        }
    }

    pub(super) fn raw(&self) -> RawFd {
        self.os().as_raw_fd()
    }

    pub(super) fn inode(&self) -> u64 {
        match &self.inner.body {
            Body::Sim { inode } => *inode,
            Body::Os { .. } => panic!("{self:?} belongs to a real disk"),
        }
    }
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileHandle({})", self.inner.name)
    }
}
