//! Runs: values that lie in parts, put together in the slot that they will stay in.
//!
//! Invariants: an entry in parts is entered once all its parts and its head are there, whatever their order,
//! and its checksum was compared over the whole; a run without a head is what a crash left of a put, and is
//! dropped. Values take no memory but their slot, into which their parts are copied. Chunks are taken from
//! the newest to the oldest, and heads of a chunk before its parts, so a part comes before its head only
//! where one thread is ahead of another: it is held, up to a chunk per thread in all, and of parts beyond
//! that only the place is remembered; those are read once more at the end (`rest.rs`).
//!
//! A run's id is unique in the store.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use hdstore::{Filling, Loading, Outline, Seq, Stamp};

use super::beyond::Relog;
use crate::error::OpenError;
use crate::format::record::body_crc;
use crate::format::{MapId, Record, StreamId};
use crate::log::{DiskLog, Shared};
use crate::runs::RunOf;

/// Where the bytes of a part are.
#[derive(Clone, Debug)]
pub(crate) enum PartPlace<'a> {
    /// In a chunk's file.
    File { name: Arc<str>, offset: usize, len: usize },
    /// Beyond the disk's end: in a log buffer or a block after the gap, which are in memory.
    Memory(&'a [u8]),
}

/// A part that was met.
pub(crate) struct Part<'a> {
    pub(crate) place: PartPlace<'a>,
    pub(crate) state: PartState,
}

/// Where the bytes of a part have got to.
pub(crate) enum PartState {
    /// In the value's slot.
    Placed,
    /// Here, until the head comes.
    Held(Box<[u8]>),
    /// Nowhere: they must be read again.
    Left,
}

/// What is known of a run.
#[derive(Default)]
pub(crate) struct Run<'a> {
    pub(crate) head: Option<Head>,
    pub(crate) parts: BTreeMap<u32, Part<'a>>,
    pub(crate) filling: Option<Filling<'a, DiskLog>>,
    /// Its entry is not wanted: it is over, gone, or left to another pass.
    is_over: bool,
}

impl Run<'_> {
    fn is_whole(&self) -> bool {
        let is_placed = |part: &Part<'_>| matches!(part.state, PartState::Placed);
        let count = self.head.as_ref().map(|head| head.count as usize);
        count == Some(self.parts.len()) && self.parts.values().all(is_placed)
    }

    /// Gives the slot back; what was placed there must be read again.
    pub(crate) fn give_up_slot(&mut self) {
        if self.filling.take().is_some() {
            self.parts.values_mut().for_each(|part| part.state = PartState::Left);
        }
    }

    /// Copies a part to the slot; false when it does not fit the value.
    pub(crate) fn place(&mut self, number: u32, bytes: &[u8]) -> bool {
        let (Some(head), Some(filling)) = (&self.head, &mut self.filling) else { return true };
        let offset = head.offset_of(number, bytes.len());
        let fits = number < head.count && filling.write(offset, bytes);
        if let Some(part) = self.parts.get_mut(&number) {
            part.state = PartState::Placed;
        }
        fits
    }
}

/// The record of an entry whose value is in parts.
pub(crate) struct Head {
    pub(crate) map: MapId,
    pub(crate) stream: StreamId,
    pub(crate) seq: u64,
    key: Box<[u8]>,
    value_len: u32,
    body_crc: u32,
    expiry: Option<u64>,
    pub(crate) count: u32,
    /// Whether the entry must be logged again.
    relog: bool,
}

impl Head {
    pub(crate) fn of(record: &Record<'_>, count: u32, relog: bool) -> Head {
        Head {
            map: record.map,
            stream: record.stream,
            seq: record.seq,
            key: record.key.into(),
            value_len: record.value_len,
            body_crc: record.body_crc,
            expiry: record.expiry,
            count,
            relog,
        }
    }

    /// Takes the entry's slot; `None` when it is not wanted.
    pub(crate) fn begin<'a>(
        &self,
        loading: &'a Loading<DiskLog>,
    ) -> Result<Option<Filling<'a, DiskLog>>, hdstore::Error> {
        loading.begin(&Outline {
            map: self.map,
            stream: self.stream,
            seq: Seq(self.seq),
            key: &self.key,
            value_len: u64::from(self.value_len),
            expiry_ms: self.expiry,
        })
    }

    /// Where a part's bytes lie in the value: all parts but the last are equally long.
    fn offset_of(&self, number: u32, len: usize) -> u64 {
        if number + 1 == self.count {
            return u64::from(self.value_len).saturating_sub(len as u64);
        }
        u64::from(number) * len as u64
    }

    /// Compares the checksum of the whole value and enters it; `Ok(Err)` says what is wrong with it.
    pub(crate) fn enter(
        self,
        filling: Filling<'_, DiskLog>,
        run: u64,
    ) -> Result<Result<Option<Relog>, String>, hdstore::Error> {
        let crc = body_crc(&self.key, filling.value(), self.expiry);
        if crc != self.body_crc {
            return Ok(Err(format!(
                "run {run}: {} bytes with checksum {crc:#010x}, expected {:#010x}",
                self.value_len, self.body_crc
            )));
        }
        filling.enter(Seq(self.seq))?;
        let Head { map, stream, seq, key, relog, .. } = self;
        Ok(Ok(relog.then(|| Relog { map, stream, key: Some(key.into_vec()), seq })))
    }
}

/// All runs under way.
pub(crate) struct Runs<'a> {
    loading: &'a Loading<DiskLog>,
    log: &'a Shared,
    state: Mutex<State<'a>>,
    held_max_bytes: usize,
}

#[derive(Default)]
struct State<'a> {
    runs: HashMap<u64, Run<'a>>,
    /// The parts that may be held, the oldest first.
    held: VecDeque<(u64, u32)>,
    held_bytes: usize,
}

impl State<'_> {
    /// Makes room for another part to be held; the oldest are let go.
    fn hold(&mut self, run: u64, number: u32, bytes: &[u8], max: usize) -> PartState {
        while self.held_bytes + bytes.len() > max {
            let Some((run, number)) = self.held.pop_front() else { return PartState::Left };
            let part = self.runs.get_mut(&run).and_then(|run| run.parts.get_mut(&number));
            if let Some(part) = part
                && let PartState::Held(bytes) = &part.state
            {
                self.held_bytes -= bytes.len();
                part.state = PartState::Left;
            }
        }
        self.held.push_back((run, number));
        self.held_bytes += bytes.len();
        PartState::Held(bytes.into())
    }

    /// Takes the held parts of a run out.
    fn take_held(&mut self, run: u64) -> Vec<(u32, Box<[u8]>)> {
        let Some(run) = self.runs.get_mut(&run) else { return Vec::new() };
        let mut taken = Vec::new();
        for (number, part) in &mut run.parts {
            if let PartState::Held(bytes) = &mut part.state {
                self.held_bytes -= bytes.len();
                taken.push((*number, std::mem::take(bytes)));
                part.state = PartState::Left;
            }
        }
        taken
    }
}

/// What became of a record of a run.
pub(crate) enum Added {
    /// The run is not whole yet.
    UnderWay,
    /// It is whole, and this must be logged again.
    Whole(Option<Relog>),
    /// It is not what its head says.
    Bad(String),
}

impl<'a> Runs<'a> {
    pub(crate) fn new(
        loading: &'a Loading<DiskLog>,
        log: &'a Shared,
        held_max_bytes: usize,
    ) -> Runs<'a> {
        Runs { loading, log, state: Mutex::default(), held_max_bytes }
    }

    /// Takes a head in. Without memory for its slot it is left to the end.
    pub(crate) fn add_head(&self, record: &Record<'_>, relog: bool) -> Result<Added, OpenError> {
        let Some(part) = record.part else { return Ok(Added::UnderWay) };
        let head = Head::of(record, part.number, relog);
        let (filling, is_over) = match head.begin(self.loading) {
            Err(hdstore::Error::Capacity { .. }) => (None, false),
            other => {
                let filling = other.map_err(OpenError::Memory)?;
                let is_over = filling.is_none();
                (filling, is_over)
            }
        };
        let mut state = self.lock();
        let run = state.runs.entry(part.run).or_default();
        if run.head.is_some() || run.is_over {
            return Ok(Added::UnderWay);
        }
        (run.head, run.filling, run.is_over) = (Some(head), filling, is_over);
        if run.filling.is_none() && !is_over {
            return Ok(Added::UnderWay);
        }
        let held = state.take_held(part.run);
        let Some(run) = state.runs.get_mut(&part.run) else { return Ok(Added::UnderWay) };
        if is_over {
            run.parts.clear();
            return Ok(Added::UnderWay);
        }
        let fits = held.iter().all(|(number, bytes)| run.place(*number, bytes));
        self.end_if_whole(state, part.run, fits)
    }

    /// Takes a part in: copies it to its slot if that is known.
    pub(crate) fn add_part(
        &self,
        record: &Record<'_>,
        place: PartPlace<'a>,
    ) -> Result<Added, OpenError> {
        let Some(part) = record.part else { return Ok(Added::UnderWay) };
        let mut state = self.lock();
        let run = state.runs.entry(part.run).or_default();
        if run.is_over || run.parts.contains_key(&part.number) {
            return Ok(Added::UnderWay);
        }
        run.parts.insert(part.number, Part { place, state: PartState::Left });
        if run.filling.is_some() {
            let fits = run.place(part.number, record.value);
            return self.end_if_whole(state, part.run, fits);
        }
        if run.head.is_none() {
            let max = self.held_max_bytes;
            let held = state.hold(part.run, part.number, record.value, max);
            let run = state.runs.get_mut(&part.run);
            if let Some(part) = run.and_then(|run| run.parts.get_mut(&part.number)) {
                part.state = held;
            }
        }
        Ok(Added::UnderWay)
    }

    /// Enters a run's value if all its parts are placed. The run stays known as over, for copies of its
    /// records that may come.
    fn end_if_whole(
        &self,
        mut state: std::sync::MutexGuard<'_, State<'a>>,
        number: u64,
        fits: bool,
    ) -> Result<Added, OpenError> {
        let Some(run) = state.runs.get_mut(&number) else { return Ok(Added::UnderWay) };
        if fits && !run.is_whole() {
            return Ok(Added::UnderWay);
        }
        let ended = std::mem::replace(run, Run { is_over: true, ..Run::default() });
        drop(state);
        if !fits {
            return Ok(Added::Bad(format!("run {number}: a part does not fit its value")));
        }
        self.enter(number, ended)
    }

    /// Enters the value of a run that is whole.
    pub(crate) fn enter(&self, number: u64, run: Run<'_>) -> Result<Added, OpenError> {
        let Run { head: Some(head), filling: Some(filling), .. } = run else {
            return Ok(Added::UnderWay);
        };
        // Compaction must know what the parts belong to.
        let (map, stream, seq) = (head.map, head.stream, Seq(head.seq));
        let stamp = Stamp { map, stream, hash: self.log.hash.of(&head.key), seq };
        let entered = head.enter(filling, number).map_err(OpenError::Memory)?;
        if entered.is_ok() {
            self.log.runs.set(number, RunOf::Entry(stamp));
        }
        Ok(entered.map_or_else(Added::Bad, Added::Whole))
    }

    /// Gives the slots of values that are not whole back.
    pub(crate) fn give_up_slots(&self) {
        for run in self.lock().runs.values_mut() {
            run.give_up_slot();
        }
    }

    /// Takes out what has a head and is not over, newest first, and forgets all the rest.
    pub(crate) fn take_unfinished(&self) -> VecDeque<(u64, Run<'a>)> {
        let all = std::mem::take(&mut *self.lock()).runs;
        let mut unfinished: Vec<(u64, Run<'a>)> =
            all.into_iter().filter(|(_, run)| run.head.is_some() && !run.is_over).collect();
        unfinished
            .sort_by_key(|(_, run)| std::cmp::Reverse(run.head.as_ref().map(|head| head.seq)));
        unfinished.into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
