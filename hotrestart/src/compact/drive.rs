//! The compactor's thread.
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
use crate::io::{Disk, IoError, IoErrorClass};
use crate::log::Shared;
use crate::writer::drive::Control;

/// Operations in flight at most.
const QUEUE_DEPTH: u32 = 32;

/// Drives the compactor until it is told to close and has drained, or to abandon.
pub(crate) fn run(
    mut compactor: Compactor,
    shared: &Arc<Shared>,
    disk: &dyn Disk,
    clock: &dyn Clock,
    control: &Control,
) {
    let driven = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drive(&mut compactor, shared, disk, clock, control)
    }));
    control.blocks.store(compactor.blocks(), Ordering::Release);
    match driven {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            shared.compaction.stopped(&error.to_string());
            shared.poison.set(error);
        }
        Err(_) => shared.compaction.stopped("the compactor panicked; see the program's log"),
    }
}

fn drive(
    compactor: &mut Compactor,
    shared: &Shared,
    disk: &dyn Disk,
    clock: &dyn Clock,
    control: &Control,
) -> Result<(), IoError> {
    let mut queue = disk.queue(QUEUE_DEPTH)?;
    let mut completions = Vec::new();
    loop {
        if control.abandon.load(Ordering::Acquire) {
            return Ok(());
        }
        let closing = control.close.load(Ordering::Acquire);
        if closing {
            compactor.close();
        }
        let room = queue.capacity() - queue.in_flight();
        let mut asked =
            compactor.step(clock.monotonic_ms(), std::mem::take(&mut completions), room);
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
            return Ok(());
        }
        let timeout = Duration::from_millis(again_in_ms);
        queue.wait(Some(timeout), &mut completions)?;
    }
}
