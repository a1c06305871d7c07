//! The latch for I/O failures of unknown extent: the first one stays, and nothing is acknowledged after it.

use std::sync::{Arc, OnceLock};

use crate::durability::LogFailure;
use crate::io::IoError;

/// The latch. Reading it costs one load.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    first: OnceLock<Arc<IoError>>,
}

impl Poison {
    /// Latches a failure, unless there was one before.
    pub(crate) fn set(&self, error: IoError) {
        if self.first.set(Arc::new(error)).is_ok()
            && let Some(first) = self.first.get()
        {
            tracing::error!(%first, "the log is poisoned: nothing is acknowledged from now on");
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> Option<&Arc<IoError>> {
        self.first.get()
    }

    #[inline]
    pub(crate) fn check(&self) -> Result<(), LogFailure> {
        match self.first.get() {
            None => Ok(()),
            Some(first) => Err(LogFailure::Poisoned { first: Arc::clone(first) }),
        }
    }
}
