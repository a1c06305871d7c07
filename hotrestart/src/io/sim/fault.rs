//! What the simulated disk does wrong: chances for every operation and crash, and faults of single calls.
//!
//! Invariant: a plan is data; with the disk's seed it determines every answer. Tests and the simulator
//! set it.

use crate::io::IoOperation;

/// The chances and the planned faults of a simulated disk. Chances are per thousand.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// At a power loss, the chance of each unflushed write to be lost.
    pub lose_permille: u32,
    /// At a power loss, the chance of each other unflushed write to keep only some of its units.
    pub tear_permille: u32,
    /// The unit of tearing: 512 or 4096 bytes.
    pub tear_unit: usize,
    /// At a power loss, the chance of each unsynced change of a name to be lost.
    pub lose_name_permille: u32,
    /// Whether operations complete in any order.
    pub reorder: bool,
    /// The chance of an operation not to be ready at a poll.
    pub delay_permille: u32,
    /// The chance of a transfer to be short (and to be resumed within the queue).
    pub short_permille: u32,
    /// Faults of single calls.
    pub faults: Vec<PlannedFault>,
}

/// The fault of one call.
#[derive(Clone, Debug)]
pub struct PlannedFault {
    /// Which calls are counted.
    pub operation: IoOperation,
    /// Which of them it befalls, from 0, counted since the plan was set.
    pub nth: u64,
    /// What happens.
    pub fault: Fault,
}

/// What may happen to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The system's call fails with this errno. EINTR and EAGAIN of a transfer are retried within the
    /// queue; after any other errno of a write, any of its units may have been written.
    Errno(i32),
    /// A transfer moves only some of its bytes, and is resumed within the queue.
    Short,
    /// A flush fails, and what it should have made durable is gone.
    FlushLosesData,
    /// A write succeeds, elsewhere in the file; in a file without another place it is dropped.
    Misdirect,
}

impl Default for FaultPlan {
    /// Nothing goes wrong before a crash; a power loss loses about half of what was not flushed and tears
    /// some.
    fn default() -> FaultPlan {
        FaultPlan {
            lose_permille: 500,
            tear_permille: 250,
            tear_unit: 512,
            lose_name_permille: 500,
            reorder: false,
            delay_permille: 0,
            short_permille: 0,
            faults: Vec::new(),
        }
    }
}

impl FaultPlan {
    /// A disk that also reorders, delays and shortens whatever it may.
    #[must_use]
    pub fn unruly() -> FaultPlan {
        FaultPlan {
            reorder: true,
            delay_permille: 300,
            short_permille: 100,
            ..FaultPlan::default()
        }
    }

    /// This plan with one more fault.
    #[must_use]
    pub fn with(mut self, operation: IoOperation, nth: u64, fault: Fault) -> FaultPlan {
        self.faults.push(PlannedFault { operation, nth, fault });
        self
    }
}
