//! The state of a simulated disk: files, names, operations in flight, and what a crash leaves of them.
//!
//! Invariants, each a panic when a caller breaks it: operations are aligned and within the file, no two
//! in flight touch the same bytes of a file or of memory, a buffer does not change while its write is in
//! flight. Everything happens under one lock and by one random sequence. Called by `SimDisk` and its
//! queues.

use std::collections::BTreeMap;

use super::fault::{Fault, FaultPlan};
use super::file::SimFile;
use super::random::Random;
use super::watch::Watcher;
use crate::format::{ALIGNMENT, crc};
use crate::io::transfer::{Progress, Transfer};
use crate::io::{Completion, FileHandle, IoBuf, IoError, IoErrorClass, IoOperation, Op};

#[derive(Debug)]
pub(super) struct State {
    pub(super) random: Random,
    pub(super) plan: FaultPlan,
    pub(super) files: BTreeMap<u64, SimFile>,
    pub(super) names: BTreeMap<String, u64>,
    pub(super) durable_names: BTreeMap<String, u64>,
    pub(super) name_changes: Vec<NameChange>,
    pub(super) capacity: Option<u64>,
    /// Whether what is freed is gone for good.
    pub(super) is_greedy: bool,
    /// Operations that may still complete, when completions are held back.
    pub(super) credits: Option<u64>,
    /// Whether somebody has asked for an answer since there were none left.
    pub(super) is_held_back: bool,
    pub(super) is_dead: bool,
    pub(super) calls: BTreeMap<IoOperation, u64>,
    pub(super) events: u64,
    pub(super) next_inode: u64,
    next_queue: u64,
    pub(super) pending: Vec<Pending>,
    pub(super) watcher: Option<Watcher>,
}

#[derive(Clone, Debug)]
pub(super) enum NameChange {
    Set(String, u64),
    Remove(String),
    Rename(String, String),
}

#[derive(Debug)]
pub(super) struct Pending {
    id: u64,
    queue: u64,
    token: u64,
    pub(super) file: FileHandle,
    pub(super) transfer: Transfer,
    pub(super) buf: Option<IoBuf>,
    len: usize,
    /// Of a write the checksum of its buffer; of a flush the events before its submission.
    pub(super) stamp: u64,
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        State {
            random: Random::new(seed),
            plan: FaultPlan::default(),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            capacity: None,
            is_greedy: false,
            credits: None,
            is_held_back: false,
            is_dead: false,
            calls: BTreeMap::new(),
            events: 0,
            next_inode: 1,
            next_queue: 0,
            pending: Vec::new(),
            watcher: None,
        }
    }

    pub(super) fn set_plan(&mut self, plan: FaultPlan) {
        assert!(matches!(plan.tear_unit, 512 | 4096), "a unit of {} bytes", plan.tear_unit);
        self.plan = plan;
        self.calls.clear();
    }

    /// Counts a call and answers which fault befalls it.
    pub(super) fn call(&mut self, operation: IoOperation) -> Option<Fault> {
        let count = self.calls.entry(operation).or_insert(0);
        let nth = *count;
        *count += 1;
        let is_planned =
            |fault: &&super::PlannedFault| fault.operation == operation && fault.nth == nth;
        self.plan.faults.iter().find(is_planned).map(|fault| fault.fault)
    }

    /// A metadata call: it fails when the disk is dead or an errno is planned for it.
    pub(super) fn metadata_call(
        &mut self,
        operation: IoOperation,
        file: &str,
    ) -> Result<(), IoError> {
        let errno = match self.call(operation) {
            _ if self.is_dead => libc::EIO,
            Some(Fault::Errno(errno)) => errno,
            _ => return Ok(()),
        };
        Err(IoError::from_errno(operation, file, errno))
    }

    pub(super) fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    pub(super) fn add_file(&mut self, name: &str, file: SimFile) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.files.insert(inode, file);
        self.names.insert(name.to_owned(), inode);
        self.name_changes.push(NameChange::Set(name.to_owned(), inode));
        inode
    }

    pub(super) fn remove_name(&mut self, name: &str) -> bool {
        self.name_changes.push(NameChange::Remove(name.to_owned()));
        let is_there = self.names.remove(name).is_some();
        if self.is_greedy {
            self.capacity = Some(self.used_bytes());
        }
        is_there
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(inode) = self.names.remove(from) else { return false };
        self.names.insert(to.to_owned(), inode);
        self.name_changes.push(NameChange::Rename(from.to_owned(), to.to_owned()));
        true
    }

    pub(super) fn sync_names(&mut self) {
        self.durable_names.clone_from(&self.names);
        self.name_changes.clear();
    }

    /// Bytes of all files.
    pub(super) fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.files[inode].current.len() as u64).sum()
    }

    pub(super) fn available_bytes(&self) -> Option<u64> {
        self.capacity.map(|capacity| capacity.saturating_sub(self.used_bytes()))
    }

    pub(super) fn file_mut(&mut self, inode: u64) -> &mut SimFile {
        self.files.get_mut(&inode).expect("a file lives as long as its disk")
    }

    pub(super) fn new_queue(&mut self) -> u64 {
        self.next_queue += 1;
        self.next_queue
    }

    pub(super) fn in_flight(&self, queue: u64) -> usize {
        self.pending.iter().filter(|pending| pending.queue == queue).count()
    }

    pub(super) fn submit(&mut self, queue: u64, token: u64, op: Op) {
        let (file, transfer, buf, len, stamp) = match op {
            Op::Write { file, offset, buf } => {
                let (len, stamp) = (buf.len(), u64::from(crc::crc32c(&buf)));
                (file, Transfer::new(IoOperation::Write, offset, len), Some(buf), len, stamp)
            }
            Op::Read { file, offset, buf, len } => {
                (file, Transfer::new(IoOperation::Read, offset, len), Some(buf), len, 0)
            }
            Op::Flush { file } => {
                let horizon = self.event();
                (file, Transfer::new(IoOperation::Flush, 0, 0), None, 0, horizon)
            }
        };
        let added = Pending { id: self.event(), queue, token, file, transfer, buf, len, stamp };
        self.check_place(&added);
        self.pending.push(added);
        self.note_step();
    }

    fn check_place(&self, added: &Pending) {
        let is_write = |pending: &Pending| pending.transfer.operation() == IoOperation::Write;
        let is_read = |pending: &Pending| pending.transfer.operation() == IoOperation::Read;
        if is_write(added) {
            let end = added.transfer.rest_offset() + added.len as u64;
            let len =
                self.files.get(&added.file.inode()).map_or(0, |file| file.current.len() as u64);
            assert!(end <= len, "a write up to {end} extends {:?} of {len} bytes", added.file);
        }
        for other in &self.pending {
            let same_file = other.file.inode() == added.file.inode();
            if same_file && (is_write(added) || is_write(other)) {
                let apart = !overlap(added.place_in_file(), other.place_in_file());
                assert!(apart, "two operations in flight on the same bytes of {:?}", added.file);
            }
            if is_read(added) || is_read(other) {
                let apart = !overlap(added.place_in_memory(), other.place_in_memory());
                assert!(apart, "two operations in flight on the same memory");
            }
        }
    }

    /// Runs those operations of the queue whose turn it is. `at_least_one` overrules delays, not holding
    /// back.
    pub(super) fn run(&mut self, queue: u64, at_least_one: bool, out: &mut Vec<Completion>) {
        let mut turn = self.ids_of(queue);
        if self.plan.reorder {
            for last in (1..turn.len()).rev() {
                turn.swap(last, self.random.below(last + 1));
            }
        }
        let before = out.len();
        for (index, id) in turn.iter().enumerate() {
            let is_last_chance = at_least_one && index + 1 == turn.len() && out.len() == before;
            if !is_last_chance && self.random.chance(self.plan.delay_permille) {
                continue;
            }
            match &mut self.credits {
                Some(0) => {
                    self.is_held_back = true;
                    return;
                }
                Some(credits) => *credits -= 1,
                None => {}
            }
            let mut completion = self.step(*id);
            while completion.is_none() && is_last_chance {
                completion = self.step(*id);
            }
            out.extend(completion);
        }
    }

    fn ids_of(&self, queue: u64) -> Vec<u64> {
        let own = self.pending.iter().filter(|pending| pending.queue == queue);
        own.map(|pending| pending.id).collect()
    }

    /// One answer of the system to one operation; the completion if that ends it.
    fn step(&mut self, id: u64) -> Option<Completion> {
        let place = self.pending.iter().position(|pending| pending.id == id)?;
        let mut pending = self.pending.remove(place);
        let answer = self.answer(&mut pending);
        let changes = pending.transfer.operation() != IoOperation::Read;
        let ended = match pending.transfer.advance(answer, pending.file.name()) {
            Progress::Again => {
                self.pending.insert(place, pending);
                None
            }
            Progress::Ended(result) => {
                Some(Completion { token: pending.token, result, buf: pending.buf })
            }
        };
        if changes {
            self.note_step();
        }
        ended
    }

    fn answer(&mut self, pending: &mut Pending) -> Result<usize, i32> {
        let operation = pending.transfer.operation();
        let mut fault = self.call(operation);
        if self.is_dead {
            return Err(libc::EIO);
        }
        if fault.is_none() && self.random.chance(self.plan.short_permille) {
            fault = Some(Fault::Short);
        }
        match operation {
            IoOperation::Write => self.answer_write(pending, fault),
            IoOperation::Read => self.answer_read(pending, fault),
            _ => self.answer_flush(pending, fault),
        }
    }

    fn answer_write(&mut self, pending: &Pending, fault: Option<Fault>) -> Result<usize, i32> {
        let buf = pending.buf.as_ref().expect("a write has a buffer");
        let is_same = u64::from(crc::crc32c(buf)) == pending.stamp;
        assert!(is_same, "the buffer of a write to {:?} changed in flight", pending.file);
        let bytes = &buf[pending.transfer.done()..];
        let mut offset = pending.transfer.rest_offset() as usize;
        let mut moved = bytes.len();
        match fault {
            Some(Fault::Errno(errno @ (libc::EINTR | libc::EAGAIN))) => return Err(errno),
            Some(Fault::Errno(errno)) => {
                let at = self.event();
                for (index, unit) in bytes.chunks(ALIGNMENT).enumerate() {
                    if self.random.chance(500) {
                        let inode = pending.file.inode();
                        self.file_mut(inode).write(at, offset + index * ALIGNMENT, unit);
                    }
                }
                return Err(errno);
            }
            Some(Fault::Short) => moved = 1 + self.random.below(bytes.len() - 1),
            Some(Fault::Misdirect) => {
                let places =
                    (self.file_mut(pending.file.inode()).current.len() - moved) / ALIGNMENT;
                if places == 0 {
                    return Ok(moved);
                }
                let elsewhere = self.random.below(places) * ALIGNMENT;
                offset = if elsewhere < offset { elsewhere } else { elsewhere + ALIGNMENT };
            }
            _ => {}
        }
        let at = self.event();
        self.file_mut(pending.file.inode()).write(at, offset, &bytes[..moved]);
        Ok(moved)
    }

    fn answer_read(&mut self, pending: &mut Pending, fault: Option<Fault>) -> Result<usize, i32> {
        let (done, offset) = (pending.transfer.done(), pending.transfer.rest_offset() as usize);
        let file = &self.files[&pending.file.inode()].current;
        let available = &file[offset.min(file.len())..];
        let mut moved = pending.transfer.rest_len().min(available.len());
        match fault {
            Some(Fault::Errno(errno)) => return Err(errno),
            // A read that is short within its first 4096 bytes would mean the end of the file.
            Some(Fault::Short) if moved > ALIGNMENT => {
                moved = ALIGNMENT + self.random.below(moved - ALIGNMENT);
            }
            _ => {}
        }
        let buf = pending.buf.as_mut().expect("a read has a buffer");
        buf[done..done + moved].copy_from_slice(&available[..moved]);
        Ok(moved)
    }

    fn answer_flush(&mut self, pending: &Pending, fault: Option<Fault>) -> Result<usize, i32> {
        let file = self.file_mut(pending.file.inode());
        match fault {
            Some(Fault::Errno(errno)) => return Err(errno),
            Some(Fault::FlushLosesData) => {
                file.lose_unflushed();
                return Err(libc::EIO);
            }
            _ => file.flush(pending.stamp),
        }
        Ok(0)
    }

    /// Ends a queue as its process would: whatever is in flight is done, nobody hears of it.
    pub(super) fn drain(&mut self, queue: u64) {
        let credits = self.credits.take();
        while self.in_flight(queue) > 0 {
            self.run(queue, true, &mut Vec::new());
        }
        self.credits = credits;
    }

    pub(super) fn not_found(operation: IoOperation, name: &str) -> IoError {
        let error = IoError::from_errno(operation, name, libc::ENOENT);
        error.of_class(IoErrorClass::NotFound)
    }
}

impl Pending {
    fn place_in_file(&self) -> (u64, u64) {
        let start = self.transfer.rest_offset();
        (start, start + self.transfer.rest_len() as u64)
    }

    fn place_in_memory(&self) -> (u64, u64) {
        let start = self.buf.as_ref().map_or(0, |buf| buf.address() as u64);
        (start, start + self.len as u64)
    }
}

fn overlap(left: (u64, u64), right: (u64, u64)) -> bool {
    left.0 < right.1 && right.0 < left.1
}
