//! Maps whose owner places their keys, on disk: equal keys of several streams through crashes, compaction and
//! the offline tools.
//!
//! Hazards: a record is looked up, forgotten, logged again or counted in another stream than its own; a map
//! is opened as what it is not.

use std::collections::HashMap;

use hotrestart::codec::{Bytes, U64};
use hotrestart::{Builder, Error, Map, MapOptions, Placement, Store, StreamId, inspect};

const STREAMS: u32 = 4;

fn builder() -> Builder {
    Store::builder().memory_limit_bytes(64 << 20).streams(STREAMS).chunk_bytes(256 << 10).writers(2)
}

fn placed(store: &Store) -> Map<U64, Bytes> {
    store.map("placed", MapOptions::default().placed_by_owner()).expect("a map")
}

type Model = HashMap<(u32, u64), Vec<u8>>;

fn check(store: &Store, model: &Model, when: &str) {
    let map = placed(store);
    assert_eq!(map.len(), model.len() as u64, "{when}");
    let parts: Vec<_> =
        (0..STREAMS).map(|stream| map.in_stream(StreamId(stream)).expect("a part")).collect();
    for ((stream, key), value) in model {
        let found = parts[*stream as usize].get_owned(key).expect("readable");
        assert_eq!(found.as_ref(), Some(value), "{when}: key {key} in stream {stream}");
    }
}

/// The same keys in all streams, put and removed at different times, long values among them.
fn change(store: &Store, model: &mut Model, rounds: std::ops::Range<u64>) {
    let map = placed(store);
    for round in rounds {
        for stream in 0..STREAMS {
            let part = map.in_stream(StreamId(stream)).expect("a part");
            for key in 0..60_u64 {
                let place = (stream, key);
                if (key + round * 7 + u64::from(stream) * 13).is_multiple_of(5) {
                    let was_there = part.remove(&key).expect("removed");
                    assert_eq!(was_there, model.remove(&place).is_some());
                    continue;
                }
                let len = if key == 11 { 70_000 } else { 3_000 + (round * key % 900) as usize };
                let value = vec![(round + key + u64::from(stream)) as u8; len];
                part.insert(&key, &value).expect("room");
                model.insert(place, value);
            }
        }
        if round % 9 == 4 {
            let stream = (round % u64::from(STREAMS)) as u32;
            map.in_stream(StreamId(stream)).expect("a part").clear().expect("cleared");
            model.retain(|place, _| place.0 != stream);
        }
    }
}

#[test]
fn equal_keys_of_several_streams_stay_apart_through_crashes_compaction_and_closes() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut model = Model::new();
    let mut freed = 0;
    for life in 0..4 {
        let store = builder().loader_threads(1 + life as usize).open(dir.path()).expect("opens");
        check(&store, &model, "reopened");
        change(&store, &mut model, life * 30..(life + 1) * 30);
        check(&store, &model, "used");
        freed += store.stats().chunks_freed;
        if life % 2 == 0 {
            // The end of the log lies in the log buffers alone.
            store.abandon();
            let found = inspect::check(dir.path(), &inspect::Options::default());
            let found = found.expect("readable");
            assert_eq!(found.totals.entries, model.len() as u64);
        } else {
            store.close().expect("closed");
        }
    }
    assert!(freed > 20, "{freed} chunks were freed: compaction was not at stake");
    let store = builder().open(dir.path()).expect("opens");
    check(&store, &model, "at the end");
}

#[test]
fn how_a_map_was_made_to_place_its_keys_is_remembered_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().open(dir.path()).expect("opens");
    placed(&store).in_stream(StreamId(3)).expect("a part").insert(&1, b"x").expect("room");
    store.close().expect("closed");
    let store = builder().open(dir.path()).expect("opens");
    let refused = store.map::<U64, Bytes>("placed", MapOptions::default()).map(drop);
    assert!(
        matches!(&refused, Err(Error::MapPlacement { expected: Placement::ByOwner, .. })),
        "{refused:?}"
    );
    let part = placed(&store).in_stream(StreamId(3)).expect("a part");
    assert_eq!(part.get_owned(&1).expect("ok").as_deref(), Some(&b"x"[..]));
}
