//! Puts and gets as fast as they go, for a profiler: `load [million entries] [threads]`.
//!
//! 8 B keys and 239 B values, in an order that no cache predicts: a load, overwrites one by one and in
//! batches, gets one by one and in batches. Prints nanoseconds of a thread's own time per operation, which a
//! busy machine changes least, and millions of operations per second over all threads.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hdstore::codec::{Bytes, U64};
use hdstore::{Map, MapOptions, Store};

const VALUE_BYTES: usize = 239;
const BATCH: u64 = 64;

/// A number below `entries`, different for each `n` below a prime close to it.
fn shuffled(n: u64, entries: u64) -> u64 {
    let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((u128::from(hash) * u128::from(entries)) >> 64) as u64
}

/// Nanoseconds that the calling thread has run; 0 where the system does not tell.
fn own_time_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

fn timed(name: &str, entries: u64, threads: u64, work: impl Fn(u64, u64) + Sync) {
    let start = Instant::now();
    let own_ns = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (work, own_ns) = (&work, &own_ns);
            scope.spawn(move || {
                let before_ns = own_time_ns();
                work(entries * thread / threads, entries * (thread + 1) / threads);
                own_ns.fetch_add(own_time_ns() - before_ns, Ordering::Relaxed);
            });
        }
    });
    let each_ns = own_ns.into_inner() as f64 / entries as f64;
    let millions = entries as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("{name:>10}: {each_ns:6.0} ns each, {millions:6.2} M/s, {threads} threads");
}

fn put(map: &Map<U64, Bytes>, key: u64, value: &[u8]) {
    map.insert(&key, value).expect("room");
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let entries: u64 = arguments.next().unwrap_or(4) * 1_000_000;
    let threads: u64 = arguments.next().unwrap_or(1);
    let only = std::env::args().nth(3);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let store =
        Store::builder().memory_limit_bytes(entries * 400).in_memory().expect("address space");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let value = [7; VALUE_BYTES];
    timed("load", entries, threads, |from, to| (from..to).for_each(|n| put(&map, n, &value)));
    if wanted("overwrite") {
        timed("overwrite", entries, threads, |from, to| {
            (from..to).for_each(|n| put(&map, shuffled(n, entries), &value));
        });
    }
    if wanted("many") {
        timed("batch put", entries, threads, |from, to| {
            let mut keys = Vec::with_capacity(BATCH as usize);
            for start in (from..to).step_by(BATCH as usize) {
                keys.clear();
                keys.extend((start..to.min(start + BATCH)).map(|n| shuffled(n, entries)));
                let pairs: Vec<_> = keys.iter().map(|key| (key, &value[..])).collect();
                map.put_many(&pairs).expect("room");
            }
        });
    }
    if wanted("get") {
        timed("get", entries, threads, |from, to| {
            for n in from..to {
                let read =
                    |value: &[u8]| value.iter().step_by(64).fold(0u8, |sum, byte| sum ^ byte);
                black_box(map.get_with(&shuffled(n, entries), read).expect("ok").expect("there"));
            }
        });
    }
    if wanted("batch") {
        timed("batch get", entries, threads, |from, to| {
            let mut keys = Vec::with_capacity(BATCH as usize);
            for start in (from..to).step_by(BATCH as usize) {
                keys.clear();
                keys.extend((start..to.min(start + BATCH)).map(|n| shuffled(n, entries)));
                let refs: Vec<&u64> = keys.iter().collect();
                map.get_many_with(&refs, |_, value| {
                    black_box(value.expect("there").iter().step_by(64).fold(0u8, |sum, b| sum ^ b));
                })
                .expect("ok");
            }
        });
    }
    let stats = store.stats();
    println!("{:>10}: {:?}", "memory", stats.committed);
}
