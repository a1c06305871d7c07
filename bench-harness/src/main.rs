//! Fills, measures, kills and restarts a store.
fn main() {}
