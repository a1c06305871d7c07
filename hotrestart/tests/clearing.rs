//! Maps that are cleared or dropped stay so, through crashes, restarts and compaction, and free what they
//! took.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use hotrestart::codec::{Bytes, U64};
use hotrestart::hdstore::StreamId;
use hotrestart::inspect::{Options, Report, check};
use hotrestart::{Builder, Durability, Error, Map, MapOptions, Store};

const CHUNK: u64 = 256 << 10;

fn builder() -> Builder {
    Store::builder().memory_limit_bytes(128 << 20).streams(4).chunk_bytes(CHUNK)
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn map_of(store: &Store, name: &str) -> Map<U64, Bytes> {
    store.map(name, MapOptions::default()).expect("a map")
}

fn contents(store: &Store, name: &str) -> HashMap<u64, Vec<u8>> {
    let map = map_of(store, name);
    map.iter().map(|entry| (entry.key().expect("a number"), entry.value_bytes().to_vec())).collect()
}

fn inspected(path: &Path) -> Report {
    let report = check(path, &Options::default()).expect("a store");
    assert!(report.is_sound, "{:#?}", report.problems);
    report
}

/// Ends a store, cleanly or as if its process died.
fn end(store: Store, clean: bool) {
    if clean { store.close().expect("a clean close") } else { store.abandon() }
}

#[test]
fn a_cleared_map_stays_cleared_after_crashes_whatever_loads_it() {
    let dir = dir();
    let mut model: HashMap<u64, Vec<u8>> = HashMap::new();
    for life in 0..6u64 {
        let (threads, writers) = ([1, 2, 7][life as usize % 3], 1 + life as u32 % 3);
        let opened = builder().loader_threads(threads).writers(writers).open(dir.path());
        let store = opened.unwrap_or_else(|error| panic!("life {life}: {error}"));
        assert!(contents(&store, "m") == model, "life {life}");
        assert_eq!(store.recovery().entries, model.len() as u64);
        let map = map_of(&store, "m");
        for round in 0..4u64 {
            for key in 0..1_500 {
                let len = if key % 400 == 7 { 150_000 } else { 300 };
                let value = vec![(key + round + life) as u8; len];
                map.insert(&key, &value).expect("room");
                model.insert(key, value);
            }
            if (round + life) % 2 == 0 {
                assert_eq!(map.clear().expect("cleared"), model.len() as u64);
                model.clear();
                // The same keys again, some of them, and some that are gone since.
                for key in (0..200).chain(5_000..5_050) {
                    map.insert(&key, b"after").expect("room");
                    model.insert(key, b"after".to_vec());
                }
                for key in 100..120 {
                    assert!(map.remove(&key).expect("removed"));
                    model.remove(&key);
                }
            }
        }
        if life % 2 == 1 {
            map.clear().expect("cleared");
            model.clear();
        }
        drop(map);
        end(store, life % 3 == 2);
        assert_eq!(inspected(dir.path()).totals.entries, model.len() as u64, "life {life}");
    }
}

/// Records of the cleared map are in chunks that are live for the most part, so that they stay, while the
/// chunk with the clear is compacted again and again.
#[test]
fn a_cleared_map_stays_cleared_when_its_clear_is_compacted_and_older_records_are_in_cold_chunks() {
    for crash in [false, true] {
        let dir = dir();
        let store = builder().streams(1).open(dir.path()).expect("a store");
        let (cold, gone, hot) =
            (map_of(&store, "cold"), map_of(&store, "gone"), map_of(&store, "hot"));
        for key in 0..4_000u64 {
            cold.insert(&key, &[1; 500]).expect("room");
            if key % 100 == 0 {
                gone.insert(&key, &[2; 200]).expect("room");
            }
        }
        let fill = |round: u8| {
            (0..2_000).for_each(|key| hot.insert(&key, &[round; 400]).expect("room"));
        };
        // The clear is among records that are replaced: else its chunk is cold, too, and stays.
        fill(1);
        assert_eq!(gone.clear().expect("cleared"), 40);
        let mut round = 2;
        while store.stats().chunks_freed < 150 {
            fill(round);
            round = round.wrapping_add(1);
        }
        drop((cold, gone, hot));
        end(store, !crash);
        // The older records are there, or the test would show nothing.
        let report = inspected(dir.path());
        assert_eq!(report.totals.clears, 1);
        assert!(records_of(dir.path(), "gone") > 20, "the cold chunks were compacted");
        for threads in [1, 5] {
            let store = builder().streams(1).loader_threads(threads).open(dir.path());
            let store = store.expect("it opens");
            assert!(contents(&store, "gone").is_empty(), "a cleared map came back");
            assert_eq!(contents(&store, "cold").len(), 4_000);
            assert_eq!(contents(&store, "hot").len(), 2_000);
            store.abandon();
        }
    }
}

/// Records of entries of a map in the log, live or not.
fn records_of(path: &Path, name: &str) -> usize {
    let report = check(path, &Options::default()).expect("a store");
    let map = report.maps.iter().find(|map| map.name == name).expect("the map");
    let options = hotrestart::inspect::DumpOptions {
        map: Some(hotrestart::hdstore::MapId(map.id)),
        json: true,
        ..hotrestart::inspect::DumpOptions::default()
    };
    let mut out = Vec::new();
    hotrestart::inspect::dump(path, &Options::default(), options, &mut out).expect("readable");
    let text = String::from_utf8(out).expect("ASCII");
    text.lines().filter(|line| line.contains("\"kind\":\"entry\"")).count()
}

#[test]
fn clears_and_facts_below_them_do_not_pile_up() {
    let dir = dir();
    let store = builder().open(dir.path()).expect("a store");
    let (map, other) = (map_of(&store, "m"), map_of(&store, "other"));
    for key in 0..500u64 {
        other.insert(&key, &[1; 200]).expect("room");
    }
    for round in 0..30_000u64 {
        map.insert(&(round % 50), &[2; 300]).expect("room");
        if round % 3 == 0 {
            map.remove(&(round % 50)).expect("removed");
        }
        if round % 10 == 9 {
            map.clear().expect("cleared");
        }
    }
    map.clear().expect("cleared");
    let stats = store.stats();
    assert!(stats.allocated_bytes <= stats.disk_budget_bytes, "{stats:#?}");
    assert!(stats.chunks_freed > 20, "{} chunks were freed", stats.chunks_freed);
    drop((map, other));
    store.abandon();
    let report = inspected(dir.path());
    assert_eq!((report.totals.entries, report.totals.clears, report.totals.absences), (500, 4, 0));
    let store = builder().open(dir.path()).expect("it opens");
    assert!(contents(&store, "m").is_empty() && contents(&store, "other").len() == 500);
}

/// Inserts from `first` on until the store is full; returns the next key.
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

#[test]
fn a_full_store_that_was_cleared_and_filled_again_opens_under_the_same_limit() {
    let limit = 24 << 20;
    let full = || builder().memory_limit_bytes(limit).disk_budget(1e6);
    let dir = dir();
    let store = full().writers(2).open(dir.path()).expect("a new store");
    let map = map_of(&store, "m");
    let mut next = 0;
    for (round, len) in [700, 3_000, 90, 300_000, 700].into_iter().enumerate() {
        next = fill_up(&map, next, len);
        if round < 4 {
            map.clear().expect("a full store can be cleared");
            assert!(map.is_empty());
        }
    }
    let expected = contents(&store, "m");
    drop(map);
    store.abandon();
    for threads in [1, 2, 7, 16] {
        let store = full().loader_threads(threads).open(dir.path());
        let store = store.unwrap_or_else(|error| panic!("{threads} threads: {error}"));
        assert!(contents(&store, "m") == expected, "{threads} threads");
        let stats = store.stats().memory;
        let most_bytes = stats.limit_bytes + (4 << 20) + stats.limit_bytes / 32;
        assert!(stats.committed_bytes <= most_bytes, "{stats:#?}");
        assert_eq!(stats.accounted_bytes(), stats.committed_bytes);
        store.abandon();
    }
}

#[test]
fn a_clear_gives_the_disk_back() {
    for dropped in [false, true] {
        let dir = dir();
        let store = builder().open(dir.path()).expect("a store");
        let map = map_of(&store, "m");
        for key in 0..60_000u64 {
            map.insert(&key, &[1; 250]).expect("room");
        }
        for key in 0..6u64 {
            map.insert(&(1 << 40 | key), &vec![3; 300_000]).expect("room for long ones");
        }
        let full = store.stats().allocated_bytes;
        if dropped {
            assert!(store.drop_map("m").expect("dropped"));
        } else {
            assert_eq!(map.clear().expect("cleared"), 60_006);
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while store.stats().allocated_bytes > full / 2 {
            assert!(Instant::now() < deadline, "{:#?}", store.stats());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(store.stats().compaction_stopped, None);
    }
}

#[test]
fn a_dropped_map_stays_dropped_and_one_of_the_same_name_is_another() {
    // With room for all of it compaction leaves what was dropped where it is.
    for (clean, disk_budget) in [(false, 2.0), (true, 2.0), (false, 50.0), (true, 50.0)] {
        let dir = dir();
        let mut ids = Vec::new();
        let mut expected: HashMap<u64, Vec<u8>> = HashMap::new();
        for life in 0..5u64 {
            let threads = [1, 2, 7][life as usize % 3];
            let builder = builder().loader_threads(threads).disk_budget(disk_budget);
            let store = builder.open(dir.path());
            let store = store.unwrap_or_else(|error| panic!("life {life}: {error}"));
            assert!(contents(&store, "m") == expected, "life {life}");
            let kept = map_of(&store, "kept");
            kept.insert(&life, b"stays").expect("room");
            assert_eq!(kept.len(), life + 1);
            for round in 0..3u64 {
                let map = map_of(&store, "m");
                for key in 0..800u64 {
                    map.insert(&(key + 100 * round), &[(life * 3 + round) as u8; 300])
                        .expect("room");
                }
                map.insert(&7, &vec![5; 200_000]).expect("room for a long one");
                map.remove(&9).expect("removed");
                let all = store.memory().maps();
                let id = all.iter().find(|map| map.0 == "m").expect("it is there").1;
                if round < 2 {
                    assert!(!ids.contains(&id), "number {id} was given twice");
                    ids.push(id);
                    assert!(store.drop_map("m").expect("dropped"));
                    let refused = map.insert(&1, b"v").expect_err("it is gone");
                    assert!(
                        matches!(refused, Error::Dropped { ref name } if name == "m"),
                        "{refused}"
                    );
                } else {
                    ids.retain(|known| *known != id);
                    expected = contents(&store, "m");
                }
            }
            if life == 3 {
                store.drop_map("m").expect("dropped");
                expected.clear();
            }
            drop(kept);
            end(store, clean);
            let report = inspected(dir.path());
            let is_left = report.totals.dropped_records > 1_000;
            assert!(is_left || disk_budget == 2.0, "{:?}", report.totals);
            assert_eq!(report.totals.entries, expected.len() as u64 + life + 1);
        }
    }
}

#[test]
fn a_clear_of_one_stream_is_acknowledged_as_its_map_asks_and_counts_alone() {
    let dir = dir();
    let store = builder().open(dir.path()).expect("a store");
    let options = MapOptions::default().durability(Durability::Synced);
    let map: Map<U64, Bytes> = store.map("m", options).expect("a map");
    let keys: Vec<u64> = (0..200).collect();
    let entries: Vec<(&u64, &[u8])> = keys.iter().map(|key| (key, &b"v"[..])).collect();
    map.put_many(&entries).expect("room");
    let before = store.durable_through(StreamId(2)).0;
    let gone = map.clear_stream(StreamId(2)).expect("cleared");
    assert!(gone > 10 && map.len() == 200 - gone);
    assert_eq!(store.durable_through(StreamId(2)).0, before + 1, "one record, flushed");
    drop(map);
    store.abandon();
    let store = builder().open(dir.path()).expect("it opens");
    assert_eq!(contents(&store, "m").len() as u64, 200 - gone);
}

#[test]
fn a_stream_whose_maps_were_all_dropped_gives_no_seq_twice_and_calls_nothing_durable_that_is_not() {
    for clean in [true, false] {
        let dir = dir();
        let slow = || builder().streams(1).write_interval_ms(60_000).flush_interval_ms(60_000);
        let store = slow().open(dir.path()).expect("open");
        let map = map_of(&store, "former");
        (0..100).for_each(|key| map.insert(&key, b"before").expect("room"));
        let last = map.get(&99).expect("found").expect("there").seq();
        assert!(store.drop_map("former").expect("dropped"));
        drop(map);
        end(store, clean);

        let store = slow().open(dir.path()).expect("open");
        let map = map_of(&store, "next");
        map.insert(&1, b"after").expect("room");
        let seq = map.get(&1).expect("found").expect("there").seq();
        assert!(seq > last, "clean {clean}: seq {seq:?} was given before, as was {last:?}");
        let durable = store.durable_through(StreamId(0));
        assert!(durable < seq, "clean {clean}: {seq:?} is in a log buffer only, {durable:?}");
        drop(map);
        end(store, clean);
    }
}

#[test]
fn a_stream_whose_last_records_were_compacted_away_gives_no_seq_twice_after_a_clean_close() {
    let dir = dir();
    let placed = |store: &Store, name| -> Map<U64, Bytes> {
        store.map(name, MapOptions::default().placed_by_owner()).expect("a map")
    };
    let part = |map: &Map<U64, Bytes>, stream| map.in_stream(StreamId(stream)).expect("a part");
    let store = builder().open(dir.path()).expect("open");
    let former = placed(&store, "former");
    let last = (0..100).map(|key| {
        let part = part(&former, 1);
        part.insert(&key, &[1; 500]).expect("room");
        part.get(&key).expect("readable").expect("there").seq()
    });
    let last = last.max().expect("some");
    drop(former);
    assert!(store.drop_map("former").expect("dropped"));
    let other = placed(&store, "other");
    for round in 0..40_u64 {
        (0..200).for_each(|key| {
            part(&other, 0).insert(&key, &[round as u8; 3_000]).expect("room");
        });
    }
    assert!(store.stats().chunks_freed > 10, "{:#?}", store.stats());
    drop(other);
    store.close().expect("a clean close");
    let dropped = inspected(dir.path()).totals.dropped_records;
    assert_eq!(dropped, 0, "nothing is left of what the stream gave");

    let store = builder().open(dir.path()).expect("open");
    let other = placed(&store, "other");
    part(&other, 1).insert(&1, b"after").expect("room");
    let seq = part(&other, 1).get(&1).expect("readable").expect("there").seq();
    assert!(seq > last, "seq {seq:?} was given before, as was {last:?}");
}

#[test]
fn dropped_maps_give_their_tables_back_though_nothing_is_compacted() {
    let dir = dir();
    let store = builder().streams(256).open(dir.path()).expect("a new store");
    let names: Vec<String> = (0..200).map(|number| format!("map {number}")).collect();
    names.iter().for_each(|name| drop(map_of(&store, name)));
    store.close().expect("a clean close");
    let store = builder().streams(256).open(dir.path()).expect("opens");
    let used = || {
        let memory = store.stats().memory;
        memory.committed_bytes - memory.free_bytes
    };
    let before = used();
    names.iter().for_each(|name| assert!(store.drop_map(name).expect("dropped")));
    // A table's header has 64 bytes.
    let tables = 200 * 256 * 64;
    let start = Instant::now();
    while used() + tables > before {
        assert!(start.elapsed() < Duration::from_secs(20), "{before} bytes before, {}", used());
        std::thread::sleep(Duration::from_millis(20));
    }
}
