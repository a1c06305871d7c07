//! The parent's side of the kill: starts the child, shows its progress, ends it with SIGKILL.
//!
//! Owns the moment of the kill: the first time warm-up plus measured seconds after the child began to
//! overwrite, and up to a quarter of a second more, by the seed; later at any moment of a child's life. The
//! child is a group of its own, so that Ctrl-C reaches only the parent; an interrupt kills it early. Whatever
//! happens here, no child is left behind.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::Rng;

use super::table::{Stage, Table};
use crate::cli::settings::Settings;
use crate::failure::Failure;
use crate::report::progress;
use crate::system::interrupt;
use crate::workload::choice::thread_random;

/// The stream of the kill's own random numbers, apart from those of the workers.
const KILL_STREAM: u64 = u64::MAX;

/// Kills its child when dropped.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fills by a child process until the moment of the kill with this number; the child is dead afterwards.
pub fn fill_and_kill(settings: &Settings, table: &Table, kill: u32) -> Result<(), Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::environment(format!("cannot find this program itself: {error}"))
    })?;
    let text = serde_json::to_string(settings)
        .map_err(|error| Failure::environment(format!("cannot spell the settings: {error}")))?;
    let child = Command::new(&program)
        .arg("fill-until-killed")
        .args(["--settings", &text])
        .arg("--table")
        .arg(table.path())
        .args(["--parent", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(Failure::file("start", &program))?;
    let mut victim = Victim(child);
    await_loaded(&mut victim, table)?;
    await_moment(&mut victim, settings, kill)?;
    victim
        .0
        .kill()
        .map_err(|error| Failure::environment(format!("cannot kill the child: {error}")))?;
    let status = victim.0.wait();
    let status = status
        .map_err(|error| Failure::environment(format!("cannot wait for the child: {error}")))?;
    if status.signal() == Some(libc::SIGKILL) { Ok(()) } else { Err(Failure::Child { status }) }
}

fn await_loaded(victim: &mut Victim, table: &Table) -> Result<(), Failure> {
    let bar = progress::items("load", table.entries());
    while table.stage() == Stage::Loading && !interrupt::requested() {
        must_live(victim)?;
        bar.set_position(table.loaded());
        std::thread::sleep(Duration::from_millis(20));
    }
    bar.finish_and_clear();
    Ok(())
}

fn await_moment(victim: &mut Victim, settings: &Settings, kill: u32) -> Result<(), Failure> {
    let mut random = thread_random(settings.data.seed, KILL_STREAM - u64::from(kill));
    let late: f64 = random.random_range(0.0..0.25);
    let phase = &settings.phase;
    let overwriting = if phase.seconds > 0.0 { phase.warmup + phase.seconds } else { 0.0 };
    let wait = match kill {
        1 => overwriting + late,
        // The store is there: the child may still be opening it.
        _ => random.random_range(0.0..phase.seconds.max(0.1)),
    };
    let wait = Duration::from_secs_f64(wait);
    let bar = progress::time("overwrite", wait);
    let start = Instant::now();
    while start.elapsed() < wait && !interrupt::requested() {
        must_live(victim)?;
        bar.set_position(start.elapsed().as_millis() as u64);
        std::thread::sleep((wait - start.elapsed().min(wait)).min(Duration::from_millis(50)));
    }
    bar.finish_and_clear();
    Ok(())
}

fn must_live(victim: &mut Victim) -> Result<(), Failure> {
    match victim.0.try_wait() {
        Ok(None) => Ok(()),
        Ok(Some(status)) => Err(Failure::Child { status }),
        Err(error) => Err(Failure::environment(format!("cannot watch the child: {error}"))),
    }
}
