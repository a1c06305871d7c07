//! What drives a writer, and the keeper, which makes chunks and keeps memory ready.
//!
//! Driving only: everything that is decided is decided in the state machines. A thread (`run`, `start`) takes
//! turns and waits in between; a simulation (`store/stepper.rs`) takes the same turns and does not wait.
//! Whoever drives a writer makes the queue that it uses. A panic in a thread would leave puts waiting, so it
//! is caught and turned into poison.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdstore::Clock;

use super::machine::Writer;
use crate::buffers::ring::Ring;
use crate::io::{Completion, Disk, IoError, IoOperation, Queue};
use crate::log::{DiskLog, Shared};
use crate::poison::Poison;

/// Operations that a writer has in flight at most.
const QUEUE_DEPTH: u32 = 64;
/// A writer that has nothing to do looks around this often, should a wake have been lost.
const IDLE_MS: u64 = 1_000;
/// How often the keeper looks around when nobody asks.
const KEEPER_INTERVAL: Duration = Duration::from_millis(100);
/// And while what the store holds grows or shrinks, and its disk budget with it.
const KEEPER_INTERVAL_BUSY: Duration = Duration::from_millis(10);

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

/// A writer with everything that drives it, before its queue is made.
pub(crate) struct Parts {
    pub(crate) writer: Writer,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) poison: Arc<Poison>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) control: Arc<Control>,
}

/// What a machine's driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Waits for completions or a wake, so many milliseconds at most.
    Wait(u64),
    /// Nothing more.
    End,
}

/// A writer with its queue; it belongs to the thread that made it.
pub(crate) struct Drive {
    parts: Parts,
    queue: Option<Box<dyn Queue>>,
    completions: Vec<Completion>,
    closing_since_ms: Option<u64>,
}

/// Drives a writer until it is told to close and has drained, or to abandon.
pub(crate) fn run(parts: Parts) {
    let mut drive = Drive::begin(parts);
    let driven = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        while let Turn::Wait(at_most_ms) = drive.turn() {
            drive.wait(Duration::from_millis(at_most_ms));
        }
    }));
    if driven.is_err() {
        let what = "writer thread panicked";
        drive.parts.poison.set(IoError::from_errno(IoOperation::Write, what, libc::EIO));
    }
    drive.end();
}

impl Drive {
    /// Makes the queue. Where that fails it is poison, and the first turn ends.
    pub(crate) fn begin(parts: Parts) -> Drive {
        let queue = match parts.disk.queue(QUEUE_DEPTH) {
            Ok(queue) => {
                parts.ring.set_waker(queue.waker());
                Some(queue)
            }
            Err(error) => {
                parts.poison.set(error);
                None
            }
        };
        Drive { parts, queue, completions: Vec::new(), closing_since_ms: None }
    }

    /// One step of the machine, with the completions that have come. It does not wait.
    pub(crate) fn turn(&mut self) -> Turn {
        let Parts { writer, ring, clock, control, .. } = &mut self.parts;
        let Some(queue) = &mut self.queue else { return Turn::End };
        if control.abandon.load(Ordering::Acquire) {
            return Turn::End;
        }
        let now_ms = clock.monotonic_ms();
        let closing = control.close.load(Ordering::Acquire);
        if closing {
            writer.close();
            let since_ms = *self.closing_since_ms.get_or_insert(now_ms);
            let waited = Duration::from_millis(now_ms.saturating_sub(since_ms));
            if writer.lacks_space() && queue.in_flight() == 0 && waited >= control.patience {
                control.gave_up.store(true, Ordering::Release);
                return Turn::End;
            }
        }
        // Before the step: whatever comes after this wakes the wait that follows.
        ring.about_to_sleep();
        let room = queue.capacity() - queue.in_flight();
        let step = writer.step(now_ms, std::mem::take(&mut self.completions), room);
        for (token, op) in step.submissions {
            queue.submit(token, op);
        }
        if closing && writer.is_drained() && queue.in_flight() == 0 {
            return Turn::End;
        }
        Turn::Wait(step.again_in_ms.unwrap_or(IDLE_MS).min(IDLE_MS))
    }

    /// Waits for completions. A queue that fails is poison, and ends the driving.
    fn wait(&mut self, at_most: Duration) {
        let Some(queue) = &mut self.queue else { return };
        if let Err(error) = queue.wait(Some(at_most), &mut self.completions) {
            self.fail(error);
        }
        self.parts.ring.awake();
    }

    /// Takes the completions that are there, for whoever drives without waiting.
    pub(crate) fn poll(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        if let Err(error) = queue.poll(&mut self.completions) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: IoError) {
        self.parts.poison.set(error);
        self.queue = None;
    }

    /// The end: says how far it came, and tells everybody who waits of poison.
    pub(crate) fn end(&mut self) {
        let Parts { writer, poison, clock, control, .. } = &mut self.parts;
        control.blocks.store(writer.blocks(), Ordering::Release);
        if poison.get().is_some() {
            writer.step(clock.monotonic_ms(), Vec::new(), 0);
        }
    }
}

/// The keeper: it keeps seqs, chunks and memory ahead of need, and looks how much the store holds.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    memory: hdstore::Store<DiskLog>,
    clock: Arc<dyn Clock>,
    ahead_bytes: u64,
}

impl Keeper {
    pub(crate) fn new(
        shared: Arc<Shared>,
        memory: hdstore::Store<DiskLog>,
        clock: Arc<dyn Clock>,
    ) -> Keeper {
        let ahead_bytes = (memory.stats().limit_bytes / 128).min(64 << 20);
        Keeper { shared, memory, clock, ahead_bytes }
    }

    /// Looks around once. Returns whether it should not look again at once, since the disk is full.
    pub(crate) fn turn(&self) -> bool {
        let shared = &self.shared;
        shared.look_at(&self.memory);
        shared.keep_seqs_ahead();
        shared.keep_time(self.clock.wall_ms());
        let made = shared.restock();
        if made {
            shared.lanes.iter().for_each(|lane| lane.ring.wake_writer());
        }
        self.memory.maintain(self.ahead_bytes);
        !made && shared.supply.no_space_bytes().is_some()
    }

    /// Starts the keeper's thread.
    pub(crate) fn start(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        std::thread::Builder::new().name("hr-keeper".to_owned()).spawn(move || {
            let live_bytes = &self.shared.counters.live_bytes;
            let (mut former, mut interval) = (0, KEEPER_INTERVAL);
            while self.shared.supply.wait_for_need(interval) {
                if self.turn() {
                    std::thread::sleep(KEEPER_INTERVAL);
                }
                let found = live_bytes.load(Ordering::Relaxed);
                interval = if found == former { KEEPER_INTERVAL } else { KEEPER_INTERVAL_BUSY };
                former = found;
            }
        })
    }
}
