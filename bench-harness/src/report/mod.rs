//! Reports: JSON for scripts, tables for people.
//!
//! `document` is the contract of docs/benchmarking.md, `table` what is printed, `units` how figures are
//! spelt.

pub mod document;
pub mod progress;
pub mod table;
pub mod units;
