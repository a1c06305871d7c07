//! Dying with the parent: no process of ours goes on filling a disk when nobody is there to stop it.
//!
//! The kernel sends SIGKILL when the parent's thread that started this process ends. Whoever is started so
//! says who its parent is, since that may have died before the kernel was told. Callers: the child of
//! `restart`, and `main` where the environment names a parent, as our tests do.

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::failure::Failure;

/// Names the process with which this one is to die.
pub const DIES_WITH: &str = "BENCH_HARNESS_DIES_WITH";

/// Dies with the parent, which has this number.
pub fn die_with(parent: u32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| {
        Failure::environment(format!("cannot tie this process to its parent: {error}"))
    })?;
    let found = getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get().unsigned_abs());
    if found == Some(parent) {
        return Ok(());
    }
    Err(Failure::environment(format!("the parent, process {parent}, is gone")))
}

/// Dies with the process that the environment names, if it names one.
pub fn die_as_told() -> Result<(), Failure> {
    let Some(parent) = std::env::var_os(DIES_WITH) else { return Ok(()) };
    let number = parent.to_str().and_then(|parent| parent.parse().ok());
    let number = number
        .ok_or_else(|| Failure::usage(format!("{DIES_WITH}={}: no process", parent.display())))?;
    die_with(number)
}
