//! What was done and acknowledged, and what may come back.
//!
//! Invariant: the oracle knows every change of every stream in its order, with the stamp it got, and how many
//! of them were acknowledged at each durability. What comes back must be the state after a prefix of each
//! stream's changes, no shorter than what was acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use hotrestart::codec::{Bytes, U64};
use hotrestart::hdstore::StreamId;
use hotrestart::io::sim::SimDisk;
use hotrestart::{Durability, Map, MapOptions, Store};

use crate::holding::Holding;
use crate::world::{STREAMS, World};

pub const KEYS: u64 = 48;
/// The maps of every script, and what each acknowledges.
pub const MAPS: [(&str, Durability); 3] = [
    ("buffered", Durability::Buffered),
    ("written", Durability::Written),
    ("synced", Durability::Synced),
];

/// A map's number and a key.
pub type Place = (usize, u64);

/// A value, known by its version, from which all of its bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    pub version: u64,
    pub len: usize,
    pub expiry_ms: Option<u64>,
}

impl Value {
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len + 8);
        bytes.extend(self.version.to_le_bytes());
        let filler = (0..self.len).map(|at| (self.version as usize * 31 + at / 7) as u8);
        bytes.extend(filler);
        bytes
    }

    fn is_expired(&self, now_ms: u64) -> bool {
        self.expiry_ms.is_some_and(|expiry_ms| expiry_ms <= now_ms)
    }
}

/// What a store holds: the value at each place, and its stamp.
pub type Found = BTreeMap<Place, (Value, u64)>;

pub type TestMap = Map<U64, Bytes>;

pub fn map_of(store: &Store, map: usize) -> Result<TestMap, hotrestart::Error> {
    let (name, level) = MAPS[map];
    store.map(name, MapOptions::default().durability(level))
}

/// Everything that a store holds; each value must be one that was put, whole.
pub fn find(store: &Store) -> Found {
    let mut found = Found::new();
    for map in 0..MAPS.len() {
        // One that was never made cannot be made after poison, and holds nothing.
        let Ok(entries) = map_of(store, map) else { continue };
        for entry in entries.iter() {
            let bytes = entry.value_bytes();
            let version = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            let value = Value { version, len: bytes.len() - 8, expiry_ms: entry.expiry_ms() };
            assert!(bytes == value.bytes(), "version {version} came back with other bytes");
            found.insert((map, entry.key().expect("a number")), (value, entry.seq().0));
        }
    }
    found
}

/// The stream of each key, which depends on nothing but the key: learned once from what becomes durable.
fn streams_of_keys() -> &'static HashMap<u64, usize> {
    static STREAMS_OF: OnceLock<HashMap<u64, usize>> = OnceLock::new();
    STREAMS_OF.get_or_init(|| {
        let world = World::new(1);
        let mut stepper = world.stepper(1);
        let store = world.open(&mut stepper, 1, 1).expect("a new store");
        let map = map_of(&store, 0).expect("a map");
        let marks = || -> Vec<u64> {
            (0..STREAMS).map(|stream| store.durable_through(StreamId(stream)).0).collect()
        };
        let learn = |key: u64| {
            let before = marks();
            map.insert(&key, b"first").expect("room");
            let moved = loop {
                stepper.step();
                let after = marks();
                let moved = (0..before.len()).find(|stream| before[*stream] != after[*stream]);
                if let Some(stream) = moved {
                    break stream;
                }
            };
            (key, moved)
        };
        (0..KEYS).map(learn).collect()
    })
}

#[derive(Clone, Copy, Debug)]
struct Change {
    place: Place,
    value: Option<Value>,
    /// Of a value, its stamp.
    seq: Option<u64>,
    /// Whether it removed what had expired already.
    is_sweep: bool,
    /// Whether it took all that its map had in the stream.
    is_clear: bool,
    /// Whether its map was dropped since.
    is_void: bool,
    /// Whether it is of one group with the change after it: both are there or none.
    is_glued: bool,
}

impl Change {
    fn of(place: Place) -> Change {
        let (is_sweep, is_clear, is_void, is_glued) = (false, false, false, false);
        Change { place, value: None, seq: None, is_sweep, is_clear, is_void, is_glued }
    }

    fn is_of(&self, place: Place) -> bool {
        !self.is_void && (self.place == place || (self.is_clear && self.place.0 == place.0))
    }
}

/// All that was done.
#[derive(Debug)]
pub struct Oracle {
    stream_of: &'static HashMap<u64, usize>,
    history: Vec<Vec<Change>>,
    /// By stream, how many changes were acknowledged as written, and as synced.
    acked: [Vec<usize>; 2],
    /// By stream, the highest stamp that was seen, also of what is lost by now.
    pub highest_seq: Vec<u64>,
    /// The least durability whose acknowledgement counts: less than all while an opening decides what is
    /// left.
    pub promised: Durability,
    is_forgiving: bool,
    /// What is held.
    pub holding: Holding,
    /// The map that is being dropped.
    dropping: Option<usize>,
    /// A time that is surely in the manifest: what had expired by then stays so, whatever the clock shows.
    pub floor_ms: u64,
}

impl Oracle {
    pub fn new() -> Oracle {
        let streams = STREAMS as usize;
        Oracle {
            stream_of: streams_of_keys(),
            history: vec![Vec::new(); streams],
            acked: [vec![0; streams], vec![0; streams]],
            highest_seq: vec![0; streams],
            promised: Durability::Buffered,
            is_forgiving: false,
            holding: Holding::default(),
            dropping: None,
            floor_ms: 0,
        }
    }

    pub fn stream_of(&self, key: u64) -> usize {
        self.stream_of[&key]
    }

    /// Notes a put, with its stamp.
    pub fn put(&mut self, place: Place, value: Value, seq: u64) {
        let stream = self.stream_of(place.1);
        assert!(seq > self.highest_seq[stream], "stamp {seq} of stream {stream} was given before");
        self.highest_seq[stream] = seq;
        let change = Change { value: Some(value), seq: Some(seq), ..Change::of(place) };
        self.history[stream].push(change);
    }

    /// Notes that a key was removed, or swept after it had expired.
    pub fn remove(&mut self, place: Place, is_sweep: bool) {
        self.fact(Change { is_sweep, ..Change::of(place) });
    }

    /// Notes the changes of a group that left records, all in one stream; `base` is the stamp of the first,
    /// if that is known.
    pub fn group(&mut self, records: &[(Place, Option<Value>)], base: Option<u64>) {
        let Some(((_, key), _)) = records.first() else { return };
        let stream = self.stream_of(*key);
        let base = base.unwrap_or(self.highest_seq[stream] + 1);
        assert!(base > self.highest_seq[stream], "stamp {base} of {stream} was given before");
        for (index, (place, value)) in records.iter().enumerate() {
            let seq = value.is_some().then_some(base + index as u64);
            let is_glued = index + 1 < records.len();
            self.history[stream].push(Change {
                value: *value,
                seq,
                is_glued,
                ..Change::of(*place)
            });
        }
        self.highest_seq[stream] = base + records.len() as u64 - 1;
    }

    /// Notes that a map was cleared in the stream of this key.
    pub fn clear(&mut self, place: Place) {
        self.fact(Change { is_clear: true, ..Change::of(place) });
    }

    /// A map is being dropped: until that has an outcome it may be there or gone.
    pub fn begin_drop(&mut self, map: usize) {
        self.dropping = Some(map);
    }

    /// The map that was being dropped is gone, durably, or still there.
    pub fn end_drop(&mut self, is_gone: bool) {
        let Some(map) = self.dropping.take() else { return };
        let of_map = self.history.iter_mut().flatten().filter(|change| change.place.0 == map);
        of_map.for_each(|change| change.is_void |= is_gone);
    }

    fn fact(&mut self, change: Change) {
        let stream = self.stream_of(change.place.1);
        self.history[stream].push(change);
        // It took the next stamp.
        self.highest_seq[stream] += 1;
    }

    fn last_change(&self, place: Place) -> Option<&Change> {
        let changes = &self.history[self.stream_of(place.1)];
        changes.iter().rev().find(|change| change.is_of(place))
    }

    /// What a place holds now, whether or not that has expired.
    pub fn latest(&self, place: Place) -> Option<Value> {
        self.last_change(place).and_then(|change| change.value)
    }

    /// Whether a place holds what expires, or held it last. A sweep that was cut short may have removed it
    /// unseen; and when a life ends, nobody can see whether a removal of what had expired was lost with it.
    pub fn has_or_had_expiry(&self, place: Place) -> bool {
        let changes = &self.history[self.stream_of(place.1)];
        let of_place = changes.iter().rev().filter(|change| change.is_of(place));
        let last_value = of_place.filter_map(|change| change.value).next();
        last_value.is_some_and(|value| value.expiry_ms.is_some())
    }

    /// Places whose values have expired and are not removed.
    pub fn expired(&self, now_ms: u64) -> Vec<Place> {
        let places = (0..MAPS.len()).flat_map(|map| (0..KEYS).map(move |key| (map, key)));
        let is_expired =
            |place: &Place| self.latest(*place).is_some_and(|value| value.is_expired(now_ms));
        places.filter(is_expired).collect()
    }

    /// How many changes each stream has.
    pub fn lengths(&self) -> Vec<usize> {
        self.history.iter().map(Vec::len).collect()
    }

    /// So many changes of each stream were acknowledged.
    pub fn acknowledge(&mut self, level: Durability, lengths: &[usize]) {
        for (index, least) in [Durability::Written, Durability::Synced].into_iter().enumerate() {
            if level < least {
                continue;
            }
            for (acked, length) in self.acked[index].iter_mut().zip(lengths) {
                *acked = (*acked).max(*length);
            }
        }
    }

    /// The store says up to which stamp a stream is safe.
    pub fn safe_through(&mut self, stream: usize, seq: u64) {
        let is_safe = |change: &Change| change.seq.is_some_and(|of_change| of_change <= seq);
        let known = self.history[stream].iter().rposition(is_safe);
        let acked = &mut self.acked[1][stream];
        *acked = (*acked).max(known.map_or(0, |index| index + 1));
    }

    /// A disk has lied: whatever was acknowledged may be lost, and what is left is a prefix all the same.
    pub fn forgive(&mut self) {
        self.is_forgiving = true;
    }

    /// Judges what a store has of what is held. A disk that lies may write there, too.
    pub fn judge_holds(&self, store: &Store, disk: &SimDisk) -> Result<(), String> {
        if self.is_forgiving { Ok(()) } else { self.holding.judge(store, disk) }
    }

    /// From here on what the store lists as held is what there is; of what a disk may have lied about the
    /// bytes are not known.
    pub fn cut_holds(&mut self, store: &Store) {
        if self.is_forgiving {
            self.holding.forget_bytes();
        }
        self.holding.cut(store);
    }

    fn least(&self, stream: usize, level: Durability) -> usize {
        match level {
            _ if self.is_forgiving => 0,
            Durability::Buffered => self.history[stream].len(),
            Durability::Written => self.acked[0][stream].max(self.acked[1][stream]),
            Durability::Synced => self.acked[1][stream],
        }
    }

    /// Judges what came back after an end that keeps what was acknowledged at `level`; `now_ms` is the true
    /// time, which what expired before must not outlive. Returns how much of each stream came back.
    pub fn judge(
        &self,
        found: &Found,
        level: Durability,
        now_ms: u64,
    ) -> Result<Vec<usize>, String> {
        let revived = found.iter().find(|(_, (value, _))| value.is_expired(self.floor_ms));
        if let Some((place, value)) = revived {
            return Err(format!(
                "{place:?} is back after it expired: {value:?}, {}",
                self.floor_ms
            ));
        }
        let judge_all = |gone: Option<usize>| -> Result<Vec<usize>, String> {
            (0..self.history.len())
                .map(|stream| self.judge_stream(stream, found, level, now_ms, gone))
                .collect()
        };
        let is_there = judge_all(None);
        if self.dropping.is_some() {
            is_there.or_else(|_| judge_all(self.dropping))
        } else {
            is_there
        }
    }

    fn judge_stream(
        &self,
        stream: usize,
        found: &Found,
        level: Durability,
        now_ms: u64,
        gone: Option<usize>,
    ) -> Result<usize, String> {
        let history = &self.history[stream];
        let least = self.least(stream, level);
        let mut expected: BTreeMap<Place, (usize, Change)> = BTreeMap::new();
        let differs = |place: &Place, change: Option<&Change>| {
            let of_found = found.get(place).map(|(value, seq)| (*value, Some(*seq)));
            let of_change = change.and_then(|change| change.value.map(|value| (value, change.seq)));
            let has_expired = of_change.is_some_and(|(value, _)| value.is_expired(now_ms));
            of_found != of_change && !(has_expired && of_found.is_none())
        };
        let of_stream = |place: &&Place| self.stream_of(place.1) == stream;
        let mut wrong: std::collections::BTreeSet<Place> =
            found.keys().filter(of_stream).copied().collect();
        let mut longest = (least == 0 && wrong.is_empty()).then_some(0);
        let mut at_least = String::new();
        for (index, change) in history.iter().enumerate() {
            let (map, key) = change.place;
            let keys = match change {
                _ if change.is_void || gone == Some(map) => 0..0,
                _ if change.is_clear => 0..KEYS,
                _ => key..key + 1,
            };
            for place in keys.map(|key| (map, key)).filter(|place| of_stream(&place)) {
                expected.insert(place, (index, *change));
                if differs(&place, Some(change)) {
                    wrong.insert(place);
                } else {
                    wrong.remove(&place);
                }
            }
            // Sweeps of several keys have an order that nobody sees: those that follow may have come first.
            let only_sweeps_differ = || {
                let unacked_sweep = |place: &Place| {
                    expected.get(place).is_some_and(|(at, change)| change.is_sweep && *at >= least)
                };
                wrong.iter().all(unacked_sweep)
            };
            let may_end = index + 1 >= least && !change.is_glued;
            if may_end && (wrong.is_empty() || only_sweeps_differ()) {
                longest = Some(index + 1);
            }
            if index + 1 == least.max(1) {
                let show = |place: &Place| {
                    format!(
                        "{place:?}: found {:?}, expected {:?}",
                        found.get(place),
                        expected.get(place)
                    )
                };
                at_least = wrong.iter().map(show).collect::<Vec<_>>().join("; ");
            }
        }
        longest.ok_or_else(|| {
            format!(
                "stream {stream}: no prefix of {least} to {} changes ({level} was promised); at {least} \
                 these differ: {at_least}; at the end {wrong:?}",
                history.len(),
            )
        })
    }

    /// From here on this is all there is: it was recovered, which made it durable.
    pub fn cut(&mut self, found: &Found, lengths: &[usize]) {
        // Of a map of which nothing came back it is all the same whether it was dropped.
        let is_gone = self.dropping.is_some_and(|map| found.keys().all(|place| place.0 != map));
        self.end_drop(is_gone);
        for (history, length) in self.history.iter_mut().zip(lengths) {
            history.truncate(*length);
        }
        self.acknowledge(Durability::Synced, lengths);
        (self.promised, self.is_forgiving) = (Durability::Buffered, false);
        for acked in self.acked.iter_mut() {
            acked.copy_from_slice(lengths);
        }
    }
}
