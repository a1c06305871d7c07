//! The data grid: named maps that mean what Hazelcast's maps mean, over a store of `hotrestart`.
//!
//! A [`Member`] has one store; its [`Map`]s are typed views of it. What exists so far: basic and
//! conditional operations, times to live, locks, the `compute` family, entry processors, listeners,
//! interceptors, statistics, and the user's own database, read through, written through or behind. What
//! will live here, too: eviction policy, configuration from `hazelcast.yaml`, other members and clients;
//! nothing here pretends to more than there is. A change that finds no room in the log waits for it on its
//! thread, up to the store's `put_timeout_ms`, with its partition: that is to become a wait at the key,
//! like any other.
//!
//! Inside: [`data`] (the bytes of keys and values), `partition` (whose turn it is at a key), `record` (what
//! is kept under one), `events` (who is told what happened), `stats` (what was done), `map` (operations),
//! `map_store` (the user's database), `sql` (map stores over tables, behind features), `member` (what holds
//! all of it).
//!
//! What this crate may know: maps, partitions, policies, the public API of `hotrestart`. What it must not
//! know: files, slots, and `unsafe`, which is forbidden here.
#![forbid(unsafe_code)]

mod caller;
pub mod data;
mod error;
mod events;
mod map;
mod map_store;
mod member;
mod partition;
mod record;
mod scratch;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod sql;
mod stats;
mod timers;
mod user;
mod varint;

pub use caller::Caller;
pub use error::{MapError, StartError};
pub use events::{EntryEventKind, EventConfig, ListenerId};
pub use map::blocking::Blocking;
pub use map::{DeadLetter, Entry, EntryEvent, EntryView, Lifetime, Listen, Map, MapEvent};
pub use map::{Interceptor, InterceptorError, InterceptorId};
pub use map_store::{BlockingMapStore, InitialMode, MapLoader, MapStore, MapStoreConfig};
pub use map_store::{Entries, OnThreads, Properties, StoreError};
pub use member::{Builder, MapConfig, Member};
pub use stats::{Latency, LocalMapStats};
