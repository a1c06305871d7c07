//! Groups: several changes of one stream, all or none.
//!
//! Hazards: a group that is refused has changed something; a part of it is missing; what it replaced is not
//! counted, or not freed. Groups beside each other, and beside clears and readers: `groups/threads.rs`.

#[path = "groups/threads.rs"]
mod threads;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hdstore::codec::{Bytes, U64};
use hdstore::{
    Clock, Error, GROUP_CHANGES_MAX, GroupOutcome, Map, MapOptions, Seq, Store, StreamId,
};

const MIB: u64 = 1 << 20;
const STREAM: StreamId = StreamId(1);

fn store(limit_bytes: u64) -> Store {
    Store::builder()
        .memory_limit_bytes(limit_bytes)
        .streams(3)
        .hash_seed(7)
        .in_memory()
        .expect("a store")
}

/// A map's part in the stream of these tests.
fn map_of(store: &Store, name: &str) -> Map<U64, Bytes> {
    let map = store.map(name, MapOptions::default().placed_by_owner()).expect("a map");
    map.in_stream(STREAM).expect("a part")
}

fn done(was_there: &[bool]) -> GroupOutcome {
    GroupOutcome::Done(was_there.to_vec())
}

/// A small generator of its own, so that a seed means the same for ever (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// Whatever is in a group, the store then holds what the same changes one by one would have left, and each
/// answer is theirs.
#[test]
fn any_groups_leave_what_their_changes_one_by_one_would() {
    for seed in 1..30_u64 {
        let store = store(64 * MIB);
        let maps = ["one", "two", "three"].map(|name| map_of(&store, name));
        let mut random = Random(seed << 32 | 1);
        let mut model: HashMap<(usize, u64), Vec<u8>> = HashMap::new();
        let mut last_seq = 0;
        for round in 0..400_u64 {
            let count = 1 + random.below(if round % 50 == 0 { 256 } else { 7 });
            // Sometimes all keys are new, so that tables grow within one group.
            let keys = if round % 7 == 0 { 1 << 40 } else { 60 };
            let changes: Vec<(usize, u64, Option<Vec<u8>>)> = (0..count)
                .map(|_| {
                    let len = random.below(500) as usize;
                    let value = (random.below(3) > 0).then(|| vec![random.below(256) as u8; len]);
                    (random.below(3) as usize, random.below(keys), value)
                })
                .collect();
            let mut group = store.group(STREAM);
            let mut expected = Vec::new();
            let mut records = 0;
            for (map, key, value) in &changes {
                let before = match value {
                    Some(value) => {
                        group.insert(&maps[*map], key, value).expect("its stream");
                        model.insert((*map, *key), value.clone())
                    }
                    None => {
                        group.remove(&maps[*map], key).expect("its stream");
                        model.remove(&(*map, *key))
                    }
                };
                records += u64::from(value.is_some() || before.is_some());
                expected.push(before.is_some());
            }
            assert_eq!(group.len() as u64, count);
            let outcome = group.commit().expect("room");
            assert_eq!(outcome, GroupOutcome::Done(expected), "seed {seed}, round {round}");
            assert!(group.is_empty());
            // Each change that did something took the next seq, in its order.
            for (offset, (map, key, value)) in changes.iter().enumerate().rev().take(1) {
                if value.is_some() {
                    let seq = maps[*map].get(key).expect("ok").expect("there").seq();
                    assert_eq!(seq.0, last_seq + records, "change {offset} of {count}");
                }
            }
            last_seq += records;
        }
        let held: u64 = maps.iter().map(Map::len).sum();
        assert_eq!(held, model.len() as u64, "seed {seed}");
        for ((map, key), value) in &model {
            assert_eq!(maps[*map].get_owned(key).expect("ok").as_ref(), Some(value), "seed {seed}");
        }
        store.maintain(0);
        let stats = store.stats();
        assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "seed {seed}: {stats:#?}");
    }
}

/// Growth that meets a long chain waits for memory that inserts bring. Which buckets have such chains depends
/// on the keys' hashes.
#[test]
fn a_map_that_only_groups_fill_grows_with_its_entries() {
    for (seed, size) in (1..=6).flat_map(|seed| [(seed, 1), (seed, 3), (seed, 200)]) {
        let builder = Store::builder().memory_limit_bytes(64 * MIB).streams(3).hash_seed(seed);
        let store = builder.in_memory().expect("a store");
        let map = map_of(&store, "m");
        for first in (0..8_000_u64).step_by(size) {
            let keys: Vec<u64> = (first..first + size as u64).collect();
            let mut group = store.group(STREAM);
            for key in &keys {
                group.insert(&map, key, b"value").expect("its stream");
            }
            assert!(group.commit().expect("room").is_done());
        }
        let stats = map.stats();
        let load = stats.entries as f64 / (stats.buckets * 8) as f64;
        assert!(load < 0.9, "groups of {size}, seed {seed}: {load:.1} times full: {stats:?}");
        store.maintain(0);
        let stats = store.stats();
        assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    }
}

#[test]
fn a_group_at_the_memory_limit_is_refused_and_has_changed_nothing() {
    let store = store(32 * MIB);
    let (map, other) = (map_of(&store, "m"), map_of(&store, "other"));
    let (mut entries, value) = (0_u64, vec![5; 1000]);
    while map.insert(&entries, &value).is_ok() {
        entries += 1;
    }
    let free = entries / 2;
    map.remove(&free).expect("removals work in a full store");
    store.maintain(0);
    let before = (map.len(), other.len(), map.get(&0).expect("ok").expect("there").seq());
    let many: Vec<u64> = (1 << 20..(1 << 20) + 200).collect();
    for _ in 0..20 {
        let mut group = store.group(STREAM);
        group.insert(&map, &0, b"changed").expect("its stream");
        group.remove(&map, &1).expect("its stream");
        for key in &many {
            group.insert(&other, key, &value).expect("its stream");
        }
        let refused = group.commit().expect_err("a full store");
        assert!(refused.is_capacity(), "{refused}");
        assert_eq!(group.len(), 202, "it may be tried again");
        let after = (map.len(), other.len(), map.get(&0).expect("ok").expect("there").seq());
        assert_eq!(after, before);
        assert!(map.contains_key(&1).expect("ok"));
    }
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    // With a little room overwrites with values as long, and removals, go on.
    let changed = vec![6; 1000];
    for key in free + 1..free + 20 {
        map.remove(&key).expect("removals work in a full store");
    }
    for key in 2..free - 20 {
        let (mut group, last) = (store.group(STREAM), entries - key);
        group.insert(&map, &key, &changed).expect("its stream");
        group.remove(&map, &last).expect("its stream");
        assert_eq!(group.commit().expect("room for as much as goes"), done(&[true, true]));
    }
}

#[test]
fn a_group_of_which_a_map_was_dropped_meanwhile_is_refused_and_has_changed_nothing() {
    let store = store(64 * MIB);
    let (map, dropped) = (map_of(&store, "m"), map_of(&store, "dropped"));
    map.insert(&1, b"before").expect("room");
    let mut group = store.group(STREAM);
    group.insert(&map, &1, b"after").expect("its stream");
    group.insert(&dropped, &1, b"gone").expect("its stream");
    assert!(store.drop_map("dropped").expect("dropped"));
    let refused = group.commit().expect_err("its map is gone");
    assert!(matches!(&refused, Error::Dropped { name } if name == "dropped"), "{refused}");
    assert_eq!(map.get_owned(&1).expect("ok").as_deref(), Some(&b"before"[..]));
}

#[test]
fn a_key_of_another_stream_and_too_many_changes_are_refused_by_name() {
    let store = store(64 * MIB);
    let hashed: Map<U64, Bytes> = store.map("hashed", MapOptions::default()).expect("a map");
    let placed = map_of(&store, "placed");
    let key = (0..).find(|key| hashed.stream_of_key(key).expect("a stream") != STREAM);
    let key = key.expect("three streams have keys");
    let found = hashed.stream_of_key(&key).expect("a stream").0;
    let mut group = store.group(STREAM);
    let refused = group.insert(&hashed, &key, b"x").map(drop).expect_err("another stream");
    assert!(
        matches!(&refused, Error::OtherStream { name, expected: 1, found: of_key }
            if name == "hashed" && *of_key == found),
        "{refused}"
    );
    assert!(group.is_empty());
    let mut elsewhere = store.group(StreamId(0));
    let refused = elsewhere.remove(&placed, &1).map(drop).expect_err("another part");
    assert!(matches!(refused, Error::OtherStream { expected: 0, found: 1, .. }), "{refused}");
    for n in 0..=GROUP_CHANGES_MAX {
        assert_eq!(group.len(), n);
        group.insert(&placed, &5, b"x").expect("its stream");
    }
    let refused = group.commit().expect_err("too many");
    let (found, max) = (GROUP_CHANGES_MAX + 1, GROUP_CHANGES_MAX);
    assert!(
        matches!(refused, Error::GroupTooLong { found: f, max: m } if (f, m) == (found, max)),
        "{refused}"
    );
    assert!(placed.is_empty());
    assert_eq!(store.group(STREAM).commit().expect("nothing to do"), done(&[]));
    let mut nowhere = store.group(StreamId(3));
    let map = store.map::<U64, Bytes>("placed", MapOptions::default().placed_by_owner());
    let map = map.expect("the map");
    nowhere.insert(&map, &1, b"x").expect("wherever the caller says");
    assert!(matches!(nowhere.commit(), Err(Error::Stream { stream: 3, streams: 3 })));
}

#[test]
fn conditions_are_about_the_moment_before_the_group_and_refuse_all_of_it() {
    let clock = Arc::new(hdstore::ManualClock::new(1_000));
    let store = Store::builder()
        .memory_limit_bytes(64 * MIB)
        .streams(3)
        .clock(Arc::clone(&clock))
        .in_memory()
        .expect("a store");
    let map = map_of(&store, "m");
    map.insert(&1, b"one").expect("room");
    let seq = map.get(&1).expect("ok").expect("there").seq();
    let outcome = |condition: u64, seq: Option<Seq>| {
        let mut group = store.group(STREAM);
        match seq {
            Some(seq) => group.require_seq(&map, &1, seq).expect("its stream"),
            None => group.require_absent(&map, if condition == 1 { &1 } else { &2 }).expect("ok"),
        };
        group.remove(&map, &3).expect("its stream").insert(&map, &4, b"new").expect("its stream");
        group.commit().expect("room")
    };
    assert_eq!(outcome(1, None), GroupOutcome::Refused);
    assert_eq!(outcome(0, Some(Seq(seq.0 + 1))), GroupOutcome::Refused);
    assert_eq!((map.len(), map.get_owned(&4).expect("ok")), (1, None));
    assert_eq!(outcome(2, None), done(&[false, false]));
    assert_eq!(outcome(0, Some(seq)), done(&[false, true]));
    // Its own changes do not count.
    let mut group = store.group(STREAM);
    group.insert(&map, &2, b"x").expect("ok").require_absent(&map, &2).expect("ok");
    assert!(group.commit().expect("room").is_done());
    // What has expired is absent.
    map.insert_expiring(&5, b"short", 1_500).expect("room");
    clock.set_ms(1_500);
    let mut group = store.group(STREAM);
    group.require_absent(&map, &5).expect("ok").remove(&map, &5).expect("ok");
    assert_eq!(group.commit().expect("room"), done(&[false]));
    assert!(map.get(&5).expect("ok").is_none() && map.len() == 3, "its slot is free");
    // Conditions without a change.
    let mut group = store.group(STREAM);
    group.require_absent(&map, &1).expect("ok");
    assert_eq!(group.commit().expect("a look"), GroupOutcome::Refused);
}

#[test]
fn what_groups_replace_stays_within_the_bound_on_memory_that_waits_for_readers() {
    let bound = 2 * MIB;
    let store = Store::builder()
        .memory_limit_bytes(256 * MIB)
        .streams(3)
        .lanes(1)
        .unreclaimed_max_bytes(bound)
        .in_memory()
        .expect("a store");
    let map = map_of(&store, "m");
    // Somewhat less than half the bound.
    let (keys, value) = ((0..120_u64).collect::<Vec<_>>(), vec![1; 8_000]);
    let overwrite = || {
        let mut group = store.group(STREAM);
        for key in &keys {
            group.insert(&map, key, &value).expect("ok");
        }
        group.commit()
    };
    assert!(overwrite().expect("room").is_done());
    let batch = store.read_batch();
    std::thread::sleep(std::time::Duration::from_millis(60));
    let mut before = map.get(&119).expect("ok").expect("there").seq();
    let refused = loop {
        match overwrite() {
            Ok(outcome) => assert!(outcome.is_done()),
            Err(refused) => break refused,
        }
        before = map.get(&119).expect("ok").expect("there").seq();
        let waiting = store.stats().unreclaimed_bytes;
        // A lane's open batch may hold a quarter of the bound on top.
        assert!(waiting <= bound + bound / 4 + 2 * 8_192, "{waiting} bytes wait, bound {bound}");
    };
    assert!(matches!(refused, Error::Unreclaimed { .. }), "{refused}");
    assert_eq!(map.get(&119).expect("ok").expect("there").seq(), before, "it changed nothing");
    drop(batch);
    assert!(overwrite().expect("the reader has left").is_done());
}

/// A clock that panics when it is told to.
struct Moody {
    panics: AtomicBool,
}

impl Clock for Moody {
    fn wall_ms(&self) -> u64 {
        assert!(!self.panics.load(Ordering::Relaxed), "the clock is in a mood");
        1_000
    }

    fn monotonic_ms(&self) -> u64 {
        1_000
    }
}

#[test]
fn a_clock_that_panics_under_a_groups_lock_leaves_everything_as_it_was() {
    let clock = Arc::new(Moody { panics: AtomicBool::new(false) });
    let store = Store::builder()
        .memory_limit_bytes(64 * MIB)
        .streams(3)
        .clock(Arc::clone(&clock))
        .in_memory()
        .expect("a store");
    let map = map_of(&store, "m");
    for key in 0..4 {
        map.insert_expiring(&key, b"before", 5_000).expect("room");
    }
    let change = || {
        let mut group = store.group(STREAM);
        for key in &[0, 1, 2, 9] {
            group.insert(&map, key, b"after").expect("ok");
        }
        group.remove(&map, &3).expect("ok");
        group.commit().map(|outcome| outcome.is_done())
    };
    clock.panics.store(true, Ordering::Relaxed);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
    assert!(panicked.is_err());
    clock.panics.store(false, Ordering::Relaxed);
    for key in 0..4 {
        assert_eq!(map.get_owned(&key).expect("ok").as_deref(), Some(&b"before"[..]));
    }
    assert_eq!(map.len(), 4);
    assert!(change().expect("room"), "the stream's lock is free and its memory is there");
    store.maintain(0);
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
}

/// A group that removes keys and puts them again gives them new places, before or behind a walk: of these
/// keys a walk promises nothing, but of all others what it always does.
#[test]
fn a_walk_beside_groups_that_remove_keys_and_put_them_again_sees_every_other_key_exactly_once() {
    let store = store(64 * MIB);
    let map = map_of(&store, "m");
    let (keys, moving) = (20_000_u64, 200);
    for key in 0..keys {
        map.insert(&key, b"before").expect("room");
    }
    let mut times = vec![0; keys as usize];
    for (steps, entry) in map.iter().enumerate() {
        times[entry.key().expect("a number") as usize] += 1;
        if steps % 5_000 == 2_500 {
            for first in (0..moving).step_by(100) {
                let again: Vec<u64> = (first..first + 100).collect();
                let mut group = store.group(STREAM);
                for key in &again {
                    group.remove(&map, key).expect("ok").insert(&map, key, b"after").expect("ok");
                }
                assert!(group.commit().expect("room").is_done());
            }
        }
    }
    let (moved, others) = times.split_at(moving as usize);
    assert!(others.iter().all(|times| *times == 1));
    assert!(moved.iter().any(|times| *times != 1), "the documents say that this may be: {moved:?}");
}
