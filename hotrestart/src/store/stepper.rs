//! A store without threads of its own: whoever owns the stepper takes the turns of its machines, in an order
//! that comes from a seed.
//!
//! Invariant: the machines are those of every store, and so are their turns; only who takes them, and when,
//! is another. With a disk, a clock and an order from seeds a whole store repeats itself exactly. Nothing
//! waits: a put that finds no room, or whose durability has not come, says so at once if the builder's
//! timeouts are 0, and its caller steps. Callers: the simulations in `tests/machinery`; see
//! `docs/testing.md`.

use std::path::Path;
use std::sync::Arc;

use super::Store;
use super::runner::{self, Runner, Thread};
use crate::compact;
use crate::config::Builder;
use crate::error::{CloseError, OpenError};
use crate::io::sim::Random;
use crate::writer::drive::{self, Control, Keeper, Turn};

/// Turns in a row that an opening or a closing is given before it counts as stuck.
const PATIENCE: u32 = 100_000;

/// The machines of one store, and the order of their turns.
pub struct Stepper {
    machines: Vec<Stepped>,
    random: Random,
    tick: Box<dyn FnMut()>,
    patience: u32,
}

struct Stepped {
    machine: Machine,
    has_ended: bool,
}

enum Machine {
    Writer(Arc<Control>, Box<drive::Drive>),
    Compactor(Arc<Control>, Box<compact::drive::Drive>),
    Keeper(Keeper),
}

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stepper({} machines)", self.machines.len())
    }
}

impl Stepper {
    /// A stepper without a store. The order of turns comes from `seed`; `tick` is called before each turn, to
    /// let time pass.
    pub fn new(seed: u64, tick: impl FnMut() + 'static) -> Stepper {
        let (machines, random) = (Vec::new(), Random::new(seed));
        Stepper { machines, random, tick: Box::new(tick), patience: 0 }
    }

    /// Opens a store whose machines this stepper has. Machines of a former one end as if its process had
    /// died.
    ///
    /// # Errors
    /// As for [`Builder::open`].
    pub fn open(
        &mut self,
        builder: Builder,
        directory: impl AsRef<Path>,
    ) -> Result<Store, OpenError> {
        self.machines.clear();
        self.patience = PATIENCE;
        builder.open_with(directory.as_ref(), self)
    }

    /// One turn of one machine, with the completions that have come for it.
    pub fn step(&mut self) {
        (self.tick)();
        if self.machines.is_empty() {
            return;
        }
        let chosen = self.random.below(self.machines.len());
        self.machines[chosen].turn();
    }

    /// Closes a store whose machines this stepper has.
    ///
    /// # Errors
    /// As for [`Store::close`].
    pub fn close(&mut self, mut store: Store) -> Result<(), CloseError> {
        self.patience = PATIENCE;
        store.finish(self)
    }

    fn add(&mut self, machine: Machine) -> Thread {
        self.machines.push(Stepped { machine, has_ended: false });
        None
    }
}

impl Stepped {
    fn turn(&mut self) {
        if self.has_ended {
            return;
        }
        let turn = match &mut self.machine {
            Machine::Writer(_, drive) => {
                drive.poll();
                drive.turn()
            }
            Machine::Compactor(_, drive) => {
                drive.poll();
                drive.turn()
            }
            Machine::Keeper(keeper) => {
                keeper.turn();
                Turn::Wait(0)
            }
        };
        if turn == Turn::End {
            self.has_ended = true;
            match &mut self.machine {
                Machine::Writer(_, drive) => drive.end(),
                Machine::Compactor(_, drive) => drive.end(),
                Machine::Keeper(_) => {}
            }
        }
    }

    fn is_of(&self, control: &Arc<Control>) -> bool {
        match &self.machine {
            Machine::Writer(own, _) | Machine::Compactor(own, _) => Arc::ptr_eq(own, control),
            Machine::Keeper(_) => false,
        }
    }
}

impl Runner for Stepper {
    fn start_writer(&mut self, _index: usize, parts: drive::Parts) -> std::io::Result<Thread> {
        let control = Arc::clone(&parts.control);
        Ok(self.add(Machine::Writer(control, Box::new(drive::Drive::begin(parts)))))
    }

    fn start_keeper(&mut self, keeper: Keeper) -> std::io::Result<Thread> {
        Ok(self.add(Machine::Keeper(keeper)))
    }

    fn start_compactor(&mut self, parts: compact::drive::Parts) -> std::io::Result<Thread> {
        let control = Arc::clone(&parts.control);
        Ok(self.add(Machine::Compactor(control, Box::new(compact::drive::Drive::begin(parts)))))
    }

    fn go_on(&mut self) -> bool {
        self.step();
        self.patience = self.patience.saturating_sub(1);
        self.patience > 0
    }

    fn join(&mut self, (control, _): runner::Machine) {
        loop {
            let own = self.machines.iter().find(|machine| machine.is_of(&control));
            if own.is_none_or(|machine| machine.has_ended) {
                return;
            }
            assert!(self.go_on(), "a machine that was told to end does not");
        }
    }
}
