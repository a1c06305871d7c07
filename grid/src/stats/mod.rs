//! Local statistics of a map: what was done, how long it took, what there is.
//!
//! Called by the typed operations of `map/`. A count costs an addition in a line of the thread's own; one
//! operation in some 64, at random, reads the clock twice and takes a lock. A reader of
//! statistics sums up, with each partition's lock in turn for the locked keys.

mod counts;
mod timing;

use std::time::Duration;

pub(crate) use counts::{Counted, MapCounts};
pub(crate) use timing::Timings;

/// What is counted and timed for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    Get,
    Put,
    Set,
    Remove,
    Process,
}

impl Operation {
    pub(crate) const COUNT: usize = 5;
}

/// How long operations took, of one in some 64 of them, chosen at random. What they waited for a locked key
/// is in it. Values are rounded to 1 %.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Latency {
    /// How many were timed.
    pub samples: u64,
    /// Half of them took at most so long.
    pub p50: Duration,
    /// 90 % of them took at most so long.
    pub p90: Duration,
    /// 99 % of them took at most so long.
    pub p99: Duration,
    /// 99.9 % of them took at most so long.
    pub p99_9: Duration,
    /// The longest of them. Those that were not timed may have taken longer.
    pub max: Duration,
}

/// What a map of this member did since it was opened, and what it has: Hazelcast's `LocalMapStats`, with
/// percentiles instead of averages. Counts of one thread's operations are in it when they have returned.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LocalMapStats {
    /// Entries; those that have expired count until they are swept.
    pub owned_entry_count: u64,
    /// Bytes of keys and values, with what is kept of each entry.
    pub owned_entry_bytes: u64,
    /// Bytes of memory for the entries, with their slots' unused rest, and for the index.
    pub owned_entry_memory_cost: u64,
    /// Keys that are locked.
    pub locked_entry_count: u64,
    /// Changes that wait for the map's database, those that are set aside included.
    #[doc(alias = "getDirtyEntryCount")]
    pub dirty_entry_count: u64,
    /// Changes that are set aside: [`crate::Map::dead_letters`].
    pub dead_letter_count: u64,
    /// How often the database refused a change that waited.
    pub map_store_refusal_count: u64,
    /// Gets, each key of a [`crate::Map::get_all`] for itself.
    pub get_operation_count: u64,
    /// Gets that found an entry.
    pub hits: u64,
    /// Operations that put a value and look at the one before: put, `put_if_absent`, replace, `try_put`.
    pub put_operation_count: u64,
    /// Sets, each key of a [`crate::Map::set_all`] for itself.
    pub set_operation_count: u64,
    /// Operations that remove a key, whether it was there or not.
    pub remove_operation_count: u64,
    /// Runs of entry processors and of the `compute` family, each key for itself. What they change counts as
    /// nothing else.
    pub process_operation_count: u64,
    /// Events that were queued for listeners.
    pub event_count: u64,
    /// How long gets took.
    pub get_latency: Latency,
    /// How long puts took.
    pub put_latency: Latency,
    /// How long sets took.
    pub set_latency: Latency,
    /// How long removals took.
    pub remove_latency: Latency,
    /// How long runs of entry processors took, with the user's code.
    pub process_latency: Latency,
}
