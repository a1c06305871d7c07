//! A round of compaction: its victims are copied one after the other, made durable together, and freed.
//!
//! Invariants: victims are handed out to be freed only after every block with a survivor of theirs is
//! flushed, and everything that was logged when the last of them was judged. A block holds survivors of one
//! victim, so what counts once they are freed ends with a block. Freeing that finds no space is tried again,
//! and nothing else is done meanwhile: else what was copied would be copied, and count, twice. A close gives
//! up what is not freed yet; it is void then.
//!
//! A part of the compactor's state machine.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::lines::Line;
use super::machine::{Asked, Compactor, IDLE_MS, Work};
use super::survivors::Position;
use crate::chunks::budget::rest_ms;
use crate::chunks::catalogue::Chunk;
use crate::durability::{Durability, Ticket};
use crate::io::AlignedBuf;

/// Victims that are freed together.
#[derive(Default)]
pub(super) struct Round {
    pub(super) left: VecDeque<Chunk>,
    pub(super) done: Vec<Chunk>,
    /// A victim that waits, half copied, until the others are freed, and its first block.
    pub(super) halted: Option<(Copying, u64)>,
    /// The first block with survivors of a victim that is not among `done`.
    pub(super) first_block: u64,
    /// Whether anything was copied of which the victim is not freed.
    pub(super) is_owed: bool,
    pub(super) began_ms: u64,
    /// Freeing found no space, and is tried again then.
    pub(super) free_at_ms: u64,
}

/// A victim that is being copied: its directory's lines, its bytes, and how far it is.
pub(super) type Copying = (Chunk, Vec<Line>, AlignedBuf, Position);

impl Compactor {
    /// Has what was copied made durable, and what made the rest garbage.
    pub(super) fn end_round(&mut self, asked: &mut Asked) -> bool {
        self.output.seal(&mut asked.step);
        let tickets = if self.round.done.is_empty() { Vec::new() } else { self.ask_for_flush() };
        self.work = Work::Drain { tickets };
        true
    }

    /// Wants everything flushed that was logged so far; the tickets say when it is.
    pub(super) fn ask_for_flush(&self) -> Vec<Ticket> {
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

    pub(super) fn drain(
        &mut self,
        mut tickets: Vec<Ticket>,
        now_ms: u64,
        asked: &mut Asked,
    ) -> bool {
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
            self.begin_survey(now_ms);
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
            self.set_freeing(false);
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
            self.note_freed(chunk.id);
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
