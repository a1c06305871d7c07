//! Chunks made ahead of need, so that no writer waits for a file to be made.
//!
//! Invariant: a chunk is handed out once, at full size, with its name durable; a file that compaction has
//! freed is handed out again under a new chunk id. No file is made beyond the disk budget (`budget.rs`), but
//! for what the log buffers hold already and for a compaction (`may_make`), and none before the manifest has
//! the bytes to free it again (`set_files_claimed`). A full disk is no poison: it is
//! remembered with the bytes needed, tried again, and forgotten when a chunk could be made. Puts wait as soon
//! as the stock is low, removals when it is lower, whatever the cause (`Reserve`): what is left then is for
//! what lies in the log buffers already, for removals, and for what an opening logs again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::buffers::ring::Ring;
use crate::format::{ChunkId, ChunkOrigin, FileNumber, LifeNumber};
use crate::io::{DirEntry, Disk, FileHandle, Fill, IoError, IoErrorClass, OpenMode};
use crate::poison::Poison;

/// Full log buffers that a chunk surely takes. Each is a quarter of it, but a directory of short records
/// takes up to a quarter, too.
pub(crate) const BUFFERS_PER_CHUNK: usize = 3;

/// Which chunks a change may count on when there are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Those that puts may use.
    Common,
    /// A few more, for what frees space.
    Removal,
    /// The same, for what does so by a single record, and need not wait until compaction has caught up.
    Clear,
    /// All, for what must be logged before a store can open.
    All,
}

impl Space {
    /// Whether it waits where the store shrinks faster than compaction can free (`floor.rs`).
    pub(crate) fn is_paced(self) -> bool {
        matches!(self, Space::Common | Space::Removal)
    }
}

/// How many chunks are kept for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserve {
    /// For what full log buffers hold.
    pub(crate) buffers: usize,
    /// For the room that ending chunks early wastes.
    pub(crate) waste: usize,
    /// For what a compaction writes before it frees anything: the survivors of one victim, which packed in
    /// another order may take a little more than it did.
    pub(crate) compaction: usize,
    /// For removals.
    pub(crate) removals: usize,
}

impl Reserve {
    /// The stock that a change must find while the log buffers hold `buffered` chunks' worth.
    fn wanted(self, space: Space, buffered: usize) -> usize {
        match space {
            Space::Common => buffered + self.waste + self.compaction + self.removals,
            Space::Removal | Space::Clear => buffered + self.waste + self.compaction,
            Space::All => 0,
        }
    }

    /// The stock that files are made for when the store has `beyond` files more than its budget. Some may be,
    /// for what the log buffers hold, for removals and for compaction; further on only what lets compaction
    /// go on: without a chunk for its survivors nothing would ever be freed, but removals wait for what it
    /// frees.
    fn made_for(self, beyond: u64, buffered: usize) -> usize {
        if beyond < self.beyond() {
            self.wanted(Space::Removal, buffered)
        } else {
            buffered + self.waste + 1
        }
    }

    /// How many files may be made beyond the budget before removals wait: what they and compaction need when
    /// the log buffers are full.
    fn beyond(self) -> u64 {
        self.wanted(Space::Removal, self.buffers) as u64
    }

    /// A stock that is enough for everything.
    fn ample(self) -> usize {
        self.wanted(Space::Common, self.buffers)
    }
}

/// A chunk's file, ready to be written.
#[derive(Debug)]
pub(crate) struct FreshChunk {
    pub(crate) file: FileHandle,
    pub(crate) id: ChunkId,
}

/// The stock of fresh chunks.
#[derive(Debug)]
pub(crate) struct Supply {
    disk: Arc<dyn Disk>,
    poison: Arc<Poison>,
    chunk_size: u64,
    fill: Fill,
    life: LifeNumber,
    ahead: usize,
    next_file: AtomicU32,
    next_in_life: AtomicU64,
    zero_fill_bytes: AtomicU64,
    state: Mutex<SupplyState>,
    changed: Condvar,
    reserve: Reserve,
    /// The log buffers, whose content needs chunks.
    rings: Vec<Arc<Ring>>,
    /// Chunks in stock: those of `state` whenever its lock is free. A put that waits by the one and looks by
    /// the other would spin for ever if they differed.
    stock: AtomicUsize,
    /// Chunk files that the store has, the stock included.
    files: AtomicU64,
    /// And how many it may have.
    files_max: AtomicU64,
    /// And of how many the manifest can say that they are freed.
    files_claimed: AtomicU64,
    /// Files made beyond that for compaction and removals, and not made up for by freed ones: puts get none.
    debt: AtomicUsize,
}

#[derive(Debug, Default)]
struct SupplyState {
    ready: VecDeque<FreshChunk>,
    no_space_bytes: Option<u64>,
    stop: bool,
}

impl Supply {
    #[allow(clippy::too_many_arguments, reason = "the parts are made by the store, once")]
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        poison: Arc<Poison>,
        chunk_size: u64,
        fill: Fill,
        life: LifeNumber,
        next_file: FileNumber,
        reserve: Reserve,
        rings: Vec<Arc<Ring>>,
    ) -> Supply {
        Supply {
            disk,
            poison,
            chunk_size,
            fill,
            life,
            ahead: reserve.ample() + 2,
            reserve,
            rings,
            next_file: AtomicU32::new(next_file.0),
            next_in_life: AtomicU64::new(0),
            zero_fill_bytes: AtomicU64::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
            stock: AtomicUsize::new(0),
            files: AtomicU64::new(0),
            files_max: AtomicU64::new(u64::MAX),
            files_claimed: AtomicU64::new(0),
            debt: AtomicUsize::new(0),
        }
    }

    /// The id of the first chunk of a life.
    pub(crate) fn first_id(life: LifeNumber) -> ChunkId {
        ChunkId::first_of(life)
    }

    /// Takes a chunk if one is ready, and asks for another. Compaction leaves those for the log buffers.
    pub(crate) fn take(&self, origin: ChunkOrigin) -> Option<FreshChunk> {
        let mut state = self.lock();
        let left = self.kept_from(origin);
        let taken = if state.ready.len() > left { state.ready.pop_front() } else { None };
        self.stock.store(state.ready.len(), Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
        taken
    }

    /// Whether there is a chunk for survivors.
    pub(crate) fn has_for_survivors(&self) -> bool {
        self.stock.load(Ordering::Relaxed) > self.kept_from(ChunkOrigin::Survivors)
    }

    /// How many chunks are kept for others.
    fn kept_from(&self, origin: ChunkOrigin) -> usize {
        match origin {
            ChunkOrigin::Changes => 0,
            ChunkOrigin::Survivors => self.buffered() + self.reserve.waste,
        }
    }

    /// Makes chunks until the stock is full. Returns whether anything was made.
    pub(crate) fn restock(&self) -> bool {
        let mut made = false;
        loop {
            if self.poison.get().is_some() {
                return made;
            }
            let stock = self.lock().ready.len();
            let is_claimed = self.files().0 < self.files_claimed.load(Ordering::Relaxed);
            if !self.may_make(stock) || !is_claimed {
                return made;
            }
            let is_at_budget = self.is_at_budget();
            match self.make() {
                Ok(chunk) => {
                    let mut state = self.lock();
                    let debt = if is_at_budget { self.debt.load(Ordering::Relaxed) + 1 } else { 0 };
                    self.debt.store(debt, Ordering::Relaxed);
                    state.ready.push_back(chunk);
                    state.no_space_bytes = None;
                    self.stock.store(state.ready.len(), Ordering::Relaxed);
                    drop(state);
                    self.changed.notify_all();
                    made = true;
                }
                Err(error) if is_no_space(&error) => {
                    self.note_no_space(&error);
                    return made;
                }
                Err(error) => {
                    self.poison.set(error);
                    return made;
                }
            }
        }
    }

    /// There is no space for a new chunk, or for what the manifest may come to say of it.
    pub(crate) fn note_no_space(&self, error: &IoError) {
        if self.lock().no_space_bytes.replace(self.chunk_size).is_none() {
            tracing::warn!(%error, "no space for a new chunk; changes wait");
        }
    }

    fn make(&self) -> Result<FreshChunk, IoError> {
        let number = FileNumber(self.next_file.fetch_add(1, Ordering::Relaxed));
        let file = self.disk.create(&number.file_name(), self.chunk_size, self.fill)?;
        self.files.fetch_add(1, Ordering::Relaxed);
        self.disk.sync_dir()?;
        if self.fill == Fill::Zero {
            self.zero_fill_bytes.fetch_add(self.chunk_size, Ordering::Relaxed);
        }
        Ok(FreshChunk { file, id: self.next_id() })
    }

    fn next_id(&self) -> ChunkId {
        ChunkId(Self::first_id(self.life).0 + self.next_in_life.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes files back whose blocks are durably void. `keep` of them at most come into the stock; the rest
    /// is removed. Returns how many were. One that can be neither opened nor removed counts as used until the
    /// next opening removes it: nothing in it counts, so that is no failure of the store's.
    pub(crate) fn take_back(&self, freed: &[FileNumber], keep: usize) -> u64 {
        let mut removed = 0;
        for (index, number) in freed.iter().enumerate() {
            let name = number.file_name();
            let is_wanted = index < keep && self.lock().ready.len() < self.ahead;
            if is_wanted && let Ok(file) = self.disk.open(&name, OpenMode::ReadWrite) {
                let id = self.next_id();
                let mut state = self.lock();
                state.ready.push_back(FreshChunk { file, id });
                self.stock.store(state.ready.len(), Ordering::Relaxed);
                continue;
            }
            match self.disk.remove(&name) {
                Ok(()) => removed += 1,
                Err(error) => tracing::warn!(%error, "a freed chunk stays until the next opening"),
            }
        }
        self.files.fetch_sub(removed, Ordering::Relaxed);
        let mut state = self.lock();
        let debt = self.debt.load(Ordering::Relaxed).saturating_sub(freed.len());
        self.debt.store(debt, Ordering::Relaxed);
        if keep > 0 && !freed.is_empty() {
            state.no_space_bytes = None;
        }
        drop(state);
        self.changed.notify_all();
        removed
    }

    /// Takes a file that an opening found, and in which nothing counts, into the stock; false when it is not
    /// wanted, or not whole.
    pub(crate) fn take_unused(&self, entry: &DirEntry) -> bool {
        let is_whole = entry.len == self.chunk_size && entry.allocated_bytes >= self.chunk_size;
        if !is_whole || self.lock().ready.len() >= self.ahead {
            return false;
        }
        let Ok(file) = self.disk.open(&entry.name, OpenMode::ReadWrite) else { return false };
        let chunk = FreshChunk { file, id: self.next_id() };
        let mut state = self.lock();
        state.ready.push_back(chunk);
        self.stock.store(state.ready.len(), Ordering::Relaxed);
        self.files.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Counts files that an opening found.
    pub(crate) fn adopt(&self, files: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
    }

    /// Sets how many files there may be.
    pub(crate) fn set_files_max(&self, files: u64) {
        self.files_max.store(files, Ordering::Relaxed);
    }

    /// Chunk files that there are, and may be.
    pub(crate) fn files(&self) -> (u64, u64) {
        (self.files.load(Ordering::Relaxed), self.files_max.load(Ordering::Relaxed))
    }

    /// Whether another file would be one too many.
    pub(crate) fn is_at_budget(&self) -> bool {
        let (files, max) = self.files();
        files >= max
    }

    /// Whether another file may be made for a stock of so many. What is made beyond the budget is no room for
    /// puts (`debt`).
    fn may_make(&self, stock: usize) -> bool {
        if stock >= self.ahead {
            return false;
        }
        let (files, max) = self.files();
        files < max || stock < self.reserve.made_for(files - max, self.buffered())
    }

    /// For how many files the manifest must have bytes before the stock is filled; `None` when it has.
    pub(crate) fn files_to_claim(&self) -> Option<u64> {
        let (files, _) = self.files();
        let missing = (self.ahead - self.lock().ready.len().min(self.ahead)) as u64;
        let is_claimed = files + missing <= self.files_claimed.load(Ordering::Relaxed);
        (!is_claimed).then_some(files + missing)
    }

    /// The manifest has bytes for so many files.
    pub(crate) fn set_files_claimed(&self, files: u64) {
        self.files_claimed.store(files, Ordering::Relaxed);
    }

    /// How many files may be made beyond the budget: what compaction and removals need when the log buffers
    /// are full.
    pub(crate) fn beyond(&self) -> u64 {
        self.reserve.beyond()
    }

    /// How many chunks the stock should have.
    pub(crate) fn ahead(&self) -> u64 {
        self.ahead as u64
    }

    /// Waits until the stock may need work: true; or the store stops: false.
    pub(crate) fn wait_for_need(&self, timeout: Duration) -> bool {
        let state = self.lock();
        let full = state.no_space_bytes.is_some() || !self.may_make(state.ready.len());
        if state.stop || !full {
            return !state.stop;
        }
        let (state, _) = self
            .changed
            .wait_timeout(state, timeout)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        !state.stop
    }

    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// Whether a change must wait for chunks, so that what is in the buffers can still be written and
    /// compaction can go on. One load, unless the stock is not ample.
    #[inline]
    pub(crate) fn is_low(&self, space: Space) -> bool {
        let stock = self.stock.load(Ordering::Relaxed);
        stock < self.reserve.ample() && stock < self.wanted(space)
    }

    /// The stock that a change must find now.
    #[cold]
    fn wanted(&self, space: Space) -> usize {
        let wanted = self.reserve.wanted(space, self.buffered());
        if space != Space::Common {
            return wanted;
        }
        (wanted + self.debt.load(Ordering::Relaxed)).min(self.reserve.ample())
    }

    /// How many chunks what the log buffers hold needs, beside those that are being filled. To count these,
    /// too, would keep removals waiting that have room in them, and everybody waits for what those free.
    #[cold]
    fn buffered(&self) -> usize {
        self.rings.iter().map(|ring| ring.wanted_chunks()).sum()
    }

    /// Waits until there are as many as a change may count on: true; or `deadline` came, or `keep_on` says
    /// no: false.
    pub(crate) fn wait_for_space(
        &self,
        space: Space,
        deadline: Instant,
        keep_on: impl Fn() -> bool,
    ) -> bool {
        let mut state = self.lock();
        while state.ready.len() < self.wanted(space) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !keep_on() {
                return false;
            }
            let slice = left.min(Duration::from_millis(20));
            let waited = self.changed.wait_timeout(state, slice);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        true
    }

    /// Removes the chunks that were made and not used, at the end of a life. One that cannot be removed
    /// is found by the next.
    pub(crate) fn discard_stock(&self) {
        let stock = std::mem::take(&mut self.lock().ready);
        for FreshChunk { file, .. } in stock {
            self.files.fetch_sub(1, Ordering::Relaxed);
            if let Err(error) = self.disk.remove(file.name()) {
                tracing::warn!(%error, "a chunk that was never used stays behind");
            }
        }
    }

    /// The bytes that could not be had, while the disk is full.
    pub(crate) fn no_space_bytes(&self) -> Option<u64> {
        self.lock().no_space_bytes
    }

    pub(crate) fn chunk_size(&self) -> u64 {
        self.chunk_size
    }

    pub(crate) fn zero_fill_bytes(&self) -> u64 {
        self.zero_fill_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn next_file(&self) -> FileNumber {
        FileNumber(self.next_file.load(Ordering::Relaxed))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SupplyState> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn is_no_space(error: &IoError) -> bool {
    matches!(error.class, IoErrorClass::NoSpace { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_beyond_the_budget_removals_wait_and_compaction_gets_its_chunk() {
        let reserve = Reserve { buffers: 3, waste: 1, compaction: 2, removals: 1 };
        for buffered in 0..=3 {
            let near = reserve.made_for(reserve.beyond() - 1, buffered);
            assert_eq!(near, reserve.wanted(Space::Removal, buffered), "removals go on");
            let far = reserve.made_for(reserve.beyond(), buffered);
            assert!(far < reserve.wanted(Space::Removal, buffered), "removals make files for ever");
            assert!(far > buffered + reserve.waste, "a compaction finds no chunk");
        }
    }
}
