//! Kill and check: fill in a child process, end it with SIGKILL, reopen, compare every entry with what
//! the child had issued and been told was done.
//!
//! `table` is what survives the child, `child` fills, `supervise` kills, `verify` judges. Used by
//! `restart` and `quick`. See docs/benchmarking.md, "restart".

pub mod child;
pub mod supervise;
pub mod table;
pub mod verify;
