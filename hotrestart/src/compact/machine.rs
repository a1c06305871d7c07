//! The compactor: a state machine from pressure to freed chunks.
//!
//! Invariant: a victim is handed out to be freed only after every block with a survivor of it is flushed,
//! and after everything that the putting threads had logged when it was judged is flushed, too; so whatever
//! made its records garbage survives what the victim would have survived. Nothing it does changes what the
//! store holds. Survivors count from the moment their victim is freed, by the same manifest; until then they
//! are void, so that an interrupted round leaves no record twice.
//!
//! `step` takes the time and completions, returns what to submit and which chunks to free; it reads the
//! memory store and never blocks, but for opening a victim's file. Driven by `drive.rs` and by simulations.
//! What may go wrong: a victim that cannot be read or is damaged is left alone and told (`State`); a failed
//! write or flush is poison.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdstore::{IndexHash, Stamps};

use super::choose::Candidates;
use super::implied::note_implied;
use super::lines;
use super::round::{Copying, Round};
use super::state::State;
use super::survey::Surveys;
use super::survivors::{self, Output, Position, Sources, Stop};
use crate::chunks::blocks::{Blocks, Step};
use crate::chunks::budget::{REST_BELOW, pressure};
use crate::chunks::catalogue::Chunk;
use crate::durability::Ticket;
use crate::format::StoreId;
use crate::io::{AlignedBuf, Completion, Disk, IoBuf, IoError, Op, OpenMode};
use crate::log::{DiskLog, Shared};

/// Victims of one round at most.
const VICTIMS_MAX: usize = 16;
/// Buffers of survivors on their way to the device.
const BUFFERS: usize = 3;
/// How often an idle compactor looks around, in milliseconds.
pub(super) const IDLE_MS: u64 = 20;
/// How long it waits when files cannot be opened for want of handles or kernel memory, in milliseconds.
const PAUSE_MS: u64 = 100;
const READ_TOKEN: u64 = 1 << 62;

/// The state machine.
pub(crate) struct Compactor {
    pub(super) shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    pub(super) memory: hdstore::Store<DiskLog>,
    pub(super) stamps: Stamps<DiskLog>,
    pub(super) state: Arc<State>,
    pub(super) store: StoreId,
    pub(super) hash: IndexHash,
    pub(super) candidates: Candidates,
    pub(super) output: Output,
    pub(super) work: Work,
    pub(super) round: Round,
    /// Blocks below this count: they hold survivors of victims that are freed.
    pub(super) kept: u64,
    pub(super) victim_buf: Option<AlignedBuf>,
    /// Nothing is begun before.
    paused_until_ms: u64,
    pub(super) now_ms: u64,
    pub(super) closing: bool,
    pub(super) surveys: Surveys,
}

/// What is being done.
pub(super) enum Work {
    /// Nothing, until a time.
    Rest { until_ms: u64 },
    /// Victims are copied, one after the other.
    Next,
    /// A victim is being read.
    Read { victim: Chunk, at: Range<usize> },
    /// Its survivors are being copied.
    Copy(Copying),
    /// Survivors, and what made the rest garbage, become durable.
    Drain { tickets: Vec<Ticket> },
    /// The driver frees what was done.
    Free,
    /// A chunk's directory is being read to find out which facts of absence may be forgotten; then there is
    /// rest until a time.
    SurveyRead { chunk: Chunk, at: Range<usize>, rest_until_ms: u64 },
}

/// What a step asks for.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) step: Step,
    /// Chunks to free, durably; then `freed` is called.
    pub(crate) free: Vec<Chunk>,
    /// Blocks of survivors below this count from then on.
    pub(crate) blocks: u64,
}

impl Compactor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        memory: hdstore::Store<DiskLog>,
        store: StoreId,
        blocks: Blocks,
        surveys: Surveys,
    ) -> Compactor {
        let chunk_size = shared.supply.chunk_size() as usize;
        Compactor {
            stamps: memory.stamps(),
            state: Arc::clone(&shared.compaction),
            hash: shared.hash.clone(),
            output: Output::new(blocks, chunk_size / 4, BUFFERS),
            shared,
            disk,
            memory,
            store,
            candidates: Candidates::default(),
            work: Work::Rest { until_ms: 0 },
            round: Round::default(),
            kept: 0,
            victim_buf: Some(AlignedBuf::zeroed(chunk_size)),
            paused_until_ms: 0,
            now_ms: 0,
            closing: false,
            surveys,
        }
    }

    /// From now on no victim is taken; what was copied is written and the chunk ended.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Whether nothing is left to be done before the end.
    pub(crate) fn is_drained(&self) -> bool {
        self.shared.poison.get().is_some()
            || (matches!(self.work, Work::Rest { .. }) && self.output.blocks.is_drained())
    }

    /// The number of blocks that count: what a clean close records, also when the compactor died before the
    /// store's end. Victims of which survivors lie beyond are still there.
    pub(crate) fn blocks(&self) -> u64 {
        if self.round.is_owed { self.kept } else { self.output.blocks.flushed() }
    }

    /// One step.
    pub(crate) fn step(&mut self, now_ms: u64, completions: Vec<Completion>, room: usize) -> Asked {
        self.now_ms = now_ms;
        let mut read = None;
        for mut completion in completions {
            if completion.token == READ_TOKEN {
                read = Some(completion);
                continue;
            }
            if let Some(buf) = completion.buf.take().and_then(IoBuf::into_aligned)
                && buf.capacity() == self.output.block_bytes()
            {
                self.output.give(buf);
            }
            if let Err(error) = self.output.blocks.complete(completion.token, completion) {
                self.shared.poison.set(error);
            }
        }
        let mut asked = Asked::default();
        if self.shared.poison.get().is_some() {
            return asked;
        }
        self.output.blocks.note_written(now_ms);
        self.output.blocks.note_flushed();
        for chunk in self.shared.catalogue.take_new() {
            self.enter(chunk);
        }
        if let Some(read) = read {
            self.take_read(read);
        }
        while asked.step.submissions.len() + 8 <= room && self.go_on(now_ms, &mut asked) {}
        if self.output.blocks.can_flush()
            && (self.closing || matches!(self.work, Work::Drain { .. }))
            && !self.output.blocks.has_writes()
        {
            self.output.blocks.begin_flush(0);
        }
        self.output.blocks.submit_flush(&mut asked.step, room);
        asked.step.again_in_ms = Some(match &self.work {
            Work::Rest { until_ms } => until_ms.saturating_sub(now_ms).clamp(1, IDLE_MS),
            Work::Read { .. } | Work::SurveyRead { .. } => IDLE_MS,
            _ => 1,
        });
        asked
    }

    fn enter(&mut self, mut chunk: Chunk) {
        if !self.memory.charge_log(chunk.memory_bytes()) {
            // At the memory limit a chunk is known by fewer records, which nobody charges.
            chunk.samples = chunk.samples.iter().step_by(8).copied().collect();
            chunk.places = chunk.places.div_ceil(8).max(chunk.samples.len() as u32);
            chunk.is_charged = false;
        }
        if let Some(judged_at) = &mut chunk.judged_at {
            *judged_at = self.state.freed.load(Ordering::Relaxed);
        }
        self.candidates.add(chunk);
        self.state.chunks.store(self.candidates.len() as u64, Ordering::Relaxed);
    }

    /// Goes on with the work. False when there is nothing to do before something happens.
    fn go_on(&mut self, now_ms: u64, asked: &mut Asked) -> bool {
        match std::mem::replace(&mut self.work, Work::Next) {
            Work::Rest { until_ms } => {
                let goes_on = self.begin(until_ms, now_ms, asked);
                let is_resting = matches!(self.work, Work::Rest { .. });
                self.set_freeing(!is_resting || self.surveys.is_under_way());
                goes_on
            }
            Work::Next => self.next_victim(asked),
            Work::Copy(copying) => self.copy(copying, asked),
            Work::Drain { tickets } => self.drain(tickets, now_ms, asked),
            work @ (Work::Read { .. } | Work::SurveyRead { .. } | Work::Free) => {
                self.work = work;
                false
            }
        }
    }

    /// Begins a round when there is pressure and something to gain.
    fn begin(&mut self, until_ms: u64, now_ms: u64, asked: &mut Asked) -> bool {
        self.work = Work::Rest { until_ms: until_ms.max(now_ms + 1) };
        self.state.gate.end_round();
        self.stamps.forget_dropped();
        if self.closing {
            self.end_survey();
            self.output.end_chunk(&mut asked.step);
            return false;
        }
        let pressure = self.pressure();
        // Who must not wait is not kept waiting by a rest that was chosen when there was time.
        let is_resting = now_ms < until_ms && pressure < REST_BELOW;
        if now_ms >= self.paused_until_ms && self.is_surveys_turn(pressure, is_resting) {
            return self.survey(until_ms, asked);
        }
        if pressure == 0.0 || is_resting || now_ms < self.paused_until_ms {
            return false;
        }
        if self.is_survey_due() {
            return self.want_survey(asked);
        }
        let has_survey = self.end_surveys_turn();
        if !self.state.gate.begin_round() {
            return false;
        }
        self.stamps.refresh();
        let clock = self.shared.counters.clock.load(Ordering::Relaxed);
        // Without chunks for survivors only what has none may be taken: nothing else could come to its end.
        let may_copy = self.output.blocks.has_chunk() || self.shared.supply.has_for_survivors();
        let limits = (VICTIMS_MAX, may_copy);
        let victims = self.candidates.choose(limits, clock, &self.stamps, &self.shared);
        if victims.is_empty() {
            self.state.gate.end_round();
            if has_survey {
                return true;
            }
            if pressure > 0.5 && self.is_survey_the_last_resort(now_ms) {
                return self.want_survey(asked);
            }
            // A full chunk can be compacted once it is flushed: who waits for that should not wait for a
            // timer.
            if pressure > 0.5 {
                self.ask_for_flush();
            }
            self.work = Work::Rest { until_ms: now_ms + IDLE_MS };
            return false;
        }
        let is_owed = self.round.is_owed;
        self.round = Round { left: victims.into(), is_owed, began_ms: now_ms, ..Round::default() };
        self.work = Work::Next;
        true
    }

    /// Says whether anybody may wait for what is freed.
    pub(super) fn set_freeing(&self, is_freeing: bool) {
        if self.shared.floor.set_freeing(is_freeing) {
            self.shared.pace();
        }
    }

    pub(super) fn pressure(&self) -> f64 {
        let (files, max) = self.shared.supply.files();
        if self.shared.supply.no_space_bytes().is_some() { 1.0 } else { pressure(files, max) }
    }

    /// Reads the next victim, or has what was copied made durable.
    fn next_victim(&mut self, asked: &mut Asked) -> bool {
        if let Some((copying, first_block)) = self.round.halted.take() {
            if self.closing {
                self.victim_buf = Some(copying.2);
                self.candidates.add(copying.0);
            } else {
                self.round.first_block = first_block;
                self.work = Work::Copy(copying);
                return true;
            }
        }
        // Who wants to hold chunks waits for the end of the round.
        let is_ending = self.closing || self.state.gate.is_awaited();
        let next = if is_ending { None } else { self.round.left.pop_front() };
        let Some(victim) = next else {
            self.round.left.drain(..).for_each(|chunk| self.candidates.add(chunk));
            return self.end_round(asked);
        };
        let Some(buf) = self.victim_buf.take() else {
            self.round.left.push_front(victim);
            return false;
        };
        let at = lines::wanted(&victim, self.shared.supply.chunk_size() as usize);
        match self.begin_read(&victim, &at, buf, asked) {
            Ok(()) => self.work = Work::Read { victim, at },
            Err(error) if error.is_temporary() => self.candidates.add(victim),
            Err(error) => self.set_aside(&victim, &error.to_string()),
        }
        true
    }

    fn take_read(&mut self, completion: Completion) {
        let buf =
            completion.buf.and_then(IoBuf::into_aligned).expect("a read gives its buffer back");
        let result = completion.result.map_err(|error| error.to_string());
        match std::mem::replace(&mut self.work, Work::Next) {
            Work::Read { victim, at } => return self.take_victim(victim, &at, buf, result),
            Work::SurveyRead { chunk, at, rest_until_ms } => {
                let taken = result.and_then(|_| self.take_surveyed(&chunk, (&buf, &at)));
                if let Err(what) = taken {
                    self.state.damaged(&chunk, &what);
                }
                self.work = Work::Rest { until_ms: rest_until_ms };
            }
            _ => unreachable!("one chunk is read at a time"),
        }
        self.victim_buf = Some(buf);
    }

    fn take_victim<T>(
        &mut self,
        mut victim: Chunk,
        at: &Range<usize>,
        buf: AlignedBuf,
        result: Result<T, String>,
    ) {
        let binding = victim.binding(self.store);
        let bytes = &buf[..at.len()];
        match result.and_then(|_| lines::read(&victim, binding, bytes, at, &self.hash)) {
            Ok(lines) => match survivors::pending_run(&lines, &self.shared.runs) {
                Some(run) => self.candidates.add_pending(victim, run),
                None => {
                    if at.start == 0 {
                        note_implied(&mut victim, &lines, &buf);
                    }
                    self.work = Work::Copy((victim, lines, buf, Position::default()));
                    return;
                }
            },
            Err(what) => self.set_aside(&victim, &what),
        }
        self.victim_buf = Some(buf);
    }

    /// Leaves a damaged victim as it is, for `inspect` and repair.
    fn set_aside(&mut self, victim: &Chunk, what: &str) {
        self.state.damaged(victim, what);
        if victim.is_charged {
            self.memory.refund_log(victim.memory_bytes());
        }
    }

    /// Begins to read a part of a chunk.
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub(super) fn begin_read(
        &mut self,
        chunk: &Chunk,
        at: &Range<usize>,
        mut buf: AlignedBuf,
        asked: &mut Asked,
    ) -> Result<(), IoError> {
        let file = match self.disk.open(&chunk.file.file_name(), OpenMode::Read) {
            Ok(file) => file,
            Err(error) => {
                self.victim_buf = Some(buf);
                if error.is_temporary() {
                    tracing::warn!(%error, "compaction waits");
                    self.paused_until_ms = self.now_ms + PAUSE_MS;
                }
                return Err(error);
            }
        };
        buf.set_len(at.len());
        let op = Op::Read { file, offset: at.start as u64, buf: buf.into(), len: at.len() };
        asked.step.submissions.push((READ_TOKEN, op));
        Ok(())
    }

    fn copy(&mut self, (victim, lines, bytes, mut position): Copying, asked: &mut Asked) -> bool {
        let sources = Sources {
            stamps: &self.stamps,
            runs: &self.shared.runs,
            clears: &self.shared.clears,
            victim: &bytes,
            clock: victim.youngest,
            may_forget: &|number| victim.forgettable.contains(number),
        };
        let step = &mut asked.step;
        if position == Position::default() {
            // A block holds survivors of one victim, so that they count together with its end.
            self.output.seal(step);
            self.round.first_block = self.output.blocks.next_number();
        }
        self.round.is_owed = true;
        match survivors::copy(&lines, &mut position, &sources, &mut self.output, step) {
            Stop::Done => {
                self.victim_buf = Some(bytes);
                self.round.done.push(victim);
                true
            }
            Stop::Pending => {
                self.victim_buf = Some(bytes);
                self.candidates.add(victim);
                true
            }
            Stop::Damaged { offset } => {
                self.victim_buf = Some(bytes);
                let what = format!("at {offset}: not the record that the directory lists there");
                self.set_aside(&victim, &what);
                true
            }
            Stop::NoChunk
                if self.round.done.is_empty()
                    && self.output.is_untouched_since(self.round.first_block) =>
            {
                // Another one may need no chunk, and give one. This one is chosen again when there is one.
                self.victim_buf = Some(bytes);
                self.candidates.add(victim);
                self.paused_until_ms = self.now_ms + PAUSE_MS;
                true
            }
            Stop::NoChunk if !self.round.done.is_empty() || self.closing => {
                // What is done is freed first; then this one goes on from where it is.
                let first_block = self.round.first_block;
                self.round.halted = Some(((victim, lines, bytes, position), first_block));
                self.end_round(asked)
            }
            Stop::NoChunk | Stop::NoBuffer => {
                self.work = Work::Copy((victim, lines, bytes, position));
                false
            }
        }
    }
}
