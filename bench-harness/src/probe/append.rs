//! The bare append loop: what a store's write path costs at the very least on this machine.
//!
//! Each record is made, copied with its key and a 16 B header into a 1 MiB buffer, its CRC-32C taken,
//! and copied into a random slot of memory; full buffers go to a file of written blocks with O_DIRECT, 8
//! under way. No index, no locks, no reclamation: `write`'s figures are given as a share of this. One
//! file and one ring a thread.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotrestart::format::crc::crc32c;
use memmap2::MmapMut;

use super::disk;
use super::memory;
use super::{Limits, ProbeSettings};
use crate::failure::Failure;
use crate::raw::ring::{Direction, Ring};
use crate::workload::keys::Keys;
use crate::workload::spread;
use crate::workload::values::Values;

const BUFFER: usize = 1 << 20;
const DEPTH: usize = 8;
const HEADER: usize = 16;
const KEY: usize = 8;

#[derive(Clone, Copy, Default)]
struct Appended {
    records: u64,
    bytes: u64,
    seconds: f64,
    longest_wait: Duration,
}

/// Runs the loop on one thread and on all.
pub fn run(
    settings: &ProbeSettings,
    scratch: &Path,
    time: Duration,
    limits: &mut Limits,
) -> Result<(), Failure> {
    let record = HEADER + KEY + settings.value_size as usize;
    if record > BUFFER {
        limits
            .notes
            .push(format!("append loop left out: a record of {record} B is over its 1 MiB buffer"));
        return Ok(());
    }
    let one = on_threads(1, settings, scratch, time / 2)?;
    let Some(one) = one else {
        limits.notes.push("append loop left out: io_uring is not available".to_owned());
        return Ok(());
    };
    limits.append_one_thread_per_second = Some(one.records as f64 / one.seconds);
    if let Some(all) = on_threads(limits.threads, settings, scratch, time / 2)? {
        limits.append_all_threads_per_second = Some(all.records as f64 / all.seconds);
        limits.append_log_bytes_per_second = Some(all.bytes as f64 / all.seconds);
        limits.append_longest_wait_us = Some(all.longest_wait.as_secs_f64() * 1e6);
    }
    Ok(())
}

/// None where io_uring cannot be had.
fn on_threads(
    threads: u32,
    settings: &ProbeSettings,
    scratch: &Path,
    time: Duration,
) -> Result<Option<Appended>, Failure> {
    let file_size = settings.file_size / u64::from(threads) / BUFFER as u64 * BUFFER as u64;
    let file_size = file_size.max((2 * DEPTH * BUFFER) as u64);
    let mut files = Vec::new();
    for thread in 0..threads {
        let path = scratch.join(format!("append-{thread}"));
        let (file, _) = disk::open(&path)?;
        disk::fill(&file, file_size).map_err(Failure::file("write", &path))?;
        files.push(file);
    }
    if Ring::new(1, 4096).is_err() {
        return Ok(None);
    }
    let memory_size = settings.memory_size as usize / threads as usize;
    let appended: Vec<io::Result<Appended>> = std::thread::scope(|scope| {
        let spawn = |(thread, file): (usize, File)| {
            let value_size = settings.value_size;
            scope.spawn(move || {
                append(file, file_size, memory_size, value_size, thread as u64, time)
            })
        };
        let handles: Vec<_> = files.into_iter().enumerate().map(spawn).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, io::Result<Appended>>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        handles.into_iter().map(join).collect()
    });
    let mut sum = Appended::default();
    for result in appended {
        let thread =
            result.map_err(|error| Failure::environment(format!("append loop: {error}")))?;
        sum.records += thread.records;
        sum.bytes += thread.bytes;
        sum.seconds = sum.seconds.max(thread.seconds);
        sum.longest_wait = sum.longest_wait.max(thread.longest_wait);
    }
    for thread in 0..threads {
        let path = scratch.join(format!("append-{thread}"));
        std::fs::remove_file(&path).map_err(Failure::file("remove", &path))?;
    }
    Ok(Some(sum))
}

fn append(
    file: File,
    file_size: u64,
    memory_size: usize,
    value_size: u32,
    thread: u64,
    time: Duration,
) -> io::Result<Appended> {
    let record = HEADER + KEY + value_size as usize;
    let slot_bytes = record.next_multiple_of(16);
    let slots = (memory_size / slot_bytes).max(1);
    let mut arena: MmapMut = memory::allocate(slots * slot_bytes, true)?;
    arena.fill(1);
    let (mut ring, file) = (Ring::new(DEPTH, BUFFER)?, Arc::new(file));
    let (keys, values) = (Keys::new(KEY as u32, thread), Values::new(value_size, thread));
    let mut made = Vec::with_capacity(record);
    let mut done = Appended::default();
    let (mut offset, mut number) = (0, 0_u64);
    let start = Instant::now();
    while start.elapsed() < time {
        let slot = match ring.free_slot() {
            Some(slot) => slot,
            None => {
                let waiting = Instant::now();
                ring.wait(1)?;
                done.longest_wait = done.longest_wait.max(waiting.elapsed());
                continue;
            }
        };
        let buffer = ring.buffer(slot);
        for place in buffer.chunks_exact_mut(record) {
            number += 1;
            made.clear();
            made.extend_from_slice(&number.to_le_bytes());
            made.extend_from_slice(&[0; HEADER - 8]);
            keys.append(number, &mut made);
            values.append(number, number as u32, &mut made);
            let check = crc32c(&made[HEADER..]);
            made[8..12].copy_from_slice(&check.to_le_bytes());
            place.copy_from_slice(&made);
            let target = (spread(number) % slots as u64) as usize * slot_bytes;
            arena[target..target + record].copy_from_slice(&made);
        }
        done.records += (BUFFER / record) as u64;
        done.bytes += BUFFER as u64;
        ring.submit(slot, &file, Direction::Write, (offset, BUFFER))?;
        offset = (offset + BUFFER as u64) % file_size;
    }
    while ring.in_flight() > 0 {
        ring.wait(1)?;
    }
    done.seconds = start.elapsed().as_secs_f64();
    Ok(done)
}
