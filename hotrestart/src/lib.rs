//! A store of native-memory maps, mirrored to disk.

pub mod format;
pub mod io;
