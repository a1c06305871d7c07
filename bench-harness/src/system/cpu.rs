//! Cpus: how many this process may use, which, pinning a thread to one, and the time spent on them.
//!
//! Called by the settings for the default of `--threads`, by each worker under `--pin`, and by phases.

use std::fs;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Cpus this process may use, by its affinity mask; at least 1.
pub fn available() -> u32 {
    allowed().len().max(1) as u32
}

/// The numbers of the cpus this process may use.
pub fn allowed() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect(),
        Err(_) => Vec::new(),
    }
}

/// Pins the calling thread to the `ordinal`-th allowed cpu, round robin.
pub fn pin_current_thread(ordinal: usize, allowed: &[usize]) -> std::io::Result<()> {
    let Some(&cpu) = allowed.get(ordinal % allowed.len().max(1)) else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)?;
    Ok(())
}

/// The time that all threads of this process have spent on cpus, in the kernel and outside.
pub fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The processor's model name.
pub fn model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
