//! The threads of a store: one per writer, one for making chunks and keeping memory ready.
//!
//! They only drive: everything that is decided is decided in the state machines. A writer's thread makes
//! the queue that it uses. A panic in one of them would leave puts waiting, so it is caught and turned
//! into poison.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdstore::Clock;

use super::machine::Writer;
use crate::buffers::ring::Ring;
use crate::io::{Disk, IoError, IoOperation, Queue};
use crate::log::{DiskLog, Shared};
use crate::poison::Poison;

/// Operations that a writer has in flight at most.
const QUEUE_DEPTH: u32 = 64;
/// A writer that has nothing to do looks around this often, should a wake have been lost.
const IDLE_MS: u64 = 1_000;
/// How often the keeper looks around when nobody asks.
const KEEPER_INTERVAL: Duration = Duration::from_millis(100);

/// What the store tells a writer's thread, and hears from it.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Drain and end.
    pub(crate) close: AtomicBool,
    /// End at once, as if the process died.
    pub(crate) abandon: AtomicBool,
    /// Blocks that were written, known when the thread has ended.
    pub(crate) blocks: AtomicU64,
    /// Whether it ended without having drained, since the disk was full.
    pub(crate) gave_up: AtomicBool,
    /// How long a close waits for space on a full disk.
    pub(crate) patience: Duration,
}

/// Drives a writer until it is told to close and has drained, or to abandon.
pub(crate) fn run(
    mut writer: Writer,
    disk: &dyn Disk,
    ring: &Ring,
    poison: &Poison,
    clock: &dyn Clock,
    control: &Control,
) {
    let driven =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| -> Result<(), IoError> {
            let mut queue = disk.queue(QUEUE_DEPTH)?;
            ring.set_waker(queue.waker());
            drive(&mut writer, &mut *queue, ring, clock, control)
        }));
    control.blocks.store(writer.blocks(), Ordering::Release);
    match driven {
        Ok(Ok(())) => {}
        Ok(Err(error)) => poison.set(error),
        Err(_) => {
            poison.set(IoError::from_errno(
                IoOperation::Write,
                "writer thread panicked",
                libc::EIO,
            ));
        }
    }
    if poison.get().is_some() {
        // Tells everybody who waits.
        writer.step(clock.monotonic_ms(), Vec::new(), 0);
    }
}

fn drive(
    writer: &mut Writer,
    queue: &mut dyn Queue,
    ring: &Ring,
    clock: &dyn Clock,
    control: &Control,
) -> Result<(), IoError> {
    let mut completions = Vec::new();
    let mut closing_since = None;
    loop {
        if control.abandon.load(Ordering::Acquire) {
            return Ok(());
        }
        if control.close.load(Ordering::Acquire) {
            writer.close();
            let since = *closing_since.get_or_insert_with(Instant::now);
            if writer.lacks_space() && queue.in_flight() == 0 && since.elapsed() >= control.patience
            {
                control.gave_up.store(true, Ordering::Release);
                return Ok(());
            }
        }
        // Before the step: whatever comes after this wakes the wait below.
        ring.about_to_sleep();
        let room = queue.capacity() - queue.in_flight();
        let step = writer.step(clock.monotonic_ms(), std::mem::take(&mut completions), room);
        for (token, op) in step.submissions {
            queue.submit(token, op);
        }
        if control.close.load(Ordering::Acquire) && writer.is_drained() && queue.in_flight() == 0 {
            return Ok(());
        }
        let timeout = Duration::from_millis(step.again_in_ms.unwrap_or(IDLE_MS).min(IDLE_MS));
        queue.wait(Some(timeout), &mut completions)?;
        ring.awake();
    }
}

/// Starts the keeper: it keeps seqs, chunks and memory ahead of need, and looks how much the store holds.
pub(crate) fn keep(
    shared: Arc<Shared>,
    memory: hdstore::Store<DiskLog>,
    clock: Arc<dyn Clock>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let limit_bytes = memory.stats().limit_bytes;
    let ahead_bytes = (limit_bytes / 128).min(64 << 20);
    std::thread::Builder::new().name("hr-keeper".to_owned()).spawn(move || {
        while shared.supply.wait_for_need(KEEPER_INTERVAL) {
            shared.look_at(&memory);
            shared.keep_seqs_ahead();
            shared.keep_time(clock.wall_ms());
            if shared.supply.restock() {
                shared.lanes.iter().for_each(|lane| lane.ring.wake_writer());
            } else if shared.supply.no_space_bytes().is_some() {
                std::thread::sleep(KEEPER_INTERVAL);
            }
            memory.maintain(ahead_bytes);
        }
    })
}
