//! Groups of several threads, and beside clears and readers.
//!
//! Hazards: changes of two groups mix; a condition is looked at too early; what others do to a group's tables
//! meanwhile takes the memory that it counted on; readers lose keys while a group moves words.

use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hdstore::{GROUP_CHANGES_MAX, GroupOutcome};

use super::{MIB, Random, STREAM, map_of, store};

/// Groups of several threads over the same keys: each group puts one number to all of its keys.
#[test]
fn groups_of_several_threads_over_the_same_keys_come_one_after_the_other() {
    let store = store(64 * MIB);
    let maps = ["one", "two"].map(|name| map_of(&store, name));
    let (numbers, beside) = (AtomicU64::new(0), AtomicU64::new(0));
    // As many rounds as it takes until they have met.
    let is_enough = |round: u64| round >= 300 && beside.load(Ordering::Relaxed) > 100;
    for round in (0..20_000_u64).take_while(|round| !is_enough(*round)) {
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            for thread in 0..3_u64 {
                let (store, maps, numbers, beside) = (&store, &maps, &numbers, &beside);
                let start = &start;
                scope.spawn(move || {
                    let mut random = Random((round << 8 | thread) << 20 | 1);
                    start.wait();
                    for _ in 0..20 {
                        let number_now = numbers.fetch_add(1, Ordering::Relaxed);
                        let number = number_now.to_le_bytes();
                        let mut keys: Vec<u64> = (0..6).collect();
                        // Each in an order of its own.
                        (1..keys.len())
                            .for_each(|at| keys.swap(at, random.below(at as u64 + 1) as usize));
                        let mut group = store.group(STREAM);
                        let is_removal = random.below(4) == 0;
                        for key in &keys {
                            let map = &maps[(key % 2) as usize];
                            if is_removal {
                                group.remove(map, key).expect("its stream");
                            } else {
                                group.insert(map, key, &number).expect("its stream");
                            }
                        }
                        let GroupOutcome::Done(was_there) = group.commit().expect("room") else {
                            panic!("no condition")
                        };
                        let first = was_there[0];
                        assert!(was_there.iter().all(|there| *there == first), "{was_there:?}");
                        let others = numbers.load(Ordering::Relaxed) - number_now - 1;
                        beside.fetch_add(u64::from(others > 0), Ordering::Relaxed);
                    }
                });
            }
        });
        let values: Vec<_> =
            (0..6).map(|key| maps[key as usize % 2].get_owned(&key).expect("ok")).collect();
        assert!(values.iter().all(|value| *value == values[0]), "round {round}: {values:?}");
    }
    let beside = beside.into_inner();
    assert!(beside > 100, "{beside} of {} groups beside another", numbers.into_inner());
}

#[test]
fn two_threads_whose_groups_depend_on_what_they_read_lose_no_step() {
    let store = store(64 * MIB);
    let map = map_of(&store, "m");
    map.insert(&0, &0_u64.to_le_bytes()).expect("room");
    let (steps, done, refused) = (2_000_u64, AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // On until the two have met: only what is refused shows that anything was looked at.
                let is_enough = || refused.load(Ordering::Relaxed) >= 10;
                let mut left = steps;
                while left > 0 || (!is_enough() && done.load(Ordering::Relaxed) < 50 * steps) {
                    let entry = map.get(&0).expect("ok").expect("there");
                    let number = u64::from_le_bytes(entry.value_bytes().try_into().expect("8"));
                    let (next, seq) = ((number + 1).to_le_bytes(), entry.seq());
                    let (key, mut group) = (number + 1, store.group(STREAM));
                    group.require_seq(&map, &0, seq).expect("ok");
                    group.require_absent(&map, &key).expect("ok");
                    group.insert(&map, &0, &next).expect("ok").insert(&map, &key, b"").expect("ok");
                    let is_done = u64::from(group.commit().expect("room").is_done());
                    left = left.saturating_sub(is_done);
                    done.fetch_add(is_done, Ordering::Relaxed);
                    refused.fetch_add(1 - is_done, Ordering::Relaxed);
                }
            });
        }
    });
    let last = map.get_owned(&0).expect("ok").expect("there");
    let (done, refused) = (done.into_inner(), refused.into_inner());
    assert!(done >= 2 * steps && refused >= 10, "{done} done, {refused} refused");
    assert_eq!(last, done.to_le_bytes(), "a step was lost");
    assert_eq!(map.len(), done + 1);
}

/// A clear takes a table apart between a group's look and its lock; what the group counted on is another
/// table then. All of a group is there afterwards, or nothing of it.
#[test]
fn groups_beside_clears_and_single_puts_of_their_stream_stay_whole_and_find_memory_for_every_key() {
    let store = store(128 * MIB);
    let (map, other) = (map_of(&store, "m"), map_of(&store, "other"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clears = scope.spawn(|| {
            let mut cleared = 0_u64;
            while !stop.load(Ordering::Acquire) {
                cleared += map.clear().expect("cleared");
                for key in 0..40_u64 {
                    map.insert(&(1 << 50 | key), b"single").expect("room");
                }
                std::thread::yield_now();
            }
            cleared
        });
        for round in 0..1_500_u64 {
            let keys: Vec<u64> = (0..1 + round % 200).map(|n| round << 20 | n).collect();
            let mut group = store.group(STREAM);
            for key in &keys {
                group.insert(&map, key, b"of a group").expect("ok");
                group.insert(&other, key, b"of a group").expect("ok");
                if group.len() + 2 > GROUP_CHANGES_MAX {
                    break;
                }
            }
            assert!(group.commit().expect("room").is_done());
        }
        stop.store(true, Ordering::Release);
        assert!(clears.join().expect("no panic") > 100, "clears and groups did not meet");
    });
    let mut by_round: HashMap<u64, u64> = HashMap::new();
    for entry in &map {
        *by_round.entry(entry.key().expect("a number") >> 20).or_default() += 1;
    }
    for (round, found) in by_round.into_iter().filter(|(round, _)| *round < 1 << 30) {
        let whole = (1 + round % 200).min(GROUP_CHANGES_MAX as u64 / 2);
        assert_eq!(found, whole, "a part of group {round}");
    }
    let expected: u64 = (0..1_500).map(|round| (1 + round % 200).min(128)).sum();
    assert_eq!(other.len(), expected);
    store.maintain(0);
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
}

#[test]
fn readers_find_every_lasting_key_while_groups_make_the_table_grow() {
    let store = store(128 * MIB);
    let map = map_of(&store, "m");
    for key in 0..100_u64 {
        map.insert(&key, &key.to_le_bytes()).expect("room");
    }
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                let key = reads.load(Ordering::Relaxed) % 100;
                let found = map.get_owned(&key).expect("ok");
                assert_eq!(found.as_deref(), Some(&key.to_le_bytes()[..]), "key {key} is lost");
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 0..400_u64 {
            let keys: Vec<u64> = (0..250).map(|n| 1 << 40 | round << 10 | n).collect();
            let mut group = store.group(STREAM);
            for key in &keys {
                group.insert(&map, key, b"new").expect("ok");
            }
            assert!(group.commit().expect("room").is_done());
            // The reader looks at each size of the table, whoever has the processors.
            while reads.load(Ordering::Relaxed) < round * 100 && !reader.is_finished() {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Release);
        reader.join().expect("no panic");
    });
    assert_eq!(map.len(), 100 + 400 * 250);
    let stats = map.stats();
    let load = stats.entries as f64 / (stats.buckets * 8) as f64;
    assert!(load < 0.9, "the table did not grow along: load {load:.2}");
}
