//! What drives the compactor: a thread (`run`), or a simulation (`store/stepper.rs`) that takes the same
//! turns.
//!
//! It only drives: everything that is decided is decided in the state machine; what blocks (the manifest) is
//! done between its steps. Whatever ends it before the store ends is told (`State::stopped`), and poison if
//! the outcome of a write is unknown. A panic is caught: the store goes on, and puts are refused with the
//! reason once the disk budget is used up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdstore::Clock;

use super::free::free;
use super::machine::Compactor;
use crate::io::{Completion, Disk, IoError, IoErrorClass, Queue};
use crate::log::Shared;
use crate::writer::drive::{Control, Turn};

/// Operations in flight at most.
const QUEUE_DEPTH: u32 = 32;

/// A compactor with everything that drives it, before its queue is made.
pub(crate) struct Parts {
    pub(crate) compactor: Compactor,
    pub(crate) shared: Arc<Shared>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) control: Arc<Control>,
}

/// A compactor with its queue; it belongs to the thread that made it.
pub(crate) struct Drive {
    parts: Parts,
    queue: Option<Box<dyn Queue>>,
    completions: Vec<Completion>,
}

/// Drives the compactor until it is told to close and has drained, or to abandon.
pub(crate) fn run(parts: Parts) {
    let mut drive = Drive::begin(parts);
    let driven = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        while let Turn::Wait(at_most_ms) = drive.turn() {
            drive.wait(Duration::from_millis(at_most_ms));
        }
    }));
    if driven.is_err() {
        let why = "the compactor panicked; see the program's log";
        drive.stopped(why);
    }
    drive.end();
}

impl Drive {
    /// Makes the queue. Where that fails the first turn ends.
    pub(crate) fn begin(parts: Parts) -> Drive {
        let mut drive = Drive { parts, queue: None, completions: Vec::new() };
        match drive.parts.disk.queue(QUEUE_DEPTH) {
            Ok(queue) => drive.queue = Some(queue),
            Err(error) => drive.fail(error),
        }
        drive
    }

    /// One step of the machine, with the completions that have come. It waits for nothing but the manifest.
    pub(crate) fn turn(&mut self) -> Turn {
        match self.step() {
            Ok(turn) => turn,
            Err(error) => {
                self.fail(error);
                Turn::End
            }
        }
    }

    fn step(&mut self) -> Result<Turn, IoError> {
        let Parts { compactor, shared, clock, control, .. } = &mut self.parts;
        let Some(queue) = &mut self.queue else { return Ok(Turn::End) };
        if control.abandon.load(Ordering::Acquire) {
            return Ok(Turn::End);
        }
        let closing = control.close.load(Ordering::Acquire);
        if closing {
            compactor.close();
        }
        let room = queue.capacity() - queue.in_flight();
        let completions = std::mem::take(&mut self.completions);
        let mut asked = compactor.step(clock.monotonic_ms(), completions, room);
        for (token, op) in asked.step.submissions.drain(..) {
            queue.submit(token, op);
        }
        let again_in_ms = asked.step.again_in_ms.unwrap_or(1);
        if !asked.free.is_empty() {
            let is_free = match free(shared, &asked.free, asked.blocks) {
                Ok(()) => {
                    shared.lanes.iter().for_each(|lane| lane.ring.wake_writer());
                    true
                }
                // Nothing is lost: the chunks stay, and are tried again.
                Err(error) if matches!(error.class, IoErrorClass::NoSpace { .. }) => false,
                Err(error) => return Err(error),
            };
            compactor.freed(clock.monotonic_ms(), asked, is_free);
        }
        if (closing && compactor.is_drained() && queue.in_flight() == 0)
            || shared.poison.get().is_some()
        {
            return Ok(Turn::End);
        }
        Ok(Turn::Wait(again_in_ms))
    }

    fn wait(&mut self, at_most: Duration) {
        let Some(queue) = &mut self.queue else { return };
        if let Err(error) = queue.wait(Some(at_most), &mut self.completions) {
            self.fail(error);
        }
    }

    /// Takes the completions that are there, for whoever drives without waiting.
    pub(crate) fn poll(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        if let Err(error) = queue.poll(&mut self.completions) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: IoError) {
        self.stopped(&error.to_string());
        self.parts.shared.poison.set(error);
        self.queue = None;
    }

    fn stopped(&self, why: &str) {
        self.parts.shared.compaction.stopped(why);
        // Nobody waits for what will not be freed.
        self.parts.shared.floor.set_freeing(false);
        self.parts.shared.pace();
    }

    /// The end: says how many of its blocks count.
    pub(crate) fn end(&mut self) {
        self.parts.control.blocks.store(self.parts.compactor.blocks(), Ordering::Release);
    }
}
