//! The store that users open: memory joined to a log.
//!
//! `open.rs` has the order of an opening, `relog.rs` what it logs again, `close.rs` the end. This file is
//! what one can do in between.

pub(crate) mod close;
#[cfg(all(test, loom))]
mod close_models;
pub mod hold;
pub(crate) mod identity;
mod load;
pub(crate) mod open;
pub(crate) mod relog;
pub(crate) mod runner;
pub mod stepper;
mod threads;
pub mod waiters;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdstore::codec::Codec;
use hdstore::{MapOptions, Seq, StreamId};

use crate::config::Builder;
use crate::durability::{Durability, LogFailure};
use crate::io::IoKind;
use crate::log::{DiskLog, Shared};
use crate::restart::report::RecoveryReport;
use waiters::Persisted;

/// A map of a persistent store.
pub type Map<K, V> = hdstore::Map<K, V, DiskLog>;
/// Changes of a persistent store that happen together or not at all.
pub type Group<'a> = hdstore::Group<'a, DiskLog>;

/// A store of maps in native memory, mirrored to disk.
///
/// Dropping it closes it like [`Store::close`], with errors going to the log (`tracing`) only. Maps that
/// are still held can be read afterwards; changes are refused.
#[derive(Debug)]
pub struct Store {
    memory: hdstore::Store<DiskLog>,
    shared: Arc<Shared>,
    report: RecoveryReport,
    running: Option<close::Running>,
}

/// Files that a round of compaction may take beyond everything before it frees some (`Supply::may_make`).
const ROUND_FILES: u64 = 2;

/// What a store holds, costs and does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Memory, byte for byte.
    pub memory: hdstore::Stats,
    /// The I/O in use.
    pub io_used: IoKind,
    /// Streams.
    pub streams: u32,
    /// Writer threads.
    pub writers: u32,
    /// Bytes of log buffers, which come on top of the memory limit.
    pub buffer_bytes: u64,
    /// Whether they are in shared memory, and `Buffered` changes survive the death of the process at
    /// memory speed.
    pub buffers_in_shared_memory: bool,
    /// Why not, if not.
    pub buffers_fallback: Option<String>,
    /// Bytes submitted to chunks: blocks with their padding, headers, directories.
    pub bytes_submitted: u64,
    /// Bytes of zeros written ahead, where chunks are filled with zeros.
    pub zero_fill_bytes: u64,
    /// Blocks of records submitted.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Flushes submitted.
    pub flushes: u64,
    /// Chunks begun in this life.
    pub chunks: u64,
    /// Chunk files, the stock of empty ones included, in bytes.
    pub allocated_bytes: u64,
    /// What they may be: the disk budget, and on top of it what is held.
    pub disk_budget_bytes: u64,
    /// What they may be beyond it for a while, for what the log buffers hold, for removals and for
    /// compaction. In a store of more than a few chunks the ratio that was asked for includes it.
    pub disk_beyond_bytes: u64,
    /// Of [`Stats::allocated_bytes`], chunks that are held, and stay until they are released.
    pub held_bytes: u64,
    /// Holds that were not released.
    pub holds: Vec<hold::HoldSummary>,
    /// Chunks that compaction may choose from.
    pub chunks_known: u64,
    /// Chunks that compaction has freed in this life.
    pub chunks_freed: u64,
    /// Chunk files that cannot be compacted, and why.
    pub chunks_damaged: Vec<(String, String)>,
    /// Why compaction has ended before the store did, if it has.
    pub compaction_stopped: Option<String>,
    /// The bytes that a chunk needs and the disk does not have, while it is full.
    pub no_space_bytes: Option<u64>,
    /// The first failure, if the store is poisoned.
    pub poisoned: Option<String>,
}

impl Store {
    /// Settings for opening a store.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Opens the map of this name, making it when it is not there; that is durable when this returns. The
    /// options count only when the map is made.
    ///
    /// # Errors
    /// As for [`hdstore::Store::map`].
    pub fn map<K: Codec, V: Codec>(
        &self,
        name: &str,
        options: MapOptions<Durability>,
    ) -> Result<Map<K, V>, hdstore::Error> {
        self.memory.map(name, options)
    }

    /// Drops a map with everything in it; that is durable when this returns. One change of the manifest,
    /// however large the map is; its records in the log are garbage from then on. Returns whether there was a
    /// map of this name. A crash before it returns leaves the map, with a prefix of each stream's history, or
    /// no map. Its number is never given again, and a map that is made under the same name later is another.
    ///
    /// ```
    /// use hotrestart::{MapOptions, Store, codec::{Bytes, U64}};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::builder().memory_limit_bytes(64 << 20).open(dir.path())?;
    /// let map = store.map::<U64, Bytes>("m", MapOptions::default())?;
    /// map.insert(&1, b"one")?;
    /// map.insert(&2, b"two")?;
    /// assert_eq!(map.clear()?, 2, "one record for each stream, however many entries go");
    /// assert!(store.drop_map("m")?);
    /// assert!(map.insert(&1, b"one").is_err());
    /// # store.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`hdstore::Store::drop_map`]. When the manifest could not be written the map is still there;
    /// after a crash it may be gone.
    pub fn drop_map(&self, name: &str) -> Result<bool, hdstore::Error> {
        self.memory.drop_map(name)
    }

    /// Begins a group: changes of keys of one stream, in any of the store's maps, of which all are kept or
    /// none, whatever dies when. [`hdstore::Store::group`] has the rules. Its records become whole at once,
    /// so they must fit a record's bound (a quarter of a chunk, less 8 KiB); long values lie elsewhere where
    /// that helps, and count for some 30 bytes and their key.
    ///
    /// ```
    /// use hotrestart::{MapOptions, Store, StreamId, codec::{Bytes, Str, U64}};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::builder().memory_limit_bytes(64 << 20).streams(8).open(dir.path())?;
    /// let placed = MapOptions::default().placed_by_owner();
    /// let stock = store.map::<Str, U64>("stock", placed)?;
    /// let orders = store.map::<U64, Bytes>("orders", placed)?;
    /// let mut group = store.group(StreamId(3));
    /// group.insert(&stock, "tea", &8)?.insert(&orders, &1, b"one tea")?;
    /// assert!(group.commit()?.is_done());
    /// # drop((stock, orders));
    /// # store.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn group(&self, stream: hdstore::StreamId) -> Group<'_> {
        self.memory.group(stream)
    }

    /// The store in memory: statistics, read batches, and sweeping, which an owner whose entries expire calls
    /// now and then ([`hdstore::Store::sweep`]).
    pub fn memory(&self) -> &hdstore::Store<DiskLog> {
        &self.memory
    }

    /// What the opening found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Waits until every change that was made before this call is as durable as asked.
    ///
    /// # Errors
    /// [`LogFailure::Poisoned`].
    pub fn persist(&self, level: Durability) -> Result<(), LogFailure> {
        self.persist_within(level, None)
    }

    /// Like [`Store::persist`], but gives up after a time; the outcome is unknown then.
    ///
    /// # Errors
    /// [`LogFailure::Poisoned`], [`LogFailure::TimedOut`].
    pub fn persist_within(
        &self,
        level: Durability,
        timeout: Option<Duration>,
    ) -> Result<(), LogFailure> {
        let writers = 0..self.shared.lanes.len() as u32;
        let tickets: Vec<_> =
            writers.filter_map(|writer| self.shared.last_ticket(writer)).collect();
        for ticket in &tickets {
            let lane = &self.shared.lanes[ticket.writer as usize];
            if lane.progress.want(ticket.buffer, level) {
                lane.ring.wake_writer();
            }
        }
        tickets.into_iter().try_for_each(|ticket| self.shared.wait(ticket, level, timeout))?;
        self.shared.poison.check()
    }

    /// A future that ends when every change that was made before this call is as durable as asked. It
    /// runs on any executor and may be dropped at any time.
    pub fn persisted(&self, level: Durability) -> Persisted {
        Persisted::new(Arc::clone(&self.shared), level)
    }

    /// The highest seq of a stream that is known to survive a power cut: all its changes up to this one
    /// do. After a failure it says what is safe.
    pub fn durable_through(&self, stream: StreamId) -> Seq {
        let durable = self.shared.counters.durable.get(stream.0 as usize);
        Seq(durable.map_or(0, |seq| seq.load(Ordering::Acquire)))
    }

    /// What the store holds, costs and does.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (files, files_max) = self.shared.supply.files();
        let facts = self.running.as_ref().map(|running| running.facts.clone()).unwrap_or_default();
        Stats {
            memory: self.memory.stats(),
            io_used: facts.io_used,
            streams: self.shared.streams,
            writers: self.shared.lanes.len() as u32,
            buffer_bytes: facts.buffer_bytes,
            buffers_in_shared_memory: self.report.buffers_fallback.is_none(),
            buffers_fallback: self.report.buffers_fallback.clone(),
            bytes_submitted: of(&counters.bytes_submitted),
            zero_fill_bytes: self.shared.supply.zero_fill_bytes(),
            blocks: of(&counters.blocks),
            records: of(&counters.records),
            flushes: of(&counters.flushes),
            chunks: of(&counters.chunks),
            allocated_bytes: files * self.shared.supply.chunk_size(),
            disk_budget_bytes: files_max.saturating_mul(self.shared.supply.chunk_size()),
            disk_beyond_bytes: (self.shared.supply.beyond() + ROUND_FILES)
                * self.shared.supply.chunk_size(),
            held_bytes: self.shared.holds.chunks().len() as u64 * self.shared.supply.chunk_size(),
            holds: self.holds(),
            chunks_known: of(&self.shared.compaction.chunks),
            chunks_freed: of(&self.shared.compaction.freed),
            chunks_damaged: self.shared.compaction.damage(),
            compaction_stopped: self.shared.compaction.why_stopped(),
            no_space_bytes: self.shared.supply.no_space_bytes(),
            poisoned: self.shared.poison.get().map(ToString::to_string),
        }
    }
}
