//! Entries move out of sparse pages: the limit can be used again for values of any size, and nobody who
//! reads, holds, writes, clears or grows meanwhile sees anything of it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdstore::codec::{Bytes, U64};
use hdstore::{ManualClock, Map, MapOptions, Stats, Store};

const MIB: u64 = 1 << 20;
/// Bytes of a slab page.
const PAGE: u64 = 256 * 1024;

fn store(limit_bytes: u64) -> Store {
    Store::builder()
        .memory_limit_bytes(limit_bytes)
        .streams(8)
        .hash_seed(1)
        .in_memory()
        .expect("a store")
}

fn map_of(store: &Store, name: &str) -> Map<U64, Bytes> {
    store.map(name, MapOptions::default()).expect("a map")
}

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// A length of an age: all ages have others, the next one those of twice the size.
    fn len(&mut self, age: u64) -> usize {
        let least = 16 << age.min(8);
        (least + self.below(least)) as usize
    }
}

/// A seed that differs each time, or `HDSTORE_SEED`.
fn seed() -> u64 {
    let seed = match std::env::var("HDSTORE_SEED") {
        Ok(seed) => seed.parse().expect("HDSTORE_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
    };
    println!("HDSTORE_SEED={seed}");
    seed
}

/// A value that says whose it is, and of which length: its first eight bytes over and over.
fn value(key: u64, version: u64, len: usize) -> Vec<u8> {
    let head = (key << 40 | version).to_le_bytes();
    head.into_iter().cycle().take(len).collect()
}

/// The version of a key's value, which must be whole.
fn version_of(key: u64, found: &[u8]) -> u64 {
    let head = u64::from_le_bytes(found[..8].try_into().expect("eight bytes"));
    assert_eq!(head >> 40, key, "a value of another key");
    let version = head & ((1 << 40) - 1);
    assert!(found == value(key, version, found.len()), "a mix of values");
    version
}

fn check_accounts(store: &Store) -> Stats {
    store.maintain(0);
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    assert!(stats.committed_bytes <= stats.limit_bytes);
    stats
}

#[test]
fn values_that_grow_and_shrink_again_fill_the_limit_at_every_size() {
    const LIMIT: u64 = 32 * MIB;
    let store = store(LIMIT);
    let map = map_of(&store, "m");
    let (mut random, mut next) = (Random(7), 0);
    let mut present: Vec<u64> = Vec::new();
    let mut lens: HashMap<u64, usize> = HashMap::new();
    for len in [32, 128, 512, 2048, 8192, 2048, 512, 128, 32] {
        let (mut put_bytes, mut refused) = (0, 0);
        while put_bytes < LIMIT / 4 || refused == 0 {
            if map.insert(&next, &value(next, 1, len)).is_ok() {
                present.push(next);
                lens.insert(next, len);
                next += 1;
                put_bytes += len as u64;
                continue;
            }
            refused += 1;
            let victim = present.swap_remove(random.below(present.len() as u64) as usize);
            assert!(map.remove(&victim).expect("removals work"));
            lens.remove(&victim);
        }
        let stats = check_accounts(&store);
        let taken = stats.live_bytes + stats.header_bytes + stats.rounding_bytes;
        assert!((taken + stats.index_bytes) * 100 >= LIMIT * 80, "at {len} B: {stats:#?}");
        assert!(len < 256 || stats.live_bytes * 100 >= LIMIT * 55, "at {len} B: {stats:#?}");
    }
    let stats = store.stats();
    assert_eq!(stats.entries, lens.len() as u64);
    assert!(stats.moved_entries > 0 && stats.emptied_pages > LIMIT / PAGE, "{stats:#?}");
    for (key, len) in &lens {
        let found = map.get_with(key, |found| (version_of(*key, found), found.len()));
        assert_eq!(found.expect("ok"), Some((1, *len)), "key {key}");
    }
}

#[test]
fn pieces_of_the_index_hold_no_page_that_entries_have_left() {
    const LIMIT: u64 = 32 * MIB;
    let store = store(LIMIT);
    let map = map_of(&store, "m");
    // As long as a bucket with their header and key, and so many that buckets get chains at the limit.
    let short = |key: &u64| map.insert(key, &value(*key, 1, 40)).is_ok();
    let mut random = Random(3);
    let mut keys: Vec<u64> = (0..).take_while(short).collect();
    for next in keys.len() as u64..2 * keys.len() as u64 {
        let victim = keys.swap_remove(random.below(keys.len() as u64) as usize);
        assert!(map.remove(&victim).expect("removals work"));
        if short(&next) {
            keys.push(next);
        }
    }
    let chained = map.stats().overflow_buckets;
    assert!(chained > 100, "{chained} pieces of the length of these entries");
    for key in keys {
        assert!(map.remove(&key).expect("removals work"));
    }
    let index_bytes = check_accounts(&store).index_bytes;
    let longer = (0..).take_while(|key| map.insert(key, &[9; 3_000]).is_ok()).count() as u64;
    assert!(longer * 3_000 + index_bytes > LIMIT * 75 / 100, "{longer}, index {index_bytes} B");
}

#[test]
fn random_sizes_at_the_limit_leave_what_a_btree_map_holds() {
    let mut random = Random(seed());
    let clock = Arc::new(ManualClock::new(1_000));
    let store = Store::builder()
        .memory_limit_bytes(16 * MIB)
        .streams(3)
        .clock(Arc::clone(&clock))
        .in_memory()
        .expect("a store");
    let maps = [map_of(&store, "one"), map_of(&store, "two")];
    let mut model: BTreeMap<(usize, u64), (Vec<u8>, Option<u64>)> = BTreeMap::new();
    let (mut age, mut next_clear, mut clears, mut refused) = (0, 20_000, 0, 0);
    for version in 0..150_000u64 {
        if version % 10_000 == 0 {
            // Short values and long ones take turns, so that whole classes fade.
            age = [2, 7, 0, 5, 1, 6, 3, 8][version as usize / 10_000 % 8];
        }
        let of = (random.below(2) as usize, random.below(100_000));
        let map = &maps[of.0];
        match random.below(20) {
            0 => {
                let was = map.remove(&of.1).expect("removals work");
                assert_eq!(was, model.remove(&of).is_some());
            }
            1 => {
                let found = map.get_owned(&of.1).expect("ok");
                assert_eq!(found.as_ref(), model.get(&of).map(|(value, _)| value));
            }
            2 if version > next_clear => {
                next_clear = version + 30_000 + random.below(10_000);
                map.clear().expect("cleared");
                model.retain(|key, _| key.0 != of.0);
                clears += 1;
            }
            draw => {
                let value = value(of.1, version, random.len(age));
                let expiry_ms = (draw < 6).then_some(1_000_000 + version);
                let put = match expiry_ms {
                    Some(expiry_ms) => map.insert_expiring(&of.1, &value, expiry_ms),
                    None => map.insert(&of.1, &value),
                };
                match put {
                    Ok(()) => _ = model.insert(of, (value, expiry_ms)),
                    Err(error) => {
                        assert!(error.is_capacity(), "{error}");
                        refused += 1;
                        for _ in 0..4 {
                            let from = (of.0, random.below(100_000));
                            let Some((&victim, _)) = model.range(from..).next() else { continue };
                            assert!(maps[victim.0].remove(&victim.1).expect("removals work"));
                            model.remove(&victim);
                        }
                    }
                }
            }
        }
    }
    assert!(check_accounts(&store).moved_entries > 0);
    assert!(clears > 1 && refused > 100, "{clears} clears, {refused} puts at the limit");
    let walk = |store_maps: &[Map<U64, Bytes>]| -> BTreeMap<(usize, u64), Vec<u8>> {
        let all = store_maps.iter().enumerate();
        all.flat_map(|(number, map)| {
            map.iter().map(move |entry| {
                ((number, entry.key().expect("a key")), entry.value_bytes().to_vec())
            })
        })
        .collect()
    };
    let expected = |at_ms: u64| -> BTreeMap<(usize, u64), Vec<u8>> {
        let alive = model.iter().filter(|(_, (_, expiry))| expiry.is_none_or(|ms| ms > at_ms));
        alive.map(|(key, (value, _))| (*key, value.clone())).collect()
    };
    assert_eq!(walk(&maps), expected(1_000));
    // Who expires, and when, has moved along.
    clock.set_ms(1_100_000);
    assert_eq!(walk(&maps), expected(1_100_000));
}

#[test]
fn readers_guards_and_writers_beside_entries_that_move_see_whole_values_and_none_goes_back() {
    const WRITERS: u64 = 2;
    const KEYS: u64 = 60_000;
    let seed = seed();
    let store = store(24 * MIB);
    let map = map_of(&store, "m");
    let newest: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    let write = |writer: u64| {
        let (map, newest) = (&map, &newest);
        move || {
            let mut random = Random(seed + writer);
            let mut held: BTreeMap<u64, usize> = BTreeMap::new();
            for version in 1..60_000u64 {
                let key = random.below(KEYS / WRITERS) * WRITERS + writer;
                let len = random.len(version / 6_000);
                match map.insert(&key, &value(key, version, len)) {
                    Ok(()) => {
                        newest[key as usize].store(version, Relaxed);
                        held.insert(key, len);
                    }
                    Err(error) => {
                        assert!(error.is_capacity(), "{error}");
                        for _ in 0..4 {
                            let from = random.below(KEYS);
                            let Some((&victim, _)) = held.range(from..).next() else { continue };
                            assert!(map.remove(&victim).expect("removals work"), "{victim}");
                            held.remove(&victim);
                        }
                    }
                }
            }
            held
        }
    };
    let held: BTreeMap<u64, usize> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(write(writer))).collect();
        let (map, newest, stop) = (&map, &newest, &stop);
        scope.spawn(move || {
            let mut random = Random(seed + WRITERS);
            let (mut guards, mut guarded): (VecDeque<(u64, u64, _)>, _) = (VecDeque::new(), 0);
            while !stop.load(Relaxed) {
                let key = random.below(KEYS);
                let before = newest[key as usize].load(Relaxed);
                if let Some(guard) = map.get(&key).expect("ok") {
                    let version = version_of(key, guard.value_bytes());
                    assert!(version >= before, "key {key} went back to {version}");
                    guards.push_back((key, version, guard));
                    guarded += 1;
                }
                if guards.len() > 200 {
                    let (key, version, guard) = guards.pop_front().expect("some");
                    assert_eq!(version_of(key, guard.value_bytes()), version, "under a guard");
                }
            }
            assert!(guarded > 1_000, "{guarded} guards beside the writers");
        });
        let joined = writers.into_iter().map(|writer| writer.join());
        let joined: Vec<_> = joined.collect();
        stop.store(true, Relaxed);
        joined.into_iter().flat_map(|held| held.expect("no panic")).collect()
    });
    let stats = check_accounts(&store);
    assert!(stats.moved_entries > 0, "{stats:#?}");
    assert_eq!((stats.entries, stats.unreclaimed_bytes), (held.len() as u64, 0));
    for (key, len) in held {
        let found = map.get_with(&key, |found| (version_of(key, found), found.len()));
        let expected = (newest[key as usize].load(Relaxed), len);
        assert_eq!(found.expect("ok"), Some(expected), "key {key}");
    }
}

#[test]
fn maps_that_are_cleared_dropped_and_grow_under_a_walk_lose_nothing_and_keep_nothing() {
    let seed = seed();
    let store = store(32 * MIB);
    let lasting = map_of(&store, "lasting");
    for key in 0..2_000 {
        lasting.insert(&key, &value(key, 1, 100 + key as usize % 900)).expect("room");
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (store, stop) = (&store, &stop);
        // It keeps the store at its limit, with sizes that change, so that there is always a walk.
        let drifting = scope.spawn(move || {
            let map = map_of(store, "drifting");
            let mut random = Random(seed);
            let mut keys = Vec::new();
            for key in 0..100_000u64 {
                let len = random.len(key / 10_000);
                while map.insert(&key, &value(key, 1, len)).is_err() {
                    let victim = keys.swap_remove(random.below(keys.len() as u64) as usize);
                    assert!(map.remove(&victim).expect("removals work"));
                }
                keys.push(key);
            }
            for key in &keys {
                let found = map.get_with(key, |found| version_of(*key, found)).expect("ok");
                assert_eq!(found, Some(1), "key {key}");
            }
        });
        scope.spawn(move || {
            let (mut random, mut passed) = (Random(seed + 1), 0);
            for round in 0.. {
                if stop.load(Relaxed) {
                    break;
                }
                let Ok(map) = store.map::<U64, Bytes>("passing", MapOptions::default()) else {
                    continue;
                };
                for turn in 0..3 {
                    let keys = random.below(3_000);
                    let put = |key: &u64| map.insert(key, &value(*key, round, 50)).is_ok();
                    let put: Vec<u64> = (0..keys).filter(put).collect();
                    passed += put.len();
                    for key in put {
                        let found = map.get_with(&key, |found| version_of(key, found));
                        assert_eq!(found.expect("ok"), Some(round), "{key}, {turn}");
                    }
                    map.clear().expect("cleared");
                    assert!(map.is_empty() && map.iter().next().is_none());
                }
                assert!(store.drop_map("passing").expect("dropped"));
            }
            assert!(passed > 1_000, "{passed} entries of maps that come and go");
        });
        let drifted = drifting.join();
        stop.store(true, Relaxed);
        drifted.expect("no panic");
    });
    for key in 0..2_000 {
        let found = lasting.get_with(&key, |found| (version_of(key, found), found.len()));
        assert_eq!(found.expect("ok"), Some((1, 100 + key as usize % 900)), "key {key}");
    }
    store.drop_map("drifting").expect("dropped");
    (0..100).for_each(|_| store.maintain(0));
    let stats = check_accounts(&store);
    assert!(stats.moved_entries > 0, "{stats:#?}");
    assert_eq!(stats.entries, 2_000);
}

/// A store that is full of short values of one size, each with its own seq.
fn full_of_short_values(limit_bytes: u64) -> (Store, Map<U64, Bytes>, u64) {
    let store = store(limit_bytes);
    let map = map_of(&store, "m");
    let short = |key: &u64| map.insert(key, &value(*key, 1, 60)).is_ok();
    let keys = (0..).take_while(short).count() as u64;
    (store, map, keys)
}

#[test]
fn a_put_that_cannot_have_memory_fails_at_once_however_large_the_index_is() {
    let (store, map, keys) = full_of_short_values(64 * MIB);
    assert!(keys > 400_000, "{keys}");
    let fail = || {
        let start = Instant::now();
        for key in 0..500 {
            let refused = map.insert(&(keys + key), &[1; 20_000]).expect_err("there is no room");
            assert!(refused.is_capacity(), "{refused}");
        }
        start.elapsed()
    };
    // A walk over the index takes some ten milliseconds here, so 500 of them take seconds.
    let took = fail();
    assert!(took < Duration::from_secs(1), "{took:?} with nothing free");
    // Some slots are free in every page, but all together fewer than a page has.
    (0..keys).step_by(keys as usize / 100).for_each(|key| assert!(map.remove(&key).expect("ok")));
    let before = store.stats().moved_entries;
    let took = fail();
    assert!(took < Duration::from_secs(1), "{took:?} with too little free");
    assert_eq!(store.stats().moved_entries, before, "moved for nothing");
}

#[test]
fn pages_that_guards_keep_from_being_emptied_are_not_walked_for_by_every_put() {
    let (store, map, keys) = full_of_short_values(64 * MIB);
    // A guard in every page: a page holds some three thousand of these values.
    let guards: Vec<_> =
        (0..keys).step_by(1_000).filter_map(|key| map.get(&key).expect("ok")).collect();
    // The lasting ones are alone in the index with room for all the others.
    (0..keys).for_each(|key| assert!(map.remove(&key).expect("removed")));
    store.maintain(0);
    let start = Instant::now();
    let mut puts = 0;
    for key in 0..2_000 {
        puts += u64::from(map.insert(&key, &[1; 20_000]).is_ok());
    }
    let took = start.elapsed();
    assert!(puts < 2_000, "guards were thought to keep nearly every page");
    assert!(took < Duration::from_secs(4), "{took:?}, {puts} of 2,000 puts");
    for guard in &guards {
        assert_eq!(version_of(guard.key().expect("a key"), guard.value_bytes()), 1);
    }
    drop(guards);
    (0..2_000).for_each(|key| map.insert(&key, &[1; 20_000]).expect("room when guards are gone"));
    check_accounts(&store);
}

#[test]
fn a_moved_entry_keeps_its_seq_so_that_its_record_stays_current() {
    let (store, map, keys) = full_of_short_values(24 * MIB);
    let seq_of = |key: u64| map.get(&key).expect("ok").map(|guard| guard.seq());
    let kept: Vec<(u64, _)> = (0..keys).step_by(10).map(|key| (key, seq_of(key))).collect();
    (0..keys).filter(|key| key % 10 != 0).for_each(|key| _ = map.remove(&key).expect("removed"));
    let longer = (0..).take_while(|key| map.insert(&(keys + key), &[9; 3_000]).is_ok()).count();
    assert!(longer as u64 * 3_000 > 12 * MIB, "{longer}");
    assert!(store.stats().moved_entries > 0, "nothing moved");
    for (key, seq) in kept {
        assert!(seq.is_some());
        assert_eq!(seq_of(key), seq, "key {key}");
    }
}

#[test]
fn a_sleeping_batch_stops_movement_within_its_bound_and_it_goes_on_when_that_ends() {
    let (store, map, keys) = full_of_short_values(64 * MIB);
    (0..keys).filter(|key| key % 8 != 0).for_each(|key| _ = map.remove(&key).expect("removed"));
    store.maintain(0);
    let before = store.stats().moved_entries;
    let batch = store.read_batch();
    let first = map.get_in(&batch, &0).expect("ok").expect("there").to_vec();
    let fill = |from: u64| {
        let put = |key: &u64| map.insert(&(keys + from + key), &[9; 3_000]).is_ok();
        (0..).take_while(put).count() as u64
    };
    let start = Instant::now();
    let with_batch = fill(0);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let stats = store.stats();
    let bound = stats.unreclaimed_max_bytes;
    assert!(stats.moved_entries > before, "nothing moved beside the batch");
    assert!(stats.unreclaimed_bytes > bound / 4, "too little moved to come near: {stats:#?}");
    // What it takes, half, and the batches of retired slots that are not full.
    assert!(stats.unreclaimed_bytes <= bound / 2 + bound / 4, "{stats:#?}");
    // The rest is left to those who overwrite.
    map.insert(&0, &value(0, 2, 60)).expect("an overwrite needs no more than it always did");
    assert_eq!(first, value(0, 1, 60));
    drop(batch);
    let without = fill(with_batch);
    assert!(without * 3_000 > 16 * MIB, "{with_batch}, then {without}");
    for key in (8..keys).step_by(8) {
        assert_eq!(map.get_with(&key, |found| version_of(key, found)).expect("ok"), Some(1));
    }
    check_accounts(&store);
}

#[test]
fn a_walk_ends_when_a_reader_sleeps_and_nothing_is_left_to_note_what_it_would_move() {
    /// Keys that go, but for one in so many: their pages have two or three entries each, and none comes free.
    const GONE: u64 = 130_000;
    const KEPT: u64 = 4_000;
    let store = Store::builder()
        .memory_limit_bytes(16 * MIB)
        .streams(8)
        .hash_seed(1)
        .unreclaimed_max_bytes(8 * MIB)
        .in_memory()
        .expect("a store");
    let map = map_of(&store, "m");
    let keys = (0..).take_while(|key| map.insert(key, &value(*key, 1, 8)).is_ok()).count() as u64;
    assert!(keys > 2 * GONE, "{keys}");
    (0..GONE).filter(|key| key % KEPT != 0).for_each(|key| _ = map.remove(&key).expect("removed"));
    let (sender, refused) = std::sync::mpsc::channel();
    let overwriting = std::thread::spawn(move || {
        let batch = store.read_batch();
        let overwrite = |key: &u64| map.insert(key, &value(*key, 2, 8)).err();
        let error = (GONE..keys).find_map(|key| overwrite(&key));
        sender.send(error).expect("somebody waits");
        drop(batch);
        map.insert(&0, &value(0, 2, 8)).expect("what waited for the reader is free");
        check_accounts(&store);
    });
    let error = refused.recv_timeout(Duration::from_secs(30)).expect("no put goes on for ever");
    assert!(error.expect("nothing is left to note what is replaced").is_capacity());
    overwriting.join().expect("no panic");
}
