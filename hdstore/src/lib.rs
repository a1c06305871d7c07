//! Maps of hundreds of gigabytes in native memory, outside every allocator, at memory speed.
//!
//! ```
//! use hdstore::{MapOptions, Store, codec::{Bytes, Str}};
//!
//! let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
//! let map = store.map::<Str, Bytes>("greetings", MapOptions::default())?;
//! map.insert("en", b"hello")?;
//! assert_eq!(map.get("en")?.expect("just put").value()?, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - One hard limit holds for everything, metadata included ([`Builder::memory_limit_bytes`]);
//!   [`Store::stats`] accounts for every byte. `docs/memory.md` has the formula.
//! - Readers never lock and never wait. Writers wait only for each other, per stream.
//! - No threads, no runtime, no files, no global allocator. For a store that survives, see the crate
//!   `hotrestart`.
//!
//! Inside, from the bottom up: `arena` (address space and pages), `slab` (slots), `entry` (bytes of a slot),
//! `index` (from hash to slot), `reclaim` (when a slot is free), `store` (the order of steps), `map` (types).
//! The formats stand in `docs/format.md`.

mod arena;
mod clock;
pub mod codec;
mod config;
mod entry;
mod error;
mod hash;
mod ids;
mod index;
mod log;
mod map;
mod reclaim;
mod slab;
mod store;
mod sync;

pub use arena::CommittedBytes;
pub use arena::numa::{NumaNode, Topology};
pub use arena::os::PageKind;
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{Builder, HugePages, MAPS_LIMIT, MEMORY_LIMIT_MAX, MEMORY_LIMIT_MIN, STREAMS_MAX};
pub use entry::layout::{KEY_MAX, VALUE_MAX};
pub use error::{BuildError, Error};
pub use hash::IndexHash;
pub use ids::{MapId, Seq, StreamId};
pub use log::{Change, Log, LogError, MapSpec, NoLog, Placement};
pub use map::batch::{PutManyError, ReadBatch};
pub use map::entry::{Entry, OccupiedEntry, VacantEntry};
pub use map::group::{Group, GroupOutcome};
pub use map::guard::Ref;
pub use map::read::Iter;
pub use map::{Map, MapOptions};
pub use store::Store;
pub use store::apply::{Applied, Loading};
pub use store::census::{MapStats, Stats};
pub use store::fill::{Filling, Outline};
pub use store::group::GROUP_CHANGES_MAX;
pub use store::stamps::{Current, Stamp, Stamps};
pub use store::sweep::SweepReport;
