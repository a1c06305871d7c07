//! Loading, and what goes wrong around it: facts of absence, readers who come early, seqs that end.

use hdstore::codec::Bytes;
use hdstore::{
    Applied, Change, Error, Loading, MapId, MapOptions, MapSpec, Outline, Placement, Seq, Store,
    StreamId,
};

const MIB: u64 = 1 << 20;

fn store_with_map() -> Store {
    store_of(32 * MIB, 1)
}

fn store_of(limit_bytes: u64, streams: u32) -> Store {
    let builder = Store::builder().memory_limit_bytes(limit_bytes).streams(streams);
    let store = builder.in_memory().expect("a store");
    let spec = MapSpec {
        id: MapId(3),
        name: "m".to_owned(),
        key_type: "bytes".to_owned(),
        value_type: "bytes".to_owned(),
        level: (),
        placement: Placement::ByHash,
    };
    store.restore_map(spec).expect("memory");
    store
}

fn record(seq: u64, change: Change<'_>) -> Applied<'_> {
    Applied { map: MapId(3), stream: StreamId(0), seq: Seq(seq), change }
}

fn entry<'a>(key: &'a [u8], value: &'a [u8]) -> Change<'a> {
    Change::Entry { key, value, expiry_ms: None }
}

#[test]
fn a_reader_who_comes_while_a_store_loads_keeps_its_value() {
    let store = store_with_map();
    let loading = store.start_load(1 << 20);
    loading.apply(&[record(1, entry(b"k", &[1; 100]))]).expect("memory");
    let map = store.map::<Bytes, Bytes>("m", MapOptions::default()).expect("the same types");
    let batch = store.read_batch();
    let seen = map.get_in(&batch, b"k").expect("ok").expect("there");
    for seq in 2..2_000u64 {
        loading.apply(&[record(seq, entry(b"k", &[seq as u8; 100]))]).expect("memory");
    }
    assert_eq!(seen, [1; 100]);
    let waits = store.stats().unreclaimed_bytes;
    assert!(waits > 1_000 * 100, "{waits} B wait for the reader: nothing was replaced under it");
    drop(batch);
    loading.finish();
    store.maintain(0);
    assert_eq!(store.stats().unreclaimed_bytes, 0);
}

#[test]
fn a_fact_of_absence_is_absent_for_readers_writers_and_walks_before_the_load_ends() {
    let store = store_with_map();
    let loading = store.start_load(1 << 20);
    let absence = Change::Absence { key: b"k" };
    loading.apply(&[record(1, entry(b"k", b"v")), record(2, absence)]).expect("memory");
    let map = store.map::<Bytes, Bytes>("m", MapOptions::default()).expect("the same types");
    assert_eq!(map.get_owned(b"k").expect("ok"), None);
    assert_eq!(map.iter().count(), 0);
    assert!(!map.remove(b"k").expect("ok"));
    assert!(!map.compare_exchange(b"k", b"", b"new").expect("ok"));
    assert!(map.insert_if_absent(b"k", b"new").expect("room"));
    assert_eq!(loading.finish(), 1);
    assert_eq!(map.get_owned(b"k").expect("ok").as_deref(), Some(&b"new"[..]));
}

/// A third of the keys is put and gone, a third gone and put again, a third only put.
fn history(keys: u64) -> Vec<(u64, u64, bool)> {
    let of_key = |key: u64| {
        let (first, second) = (key * 3 + 1, key * 3 + 2);
        match key % 3 {
            0 => vec![(key, first, true), (key, second, false)],
            1 => vec![(key, first, false), (key, second, true)],
            _ => vec![(key, first, true)],
        }
    };
    (0..keys).flat_map(of_key).collect()
}

#[test]
fn more_facts_of_absence_than_fit_lose_nothing_and_revive_nothing_in_any_order() {
    for seed in 1..4_u64 {
        let mut records = history(12_000);
        let mut state = seed;
        for index in (1..records.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed);
            records.swap(index, (state >> 33) as usize % (index + 1));
        }
        let store = store_with_map();
        let loading = store.start_load(0);
        let mut passes = 0;
        loop {
            passes += 1;
            std::thread::scope(|scope| {
                for part in records.chunks(records.len().div_ceil(3)) {
                    let loading = &loading;
                    scope.spawn(move || {
                        for (key, seq, is_entry) in part {
                            let key = key.to_le_bytes();
                            let change = match is_entry {
                                true => entry(&key, b"value"),
                                false => Change::Absence { key: &key },
                            };
                            loading.apply(&[record(*seq, change)]).expect("memory");
                        }
                    });
                }
            });
            if !loading.next_pass() {
                break;
            }
        }
        assert!(passes > 4, "seed {seed}: {passes} passes");
        assert_eq!(loading.finish(), 8_000, "seed {seed}");
        let map = store.map::<Bytes, Bytes>("m", MapOptions::default()).expect("the same types");
        for key in 0..12_000_u64 {
            let found = map.contains_key(&key.to_le_bytes()).expect("ok");
            assert_eq!(found, key % 3 != 0, "seed {seed}, key {key}");
        }
    }
}

#[test]
fn a_value_in_pieces_is_entered_whole_or_not_at_all() {
    let store = store_with_map();
    let loading = store.start_load(1 << 20);
    let outline = |seq| Outline {
        map: MapId(3),
        stream: StreamId(0),
        seq: Seq(seq),
        key: b"k",
        value_len: 100_000,
        expiry_ms: None,
    };
    let mut whole = loading.begin(&outline(5)).expect("memory").expect("wanted");
    let mut given_up = loading.begin(&outline(7)).expect("memory").expect("wanted");
    assert!(given_up.write(0, &[9; 10]) && !given_up.write(99_999, &[9; 2]), "beyond its value");
    assert!(!given_up.write(u64::MAX, &[9]));
    drop(given_up);
    assert!(whole.write(60_000, &[2; 40_000]) && whole.write(0, &[1; 60_000]));
    assert_eq!((whole.key(), whole.value().len()), (&b"k"[..], 100_000));
    let mut late = loading.begin(&outline(4)).expect("memory").expect("nothing newer is known yet");
    assert!(late.write(0, &[3; 100_000]));
    assert!(whole.enter(Seq(5)).expect("memory"));
    assert!(!late.enter(Seq(4)).expect("memory"), "something newer came");
    assert!(loading.begin(&outline(5)).expect("memory").is_none());
    loading.apply(&[record(9, Change::Absence { key: b"gone" })]).expect("memory");
    let gone = Outline { key: b"gone", ..outline(8) };
    assert!(loading.begin(&gone).expect("memory").is_none());
    assert_eq!(loading.finish(), 1);
    let map = store.map::<Bytes, Bytes>("m", MapOptions::default()).expect("the same types");
    let value = map.get_owned(b"k").expect("ok").expect("there");
    assert!(value[..60_000] == [1; 60_000] && value[60_000..] == [2; 40_000]);
    store.maintain(0);
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes);
}

#[test]
fn a_stream_out_of_seqs_refuses_changes_and_keeps_what_it_has() {
    let store = store_with_map();
    let loading = store.start_load(1 << 20);
    let beyond = Seq(Seq::MAX.0 + 1);
    assert!(loading.raise_seq(StreamId(0), beyond).is_err());
    let refused = loading.apply(&[record(beyond.0, entry(b"k", b"v"))]);
    assert!(matches!(refused, Err(Error::SeqExhausted { stream: 0, .. })), "{refused:?}");
    loading.raise_seq(StreamId(0), Seq(Seq::MAX.0 - 1)).expect("one seq is left");
    loading.finish();
    let map = store.map::<Bytes, Bytes>("m", MapOptions::default()).expect("the same types");
    map.insert(b"k", b"last").expect("the last seq");
    assert!(matches!(map.insert(b"k", b"more"), Err(Error::SeqExhausted { stream: 0, .. })));
    assert!(matches!(map.remove(b"k"), Err(Error::SeqExhausted { stream: 0, .. })));
    assert_eq!(map.get(b"k").expect("ok").expect("there").value_bytes(), b"last");
}

const ENTRIES: u64 = 60_000;
const VALUE: [u8; 40] = [7; 40];

fn load_some(loading: &Loading<hdstore::NoLog>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        // The streams of keys do not matter to a load.
        let (key, stream) = (number.to_be_bytes(), StreamId(number as u32 % 4));
        let (map, seq) = (MapId(3), Seq(number / 4 + 1));
        let record = Applied { map, stream, seq, change: entry(&key, &VALUE) };
        assert_eq!(loading.apply(&[record]).expect("memory"), 1);
    }
}

fn buckets(store: &Store) -> u64 {
    store.maps()[0].2.buckets
}

#[test]
fn tables_get_their_buckets_when_a_small_part_is_loaded_and_lose_nothing() {
    let (store, plain) = (store_of(32 * MIB, 4), store_of(32 * MIB, 4));
    let loading = plain.start_load(1 << 20);
    load_some(&loading, 0..ENTRIES);
    loading.finish();
    let loading = store.start_load(1 << 20);
    load_some(&loading, 0..ENTRIES / 32);
    let before = buckets(&store);
    loading.expect(ENTRIES * 48, ENTRIES * 82);
    let early = buckets(&store);
    assert!(early > 20 * before, "{before} buckets grew to {early}");
    loading.expect(ENTRIES / 32 * 48, 0);
    loading.expect(0, 0);
    assert_eq!(buckets(&store), early, "nothing more is expected than there is");
    load_some(&loading, ENTRIES / 32..ENTRIES);
    assert_eq!(loading.finish(), ENTRIES);
    // Not beyond what they have without it, and most of it early.
    let (at_last, grown) = (buckets(&store), buckets(&plain));
    assert!(at_last.abs_diff(grown) <= 4 && early > grown * 8 / 10, "{early}, {at_last}, {grown}");
    let in_order = |store: &Store| {
        let map = store.map::<Bytes, Bytes>("m", MapOptions::default()).expect("the same types");
        let mut keys: Vec<_> = map.iter().map(|each| each.key_bytes().to_vec()).collect();
        keys.sort_unstable();
        keys
    };
    assert!(in_order(&store) == in_order(&plain) && in_order(&store).len() == ENTRIES as usize);
}

#[test]
fn tables_of_a_load_that_comes_near_its_limit_grow_as_they_fill() {
    let store = store_of(16 * MIB, 4);
    let loading = store.start_load(1 << 20);
    load_some(&loading, 0..2_000);
    let before = buckets(&store);
    // What may come does not fit beside the tables, though what is expected does.
    loading.expect(3 * MIB, 14 * MIB);
    // A sixteenth of the limit is 1 MiB.
    loading.expect(6 * MIB, 6 * MIB);
    assert_eq!(buckets(&store), before);
    loading.expect(3 * MIB, 6 * MIB);
    assert!(buckets(&store) > 10 * before);
}
