//! The subcommands that fill a store: what each does, in what order, and what it reports.
//!
//! `load` fills, `overwrite`, `gets` and `ycsb` are the callers of a measured phase, the files named
//! after a subcommand put them together. See docs/benchmarking.md.

pub mod figures;
pub mod gets;
pub mod import;
pub mod load;
pub mod mixed;
pub mod overwrite;
pub mod quick;
pub mod quick_table;
pub mod read;
pub mod restart;
pub mod write;
pub mod ycsb;
