//! Writing: from sealed buffers to blocks on the device, and to acknowledgements.
//!
//! `machine.rs` is the writer as a state machine, `progress.rs` its watermarks and who waits for them,
//! `drive.rs` the threads that drive them all. Chunks and blocks are in `chunks/`.

pub(crate) mod drive;
pub(crate) mod machine;
pub(crate) mod progress;
#[cfg(all(test, loom))]
mod progress_models;
