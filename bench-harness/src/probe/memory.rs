//! Memory probes: copying bandwidth, and the time of a load that depends on the one before it.
//!
//! The walk follows a permutation with a single cycle (a linear congruence of full period), stored one
//! index a cache line, so that no prefetcher can run ahead. Measured on 4 KiB pages and, by advice, on
//! huge pages.

use std::hint::black_box;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};

use super::{Limits, ProbeSettings};
use crate::failure::Failure;

const COPY_BYTES: usize = 64 << 20;
const LINE: usize = 64;

/// Anonymous memory of one kind of pages.
pub fn allocate(bytes: usize, huge_pages: bool) -> io::Result<MmapMut> {
    let map = MmapMut::map_anon(bytes)?;
    let advice = if huge_pages { Advice::HugePage } else { Advice::NoHugePage };
    // A kernel without transparent huge pages refuses the advice; the pages are then 4 KiB either way.
    let _ = map.advise(advice);
    Ok(map)
}

/// memcpy of large blocks, on one thread and on all.
pub fn copy(
    _: &ProbeSettings,
    _: &Path,
    time: Duration,
    limits: &mut Limits,
) -> Result<(), Failure> {
    let failed = |error| Failure::environment(format!("cannot get memory to copy: {error}"));
    let half = time / 2;
    limits.memcpy_bytes_per_second = Some(copy_on_threads(1, half).map_err(failed)?);
    let all = copy_on_threads(limits.threads, half).map_err(failed)?;
    limits.memcpy_all_threads_bytes_per_second = Some(all);
    Ok(())
}

fn copy_on_threads(threads: u32, time: Duration) -> io::Result<f64> {
    let copier = || -> io::Result<f64> {
        let mut from = allocate(COPY_BYTES, true)?;
        let mut to = allocate(COPY_BYTES, true)?;
        from.fill(1);
        to.fill(2);
        let start = Instant::now();
        let mut bytes = 0_u64;
        while start.elapsed() < time {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
            bytes += COPY_BYTES as u64;
        }
        Ok(bytes as f64 / start.elapsed().as_secs_f64())
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(copier)).collect();
        let mut sum = 0.0;
        for handle in handles {
            sum += handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(sum)
    })
}

/// The dependent miss, on small and on huge pages.
pub fn dependent_misses(
    settings: &ProbeSettings,
    _: &Path,
    time: Duration,
    limits: &mut Limits,
) -> Result<(), Failure> {
    let lines = settings.memory_size / LINE as u64;
    // A full period of the congruence needs a power of two.
    let lines = 1_usize << lines.ilog2();
    let failed = |error| Failure::environment(format!("cannot get memory to walk: {error}"));
    let half = time / 2;
    limits.dependent_miss_ns = Some(walk(lines, false, half).map_err(failed)?);
    limits.dependent_miss_huge_pages_ns = Some(walk(lines, true, half).map_err(failed)?);
    Ok(())
}

/// Nanoseconds a step.
fn walk(lines: usize, huge_pages: bool, time: Duration) -> io::Result<f64> {
    let mut memory = allocate(lines * LINE, huge_pages)?;
    for line in 0..lines {
        memory[line * LINE..line * LINE + 8].copy_from_slice(&successor(line, lines).to_le_bytes());
    }
    let start = Instant::now();
    let (mut at, mut steps) = (0_usize, 0_u64);
    while start.elapsed() < time {
        for _ in 0..4096 {
            let mut word = [0; 8];
            word.copy_from_slice(&memory[at * LINE..at * LINE + 8]);
            at = usize::from_le_bytes(word);
        }
        steps += 4096;
    }
    black_box(at);
    Ok(start.elapsed().as_nanos() as f64 / steps as f64)
}

/// The next line of the walk: full period for a power of two by Hull and Dobell (odd increment,
/// multiplier 1 modulo 4).
fn successor(line: usize, lines: usize) -> usize {
    line.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f) & (lines - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_visits_every_line_before_it_repeats() {
        let lines = 1 << 14;
        let mut seen = vec![false; lines];
        let mut at = 0;
        for _ in 0..lines {
            assert!(!seen[at], "line {at} comes twice");
            seen[at] = true;
            at = successor(at, lines);
        }
        assert_eq!(at, 0);
    }
}
