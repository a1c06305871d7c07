//! What must happen without a caller: leases and waits that end, entries that have expired.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::Inner;
use crate::error::StartError;

/// How often entries are looked at that may have expired.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How many of them each time.
const SWEEP_BUDGET: u64 = 20_000;

/// The thread that keeps a member up.
#[derive(Debug)]
pub(super) struct Upkeep {
    thread: Option<JoinHandle<()>>,
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}

impl Upkeep {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Upkeep, StartError> {
        let shared = Arc::clone(inner);
        let run = move || {
            let now_ms = || shared.clock.monotonic_ms();
            while shared.partitions.timers().sleep(now_ms, SWEEP_INTERVAL) {
                step(&shared);
            }
        };
        let thread = spawn("hd-upkeep".to_owned(), run)?;
        Ok(Upkeep { thread: Some(thread), inner: Arc::clone(inner) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.inner.partitions.timers().stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A thread of a member.
pub(super) fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let thread = std::thread::Builder::new().name(name.clone()).spawn(run);
    thread.map_err(|source| StartError::Thread { name, source })
}

/// Does what is due.
pub(super) fn step(inner: &Inner) {
    inner.partitions.tick();
    if let Err(error) = inner.store.memory().sweep(inner.clock.wall_ms(), SWEEP_BUDGET) {
        tracing::debug!(%error, "entries that have expired still have their memory");
    }
}
