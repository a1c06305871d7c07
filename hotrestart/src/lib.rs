//! A store of native-memory maps, mirrored to disk.
