//! The store: nodes, streams, maps, and the order of steps in each operation.
//!
//! Reading order: `access.rs` (how bytes are reached), `read.rs`, `put.rs`, `remove.rs`, `clear.rs`,
//! `group.rs` with `stock.rs` (several changes at once); then `node.rs` and `room.rs` (memory of a put),
//! `detached.rs` (what was cleared), `movement.rs` and `movement_group.rs` (entries leave sparse pages),
//! `maps.rs` and `dropping.rs` (making and dropping maps), `apply.rs`, `fill.rs`, `facts.rs`, `voids.rs`,
//! `outlook.rs` (restart), `sweep.rs` (expiry), `iter.rs`, `census.rs` (statistics).

pub(crate) mod access;
pub(crate) mod apply;
pub(crate) mod census;
pub(crate) mod clear;
pub(crate) mod detached;
mod dropping;
pub(crate) mod facts;
pub(crate) mod fill;
pub(crate) mod group;
pub(crate) mod iter;
mod maps;
mod movement;
mod movement_group;
#[cfg(all(test, not(loom)))]
mod movement_group_tests;
pub(crate) mod node;
mod outlook;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod remove;
mod room;
pub(crate) mod stamps;
mod stock;
pub(crate) mod sweep;
pub(crate) mod voids;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

use crate::arena::layout::{Layout, STREAM_HEAD, SUPERBLOCK};
use crate::arena::numa::Topology;
use crate::arena::{Arena, Budget};
use crate::clock::Clock;
use crate::config::Builder;
use crate::error::{BuildError, Error};
use crate::hash::IndexHash;
use crate::ids::StreamId;
use crate::index::table::{TABLE_BYTES, Table};
use crate::log::{Log, NoLog};
use crate::reclaim::pin::{Pinned, Pins};
use crate::sync::{Mutex, RwLock, lock};
use access::Locked;
pub(crate) use maps::MapCore;
use maps::Maps;
use movement::Movement;
use node::{Node, Pass};

/// Where the superblock has the seed of the index hash.
const SEED_AT: u64 = 32;
/// Bytes that a superblock starts with.
const MAGIC: u64 = u64::from_le_bytes(*b"HDARENA1");

/// A store of maps in native memory. Cheap to clone: clones are the same store.
///
/// ```
/// use hdstore::{MapOptions, Store, codec::{Str, U64}};
/// let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
/// let ages = store.map::<Str, U64>("ages", MapOptions::default())?;
/// ages.insert("Ada", &36)?;
/// assert_eq!(ages.get_owned("Ada")?, Some(36));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Store<L: Log = NoLog> {
    pub(crate) inner: Arc<Inner<L>>,
}

impl<L: Log> Clone for Store<L> {
    fn clone(&self) -> Self {
        Store { inner: Arc::clone(&self.inner) }
    }
}

impl<L: Log> std::fmt::Debug for Store<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("streams", &self.inner.streams).finish_non_exhaustive()
    }
}

/// What all handles of a store share.
pub(crate) struct Inner<L: Log> {
    pub(crate) nodes: Vec<Node>,
    pub(crate) streams: u32,
    locks: Arc<[CachePadded<Mutex<()>>]>,
    pub(crate) hash: IndexHash,
    pub(crate) pins: Arc<Pins>,
    pub(crate) log: L,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) value_max_bytes: u64,
    maps: RwLock<Maps<L>>,
    /// Held by whoever makes or drops a map, also while the log writes it down.
    making: Mutex<()>,
    sweep: Mutex<sweep::Cursor>,
    /// Bytes that the log has charged for what it keeps in memory.
    pub(crate) log_bytes: AtomicU64,
}

/// A place in the store: one map, one stream.
pub(crate) struct Place<'a> {
    pub(crate) node: &'a Node,
    pub(crate) table: Table<'a>,
    pub(crate) stream: StreamId,
}

impl Store {
    /// Settings for a new store.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl<L: Log> Store<L> {
    pub(crate) fn new(builder: Builder, log: L) -> Result<Store<L>, BuildError> {
        let limit_bytes = builder.limit_bytes();
        let topology = builder.topology.clone().unwrap_or_else(Topology::detect);
        let count = topology.nodes().len();
        let streams_per_node = builder.streams.div_ceil(count as u32);
        let lanes = builder.lanes.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(8, usize::from).next_power_of_two().min(64)
        });
        let unreclaimed = builder.unreclaimed_max_bytes.unwrap_or((limit_bytes / 32).max(1 << 20));
        let budget = Arc::new(Budget::new(limit_bytes));
        let pins = Arc::new(Pins::new());
        let locks: Arc<[_]> =
            (0..builder.streams).map(|_| CachePadded::new(Mutex::new(()))).collect();
        let seed = builder.hash_seed.unwrap_or_else(random_seed);
        let mut nodes = Vec::with_capacity(count);
        for (index, numa) in topology.nodes().iter().enumerate() {
            let layout =
                Layout::new(limit_bytes, streams_per_node, builder.value_max_bytes() + 128 * 1024);
            let (bytes, fixed) =
                (layout.end, SUPERBLOCK + u64::from(streams_per_node) * STREAM_HEAD);
            let bind_to = topology.binds().then_some(numa.number);
            let arena =
                Arena::new(layout, Arc::clone(&budget), index as u32, bind_to, builder.page_kind())
                    .map_err(|source| BuildError::Reserve { bytes, source })?;
            let needed_bytes = fixed.next_multiple_of(4096);
            if !arena.commit_small(needed_bytes) {
                return Err(BuildError::LimitTooSmall { limit_bytes, needed_bytes });
            }
            for (word, value) in
                [MAGIC, 1, limit_bytes, u64::from(builder.streams), seed].into_iter().enumerate()
            {
                arena.word(word as u64 * 8).store(value, Relaxed);
            }
            let movement = Movement::new(Arc::clone(&locks), index, count);
            nodes.push(Node::new(arena, Arc::clone(&pins), movement, lanes, unreclaimed));
        }
        Ok(Store {
            inner: Arc::new(Inner {
                nodes,
                streams: builder.streams,
                locks,
                hash: IndexHash::new(seed),
                pins,
                log,
                clock: Arc::clone(&builder.clock),
                value_max_bytes: builder.value_max_bytes(),
                maps: RwLock::new(Maps::new()),
                making: Mutex::new(()),
                sweep: Mutex::new(sweep::Cursor::default()),
                log_bytes: AtomicU64::new(0),
            }),
        })
    }

    /// The log behind the store.
    pub fn log(&self) -> &L {
        &self.inner.log
    }

    /// Charges `bytes` that the log keeps elsewhere to the memory limit; false, and nothing charged, when
    /// they do not fit.
    #[must_use]
    pub fn charge_log(&self, bytes: u64) -> bool {
        let charged = self.inner.nodes[0].arena.budget().charge(bytes);
        if charged {
            self.inner.log_bytes.fetch_add(bytes, Relaxed);
        }
        charged
    }

    /// Takes a part of that charge back.
    ///
    /// # Panics
    /// When less was charged, in debug builds.
    pub fn refund_log(&self, bytes: u64) {
        let before = self.inner.log_bytes.fetch_sub(bytes, Relaxed);
        debug_assert!(before >= bytes, "refunded more than was charged");
        self.inner.nodes[0].arena.budget().refund(bytes);
    }

    /// Waits until every change that has its stream's lock has let it go; one that takes its lock later finds
    /// all that the caller had done before this call, in [`Log::settle`] as well. For who ends a log.
    pub fn await_changes(&self) {
        self.inner.all().for_each(|stream| drop(self.inner.lock_head(StreamId(stream))));
    }

    /// How many streams the store has.
    pub fn streams(&self) -> u32 {
        self.inner.streams
    }

    /// Ends what is due: frees memory that no reader can reach any more, empties sparse pages at the limit,
    /// and commits `ahead_bytes` of memory per node, so that puts need not. Call it from a thread of yours
    /// now and then; nothing depends on it but latency.
    pub fn maintain(&self, ahead_bytes: u64) {
        self.inner.bury_all();
        for node in &self.inner.nodes {
            node.take_apart(detached::BUCKETS_PER_ROUND);
            node.reclaim(Pass::All);
            node.move_ahead();
            let pages = ahead_bytes.div_ceil(crate::arena::layout::PAGE);
            node.slabs.pool.commit_ahead(&node.arena, pages);
        }
    }

    /// Gives up to `bytes` of free memory per node back to the system, and says how many were.
    pub fn give_back(&self, bytes: u64) -> u64 {
        self.inner.nodes.iter().map(|node| node.give_back(bytes)).sum()
    }
}

impl<L: Log> Inner<L> {
    /// The seed of the index hash.
    pub(crate) fn seed(&self) -> u64 {
        self.nodes[0].arena.word(SEED_AT).load(Relaxed)
    }

    /// The place of a map's keys in a stream.
    #[inline]
    pub(crate) fn place<'a>(&'a self, map: &MapCore<L>, stream: StreamId) -> Place<'a> {
        let (node_index, in_node) = self.node_of(stream);
        let node = &self.nodes[node_index];
        let table = Table::at(&node.arena, map.tables[node_index] + in_node * TABLE_BYTES);
        Place { node, table, stream }
    }

    /// Takes the lock of a place's stream.
    #[inline]
    pub(crate) fn lock_stream(&self, place: &Place<'_>) -> Locked<'_> {
        self.lock_head(place.stream)
    }

    /// Brings in what a change of the stream writes, which another core has had if it changed it last.
    #[inline]
    pub(crate) fn prefetch_head(&self, place: &Place<'_>) {
        let (node_index, in_node) = self.node_of(place.stream);
        let arena = &self.nodes[node_index].arena;
        Arena::prefetch_to_write(&raw const self.locks[place.stream.0 as usize]);
        Arena::prefetch_to_write(arena.word(arena.layout().streams + in_node * STREAM_HEAD));
    }

    /// Takes a stream's lock. A stream has its head also where no map is.
    #[inline]
    pub(crate) fn lock_head(&self, stream: StreamId) -> Locked<'_> {
        let (node_index, in_node) = self.node_of(stream);
        let guard = lock(&self.locks[stream.0 as usize]);
        Locked::new(&self.nodes[node_index].arena, in_node, guard)
    }

    /// The node of a stream, and its number there. One node, the usual case, costs no division.
    #[inline]
    fn node_of(&self, stream: StreamId) -> (usize, u64) {
        let count = self.nodes.len();
        if count == 1 {
            (0, u64::from(stream.0))
        } else {
            (stream.0 as usize % count, u64::from(stream.0) / count as u64)
        }
    }

    /// Pins the calling thread.
    #[inline]
    pub(crate) fn pin(&self) -> Pinned<'_> {
        self.pins.pin()
    }

    pub(crate) fn capacity(&self, node: &Node, needed_bytes: u64) -> Error {
        let budget = node.arena.budget();
        Error::Capacity {
            limit_bytes: budget.limit_bytes(),
            committed_bytes: budget.committed_bytes(),
            needed_bytes,
        }
    }

    /// All streams.
    pub(crate) fn all(&self) -> std::ops::Range<u32> {
        0..self.streams
    }

    pub(crate) fn check_stream(&self, stream: StreamId) -> Result<(), Error> {
        if stream.0 >= self.streams {
            return Err(Error::Stream { stream: stream.0, streams: self.streams });
        }
        Ok(())
    }
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's per-process random keys are the one source of randomness that needs no
    // dependency.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
