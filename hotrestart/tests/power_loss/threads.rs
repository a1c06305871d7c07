//! Many threads on one stream when the machine dies: the order of stamps is the order of what comes back.

use std::collections::HashMap;
use std::time::Duration;

use crate::bench::{Machine, Seed};
use hotrestart::codec::{Bytes, U64};
use hotrestart::{Durability, Map, MapOptions, Store};

const THREADS: u64 = 4;

/// A put that was acknowledged: its stamp, and its number in its key's history.
type Put = (u64, u64);

fn maps(store: &Store) -> [Map<U64, Bytes>; 2] {
    let synced = MapOptions::default().durability(Durability::Synced);
    [
        store.map("buffered", MapOptions::default()).expect("a map"),
        store.map("synced", synced).expect("a map"),
    ]
}

/// Puts to keys of its own until the store refuses.
fn put_until_refused(map: &Map<U64, Bytes>, thread: u64, first: u64) -> HashMap<u64, Vec<Put>> {
    let mut history: HashMap<u64, Vec<Put>> = HashMap::new();
    for n in first.. {
        let key = thread + n % 13 * THREADS;
        let mut value = n.to_le_bytes().to_vec();
        value.resize(8 + (n * 977 % 2_500) as usize, 7);
        if map.insert(&key, &value).is_err() {
            break;
        }
        let seq = map.get(&key).expect("ok").expect("it is there").seq().0;
        history.entry(key).or_default().push((seq, n));
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    history
}

#[test]
fn what_comes_back_is_cut_at_one_stamp_whoever_was_putting() {
    let (mut cut, mut kept) = (0, 0);
    for seed in 300..316u64 {
        let _seed = Seed(seed);
        let power = seed % 2 == 0;
        let mut machine = Machine::new(seed);
        let open = |machine: &Machine| {
            machine.builder().streams(1).writers(1).buffers_per_writer(4).open("/s")
        };
        let store = open(&machine).expect("a new store");
        let [buffered, synced] = maps(&store);
        let histories: Vec<HashMap<u64, Vec<Put>>> = std::thread::scope(|scope| {
            let putters: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let map = if thread == 0 { &synced } else { &buffered };
                    scope.spawn(move || put_until_refused(map, thread, 1))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(5 + seed * 7 % 30));
            machine.disk = machine.disk.crash(power);
            putters.into_iter().map(|putter| putter.join().expect("no panic")).collect()
        });
        drop((buffered, synced));
        store.abandon();
        machine.note_crash(power);
        let store = open(&machine).expect("recovers");
        let [buffered, synced] = maps(&store);
        let mut found: HashMap<u64, Put> = HashMap::new();
        for entry in buffered.iter().chain(synced.iter()) {
            let number = u64::from_le_bytes(entry.value_bytes()[..8].try_into().expect("8 bytes"));
            found.insert(entry.key().expect("a number"), (entry.seq().0, number));
        }
        let last = found.values().map(|(seq, _)| *seq).max().unwrap_or(0);
        for (seq, _) in histories.iter().flat_map(HashMap::values).flatten() {
            *if *seq > last { &mut cut } else { &mut kept } += 1;
        }
        for (thread, history) in histories.iter().enumerate() {
            let promised = thread == 0 || !power;
            let acknowledged = history.values().flatten().map(|(seq, _)| *seq).max().unwrap_or(0);
            assert!(!promised || acknowledged <= last, "seed {seed}: {acknowledged} is lost");
            for (key, puts) in history {
                let expected = puts.iter().rev().find(|(seq, _)| *seq <= last).copied();
                let after_all = puts.last().map_or(0, |(seq, _)| *seq);
                let is_under_way = found.get(key).is_some_and(|(seq, _)| *seq > after_all);
                assert!(
                    is_under_way || found.get(key).copied() == expected,
                    "seed {seed}, key {key}, cut at {last}: {:?}, expected {expected:?}",
                    found.get(key)
                );
            }
        }
    }
    assert!(kept > 1_000 && cut > 100, "{kept} puts came back, {cut} did not");
}
