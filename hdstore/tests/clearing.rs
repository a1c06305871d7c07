//! Clearing and dropping maps: at once, for readers as for writers, and every byte comes back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdstore::codec::{Bytes, U64};
use hdstore::{Error, Map, MapOptions, Store, StreamId};

const MIB: u64 = 1 << 20;

fn store(limit_bytes: u64, streams: u32) -> Store {
    Store::builder()
        .memory_limit_bytes(limit_bytes)
        .streams(streams)
        .hash_seed(1)
        .in_memory()
        .expect("a store")
}

fn map_of(store: &Store, name: &str) -> Map<U64, Bytes> {
    store.map(name, MapOptions::default()).expect("a map")
}

/// Upkeep until nothing of what was cleared is left.
fn drain(store: &Store) {
    let mut rounds = 0;
    while store.stats().detached_bytes > 0 {
        store.maintain(0);
        rounds += 1;
        assert!(rounds < 10_000, "it never ends: {:#?}", store.stats());
    }
    store.maintain(0);
}

fn holds_the_books(store: &Store) {
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    assert!(stats.committed_bytes <= stats.limit_bytes, "{stats:#?}");
}

/// Bytes that are committed and not free, but for metadata such as the page table, which stays.
fn used_bytes(store: &Store) -> u64 {
    let stats = store.stats();
    stats.committed_bytes - stats.free_bytes - stats.metadata_bytes
}

#[test]
fn clearing_a_million_entries_takes_no_longer_than_clearing_few_and_frees_every_byte() {
    let store = store(1024 * MIB, 1);
    let map = map_of(&store, "m");
    map.insert(&0, b"warm").expect("room");
    assert_eq!(map.clear().expect("cleared"), 1);
    drain(&store);
    let before_bytes = used_bytes(&store);
    let (entries, mut shortest) = (1_000_000, Duration::MAX);
    for _ in 0..3 {
        for key in 0..entries {
            map.insert(&key, &[7; 40]).expect("room");
        }
        let filled_bytes = used_bytes(&store);
        let start = Instant::now();
        assert_eq!(map.clear().expect("cleared"), entries);
        shortest = shortest.min(start.elapsed());
        assert!(map.is_empty() && map.get(&1).expect("ok").is_none());
        let left_bytes = store.stats().detached_bytes;
        assert!(left_bytes > (filled_bytes - before_bytes) / 10 * 9, "it was freed under the call");
        holds_the_books(&store);
        drain(&store);
        assert_eq!(used_bytes(&store), before_bytes);
        holds_the_books(&store);
    }
    // Freeing a million slots takes fifty milliseconds and more. The shortest of three, since a thread may
    // lose its processor.
    assert!(shortest < Duration::from_millis(2), "{shortest:?}");
    println!("{shortest:?} for {entries} entries");
}

#[test]
fn puts_and_removes_free_what_was_cleared_without_upkeep() {
    let store = store(256 * MIB, 2);
    let map = map_of(&store, "m");
    for key in 0..200_000u64 {
        map.insert(&key, &[1; 30]).expect("room");
    }
    map.clear().expect("cleared");
    let detached = store.stats().detached_bytes;
    assert!(detached > 200_000 * 56, "{detached} B are left to puts and removes");
    let mut changes = 0;
    while store.stats().detached_bytes > 0 {
        for key in 0..1_000 {
            map.insert(&key, &[2; 30]).expect("room");
            map.remove(&key).expect("removed");
        }
        changes += 2_000;
        assert!(changes < 200_000, "{:#?}", store.stats());
    }
    holds_the_books(&store);
}

#[test]
fn readers_beside_a_clear_find_the_table_as_it_was_or_empty() {
    let store = store(128 * MIB, 1);
    let map = map_of(&store, "m");
    // 2 x round while the map is whole, 2 x round + 1 once it was cleared; 0 while it is filled.
    let (phase, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (keys, rounds) = (3_000u64, 150u64);
    let seen = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3u64)
            .map(|reader| {
                let (map, phase, stop) = (&map, &phase, &stop);
                scope.spawn(move || {
                    let (mut whole, mut empty, mut step) = (0u64, 0u64, reader);
                    while !stop.load(Ordering::Acquire) {
                        step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let before = phase.load(Ordering::Acquire);
                        let look = |key: u64| {
                            let value = map.get_owned(&(key % keys)).expect("ok");
                            value.map(|value| (value.len(), value[0]))
                        };
                        let (one, other) = (look(step >> 33), look(step >> 20));
                        if before == 0 || phase.load(Ordering::Acquire) != before {
                            continue;
                        }
                        let round = before / 2;
                        for value in [one, other].into_iter().flatten() {
                            assert_eq!(value, (100 + round as usize % 50, round as u8));
                        }
                        if before % 2 == 1 {
                            assert_eq!((one, other), (None, None), "a cleared key is there");
                            empty += 1;
                        } else {
                            assert!(one.is_some() || other.is_none(), "first empty, then not");
                            whole += u64::from(other.is_some());
                        }
                    }
                    (whole, empty)
                })
            })
            .collect();
        for round in 1..=rounds {
            for key in 0..keys {
                map.insert(&key, &vec![round as u8; 100 + round as usize % 50]).expect("room");
            }
            phase.store(2 * round, Ordering::Release);
            std::thread::sleep(Duration::from_micros(200));
            assert_eq!(map.clear().expect("cleared"), keys);
            phase.store(2 * round + 1, Ordering::Release);
            std::thread::sleep(Duration::from_micros(100));
            phase.store(0, Ordering::Release);
            store.maintain(0);
        }
        stop.store(true, Ordering::Release);
        let seen: Vec<_> =
            readers.into_iter().map(|reader| reader.join().expect("no panic")).collect();
        seen
    });
    assert!(seen.iter().all(|(whole, empty)| *whole > 0 && *empty > 0), "{seen:?}");
    drain(&store);
    holds_the_books(&store);
}

#[test]
fn a_guard_and_a_batch_keep_what_they_found_in_a_map_that_is_cleared() {
    let store = store(64 * MIB, 1);
    let map = map_of(&store, "m");
    for key in 0..20_000u64 {
        map.insert(&key, &key.to_le_bytes().repeat(10)).expect("room");
    }
    map.insert(&77, &vec![9; 3 << 20]).expect("room for a large one");
    let used = used_bytes(&store);
    let (guard, large) = (map.get(&5).expect("ok").expect("there"), map.get(&77).expect("ok"));
    let batch = store.read_batch();
    let seen = map.get_in(&batch, &6).expect("ok").expect("there");
    assert_eq!(map.clear().expect("cleared"), 20_000);
    store.maintain(0);
    assert!(store.stats().detached_bytes > used / 2, "the batch may still look at all of it");
    assert_eq!(map.get_in(&batch, &6).expect("ok"), None, "a read that begins later finds nothing");
    for key in 0..20_000u64 {
        map.insert(&key, &[0; 80]).expect("room");
    }
    assert_eq!(seen, 6u64.to_le_bytes().repeat(10));
    drop(batch);
    drain(&store);
    assert_eq!(guard.value_bytes(), 5u64.to_le_bytes().repeat(10));
    let held = store.stats();
    assert!((3 << 20..(3 << 20) + 8_192).contains(&held.held_by_guards_bytes), "{held:#?}");
    holds_the_books(&store);
    assert!(large.expect("there").value_bytes().iter().all(|byte| *byte == 9));
    drop(guard);
    store.maintain(0);
    assert_eq!(store.stats().held_by_guards_bytes, 0);
    holds_the_books(&store);
}

#[test]
fn a_walk_over_a_map_that_is_cleared_ends_and_sees_nothing_twice() {
    let store = store(64 * MIB, 2);
    let map = map_of(&store, "m");
    for at in [0usize, 1, 57, 3_000, 9_999] {
        for key in 0..10_000u64 {
            map.insert(&key, b"old").expect("room");
        }
        let mut walk = map.iter();
        let mut seen: Vec<(u64, Vec<u8>)> = Vec::new();
        let note = |entry: hdstore::Ref<'_, U64, Bytes>| {
            (entry.key().expect("a number"), entry.value_bytes().to_vec())
        };
        seen.extend(walk.by_ref().take(at).map(note));
        map.clear().expect("cleared");
        // The table grows again beside the walk, past where the walk was.
        for key in 0..10_000u64 {
            map.insert(&key, b"new").expect("room");
            if key % 500 == 0 {
                seen.extend(walk.by_ref().take(3).map(note));
            }
        }
        seen.extend(walk.map(note));
        let mut keys: Vec<_> = seen.clone();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), seen.len(), "an entry was seen twice");
        assert_eq!(map.iter().count(), 10_000);
    }
}

#[test]
fn a_full_store_can_be_cleared_and_filled_again_as_far_as_before() {
    let store = store(48 * MIB, 8);
    let map = map_of(&store, "m");
    let fill = || {
        let mut entries = 0u64;
        loop {
            match map.insert(&entries, &[3; 300]) {
                Ok(()) => entries += 1,
                Err(Error::Capacity { .. }) => return entries,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let first = fill();
    let mut entries = first;
    for round in 0..6 {
        assert_eq!(map.clear().expect("a full store can be cleared"), entries);
        assert!(map.is_empty());
        // Nobody does any upkeep: the puts find the memory.
        entries = fill();
        assert!(entries >= first / 100 * 97, "{entries} of {first} in round {round}");
        holds_the_books(&store);
    }
}

#[test]
fn memory_that_a_sleeping_reader_holds_back_after_a_clear_stays_within_the_limit() {
    let store = store(32 * MIB, 1);
    let map = map_of(&store, "m");
    for key in 0..100_000u64 {
        map.insert(&key, &[1; 150]).expect("room");
    }
    let batch = store.read_batch();
    assert!(map.get_in(&batch, &1).expect("ok").is_some());
    map.clear().expect("cleared");
    let mut key = 0;
    let refused = loop {
        match map.insert(&key, &[2; 150]) {
            Ok(()) => key += 1,
            Err(error) => break error,
        }
    };
    assert!(refused.is_capacity(), "{refused}");
    holds_the_books(&store);
    drop(batch);
    map.insert(&key, &[2; 150]).expect("the batch has ended");
    holds_the_books(&store);
}

#[test]
fn a_dropped_map_refuses_by_its_name_and_its_memory_serves_others() {
    let store = store(128 * MIB, 4);
    let kept = map_of(&store, "kept");
    kept.insert(&1, b"stays").expect("room");
    let before_bytes = used_bytes(&store);
    let map = map_of(&store, "m");
    let first_id = store.maps()[1].1;
    for key in 0..50_000u64 {
        map.insert(&key, &[5; 60]).expect("room");
    }
    let guard = map.get(&7).expect("ok").expect("there");
    let mut walk = map.iter();
    assert!(walk.next().is_some());
    assert!(store.drop_map("m").expect("dropped") && !store.drop_map("m").expect("none is left"));
    let is_dropped = |error: Error| matches!(error, Error::Dropped { name } if name == "m");
    assert!(is_dropped(map.insert(&1, b"v").expect_err("refused")));
    assert!(is_dropped(map.remove(&1).expect_err("refused")));
    assert!(is_dropped(map.get(&1).map(drop).expect_err("refused")));
    assert!(is_dropped(map.get_many(&[&1]).expect_err("refused")));
    assert!(is_dropped(map.clear().expect_err("refused")));
    assert!(is_dropped(map.compare_exchange(&1, b"a", b"b").expect_err("refused")));
    assert!(map.is_empty() && map.iter().next().is_none());
    assert_eq!(guard.value_bytes(), [5; 60]);
    assert_eq!(store.maps().len(), 1);

    let other = map_of(&store, "m");
    assert!(other.is_empty(), "another map of the same name");
    assert!(store.maps()[1].1 > first_id, "a number is never given twice");
    other.insert(&1, b"new").expect("room");
    assert!(is_dropped(map.insert(&1, b"v").expect_err("still")));
    assert_eq!(other.get_owned(&1).expect("ok").as_deref(), Some(&b"new"[..]));
    holds_the_books(&store);
    drop(guard);
    drop(walk);
    drop(map);
    drop(other);
    store.drop_map("m").expect("dropped");
    drain(&store);
    assert_eq!(used_bytes(&store), before_bytes);
    holds_the_books(&store);
    assert_eq!(kept.get_owned(&1).expect("ok").as_deref(), Some(&b"stays"[..]));
}

#[test]
fn more_maps_than_there_are_places_may_come_and_go() {
    let store = store(64 * MIB, 1);
    let mut last = 0;
    for _ in 0..hdstore::MAPS_LIMIT + 10 {
        let map = map_of(&store, "m");
        map.insert(&1, b"v").expect("room");
        let id = store.maps()[0].1.0;
        assert!(id > last, "number {id} after {last}");
        last = id;
        store.drop_map("m").expect("dropped");
    }
    drain(&store);
    holds_the_books(&store);
}

#[test]
fn puts_under_way_while_their_map_is_dropped_are_gone_with_it_or_refused() {
    for round in 0..20u64 {
        let store = store(64 * MIB, 2);
        let map = map_of(&store, "m");
        let before_bytes = used_bytes(&store);
        let done = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..3u64 {
                let (map, done) = (&map, &done);
                scope.spawn(move || {
                    for key in 0.. {
                        match map.insert(&((thread << 32) | (key % 5_000)), &[thread as u8; 50]) {
                            Ok(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                            Err(Error::Dropped { .. }) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            while done.load(Ordering::Relaxed) < 500 * (round + 1) {
                std::thread::yield_now();
            }
            store.drop_map("m").expect("dropped");
        });
        drain(&store);
        assert_eq!(used_bytes(&store), before_bytes, "a put left something behind");
        holds_the_books(&store);
        assert!(map_of(&store, "m").is_empty());
    }
}

#[test]
fn clearing_one_stream_leaves_the_others() {
    let store = store(64 * MIB, 3);
    let map = map_of(&store, "m");
    for key in 0..3_000u64 {
        map.insert(&key, b"v").expect("room");
    }
    let gone = map.clear_stream(StreamId(1)).expect("cleared");
    assert!(gone > 500 && map.len() == 3_000 - gone);
    assert_eq!(map.iter().count() as u64, 3_000 - gone);
    assert_eq!(map.clear_stream(StreamId(1)).expect("nothing there"), 0);
    assert!(matches!(map.clear_stream(StreamId(3)), Err(Error::Stream { stream: 3, streams: 3 })));
}

#[test]
fn on_several_nodes_each_frees_what_is_its_own() {
    let store = Store::builder()
        .memory_limit_bytes(128 * MIB)
        .streams(5)
        .topology(hdstore::Topology::made_up(2))
        .in_memory()
        .expect("a store");
    let before_bytes = used_bytes(&store);
    let (map, other) = (map_of(&store, "m"), map_of(&store, "other"));
    for key in 0..30_000u64 {
        map.insert(&key, &[1; 100]).expect("room");
        other.insert(&key, &[2; 30]).expect("room");
    }
    assert_eq!(map.clear().expect("cleared"), 30_000);
    assert_eq!(other.iter().count(), 30_000);
    drop(other);
    store.drop_map("other").expect("dropped");
    drain(&store);
    assert_eq!(used_bytes(&store), before_bytes);
    holds_the_books(&store);
}

#[test]
fn dropping_a_map_of_a_full_store_keeps_nobody_waiting_for_a_reader() {
    let store = Store::builder().memory_limit_bytes(32 << 20).streams(8).in_memory();
    let store = store.expect("a store");
    let map = store.map::<U64, Bytes>("full", MapOptions::default()).expect("a map");
    let other = store.map::<U64, Bytes>("other", MapOptions::default()).expect("a map");
    other.insert(&1, b"read").expect("room");
    // As long as a record of what was detached, so that none is left for these.
    let full = (0..).take_while(|key| map.insert(key, &[1; 56]).is_ok()).count();
    assert!(full > 10_000, "{full} entries");
    let (inside, entered) = std::sync::mpsc::channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let (reader, store) = (other.clone(), &store);
        scope.spawn(move || {
            let read = reader.get_with(&1, |_| {
                inside.send(()).expect("somebody waits");
                left.recv().expect("somebody lets it go");
            });
            assert!(read.is_ok());
        });
        entered.recv().expect("the reader begins");
        let start = std::time::Instant::now();
        assert!(store.drop_map("full").expect("dropped"));
        let took = start.elapsed();
        assert!(store.stats().detached_bytes > 10_000 * 80, "it was freed beside the reader");
        leave.send(()).expect("the reader is there");
        assert!(took < std::time::Duration::from_millis(500), "{took:?} under the maps' lock");
    });
    // What could not be detached then is detached by upkeep.
    let start = std::time::Instant::now();
    while store.stats().detached_bytes > 0 || other.insert(&2, &[2; 1 << 20]).is_err() {
        assert!(start.elapsed().as_secs() < 20, "{:#?}", store.stats());
        store.maintain(0);
    }
}
