//! The command line and the settings that come out of it.
//!
//! `args` is the contract, `choices` the words, `size` the numbers, `settings` what a run uses and the
//! report echoes. See docs/benchmarking.md.

pub mod args;
pub mod choices;
pub mod settings;
pub mod size;
