//! The end of a life: compactor, writers, keeper, buffers, manifest, lock, in this order.
//!
//! Invariant: the manifest says "closed cleanly" only after every committed record is flushed, the last
//! chunks are sealed and no more room is handed out; the log buffers are removed after that, the lock is
//! let go last.
//!
//! A close that succeeds has waited for every room under way. One that fails has not, and the next opening
//! takes the log buffers over: a record that becomes whole after that is in none of them. So, before the
//! directory is let go, the store is poisoned, and then every stream's lock is taken once. A change completes
//! its record under its stream's lock, and asks for poison after that, before its caller is told that it is
//! done (`DiskLog::settle`). If it had the lock before us, its record is whole before the directory goes; if
//! it has it after us, it finds the poison, and its caller is told that nobody knows. Without the lock each
//! of the two might overlook the other's store. A group's one word and a clear's record are set under the
//! lock like a put's. The parts of a long value are not, but its thread has set them before it took the
//! lock, and they count only with the record of their entry.
//!
//! Nobody has a stream's lock while it waits for room or for a seq, so the close waits for what is between
//! the lock and its end alone; the user's clock may be asked there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdstore::Clock;

use super::Store;
use super::runner::{Machine, Runner, Thread, Threads};
use crate::buffers::place::Places;
use crate::dir::lock::DirLock;
use crate::durability::LogFailure;
use crate::error::CloseError;
use crate::format::manifest::{BuffersPlace, LifeState};
use crate::format::{LifeNumber, StoreId};
use crate::io::{IoError, IoKind, IoOperation};
use crate::log::Shared;

/// What runs while a store is open, and what it holds.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) writers: Vec<Machine>,
    pub(crate) compactor: Option<Machine>,
    pub(crate) keeper: Thread,
    pub(crate) places: Places,
    pub(crate) place: BuffersPlace,
    pub(crate) _buffers_lock: Option<std::fs::File>,
    pub(crate) store: StoreId,
    pub(crate) life: LifeNumber,
    pub(crate) clock: ClockHandle,
    pub(crate) facts: Facts,
    pub(crate) _lock: Option<DirLock>,
}

/// A clock that can be shown.
#[derive(Clone)]
pub(crate) struct ClockHandle(pub(crate) Arc<dyn Clock>);

impl std::fmt::Debug for ClockHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// What does not change while a store is open.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) io_used: IoKind,
    pub(crate) buffer_bytes: u64,
}

impl Default for Facts {
    fn default() -> Self {
        Facts { io_used: IoKind::Syscall, buffer_bytes: 0 }
    }
}

impl Store {
    /// Closes the store: waits for the changes under way, writes and flushes everything, and notes in the
    /// manifest that the end was clean.
    ///
    /// # Errors
    /// [`CloseError`]: the store is closed all the same, and the next opening recovers it as after a
    /// crash. On a full disk it waits as long as a put would; what could not be written then stays in the
    /// log buffers. Changes that other threads have under way then are refused, or told by
    /// [`LogFailure::Poisoned`] that nobody knows.
    pub fn close(mut self) -> Result<(), CloseError> {
        self.finish(&mut Threads)
    }

    pub(super) fn finish(&mut self, runner: &mut dyn Runner) -> Result<(), CloseError> {
        let Some(running) = self.running.take() else { return Ok(()) };
        self.shared.closed.store(true, Ordering::SeqCst);
        // The compactor ends first: it takes chunks, which the writers may need to end. What it waits for and
        // is not durable yet is not freed.
        let mut compacted = 0;
        if let Some((control, thread)) = running.compactor {
            control.close.store(true, Ordering::Release);
            runner.join((Arc::clone(&control), thread));
            compacted = control.blocks.load(Ordering::Acquire);
        }
        for (control, _) in &running.writers {
            control.close.store(true, Ordering::Release);
        }
        self.shared.lanes.iter().for_each(|lane| lane.ring.wake_writer());
        let mut blocks = Vec::new();
        let mut gave_up = false;
        for (control, thread) in running.writers {
            runner.join((Arc::clone(&control), thread));
            gave_up |= control.gave_up.load(Ordering::Acquire);
            blocks.push(control.blocks.load(Ordering::Acquire));
        }
        blocks.push(compacted);
        self.shared.supply.stop();
        let _ = running.keeper.map(std::thread::JoinHandle::join);
        // Whoever still writes the manifest, for a map, ends before the directory is let go, and nobody
        // begins after this: that it is closed is asked under this lock.
        let mut manifests =
            self.shared.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(failure) = self.drained(gave_up) {
            // No more than one lock at a time: who makes or drops a map has this one first.
            drop(manifests);
            self.end_acknowledging();
            return Err(failure.into());
        }
        self.shared.supply.discard_stock();
        // What opened under this limit opens under it again.
        let memory_bytes = self.memory.used_bytes();
        let next_file = self.shared.supply.next_file();
        // What a stream gave last may be in no chunk any more: its map was dropped, or its fact forgotten.
        let durable = self.shared.counters.durable.iter().map(|seq| seq.load(Ordering::Acquire));
        let given = durable.max().unwrap_or(0);
        manifests.update(|manifest| {
            manifest.closed_cleanly = true;
            manifest.seq_start = manifest.seq_start.max(given + 1);
            manifest.memory_bytes = memory_bytes;
            manifest.next_file = next_file;
            manifest.latest_time_ms = manifest.latest_time_ms.max(running.clock.0.wall_ms());
            if let Some(life) = manifest.lives.iter_mut().find(|life| life.number == running.life) {
                life.state = LifeState::Cut;
                life.buffers = BuffersPlace::None;
                // Never fewer than were told: a compactor that died while it freed its victims knows less of
                // its blocks than the manifest, which counts their survivors.
                for (known, written) in life.valid_blocks.iter_mut().zip(&blocks) {
                    *known = (*known).max(*written);
                }
            }
        })?;
        if let Err(error) = running.places.remove(running.store, running.life, running.place) {
            tracing::warn!(%error, "the log buffers of a closed store could not be removed");
        }
        Ok(())
    }

    /// Whether all that was committed is flushed. If not, the store is poisoned.
    fn drained(&self, gave_up: bool) -> Result<(), LogFailure> {
        self.shared.poison.check()?;
        if gave_up {
            let needed_bytes = self.shared.supply.chunk_size();
            let what = "a chunk to close the store on a full disk";
            let error = IoError::from_errno(IoOperation::Create, what, libc::ENOSPC);
            self.shared.poison.set(error.at(0, needed_bytes));
            return Err(LogFailure::NoSpace { needed_bytes });
        }
        Ok(())
    }

    /// Of a store that is poisoned, and whose threads have ended: when this returns no change is acknowledged
    /// any more whose record is not whole.
    fn end_acknowledging(&self) {
        for lane in &self.shared.lanes {
            lane.progress.notify();
            lane.ring.notify_all();
        }
        self.memory.await_changes();
    }

    /// Ends the store as if its process died at this moment: nothing more is written, the log buffers
    /// stay, and nothing is acknowledged any more. For tests of recovery in one process.
    #[doc(hidden)]
    pub fn abandon(mut self) {
        self.end_at_once();
    }

    fn end_at_once(&mut self) {
        if let Some(running) = self.running.take() {
            let threads = running.writers.into_iter().chain(running.compactor).collect();
            stop(&self.shared, threads, running.keeper);
            // As at a close: the directory is let go after this.
            drop(self.shared.manifests.lock());
            let what = "the log of a store that was abandoned";
            let end = IoError::from_errno(IoOperation::Write, what, libc::ECANCELED);
            self.shared.poison.latch(end);
            self.end_acknowledging();
        }
    }
}

/// Ends threads as if their process died.
pub(crate) fn stop(shared: &Shared, writers: Vec<Machine>, keeper: Thread) {
    shared.closed.store(true, Ordering::SeqCst);
    for (control, _) in &writers {
        control.abandon.store(true, Ordering::Release);
    }
    shared.lanes.iter().for_each(|lane| lane.ring.wake_writer());
    shared.supply.stop();
    for thread in writers.into_iter().filter_map(|(_, thread)| thread).chain(keeper) {
        // A panic in it has become poison.
        let _ = thread.join();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let is_stepped = self.running.as_ref().is_some_and(|running| running.keeper.is_none());
        if is_stepped {
            // Nobody takes its turns any more: it ends like a process that died.
            self.end_at_once();
        } else if let Err(error) = self.finish(&mut Threads) {
            tracing::error!(%error, "a store that was dropped could not be closed cleanly");
        }
    }
}

#[cfg(test)]
#[path = "close_tests.rs"]
mod tests;
