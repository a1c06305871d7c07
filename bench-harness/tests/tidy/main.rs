//! The rules of CONTRIBUTING.md, checked over every file that git knows.
//!
//! One test per rule, each named after what it keeps out; a failure lists every place. `tree` finds the
//! files, `text` has the rules about lines, `structure` those about crates, unsafe code, links and
//! dependencies.

mod hazards;
mod structure;
mod text;
mod tree;
