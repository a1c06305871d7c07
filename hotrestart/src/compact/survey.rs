//! When facts of absence are surveyed, and the order in which the chunks are read for it.
//!
//! Invariant: a survey ends with a result only when every chunk that is not durably free was read, and no
//! survivor is on its way: what was copied is in a chunk that ended before the survey began, and nothing is
//! compacted while it lasts. Chunks that writers fill meanwhile hold nothing older than the facts that were
//! there. While any chunk is damaged, or unknown since damage was passed over, nothing is forgotten.
//!
//! A part of the compactor's state machine. Cost: the directories of all chunks are read, some 7 % of the
//! log at 239 B values; so it is done when a sixteenth of the disk budget is facts.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::facts::{FACTS_MAX, Left, Survey};
use super::lines::{self, Line};
use super::machine::{Asked, Compactor, Work};
use crate::chunks::catalogue::Chunk;

/// Bytes of a fact in the log, for reckoning.
const FACT_BYTES: u64 = 32;
/// The part of the disk budget that facts may take before it is found out which may go.
const FACTS_SHARE: u64 = 16;

impl Compactor {
    /// Whether facts take so much that it is worth finding out which may go, and more may go than last time.
    pub(super) fn is_survey_due(&self) -> bool {
        let facts = self.candidates.facts();
        let (_, files_max) = self.shared.supply.files();
        let budget_bytes = files_max.saturating_mul(self.shared.supply.chunk_size());
        let freed = self.state.freed.load(Ordering::Relaxed) - self.surveys.freed;
        let has_news =
            facts * 4 > self.surveys.left * 5 || freed * 8 > self.candidates.len() as u64;
        facts * FACT_BYTES > budget_bytes / FACTS_SHARE
            && has_news
            && self.shared.may_forget.load(Ordering::Relaxed)
            && self.state.damage().is_empty()
    }

    pub(super) fn begin_survey(&mut self) {
        let mut with_facts: Vec<Chunk> =
            self.candidates.chunks().filter(|chunk| has_facts(chunk)).cloned().collect();
        // The oldest first: theirs are the likeliest to go.
        with_facts.sort_by_key(|chunk| chunk.youngest);
        let all = self.candidates.chunks().cloned().collect();
        let left = Left { with_facts: with_facts.into(), all };
        self.work = Work::Survey { survey: Survey::default(), left };
    }

    /// Reads the next chunk of a survey, or ends it.
    pub(super) fn survey(
        &mut self,
        survey: Survey,
        left: Left,
        now_ms: u64,
        asked: &mut Asked,
    ) -> bool {
        if self.closing {
            self.work = Work::Rest { until_ms: 0 };
            return true;
        }
        let next = if survey.len() < FACTS_MAX { left.with_facts.front() } else { None };
        let Some(chunk) = next.or(left.all.front()).cloned() else {
            self.candidates.note_forgettable(survey.finish());
            self.surveys.left = self.candidates.facts();
            self.surveys.freed = self.state.freed.load(Ordering::Relaxed);
            self.work = Work::Rest { until_ms: now_ms };
            return true;
        };
        let Some(buf) = self.victim_buf.take() else {
            self.work = Work::Survey { survey, left };
            return false;
        };
        let at: Range<usize> =
            lines::wanted_to_survey(&chunk, self.shared.supply.chunk_size() as usize);
        match self.begin_read(&chunk, &at, buf, asked) {
            Ok(()) => self.work = Work::SurveyRead { survey, left, chunk, at },
            Err(error) => {
                if !error.is_temporary() {
                    self.state.damaged(&chunk, &error.to_string());
                }
                self.work = Work::Rest { until_ms: now_ms };
            }
        }
        true
    }

    /// Takes what was read into a survey.
    pub(super) fn take_lines(
        &mut self,
        mut survey: Survey,
        mut left: Left,
        chunk: &Chunk,
        lines: &[Line],
    ) {
        let is_collecting = left.with_facts.front().is_some_and(|next| next.id == chunk.id)
            && survey.len() < FACTS_MAX;
        if is_collecting {
            left.with_facts.pop_front();
            survey.collect(chunk.id, lines);
        } else {
            left.all.pop_front();
            survey.look_at(lines);
        }
        self.work = Work::Survey { survey, left };
    }
}

fn has_facts(chunk: &Chunk) -> bool {
    chunk.absences > chunk.forgettable.count()
}
