//! Facts of absence: which of them may be forgotten.
//!
//! Invariant: a fact may be forgotten when no chunk that is not durably free holds an older entry of its key.
//! That stays so: later records are newer, and compaction copies no entry that a fact has ended. So what a
//! survey finds is true for good. A clear is a fact of every key of its table. Keys are told apart by their
//! hashes: two that share one can only make a fact stay longer.
//!
//! A survey reads the directories of all chunks, those with facts first. It holds `FACTS_MAX` facts at most,
//! some 60 bytes each; with more than that in the log there are several surveys. Caller: the compactor, when
//! enough of the disk budget is facts. See `docs/compaction.md`.

use std::collections::{HashMap, VecDeque};

use super::lines::Line;
use crate::chunks::catalogue::{Chunk, Forgettable};
use crate::format::{ChunkId, LineKind};

/// Facts that one survey looks at, at most.
pub(crate) const FACTS_MAX: usize = 1 << 19;

/// The chunks that a survey has still to read.
#[derive(Default)]
pub(super) struct Left {
    /// Those with facts, whose facts are taken in first.
    pub(super) with_facts: VecDeque<Chunk>,
    /// All.
    pub(super) all: VecDeque<Chunk>,
}

/// What is known of former surveys.
#[derive(Default)]
pub(super) struct Surveys {
    /// One is due as soon as what was copied is durable.
    pub(super) wanted: bool,
    /// Facts that had to stay after the last one, and the chunks freed until then.
    pub(super) left: u64,
    pub(super) freed: u64,
}

/// A survey under way.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    facts: Vec<Fact>,
    /// Of each key with a fact, the lowest seq of an entry that was seen.
    keys: HashMap<u64, u64>,
    /// Of each table with a clear, the same.
    tables: HashMap<u64, u64>,
}

#[derive(Debug)]
struct Fact {
    chunk: ChunkId,
    number: u32,
    is_clear: bool,
    /// The number of its key, or of the table that it cleared.
    of: u64,
    seq: u64,
}

impl Survey {
    /// How many facts are looked at.
    pub(crate) fn len(&self) -> usize {
        self.facts.len()
    }

    /// Takes the facts of a chunk in.
    pub(crate) fn collect(&mut self, chunk: ChunkId, lines: &[Line]) {
        let facts = lines.iter().filter(|line| line.line.kind.is_fact());
        for (number, line) in facts.enumerate() {
            let is_clear = line.line.kind == LineKind::Clear;
            let of = if is_clear { table_of(line) } else { key_of(line) };
            let oldest = if is_clear { &mut self.tables } else { &mut self.keys };
            oldest.entry(of).or_insert(u64::MAX);
            let (number, seq) = (number as u32, line.line.seq);
            self.facts.push(Fact { chunk, number, is_clear, of, seq });
        }
    }

    /// Looks for older entries of the facts' keys in a chunk. The oldest of a key decides about all its
    /// facts, so that a key that came and went a hundred thousand times costs no more than others.
    pub(crate) fn look_at(&mut self, lines: &[Line]) {
        let lower = |oldest: &mut HashMap<u64, u64>, of: u64, seq: u64| {
            if let Some(known) = oldest.get_mut(&of) {
                *known = seq.min(*known);
            }
        };
        for line in lines {
            if !matches!(line.line.kind, LineKind::Entry | LineKind::Head) {
                continue;
            }
            lower(&mut self.keys, key_of(line), line.line.seq);
            if !self.tables.is_empty() {
                lower(&mut self.tables, table_of(line), line.line.seq);
            }
        }
    }

    /// By chunk, the facts that may be forgotten. To be asked when every chunk has been looked at.
    pub(crate) fn finish(self) -> HashMap<ChunkId, Forgettable> {
        let mut forgettable: HashMap<ChunkId, Forgettable> = HashMap::new();
        for fact in &self.facts {
            let of_chunk = forgettable.entry(fact.chunk).or_default();
            let oldest = if fact.is_clear { &self.tables } else { &self.keys };
            let is_needed = oldest.get(&fact.of).is_none_or(|oldest| *oldest < fact.seq);
            if !is_needed {
                of_chunk.insert(fact.number as usize);
            }
        }
        forgettable
    }
}

/// A number for a table.
fn table_of(line: &Line) -> u64 {
    u64::from(line.map.0) << 32 | u64::from(line.stream.0)
}

/// A number for a key; two that share one are taken for the same.
fn key_of(line: &Line) -> u64 {
    line.line.hash ^ table_of(line).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::format::{DirectoryLine, MapId, StreamId};

    fn line(kind: LineKind, key: u64, seq: u64) -> Line {
        let line = DirectoryLine { seq, hash: key, offset: 0, kind, body_crc: 0 };
        Line { map: MapId(1), stream: StreamId(2), line }
    }

    #[test]
    fn a_fact_is_forgotten_only_when_no_older_entry_is_left_anywhere() {
        let old = [line(LineKind::Entry, 1, 10), line(LineKind::Entry, 3, 12)];
        let middle = [
            line(LineKind::Absence, 1, 20),
            line(LineKind::Absence, 2, 21),
            line(LineKind::Entry, 2, 22),
            line(LineKind::Head, 4, 23),
        ];
        let new = [
            line(LineKind::Absence, 2, 30),
            line(LineKind::Absence, 1, 31),
            line(LineKind::Absence, 4, 32),
            line(LineKind::Absence, 5, 33),
        ];
        let mut survey = Survey::default();
        survey.collect(ChunkId(2), &middle);
        survey.collect(ChunkId(3), &new);
        for lines in [&old[..], &middle, &new] {
            survey.look_at(lines);
        }
        let forgettable = survey.finish();
        let of = |chunk, count| {
            let chunk = &forgettable[&ChunkId(chunk)];
            (0..count).filter(|number| chunk.contains(*number)).collect::<Vec<_>>()
        };
        assert_eq!(of(2, 2), [1], "key 1 has an older entry, key 2 only a newer one");
        assert_eq!(of(3, 4), [3], "only key 5 has no entry at all");
        assert_eq!((forgettable[&ChunkId(2)].count(), forgettable[&ChunkId(3)].count()), (1, 1));
    }

    #[test]
    fn a_clear_is_forgotten_only_when_no_older_entry_of_its_table_is_left_anywhere() {
        let of_table = |map, lines: Line| Line { map: MapId(map), ..lines };
        let first = [line(LineKind::Entry, 1, 10), of_table(2, line(LineKind::Entry, 1, 50))];
        let clears = [
            line(LineKind::Clear, 0, 20),
            line(LineKind::Absence, 1, 21),
            of_table(2, line(LineKind::Clear, 0, 40)),
            of_table(3, line(LineKind::Clear, 0, 40)),
            line(LineKind::Clear, 0, 9),
        ];
        let mut survey = Survey::default();
        survey.collect(ChunkId(2), &clears);
        survey.look_at(&first);
        survey.look_at(&clears);
        let forgettable = &survey.finish()[&ChunkId(2)];
        let gone: Vec<_> = (0..5).filter(|number| forgettable.contains(*number)).collect();
        assert_eq!(gone, [2, 3, 4], "only map 1 has an entry below its clear, and its fact");
    }

    #[test]
    fn a_key_that_came_and_went_all_the_time_does_not_keep_compaction_busy_for_minutes() {
        let kind = |n: u64| if n.is_multiple_of(2) { LineKind::Entry } else { LineKind::Absence };
        let of_key: Vec<Line> = (0..100_000).map(|n| line(kind(n), 7, 1 + n)).collect();
        let of_table: Vec<Line> = (0..100_000)
            .map(|n: u64| {
                line(if n.is_multiple_of(2) { LineKind::Entry } else { LineKind::Clear }, n, 1 + n)
            })
            .collect();
        let start = Instant::now();
        for lines in [of_key, of_table] {
            let mut survey = Survey::default();
            survey.collect(ChunkId(1), &lines);
            assert_eq!(survey.len(), 50_000);
            survey.look_at(&lines);
            assert_eq!(survey.finish()[&ChunkId(1)].count(), 0, "each has an older entry");
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(4), "{took:?} for 100,000 facts");
    }
}
