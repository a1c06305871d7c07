//! The store: nodes, streams, maps, and the order of steps in each operation.
//!
//! Reading order: `access.rs` (how bytes are reached), `read.rs`, `put.rs`, `remove.rs`; then `node.rs`
//! (memory of a put), `apply.rs`, `fill.rs`, `facts.rs` (restart), `sweep.rs` (expiry), `iter.rs`,
//! `census.rs` (statistics).

pub(crate) mod access;
pub(crate) mod apply;
pub(crate) mod census;
pub(crate) mod facts;
pub(crate) mod fill;
pub(crate) mod iter;
pub(crate) mod node;
pub(crate) mod put;
pub(crate) mod read;
pub(crate) mod remove;
pub(crate) mod stamps;
pub(crate) mod sweep;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

use crate::arena::layout::{Layout, MAPS_MAX, STREAM_HEAD, SUPERBLOCK};
use crate::arena::numa::Topology;
use crate::arena::{Arena, Budget};
use crate::clock::Clock;
use crate::config::Builder;
use crate::error::{BuildError, Error};
use crate::hash::IndexHash;
use crate::ids::{Location, MapId, StreamId};
use crate::index::table::{TABLE_BYTES, Table};
use crate::log::{Log, MapSpec, NoLog};
use crate::reclaim::pin::{Pinned, Pins};
use crate::sync::{Mutex, RwLock, lock};
use access::Locked;
use node::Node;

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
    locks: Box<[CachePadded<Mutex<()>>]>,
    pub(crate) hash: IndexHash,
    pub(crate) pins: Arc<Pins>,
    pub(crate) log: L,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) value_max_bytes: u64,
    maps: RwLock<Maps<L>>,
    sweep: Mutex<sweep::Cursor>,
    /// Bytes that the log has charged for what it keeps in memory.
    pub(crate) log_bytes: AtomicU64,
}

struct Maps<L: Log> {
    by_name: HashMap<String, Arc<MapCore<L>>>,
    in_order: Vec<Arc<MapCore<L>>>,
    next_id: u32,
    /// Bytes of the map table that are charged, per node.
    table_bytes: u64,
}

/// A map, without the types of its keys and values.
pub(crate) struct MapCore<L: Log> {
    pub(crate) spec: MapSpec<L::Level>,
    /// Per node, where the map's table headers start.
    tables: Vec<u64>,
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
            nodes.push(Node::new(arena, Arc::clone(&pins), lanes, unreclaimed));
        }
        Ok(Store {
            inner: Arc::new(Inner {
                nodes,
                streams: builder.streams,
                locks: (0..builder.streams).map(|_| CachePadded::new(Mutex::new(()))).collect(),
                hash: IndexHash::new(seed),
                pins,
                log,
                clock: Arc::clone(&builder.clock),
                value_max_bytes: builder.value_max_bytes(),
                maps: RwLock::new(Maps {
                    by_name: HashMap::new(),
                    in_order: Vec::new(),
                    next_id: 1,
                    table_bytes: 0,
                }),
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

    /// How many streams the store has.
    pub fn streams(&self) -> u32 {
        self.inner.streams
    }

    /// Ends what is due: frees memory that no reader can reach any more, and commits `ahead_bytes` of memory
    /// per node, so that puts need not. Call it from a thread of yours now and then; nothing depends on it
    /// but latency.
    pub fn maintain(&self, ahead_bytes: u64) {
        for node in &self.inner.nodes {
            node.reclaim(true);
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
    /// Opens a map by name, making it when it is not there.
    pub(crate) fn open_map(
        &self,
        name: &str,
        key_type: &str,
        value_type: &str,
        level: L::Level,
    ) -> Result<Arc<MapCore<L>>, Error> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::MapName { len: name.len() });
        }
        let mut maps = self.maps.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(core) = maps.by_name.get(name) {
            let (expected, found) = (
                format!("{} to {}", core.spec.key_type, core.spec.value_type),
                format!("{key_type} to {value_type}"),
            );
            if expected != found {
                return Err(Error::MapType { name: name.to_owned(), expected, found });
            }
            return Ok(Arc::clone(core));
        }
        let spec = MapSpec {
            id: MapId(maps.next_id),
            name: name.to_owned(),
            key_type: key_type.to_owned(),
            value_type: value_type.to_owned(),
            level,
        };
        let core = self.make_map(&mut maps, spec)?;
        if let Err(source) = self.log.create_map(&core.spec) {
            self.unmake_tables(core.spec.id, &core.tables);
            return Err(Error::Log(source));
        }
        Self::enter(&mut maps, Arc::clone(&core));
        Ok(core)
    }

    /// Enters a map that the log knows, before anything is applied to it.
    pub(crate) fn restore_map(&self, spec: MapSpec<L::Level>) -> Result<(), Error> {
        let mut maps = self.maps.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let core = self.make_map(&mut maps, spec)?;
        Self::enter(&mut maps, core);
        Ok(())
    }

    fn enter(maps: &mut Maps<L>, core: Arc<MapCore<L>>) {
        maps.next_id = maps.next_id.max(core.spec.id.0 + 1);
        maps.by_name.insert(core.spec.name.clone(), Arc::clone(&core));
        maps.in_order.push(core);
    }

    fn make_map(
        &self,
        maps: &mut Maps<L>,
        spec: MapSpec<L::Level>,
    ) -> Result<Arc<MapCore<L>>, Error> {
        if u64::from(spec.id.0) >= MAPS_MAX {
            return Err(Error::TooManyMaps { max: MAPS_MAX });
        }
        let table_bytes = map_table_bytes(spec.id);
        let more = table_bytes.saturating_sub(maps.table_bytes);
        for (index, node) in self.nodes.iter().enumerate() {
            if !node.arena.commit_small(more) {
                self.nodes[..index].iter().for_each(|charged| charged.arena.uncommit_small(more));
                return Err(self.capacity(node, more));
            }
        }
        maps.table_bytes += more;
        let per_node = u64::from(self.streams.div_ceil(self.nodes.len() as u32));
        let mut tables = Vec::with_capacity(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            let bytes = per_node * TABLE_BYTES;
            let Some(base) = node.take_tables(bytes) else {
                self.unmake_tables(spec.id, &tables);
                return Err(self.capacity(node, bytes));
            };
            for in_node in 0..per_node {
                let stream = StreamId((in_node * self.nodes.len() as u64) as u32 + index as u32);
                Table::at(&node.arena, base + in_node * TABLE_BYTES).create(spec.id, stream);
            }
            let map_word = node.arena.layout().maps + u64::from(spec.id.0) * 8;
            node.arena.word(map_word).store(base, Relaxed);
            tables.push(base);
        }
        Ok(Arc::new(MapCore { spec, tables }))
    }

    /// Gives the tables of a map back that nobody has seen.
    fn unmake_tables(&self, map: MapId, tables: &[u64]) {
        for (node, base) in self.nodes.iter().zip(tables) {
            let map_word = node.arena.layout().maps + u64::from(map.0) * 8;
            node.arena.word(map_word).store(0, Relaxed);
            node.free_now(Location::from_offset(*base));
        }
    }

    /// Bytes of the map table that are charged, per node.
    pub(crate) fn map_table_bytes(&self) -> u64 {
        self.maps.read().unwrap_or_else(std::sync::PoisonError::into_inner).table_bytes
    }

    /// All maps, in the order in which they were made or restored.
    pub(crate) fn all_maps(&self) -> Vec<Arc<MapCore<L>>> {
        self.maps.read().unwrap_or_else(std::sync::PoisonError::into_inner).in_order.clone()
    }

    /// The seed of the index hash.
    pub(crate) fn seed(&self) -> u64 {
        self.nodes[0].arena.word(SEED_AT).load(Relaxed)
    }

    /// The place of a map's keys in a stream.
    #[inline]
    pub(crate) fn place<'a>(&'a self, map: &MapCore<L>, stream: StreamId) -> Place<'a> {
        let count = self.nodes.len();
        let (node_index, in_node) = if count == 1 {
            (0, u64::from(stream.0))
        } else {
            (stream.0 as usize % count, u64::from(stream.0) / count as u64)
        };
        let node = &self.nodes[node_index];
        let table = Table::at(&node.arena, map.tables[node_index] + in_node * TABLE_BYTES);
        Place { node, table, stream }
    }

    /// Takes a stream's lock.
    #[inline]
    pub(crate) fn lock_stream(&self, place: &Place<'_>) -> Locked<'_> {
        let count = self.nodes.len();
        let node = &self.nodes[place.stream.0 as usize % count];
        let guard = lock(&self.locks[place.stream.0 as usize]);
        Locked::new(&node.arena, u64::from(place.stream.0) / count as u64, guard)
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

    pub(crate) fn check_stream(&self, stream: StreamId) -> Result<(), Error> {
        if stream.0 >= self.streams {
            return Err(Error::Stream { stream: stream.0, streams: self.streams });
        }
        Ok(())
    }
}

/// Bytes of the map table up to a map's word, in whole pages.
fn map_table_bytes(id: MapId) -> u64 {
    ((u64::from(id.0) + 1) * 8).next_multiple_of(4096)
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's per-process random keys are the one source of randomness that needs no
    // dependency.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
