//! Watching a simulated disk: a look at every step, with what would be left if it were the last one.
//!
//! Invariant: a watcher is called after each submission of a write or flush, after each of its completions,
//! and after each change of names or small files, in the order in which they happen; it changes nothing. A
//! read leaves nothing behind and is no step. The disk is locked meanwhile: a watcher works with the disks
//! that it makes. Callers: simulations (`tests/machinery`).

use super::SimDisk;
use super::fault::FaultPlan;
use super::state::State;

/// Who looks.
pub(super) struct Watcher(Box<dyn FnMut(&Moment<'_>) + Send>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

/// A disk between two steps.
#[derive(Debug)]
pub struct Moment<'a> {
    state: &'a State,
}

impl Moment<'_> {
    /// What is found after the process died at this moment (`power` false: all that completed is kept), or
    /// the machine (`power` true: `plan` decides what is lost and torn). What becomes of operations in
    /// flight, and everything random of the new disk, comes from `seed`.
    #[must_use]
    pub fn crash(&self, power: bool, plan: &FaultPlan, seed: u64) -> SimDisk {
        SimDisk::of(self.state.image(power, plan, seed))
    }
}

impl State {
    /// Has the watcher look, if there is one.
    pub(super) fn note_step(&mut self) {
        if self.is_dead {
            return;
        }
        if let Some(mut watcher) = self.watcher.take() {
            watcher.0(&Moment { state: self });
            self.watcher = Some(watcher);
        }
    }
}

impl SimDisk {
    /// Has every step looked at from now on; the former watcher goes.
    pub fn watch(&self, watcher: impl FnMut(&Moment<'_>) + Send + 'static) {
        self.state().watcher = Some(Watcher(Box::new(watcher)));
    }

    /// Ends the watching.
    pub fn unwatch(&self) {
        self.state().watcher = None;
    }

    /// A step of the disk's user, which changed something beside the disk: it is looked at as well.
    pub fn note_step(&self) {
        self.state().note_step();
    }
}
