//! Dropping the page cache before a restart is measured, and saying whether that was done.
//!
//! Owns the honesty of `page_cache_dropped`: true only if the kernel took the request for the whole
//! machine, or if it took the advice for every file of the store. Called by `restart` between kill and
//! open.

use std::fs;
use std::path::Path;

use rustix::fs::{Advice, fadvise};

use super::directory;
use crate::failure::Failure;

/// What was done to the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCache {
    /// The kernel dropped it for the whole machine.
    DroppedByKernel,
    /// Every file of the store was flushed and its pages given up by advice.
    DroppedByAdvice,
    /// It is as it was.
    Kept,
}

impl PageCache {
    /// The field of the report.
    pub fn dropped(self) -> bool {
        self != PageCache::Kept
    }

    /// For the table.
    pub fn describe(self) -> &'static str {
        match self {
            PageCache::DroppedByKernel => "dropped (drop_caches)",
            PageCache::DroppedByAdvice => {
                "dropped (fadvise on each file; no permission for drop_caches)"
            }
            PageCache::Kept => "kept (no permission)",
        }
    }
}

/// Drops what may be dropped of the cached pages of the files in `dir`.
pub fn drop_for(dir: &Path) -> Result<PageCache, Failure> {
    let files = directory::files(dir)?;
    // Dirty pages are never dropped, so they are written first; the time is not measured.
    let mut advised = true;
    for path in &files {
        let file = fs::File::open(path).map_err(Failure::file("open", path))?;
        file.sync_all().map_err(Failure::file("flush", path))?;
        advised &= fadvise(&file, 0, None, Advice::DontNeed).is_ok();
    }
    if fs::write("/proc/sys/vm/drop_caches", "3").is_ok() {
        return Ok(PageCache::DroppedByKernel);
    }
    Ok(if advised { PageCache::DroppedByAdvice } else { PageCache::Kept })
}
