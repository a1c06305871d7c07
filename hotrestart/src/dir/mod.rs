//! The store's directory: its lock and its manifest.

pub(crate) mod lock;
pub(crate) mod manifests;
