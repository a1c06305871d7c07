//! Room: what a node does when the memory at hand does not suffice, before it says no.
//!
//! In this order: cleared tables are taken apart; what is free but elsewhere is collected (retired slots that
//! no reader can reach, stocks of free slots, warm large slots, free pages); entries move out of sparse pages
//! (`movement.rs`); readers inside a call are waited for, a second in all. After each step the attempt is
//! made again, so nobody waits for more than was needed.
//!
//! Invariant: whoever cannot have memory is told so without a walk over anything: what a walk would gain is
//! known by counts. Callers: `node.rs`, `detached.rs` (what an entry, the index and lists need). Who holds a
//! stream's lock says so: no entry moves for it, and no reader is waited for. Cost: nothing when there is
//! memory; some microseconds when there is none. `docs/memory.md`, "The limit", has the order.

use std::time::Duration;

use super::detached::{BUCKETS_PER_ROUND, Taken};
use super::movement::Moved;
use super::node::{Holding, NoRoom, Node, Pass};
use crate::arena::layout::{LARGE_STEP, PAGE};
use crate::arena::os::UNIT;
use crate::slab::batch::Batch;
use crate::slab::class::SLOT_MAX;
use crate::sync::{lock, sleep};

/// How long a put waits for readers that are inside a call when the bound is reached: a second in all.
pub(super) const PATIENCE_STEP: Duration = Duration::from_micros(250);
pub(super) const PATIENCE_STEPS: u32 = 4_000;

/// Walks over the index, to empty pages, that a put waits for.
const WALKS_PER_PUT: u32 = 3;

impl Node {
    /// Tries to take memory; when there is none, takes cleared tables apart until there is, then collects
    /// what is free but elsewhere, then has entries move out of sparse pages.
    #[inline]
    pub(super) fn with_room<T>(
        &self,
        need: u64,
        holding: Holding,
        attempt: impl Fn() -> Option<T>,
    ) -> Result<T, NoRoom> {
        if let Some(taken) = attempt() {
            return Ok(taken);
        }
        self.find_room(need, holding, &attempt)
    }

    #[cold]
    fn find_room<T>(
        &self,
        need: u64,
        holding: Holding,
        attempt: &impl Fn() -> Option<T>,
    ) -> Result<T, NoRoom> {
        // Who holds a stream's lock waits for nobody either: an entry may be about to move, under a pin, that
        // waits for this very lock.
        let (mut patience, mut walks) = match holding {
            Holding::Nothing => (PATIENCE_STEPS, WALKS_PER_PUT),
            Holding::StreamLock => (0, 0),
        };
        while self.detached.is_any() {
            match self.take_apart(BUCKETS_PER_ROUND) {
                Taken::Some => {}
                // A reader inside a call will leave.
                Taken::Blocked(Some(pin)) if pin.since_ms.is_none() && patience > 0 => {
                    patience -= 1;
                    sleep(PATIENCE_STEP);
                }
                Taken::Blocked(_) | Taken::Nothing => break,
            }
            if let Some(taken) = attempt() {
                return Ok(taken);
            }
        }
        loop {
            self.make_room(need);
            if let Some(taken) = attempt() {
                return Ok(taken);
            }
            if walks > 0 {
                match self.move_until(need, attempt) {
                    Ok(taken) => return Ok(taken),
                    Err(Moved::Ended) => {
                        walks -= 1;
                        continue;
                    }
                    Err(Moved::Blocked) if patience > 0 => {
                        patience -= 1;
                        sleep(PATIENCE_STEP);
                        continue;
                    }
                    Err(_) => {}
                }
            }
            // What was replaced or removed comes free when the readers of that time leave; one that is inside
            // a call will.
            let is_passing = self.pins.oldest().is_none_or(|pin| pin.since_ms.is_none());
            if self.retired.sealed_batches() == 0 || !is_passing || patience == 0 {
                // What the walk has set apart may have a slot.
                let is_ended = walks > 0 && self.end_movement();
                return is_ended.then(attempt).flatten().ok_or(NoRoom);
            }
            patience -= 1;
            sleep(PATIENCE_STEP);
        }
    }

    /// Collects what is free but elsewhere: retired slots, stashes, warm large slots, free pages.
    #[cold]
    fn make_room(&self, need: u64) {
        self.reclaim(Pass::Short);
        self.flush();
        // Slab pages are committed two megabytes at a time, and their part of the page table with them.
        let step = need.max(UNIT) + LARGE_STEP;
        let budget = self.arena.budget();
        if budget.committed_bytes() + step <= budget.limit_bytes() {
            return;
        }
        self.slabs.large.give_back_warm(&self.arena);
        if need > u64::from(SLOT_MAX) {
            self.slabs.pool.give_back(&self.arena, need.div_ceil(PAGE));
        }
    }

    /// Gives the free slots of depot and lanes to their pages.
    pub(super) fn flush(&self) {
        let mut emptied = self.slabs.flush_depot(&self.arena);
        while let Some(batch) = emptied {
            emptied = Batch::at(&self.arena, batch).next();
            self.take_back(batch, true);
        }
        for lane in self.lanes.iter() {
            self.slabs.flush(&self.arena, &mut lock(lane));
        }
    }

    /// Gives up to `bytes` of free memory back to the system and says how many.
    pub(crate) fn give_back(&self, bytes: u64) -> u64 {
        self.take_all_apart();
        self.reclaim(Pass::Short);
        self.flush();
        let warm = self.slabs.large.give_back_warm(&self.arena);
        warm + self.slabs.pool.give_back(&self.arena, bytes.saturating_sub(warm).div_ceil(PAGE))
            * PAGE
    }
}
