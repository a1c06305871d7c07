//! The log as `hdstore` sees it: room, commit, acknowledgement.
//!
//! Invariant: a stream belongs to one writer for a life, and its records lie in non-decreasing turns of
//! that writer's ring (the store checks `position`), so what a cut leaves of a stream is a prefix. The record
//! of one change is the matter of `record_room.rs`, those of a group of `group.rs`.
//!
//! Cost of a buffered change: one CRC over key and value, one copy, two steps on words of the thread's own
//! lane (`buffers/span.rs`); no system call unless the writer sleeps.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdstore::{Change, IndexHash, Log, LogError, MapId, MapSpec, Seq, StreamId};

use crate::buffers::ring::{First, NoRoom, Ring, Room};
use crate::chunks::blocks::Counters;
use crate::chunks::budget::DiskBudget;
use crate::chunks::catalogue::Catalogue;
use crate::chunks::floor::BudgetFloor;
use crate::chunks::supply::{Space, Supply};
use crate::clears::Clears;
use crate::compact::state::State;
use crate::dir::manifests::Manifests;
use crate::dir::seqs::SeqReserve;
use crate::durability::{Durability, LogFailure, Ticket};
use crate::format::Manifest;
use crate::format::manifest::MapRecord;
use crate::group::GroupRoom;
use crate::holds::Holds;
use crate::io::{IoError, IoErrorClass};
use crate::poison::Poison;
use crate::record_room::LogRoom;
use crate::runs::LiveRuns;
use crate::writer::progress::Progress;

/// The log behind a persistent store.
#[derive(Clone, Debug)]
pub struct DiskLog {
    pub(crate) shared: Arc<Shared>,
}

/// One writer, as the putting threads see it.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) ring: Arc<Ring>,
    pub(crate) progress: Arc<Progress>,
}

impl Lane {
    pub(crate) fn new(ring: Arc<Ring>) -> Lane {
        Lane { ring, progress: Arc::default() }
    }
}

/// What the log's handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) lanes: Vec<Lane>,
    pub(crate) poison: Arc<Poison>,
    pub(crate) supply: Arc<Supply>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) budget: DiskBudget,
    pub(crate) floor: BudgetFloor,
    pub(crate) manifests: Mutex<Manifests>,
    pub(crate) seqs: SeqReserve,
    pub(crate) closed: AtomicBool,
    /// The id of the next run: never used twice in a store.
    pub(crate) next_run: AtomicU64,
    pub(crate) runs: LiveRuns,
    pub(crate) clears: Clears,
    pub(crate) holds: Holds,
    /// Tables that there were in this life, those of dropped maps included: a chunk's directory may list
    /// them.
    pub(crate) tables: AtomicU64,
    /// Whether any entry expires.
    pub(crate) has_expiring: AtomicBool,
    /// Bytes of values in parts that are being put: no garbage, and not live yet.
    pub(crate) pending_bytes: AtomicU64,
    pub(crate) compaction: Arc<State>,
    /// Held by who begins a log buffer, or waits for one.
    pub(crate) admission: Mutex<()>,
    /// Whether all chunks are known, so that facts of absence may be forgotten.
    pub(crate) may_forget: AtomicBool,
    pub(crate) hash: IndexHash,
    pub(crate) streams: u32,
    pub(crate) record_max: usize,
    pub(crate) put_timeout: Duration,
    pub(crate) ack_timeout: Duration,
}

impl Shared {
    /// Looks how much the store holds, and sets how much disk it may have. For the keeper, and at opening.
    pub(crate) fn look_at(&self, memory: &hdstore::Store<DiskLog>) {
        let live_bytes = memory.live_bytes();
        self.counters.live_bytes.store(live_bytes, Ordering::Relaxed);
        let pending_bytes = self.pending_bytes.load(Ordering::Relaxed);
        let files = self.budget.files(memory.entries(), live_bytes + pending_bytes);
        self.supply.set_files_max(files + self.holds.chunks().len() as u64);
        let (files, files_max) = self.supply.files();
        self.floor.look(files, files_max, self.supply.beyond());
        self.pace();
    }

    /// Has changes look whether they must wait for compaction, or no longer (`chunks/floor.rs`).
    pub(crate) fn pace(&self) {
        let is_reached = self.floor.is_reached();
        self.lanes.iter().for_each(|lane| lane.ring.pace(is_reached));
    }

    #[inline]
    pub(crate) fn writer_of(&self, stream: StreamId) -> u32 {
        match self.lanes.len() {
            1 => 0,
            writers => stream.0 % writers as u32,
        }
    }

    /// The number that the next map gets: a lower one that the manifest does not have was dropped.
    pub(crate) fn next_map(&self) -> MapId {
        let manifests = self.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        manifests.current.next_map
    }

    #[inline]
    pub(crate) fn check(&self) -> Result<(), LogFailure> {
        self.poison.check()?;
        if self.closed.load(Ordering::Relaxed) {
            return Err(LogFailure::Closed);
        }
        Ok(())
    }

    /// Takes back what a copy of the manifest may say since a change of it failed: that a map is gone in
    /// which more will be acknowledged, that one is there of which the caller is told that it was not made,
    /// that chunks are held that are not, or are not that are. Where that fails, too, nothing is acknowledged
    /// any more.
    pub(crate) fn take_back(&self, manifests: &mut Manifests, generation: u64, failed: &IoError) {
        let is_untouched = manifests.current.generation == generation
            && matches!(failed.class, IoErrorClass::NoSpace { .. });
        if !is_untouched && let Err(error) = manifests.update(|_| {}) {
            self.poison.set(error);
        }
    }

    /// Room for records, waiting as long as a put may. Whether there are chunks is asked once for each
    /// buffer, before its first record: what a buffer that was begun takes has its chunk.
    #[inline(always)]
    pub(crate) fn room<'a>(
        &'a self,
        lane: &'a Lane,
        (len, records): (usize, usize),
        space: Space,
    ) -> Result<Room<'a>, LogFailure> {
        if may_use_what_is_begun(lane, space)
            && let Some(room) = lane.ring.room_at_hand((len, records))
        {
            return Ok(room);
        }
        self.room_of_ring(lane, (len, records), space)
    }

    /// Room that the thread has not reserved ahead.
    #[inline(never)]
    fn room_of_ring<'a>(
        &'a self,
        lane: &'a Lane,
        (len, records): (usize, usize),
        space: Space,
    ) -> Result<Room<'a>, LogFailure> {
        if may_use_what_is_begun(lane, space) {
            let keep_on = || self.keeps_on();
            let reserved = lane.ring.reserve((len, records), First::MayNot, None, keep_on);
            if let Ok(room) = reserved {
                return Ok(room);
            }
        }
        self.room_in_next(lane, (len, records), space)
    }

    fn keeps_on(&self) -> bool {
        self.poison.get().is_none() && !self.closed.load(Ordering::Relaxed)
    }

    /// Room in a buffer that may have to be begun, or must come free first. On a full disk only what may use
    /// the reserve goes on; where the store shrinks faster than compaction can free, nothing but what need
    /// not wait for that.
    #[cold]
    fn room_in_next<'a>(
        &'a self,
        lane: &'a Lane,
        (len, records): (usize, usize),
        space: Space,
    ) -> Result<Room<'a>, LogFailure> {
        let keep_on = || self.keeps_on();
        if space.is_paced() && self.floor.is_reached() {
            self.floor.wait(Instant::now() + self.put_timeout, keep_on);
        }
        // What comes now has a deadline of its own: nothing is refused for what it has waited so far.
        let mut deadline = None;
        loop {
            // One at a time: else all would see the same stock, and the log buffers take more than it holds.
            let admission =
                self.admission.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let must_wait = self.supply.is_low(space);
            if !must_wait {
                // Puts do not fill up what was begun with chunks that are left for removals.
                lane.ring.restrict(space != Space::Common && self.supply.is_low(Space::Common));
                match lane.ring.reserve((len, records), First::May, None, keep_on) {
                    Err(NoRoom::Timeout) => {}
                    other => return other.map_err(|no_room| self.refusal(&no_room)),
                }
            }
            drop(admission);
            // The clock is read only when there is no room at once.
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.put_timeout);
            if !must_wait {
                let waited = lane.ring.wait_for_release(Some(deadline), &keep_on);
                waited.map_err(|no_room| self.refusal(&no_room))?;
            } else if !self.supply.wait_for_space(space, deadline, keep_on) {
                self.check()?;
                return Err(self.refusal(&NoRoom::Timeout));
            }
        }
    }

    /// Notes that the store holds entries that expire.
    #[inline]
    pub(crate) fn note_expiry(&self, expiry_ms: Option<u64>) {
        if expiry_ms.is_some() && !self.has_expiring.load(Ordering::Relaxed) {
            self.has_expiring.store(true, Ordering::Relaxed);
        }
    }

    /// What a caller is told who got no room.
    pub(crate) fn refusal(&self, no_room: &NoRoom) -> LogFailure {
        match no_room {
            NoRoom::Stopped => self.check().err().unwrap_or(LogFailure::Closed),
            NoRoom::Timeout | NoRoom::Begins => self.timed_out(),
        }
    }

    /// Why there was no room for so long.
    fn timed_out(&self) -> LogFailure {
        let waited_ms = self.put_timeout.as_millis() as u64;
        if let Some(needed_bytes) = self.supply.no_space_bytes() {
            return LogFailure::NoSpace { needed_bytes };
        }
        if self.supply.is_at_budget() && self.supply.is_low(Space::Common) {
            let ((files, files_max), chunk) = (self.supply.files(), self.supply.chunk_size());
            return LogFailure::DiskBudget {
                allocated_bytes: files * chunk,
                budget_bytes: files_max * chunk,
                waited_ms,
                stopped: self.compaction.why_stopped(),
            };
        }
        LogFailure::Busy { waited_ms }
    }

    /// Waits until a change is as durable as asked; `None` waits for ever.
    pub(crate) fn wait(
        &self,
        ticket: Ticket,
        level: Durability,
        timeout: Option<Duration>,
    ) -> Result<(), LogFailure> {
        let lane = &self.lanes[ticket.writer as usize];
        if lane.progress.reached(ticket.buffer, level) {
            return Ok(());
        }
        if lane.progress.want(ticket.buffer, level) {
            lane.ring.wake_writer();
        }
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let stop = || self.poison.get().is_some();
        if lane.progress.wait(ticket.buffer, level, deadline, stop) {
            return Ok(());
        }
        self.poison.check()?;
        Err(LogFailure::TimedOut {
            level,
            waited_ms: timeout.unwrap_or_default().as_millis() as u64,
        })
    }

    /// A ticket for everything that a writer has taken so far; `None` when that is nothing.
    pub(crate) fn last_ticket(&self, writer: u32) -> Option<Ticket> {
        let buffer = self.lanes[writer as usize].ring.last_used_turn()?;
        Some(Ticket { writer, buffer })
    }
}

/// Whether a change may take room in a log buffer that was begun, without a further look.
#[inline]
fn may_use_what_is_begun(lane: &Lane, space: Space) -> bool {
    match space {
        Space::Common => !lane.ring.is_restricted(),
        Space::Removal => !lane.ring.is_paced(),
        Space::Clear | Space::All => true,
    }
}

impl Log for DiskLog {
    type Level = Durability;
    type Room<'a> = LogRoom<'a>;
    type GroupRoom<'a> = GroupRoom<'a>;
    type Ticket = Ticket;

    fn create_map(&self, spec: &MapSpec<Durability>) -> Result<(), LogError> {
        let shared = &self.shared;
        let mut manifests =
            shared.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Under its lock: after a close has had the manifest it is the next opening's.
        shared.check()?;
        let generation = manifests.current.generation;
        let made = manifests.grow(|manifest| {
            manifest.maps.push(MapRecord {
                id: spec.id,
                name: spec.name.clone(),
                key_type: spec.key_type.clone(),
                value_type: spec.value_type.clone(),
                durability: spec.level.into(),
                placement: spec.placement,
            });
            manifest.next_map = MapId(manifest.next_map.0.max(spec.id.0 + 1));
        });
        if let Err(source) = made {
            shared.take_back(&mut manifests, generation, &source);
            return Err(LogFailure::Manifest { source: Arc::new(source) }.into());
        }
        // Never fewer: a chunk that is being filled may hold records of maps that are gone.
        let more = u64::from(shared.streams);
        let tables = shared.tables.fetch_add(more, Ordering::Relaxed) + more;
        shared.lanes.iter().for_each(|lane| lane.ring.set_tables(tables));
        Ok(())
    }

    fn drop_map(&self, map: MapId) -> Result<(), LogError> {
        let shared = &self.shared;
        let mut manifests =
            shared.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // As above.
        shared.check()?;
        let generation = manifests.current.generation;
        let forget = |manifest: &mut Manifest| manifest.maps.retain(|record| record.id != map);
        let dropped = manifests.update(forget);
        if let Err(source) = dropped {
            shared.take_back(&mut manifests, generation, &source);
            return Err(LogFailure::Manifest { source: Arc::new(source) }.into());
        }
        drop(manifests);
        shared.clears.forget(map);
        shared.floor.note_sudden_fall();
        Ok(())
    }

    #[inline]
    fn reserve(
        &self,
        map: MapId,
        stream: StreamId,
        change: Change<'_>,
    ) -> Result<LogRoom<'_>, LogError> {
        let space = match change {
            Change::Absence { .. } => Space::Removal,
            Change::Clear => Space::Clear,
            _ => Space::Common,
        };
        Ok(self.shared.reserve_record(map, stream, change, space)?)
    }

    #[inline]
    fn write(&self, room: &mut LogRoom<'_>, change: Change<'_>) {
        self.shared.write_record(room, change);
    }

    #[inline]
    fn position(room: &LogRoom<'_>) -> u64 {
        room.turn()
    }

    #[inline]
    fn admits(&self, seq: Seq) -> bool {
        self.shared.seqs.admits(seq)
    }

    fn wait_to_admit(&self, seq: Seq) -> Result<(), LogError> {
        let shared = &self.shared;
        let keep_on = || shared.check().is_ok();
        if shared.seqs.wait(seq, Instant::now() + shared.put_timeout, keep_on) {
            return Ok(());
        }
        shared.check()?;
        Err(shared.refusal(&NoRoom::Timeout).into())
    }

    #[inline]
    fn commit(&self, room: LogRoom<'_>, seq: Seq) -> Ticket {
        room.commit(seq)
    }

    fn reserve_group(
        &self,
        stream: StreamId,
        changes: &[(MapId, Change<'_>)],
    ) -> Result<GroupRoom<'_>, LogError> {
        Ok(self.shared.write_group(stream, changes)?)
    }

    fn group_position(room: &GroupRoom<'_>) -> u64 {
        room.turn()
    }

    fn commit_group(&self, room: &mut GroupRoom<'_>, seqs: &[Option<Seq>]) -> Ticket {
        room.commit(seqs)
    }

    #[inline]
    fn settle(&self, ticket: Ticket, level: Durability) -> Result<(), LogError> {
        if level == Durability::Buffered {
            // Not whether the store is closed: a close that succeeds waits for what was committed. One that
            // fails does not, and has let the log buffers go (`store/close.rs`).
            return Ok(self.shared.poison.check()?);
        }
        Ok(self.shared.wait(ticket, level, Some(self.shared.ack_timeout))?)
    }

    #[inline]
    fn check(&self) -> Result<(), LogError> {
        Ok(self.shared.check()?)
    }
}
