//! The YCSB core mixes: which operation comes next.
//!
//! Shares are in per cent, as the YCSB core workload files have them. See docs/benchmarking.md,
//! "Workloads".

use rand::Rng;
use rand::rngs::SmallRng;

use crate::cli::choices::Workload;

/// One operation of a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Get.
    Read,
    /// Put over an existing key.
    Update,
    /// Put of a new key.
    Insert,
    /// Get, then put over the same key.
    ReadModifyWrite,
}

/// Draws the next operation.
#[inline]
pub fn draw(workload: Workload, random: &mut SmallRng) -> Operation {
    let (reads, other) = match workload {
        Workload::A => (50, Operation::Update),
        Workload::B => (95, Operation::Update),
        Workload::C => return Operation::Read,
        Workload::D => (95, Operation::Insert),
        Workload::F => (50, Operation::ReadModifyWrite),
    };
    if random.random_range(0..100) < reads { Operation::Read } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::choice::thread_random;

    #[test]
    fn the_share_of_reads_is_the_one_ycsb_names() {
        for (workload, reads) in [
            (Workload::A, 0.5),
            (Workload::B, 0.95),
            (Workload::C, 1.0),
            (Workload::D, 0.95),
            (Workload::F, 0.5),
        ] {
            let mut random = thread_random(3, 0);
            let drawn = (0..100_000).filter(|_| draw(workload, &mut random) == Operation::Read);
            let share = drawn.count() as f64 / 100_000.0;
            assert!((share - reads).abs() < 0.01, "{workload:?} reads {share}");
        }
    }
}
