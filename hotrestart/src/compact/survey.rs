//! When facts of absence are surveyed, which of them, and the order in which the chunks are read for it.
//!
//! Invariant: a survey ends with a result only when every chunk was read, or durably freed, that was there
//! when it began; what was copied until then is in a chunk that ended before. What comes meanwhile holds
//! nothing older than the facts that it judges: what writers log is newer, and what compaction copies is
//! current in memory, which is changed before a fact is logged; so no entry is copied that a fact in a full
//! chunk has ended. While any chunk is damaged, or unknown since damage was passed over, nothing is
//! forgotten.
//!
//! Surveys are made for what they free. A fact that was needed is so until a chunk is freed; so of a chunk's
//! facts that share is expected to go which was freed of all chunks since they were judged last. A survey is
//! due when that is worth what it reads: the directories of all chunks, some 7 % of the log at 239 B values.
//! It takes as many facts as its share of memory has room for, those first that wait longest. Where nothing
//! else can be compacted it is made whatever it costs, so that puts that wait do not do so for good. Rounds
//! of compaction go on beside it, by turns.
//!
//! A part of the compactor's state machine.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::facts::FactKeys;
use super::lines::{self, Line};
use super::machine::{Asked, Compactor, Work};
use super::pins::Pins;
use crate::chunks::catalogue::{Chunk, Forgettable};
use crate::format::{ChunkId, LineKind};
use crate::io::AlignedBuf;

/// What may be read for each byte that a survey frees, by what compaction reads and writes for one: what is
/// forgotten is not copied again and again.
const READ_FOR_PRICE: f64 = 4.0;
/// Chunks' worth of bytes that a survey reads between two rounds of compaction.
const SLICE_CHUNKS: usize = 2;
/// Above this pressure a survey shares the time with compaction.
const SHARES: f64 = 0.5;
/// A survey of which nothing is known to come is made after this many times what the last one took.
const REST: u64 = 8;
/// What surveys may be known to find, by what is expected.
const FOUND_SHARE: (f64, f64) = (1.0 / 16.0, 4.0);
/// This part of all chunks comes or goes before it is asked again whether a survey is worth it.
const LOOKS: u64 = 256;
/// Facts that a survey takes where surveys are made often.
const FACTS_OFTEN: u64 = 200;
/// Room for a key in a survey for so many bytes of the log, at least: to few facts beside many entries each
/// would seem to have one.
const BYTES_PER_KEY: u64 = 1024;
/// Lines that are looked at together.
const GROUP: usize = 64;
/// The part of the memory limit that the keys of a survey may take, on top of it, at 3 bytes each.
const MEMORY_SHARE: u64 = 64 * 3;

/// The survey under way, and what is known of former ones.
pub(crate) struct Surveys {
    /// One begins as soon as what was copied is durable.
    is_wanted: bool,
    under_way: Option<Box<Survey>>,
    /// Whenever one may find anything, for tests.
    is_often: bool,
    /// Facts that one survey takes, at most.
    facts_max: u64,
    /// How many there were.
    count: u64,
    /// What they found by what was expected of them, the last ones weighing most. More, as a rule, where
    /// victims are the chunks of what was removed.
    found_share: f64,
    ended_ms: u64,
    took_ms: u64,
    /// Chunks that had come and gone when none was due.
    not_due_at: u64,
}

impl Surveys {
    /// Surveys of a store with this memory limit. The facts of one chunk have room in any case, unless
    /// surveys are made often, for tests.
    pub(crate) fn new(memory_limit_bytes: u64, chunk_size: u64, is_often: bool) -> Surveys {
        let facts_max = (memory_limit_bytes / MEMORY_SHARE).max(chunk_size / 16);
        Surveys {
            is_wanted: false,
            under_way: None,
            is_often,
            facts_max: if is_often { FACTS_OFTEN } else { facts_max },
            count: 0,
            found_share: 1.0,
            ended_ms: 0,
            took_ms: 0,
            not_due_at: 0,
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// One has ended, and found this share of what was expected.
    fn note(&mut self, found_share: f64, ended_ms: u64, took_ms: u64) {
        let found_share = found_share.clamp(FOUND_SHARE.0, FOUND_SHARE.1);
        self.found_share = (self.found_share + found_share) / 2.0;
        (self.ended_ms, self.took_ms, self.not_due_at) = (ended_ms, took_ms, 0);
    }
}

/// Of a chunk's facts: how many there are, the bytes of those that would be kept, and the share of all chunks
/// that was freed since they were judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) facts: u64,
    pub(super) kept_bytes: f64,
    pub(super) freed_share: f64,
}

impl Waiting {
    /// Bytes of facts that a survey is expected to let go.
    fn expected_bytes(&self) -> f64 {
        self.kept_bytes * self.freed_share
    }
}

/// A survey under way.
struct Survey {
    keys: FactKeys,
    /// Chunks whose facts are still to be taken in, those in which entries of them are to be looked for, and
    /// those whose facts are to be judged.
    left: [VecDeque<Chunk>; 3],
    /// Chunks that this life had freed when it began. What was freed since may have made facts needed.
    freed_before: u64,
    /// Chunks that were freed since, which need not be read, nor could they.
    gone: HashSet<ChunkId>,
    /// Bytes that may be read before the next round.
    slice_left: usize,
    /// Of chunks whose facts were judged since the last round, those that may be forgotten.
    judged: HashMap<ChunkId, Forgettable>,
    pins: Pins,
    /// Bytes of facts that it let go, and those that it was expected to.
    forgotten_bytes: f64,
    expected_bytes: f64,
    began_ms: u64,
}

impl Survey {
    /// The chunk to be read next, if there is one.
    fn next(&mut self) -> Option<Chunk> {
        for left in &mut self.left {
            while left.pop_front_if(|chunk| self.gone.contains(&chunk.id)).is_some() {}
            if let Some(chunk) = left.front() {
                return Some(chunk.clone());
            }
        }
        None
    }
}

impl Compactor {
    /// Whether a survey is to be begun since it is worth what it costs. Of many chunks a few that come or go
    /// change little, and to look at all of them is no work for every round.
    pub(super) fn is_survey_due(&mut self) -> bool {
        let chunks = self.candidates.len() as u64;
        let come_and_gone = chunks + 2 * self.state.freed.load(Ordering::Relaxed);
        if come_and_gone < self.surveys.not_due_at + chunks / LOOKS {
            return false;
        }
        let is_due = self.is_survey_worth_it();
        self.surveys.not_due_at = if is_due { 0 } else { come_and_gone };
        is_due
    }

    fn is_survey_worth_it(&self) -> bool {
        let chunk_size = self.shared.supply.chunk_size() as f64;
        let found_share = self.surveys.found_share;
        let expected: f64 = self.waiting().map(|(_, waiting)| waiting.expected_bytes()).sum();
        if self.surveys.is_often {
            return expected > 0.0 && self.may_survey();
        }
        if expected * found_share < chunk_size || !self.may_survey() {
            return false;
        }
        let plan = self.plan();
        let expected = plan.expected_bytes * found_share;
        let read_max = (self.candidates.price() * READ_FOR_PRICE).max(1.0);
        expected >= chunk_size && self.to_be_read(&plan.chunks) as f64 <= expected * read_max
    }

    /// Whether one is to be begun since nothing else can be done.
    pub(super) fn is_survey_the_last_resort(&self, now_ms: u64) -> bool {
        let chunk_size = self.shared.supply.chunk_size() as f64;
        let (kept, expected) = self.waiting().fold((0.0, 0.0), |(kept, expected), (_, waiting)| {
            (kept + waiting.kept_bytes, expected + waiting.expected_bytes())
        });
        let rested = now_ms >= self.surveys.ended_ms + REST * self.surveys.took_ms.max(1);
        (expected >= chunk_size || kept >= chunk_size && rested) && self.may_survey()
    }

    fn may_survey(&self) -> bool {
        self.surveys.under_way.is_none()
            && self.shared.may_forget.load(Ordering::Relaxed)
            && self.state.damage().is_empty()
    }

    fn waiting(&self) -> impl Iterator<Item = (&Chunk, Waiting)> {
        self.candidates.waiting(self.state.freed.load(Ordering::Relaxed))
    }

    fn plan(&self) -> Plan<'_> {
        Plan::of(self.waiting().collect(), self.surveys.facts_max)
    }

    /// Bytes that a survey of the facts of these chunks reads.
    fn to_be_read(&self, judged: &[&Chunk]) -> u64 {
        let chunk_size = self.shared.supply.chunk_size() as usize;
        let of = |chunk: &Chunk| lines::wanted_to_survey(chunk, chunk_size).len() as u64;
        let all: u64 = self.candidates.chunks().map(of).sum();
        all + 2 * judged.iter().map(|chunk| of(chunk)).sum::<u64>()
    }

    /// Has a survey begin once the chunk that survivors are copied to has ended, and is known.
    pub(super) fn want_survey(&mut self, asked: &mut Asked) -> bool {
        self.output.end_chunk(&mut asked.step);
        self.surveys.is_wanted = true;
        self.work = Work::Drain { tickets: Vec::new() };
        true
    }

    /// Begins a survey if one is wanted. What was copied is durable.
    pub(super) fn begin_survey(&mut self, now_ms: u64) {
        if !std::mem::take(&mut self.surveys.is_wanted) || self.closing {
            return;
        }
        let plan = self.plan();
        let judged: VecDeque<Chunk> =
            plan.chunks.iter().map(|chunk| chunk.without_samples()).collect();
        let all = self.candidates.chunks().map(Chunk::without_samples).collect();
        let log_bytes = self.candidates.len() as u64 * self.shared.supply.chunk_size();
        let facts = plan.facts.max(log_bytes / BYTES_PER_KEY).min(self.surveys.facts_max);
        let freed = self.state.freed.load(Ordering::Relaxed);
        let survey = Survey {
            keys: FactKeys::new(facts, self.surveys.count),
            expected_bytes: plan.expected_bytes,
            left: [judged.clone(), all, judged],
            freed_before: freed,
            gone: HashSet::new(),
            slice_left: 0,
            judged: HashMap::new(),
            pins: Pins::default(),
            forgotten_bytes: 0.0,
            began_ms: now_ms,
        };
        self.surveys.count += 1;
        self.stamps.refresh();
        self.surveys.under_way = Some(Box::new(survey));
    }

    /// Whether it is a survey's turn rather than a round's.
    pub(super) fn is_surveys_turn(&self, pressure: f64, is_resting: bool) -> bool {
        let Some(survey) = &self.surveys.under_way else { return false };
        is_resting || pressure < SHARES || survey.slice_left > 0
    }

    /// It is a round's turn, with what the survey has found so far, and then the survey's. False when there
    /// is none.
    pub(super) fn end_surveys_turn(&mut self) -> bool {
        let Some(survey) = &mut self.surveys.under_way else { return false };
        survey.forgotten_bytes +=
            self.candidates.note_judged(&mut survey.judged, survey.freed_before);
        survey.slice_left = SLICE_CHUNKS * self.shared.supply.chunk_size() as usize;
        true
    }

    /// A chunk is free: a survey that is under way does not read it.
    pub(super) fn note_freed(&mut self, chunk: ChunkId) {
        if let Some(survey) = &mut self.surveys.under_way {
            survey.gone.insert(chunk);
        }
    }

    /// Gives a survey up.
    pub(super) fn end_survey(&mut self) {
        self.surveys.under_way = None;
    }

    /// Reads the next chunk of the survey, or ends it. No round is under way: what was chosen for the last
    /// one is free, or a candidate again.
    pub(super) fn survey(&mut self, rest_until_ms: u64, asked: &mut Asked) -> bool {
        self.work = Work::Rest { until_ms: rest_until_ms };
        let (chunk_size, now_ms) = (self.shared.supply.chunk_size() as usize, self.now_ms);
        let Some(mut survey) = self.surveys.under_way.take() else { return true };
        if !self.may_survey() {
            return true;
        }
        let Some(chunk) = survey.next() else {
            let found = survey.forgotten_bytes
                + self.candidates.note_judged(&mut survey.judged, survey.freed_before);
            self.candidates.note_pins(&survey.pins, survey.freed_before);
            let took_ms = now_ms.saturating_sub(survey.began_ms);
            // A chunk's worth more of both: what little was expected tells nothing.
            let chunk_size = chunk_size as f64;
            let found_share = (found + chunk_size) / (survey.expected_bytes + chunk_size);
            self.surveys.note(found_share, now_ms, took_ms);
            return true;
        };
        let Some(buf) = self.victim_buf.take() else {
            self.surveys.under_way = Some(survey);
            return false;
        };
        let at: Range<usize> = lines::wanted_to_survey(&chunk, chunk_size);
        survey.slice_left = survey.slice_left.saturating_sub(at.len());
        match self.begin_read(&chunk, &at, buf, asked) {
            Ok(()) => {
                self.surveys.under_way = Some(survey);
                self.work = Work::SurveyRead { chunk, at, rest_until_ms };
            }
            Err(error) if error.is_temporary() => self.surveys.under_way = Some(survey),
            Err(error) => self.state.damaged(&chunk, &error.to_string()),
        }
        true
    }

    /// Takes what was read into the survey.
    ///
    /// # Errors
    /// Says what is damaged, and where.
    pub(super) fn take_surveyed(
        &mut self,
        chunk: &Chunk,
        (bytes, at): (&AlignedBuf, &Range<usize>),
    ) -> Result<(), String> {
        let Some(survey) = &mut self.surveys.under_way else { return Ok(()) };
        let bytes = (&bytes[..at.len()], at);
        let (keys, known) = (&mut survey.keys, &chunk.forgettable);
        let in_groups = |wanted: &dyn Fn(&Line) -> bool, take: &mut dyn FnMut(&[Line])| {
            let mut group = Vec::with_capacity(GROUP);
            lines::each(chunk, chunk.binding(self.store), bytes, &self.hash, |line| {
                if wanted(&line) {
                    group.push(line);
                    if group.len() == GROUP {
                        take(&group);
                        group.clear();
                    }
                }
            })?;
            take(&group);
            Ok::<(), String>(())
        };
        let stage = survey.left.iter().position(|left| !left.is_empty()).unwrap_or(2);
        match stage {
            0 => in_groups(&is_fact, &mut |facts| keys.take(facts))?,
            1 => {
                let pins = &mut survey.pins;
                in_groups(&is_entry, &mut |entries| {
                    keys.look_at(entries, |entry| pins.offer(entry));
                })?;
                survey.pins.end_chunk(chunk.id, &self.stamps);
            }
            _ => {
                let (mut forgettable, mut number) = (known.clone(), 0);
                in_groups(&is_fact, &mut |facts| {
                    keys.judge(facts, |is_needed| {
                        if !is_needed {
                            forgettable.insert(number);
                        }
                        number += 1;
                    });
                })?;
                survey.judged.insert(chunk.id, forgettable);
            }
        }
        survey.left[stage].pop_front();
        Ok(())
    }
}

fn is_fact(line: &Line) -> bool {
    line.line.kind.is_fact()
}

fn is_entry(line: &Line) -> bool {
    matches!(line.line.kind, LineKind::Entry | LineKind::Head)
}

/// The facts that the next survey is about.
struct Plan<'a> {
    chunks: Vec<&'a Chunk>,
    /// How many they are.
    facts: u64,
    /// What those of them take that are expected to go.
    expected_bytes: f64,
}

impl<'a> Plan<'a> {
    /// Those that wait longest, the oldest first, `facts_max` at most but for the first chunk's.
    fn of(mut waiting: Vec<(&'a Chunk, Waiting)>, facts_max: u64) -> Plan<'a> {
        waiting.sort_by(|(one, of_one), (other, of_other)| {
            let by_wait = of_other.freed_share.total_cmp(&of_one.freed_share);
            by_wait.then(one.youngest.cmp(&other.youngest))
        });
        let mut plan = Plan { chunks: Vec::new(), facts: 0, expected_bytes: 0.0 };
        for (chunk, waiting) in waiting {
            if !plan.chunks.is_empty() && plan.facts + waiting.facts > facts_max {
                break;
            }
            plan.chunks.push(chunk);
            plan.facts += waiting.facts;
            plan.expected_bytes += waiting.expected_bytes();
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FileNumber, LifeNumber};

    fn chunk(id: u64, judged_at: u64) -> Chunk {
        Chunk {
            id: ChunkId(id),
            file: FileNumber(1),
            life: LifeNumber(1),
            writer: 0,
            blocks: 0..1,
            directory: None,
            youngest: id,
            absences: 100,
            absence_bytes: 4_800,
            has_runs: false,
            samples: Box::default(),
            places: 0,
            forgettable: Forgettable::default(),
            judged_at: Some(judged_at),
            pinned_bytes: 0.0,
            is_charged: false,
        }
    }

    /// What a plan takes, when so many chunks were freed, of which there are 1000.
    fn planned(chunks: &[Chunk], freed: u64, facts_max: u64) -> Vec<u64> {
        let waiting = |chunk: &Chunk| Waiting {
            facts: 100,
            kept_bytes: 4_800.0,
            freed_share: (freed - chunk.judged_at.expect("known")) as f64 / 1000.0,
        };
        let waiting = chunks.iter().map(|chunk| (chunk, waiting(chunk))).collect();
        Plan::of(waiting, facts_max).chunks.iter().map(|chunk| chunk.id.0).collect()
    }

    #[test]
    fn surveys_that_cannot_take_all_facts_take_them_in_turn() {
        let mut chunks: Vec<Chunk> = (1..=10).map(|id| chunk(id, 0)).collect();
        let mut judged = Vec::new();
        for freed in 1..=4 {
            let planned = planned(&chunks, freed, 350);
            for chunk in chunks.iter_mut().filter(|chunk| planned.contains(&chunk.id.0)) {
                chunk.judged_at = Some(freed);
            }
            judged.extend(planned);
        }
        assert_eq!(judged, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2], "those that wait longest first");
    }

    #[test]
    fn a_chunk_with_more_facts_than_a_survey_takes_is_taken_alone() {
        assert_eq!(planned(&[chunk(1, 0), chunk(2, 0)], 5, 30), [1]);
        assert_eq!(planned(&[], 5, 30), [0_u64; 0]);
    }

    #[test]
    fn surveys_that_find_nothing_are_expected_to_find_less_and_never_nothing() {
        let mut surveys = Surveys::new(64 << 20, 256 << 10, false);
        (0..100).for_each(|ended_ms| surveys.note(0.0, ended_ms, 1));
        assert!((0.06..0.07).contains(&surveys.found_share), "{}", surveys.found_share);
        (0..100).for_each(|ended_ms| surveys.note(1e9, ended_ms, 1));
        assert!((3.9..=4.0).contains(&surveys.found_share), "{}", surveys.found_share);
    }
}
