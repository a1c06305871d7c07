//! Entries: what the bytes of a slot mean, and the one place that reads and writes them.

pub(crate) mod layout;
pub(crate) mod view;
