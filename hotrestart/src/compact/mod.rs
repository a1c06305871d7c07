//! Compaction: garbage leaves the log, so that disk stays within its budget.
//!
//! `choose.rs` says which chunks are worth it, `lines.rs` what is in one, `survivors.rs` which of its records
//! must be kept and copies them, `implied.rs`, `facts.rs` and `survey.rs` which facts of absence may go,
//! `pins.rs` which chunks keep the others, `machine.rs` is the order of steps as a state machine and
//! `round.rs` its end, `drive.rs` the thread, `free.rs` makes files free again, `gate.rs` keeps rounds and
//! holds apart. The rule and its theory stand in `docs/compaction.md`.

pub(crate) mod choose;
pub(crate) mod drive;
pub(crate) mod facts;
pub(crate) mod free;
pub(crate) mod gate;
mod implied;
pub(crate) mod lines;
pub(crate) mod machine;
mod pins;
mod round;
pub(crate) mod state;
pub(crate) mod survey;
pub(crate) mod survivors;
