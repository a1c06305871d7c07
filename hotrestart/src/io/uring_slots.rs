//! The operations that a ring has in flight: each slot owns its buffer and its file until the completion.
//!
//! Invariant: a slot is emptied only by the completion of its operation (or when it was never submitted),
//! so the kernel never transfers from or to memory that has been freed, moved or reused. Only `uring.rs`
//! calls it.

use std::os::fd::RawFd;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use super::error::IoOperation;
use super::transfer::{Progress, Transfer};
use super::{Completion, FileHandle, IoBuf, Op};

#[derive(Debug)]
struct Slot {
    token: u64,
    file: FileHandle,
    transfer: Transfer,
    buf: Option<IoBuf>,
}

/// A fixed number of slots.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
}

/// What became of an operation after one completion of the kernel.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The rest must be submitted.
    Again,
    /// It has ended and the slot is free.
    Ended(Completion),
}

impl Slots {
    pub(super) fn new(count: u32) -> Slots {
        Slots { slots: (0..count).map(|_| None).collect(), free: (0..count).rev().collect() }
    }

    pub(super) fn occupied(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Takes an operation and returns its slot.
    pub(super) fn insert(&mut self, token: u64, op: Op) -> u32 {
        let (file, transfer, buf) = match op {
            Op::Write { file, offset, buf } => {
                (file, Transfer::new(IoOperation::Write, offset, buf.len()), Some(buf))
            }
            Op::Read { file, offset, buf, len } => {
                (file, Transfer::new(IoOperation::Read, offset, len), Some(buf))
            }
            Op::Flush { file } => (file, Transfer::new(IoOperation::Flush, 0, 0), None),
        };
        let slot = self.free.pop().expect("the caller submits no more than the capacity");
        self.slots[slot as usize] = Some(Slot { token, file, transfer, buf });
        slot
    }

    /// What the kernel is to do for the rest of the slot's operation.
    pub(super) fn entry(&self, slot: u32) -> Entry {
        let Some(Slot { file, transfer, buf, .. }) = &self.slots[slot as usize] else {
            panic!("slot {slot} is empty");
        };
        let file = types::Fd(file.raw());
        let len = transfer.rest_len().min(LEN_MAX) as u32;
        let memory = buf
            .as_ref()
            .map_or(std::ptr::null_mut(), |buf| buf.pointer().wrapping_add(transfer.done()));
        let entry = match transfer.operation() {
            IoOperation::Write => {
                opcode::Write::new(file, memory, len).offset(transfer.rest_offset()).build()
            }
            IoOperation::Read => {
                opcode::Read::new(file, memory, len).offset(transfer.rest_offset()).build()
            }
            _ => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        };
        entry.user_data(u64::from(slot))
    }

    /// Takes the kernel's answer for the slot's operation.
    pub(super) fn complete(&mut self, slot: u32, answer: i32) -> Outcome {
        let place = &mut self.slots[slot as usize];
        let Some(occupied) = place else { panic!("a completion of slot {slot}, which is empty") };
        let answer = usize::try_from(answer).map_err(|_| -answer);
        match occupied.transfer.advance(answer, occupied.file.name()) {
            Progress::Again => Outcome::Again,
            Progress::Ended(result) => {
                let (token, buf) = (occupied.token, occupied.buf.take());
                *place = None;
                self.free.push(slot);
                Outcome::Ended(Completion { token, result, buf })
            }
        }
    }
}

/// The most that one request may ask for: Linux transfers no more at once, and it is a multiple of 4096.
const LEN_MAX: usize = 0x7fff_f000;

/// The read that a wake completes.
pub(super) fn wake_entry(event: RawFd, counter: *mut u8, user_data: u64) -> Entry {
    opcode::Read::new(types::Fd(event), counter, 8).build().user_data(user_data)
}
