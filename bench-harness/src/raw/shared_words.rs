//! Words of memory shared by two processes, which outlive the death of either.
//!
//! Owns the invariant that the mapping is only ever seen as atomic words, within its length, for as long
//! as the value lives. Used by the table of issued and acknowledged versions (`crash::table`): the child
//! writes, the parent reads after it killed the child. Costs one mapping; a word costs what an atomic
//! costs.
#![allow(unsafe_code)] // A mapping shared with another process cannot be had from safe code.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// Zeroed words in memory that belongs to no directory: the kernel frees it with its last user.
#[derive(Debug)]
pub struct SharedWords {
    map: MmapRaw,
    count: usize,
    file: File,
}

impl SharedWords {
    /// Makes `count` zeroed words.
    pub fn create(count: usize) -> io::Result<SharedWords> {
        let file = File::from(memfd_create("bench-harness-versions", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, bytes(count)?)?;
        SharedWords::map(file)
    }

    /// Maps the words of another process by the path that its `path` names.
    pub fn open(path: &Path) -> io::Result<SharedWords> {
        SharedWords::map(File::options().read(true).write(true).open(path)?)
    }

    /// Where a child finds these words while this process lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        let start = self.map.as_ptr().cast::<AtomicU64>();
        // SAFETY: the mapping is page-aligned, holds at least `count` words (checked when mapped) and
        // lives as long as `self`; both processes touch it only as atomics, and every bit pattern is a
        // valid u64. The file is never truncated: it has no name, and neither process calls ftruncate
        // after `create`.
        unsafe { std::slice::from_raw_parts(start, self.count) }
    }

    fn map(file: File) -> io::Result<SharedWords> {
        let length = file.metadata()?.len();
        let count = usize::try_from(length / 8).map_err(io::Error::other)?;
        let map = MmapOptions::new().map_raw(&file)?;
        assert!(map.len() >= count * 8, "a mapping shorter than its file");
        Ok(SharedWords { map, count, file })
    }
}

fn bytes(count: usize) -> io::Result<u64> {
    let bytes = count.checked_mul(8).ok_or_else(|| io::Error::other("too many words"))?;
    u64::try_from(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_one_mapping_writes_the_other_reads() {
        let ours = SharedWords::create(1000).expect("create");
        let theirs = SharedWords::open(&ours.path()).expect("open");
        assert_eq!(theirs.words().len(), 1000);
        theirs.words()[999].store(77, Ordering::Release);
        assert_eq!(ours.words()[999].load(Ordering::Acquire), 77);
        assert_eq!(ours.words()[0].load(Ordering::Acquire), 0);
    }
}
