//! A store that fitted opens again under the same limit, whatever its log holds: facts of absence, larger
//! versions of before, values in parts.

use std::collections::HashMap;

use hotrestart::codec::{Bytes, U64};
use hotrestart::{Builder, Error, Map, MapOptions, Store};

const LIMIT: u64 = 24 << 20;

fn builder(limit: u64) -> Builder {
    Store::builder()
        .memory_limit_bytes(limit)
        .streams(4)
        .chunk_bytes(256 << 10)
        .writers(1)
        .disk_budget(1e6)
}

fn map_of(store: &Store) -> Map<U64, Bytes> {
    store.map("m", MapOptions::default()).expect("a map")
}

/// Inserts keys from `first` on until the store is full; returns the next key.
fn fill_up(map: &Map<U64, Bytes>, first: u64, len: usize) -> u64 {
    for key in first.. {
        match map.insert(&key, &vec![key as u8; len]) {
            Ok(()) => {}
            Err(Error::Capacity { .. }) => return key,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("no store is that large")
}

/// What a load may take beyond the limit: see `docs/restart.md`.
fn holds_the_bound(store: &Store) {
    let stats = store.stats().memory;
    let most_bytes = stats.limit_bytes + (4 << 20) + stats.limit_bytes / 32;
    assert!(stats.committed_bytes <= most_bytes, "{stats:#?}");
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes);
}

type Contents = HashMap<u64, (usize, Option<u8>)>;

fn contents(store: &Store) -> Contents {
    let summary = |value: &[u8]| (value.len(), value.first().copied());
    let map = map_of(store);
    map.iter().map(|e| (e.key().expect("a number"), summary(e.value_bytes()))).collect()
}

#[test]
fn facts_of_absence_need_no_memory_of_the_store_however_many_they_are() {
    for clean in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let store = builder(LIMIT).open(dir.path()).expect("a new store");
        let map = map_of(&store);
        let mut next = 0;
        for _ in 0..6 {
            for key in next..next + 20_000 {
                map.insert(&key, b"short").expect("room");
            }
            for key in next..next + 20_000 {
                assert!(map.remove(&key).expect("it works at any time"));
            }
            next += 20_000;
        }
        fill_up(&map, next, 700);
        let expected = contents(&store);
        drop(map);
        if clean {
            store.close().expect("a clean close");
        } else {
            store.abandon();
        }
        let mut read = Vec::new();
        for (threads, facts) in [(2, 4 << 20), (7, 1 << 20), (1, 400_000)] {
            let builder = builder(LIMIT).loader_threads(threads).absence_bytes_max(facts);
            let opened = builder.open(dir.path());
            let opened =
                opened.unwrap_or_else(|error| panic!("{threads} threads, {facts} bytes: {error}"));
            assert!(contents(&opened) == expected, "{threads} threads, {facts} bytes");
            assert_eq!(opened.recovery().entries, expected.len() as u64);
            read.push((opened.recovery().bytes_read, opened.recovery().records));
            holds_the_bound(&opened);
            opened.abandon();
        }
        // 120,000 facts of 24 bytes: one pass, then several, then more.
        assert!(read[1].0 > 2 * read[0].0 && read[2].0 > read[1].0, "{read:?}");
        assert!(read[2].1 < read[0].1 + 20_000, "records are counted once: {read:?}");
    }
}

#[test]
fn larger_values_of_before_and_threads_that_run_ahead_need_no_more_than_what_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder(LIMIT).open(dir.path()).expect("a new store");
    let map = map_of(&store);
    let mut groups = vec![0];
    for _ in 0..6 {
        // What fills the store shrinks, and the next keys take its place.
        let (first, last) =
            (groups[groups.len() - 1], fill_up(&map, groups[groups.len() - 1], 3_000));
        assert!(last - first > 1_000, "{} larger values fitted", last - first);
        for key in first..last {
            assert!(map.remove(&key).expect("it works at any time"));
        }
        for key in first..last {
            map.insert(&key, &[1; 20]).expect("smaller than before");
        }
        groups.push(last);
    }
    fill_up(&map, groups[groups.len() - 1], 3_000);
    let expected = contents(&store);
    drop(map);
    store.abandon();
    for threads in [1, 2, 7, 16] {
        let opened = builder(LIMIT).loader_threads(threads).open(dir.path());
        let opened = opened.unwrap_or_else(|error| panic!("{threads} threads: {error}"));
        assert!(contents(&opened) == expected, "{threads} threads");
        holds_the_bound(&opened);
        opened.abandon();
    }
}

#[test]
fn long_values_that_were_overwritten_take_their_place_once() {
    let limit = 40 << 20;
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder(limit).open(dir.path()).expect("a new store");
    let map = map_of(&store);
    for round in 0..12_u64 {
        // Three of ten megabytes are there while one of them is overwritten.
        map.insert(&(round % 2), &vec![round as u8; 9_900_000]).expect("room for a third");
        for key in 0..50 {
            map.insert(&(100 + key), &vec![round as u8; 60_000]).expect("room");
        }
        if round % 5 == 4 {
            map.remove(&0).expect("removed");
        }
    }
    fill_up(&map, 1_000, 5_000);
    let expected = contents(&store);
    assert_eq!(expected[&0], (9_900_000, Some(10)));
    drop(map);
    store.abandon();
    for threads in [1, 2, 7, 16] {
        for facts in [0, 1 << 20] {
            let builder = builder(limit).loader_threads(threads).absence_bytes_max(facts);
            let opened = builder.open(dir.path());
            let opened = opened.unwrap_or_else(|error| panic!("{threads} threads: {error}"));
            assert!(contents(&opened) == expected, "{threads} threads");
            holds_the_bound(&opened);
            opened.abandon();
        }
    }
}

#[test]
fn the_newest_chunks_say_nothing_of_the_older_ones_and_a_full_store_opens_all_the_same() {
    const LIMIT: u64 = 96 << 20;
    let builder = || builder(LIMIT).chunk_bytes(1 << 20);
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().open(dir.path()).expect("a new store");
    // Many short entries first, then those of another map, which alone are in the newest chunks.
    let small = map_of(&store);
    let is_nearly_full = |store: &Store| store.stats().memory.committed_bytes > LIMIT / 100 * 93;
    let mut keys = 0;
    while !is_nearly_full(&store) {
        (keys..keys + 10_000).for_each(|key| small.insert(&key, &[1; 5]).expect("room"));
        keys += 10_000;
    }
    let other = store.map::<U64, Bytes>("other", MapOptions::default()).expect("a map");
    let more = fill_up(&other, 0, 16);
    assert!(keys > 500_000 && more > 5_000, "{keys} and {more} entries");
    drop((small, other));
    store.abandon();
    for threads in [2, 1] {
        let opened = builder().loader_threads(threads).open(dir.path());
        let opened = opened.unwrap_or_else(|error| panic!("{threads} threads: {error}"));
        assert_eq!(opened.recovery().entries, keys + more);
        holds_the_bound(&opened);
        // What opened closes, and opens again.
        opened.close().expect("a clean close");
    }
}
