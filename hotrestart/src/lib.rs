//! A store of maps in native memory, mirrored to SSDs, that comes back after a crash as fast as the disk
//! can be read.
//!
//! ```
//! use hotrestart::{Durability, MapOptions, Store, codec::{Bytes, Str}};
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path();
//! let store = Store::builder().memory_limit_bytes(64 << 20).open(path)?;
//! let map = store.map::<Str, Bytes>("orders", MapOptions::default().durability(Durability::Synced))?;
//! map.insert("A-1", b"two coffees")?;
//! drop((map, store));
//!
//! let store = Store::builder().memory_limit_bytes(64 << 20).open(path)?;
//! let map = store.map::<Str, Bytes>("orders", MapOptions::default())?;
//! assert_eq!(map.get_owned("A-1")?.as_deref(), Some(&b"two coffees"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | acknowledged as | survives |
//! | --- | --- |
//! | [`Durability::Buffered`] | the death of the process; a power cut costs at most the last second |
//! | [`Durability::Written`] | and that of the kernel, if the device keeps what it has taken |
//! | [`Durability::Synced`] | and a power cut |
//!
//! What comes back is a prefix of each stream's history, unless damage is passed over
//! ([`RecoveryMode::Salvage`]). The maps are those of [`hdstore`];
//! reading is as fast as there. `docs/durability.md` and `docs/restart.md` have the rules,
//! `docs/format.md` the bytes.
//!
//! Inside: `format` (bytes), `io` (disks), `buffers` (log buffers), `chunks` (their files), `writer` (state
//! machines and their threads), `compact` (garbage), `dir` (lock and manifest), `log` and `group` (the
//! seam to `hdstore`), `restart` (the fold), `store` (opening and closing), `inspect` (reading a store
//! offline).

mod buffers;
mod chunks;
mod clears;
mod compact;
mod config;
mod dir;
mod durability;
mod error;
pub mod format;
mod group;
mod holds;
pub mod inspect;
pub mod io;
mod keep;
mod log;
mod poison;
mod record_room;
mod restart;
mod runs;
mod store;
mod sync;
mod writer;

pub use buffers::place::SharedRegions;
#[doc(hidden)]
pub use buffers::place::copy_regions;
pub use config::{Builder, RecoveryMode};
pub use durability::{Durability, LogFailure};
pub use error::{CloseError, OpenError, Problem};
pub use format::HoldId;
pub use hdstore::{
    self, BuildError, Clock, Error, GROUP_CHANGES_MAX, GroupOutcome, HugePages, ManualClock,
    MapOptions, Placement, PutManyError, ReadBatch, Ref, StreamId, Topology, codec,
};
pub use io::{Fill, IoChoice, IoKind};
pub use log::DiskLog;
pub use restart::report::{Cut, Progress, RecoveryReport};
pub use store::hold::{HeldFile, Hold, HoldError, HoldSummary};
#[doc(hidden)]
pub use store::stepper::Stepper;
pub use store::waiters::Persisted;
pub use store::{Group, Map, Stats, Store};
