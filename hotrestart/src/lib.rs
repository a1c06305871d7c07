//! A store of native-memory maps, mirrored to disk.

pub mod format;
pub mod inspect;
pub mod io;
