//! A disk in memory that fails, tears, reorders and loses, all from one seed.
//!
//! Invariant: it is as bad as a disk may be and no worse: what was flushed stays, names that were synced
//! stay, and everything else is subject to the `FaultPlan`. It panics when its caller breaks a rule of
//! the seam (alignment, ownership of buffers, writes beyond a file's end), which the real backends could
//! not all notice. Its `wait` never blocks. Callers: tests and the simulator. See `docs/testing.md`.

mod crash;
mod fault;
mod file;
mod random;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use fault::{Fault, FaultPlan, PlannedFault};
pub(crate) use random::Random;
pub use watch::Moment;

use self::file::SimFile;
use self::state::State;
use super::{
    Completion, DirEntry, Disk, FileHandle, Fill, IoError, IoErrorClass, IoKind, IoOperation, Op,
    OpenMode, Queue, Waker,
};

/// A simulated disk with one directory; clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk; everything random about it comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::of(State::new(seed))
    }

    fn of(state: State) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a broken invariant of the caller, which the test reports itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what goes wrong from now on; the calls of planned faults count from here.
    ///
    /// # Panics
    /// When the unit of tearing is neither 512 nor 4096.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.state().set_plan(plan);
    }

    /// How many calls of each kind there were since the plan was set: those that a planned fault can befall.
    #[must_use]
    pub fn calls(&self) -> Vec<(IoOperation, u64)> {
        self.state().calls.iter().map(|(operation, count)| (*operation, *count)).collect()
    }

    /// Limits the bytes of all files; `None` takes the limit away.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        let mut state = self.state();
        (state.capacity, state.is_greedy) = (bytes, false);
    }

    /// Somebody else takes all the bytes that are left, and whatever is freed from now on, until the capacity
    /// is set.
    pub fn fill_up(&self) {
        let mut state = self.state();
        (state.capacity, state.is_greedy) = (Some(state.used_bytes()), true);
    }

    /// Holds back all completions until `step` lets some through.
    pub fn hold(&self) {
        let mut state = self.state();
        (state.credits, state.is_held_back) = (Some(0), false);
    }

    /// Lets `operations` more answers through.
    pub fn step(&self, operations: u64) {
        let mut state = self.state();
        state.credits = Some(state.credits.unwrap_or(0) + operations);
        state.is_held_back &= operations == 0;
    }

    /// Whether somebody waits for an answer that is held back, so that nothing more comes of what was let
    /// through.
    #[must_use]
    pub fn is_held_back(&self) -> bool {
        self.state().is_held_back
    }

    /// Ends the holding back.
    pub fn release(&self) {
        self.state().credits = None;
    }

    /// Kills the process (`power` false: all that completed is kept, unflushed or not) or the machine
    /// (`power` true: the fault plan decides). Every later call on this disk fails; the disk returned is
    /// what is found afterwards.
    #[must_use]
    pub fn crash(&self, power: bool) -> SimDisk {
        let next = self.state().crash(power);
        SimDisk::of(next)
    }

    /// Flips one bit of a file on the medium.
    ///
    /// # Panics
    /// When there is no such file or byte.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        let mut state = self.state();
        let inode = state.names[name];
        assert!(
            (offset as usize) < state.files[&inode].current.len(),
            "no byte {offset} in {name}"
        );
        state.file_mut(inode).flip_bit(offset as usize, bit);
    }

    /// What a read of the whole file would see; `None` without such a file.
    #[must_use]
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|inode| state.files[inode].current.to_vec())
    }

    /// How many writes a power loss could take from the file.
    #[must_use]
    pub fn unflushed_writes(&self, name: &str) -> usize {
        let state = self.state();
        state.names.get(name).map_or(0, |inode| state.files[inode].unflushed_writes())
    }
}

/// Whether the system says that there is no space, or that this user's quota is used up.
fn is_space(error: &IoError) -> bool {
    matches!(error.errno, Some(libc::ENOSPC | libc::EDQUOT))
}

fn no_space(state: &State, operation: IoOperation, name: &str, needed: u64) -> Option<IoError> {
    let available = state.available_bytes()?;
    (needed > available).then(|| {
        let error = IoError::from_errno(operation, name, libc::ENOSPC).at(0, needed);
        error.of_class(IoErrorClass::NoSpace { needed, available })
    })
}

impl Disk for SimDisk {
    fn create(&self, name: &str, len: u64, _fill: Fill) -> Result<FileHandle, IoError> {
        let mut state = self.state();
        let called = state.metadata_call(IoOperation::Create, name);
        if let Err(error) = called {
            if !is_space(&error) {
                return Err(error.at(0, len));
            }
            let available = state.available_bytes().unwrap_or(0);
            let class = IoErrorClass::NoSpace { needed: len, available };
            return Err(error.at(0, len).of_class(class));
        }
        if state.names.contains_key(name) {
            return Err(IoError::from_errno(IoOperation::Create, name, libc::EEXIST).at(0, len));
        }
        match no_space(&state, IoOperation::Create, name, len) {
            Some(error) => Err(error),
            None => {
                let file = state.add_file(name, SimFile::new(len as usize));
                state.note_step();
                Ok(FileHandle::of_sim(name, file))
            }
        }
    }

    fn open(&self, name: &str, _mode: OpenMode) -> Result<FileHandle, IoError> {
        let mut state = self.state();
        state.metadata_call(IoOperation::Open, name)?;
        match state.names.get(name) {
            Some(inode) => Ok(FileHandle::of_sim(name, *inode)),
            None => Err(State::not_found(IoOperation::Open, name)),
        }
    }

    fn len(&self, file: &FileHandle) -> Result<u64, IoError> {
        let mut state = self.state();
        state.metadata_call(IoOperation::Length, file.name())?;
        Ok(state.file_mut(file.inode()).current.len() as u64)
    }

    fn list(&self) -> Result<Vec<DirEntry>, IoError> {
        let mut state = self.state();
        state.metadata_call(IoOperation::List, "")?;
        let entry = |(name, inode): (&String, &u64)| {
            let len = state.files[inode].current.len() as u64;
            DirEntry { name: name.clone(), len, allocated_bytes: len }
        };
        Ok(state.names.iter().map(entry).collect())
    }

    fn remove(&self, name: &str) -> Result<(), IoError> {
        let mut state = self.state();
        state.metadata_call(IoOperation::Remove, name)?;
        if !state.names.contains_key(name) {
            return Err(State::not_found(IoOperation::Remove, name));
        }
        state.remove_name(name);
        state.note_step();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), IoError> {
        let mut state = self.state();
        state.metadata_call(IoOperation::Rename, from)?;
        if !state.rename(from, to) {
            return Err(State::not_found(IoOperation::Rename, from));
        }
        state.note_step();
        Ok(())
    }

    fn sync_dir(&self) -> Result<(), IoError> {
        let mut state = self.state();
        let called = state.metadata_call(IoOperation::SyncDirectory, "");
        called.map_err(|error| error.of_class(IoErrorClass::Failed))?;
        state.sync_names();
        state.note_step();
        Ok(())
    }

    fn read_small(&self, name: &str, max_len: u64) -> Result<Vec<u8>, IoError> {
        let mut state = self.state();
        match state.metadata_call(IoOperation::Read, name) {
            // The call is made again until it gets through.
            Err(error) if matches!(error.errno, Some(libc::EINTR | libc::EAGAIN)) => {}
            called => called?,
        }
        let Some(inode) = state.names.get(name).copied() else {
            return Err(State::not_found(IoOperation::Open, name));
        };
        let content = &state.files[&inode].current;
        if content.len() as u64 > max_len {
            let found = content.len() as u64;
            let error = IoError::from_errno(IoOperation::Read, name, libc::EFBIG);
            return Err(error.of_class(IoErrorClass::TooLong { found }));
        }
        Ok(content.to_vec())
    }

    fn write_small(&self, name: &str, content: &[u8]) -> Result<(), IoError> {
        let mut state = self.state();
        let len = content.len() as u64;
        let known = state.names.get(name).copied();
        let former = known.map_or(0, |inode| state.files[&inode].current.len() as u64);
        let broken = match state.metadata_call(IoOperation::Write, name) {
            // The call is made again until it gets through.
            Err(error) if matches!(error.errno, Some(libc::EINTR | libc::EAGAIN)) => None,
            // What is written within the file's length needs none.
            Err(error) if is_space(&error) && len <= former => None,
            // Space is claimed before a byte is changed.
            Err(error) if is_space(&error) => {
                let available = state.available_bytes().unwrap_or(0);
                let class = IoErrorClass::NoSpace { needed: len, available };
                return Err(error.at(0, len).of_class(class));
            }
            Err(error) if state.is_dead => return Err(error.at(0, len)),
            called => called.err(),
        };
        let operation = if known.is_none() { IoOperation::Create } else { IoOperation::Write };
        if let Some(error) = no_space(&state, operation, name, len.saturating_sub(former)) {
            return Err(error);
        }
        let inode = match known {
            Some(inode) => inode,
            None => state.add_file(name, SimFile::empty()),
        };
        let at = state.event();
        if let Some(error) = broken {
            let written = state.random.below(content.len() + 1);
            state.file_mut(inode).write(at, 0, &content[..written]);
            return Err(error.at(0, len));
        }
        state.file_mut(inode).write(at, 0, content);
        state.note_step();
        let fault = state.call(IoOperation::Flush);
        let horizon = state.event();
        let failed = |errno| IoError::from_errno(IoOperation::Flush, name, errno);
        match fault {
            Some(Fault::Errno(libc::EINTR | libc::EAGAIN)) => state.file_mut(inode).flush(horizon),
            Some(Fault::Errno(errno)) => return Err(failed(errno)),
            Some(Fault::FlushLosesData) => {
                state.file_mut(inode).lose_unflushed();
                return Err(failed(libc::EIO));
            }
            _ => state.file_mut(inode).flush(horizon),
        }
        state.note_step();
        Ok(())
    }

    fn queue(&self, depth: u32) -> Result<Box<dyn Queue>, IoError> {
        let mut state = self.state();
        state.metadata_call(IoOperation::Queue, "")?;
        let id = state.new_queue();
        let (disk, waker) = (self.clone(), Waker::of_flag());
        Ok(Box::new(SimQueue { disk, id, capacity: depth.max(1) as usize, waker }))
    }

    fn kind(&self) -> IoKind {
        IoKind::Sim
    }
}

#[derive(Debug)]
struct SimQueue {
    disk: SimDisk,
    id: u64,
    capacity: usize,
    waker: Waker,
}

impl SimQueue {
    fn run(&self, at_least_one: bool, out: &mut Vec<Completion>) -> Result<(), IoError> {
        let mut state = self.disk.state();
        if state.is_dead {
            return Err(IoError::from_errno(IoOperation::Queue, "", libc::EIO));
        }
        state.run(self.id, at_least_one, out);
        Ok(())
    }
}

impl Queue for SimQueue {
    fn submit(&mut self, token: u64, op: Op) {
        op.assert_valid();
        let mut state = self.disk.state();
        assert!(state.in_flight(self.id) < self.capacity, "more than {} in flight", self.capacity);
        state.submit(self.id, token, op);
    }

    fn in_flight(&self) -> usize {
        self.disk.state().in_flight(self.id)
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn wait(
        &mut self,
        _timeout: Option<Duration>,
        out: &mut Vec<Completion>,
    ) -> Result<(), IoError> {
        self.waker.take();
        self.run(true, out)
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<(), IoError> {
        self.run(false, out)
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl Drop for SimQueue {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.disk.state().drain(self.id);
        }
    }
}
