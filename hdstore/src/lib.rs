//! Maps in native memory.
