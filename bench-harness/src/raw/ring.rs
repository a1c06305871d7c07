//! A bare io_uring: the yardstick that the store's own I/O is measured against.
//!
//! Owns the invariant that a buffer belongs to its slot and is not touched between submission and completion,
//! nor a file closed: the ring owns the buffers and shares the files, hands a buffer out only while its slot
//! is free, and drains before it dies. Used by the probes only. One system call per submission and wait. See
//! docs/benchmarking.md, "Limits".
#![allow(unsafe_code)] // Submitting to io_uring passes raw pointers to the kernel.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};
use memmap2::MmapMut;

/// A ring with its buffers.
pub struct Ring {
    ring: IoUring,
    slots: Vec<Slot>,
    in_flight: usize,
}

struct Slot {
    buffer: MmapMut,
    /// The file of the transfer that is under way.
    file: Option<Arc<File>>,
    /// Its bytes.
    length: u32,
}

/// The direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file into the buffer.
    Read,
    /// From the buffer into the file.
    Write,
}

impl Ring {
    /// A ring with `depth` buffers of `buffer_bytes` each, page-aligned and touched.
    pub fn new(depth: usize, buffer_bytes: usize) -> io::Result<Ring> {
        let entries = u32::try_from(depth.next_power_of_two()).map_err(io::Error::other)?;
        let ring = IoUring::new(entries)?;
        let mut slots = Vec::with_capacity(depth);
        for _ in 0..depth {
            let mut buffer = MmapMut::map_anon(buffer_bytes)?;
            // First touch here, so that no page fault falls into what is measured.
            buffer.fill(0xa5);
            slots.push(Slot { buffer, file: None, length: 0 });
        }
        Ok(Ring { ring, slots, in_flight: 0 })
    }

    /// A free slot, if there is one.
    pub fn free_slot(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.file.is_none())
    }

    /// Submissions without a completion yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The buffer of a free slot.
    pub fn buffer(&mut self, slot: usize) -> &mut [u8] {
        assert!(self.slots[slot].file.is_none(), "the kernel owns this buffer");
        &mut self.slots[slot].buffer
    }

    /// Submits the first `length` bytes of a free slot's buffer.
    pub fn submit(
        &mut self,
        slot: usize,
        file: &Arc<File>,
        direction: Direction,
        (offset, length): (u64, usize),
    ) -> io::Result<()> {
        let target = types::Fd(file.as_raw_fd());
        let owned = &mut self.slots[slot];
        assert!(owned.file.is_none(), "a slot is submitted once at a time");
        assert!(length <= owned.buffer.len(), "{length} bytes of {}", owned.buffer.len());
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let entry = match direction {
            Direction::Read => {
                opcode::Read::new(target, owned.buffer.as_mut_ptr(), length).offset(offset).build()
            }
            Direction::Write => {
                opcode::Write::new(target, owned.buffer.as_ptr(), length).offset(offset).build()
            }
        };
        let entry = entry.user_data(slot as u64);
        // SAFETY: the buffer is owned by `self`, the file by the slot from here on, which keeps the buffer
        // from being handed out until the completion was seen; `drop` waits for every completion before
        // either is freed.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(io::Error::other)?;
        (owned.file, owned.length) = (Some(Arc::clone(file)), length);
        self.in_flight += 1;
        self.ring.submit()?;
        Ok(())
    }

    /// Waits for at least `least` completions, frees their slots and returns the bytes that all of them
    /// moved. A failed transfer is an error, and so is a short one: neither happens on a healthy file of
    /// full blocks.
    pub fn wait(&mut self, least: usize) -> io::Result<u64> {
        loop {
            match self.ring.submit_and_wait(least.min(self.in_flight)) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let (mut moved, mut failed) = (0, None);
        for entry in self.ring.completion() {
            let slot = entry.user_data() as usize;
            self.slots[slot].file = None;
            self.in_flight -= 1;
            match entry.result() {
                error if error < 0 => failed = Some(io::Error::from_raw_os_error(-error)),
                bytes if (bytes as u32) < self.slots[slot].length => {
                    failed = Some(io::Error::other(format!("a short transfer of {bytes} bytes")));
                }
                bytes => moved += bytes as u64,
            }
        }
        failed.map_or(Ok(moved), Err)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            let before = self.in_flight;
            if let Err(error) = self.wait(1)
                && self.in_flight == before
            {
                // The kernel may still write into the buffers: freeing them would be worse than ending
                // here.
                eprintln!("io_uring cannot be drained: {error}");
                std::process::abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_dropped_with_writes_under_way_waits_for_them() {
        let Ok(probe) = IoUring::new(2) else {
            assert!(std::env::var_os("CI").is_none(), "io_uring is a prerequisite of the checks");
            eprintln!("io_uring is blocked here; the probes then say so");
            return;
        };
        drop(probe);
        let file = tempfile::tempfile().expect("tempfile");
        let mut ring = Ring::new(4, 4096).expect("ring");
        let shared = Arc::new(file.try_clone().expect("clone"));
        for slot in 0..4 {
            ring.buffer(slot).fill(slot as u8);
            let place = (slot as u64 * 4096, 4096);
            ring.submit(slot, &shared, Direction::Write, place).expect("submit");
        }
        assert_eq!(ring.free_slot(), None);
        drop(ring);
        let mut back = vec![0; 4 * 4096];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, 0).expect("read");
        assert!(
            back.chunks(4096).enumerate().all(|(slot, part)| part.iter().all(|&b| b == slot as u8))
        );
    }
}
