//! Published guards: a value that a caller keeps beyond its call, protected by its own name.
//!
//! Invariant: a guard publishes its slot while its pin still protects it, and the reclaiming side reads the
//! published ones after it has seen the pin end; so between pin and publication there is no gap. A published
//! slot is skipped by reclamation until its cell is empty; nothing else waits for it.

use std::sync::OnceLock;

use crate::ids::Location;
use crate::sync::{AtomicU64, Ordering};

#[cfg(not(loom))]
const CELLS: usize = 256;
#[cfg(loom)]
const CELLS: usize = 2;

struct Block {
    cells: Box<[AtomicU64]>,
    next: OnceLock<Box<Block>>,
}

impl Block {
    fn new() -> Block {
        Block { cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(), next: OnceLock::new() }
    }
}

/// The published guards of one node.
pub(crate) struct Hazards {
    first: Block,
}

/// A published slot. Dropping it gives the slot back to reclamation.
pub(crate) struct Published<'a> {
    cell: &'a AtomicU64,
}

impl Hazards {
    pub(crate) fn new() -> Hazards {
        Hazards { first: Block::new() }
    }

    /// Publishes a slot that the caller's pin protects. `hint` spreads threads over the cells.
    #[inline]
    pub(crate) fn publish(&self, location: Location, hint: usize) -> Published<'_> {
        let mut block = &self.first;
        loop {
            for step in 0..CELLS {
                // Threads start a cache line apart.
                let cell = &block.cells[(hint * 8 + step) % CELLS];
                if cell.load(Ordering::Relaxed) == 0
                    && cell
                        .compare_exchange(0, location.0, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                {
                    return Published { cell };
                }
            }
            block = block.next.get_or_init(|| Box::new(Block::new()));
        }
    }

    /// Collects all published slots, sorted. Called after the pins were looked at.
    pub(crate) fn collect(&self, into: &mut Vec<u64>) {
        into.clear();
        let mut block = Some(&self.first);
        while let Some(current) = block {
            for cell in current.cells.iter() {
                let location = cell.load(Ordering::Acquire);
                if location != 0 {
                    into.push(location);
                }
            }
            block = current.next.get().map(|next| &**next);
        }
        into.sort_unstable();
    }
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        self.cell.store(0, Ordering::Release);
    }
}
