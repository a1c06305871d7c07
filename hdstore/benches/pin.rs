//! What a pin costs: the store's asymmetric one beside crossbeam-epoch's, alone and around a get.
//!
//! `cargo bench -p hdstore --bench pin` prints nanoseconds per operation, the median of nine rounds on one
//! thread. The decision that rests on it is `docs/decisions/0002-asymmetric-pin.md`.

use std::hint::black_box;
use std::time::Instant;

use hdstore::codec::{Bytes, U64};
use hdstore::{ManualClock, Map, MapOptions, Store};

const ROUNDS: usize = 9;
const OPERATIONS: u64 = 1_000_000;

/// Median nanoseconds of one operation.
fn measure(mut operation: impl FnMut(u64)) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for n in 0..OPERATIONS {
                operation(n);
            }
            start.elapsed().as_secs_f64() * 1e9 / OPERATIONS as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn filled(entries: u64) -> (Store, Map<U64, Bytes>) {
    let store = Store::builder()
        .memory_limit_bytes((entries * 400).max(64 << 20))
        .clock(ManualClock::new(1))
        .in_memory()
        .expect("address space");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for n in 0..entries {
        map.insert(&n, &[7; 239]).expect("room");
    }
    (store, map)
}

fn main() {
    let (store, _) = filled(1);
    println!("pin and unpin");
    let ours = measure(|_| drop(black_box(store.read_batch())));
    let theirs = measure(|_| drop(black_box(crossbeam_epoch::pin())));
    println!("  asymmetric {ours:6.1} ns    crossbeam-epoch {theirs:6.1} ns");
    for entries in [1_000u64, 4_000_000] {
        let (store, map) = filled(entries);
        let key = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % entries;
        let batch = store.read_batch();
        let get = |n: u64| {
            let value = map.get_in(&batch, &key(n)).expect("ok").expect("there");
            black_box(value[0]);
        };
        let bare = measure(get);
        let theirs = measure(|n| {
            let _guard = black_box(crossbeam_epoch::pin());
            get(n);
        });
        let ours = measure(|n| {
            let first = map.get_with(&key(n), |value| value[0]).expect("ok").expect("there");
            black_box(first);
        });
        println!("get of 8 B + 239 B, one of {entries}");
        println!(
            "  no pin {bare:6.1} ns    asymmetric {ours:6.1} ns    crossbeam-epoch {theirs:6.1} ns"
        );
    }
}
