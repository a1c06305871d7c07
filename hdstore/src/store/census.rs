//! Statistics: every committed byte, by what it is for.
//!
//! Nothing is counted on the paths of puts and gets but what a table's header counts under its lock; a census
//! walks the tables and the page table. While others write, the parts are read one after the other and need
//! not add up exactly; when the store is quiet they do, and a test holds them to it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_utils::CachePadded;

use super::{Inner, MapCore, Node, Store};
use crate::arena::CommittedBytes;
use crate::arena::layout::{PAGE, PAGE_META, STREAM_HEAD, SUPERBLOCK};
use crate::entry::layout::HEADER;
use crate::ids::{MapId, StreamId};
use crate::index::table::{TABLE_BYTES, TableCounts};
use crate::log::Log;
use crate::slab::Slabs;
use crate::slab::batch::BATCH_BYTES;
use crate::slab::class::Class;
use crate::slab::lane::Lane;
use crate::sync::{Mutex, lock};

/// What a store holds and what it costs. All sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The hard limit on memory.
    pub limit_bytes: u64,
    /// What is committed of it: the sum of the nine parts that follow.
    pub committed_bytes: u64,
    /// Keys and values of entries.
    pub live_bytes: u64,
    /// Headers of entries: 16 each.
    pub header_bytes: u64,
    /// Rounding of slots, and expiry times.
    pub rounding_bytes: u64,
    /// The index: buckets, directories, leaves, with their rounding.
    pub index_bytes: u64,
    /// Other metadata: superblock, stream heads, map table, page table, table headers, batches of retired
    /// slots.
    pub metadata_bytes: u64,
    /// What the log keeps in memory and charges to the limit ([`Store::charge_log`]).
    pub log_bytes: u64,
    /// Committed and free.
    pub free_bytes: u64,
    /// Replaced and removed entries that readers may still see: those that wait for pins, and those held by
    /// guards alone.
    pub unreclaimed_bytes: u64,
    /// Cleared tables and dropped maps, entries and index, as far as they have not been taken apart yet.
    pub detached_bytes: u64,
    /// The part of `unreclaimed_bytes` that is held by guards alone.
    pub held_by_guards_bytes: u64,
    /// The bound on what waits for pins.
    pub unreclaimed_max_bytes: u64,
    /// Entries, expired ones that were not swept included.
    pub entries: u64,
    /// Entries that were moved out of sparse pages so far.
    pub moved_entries: u64,
    /// Pages that came free by that.
    pub emptied_pages: u64,
    /// Committed bytes by node and kind of page.
    pub committed: Vec<CommittedBytes>,
    /// Nodes whose memory the kernel took a request to place for.
    pub placed_nodes: u32,
    /// Address space reserved; it costs nothing.
    pub reserved_bytes: u64,
}

impl Stats {
    /// What the parts add up to; `committed_bytes` when the store is quiet.
    pub fn accounted_bytes(&self) -> u64 {
        self.live_bytes
            + self.header_bytes
            + self.rounding_bytes
            + self.index_bytes
            + self.metadata_bytes
            + self.log_bytes
            + self.free_bytes
            + self.unreclaimed_bytes
            + self.detached_bytes
    }
}

/// What a map holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MapStats {
    /// Entries, expired ones that were not swept included.
    pub entries: u64,
    /// Bytes of keys and values.
    pub live_bytes: u64,
    /// Bytes of slots.
    pub slot_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Buckets of 64 bytes.
    pub buckets: u64,
    /// Of them in chains.
    pub overflow_buckets: u64,
}

impl<L: Log> Store<L> {
    /// What the store holds and what it costs. Walks tables and pages: some milliseconds per 100 GB.
    pub fn stats(&self) -> Stats {
        self.inner.census()
    }

    /// Bytes that what the store holds needs: committed memory but for what is free, or will be when readers
    /// have left, and the lists of that; at most the limit, which a load may go a little beyond. Costs as
    /// much as [`Store::stats`].
    pub fn used_bytes(&self) -> u64 {
        let stats = self.stats();
        let lists: u64 = self.inner.nodes.iter().map(Node::batch_bytes).sum();
        let spare = stats.free_bytes + stats.unreclaimed_bytes + stats.detached_bytes + lists;
        stats.committed_bytes.saturating_sub(spare).min(stats.limit_bytes)
    }

    /// Name, number, and holdings of each map, in the order in which they were made.
    pub fn maps(&self) -> Vec<(String, MapId, MapStats)> {
        let stats = |map: &Arc<MapCore<L>>| {
            (map.spec.name.clone(), map.spec.id, self.inner.map_stats(map, self.inner.all()))
        };
        self.inner.all_maps().iter().map(stats).collect()
    }

    /// Entries in all maps; cheaper than [`Store::stats`].
    pub fn entries(&self) -> u64 {
        self.inner.all_maps().iter().map(|map| self.inner.map_entries(map, self.inner.all())).sum()
    }

    /// Bytes of keys and values in all maps; cheaper than [`Store::stats`].
    pub fn live_bytes(&self) -> u64 {
        self.inner.all_maps().iter().map(|map| self.inner.map_live_bytes(map)).sum()
    }
}

impl<L: Log> Inner<L> {
    fn counts<'a>(
        &'a self,
        map: &'a MapCore<L>,
        streams: Range<u32>,
    ) -> impl Iterator<Item = (TableCounts, u64)> + 'a {
        streams.map(move |stream| {
            let place = self.place(map, StreamId(stream));
            let _locked = self.lock_stream(&place);
            (place.table.counts(), place.table.index_bytes())
        })
    }

    fn map_live_bytes(&self, map: &MapCore<L>) -> u64 {
        (0..self.streams)
            .map(|stream| self.place(map, StreamId(stream)).table.counts().live_bytes)
            .sum()
    }

    pub(crate) fn map_entries(&self, map: &MapCore<L>, streams: Range<u32>) -> u64 {
        streams.map(|stream| self.place(map, StreamId(stream)).table.entries()).sum()
    }

    pub(crate) fn map_stats(&self, map: &MapCore<L>, streams: Range<u32>) -> MapStats {
        let mut stats = MapStats::default();
        for (counts, index_bytes) in self.counts(map, streams) {
            stats.entries += counts.entries;
            stats.live_bytes += counts.live_bytes;
            stats.slot_bytes += counts.slot_bytes;
            stats.index_bytes += index_bytes;
            stats.buckets += counts.buckets;
            stats.overflow_buckets += counts.overflow_buckets;
        }
        stats
    }

    fn census(&self) -> Stats {
        let mut stats = Stats::default();
        let mut slot_bytes = 0;
        let per_node = u64::from(self.streams.div_ceil(self.nodes.len() as u32));
        for map in self.all_maps() {
            let of_map = self.map_stats(&map, self.all());
            stats.entries += of_map.entries;
            stats.live_bytes += of_map.live_bytes;
            stats.index_bytes += of_map.index_bytes;
            slot_bytes += of_map.slot_bytes;
            stats.metadata_bytes += self.nodes.len() as u64 * place_bytes(per_node * TABLE_BYTES);
        }
        let (graves, left_bytes) = self.graves();
        let headers = self.nodes.len() as u64 * place_bytes(per_node * TABLE_BYTES);
        stats.metadata_bytes += graves * headers;
        stats.detached_bytes += left_bytes;
        stats.header_bytes = stats.entries * HEADER;
        stats.rounding_bytes = slot_bytes.saturating_sub(stats.live_bytes + stats.header_bytes);
        stats.log_bytes = self.log_bytes.load(Relaxed);
        stats.committed_bytes = stats.log_bytes;
        let map_table = self.map_table_bytes();
        for node in &self.nodes {
            let fixed = (SUPERBLOCK + per_node * STREAM_HEAD).next_multiple_of(4096);
            let page_table = (node.slabs.pool.counts().ever * PAGE_META).next_multiple_of(4096);
            stats.metadata_bytes += fixed
                + map_table
                + page_table
                + node.slabs.large.table_bytes()
                + node.batch_bytes()
                + node.detached.reserve_bytes();
            stats.detached_bytes += node.detached.bytes();
            stats.free_bytes += node.free_bytes();
            let (waiting, held) = node.unreclaimed_bytes();
            stats.unreclaimed_bytes += waiting + held;
            stats.held_by_guards_bytes += held;
            stats.unreclaimed_max_bytes += node.unreclaimed_max_bytes();
            stats.moved_entries += node.movement.moved();
            stats.emptied_pages += node.slabs.sparse.emptied();
            let committed = node.arena.committed();
            stats.committed_bytes += committed.total();
            stats.committed.push(committed);
            stats.placed_nodes += u32::from(node.arena.bound());
            stats.reserved_bytes += node.arena.reserved_bytes();
            stats.limit_bytes = node.arena.budget().limit_bytes();
        }
        stats
    }
}

impl Node {
    /// Bytes of retired slots: waiting for pins, and held by guards alone.
    pub(crate) fn unreclaimed_bytes(&self) -> (u64, u64) {
        let open: u64 = self.lanes.iter().map(|lane| lock(lane).retired.open_bytes()).sum();
        (self.retired.sealed_bytes() + open, self.retired.held_bytes())
    }

    /// Bytes that batches take.
    pub(crate) fn batch_bytes(&self) -> u64 {
        let of_lane = |lane: &CachePadded<Mutex<Lane>>| {
            let lane = lock(lane);
            lane.retired.batches() + lane.begun_batches()
        };
        let open: u64 = self.lanes.iter().map(of_lane).sum();
        let class = Class::of(BATCH_BYTES).map_or(0, |class| class.slot_bytes());
        (open + self.retired.sealed_batches() + self.slabs.depot.batches()) * u64::from(class)
    }

    /// Bytes that are committed and free: in the pool, in pages, in stashes, in warm large slots.
    pub(crate) fn free_bytes(&self) -> u64 {
        let stashed_in = |lane| Slabs::stashed_bytes(&self.arena, &lock(lane));
        let stashed: u64 = self.lanes.iter().map(|lane| stashed_in(lane)).sum();
        self.slabs.pool.counts().free * PAGE
            + self.slabs.free_bytes_in_pages(&self.arena)
            + stashed
            + self.slabs.depot.bytes()
            + self.slabs.large.warm_bytes()
    }
}

/// Bytes of the place that a need takes.
fn place_bytes(need: u64) -> u64 {
    match Class::of(need) {
        Some(class) => u64::from(class.slot_bytes()),
        None => need.next_multiple_of(crate::arena::layout::LARGE_STEP),
    }
}
