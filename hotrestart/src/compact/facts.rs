//! Facts of absence: which of them may be forgotten.
//!
//! Invariant: a fact may be forgotten when no chunk that is not durably free holds an older entry of its key.
//! That stays so: later records are newer, and compaction copies no entry that a fact has ended. So what a
//! survey finds is true for good. A clear is a fact of every key of its table. What a survey does not know
//! exactly can only make a fact stay: it tells keys apart by a part of their hashes, and seqs by classes of
//! age.
//!
//! A survey goes over the chunks three times: it takes the keys of facts in, looks for entries of them, and
//! judges the facts. For each key it keeps 16 bits: 9 of its hash, and how old the oldest entry is that was
//! seen, in half octaves, counted back from the newest fact of the stream that was taken in. Cost: 3 bytes
//! for each key, and a cache miss for each line of a directory, those of some lines side by side. Caller: the
//! compactor (`survey.rs`). See `docs/compaction.md`, "Facts of absence".

use rapidhash::RapidHashMap;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_nano_inline};

use super::lines::Line;
use crate::format::{LineKind, MapId, StreamId};

/// Bits of a slot for the age of the oldest entry that was seen; 0 is none.
const AGE_BITS: u32 = 7;

/// The keys of the facts that one survey is about.
#[derive(Debug)]
pub(crate) struct FactKeys {
    /// Of keys with facts: a part of the hash above the class of the oldest entry's age. 0 is free. Open
    /// addressing; a third of it stays free.
    slots: Vec<u16>,
    taken: usize,
    secrets: RapidSecrets,
    /// The newest fact of each stream that was taken in.
    newest: RapidHashMap<StreamId, u64>,
    /// Of each table with a clear that was taken in, the lowest seq of an entry that was seen.
    cleared: RapidHashMap<(MapId, StreamId), u64>,
}

impl FactKeys {
    /// Room for the keys of up to `facts` facts. In a large table fewer entries are taken for those of keys
    /// with facts. Surveys have numbers, so that keys that one cannot tell apart are others than in the one
    /// before.
    pub(crate) fn new(facts: u64, number: u64) -> FactKeys {
        FactKeys {
            slots: vec![0; facts as usize + facts as usize / 2 + 2],
            taken: 0,
            secrets: RapidSecrets::seed(number),
            newest: RapidHashMap::default(),
            cleared: RapidHashMap::default(),
        }
    }

    /// Takes the keys of facts in. Facts that find no room stay.
    pub(crate) fn take(&mut self, facts: &[Line]) {
        self.touch(facts);
        for fact in facts {
            let newest = self.newest.entry(fact.stream).or_default();
            *newest = fact.line.seq.max(*newest);
            if fact.line.kind == LineKind::Clear {
                self.cleared.insert((fact.map, fact.stream), u64::MAX);
                continue;
            }
            let (slot, part) = self.find(fact);
            if self.slots[slot] == 0 && self.taken < self.slots.len() * 2 / 3 {
                self.taken += 1;
                self.slots[slot] = part;
            }
        }
    }

    /// Looks for entries of keys with facts, and gives them to `found`. To be called when all facts were
    /// taken in, with all lines of entries.
    pub(crate) fn look_at(&mut self, entries: &[Line], mut found: impl FnMut(&Line)) {
        self.touch(entries);
        for entry in entries {
            let seq = entry.line.seq;
            // What is newer than all facts contradicts none.
            let newest = self.newest.get(&entry.stream).filter(|newest| seq < **newest);
            let Some(newest) = newest else { continue };
            let age = age_class(newest - seq);
            if !self.cleared.is_empty()
                && let Some(oldest) = self.cleared.get_mut(&(entry.map, entry.stream))
            {
                *oldest = seq.min(*oldest);
            }
            let (slot, _) = self.find(entry);
            let known = self.slots[slot];
            if known == 0 {
                continue;
            }
            found(entry);
            if age_of(known) < age {
                self.slots[slot] = part_of(known) | age;
            }
        }
    }

    /// Says of each fact whether it must stay. To be asked when all entries of all chunks were looked at.
    pub(crate) fn judge(&self, facts: &[Line], mut is_needed: impl FnMut(bool)) {
        self.touch(facts);
        facts.iter().for_each(|fact| is_needed(self.is_needed(fact)));
    }

    fn is_needed(&self, fact: &Line) -> bool {
        let seq = fact.line.seq;
        if fact.line.kind == LineKind::Clear {
            return self.cleared.get(&(fact.map, fact.stream)).is_none_or(|oldest| *oldest < seq);
        }
        let known = self.slots[self.find(fact).0];
        let Some(newest) = self.newest.get(&fact.stream).filter(|_| known != 0) else {
            return true;
        };
        age_of(known) >= age_class(newest.saturating_sub(seq))
    }

    /// Brings the slots of lines into the cache, the misses side by side.
    fn touch(&self, lines: &[Line]) {
        let sum = lines.iter().fold(0, |sum: u16, line| {
            let slot = self.place(self.hash_of(line));
            sum.wrapping_add(self.slots[slot])
        });
        std::hint::black_box(sum);
    }

    fn hash_of(&self, line: &Line) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&line.line.hash.to_le_bytes());
        bytes[8..12].copy_from_slice(&line.map.0.to_le_bytes());
        bytes[12..].copy_from_slice(&line.stream.0.to_le_bytes());
        rapidhash_v3_nano_inline::<true, false>(&bytes, &self.secrets)
    }

    fn place(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    /// The slot of a line's key, or the free one where it belongs, and the part of its hash for it.
    fn find(&self, line: &Line) -> (usize, u16) {
        let hash = self.hash_of(line);
        let part = (hash as u16 >> AGE_BITS).max(1) << AGE_BITS;
        let mut slot = self.place(hash);
        while self.slots[slot] != 0 && part_of(self.slots[slot]) != part {
            slot += 1;
            if slot == self.slots.len() {
                slot = 0;
            }
        }
        (slot, part)
    }
}

fn part_of(slot: u16) -> u16 {
    slot >> AGE_BITS << AGE_BITS
}

fn age_of(slot: u16) -> u16 {
    slot & ((1 << AGE_BITS) - 1)
}

/// The class of an age, 1 to 96: two of them for each doubling. Older never has a lower one.
#[inline]
fn age_class(age: u64) -> u16 {
    match age {
        0 | 1 => 1 + age as u16,
        _ => {
            let doublings = age.ilog2();
            let half = age >> (doublings - 1) & 1;
            (1 + 2 * doublings) as u16 + half as u16
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::format::DirectoryLine;
    use crate::io::sim::Random;

    fn line(kind: LineKind, key: u64, seq: u64) -> Line {
        let line = DirectoryLine { seq, hash: key, offset: 0, kind, body_crc: 0 };
        Line { map: MapId(1), stream: StreamId(2), line }
    }

    /// The seqs of the facts that may be forgotten when these lines are all there are.
    fn forgotten(lines: &[Line]) -> Vec<u64> {
        let facts: Vec<Line> =
            lines.iter().filter(|line| line.line.kind.is_fact()).copied().collect();
        let mut keys = FactKeys::new(facts.len() as u64, 7);
        let entries: Vec<Line> =
            lines.iter().filter(|line| !line.line.kind.is_fact()).copied().collect();
        facts.chunks(7).for_each(|facts| keys.take(facts));
        entries.chunks(7).for_each(|entries| keys.look_at(entries, |_| {}));
        let may_go = facts.iter().filter(|fact| !keys.is_needed(fact));
        may_go.map(|fact| fact.line.seq).collect()
    }

    #[test]
    fn a_fact_is_forgotten_only_when_no_older_entry_is_left_anywhere() {
        let lines = [
            line(LineKind::Entry, 1, 10),
            line(LineKind::Entry, 3, 12),
            line(LineKind::Absence, 1, 20),
            line(LineKind::Absence, 2, 21),
            line(LineKind::Entry, 2, 22),
            line(LineKind::Head, 4, 23),
            line(LineKind::Absence, 2, 30),
            line(LineKind::Absence, 1, 31),
            line(LineKind::Absence, 4, 32),
            line(LineKind::Absence, 5, 33),
        ];
        assert_eq!(
            forgotten(&lines),
            [21, 33],
            "key 2 had only a newer entry then, key 5 has none"
        );
    }

    #[test]
    fn a_clear_is_forgotten_only_when_no_older_entry_of_its_table_is_left_anywhere() {
        let of_table = |map, lines: Line| Line { map: MapId(map), ..lines };
        let lines = [
            line(LineKind::Entry, 1, 10),
            of_table(2, line(LineKind::Entry, 1, 50)),
            line(LineKind::Clear, 0, 20),
            line(LineKind::Absence, 1, 21),
            of_table(2, line(LineKind::Clear, 0, 40)),
            of_table(3, line(LineKind::Clear, 0, 41)),
            line(LineKind::Clear, 0, 9),
        ];
        let gone = forgotten(&lines);
        assert_eq!(gone, [40, 41, 9], "only map 1 has an entry below its clear, and its fact");
    }

    /// Any history, with an exact answer beside it: nothing goes that is needed, and hardly anything stays
    /// that is not.
    #[test]
    fn no_fact_goes_that_an_exact_search_would_keep() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let keys = 1 + random.below(60_000) as u64;
            let base = 1_u64 << random.below(47);
            let mut lines = Vec::new();
            for seq in base..base + 40_000 {
                // Chunks are freed, the old ones first: their entries are gone, and many of their facts.
                let is_old = seq < base + 20_000;
                let key = random.below(keys as usize) as u64 * 0x0123_4567;
                match random.below(8) {
                    0..4 if !is_old || random.below(50) == 0 => {
                        lines.push(line(LineKind::Entry, key, seq));
                    }
                    4..8 => lines.push(line(LineKind::Absence, key, seq)),
                    _ => {}
                }
            }
            let mut oldest: BTreeMap<u64, u64> = BTreeMap::new();
            for line in lines.iter().filter(|line| line.line.kind == LineKind::Entry) {
                oldest.entry(line.line.hash).or_insert(line.line.seq);
            }
            let gone = forgotten(&lines);
            let facts = lines.iter().filter(|line| line.line.kind == LineKind::Absence);
            let may_go = facts
                .filter(|fact| oldest.get(&fact.line.hash).is_none_or(|old| *old > fact.line.seq));
            let may_go: Vec<u64> = may_go.map(|fact| fact.line.seq).collect();
            let wrong: Vec<_> = gone.iter().filter(|seq| !may_go.contains(seq)).collect();
            assert!(wrong.is_empty(), "seed {seed}: needed, and forgotten: {wrong:?}");
            let enough = may_go.len() * 4 / 5;
            assert!(gone.len() >= enough, "seed {seed}: {} of {}", gone.len(), may_go.len());
        }
    }

    #[test]
    fn a_key_that_came_and_went_all_the_time_does_not_keep_compaction_busy_for_minutes() {
        let kind =
            |seq: u64| if seq.is_multiple_of(2) { LineKind::Absence } else { LineKind::Entry };
        let lines: Vec<Line> = (1..=1_000_000).map(|seq| line(kind(seq), 7, seq)).collect();
        let start = Instant::now();
        assert_eq!(forgotten(&lines), [0_u64; 0], "each has an older entry");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(40), "{took:?} for 500,000 facts");
    }

    #[test]
    fn facts_without_room_stay() {
        let mut keys = FactKeys::new(10, 0);
        let facts: Vec<Line> = (0..1000).map(|key| line(LineKind::Absence, key, 1 + key)).collect();
        keys.take(&facts);
        let gone = facts.iter().filter(|fact| !keys.is_needed(fact)).count();
        assert!((10..100).contains(&gone), "{gone} of 10 that have room");
    }

    #[test]
    fn what_is_older_is_never_of_a_younger_class() {
        let ages = (0..48).flat_map(|bit| [1_u64 << bit, (1 << bit) + (1 << bit >> 1)]);
        let around = ages.flat_map(|age| [age - 1, age, age + 1]).filter(|age| *age < 1 << 48);
        let mut classes: Vec<(u64, u16)> = around.map(|age| (age, age_class(age))).collect();
        classes.sort_unstable();
        assert!(classes.is_sorted_by_key(|(_, class)| *class), "{classes:?}");
        assert_eq!((classes[0].1, age_class((1 << 48) - 1)), (1, 96));
        const { assert!(96 < 1 << AGE_BITS) };
    }
}
