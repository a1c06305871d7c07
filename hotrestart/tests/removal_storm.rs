//! Removals and inserts as fast as they go, at the disk budget: the chunk files stay within it.
//!
//! Hazard: removals may use chunks that puts may not, so that a full store can be emptied; when they come
//! faster than compaction frees, files are made for ever. And each removal leaves a fact: where older records
//! of its key stay, the newest one must stay, too, and if all did, nothing would ever be freed.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use hotrestart::codec::{Bytes, U64};
use hotrestart::{MapOptions, Stats, Store, inspect};

/// Few keys, so that their facts of absence pile up faster than a survey forgets them.
const KEYS: u64 = 24;
const ROUNDS: u64 = 60_000;
const THREADS: u64 = 4;

#[test]
fn removals_that_come_faster_than_chunks_are_freed_wait_and_make_no_files_for_ever() {
    let home = tempfile::tempdir().expect("a directory");
    let store = Store::builder().memory_limit_bytes(64 << 20).chunk_bytes(1 << 20);
    let store = store.open(home.path()).expect("a store");
    let map = store.map::<U64, U64>("m", MapOptions::default()).expect("a map");
    let is_over = AtomicBool::new(false);
    let (allocated_max, allowed_max) = std::thread::scope(|scope| {
        let work = |thread| {
            let map = &map;
            move || {
                for round in 0..ROUNDS {
                    for key in (thread..KEYS).step_by(THREADS as usize) {
                        map.insert(&key, &round).expect("room comes");
                    }
                    for key in (thread..KEYS).step_by(THREADS as usize) {
                        assert!(map.remove(&key).expect("room comes"), "{key}");
                    }
                }
            }
        };
        let workers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(work(thread))).collect();
        let watcher = scope.spawn(|| {
            let (mut allocated_max, mut allowed_max) = (0, 0);
            while !is_over.load(Relaxed) {
                let Stats { allocated_bytes, disk_budget_bytes, disk_beyond_bytes, .. } =
                    store.stats();
                allocated_max = allocated_bytes.max(allocated_max);
                allowed_max = (disk_budget_bytes + disk_beyond_bytes).max(allowed_max);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            (allocated_max, allowed_max)
        });
        for worker in workers {
            worker.join().expect("removals work");
        }
        is_over.store(true, Relaxed);
        watcher.join().expect("figures")
    });
    assert!(map.is_empty());
    assert!(allocated_max <= allowed_max, "{allocated_max} B of files, at most {allowed_max}");
    let stats = store.stats();
    assert!(
        allocated_max >= stats.disk_budget_bytes,
        "{allocated_max}: nobody had to wait: {stats:#?}"
    );
    assert!(stats.chunks_freed > 20, "{stats:#?}");
}

#[test]
fn keys_that_come_and_go_beside_cold_records_of_theirs_leave_few_facts_each() {
    let home = tempfile::tempdir().expect("a directory");
    let builder = || {
        let store = Store::builder().memory_limit_bytes(64 << 20).chunk_bytes(256 << 10);
        store.streams(4)
    };
    let store = builder().open(home.path()).expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    // Each key has an older record among others that stay, and are held: no survey may forget its facts.
    for key in 0..6_000 {
        map.insert(&key, &[7; 200]).expect("room");
    }
    store.hold().expect("held");
    let hot: Vec<u64> = (0..6_000).step_by(500).collect();
    let (rounds, start) = (40_000, Instant::now());
    for key in &hot {
        assert!(map.remove(key).expect("room comes"), "{key}");
    }
    // One at a time: a key that is there needs none of its facts.
    for _ in 0..rounds {
        for key in &hot {
            map.insert(key, b"passing by").expect("room comes");
            assert!(map.remove(key).expect("room comes"), "{key}");
        }
    }
    let removed = (rounds + 1) * hot.len();
    let rate = removed as f64 / start.elapsed().as_secs_f64();
    let stats = store.stats();
    drop(map);
    store.close().expect("a clean end");
    let report = inspect::check(home.path(), &inspect::Options::default()).expect("readable");
    assert!(report.is_sound, "{:#?}", report.problems);
    let records = report.totals.records;
    println!(
        "{removed} removals, {rate:.0} a second, {} chunks freed, {} B written; {records} records left, {:?}",
        stats.chunks_freed, stats.bytes_submitted, report.totals
    );
    // Facts that are copied again and again come to many times that.
    assert!(stats.bytes_submitted < 110 << 20, "{} B written", stats.bytes_submitted);
    assert_eq!(report.totals.absences, hot.len() as u64, "each key is known to be gone");
    let store = builder().open(home.path()).expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("the map");
    assert_eq!(map.len(), 6_000 - hot.len() as u64);
    assert!(hot.iter().all(|key| !map.contains_key(key).expect("readable")));
}
