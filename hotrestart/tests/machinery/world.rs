//! The world of a simulated store: disk, shared memory, boot and clock, and the ways in which it ends.
//!
//! Invariant: a world that is made from another one's moment shares nothing with it that changes. All that is
//! random comes from seeds.

use std::sync::Arc;

use hotrestart::hdstore::ManualClock;
use hotrestart::io::sim::{FaultPlan, Moment, SimDisk};
use hotrestart::{Builder, Durability, OpenError, SharedRegions, Stepper, Store, copy_regions};

pub const STREAMS: u32 = 4;
/// When every script begins, in milliseconds since 1970.
pub const BEGIN_MS: u64 = 1_000_000;

/// Numbers from a seed (xorshift*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.below(1 << 20);
        random
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    pub fn one_in(&mut self, limit: u64) -> bool {
        self.below(limit) == 0
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process dies: what completed is kept, and so is shared memory.
    Process,
    /// The kernel dies, and the device keeps all that it has taken.
    Kernel,
    /// The power goes, and with it everything that was not flushed.
    PowerTakesAll,
    /// The power goes, and takes any part of what was not flushed, torn at so many bytes.
    PowerTakesSome(usize),
}

impl End {
    pub fn random(random: &mut Random) -> End {
        match random.below(6) {
            0 | 1 => End::Process,
            2 => End::Kernel,
            3 => End::PowerTakesAll,
            4 => End::PowerTakesSome(512),
            _ => End::PowerTakesSome(4096),
        }
    }

    pub fn is_power(self) -> bool {
        self != End::Process
    }

    /// The least durability whose acknowledgement survives it.
    pub fn least(self) -> Durability {
        match self {
            End::Process => Durability::Buffered,
            End::Kernel => Durability::Written,
            End::PowerTakesAll | End::PowerTakesSome(_) => Durability::Synced,
        }
    }

    fn plan(self) -> FaultPlan {
        let (lose_permille, tear_permille, lose_name_permille, tear_unit) = match self {
            End::Process => (0, 0, 0, 512),
            End::Kernel => (0, 0, 500, 512),
            End::PowerTakesAll => (1_000, 0, 1_000, 512),
            End::PowerTakesSome(unit) => (500, 300, 500, unit),
        };
        FaultPlan {
            lose_permille,
            tear_permille,
            lose_name_permille,
            tear_unit,
            ..FaultPlan::unruly()
        }
    }
}

/// A machine with a store's directory.
#[derive(Clone, Debug)]
pub struct World {
    pub disk: SimDisk,
    pub regions: SharedRegions,
    pub clock: Arc<ManualClock>,
    boot: u8,
}

impl World {
    pub fn new(seed: u64) -> World {
        let disk = SimDisk::new(seed);
        disk.set_plan(FaultPlan::unruly());
        let clock = Arc::new(ManualClock::new(BEGIN_MS));
        World { disk, regions: SharedRegions::default(), clock, boot: 1 }
    }

    /// The time, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        use hotrestart::hdstore::Clock;
        self.clock.wall_ms()
    }

    /// The world after it ended at a moment of its disk.
    pub fn after(&self, moment: &Moment<'_>, end: End, seed: u64) -> World {
        self.next(moment.crash(end.is_power(), &end.plan(), seed), end)
    }

    /// The world after it ended now; this one's disk is dead.
    pub fn end(&self, end: End) -> World {
        self.disk.set_plan(end.plan());
        self.next(self.disk.crash(end.is_power()), end)
    }

    fn next(&self, disk: SimDisk, end: End) -> World {
        disk.set_plan(end.plan());
        let clock = Arc::new(ManualClock::new(self.now_ms()));
        let (regions, boot) = if end.is_power() {
            (SharedRegions::default(), self.boot + 1)
        } else {
            (copy_regions(&self.regions), self.boot)
        };
        World { disk, regions, clock, boot }
    }

    pub fn builder(&self, writers: u32, loaders: usize) -> Builder {
        Store::builder()
            .memory_limit_bytes(32 << 20)
            .streams(STREAMS)
            .writers(writers)
            .loader_threads(loaders)
            .chunk_bytes(256 << 10)
            .buffers_per_writer(8)
            .write_interval_ms(15)
            .flush_interval_ms(50)
            .put_timeout_ms(0)
            .ack_timeout_ms(0)
            .surveys_often(true)
            .clock(Arc::clone(&self.clock))
            .simulated(Arc::new(self.disk.clone()), Arc::clone(&self.regions), [self.boot; 16])
    }

    /// A stepper under whose turns this world's time passes.
    pub fn stepper(&self, seed: u64) -> Stepper {
        let (clock, mut random) = (Arc::clone(&self.clock), Random::new(seed));
        Stepper::new(seed, move || clock.advance_ms(random.below(2)))
    }

    pub fn open(
        &self,
        stepper: &mut Stepper,
        writers: u32,
        loaders: usize,
    ) -> Result<Store, OpenError> {
        stepper.open(self.builder(writers, loaders), "/simulated")
    }
}
