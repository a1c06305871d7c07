//! Measuring: histograms of latency, and the phase of warm-up and measured time that workers run in.
//!
//! See docs/benchmarking.md, "What is measured".

pub mod latency;
pub mod phase;
pub mod schedule;
