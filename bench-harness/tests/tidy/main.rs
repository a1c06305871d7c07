//! The rules of CONTRIBUTING.md, checked over every file that git knows.
//!
//! One test per rule, each named after what it keeps out; a failure lists every place. `tree` finds the
//! files, `text` has the rules about lines, `seams` and `hazards` those about models and the table of
//! hazards, `structure` those about crates, unsafe code, links and
//! dependencies.

mod hazards;
mod seams;
mod structure;
mod text;
mod tree;
