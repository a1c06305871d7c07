//! Memory: the limit, the accounting, the overheads that `docs/memory.md` promises.

use hdstore::codec::{Bytes, U64};
use hdstore::{Error, MapOptions, Store, Topology};

const MIB: u64 = 1 << 20;

fn store(limit_bytes: u64) -> Store {
    Store::builder()
        .memory_limit_bytes(limit_bytes)
        .streams(8)
        .hash_seed(1)
        .in_memory()
        .expect("a store")
}

#[test]
fn every_committed_byte_is_accounted_for() {
    let store = store(256 * MIB);
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for n in 0..60_000u64 {
        map.insert(&n, &vec![n as u8; (n % 700) as usize]).expect("room");
    }
    map.insert(&70_000, &vec![7; 3 << 20]).expect("room for a large one");
    for n in 0..20_000u64 {
        map.insert(&n, b"shorter").expect("room");
        if n % 3 == 0 {
            assert!(map.remove(&(n + 20_000)).expect("removed"));
        }
    }
    let guard = map.get(&70_000).expect("ok").expect("there");
    map.remove(&70_000).expect("removed");
    store.maintain(4 * MIB);
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    assert!(stats.held_by_guards_bytes >= 3 << 20, "{stats:#?}");
    drop(guard);
    store.maintain(0);
    let stats = store.stats();
    assert_eq!(stats.unreclaimed_bytes, 0);
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    assert!(stats.committed_bytes <= stats.limit_bytes);
}

#[test]
fn a_full_store_refuses_with_both_figures_and_keeps_the_old_value() {
    let store = store(32 * MIB);
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let value = vec![5; 1000];
    let mut entries = 0u64;
    let error = loop {
        match map.insert(&entries, &value) {
            Ok(()) => entries += 1,
            Err(error) => break error,
        }
    };
    let Error::Capacity { limit_bytes, committed_bytes, needed_bytes } = error else {
        panic!("{error}")
    };
    assert_eq!(limit_bytes, 32 * MIB);
    assert!(committed_bytes <= limit_bytes && needed_bytes >= 1024, "{error}");
    assert!(entries * 1024 > 26 * MIB, "{entries} entries of 1 KiB in 32 MiB");
    let longer = vec![6; 30_000];
    let refused = map.insert(&3, &longer).expect_err("no room for a longer one");
    assert!(refused.is_capacity());
    assert_eq!(map.get_owned(&3).expect("ok").expect("there"), value);
    for n in 0..entries {
        assert!(map.remove(&n).expect("removes work in a full store"));
    }
    store.maintain(0);
    map.insert(&3, &longer).expect("room again, of another size");
}

#[test]
fn removes_work_at_the_memory_limit_beside_threads_that_fill_it() {
    let store = store(32 * MIB);
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let threads = 3;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let map = &map;
            scope.spawn(move || {
                let mut there = std::collections::VecDeque::new();
                for n in 0..40_000u64 {
                    // Ever longer values, so that all pages go over to other classes.
                    let (key, value) = (n * threads + thread, vec![3; 20 + (n / 15) as usize]);
                    match map.insert(&key, &value) {
                        Ok(()) => there.push_back(key),
                        Err(error) => {
                            assert!(error.is_capacity(), "{error}");
                            for key in there.drain(..there.len().min(7)) {
                                assert!(map.remove(&key).expect("removes work"), "{key}");
                            }
                        }
                    }
                }
                assert!(there.len() < 30_000, "{} entries: the limit was not met", there.len());
            });
        }
    });
}

#[test]
fn whole_batches_of_free_slots_serve_every_size_when_memory_is_short() {
    // A bound this high lets half of the limit wait as free slots of one class.
    let filled = |sizes: &[usize]| {
        let store = Store::builder()
            .memory_limit_bytes(64 * MIB)
            .unreclaimed_max_bytes(64 * MIB)
            .in_memory()
            .expect("a store");
        let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
        let mut entries = 0;
        for &size in sizes {
            for n in 0..entries {
                map.remove(&n).expect("removed");
            }
            let stats = store.stats();
            assert!(entries == 0 || stats.free_bytes > 16 * MIB, "{stats:#?}");
            assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
            let value = vec![1; size];
            entries = (0u64..).take_while(|n| map.insert(n, &value).is_ok()).count() as u64;
        }
        let stats = store.stats();
        assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
        entries
    };
    let (others, at_once) = (filled(&[1000, 3000]), filled(&[3000]));
    assert!(others * 100 >= at_once * 90, "{others} of 3000 B, in a new store {at_once}");
}

#[test]
fn memory_freed_by_one_map_serves_another_of_another_size() {
    let store = store(64 * MIB);
    let small = store.map::<U64, Bytes>("small", MapOptions::default()).expect("a map");
    let mut entries = 0u64;
    while small.insert(&entries, &[1; 100]).is_ok() {
        entries += 1;
    }
    for n in 0..entries {
        small.remove(&n).expect("removed");
    }
    let large = store.map::<U64, Bytes>("large", MapOptions::default()).expect("a map");
    let mut held = 0;
    while large.insert(&held, &vec![2; MIB as usize]).is_ok() {
        held += 1;
    }
    assert!(
        held >= 40,
        "{held} MiB of large values where {entries} small ones were: {:#?}",
        store.stats()
    );
}

#[test]
fn a_thousand_empty_maps_of_271_streams_cost_at_most_40_mb() {
    let store =
        Store::builder().memory_limit_bytes(256 * MIB).streams(271).in_memory().expect("a store");
    let before = store.stats();
    for n in 0..1000 {
        store.map::<U64, Bytes>(&format!("map-{n}"), MapOptions::default()).expect("a map");
    }
    let after = store.stats();
    let used =
        (after.committed_bytes - after.free_bytes) - (before.committed_bytes - before.free_bytes);
    assert!(used <= 40_000_000, "{used}");
    assert_eq!(after.accounted_bytes(), after.committed_bytes, "{after:#?}");
}

#[test]
fn bytes_per_entry_stay_within_the_budget() {
    for (value_len, budget) in [(16usize, 54u64), (100, 146), (239, 290), (1007, 1100)] {
        let store = store(512 * MIB);
        let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
        let entries = 150_000u64;
        for n in 0..entries {
            map.insert(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15), &vec![1; value_len]).expect("room");
        }
        let stats = store.stats();
        let per_entry = (stats.committed_bytes - stats.free_bytes) / entries;
        let index = map.stats().index_bytes as f64 / entries as f64;
        println!("{value_len} B values: {per_entry} B per entry, of it {index:.2} B index");
        assert!(per_entry <= budget, "{value_len} B values: {per_entry} B per entry");
        assert!((9.0..=11.0).contains(&index), "{index} B of index per entry");
    }
}

#[test]
fn the_index_keeps_its_load_while_it_grows() {
    let store =
        Store::builder().memory_limit_bytes(256 * MIB).streams(1).in_memory().expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for n in 0..200_000u64 {
        map.insert(&n, b"v").expect("room");
        if n > 5_000 && n % 997 == 0 {
            let stats = map.stats();
            let slots = (stats.buckets + stats.overflow_buckets) * 8;
            let load = stats.entries as f64 / slots as f64;
            assert!(load >= 0.75, "load {load:.3} at {n} entries: {stats:?}");
        }
    }
}

#[test]
fn keys_and_values_of_every_possible_length_come_back() {
    let store = store(512 * MIB);
    let map = store.map::<Bytes, Bytes>("m", MapOptions::default()).expect("a map");
    let lens = [
        0usize,
        1,
        7,
        8,
        255,
        4096,
        32_700,
        32_768,
        65_535,
        65_600,
        1 << 20,
        (1 << 20) + 1,
        5 << 20,
    ];
    for (index, len) in lens.into_iter().enumerate() {
        let value: Vec<u8> = (0..len).map(|n| (n * 7 + index) as u8).collect();
        let key = vec![index as u8 + 1; (index * 5_400).clamp(1, 65_535)];
        map.insert(&key, &value).expect("room");
        assert!(map.get_owned(&key).expect("ok").expect("there") == value, "{len}");
    }
    assert!(matches!(map.insert(b"", b"v"), Err(Error::EmptyKey)));
    let long = vec![0; 65_536];
    assert!(matches!(
        map.insert(&long, b""),
        Err(Error::TooLarge { what: "key", len: 65_536, max: 65_535 })
    ));
    let huge = vec![0; (128 << 20) + 1];
    let error = map.insert(b"k", &huge).expect_err("more than a quarter of the limit");
    assert!(
        matches!(error, Error::TooLarge { what: "value", max, .. } if max == 128 << 20),
        "{error}"
    );
}

#[test]
fn streams_spread_over_made_up_nodes_and_the_limit_holds_for_their_sum() {
    let store = Store::builder()
        .memory_limit_bytes(64 * MIB)
        .streams(7)
        .topology(Topology::made_up(2))
        .in_memory()
        .expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let mut entries = 0;
    while map.insert(&entries, &[3; 500]).is_ok() {
        entries += 1;
    }
    let stats = store.stats();
    assert_eq!(stats.committed.len(), 2);
    assert!(stats.committed.iter().all(|node| node.total() > 16 * MIB), "{stats:#?}");
    assert!(stats.committed_bytes <= 64 * MIB);
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    assert!((0..entries).all(|n| map.contains_key(&n).expect("ok")));
}

#[test]
fn large_values_are_overwritten_for_ever_within_the_limit() {
    let store = store(64 * MIB);
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for round in 0..200u64 {
        let len = 100_000 + (round as usize * 7_919) % 3_000_000;
        map.insert(&(round % 4), &vec![round as u8; len]).unwrap_or_else(|error| {
            panic!("round {round}: {error}: {:#?}", store.stats());
        });
        assert_eq!(map.get_with(&(round % 4), <[u8]>::len).expect("ok"), Some(len));
    }
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
}
