//! Maps whose owner places their keys.
//!
//! Hazards: a key is looked for in another stream than the one it was put in; equal keys of two streams are
//! taken for one; a handle of one stream changes another; a map is opened as what it is not.

use hdstore::codec::{Bytes, U64};
use hdstore::{Applied, Change, Entry, Error, Map, MapId, MapOptions, MapSpec, Placement};
use hdstore::{ManualClock, Seq, Store, StreamId};
use std::sync::Arc;

const STREAMS: u32 = 5;

fn store() -> Store {
    Store::builder().memory_limit_bytes(64 << 20).streams(STREAMS).in_memory().expect("a store")
}

fn placed(store: &Store) -> Map<U64, Bytes> {
    store.map("placed", MapOptions::default().placed_by_owner()).expect("a map")
}

fn part(map: &Map<U64, Bytes>, stream: u32) -> Map<U64, Bytes> {
    map.in_stream(StreamId(stream)).expect("a part")
}

#[test]
fn equal_keys_in_several_streams_of_a_placed_map_are_several_entries_for_every_call() {
    let store = store();
    let map = placed(&store);
    for stream in 0..STREAMS {
        let part = part(&map, stream);
        for key in 0..40 {
            part.insert(&key, format!("{stream} {key}").as_bytes()).expect("room");
        }
    }
    assert_eq!((map.len(), map.iter().count()), (200, 200));
    assert_eq!(map.stats().entries, 200);
    for stream in 0..STREAMS {
        let part = part(&map, stream);
        assert_eq!((part.len(), part.stats().entries, part.iter().count()), (40, 40, 40));
        let expected = |key: u64| format!("{stream} {key}").into_bytes();
        for key in 0..40 {
            assert_eq!(part.get_owned(&key).expect("ok"), Some(expected(key)));
            let guard = part.get(&key).expect("ok").expect("there");
            assert_eq!(guard.value_bytes(), expected(key));
        }
        let batch = store.read_batch();
        assert_eq!(part.get_in(&batch, &7).expect("ok"), Some(&expected(7)[..]));
        let many = part.get_many(&[&1, &2, &99]).expect("ok");
        assert_eq!(many, [Some(expected(1)), Some(expected(2)), None]);
        let mut seen = 0;
        part.get_many_with(&[&3, &4], |_, value| seen += value.map_or(0, <[u8]>::len)).expect("ok");
        assert_eq!(seen, 2 * expected(3).len());
    }
    let three = part(&map, 3);
    assert!(three.remove(&0).expect("ok") && !three.remove(&0).expect("ok"));
    assert!(three.compare_exchange(&1, b"3 1", b"other").expect("ok"));
    assert!(!three.insert_if_absent(&2, b"no").expect("ok"));
    match three.entry(&3).expect("ok") {
        Entry::Occupied(entry) => assert!(entry.remove().expect("ok")),
        Entry::Vacant(_) => panic!("key 3 is there"),
    }
    match three.entry(&3).expect("ok") {
        Entry::Vacant(entry) => assert!(entry.insert(b"again").expect("ok")),
        Entry::Occupied(_) => panic!("key 3 was removed"),
    }
    three.update(&4, |old| old.map(|old| [old, &b"!"[..]].concat())).expect("ok");
    three.put_many(&[(&50, &b"a"[..]), (&51, &b"b"[..])]).expect("ok");
    assert_eq!(three.len(), 41);
    for stream in [0, 1, 2, 4] {
        let part = part(&map, stream);
        assert_eq!(part.len(), 40);
        assert_eq!(part.get_owned(&4).expect("ok"), Some(format!("{stream} 4").into_bytes()));
    }
    assert_eq!(three.clear().expect("cleared"), 41);
    assert_eq!((three.len(), map.len()), (0, 160), "the part alone was cleared");
    assert_eq!(map.clear_stream(StreamId(2)).expect("cleared"), 40);
    assert_eq!(map.clear().expect("cleared"), 120);
    assert!(map.is_empty());
}

#[test]
fn a_handle_without_a_stream_refuses_whatever_needs_one() {
    let store = store();
    let map = placed(&store);
    let is_refused = |result: Result<(), Error>| {
        assert!(matches!(&result, Err(Error::NoStream { name }) if name == "placed"), "{result:?}");
    };
    is_refused(map.insert(&1, b"x"));
    is_refused(map.insert_expiring(&1, b"x", 1));
    is_refused(map.insert_if_absent(&1, b"x").map(drop));
    is_refused(map.compare_exchange(&1, b"x", b"y").map(drop));
    is_refused(map.remove(&1).map(drop));
    is_refused(map.get(&1).map(drop));
    is_refused(map.get_owned(&1).map(drop));
    is_refused(map.contains_key(&1).map(drop));
    is_refused(map.get_in(&store.read_batch(), &1).map(drop));
    is_refused(map.get_many(&[&1]).map(drop));
    is_refused(map.get_many_with(&[&1], |_, _| ()));
    is_refused(map.put_many(&[(&1, &b"x"[..])]).map_err(|error| error.source));
    is_refused(map.entry(&1).map(drop));
    is_refused(map.update(&1, |_| None));
    let refused = map.in_stream(StreamId(STREAMS)).map(drop);
    assert!(matches!(refused, Err(Error::Stream { stream: STREAMS, streams: STREAMS })));
    let refused = part(&map, 1).clear_stream(StreamId(2));
    assert!(
        matches!(refused, Err(Error::OtherStream { expected: 1, found: 2, .. })),
        "{refused:?}"
    );
    let hashed = store.map::<U64, Bytes>("hashed", MapOptions::default()).expect("a map");
    let refused = hashed.in_stream(StreamId(0)).map(drop);
    assert!(matches!(&refused, Err(Error::PlacedByHash { name }) if name == "hashed"));
}

#[test]
fn a_map_is_not_opened_with_its_keys_placed_otherwise() {
    let store = store();
    placed(&store);
    store.map::<U64, Bytes>("hashed", MapOptions::default()).expect("a map");
    let refused = store.map::<U64, Bytes>("placed", MapOptions::default()).map(drop);
    let (by_hash, by_owner) = (Placement::ByHash, Placement::ByOwner);
    assert!(
        matches!(&refused, Err(Error::MapPlacement { expected, found, .. })
            if (*expected, *found) == (by_owner, by_hash)),
        "{refused:?}"
    );
    let options = MapOptions::default().placed_by_owner();
    let refused = store.map::<U64, Bytes>("hashed", options).map(drop);
    assert!(matches!(refused, Err(Error::MapPlacement { .. })), "{refused:?}");
}

#[test]
fn expired_entries_of_a_placed_map_are_swept_where_they_are() {
    let clock = Arc::new(ManualClock::new(1_000));
    let store = Store::builder()
        .memory_limit_bytes(64 << 20)
        .streams(STREAMS)
        .clock(Arc::clone(&clock))
        .in_memory()
        .expect("a store");
    let map = placed(&store);
    for stream in 0..STREAMS {
        let lives_ms = if stream == 2 { 100 } else { 10_000 };
        part(&map, stream).insert_expiring(&1, b"x", 1_000 + lives_ms).expect("room");
    }
    clock.set_ms(2_000);
    assert_eq!(store.sweep(2_000, u64::MAX / 2).expect("swept").removed, 1);
    assert!(part(&map, 2).is_empty() && map.len() == 4);
}

/// A fact of absence belongs to its stream: an equal key of another one stays, whatever their seqs are.
#[test]
fn a_key_that_was_removed_in_one_stream_comes_back_in_the_others_in_any_order() {
    let key = 7_u64.to_le_bytes();
    let entry = Change::Entry { key: &key, value: b"there", expiry_ms: None };
    let record = |stream, seq, change| Applied {
        map: MapId(1),
        stream: StreamId(stream),
        seq: Seq(seq),
        change,
    };
    let gone = Change::Absence { key: &key };
    let records =
        [record(0, 5, entry), record(0, 90, gone), record(1, 6, entry), record(2, 100, entry)];
    for first in 0..records.len() {
        for step in [1, 3] {
            let store = store();
            store
                .restore_map(MapSpec {
                    id: MapId(1),
                    name: "placed".to_owned(),
                    key_type: "u64".to_owned(),
                    value_type: "bytes".to_owned(),
                    level: (),
                    placement: Placement::ByOwner,
                })
                .expect("memory");
            let loading = store.start_load(1 << 20);
            for n in 0..records.len() {
                loading.apply(&[records[(first + n * step) % records.len()]]).expect("memory");
            }
            assert!(!loading.next_pass());
            assert_eq!(loading.finish(), 2);
            let map = placed(&store);
            assert!(part(&map, 0).is_empty(), "{first} {step}");
            assert_eq!((part(&map, 1).len(), part(&map, 2).len()), (1, 1), "{first} {step}");
        }
    }
}
