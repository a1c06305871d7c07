//! A key that comes and goes: of its facts of absence in one chunk compaction keeps the newest alone.
//!
//! Hazard: the wrong one is kept, or none, and an older entry in another chunk comes back with the next
//! opening.

use crate::oracle::Place;
use crate::script::{Script, Stuck};

impl Script {
    /// Removes a key, and puts it again, a few times in a row.
    pub fn come_and_go(&mut self, place: Place) -> Result<(), Stuck> {
        for _ in 0..1 + self.random.below(6) {
            self.remove(place)?;
            // Long enough that no two values look alike.
            let len = 16 + self.random.below(64) as usize;
            self.put(place, len, None)?;
            if self.random.one_in(3) {
                self.step();
            }
        }
        self.remove(place)
    }
}
