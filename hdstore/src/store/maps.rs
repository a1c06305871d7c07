//! Maps: made, restored, listed.
//!
//! Invariant: a map's number is given once and never again; its place in the map table is used again when the
//! map was dropped and its last handle is gone. Making a map either succeeds as a whole or leaves nothing.
//! Callers: opening a map by name, restart, statistics. Cost of making one: 64 bytes for each stream. One
//! lock guards all of it; puts and gets do not take it, and nobody waits under it, neither for memory, which
//! whoever makes a map takes first, nor for the log, which may wait for a disk. A second lock, taken before
//! that one, lets one thread at a time make or drop a map, its wait for the log included: so a map of a name
//! is made once, and the log hears of maps in the order of their numbers. A map is entered, and can be
//! changed, once the log knows it. What may go wrong: no memory, a log that refuses.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, Ordering::Relaxed};

use super::Inner;
use super::dropping::Grave;
use crate::arena::layout::MAPS_MAX;
use crate::error::Error;
use crate::ids::{Location, MapId, StreamId};
use crate::index::table::{TABLE_BYTES, Table};
use crate::log::{Log, MapSpec, Placement};
use crate::sync::lock;

/// All maps of a store.
pub(super) struct Maps<L: Log> {
    pub(super) by_name: HashMap<String, Arc<MapCore<L>>>,
    pub(super) in_order: Vec<Arc<MapCore<L>>>,
    /// Dropped maps of which something is left.
    pub(super) graves: Vec<Grave<L>>,
    next_id: u32,
    /// Places of the map table below the first that was never used, and are free: the lowest first.
    pub(super) free_slots: BinaryHeap<Reverse<u32>>,
    next_slot: u32,
    /// Bytes of the map table that are charged, per node.
    table_bytes: u64,
}

impl<L: Log> Maps<L> {
    pub(super) fn new() -> Maps<L> {
        Maps {
            by_name: HashMap::new(),
            in_order: Vec::new(),
            graves: Vec::new(),
            next_id: 1,
            free_slots: BinaryHeap::new(),
            next_slot: 1,
            table_bytes: 0,
        }
    }
}

/// A map, without the types of its keys and values.
pub(crate) struct MapCore<L: Log> {
    pub(crate) spec: MapSpec<L::Level>,
    /// Per node, where the map's table headers start.
    pub(super) tables: Vec<u64>,
    /// Its place in the map table.
    pub(super) slot: u32,
    pub(super) is_dropped: AtomicBool,
}

impl<L: Log> MapCore<L> {
    /// Refuses when the map was dropped. Under a stream's lock the answer is final for that section.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_dropped.load(Ordering::Acquire) { Err(self.dropped()) } else { Ok(()) }
    }

    #[cold]
    fn dropped(&self) -> Error {
        Error::Dropped { name: self.spec.name.clone() }
    }
}

/// Zeroed memory for the table headers of a map, by node; given back unless it is used.
struct Headers<'a, L: Log> {
    inner: &'a Inner<L>,
    bases: Vec<u64>,
}

impl<L: Log> Headers<'_, L> {
    fn into_bases(mut self) -> Vec<u64> {
        std::mem::take(&mut self.bases)
    }
}

impl<L: Log> Drop for Headers<'_, L> {
    fn drop(&mut self) {
        for (node, base) in self.inner.nodes.iter().zip(&self.bases) {
            node.free_now(Location::from_offset(*base));
        }
    }
}

/// Maps by number.
pub(crate) struct MapsById<L: Log>(Vec<Arc<MapCore<L>>>);

impl<L: Log> MapsById<L> {
    pub(crate) fn of(inner: &Inner<L>) -> MapsById<L> {
        let mut all = inner.all_maps();
        all.sort_unstable_by_key(|map| map.spec.id);
        MapsById(all)
    }

    #[inline]
    pub(crate) fn get(&self, id: MapId) -> Option<&MapCore<L>> {
        self.number(id).map(|number| &*self.0[number])
    }

    /// The map's number among these.
    #[inline]
    pub(crate) fn number(&self, id: MapId) -> Option<usize> {
        self.0.binary_search_by_key(&id, |map| map.spec.id).ok()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &MapCore<L>> {
        self.0.iter().map(|map| &**map)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<L: Log> Inner<L> {
    /// Opens a map by name, making it when it is not there.
    pub(crate) fn open_map(
        &self,
        name: &str,
        key_type: &str,
        value_type: &str,
        (level, placement): (L::Level, Placement),
    ) -> Result<Arc<MapCore<L>>, Error> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::MapName { len: name.len() });
        }
        let types = (key_type, value_type);
        let found = {
            let maps = self.maps.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            Self::opened(&maps, name, types, placement)?
        };
        if let Some(core) = found {
            return Ok(core);
        }
        // Dropped maps may have what this one needs.
        self.bury_all();
        let headers = self.take_headers();
        let _making = lock(&self.making);
        let core = {
            let mut maps = self.maps.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Another thread may have made it meanwhile.
            if let Some(core) = Self::opened(&maps, name, types, placement)? {
                return Ok(core);
            }
            let headers = headers?;
            let spec = MapSpec {
                id: MapId(maps.next_id),
                name: name.to_owned(),
                key_type: key_type.to_owned(),
                value_type: value_type.to_owned(),
                level,
                placement,
            };
            self.make_map(&mut maps, spec, headers)?
        };
        let created = self.log.create_map(&core.spec);
        let mut maps = self.maps.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(source) = created {
            self.unmake_tables(core.slot, &core.tables);
            maps.free_slots.push(Reverse(core.slot));
            return Err(Error::Log(source));
        }
        Self::enter(&mut maps, Arc::clone(&core));
        Ok(core)
    }

    /// The map of a name if there is one; refused when it is not what is asked for.
    fn opened(
        maps: &Maps<L>,
        name: &str,
        (key_type, value_type): (&str, &str),
        placement: Placement,
    ) -> Result<Option<Arc<MapCore<L>>>, Error> {
        let Some(core) = maps.by_name.get(name) else { return Ok(None) };
        let (expected, found) = (
            format!("{} to {}", core.spec.key_type, core.spec.value_type),
            format!("{key_type} to {value_type}"),
        );
        if expected != found {
            return Err(Error::MapType { name: name.to_owned(), expected, found });
        }
        if core.spec.placement != placement {
            let (name, expected) = (name.to_owned(), core.spec.placement);
            return Err(Error::MapPlacement { name, expected, found: placement });
        }
        Ok(Some(Arc::clone(core)))
    }

    /// Enters a map that the log knows, before anything is applied to it.
    pub(crate) fn restore_map(&self, spec: MapSpec<L::Level>) -> Result<(), Error> {
        let headers = self.take_headers()?;
        let _making = lock(&self.making);
        let mut maps = self.maps.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let core = self.make_map(&mut maps, spec, headers)?;
        Self::enter(&mut maps, core);
        Ok(())
    }

    /// Gives no map a number below `next` from now on: those were given before.
    pub(crate) fn raise_next_map(&self, next: MapId) {
        let _making = lock(&self.making);
        let mut maps = self.maps.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        maps.next_id = maps.next_id.max(next.0);
    }

    fn enter(maps: &mut Maps<L>, core: Arc<MapCore<L>>) {
        maps.next_id = maps.next_id.max(core.spec.id.0 + 1);
        maps.by_name.insert(core.spec.name.clone(), Arc::clone(&core));
        maps.in_order.push(core);
    }

    /// Streams of a node.
    fn streams_per_node(&self) -> u64 {
        u64::from(self.streams.div_ceil(self.nodes.len() as u32))
    }

    /// Takes memory for the headers of a map, and for the record that clearing it may need. Waits for readers
    /// at the limit, so the caller does not hold the lock of all maps.
    fn take_headers(&self) -> Result<Headers<'_, L>, Error> {
        let bytes = self.streams_per_node() * TABLE_BYTES;
        let mut headers = Headers { inner: self, bases: Vec::with_capacity(self.nodes.len()) };
        for node in &self.nodes {
            let base = node.reserve_record().ok().and_then(|()| node.take_tables(bytes));
            headers.bases.push(base.ok_or_else(|| self.capacity(node, bytes))?);
        }
        Ok(headers)
    }

    fn make_map(
        &self,
        maps: &mut Maps<L>,
        spec: MapSpec<L::Level>,
        headers: Headers<'_, L>,
    ) -> Result<Arc<MapCore<L>>, Error> {
        let slot = maps.free_slots.peek().map_or(maps.next_slot, |slot| slot.0);
        if u64::from(slot) >= MAPS_MAX || spec.id.0 == u32::MAX {
            return Err(Error::TooManyMaps { max: MAPS_MAX });
        }
        let table_bytes = map_table_bytes(slot);
        let more = table_bytes.saturating_sub(maps.table_bytes);
        for (index, node) in self.nodes.iter().enumerate() {
            if !node.arena.commit_small(more) {
                self.nodes[..index].iter().for_each(|charged| charged.arena.uncommit_small(more));
                return Err(self.capacity(node, more));
            }
        }
        maps.table_bytes += more;
        let tables = headers.into_bases();
        for (index, (node, base)) in self.nodes.iter().zip(&tables).enumerate() {
            for in_node in 0..self.streams_per_node() {
                let stream = StreamId((in_node * self.nodes.len() as u64) as u32 + index as u32);
                Table::at(&node.arena, base + in_node * TABLE_BYTES).create(spec.id, stream);
            }
            let map_word = node.arena.layout().maps + u64::from(slot) * 8;
            node.arena.word(map_word).store(*base, Relaxed);
            node.movement.add_tables(*base);
        }
        if maps.free_slots.pop().is_none() {
            maps.next_slot += 1;
        }
        Ok(Arc::new(MapCore { spec, tables, slot, is_dropped: AtomicBool::new(false) }))
    }

    /// Gives the tables of a map back that nobody can see.
    pub(super) fn unmake_tables(&self, slot: u32, tables: &[u64]) {
        for (node, base) in self.nodes.iter().zip(tables) {
            let map_word = node.arena.layout().maps + u64::from(slot) * 8;
            node.arena.word(map_word).store(0, Relaxed);
            node.movement.remove_tables(*base);
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
}

/// Bytes of the map table up to a place, in whole pages.
fn map_table_bytes(slot: u32) -> u64 {
    ((u64::from(slot) + 1) * 8).next_multiple_of(4096)
}
