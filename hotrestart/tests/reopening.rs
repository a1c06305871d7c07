//! What an opening must know of the lives before it: the time, what is durable, and how to begin on a
//! full disk.

use std::path::Path;

use hotrestart::codec::{Bytes, U64};
use hotrestart::format::Manifest;
use hotrestart::hdstore::{ManualClock, StreamId};
use hotrestart::{Builder, Durability, Map, MapOptions, Store};

fn builder() -> Builder {
    Store::builder().memory_limit_bytes(64 << 20).streams(2).chunk_bytes(256 << 10).writers(1)
}

fn map_of(store: &Store) -> Map<U64, Bytes> {
    store.map("m", MapOptions::default()).expect("a map")
}

#[test]
fn a_clock_that_was_set_back_revives_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = |now_ms| builder().clock(ManualClock::new(now_ms)).open(dir.path()).expect("opens");
    let store = open(1_000);
    map_of(&store).insert_expiring(&1, b"short", 5_000).expect("room");
    map_of(&store).insert_expiring(&2, b"long", 50_000).expect("room");
    assert!(map_of(&store).contains_key(&1).expect("ok"));
    store.close().expect("closed");
    open(9_000).close().expect("closed");
    let store = open(2_000);
    let map = map_of(&store);
    assert!(!map.contains_key(&1).expect("ok"), "it had expired before the clock was set back");
    assert!(map.contains_key(&2).expect("ok"));
}

#[test]
fn a_clock_that_was_set_back_after_a_crash_revives_nothing_that_had_long_expired() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = std::sync::Arc::new(ManualClock::new(1_000));
    let store = builder().clock(std::sync::Arc::clone(&clock)).open(dir.path()).expect("opens");
    map_of(&store).insert_expiring(&1, b"short", 5_000).expect("room");
    map_of(&store).insert_expiring(&2, b"long", 50_000).expect("room");
    clock.set_ms(16_000);
    let persisted = || {
        ["manifest.0", "manifest.1"].iter().any(|name| {
            let bytes = std::fs::read(dir.path().join(name)).expect("a manifest");
            Manifest::decode(&bytes).is_ok_and(|manifest| manifest.latest_time_ms == 16_000)
        })
    };
    let start = std::time::Instant::now();
    while !persisted() {
        assert!(start.elapsed().as_secs() < 10, "the time is not written");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    store.abandon();
    let store = builder().clock(ManualClock::new(2_000)).open(dir.path()).expect("opens");
    assert!(!map_of(&store).contains_key(&1).expect("ok"), "it had expired before the crash");
    assert!(map_of(&store).contains_key(&2).expect("ok"));
}

/// Whoever asks finds nothing there, before and after; but the removal is a change, and must be in the log.
#[test]
fn what_had_expired_when_it_was_removed_stays_so_whatever_the_clock_shows_after_a_crash() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = std::sync::Arc::new(ManualClock::new(1_000));
    let store = builder().clock(std::sync::Arc::clone(&clock)).open(dir.path()).expect("opens");
    let map = map_of(&store);
    (1..4).for_each(|key| map.insert_expiring(&key, b"short", 5_000).expect("room"));
    clock.set_ms(6_000);
    assert!(!map.remove(&1).expect("ok"));
    let mut group = store.group(map.stream_of_key(&2).expect("a stream"));
    group.remove(&map, &2).expect("its stream");
    assert!(group.commit().expect("room").is_done());
    drop(group);
    drop(map);
    store.abandon();
    let store = builder().clock(ManualClock::new(2_000)).open(dir.path()).expect("opens");
    let is_there = |key: u64| map_of(&store).contains_key(&key).expect("ok");
    assert!(!is_there(1) && !is_there(2), "it is back: {}, {}", is_there(1), is_there(2));
    assert!(is_there(3), "the time of the removals was not written, so this shows nothing of them");
}

fn durable(store: &Store) -> Vec<u64> {
    (0..2).map(|stream| store.durable_through(StreamId(stream)).0).collect()
}

fn opened(dir: &Path) -> Store {
    builder().open(dir).expect("opens")
}

#[test]
fn what_was_recovered_is_known_to_be_durable() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = opened(dir.path());
    for key in 0..50 {
        map_of(&store).insert(&key, b"v").expect("room");
    }
    store.persist(Durability::Synced).expect("synced");
    let before = durable(&store);
    assert!(before.iter().all(|seq| *seq > 0));
    map_of(&store).insert(&1, b"only in the log buffers").expect("room");
    store.abandon();
    let store = opened(dir.path());
    let after = durable(&store);
    assert_eq!(after.iter().sum::<u64>(), before.iter().sum::<u64>() + 1, "{before:?} {after:?}");
    store.close().expect("closed");
    assert_eq!(durable(&opened(dir.path())), after);
}

#[test]
fn a_map_keeps_the_durability_that_it_was_made_with_and_tells_it() {
    let dir = tempfile::tempdir().expect("a directory");
    for asked in [Durability::Written, Durability::Synced, Durability::Buffered] {
        let store = builder().open(dir.path()).expect("opens");
        let options = MapOptions::default().durability(asked);
        let map: hotrestart::Map<U64, Bytes> = store.map("level", options).expect("a map");
        assert_eq!(map.durability(), Durability::Written, "{asked} was asked for");
    }
}
