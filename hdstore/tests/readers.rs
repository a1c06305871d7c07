//! Readers beside writers: whole values, held guards, the bound on unreclaimed memory, exact walks.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hdstore::codec::{Bytes, U64};
use hdstore::{Error, ManualClock, MapOptions, Store};

const MIB: u64 = 1 << 20;

fn value_of(version: u64) -> Vec<u8> {
    let len = 40 + (version % 300) as usize;
    version.to_le_bytes().iter().copied().cycle().take(len).collect()
}

fn assert_whole(value: &[u8]) -> u64 {
    let version = u64::from_le_bytes(value[..8].try_into().expect("eight bytes"));
    assert!(value == value_of(version), "a mix of values");
    version
}

#[test]
fn a_reader_sees_one_whole_value_old_or_new_and_never_an_older_one_again() {
    let store =
        Store::builder().memory_limit_bytes(64 * MIB).streams(2).in_memory().expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for key in 0..16 {
        map.insert(&key, &value_of(0)).expect("room");
    }
    let (stop, changes_seen) = (AtomicBool::new(false), [0; 2].map(AtomicU64::new));
    std::thread::scope(|scope| {
        for changes_seen in &changes_seen {
            scope.spawn(|| {
                let mut seen = [0; 16];
                while !stop.load(Ordering::Relaxed) {
                    for key in 0..16u64 {
                        let version =
                            map.get_with(&key, assert_whole).expect("ok").expect("always there");
                        assert!(version >= seen[key as usize], "time went back for key {key}");
                        if version > seen[key as usize] {
                            changes_seen.fetch_add(1, Ordering::Relaxed);
                        }
                        seen[key as usize] = version;
                        let guard = map.get(&key).expect("ok").expect("always there");
                        assert_whole(guard.value_bytes());
                    }
                }
            });
        }
        // As long as it takes until readers and the writer have met often.
        let is_enough = |version: &u64| {
            let often = changes_seen.iter().all(|seen| seen.load(Ordering::Relaxed) > 1_000);
            *version >= 60_000 && often
        };
        let written = (1..5_000_000u64)
            .take_while(|version| !is_enough(version))
            .try_for_each(|version| map.insert(&(version % 16), &value_of(version)));
        stop.store(true, Ordering::Relaxed);
        written.expect("a reader that lost the processor is waited for");
    });
    let met = changes_seen.map(|seen| seen.into_inner());
    assert!(met.iter().all(|seen| *seen > 1_000), "readers and the writer hardly met: {met:?}");
    store.maintain(0);
    let stats = store.stats();
    assert_eq!((stats.entries, stats.unreclaimed_bytes), (16, 0));
}

/// Lets go whoever waits for more looks, also when the thread that looks has panicked.
struct Ended<'a>(&'a AtomicU64);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX, Ordering::Release);
    }
}

#[test]
fn keys_stay_visible_while_the_table_grows_under_readers() {
    let store =
        Store::builder().memory_limit_bytes(256 * MIB).streams(1).in_memory().expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    const KEYS: u64 = 300_000;
    let (written, looks) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for key in 0..KEYS {
                map.insert(&key, b"v").expect("room");
                written.store(key + 1, Ordering::Release);
                // The reader looks at each size of the table, whoever has the processors.
                while looks.load(Ordering::Acquire) < key / 30 {
                    std::thread::yield_now();
                }
            }
        });
        scope.spawn(|| {
            let _ended = Ended(&looks);
            let mut next = 1u64;
            while written.load(Ordering::Acquire) < KEYS {
                let known = written.load(Ordering::Acquire);
                for _ in 0..50 {
                    next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if known > 0 {
                        let key = (next >> 33) % known;
                        assert!(
                            map.contains_key(&key).expect("ok"),
                            "key {key} of {known} is lost"
                        );
                        looks.fetch_add(1, Ordering::Release);
                    }
                }
            }
        });
    });
    assert_eq!(map.len(), KEYS);
}

/// How long a guard is held: 39 rounds of overwrites, or `HDSTORE_GUARD_SECONDS` (`scripts/long`).
fn hold_goes_on(round: u64, start: std::time::Instant) -> bool {
    match std::env::var("HDSTORE_GUARD_SECONDS") {
        Ok(seconds) => {
            let seconds: u64 = seconds.parse().expect("HDSTORE_GUARD_SECONDS is a number");
            start.elapsed().as_secs() < seconds
        }
        Err(_) => round < 39,
    }
}

#[test]
fn a_held_guard_costs_its_own_value_and_still_reads_it() {
    const KEYS: u64 = 1000;
    const SLOT_BYTES: u64 = 5_120;
    const LANES: u64 = 2;
    let store = Store::builder()
        .memory_limit_bytes(128 * MIB)
        .lanes(LANES as usize)
        .in_memory()
        .expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for key in 0..KEYS {
        map.insert(&key, &[0; 5_000]).expect("room");
    }
    let guard = map.get(&500).expect("ok").expect("there");
    let start = std::time::Instant::now();
    let writers = 2;
    let rounds_and_peaks: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let write = |writer: u64| {
            let (store, map, guard) = (&store, &map, &guard);
            move || {
                let (mut round, mut peak) = (0, 0);
                while hold_goes_on(round, start) {
                    round += 1;
                    for key in (0..KEYS).filter(|key| key % writers == writer) {
                        let value = [1 + (round % 255) as u8; 5_000];
                        map.insert(&key, &value).expect("the guard holds nobody up");
                    }
                    peak = peak.max(store.stats().unreclaimed_bytes);
                    assert_eq!(guard.value_bytes(), [0; 5_000]);
                }
                (round, peak)
            }
        };
        let threads: Vec<_> = (0..writers).map(|writer| scope.spawn(write(writer))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let stats = store.stats();
    let most = stats.unreclaimed_max_bytes;
    // The bound of docs/memory.md; a look may count a batch twice that is on its way to the queue.
    let bound = most + most / 4 + (LANES + writers) * SLOT_BYTES + most / (4 * LANES) + SLOT_BYTES;
    let rounds: u64 = rounds_and_peaks.iter().map(|(rounds, _)| rounds).sum();
    let peak = rounds_and_peaks.iter().map(|(_, peak)| *peak).max().unwrap_or(0);
    println!(
        "guard held {:.1} s: {} overwrites of {KEYS} keys, unreclaimed {peak} B at most, bound {bound} B, \
         committed {} B of {} B, held by the guard {} B",
        start.elapsed().as_secs_f64(),
        rounds * KEYS / writers,
        stats.committed_bytes,
        stats.limit_bytes,
        stats.held_by_guards_bytes,
    );
    assert!(peak > 0 && peak <= bound, "{peak} of {bound}: {stats:#?}");
    assert!(stats.committed_bytes <= stats.limit_bytes);
    assert_eq!(guard.value_bytes(), [0; 5_000]);
    drop(guard);
    store.maintain(0);
    assert_eq!(store.stats().unreclaimed_bytes, 0);
    assert_eq!(store.stats().held_by_guards_bytes, 0);
}

#[test]
fn a_pin_asleep_stops_overwrites_at_the_bound_and_they_go_on_when_it_ends() {
    let clock = Arc::new(ManualClock::new(1_000));
    let store = Store::builder()
        .memory_limit_bytes(64 * MIB)
        .unreclaimed_max_bytes(MIB)
        .clock(Arc::clone(&clock))
        .in_memory()
        .expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    map.insert(&1, &[1; 1000]).expect("room");
    let batch = store.read_batch();
    let seen = map.get_in(&batch, &1).expect("ok").expect("there");
    clock.advance_ms(60_000);
    let mut rounds = 0u64;
    let error = loop {
        match map.insert(&1, &[2; 1000]) {
            Ok(()) => rounds += 1,
            Err(error) => break error,
        }
        assert!(rounds < 10_000, "the bound must be reached");
    };
    let Error::Unreclaimed { oldest_pin_ms, bound_bytes, .. } = error else { panic!("{error}") };
    assert_eq!((oldest_pin_ms, bound_bytes), (Some(60_000), MIB));
    assert!(rounds >= 900, "{rounds}");
    assert_eq!(seen, [1; 1000], "the sleeping reader still sees its value");
    map.insert(&2, b"a new key replaces nothing").expect("room");
    drop(batch);
    map.insert(&1, &[3; 1000]).expect("overwrites go on when the batch has ended");
}

#[test]
fn an_overwrite_waits_for_a_reader_that_lost_the_processor_inside_its_call() {
    let store = Store::builder()
        .memory_limit_bytes(64 * MIB)
        .unreclaimed_max_bytes(MIB)
        .in_memory()
        .expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    map.insert(&1, &[1; 1000]).expect("room");
    const OVERWRITES: u64 = 3_000;
    let (inside, overwritten) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let slept = map.get_with(&1, |value| {
                inside.store(true, Ordering::Release);
                // What waits for it comes near to the bound, and then the writer waits, too.
                while overwritten.load(Ordering::Acquire) < 900 {
                    std::thread::yield_now();
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
                assert_eq!(value, [1; 1000]);
                overwritten.load(Ordering::Acquire)
            });
            let overwritten = slept.expect("ok").expect("there");
            assert!(overwritten < OVERWRITES, "nobody has waited");
        });
        while !inside.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        for _ in 0..OVERWRITES {
            map.insert(&1, &[2; 1000]).expect("the reader comes back");
            overwritten.fetch_add(1, Ordering::Release);
        }
    });
}

#[test]
fn a_walk_sees_every_lasting_entry_exactly_once_while_the_table_grows() {
    let store =
        Store::builder().memory_limit_bytes(256 * MIB).streams(3).in_memory().expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for key in 0..5_000 {
        map.insert(&key, b"stays").expect("room");
    }
    let mut seen = HashSet::new();
    for (step, entry) in map.iter().enumerate() {
        let key = entry.key().expect("a number");
        if key < 5_000 {
            assert!(seen.insert(key), "{key} twice");
        }
        for more in 0..if step < 2_000 { 20 } else { 0 } {
            map.insert(&(10_000 + step as u64 * 20 + more), b"new").expect("room");
        }
        if step % 3 == 0 {
            map.insert(&key, b"stays, changed").expect("room");
        }
    }
    assert_eq!(seen.len(), 5_000);
}

#[test]
fn a_walk_that_began_in_one_bucket_sees_its_entries_once_after_the_table_grew_a_hundred_thousandfold()
 {
    let store =
        Store::builder().memory_limit_bytes(256 * MIB).streams(1).in_memory().expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for key in 0..5 {
        map.insert(&key, b"stays").expect("room");
    }
    assert_eq!(map.stats().buckets, 1);
    let mut walk = map.iter();
    for key in 100..600_000u64 {
        map.insert(&key, b"new").expect("room");
    }
    assert!(map.stats().buckets > 50_000, "{:?}", map.stats());
    let started = std::time::Instant::now();
    let mut seen = HashSet::new();
    for entry in walk.by_ref() {
        let key = entry.key().expect("a number");
        assert!(seen.insert(key), "{key} twice");
    }
    assert!((0..5).all(|key| seen.contains(&key)));
    assert!(started.elapsed().as_secs() < 20, "a step of a walk costs one bucket");
}

#[test]
fn a_walk_beside_writers_sees_every_lasting_key_exactly_once() {
    let store =
        Store::builder().memory_limit_bytes(256 * MIB).streams(1).in_memory().expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    const LASTING: u64 = 300;
    for key in 0..LASTING {
        map.insert(&key, b"0").expect("room");
    }
    let (stop, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                changes.store(round, Ordering::Relaxed);
                map.insert(&(round % LASTING), &round.to_le_bytes()).expect("room");
                if round < 400_000 {
                    map.insert(&(LASTING + round), b"comes").expect("room");
                }
            }
        });
        for _ in 0..60 {
            let (mut seen, before) = (HashSet::new(), changes.load(Ordering::Relaxed));
            for (step, entry) in map.iter().take(20_000).enumerate() {
                let key = entry.key().expect("a number");
                assert!(key >= LASTING || seen.insert(key), "{key} twice");
                // Each walk has the writer beside it, whoever has the processors.
                while step % 100 == 50 && changes.load(Ordering::Relaxed) < before + step as u64 {
                    std::thread::yield_now();
                }
            }
        }
        let lasting = || map.iter().filter(|e| e.key().expect("a number") < LASTING).count();
        assert_eq!(lasting() as u64, LASTING);
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_panic_in_a_callers_closure_leaves_the_entry_as_it_was() {
    let store = Store::builder().memory_limit_bytes(64 * MIB).in_memory().expect("a store");
    let map = store.map::<U64, U64>("m", MapOptions::default()).expect("a map");
    map.insert(&1, &10).expect("room");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        map.update(&1, |_| panic!("the caller's own")).expect("never gets here");
    }));
    assert!(panicked.is_err());
    assert_eq!(map.get_owned(&1).expect("ok"), Some(10));
    map.update(&1, |old| old.map(|old| old + 1)).expect("nothing is locked");
    assert_eq!(map.get_owned(&1).expect("ok"), Some(11));
    store.maintain(0);
    assert_eq!(store.stats().unreclaimed_bytes, 0, "no pin stayed behind");
}

#[test]
fn concurrent_updates_of_one_key_lose_nothing() {
    let store = Store::builder().memory_limit_bytes(64 * MIB).in_memory().expect("a store");
    let map = store.map::<U64, U64>("m", MapOptions::default()).expect("a map");
    let (updates, calls) = (AtomicU64::new(0), AtomicU64::new(0));
    // A call of the closure that comes to nothing, since another thread was ahead, is the hazard itself.
    while updates.load(Ordering::Relaxed) + 20 > calls.load(Ordering::Relaxed) {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let more = |old: Option<u64>| {
                            calls.fetch_add(1, Ordering::Relaxed);
                            Some(old.unwrap_or(0) + 1)
                        };
                        map.update(&1, more).expect("room");
                        updates.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(updates.load(Ordering::Relaxed) < 2_000_000, "the threads never met");
    }
    assert_eq!(map.get_owned(&1).expect("ok"), Some(updates.into_inner()));
}
