//! What must be in the store: for each key its last version and size, or that it is not there.
//!
//! Invariant: each key has one worker, which alone changes its line, after the store has answered. Versions
//! of a key only rise, also over removals, so a value that comes back from the dead is known. Called by
//! `worker.rs` for every operation and by `check.rs` after a pattern; 8 bytes a key.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const PRESENT: u64 = 1 << 63;
const VERSION_SHIFT: u32 = 31;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The last version that was put; 0 when there never was one.
    pub version: u32,
    /// Bytes of its value.
    pub size: u32,
    /// Whether the key is there.
    pub is_present: bool,
}

/// The lines of all keys.
pub struct Ledger {
    lines: Vec<AtomicU64>,
}

impl Ledger {
    /// `keys` keys, none of them there.
    pub fn new(keys: u64) -> Ledger {
        Ledger { lines: (0..keys).map(|_| AtomicU64::new(0)).collect() }
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.lines.len() as u64
    }

    /// The line of a key.
    pub fn get(&self, index: u64) -> Kept {
        let line = self.lines[index as usize].load(Relaxed);
        Kept {
            version: (line >> VERSION_SHIFT) as u32,
            size: (line & ((1 << VERSION_SHIFT) - 1)) as u32,
            is_present: line & PRESENT != 0,
        }
    }

    /// Notes that the store has a version of a key. Versions stay below 2^32, sizes below 2^31.
    pub fn put(&self, index: u64, version: u32, size: u32) {
        let line = PRESENT | u64::from(version) << VERSION_SHIFT | u64::from(size);
        self.lines[index as usize].store(line, Relaxed);
    }

    /// Notes that a key is gone.
    pub fn remove(&self, index: u64) {
        self.lines[index as usize].fetch_and(!PRESENT, Relaxed);
    }

    /// Notes that all keys are gone.
    pub fn clear(&self) {
        (0..self.keys()).for_each(|index| self.remove(index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_removed_keeps_its_version() {
        let ledger = Ledger::new(3);
        ledger.put(1, u32::MAX, (1 << 30) + 7);
        let kept = Kept { version: u32::MAX, size: (1 << 30) + 7, is_present: true };
        assert_eq!(ledger.get(1), kept);
        ledger.remove(1);
        assert_eq!(ledger.get(1), Kept { is_present: false, ..kept });
        assert_eq!(ledger.get(0), Kept { version: 0, size: 0, is_present: false });
    }
}
