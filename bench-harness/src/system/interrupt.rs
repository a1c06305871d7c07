//! Ctrl-C: the first asks for a partial report, the second ends the process.
//!
//! Owns one flag for the whole process. Commands look at it between steps of at most a tenth of a second.

use std::io;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));

/// Installs the handlers; called once by `main`.
pub fn install() -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // Registered first, so that only the second signal finds the flag set.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&INTERRUPTED))?;
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    Ok(())
}

/// True once the user has asked to stop.
pub fn requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
