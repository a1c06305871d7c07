//! How far the disk budget may fall while the store has more files than it allows.
//!
//! The budget follows what the store holds, so whoever removes, or puts something shorter, lowers it, and can
//! do so many times as fast as compaction frees what becomes garbage. Then those changes wait: as long as
//! there are more files than may be made beyond the budget, the budget may fall no further than a *floor*,
//! which sinks by one file for every two that compaction gives back to the file system. So the store comes
//! back to its budget whatever the load.
//!
//! Invariants: nobody waits unless compaction is at work, since what it cannot free nobody can wait for, and
//! nobody longer than its own deadline: a change that makes room is never refused for this. A clear, the drop
//! of a map and the release of a hold do not wait, and take the floor down with them.
//!
//! Callers: the keeper (`look`), who frees chunks (`give_back`), the compactor (`set_freeing`), changes that
//! wait (`log.rs`). Cost: none for a change as long as the store is within its budget.

use std::time::{Duration, Instant};

use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, lock};

/// Who waits looks this often whether compaction still frees anything.
const WAIT_SLICE: Duration = Duration::from_millis(20);
/// Looks that take a fall as it is after a clear, a drop or a release: a map's entries leave memory after its
/// drop was logged, so that one look may come between.
const SUDDEN_LOOKS: u32 = 2;

/// The floor of the disk budget.
#[derive(Debug, Default)]
pub(crate) struct BudgetFloor {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether compaction is at work.
    is_freeing: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Files that the store may have.
    budget: u64,
    /// Twice the files that the budget may fall to; `None` while the store is within its budget.
    floor: Option<u64>,
    /// Looks that are still to take the budget as it is.
    sudden_looks: u32,
}

impl BudgetFloor {
    /// Takes in how many files there are and may be, beyond which so many may be made for removals and
    /// compaction.
    pub(crate) fn look(&self, files: u64, budget: u64, beyond: u64) {
        let mut state = lock(&self.state);
        state.budget = budget;
        let is_sudden = state.sudden_looks > 0;
        state.sudden_looks = state.sudden_looks.saturating_sub(1);
        let former = state.floor.filter(|_| !is_sudden).unwrap_or_default();
        state.floor = (files > budget + beyond).then(|| former.max(2 * budget));
        drop(state);
        self.changed.notify_all();
    }

    /// So many files were removed.
    pub(crate) fn give_back(&self, files: u64) {
        let mut state = lock(&self.state);
        state.floor = state.floor.map(|floor| floor.saturating_sub(files));
        drop(state);
        self.changed.notify_all();
    }

    /// The budget falls by what nobody waits for: a clear, the drop of a map, the release of a hold.
    pub(crate) fn note_sudden_fall(&self) {
        lock(&self.state).sudden_looks = SUDDEN_LOOKS;
    }

    /// Says whether compaction is at work, rather than without anything that it could free. Returns whether
    /// that is new.
    pub(crate) fn set_freeing(&self, is_freeing: bool) -> bool {
        if self.is_freeing.load(Ordering::Relaxed) == is_freeing {
            return false;
        }
        self.is_freeing.store(is_freeing, Ordering::Relaxed);
        self.changed.notify_all();
        true
    }

    /// Whether changes wait.
    pub(crate) fn is_reached(&self) -> bool {
        self.keeps_waiting(&lock(&self.state))
    }

    fn keeps_waiting(&self, state: &State) -> bool {
        let is_reached = state.floor.is_some_and(|floor| 2 * state.budget < floor);
        is_reached && self.is_freeing.load(Ordering::Relaxed)
    }

    /// Waits until changes may go on, or `deadline` came, or `keep_on` says no.
    pub(crate) fn wait(&self, deadline: Instant, keep_on: impl Fn() -> bool) {
        let mut state = lock(&self.state);
        while self.keeps_waiting(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !keep_on() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left.min(WAIT_SLICE));
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor() -> BudgetFloor {
        let floor = BudgetFloor::default();
        floor.set_freeing(true);
        floor
    }

    #[test]
    fn a_store_within_its_budget_may_shrink_and_one_beyond_waits_for_what_is_freed() {
        let floor = floor();
        floor.look(110, 100, 10);
        assert!(!floor.is_reached(), "within the budget");
        floor.look(110, 90, 10);
        assert!(!floor.is_reached(), "it has just come beyond");
        floor.look(110, 89, 10);
        assert!(floor.is_reached());
        floor.give_back(1);
        assert!(floor.is_reached(), "half of a file");
        floor.give_back(1);
        assert!(!floor.is_reached());
        floor.look(108, 88, 10);
        assert!(floor.is_reached());
        floor.look(98, 88, 10);
        assert!(!floor.is_reached(), "within the budget again");
    }

    #[test]
    fn the_floor_rises_with_the_store() {
        let floor = floor();
        floor.look(200, 100, 10);
        floor.look(200, 120, 10);
        floor.look(200, 119, 10);
        assert!(floor.is_reached());
    }

    #[test]
    fn after_a_clear_or_a_drop_others_may_change_what_is_left() {
        let floor = floor();
        floor.look(200, 100, 10);
        floor.note_sudden_fall();
        floor.look(200, 100, 10);
        floor.look(200, 30, 10);
        assert!(!floor.is_reached());
        floor.look(200, 29, 10);
        assert!(floor.is_reached(), "but not faster than compaction frees");
    }

    #[test]
    fn nobody_waits_for_compaction_that_cannot_go_on_nor_beyond_the_deadline() {
        let floor = floor();
        floor.look(200, 100, 10);
        floor.look(200, 90, 10);
        let soon = Instant::now() + Duration::from_millis(30);
        floor.wait(soon, || true);
        assert!(Instant::now() >= soon && floor.is_reached());
        floor.wait(Instant::now() + Duration::from_secs(60), || false);
        floor.set_freeing(false);
        assert!(!floor.is_reached());
        floor.set_freeing(true);
        std::thread::scope(|scope| {
            let late = Instant::now() + Duration::from_secs(60);
            let waiting = scope.spawn({
                let floor = &floor;
                move || floor.wait(late, || true)
            });
            floor.give_back(20);
            waiting.join().expect("no panic");
        });
    }
}
