//! Disk probes: sequential reads and writes, and the cycle of a small write and a flush.
//!
//! Sequential probes keep 8 transfers of 1 MiB under way by io_uring, or one by pread and pwrite where
//! io_uring is blocked (said in the notes). Writes are measured over blocks written before: the first
//! write of a block costs the file system extra, and a store recycles its files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use super::{Limits, ProbeSettings};
use crate::failure::Failure;
use crate::measure::latency::Latency;
use crate::raw::ring::{Direction, Ring};

pub const BLOCK: usize = 1 << 20;
pub const DEPTH: usize = 8;
const SMALL: usize = 4096;

/// Opens a file of the probe with O_DIRECT, or without where the file system refuses it.
pub fn open(path: &Path) -> Result<(File, bool), Failure> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let file = options.open(path).map_err(Failure::file("open", path))?;
            Ok((file, false))
        }
        Err(error) => Err(Failure::file("open", path)(error)),
    }
}

/// Writes the whole file once with blocks that do not compress, and flushes it.
pub fn fill(file: &File, size: u64) -> io::Result<()> {
    let mut block = MmapMut::map_anon(BLOCK)?;
    fill_with_noise(&mut block, size);
    for offset in (0..size).step_by(BLOCK) {
        file.write_all_at(&block, offset)?;
    }
    file.sync_data()
}

/// Bytes that no device can compress or share between blocks of different seeds.
pub fn fill_with_noise(bytes: &mut [u8], seed: u64) {
    for (ordinal, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&crate::workload::spread(seed ^ ordinal as u64).to_le_bytes());
    }
}

/// Sequential write, then sequential read, of one file.
pub fn sequential(
    settings: &ProbeSettings,
    scratch: &Path,
    time: Duration,
    limits: &mut Limits,
) -> Result<(), Failure> {
    let path = scratch.join("sequential");
    let (file, direct) = open(&path)?;
    limits.direct_io = direct;
    if !direct {
        limits.notes.push(
            "this file system refuses O_DIRECT: disk figures include the page cache".to_owned(),
        );
    }
    let size = settings.file_size / BLOCK as u64 * BLOCK as u64;
    fill(&file, size).map_err(Failure::file("write", &path))?;
    let file = Arc::new(file);
    let (write, read) = match Ring::new(DEPTH, BLOCK) {
        Ok(mut ring) => {
            limits.io_used = "uring".to_owned();
            let write = stream(&mut ring, &file, Direction::Write, (size, time));
            (write, stream(&mut ring, &file, Direction::Read, (size, time)))
        }
        Err(error) => {
            limits.io_used = "syscall".to_owned();
            limits.notes.push(format!(
                "io_uring is not available ({error}): disk probes use pread and pwrite"
            ));
            let write = stream_by_calls(&file, Direction::Write, size, time);
            (write, stream_by_calls(&file, Direction::Read, size, time))
        }
    };
    limits.sequential_write_bytes_per_second = Some(write.map_err(Failure::file("write", &path))?);
    limits.sequential_read_bytes_per_second = Some(read.map_err(Failure::file("read", &path))?);
    std::fs::remove_file(&path).map_err(Failure::file("remove", &path))
}

/// Bytes per second of a stream that wraps around the file until the time is over.
fn stream(
    ring: &mut Ring,
    file: &Arc<File>,
    direction: Direction,
    (size, time): (u64, Duration),
) -> io::Result<f64> {
    let start = Instant::now();
    let (mut offset, mut bytes) = (0, 0_u64);
    loop {
        while start.elapsed() < time
            && let Some(slot) = ring.free_slot()
        {
            ring.submit(slot, file, direction, (offset, BLOCK))?;
            offset = (offset + BLOCK as u64) % size;
        }
        if ring.in_flight() == 0 {
            return Ok(bytes as f64 / start.elapsed().as_secs_f64());
        }
        bytes += ring.wait(1)?;
    }
}

fn stream_by_calls(
    file: &File,
    direction: Direction,
    size: u64,
    time: Duration,
) -> io::Result<f64> {
    let mut block = MmapMut::map_anon(BLOCK)?;
    fill_with_noise(&mut block, size);
    let start = Instant::now();
    let (mut offset, mut bytes) = (0, 0_u64);
    while start.elapsed() < time {
        match direction {
            Direction::Write => file.write_all_at(&block, offset)?,
            Direction::Read => file.read_exact_at(&mut block, offset)?,
        }
        bytes += BLOCK as u64;
        offset = (offset + BLOCK as u64) % size;
    }
    if direction == Direction::Write {
        file.sync_data()?;
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

/// The cycle under every synced put: 4 KiB over written blocks, then a flush.
pub fn write_and_flush(
    _: &ProbeSettings,
    scratch: &Path,
    time: Duration,
    limits: &mut Limits,
) -> Result<(), Failure> {
    let path = scratch.join("flush");
    let (file, _) = open(&path)?;
    let cycles = || -> io::Result<(u64, f64, Latency)> {
        let size = 8 * BLOCK as u64;
        fill(&file, size)?;
        let mut block = MmapMut::map_anon(SMALL)?;
        fill_with_noise(&mut block, 1);
        let mut latency = Latency::new();
        let start = Instant::now();
        let (mut offset, mut cycles) = (0, 0);
        while start.elapsed() < time {
            let begin = Instant::now();
            file.write_all_at(&block, offset)?;
            file.sync_data()?;
            latency.record(begin.elapsed(), 1);
            offset = (offset + SMALL as u64) % size;
            cycles += 1;
        }
        Ok((cycles, start.elapsed().as_secs_f64(), latency))
    };
    let (cycles, seconds, latency) = cycles().map_err(Failure::file("write and flush", &path))?;
    limits.write_flush_cycles_per_second = Some(cycles as f64 / seconds);
    limits.write_flush_latency_us = latency.percentiles();
    std::fs::remove_file(&path).map_err(Failure::file("remove", &path))
}
