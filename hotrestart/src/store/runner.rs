//! Who runs the machines of an open store: threads, or the owner of a simulation.
//!
//! Invariant: the machines and their turns are the same, whoever runs them (`writer/drive.rs`,
//! `compact/drive.rs`); a runner only decides when a turn is taken. Callers: opening and closing. What may go
//! wrong: a thread cannot be started. `docs/testing.md` has the other runner, `stepper.rs`.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::compact;
use crate::writer::drive::{self, Control, Keeper};

/// A thread of the store; `None` where its owner takes the turns.
pub(crate) type Thread = Option<JoinHandle<()>>;

/// A machine of an open store: what it is told, and its thread.
pub(crate) type Machine = (Arc<Control>, Thread);

/// Starts machines, and lets them go on.
pub(crate) trait Runner {
    /// Starts a writer.
    fn start_writer(&mut self, index: usize, parts: drive::Parts) -> std::io::Result<Thread>;

    /// Starts the keeper.
    fn start_keeper(&mut self, keeper: Keeper) -> std::io::Result<Thread>;

    /// Starts the compactor.
    fn start_compactor(&mut self, parts: compact::drive::Parts) -> std::io::Result<Thread>;

    /// For who waited in vain: lets the machines go on, and says whether to try once more. Threads went on
    /// meanwhile, so that there it is no use.
    fn go_on(&mut self) -> bool;

    /// Waits for the end of a machine that was told to end. A panic in it has been told.
    fn join(&mut self, machine: Machine);
}

/// Each machine has a thread.
#[derive(Debug)]
pub(crate) struct Threads;

impl Runner for Threads {
    fn start_writer(&mut self, index: usize, parts: drive::Parts) -> std::io::Result<Thread> {
        let builder = std::thread::Builder::new().name(format!("hr-writer-{index}"));
        builder.spawn(move || drive::run(parts)).map(Some)
    }

    fn start_keeper(&mut self, keeper: Keeper) -> std::io::Result<Thread> {
        keeper.start().map(Some)
    }

    fn start_compactor(&mut self, parts: compact::drive::Parts) -> std::io::Result<Thread> {
        let builder = std::thread::Builder::new().name("hr-compactor".to_owned());
        builder.spawn(move || compact::drive::run(parts)).map(Some)
    }

    fn go_on(&mut self) -> bool {
        false
    }

    fn join(&mut self, (_, thread): Machine) {
        let _ = thread.map(JoinHandle::join);
    }
}
