//! The store's directory: its lock, its manifest, and the seqs that the manifest lets a store give.

mod claim;
pub(crate) mod lock;
pub(crate) mod manifests;
pub(crate) mod seqs;
