//! Groups in scripts: several changes of one stream, over all maps, of which all are there or none, in memory
//! at once and after whatever ends the world.
//!
//! Invariant: the oracle hears of a group as of changes that no end may part. What a group did is looked at
//! key by key, also when its caller was told nothing but that the time was over.

use std::collections::BTreeMap;

use hotrestart::hdstore::{GroupOutcome, StreamId};
use hotrestart::{Durability, LogFailure};

use crate::oracle::{KEYS, MAPS, Place, Value};
use crate::script::{PART, Script, Stuck, failure, lock};

/// A change of a group; no value is a removal.
type Planned = (Place, Option<Value>);

/// The bytes of a group's values at most. Nothing waits here, so what lies in parts must find its room at
/// once, in half of the log buffers: half of what those hold, since chunks may end among them.
const GROUP_MAX: usize = 2 * PART;

impl Script {
    /// Changes of several keys in the stream of one, all or none.
    pub fn group(&mut self, key: u64) -> Result<(), Stuck> {
        for map in 0..MAPS.len() {
            self.map(map).map_err(|error| self.must_be_poison(&error))?;
        }
        let (stream, mut planned) = self.plan(key);
        let level = planned.iter().map(|((map, _), _)| MAPS[*map].1).max();
        let level = level.unwrap_or(Durability::Buffered);
        let lens = planned.iter().filter_map(|(_, value)| value.map(|value| value.len));
        let turns = if lens.sum::<usize>() > PART { 500 } else { 1 };
        let lives: Vec<Option<u64>> =
            planned.iter().map(|(_, value)| value.and_then(|value| value.expiry_ms)).collect();
        let before = self.entries();
        let done = self.until_room(turns, |script| {
            let now_ms = script.world.now_ms();
            for ((_, value), lives_ms) in planned.iter_mut().zip(&lives) {
                if let Some(value) = value {
                    value.expiry_ms = lives_ms.map(|lives_ms| now_ms + lives_ms);
                }
            }
            script.commit(stream, &planned)
        });
        // Where its last words are all removals, its keys tell nothing; the answer does.
        let answered = match &done {
            Ok(outcome) => outcome.is_done(),
            Err(error) => matches!(failure(error), Some(LogFailure::TimedOut { .. })),
        };
        let seqs = self.look_at(&planned, answered || self.entries() < before);
        // One that came to nothing leaves no record, and its caller has waited for nothing.
        let records = self.records(&planned);
        let is_done = seqs.is_some() && !records.is_empty();
        if let Ok(GroupOutcome::Done(was_there)) = &done {
            assert_eq!(was_there.len(), planned.len());
        }
        if let Some(base) = seqs {
            lock(&self.oracle).group(&records, base);
        }
        self.settle(level, key, done.map(drop), is_done)
    }

    /// A stream's number, and up to eight changes of keys in it, with expiries as times from now.
    fn plan(&mut self, key: u64) -> (StreamId, Vec<Planned>) {
        let (stream, keys) = {
            let oracle = lock(&self.oracle);
            let stream = oracle.stream_of(key);
            let keys: Vec<u64> = (0..KEYS).filter(|key| oracle.stream_of(*key) == stream).collect();
            (stream, keys)
        };
        // Nobody can tell here whether what expired is still there, so that its removal leaves a record.
        let may_be_swept =
            |script: &Script, place: Place| lock(&script.oracle).has_or_had_expiry(place);
        let count = 1 + self.random.below(8);
        let only_removals = self.random.one_in(12);
        let mut planned: Vec<Planned> = Vec::new();
        let mut total = 0;
        for _ in 0..count {
            let map = self.random.below(MAPS.len() as u64) as usize;
            let key = keys[self.random.below(keys.len() as u64) as usize];
            if only_removals || self.random.one_in(4) {
                let is_own = planned.iter().any(|(place, _)| *place == (map, key));
                if is_own || !may_be_swept(self, (map, key)) {
                    planned.push(((map, key), None));
                }
                continue;
            }
            self.next_version += 1;
            let mut len = match self.random.below(24) {
                // One that lies in parts in any case, and some of which several do not fit one room.
                0 => PART + self.random.below(20_000) as usize,
                1..=4 => 12_000 + self.random.below(30_000) as usize,
                _ => self.random.below(2_000) as usize,
            };
            if total + len > GROUP_MAX {
                len %= 2_000;
            }
            total += len;
            let expiry_ms = self.random.one_in(8).then(|| 1 + self.random.below(400));
            planned.push(((map, key), Some(Value { version: self.next_version, len, expiry_ms })));
        }
        (StreamId(stream as u32), planned)
    }

    fn commit(
        &mut self,
        stream: StreamId,
        planned: &[Planned],
    ) -> Result<GroupOutcome, hotrestart::Error> {
        let bytes: Vec<Vec<u8>> = planned
            .iter()
            .map(|(_, value)| value.map_or(Vec::new(), |value| value.bytes()))
            .collect();
        let mut group = self.store().group(stream);
        for ((place, value), bytes) in planned.iter().zip(&bytes) {
            let (map, key) = (self.of(*place), &place.1);
            match value {
                Some(Value { expiry_ms: Some(expiry_ms), .. }) => {
                    group.insert_expiring(map, key, bytes, *expiry_ms)?
                }
                Some(_) => group.insert(map, key, bytes)?,
                None => group.remove(map, key)?,
            };
        }
        group.commit()
    }

    /// Whether a group was done, by what its keys have now, all of them or none; then the seq of its first
    /// record, if any of its values has one that tells.
    fn look_at(&self, planned: &[Planned], is_said: bool) -> Option<Option<u64>> {
        let last: BTreeMap<Place, Option<Value>> = planned.iter().copied().collect();
        let mut answers = Vec::new();
        let mut base = None;
        let records = self.records(planned);
        for (place, value) in &last {
            let found = self.of(*place).get(&place.1);
            let found = found.unwrap_or_else(|error| panic!("reads go on: {error}"));
            let Some(value) = value else { continue };
            let entry = found.filter(|entry| entry.value_bytes() == value.bytes());
            answers.push(entry.is_some());
            let at = records.iter().rposition(|(of, _)| of == place);
            if let (Some(entry), Some(at)) = (entry, at) {
                let first = entry.seq().0 - at as u64;
                assert_eq!(*base.get_or_insert(first), first, "seqs in the order of the changes");
            }
        }
        let is_done = answers.first().copied().unwrap_or(is_said);
        assert!(answers.iter().all(|answer| *answer == is_done), "a part of a group: {planned:?}");
        for (place, _) in last.iter().filter(|(_, value)| is_done && value.is_none()) {
            assert!(self.of(*place).get(&place.1).is_ok_and(|found| found.is_none()), "{place:?}");
        }
        is_done.then_some(base)
    }

    /// The changes of which there is a record: not of a removal of what was not there.
    fn records(&self, planned: &[Planned]) -> Vec<Planned> {
        let oracle = lock(&self.oracle);
        let mut own: BTreeMap<Place, bool> = BTreeMap::new();
        let has_record = |(place, value): &&Planned| {
            let is_there = own.entry(*place).or_insert_with(|| oracle.latest(*place).is_some());
            let has_record = *is_there || value.is_some();
            *is_there = value.is_some();
            has_record
        };
        planned.iter().filter(has_record).copied().collect()
    }
}
