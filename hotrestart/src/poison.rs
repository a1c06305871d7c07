//! The latch for I/O failures of unknown extent, and for ends that leave changes behind: the first one stays,
//! and nothing is acknowledged after it.

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
        if self.latch(error)
            && let Some(first) = self.first.get()
        {
            tracing::error!(%first, "the log is poisoned: nothing is acknowledged from now on");
        }
    }

    /// The same of an end that nobody need be told of. Whether it is the first.
    pub(crate) fn latch(&self, error: IoError) -> bool {
        self.first.set(Arc::new(error)).is_ok()
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
