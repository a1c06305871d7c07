//! Where calls of users' stores run: on a `tokio` runtime, the member's own or one that it was given.
//!
//! Invariant: a call that has begun runs to its end, whether or not anybody waits for it, so that a database
//! and the map over it do not part ways because a caller went away; a member that stops waits for it. The
//! runtime of its own is made when it is needed first.

use std::future::Future;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// Threads of a runtime of its own: they only wait, as a rule.
const THREADS: usize = 2;

/// Runs calls.
pub(crate) struct Calls {
    handle: OnceLock<Handle>,
    own: Mutex<Option<Runtime>>,
    under_way: Mutex<u64>,
    ended: Condvar,
}

/// Why a call has no outcome.
#[derive(Debug)]
pub(crate) enum NoOutcome {
    /// It panicked.
    Panicked(String),
    /// The runtime was stopped, or could not be made.
    Stopped(String),
}

/// A call under way.
struct UnderWay(Arc<Calls>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self.0.under_way() -= 1;
        self.0.ended.notify_all();
    }
}

impl Calls {
    /// Of a runtime of the user's, or of one of its own.
    pub(crate) fn new(handle: Option<Handle>) -> Calls {
        let handle = handle.map(OnceLock::from).unwrap_or_default();
        Calls { handle, own: Mutex::default(), under_way: Mutex::default(), ended: Condvar::new() }
    }

    /// What a call came to.
    pub(crate) async fn outcome<T>(task: JoinHandle<T>) -> Result<T, NoOutcome> {
        task.await.map_err(|error| match error.try_into_panic() {
            Ok(panic) => NoOutcome::Panicked(message(&*panic)),
            Err(error) => NoOutcome::Stopped(error.to_string()),
        })
    }

    /// Has a call run for itself.
    pub(crate) fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<JoinHandle<T>, NoOutcome> {
        let handle = self.handle()?;
        *self.under_way() += 1;
        let under_way = UnderWay(Arc::clone(self));
        Ok(handle.spawn(async move {
            let _under_way = under_way;
            call.await
        }))
    }

    /// Waits until nothing is under way, so long at most; how many calls still are.
    pub(crate) fn drain(&self, at_most: Duration) -> u64 {
        let deadline = Instant::now() + at_most;
        let mut under_way = self.under_way();
        while *under_way > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.ended.wait_timeout(under_way, left);
            under_way = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *under_way
    }

    fn handle(&self) -> Result<&Handle, NoOutcome> {
        if let Some(handle) = self.handle.get() {
            return Ok(handle);
        }
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.is_none() {
            let mut builder = Builder::new_multi_thread();
            let built =
                builder.worker_threads(THREADS).thread_name("hd-map-store").enable_all().build();
            *own = Some(built.map_err(|error| NoOutcome::Stopped(error.to_string()))?);
        }
        Ok(self.handle.get_or_init(|| own.as_ref().expect("just made").handle().clone()))
    }

    fn under_way(&self) -> MutexGuard<'_, u64> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        // Dropped as it is it would wait for its threads, which tasks of other runtimes must not.
        if let Some(own) = self.own.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            own.shutdown_background();
        }
    }
}

/// What a panic said.
pub(crate) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "?".to_owned())
}
