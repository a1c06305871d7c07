//! A store that shrinks, faster than compaction can free what becomes garbage.
//!
//! Hazards: the disk budget falls with what the store holds, and the files stay; changes that wait for that
//! wait for compaction that is dead, longer than they may, or for what a clear of another map left.

#[path = "power_loss/bench.rs"]
#[allow(dead_code, reason = "the workbench serves the power cuts first")]
mod bench;
#[path = "power_loss/trap.rs"]
mod trap;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bench::{Machine, Patient, map_of};
use hotrestart::codec::{Bytes, U64};
use hotrestart::{Map, MapOptions, Stats, Store};
use trap::{builder, trap_of};

const KEYS: u64 = 300_000;
const THREADS: u64 = 2;
/// In each map of a store that compacts slowly.
const ENTRIES: u64 = 3_000;

/// Bytes of files beyond what there may be, by what the store itself says.
fn excess_bytes(stats: &Stats) -> u64 {
    stats.allocated_bytes.saturating_sub(stats.disk_budget_bytes + stats.disk_beyond_bytes)
}

/// Has each key changed by one of the threads. Returns the most bytes of files beyond what there may be.
fn watched(store: &Store, change: impl Fn(u64) + Sync) -> u64 {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Relaxed) {
                most = excess_bytes(&store.stats()).max(most);
                std::thread::sleep(Duration::from_millis(2));
            }
            most
        });
        let change = &change;
        let of = |thread| move || (thread..KEYS).step_by(THREADS as usize).for_each(change);
        let workers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(of(thread))).collect();
        workers.into_iter().for_each(|worker| worker.join().expect("changes work"));
        is_over.store(true, Relaxed);
        watcher.join().expect("figures")
    })
}

fn filled(store: &Store, value: &[u8]) -> (Map<U64, Bytes>, u64) {
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for key in 0..KEYS {
        map.insert(&key, value).expect("room");
    }
    (map, store.stats().allocated_bytes)
}

#[test]
fn a_store_that_is_emptied_fast_stays_within_its_budget() {
    let home = tempfile::tempdir().expect("a directory");
    let store = Store::builder().memory_limit_bytes(256 << 20).chunk_bytes(256 << 10);
    let store = store.disk_budget(1.5).open(home.path()).expect("a store");
    let (map, full) = filled(&store, &[7; 300]);
    let most = watched(&store, |key| assert!(map.remove(&key).expect("removals work"), "{key}"));
    assert!(map.is_empty());
    assert!(most < full / 3, "{most} B too many of {full} B: {:#?}", store.stats());
}

#[test]
fn short_values_that_take_the_place_of_long_ones_keep_to_the_budget() {
    let home = tempfile::tempdir().expect("a directory");
    let store = Store::builder().memory_limit_bytes(512 << 20).chunk_bytes(256 << 10);
    let store = store.disk_budget(1.5).open(home.path()).expect("a store");
    let (map, full) = filled(&store, &[7; 600]);
    let most = watched(&store, |key| map.insert(&key, b"short").expect("room"));
    assert_eq!(map.len(), KEYS);
    assert!(most < full / 3, "{most} B too many of {full} B: {:#?}", store.stats());
}

fn value(key: u64) -> Vec<u8> {
    vec![key as u8; 4_000]
}

/// A store in which compaction takes so long for each chunk, with four maps of `ENTRIES`.
fn slow_store(put_timeout_ms: u64, opening_ms: u32) -> (Store, [Map<U64, Bytes>; 4], trap::Trap) {
    let machine = Machine::new(1);
    let trap = trap_of(&machine);
    let store = builder(&machine, &trap).put_timeout_ms(put_timeout_ms);
    let store = store.open("/simulated").expect("a store");
    let other = |name| store.map::<U64, Bytes>(name, MapOptions::default()).expect("a map");
    let maps = [map_of(&store), other("second"), other("third"), other("fourth")];
    for key in 0..ENTRIES {
        maps.iter().for_each(|map| map.insert(&key, &value(key)).expect("room"));
    }
    trap.opening_ms.store(opening_ms, Relaxed);
    (store, maps, trap)
}

/// Waits until there are more files than there may be.
fn wait_for_excess(store: &Store) {
    let start = Instant::now();
    while excess_bytes(&store.stats()) == 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "{:#?}", store.stats());
        std::thread::yield_now();
    }
}

/// Waits until the disk budget is less than that.
fn wait_for_less(store: &Store, budget_bytes: u64) {
    let start = Instant::now();
    while store.stats().disk_budget_bytes >= budget_bytes {
        assert!(start.elapsed() < Duration::from_secs(5), "{:#?}", store.stats());
        std::thread::yield_now();
    }
}

#[test]
fn what_makes_room_is_late_at_most_and_never_refused() {
    let (timeout_ms, opening_ms) = (200, 1_000);
    let (store, [first, second, other, _], _) = slow_store(timeout_ms, opening_ms);
    [first, second].iter().for_each(|map| _ = map.clear().expect("cleared"));
    wait_for_excess(&store);
    let mut late = 0;
    for key in 0..ENTRIES {
        if key.is_multiple_of(100) {
            // The store looks how much it holds every 10 ms.
            std::thread::sleep(Duration::from_millis(20));
        }
        let start = Instant::now();
        assert!(other.remove(&key).expect("not refused"), "{key}");
        let waited_ms = start.elapsed().as_millis() as u64;
        assert!(waited_ms < 5 * timeout_ms, "{key}: {waited_ms} ms");
        late += u32::from(waited_ms >= timeout_ms);
        if late == 3 {
            return;
        }
    }
    panic!("nobody had to wait: {:#?}", store.stats());
}

#[test]
fn nobody_waits_for_what_compaction_that_has_died_would_free() {
    let (store, maps, trap) = slow_store(10_000, 0);
    trap.reads.store(0, Relaxed);
    let remove = |keys: std::ops::Range<u64>| {
        for key in keys {
            let start = Instant::now();
            maps.iter().for_each(|map| assert!(map.remove(&key).expect("not refused"), "{key}"));
            assert!(start.elapsed() < Duration::from_secs(5), "{key}: {:?}", start.elapsed());
        }
    };
    remove(0..ENTRIES * 3 / 4);
    let start = Instant::now();
    while store.stats().compaction_stopped.is_none() {
        assert!(start.elapsed() < Duration::from_secs(5), "the compactor has not died");
        std::thread::yield_now();
    }
    wait_for_excess(&store);
    remove(ENTRIES * 3 / 4..ENTRIES);
}

#[test]
fn after_a_clear_removals_from_another_map_do_not_wait_for_what_it_left() {
    let (store, [first, second, third, other], _) = slow_store(1_000, 100);
    [first, second].iter().for_each(|map| _ = map.clear().expect("cleared"));
    wait_for_excess(&store);
    // The store is beyond its budget already.
    let before = store.stats().disk_budget_bytes;
    third.clear().expect("cleared");
    wait_for_less(&store, before);
    let start = Instant::now();
    for key in 0..50 {
        assert!(other.remove(&key).expect("removed"), "{key}");
    }
    assert!(excess_bytes(&store.stats()) > 0, "it was too late: {:#?}", store.stats());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn after_the_release_of_a_hold_removals_do_not_wait_for_what_it_held() {
    let machine = Machine::new(1);
    let trap = trap_of(&machine);
    let store = builder(&machine, &trap).put_timeout_ms(1_000).open("/simulated").expect("a store");
    let filled = |name, entries| {
        let map = store.map::<U64, Bytes>(name, MapOptions::default()).expect("a map");
        (0..entries).for_each(|key| map.insert(&key, &value(key)).expect("room"));
        map
    };
    let _held = filled("held", 3_000);
    let hold = store.hold().expect("held");
    let (large, other) = (filled("large", 9_000), filled("other", 300));
    trap.opening_ms.store(100, Relaxed);
    large.clear().expect("cleared");
    wait_for_excess(&store);
    // The clear has been taken in.
    std::thread::sleep(Duration::from_millis(300));
    let before = store.stats().disk_budget_bytes;
    assert!(store.release(hold.id()).expect("released"));
    wait_for_less(&store, before);
    let start = Instant::now();
    for key in 0..10 {
        assert!(other.remove(&key).expect("removed"), "{key}");
    }
    assert!(excess_bytes(&store.stats()) > 0, "it was too late: {:#?}", store.stats());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn nobody_waits_for_what_a_full_disk_keeps_from_being_freed() {
    for is_manifest in [true, false] {
        let (store, [first, second, third, _], trap) = slow_store(10_000, 5);
        let Patient(disk, full_for_small_files) = &trap.disk;
        match is_manifest {
            true => full_for_small_files.store(60_000, Relaxed),
            false => disk.fill_up(),
        }
        [first, second].iter().for_each(|map| _ = map.clear().expect("cleared"));
        wait_for_excess(&store);
        for key in 0..ENTRIES {
            if key.is_multiple_of(100) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let start = Instant::now();
            assert!(third.remove(&key).expect("not refused"), "{key}");
            assert!(start.elapsed() < Duration::from_secs(5), "{key}: {:#?}", store.stats());
        }
        full_for_small_files.store(0, Relaxed);
        disk.set_capacity(None);
    }
}
