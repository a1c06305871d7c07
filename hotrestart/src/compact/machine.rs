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

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdstore::{IndexHash, Stamps};

use super::choose::Candidates;
use super::facts::{Left, Survey, Surveys};
use super::lines::{self, Line};
use super::state::State;
use super::survivors::{self, Output, Position, Sources, Stop};
use crate::chunks::blocks::{Blocks, Step};
use crate::chunks::budget::{pressure, rest_ms};
use crate::chunks::catalogue::Chunk;
use crate::durability::{Durability, Ticket};
use crate::format::StoreId;
use crate::io::{AlignedBuf, Completion, Disk, IoBuf, Op, OpenMode};
use crate::log::{DiskLog, Shared};

/// Victims of one round at most.
const VICTIMS_MAX: usize = 16;
/// Buffers of survivors on their way to the device.
const BUFFERS: usize = 3;
/// How often an idle compactor looks around, in milliseconds.
const IDLE_MS: u64 = 20;
const READ_TOKEN: u64 = 1 << 62;

/// The state machine.
pub(crate) struct Compactor {
    pub(super) shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    memory: hdstore::Store<DiskLog>,
    stamps: Stamps<DiskLog>,
    pub(super) state: Arc<State>,
    store: StoreId,
    hash: IndexHash,
    pub(super) candidates: Candidates,
    output: Output,
    pub(super) work: Work,
    round: Round,
    /// Blocks below this count: they hold survivors of victims that are freed.
    kept: u64,
    pub(super) victim_buf: Option<AlignedBuf>,
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
    /// It is found out which facts of absence may be forgotten: the next chunk is due.
    Survey { survey: Survey, left: Left },
    /// A chunk's directory is being read for that.
    SurveyRead { survey: Survey, left: Left, chunk: Chunk, at: Range<usize> },
}

/// Victims that are freed together.
#[derive(Default)]
struct Round {
    left: VecDeque<Chunk>,
    done: Vec<Chunk>,
    /// A victim that waits, half copied, until the others are freed, and its first block.
    halted: Option<(Copying, u64)>,
    /// The first block with survivors of a victim that is not among `done`.
    first_block: u64,
    /// Whether anything was copied of which the victim is not freed.
    is_owed: bool,
    began_ms: u64,
    /// Freeing found no space, and is tried again then.
    free_at_ms: u64,
}

/// A victim that is being copied: its directory's lines, its bytes, and how far it is.
type Copying = (Chunk, Vec<Line>, AlignedBuf, Position);

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
            closing: false,
            surveys: Surveys::default(),
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
            chunk.is_charged = false;
        }
        self.candidates.add(chunk);
        self.state.chunks.store(self.candidates.len() as u64, Ordering::Relaxed);
    }

    /// Goes on with the work. False when there is nothing to do before something happens.
    fn go_on(&mut self, now_ms: u64, asked: &mut Asked) -> bool {
        match std::mem::replace(&mut self.work, Work::Next) {
            Work::Rest { until_ms } => self.begin(until_ms, now_ms, asked),
            Work::Next => self.next_victim(asked),
            Work::Copy(copying) => self.copy(copying, asked),
            Work::Drain { tickets } => self.drain(tickets, now_ms, asked),
            Work::Survey { survey, left } => self.survey(survey, left, now_ms, asked),
            work @ (Work::Read { .. } | Work::SurveyRead { .. } | Work::Free) => {
                self.work = work;
                false
            }
        }
    }

    /// Begins a round when there is pressure and something to gain.
    fn begin(&mut self, until_ms: u64, now_ms: u64, asked: &mut Asked) -> bool {
        self.work = Work::Rest { until_ms: until_ms.max(now_ms + 1) };
        if self.closing {
            self.output.end_chunk(&mut asked.step);
            return false;
        }
        let pressure = self.pressure();
        // Who must not wait is not kept waiting by a rest that was chosen when there was time.
        if pressure == 0.0 || (now_ms < until_ms && pressure < 0.9) {
            self.work = Work::Rest { until_ms: until_ms.max(now_ms + 1).min(now_ms + IDLE_MS) };
            return false;
        }
        if self.is_survey_due() {
            // Whatever was copied so far must be among the chunks that are read.
            self.output.end_chunk(&mut asked.step);
            self.work = Work::Drain { tickets: Vec::new() };
            self.surveys.wanted = true;
            return true;
        }
        self.stamps.refresh();
        let clock = self.shared.counters.clock.load(Ordering::Relaxed);
        let victims = self.candidates.choose(VICTIMS_MAX, clock, &self.stamps, &self.shared.runs);
        if victims.is_empty() {
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

    fn pressure(&self) -> f64 {
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
        let next = if self.closing { None } else { self.round.left.pop_front() };
        let Some(victim) = next else {
            self.round.left.drain(..).for_each(|chunk| self.candidates.add(chunk));
            return self.end_round(asked);
        };
        let Some(buf) = self.victim_buf.take() else {
            self.round.left.push_front(victim);
            return false;
        };
        let at = lines::wanted(&victim, self.shared.supply.chunk_size() as usize);
        if self.begin_read(&victim, &at, buf, asked) {
            self.work = Work::Read { victim, at };
        }
        true
    }

    fn take_read(&mut self, completion: Completion) {
        let buf =
            completion.buf.and_then(IoBuf::into_aligned).expect("a read gives its buffer back");
        let (chunk, at, survey) = match std::mem::replace(&mut self.work, Work::Next) {
            Work::Read { victim, at } => (victim, at, None),
            Work::SurveyRead { survey, left, chunk, at } => (chunk, at, Some((survey, left))),
            _ => unreachable!("one chunk is read at a time"),
        };
        let binding = chunk.binding(self.store);
        let read = match completion.result {
            Ok(_) => lines::read(&chunk, binding, &buf[..at.len()], &at, &self.hash),
            Err(error) => Err(error.to_string()),
        };
        match (read, survey) {
            (Ok(lines), None) if survivors::has_pending(&lines, &self.shared.runs) => {
                self.candidates.add(chunk);
            }
            (Ok(lines), None) => {
                self.work = Work::Copy((chunk, lines, buf, Position::default()));
                return;
            }
            (Ok(lines), Some((survey, left))) => self.take_lines(survey, left, &chunk, &lines),
            (Err(what), survey) => {
                self.state.damaged(&chunk, &what);
                if survey.is_some() {
                    self.work = Work::Rest { until_ms: 0 };
                }
            }
        }
        self.victim_buf = Some(buf);
    }

    /// Begins to read a part of a chunk. Gives the chunk back when it cannot be opened, which is told.
    pub(super) fn begin_read(
        &mut self,
        chunk: &Chunk,
        at: &Range<usize>,
        mut buf: AlignedBuf,
        asked: &mut Asked,
    ) -> bool {
        let file = match self.disk.open(&chunk.file.file_name(), OpenMode::Read) {
            Ok(file) => file,
            Err(error) => {
                self.victim_buf = Some(buf);
                self.state.damaged(chunk, &error.to_string());
                return false;
            }
        };
        buf.set_len(at.len());
        let op = Op::Read { file, offset: at.start as u64, buf: buf.into(), len: at.len() };
        asked.step.submissions.push((READ_TOKEN, op));
        true
    }

    fn copy(&mut self, (victim, lines, bytes, mut position): Copying, asked: &mut Asked) -> bool {
        let sources = Sources {
            stamps: &self.stamps,
            runs: &self.shared.runs,
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

    /// Has what was copied made durable, and what made the rest garbage.
    fn end_round(&mut self, asked: &mut Asked) -> bool {
        self.output.seal(&mut asked.step);
        let tickets = if self.round.done.is_empty() { Vec::new() } else { self.ask_for_flush() };
        self.work = Work::Drain { tickets };
        true
    }

    /// Wants everything flushed that was logged so far; the tickets say when it is.
    fn ask_for_flush(&self) -> Vec<Ticket> {
        let writers = 0..self.shared.lanes.len() as u32;
        let tickets: Vec<Ticket> =
            writers.filter_map(|writer| self.shared.last_ticket(writer)).collect();
        for ticket in &tickets {
            let lane = &self.shared.lanes[ticket.writer as usize];
            if lane.progress.want(ticket.buffer, Durability::Synced) {
                lane.ring.wake_writer();
            }
        }
        tickets
    }

    fn drain(&mut self, mut tickets: Vec<Ticket>, now_ms: u64, asked: &mut Asked) -> bool {
        tickets.retain(|ticket| {
            let lane = &self.shared.lanes[ticket.writer as usize];
            !lane.progress.reached(ticket.buffer, Durability::Synced)
        });
        if self.closing && (!tickets.is_empty() || self.round.free_at_ms > 0) {
            // The writers may lack the chunks to go on: nothing is freed then, and nothing lost.
            self.round.done.drain(..).for_each(|chunk| self.candidates.add(chunk));
            tickets.clear();
        }
        let is_due = now_ms >= self.round.free_at_ms || self.closing;
        if !tickets.is_empty() || !self.output.blocks.is_flushed() || !is_due {
            self.work = Work::Drain { tickets };
            return false;
        }
        if self.round.done.is_empty() {
            self.work =
                if self.round.halted.is_some() { Work::Next } else { Work::Rest { until_ms: 0 } };
            if std::mem::take(&mut self.surveys.wanted) && !self.closing {
                self.begin_survey();
            }
            return true;
        }
        asked.free.append(&mut self.round.done);
        asked.blocks = match &self.round.halted {
            Some((_, first_block)) => *first_block,
            None => self.output.blocks.flushed(),
        };
        self.work = Work::Free;
        false
    }

    /// The chunks that the last step asked to free are free, and its blocks count; or none of it, for want of
    /// space: then it is tried again, since what was copied must not be copied once more.
    pub(crate) fn freed(&mut self, now_ms: u64, asked: Asked, is_free: bool) {
        if !is_free {
            self.round.done = asked.free;
            self.round.free_at_ms = now_ms + IDLE_MS;
            self.work = Work::Drain { tickets: Vec::new() };
            return;
        }
        for chunk in asked.free {
            if chunk.is_charged {
                self.memory.refund_log(chunk.memory_bytes());
            }
            self.state.freed.fetch_add(1, Ordering::Relaxed);
        }
        self.kept = asked.blocks;
        self.round.is_owed = self.round.halted.is_some();
        self.round.free_at_ms = 0;
        self.state.chunks.store(self.candidates.len() as u64, Ordering::Relaxed);
        let worked_ms = now_ms.saturating_sub(self.round.began_ms);
        self.work = if self.round.left.is_empty() && self.round.halted.is_none() {
            Work::Rest { until_ms: now_ms + rest_ms(worked_ms, self.pressure()) }
        } else {
            Work::Next
        };
    }
}
