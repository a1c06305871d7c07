//! What the kernel says about this process and this machine, read from /proc and /sys.
//!
//! Every reader answers `None` rather than guess where a file is missing or unreadable: a report then
//! says null. No unsafe code: system calls go through rustix. See docs/benchmarking.md, "Machine".

pub mod block;
pub mod cpu;
pub mod directory;
pub mod host;
pub mod interrupt;
pub mod memory;
pub mod page_cache;
pub mod parent;
