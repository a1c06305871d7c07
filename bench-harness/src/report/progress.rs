//! Progress bars on a terminal, nothing otherwise.
//!
//! Bars go to standard error, so that a piped table stays clean; without a terminal indicatif draws
//! nothing.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::units;

static SILENT: AtomicBool = AtomicBool::new(false);

/// Draws nothing from now on: the child of `restart` shares its parent's terminal.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

fn target() -> ProgressDrawTarget {
    if SILENT.load(Ordering::Relaxed) {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    }
}

/// A bar over a known amount of items.
pub fn items(name: &str, total: u64) -> ProgressBar {
    styled(name, total, "{msg:<12} {wide_bar} {human_pos}/{human_len} {rate} {eta}")
}

/// A bar over a known amount of bytes.
pub fn bytes(name: &str, total: u64) -> ProgressBar {
    styled(name, total, "{msg:<12} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// A bar over a known time, with a figure at its end.
pub fn time(name: &str, duration: Duration) -> ProgressBar {
    styled(name, duration.as_millis() as u64, "{msg:<12} {wide_bar} {prefix} {elapsed}")
}

/// A line that says what is going on.
pub fn step(name: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target());
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn styled(name: &str, total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), target());
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let rate = |state: &ProgressState, out: &mut dyn Write| {
        // A line that cannot be drawn is no reason to stop.
        let _ = out.write_str(&units::per_second(state.per_sec()));
    };
    bar.set_style(style.with_key("rate", rate).progress_chars("=> "));
    bar.set_message(name.to_owned());
    bar
}
