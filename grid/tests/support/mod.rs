//! A member over a directory that goes with it, and a clock that stands still.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdgrid::{Builder, EventConfig, MapConfig, Member};
use hotrestart::{Clock, ManualClock};
use tempfile::TempDir;

pub type Text = String;

/// Where the clock stands at first, in milliseconds.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// Waits until something holds that others bring about.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub struct Bed {
    directory: TempDir,
    configure: Box<dyn Fn(Builder) -> Builder>,
    clock: Arc<ManualClock>,
    member: Option<Member>,
}

impl Bed {
    pub fn new() -> Bed {
        Bed::with(|builder| builder)
    }

    pub fn with_events(events: EventConfig) -> Bed {
        Bed::with(move |builder| builder.events(events))
    }

    /// With more than the settings of all.
    pub fn with(configure: impl Fn(Builder) -> Builder + 'static) -> Bed {
        let configure = Box::new(configure);
        let directory = tempfile::tempdir().expect("a directory");
        let clock = Arc::new(ManualClock::new(BEGIN_MS));
        let mut bed = Bed { directory, configure, clock, member: None };
        bed.start();
        bed
    }

    pub fn member(&self) -> &Member {
        self.member.as_ref().expect("started")
    }

    /// Stops the member, and starts it again over what it left.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Has time pass, and what is due be done.
    pub fn pass(&self, time: Duration) {
        self.clock.advance_ms(time.as_millis() as u64);
        self.member().step();
    }

    /// Starts a member that was stopped.
    pub fn restart_stopped(&mut self) {
        assert!(self.member.is_none(), "it runs");
        self.start();
    }

    /// Stops the member.
    pub fn stop(&mut self) {
        self.member.take().expect("started").shutdown().expect("closed");
    }

    pub fn now_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    fn builder(&self) -> Builder {
        let map = MapConfig::default();
        Member::builder(self.directory.path())
            .store(|store| store.memory_limit_bytes(64 << 20).chunk_bytes(1 << 20))
            .partition_count(13)
            .map("with times", MapConfig { per_entry_stats: true, ..map })
            .map("of a minute", MapConfig { time_to_live: Duration::from_secs(60), ..map })
            .clock(Arc::clone(&self.clock) as Arc<dyn Clock>)
            .without_thread()
    }

    fn start(&mut self) {
        self.member = Some((self.configure)(self.builder()).start().expect("started"));
    }
}
