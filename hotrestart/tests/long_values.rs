//! Long values beside short ones: a run of parts must not hold the stream up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hotrestart::codec::{Bytes, U64};
use hotrestart::{MapOptions, Store};

/// In one stream, one thread puts values of 16 MiB while another puts short ones. The bound of a
/// millisecond is on what the long put itself does; a scheduler with more threads than processors adds its
/// own, so the test holds the median to it and prints the rest.
#[test]
fn a_long_value_does_not_hold_up_the_short_ones_of_its_stream() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::builder()
        .memory_limit_bytes(256 << 20)
        .streams(1)
        .open(dir.path())
        .expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let done = AtomicBool::new(false);
    let mut waits_us = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let long = vec![7; 16 << 20];
            for n in 0..12 {
                map.insert(&(1_000_000 + n % 3), &long).expect("room");
            }
            done.store(true, Ordering::Release);
        });
        let mut key = 0;
        while !done.load(Ordering::Acquire) {
            let start = Instant::now();
            map.insert(&(key % 1000), b"short").expect("room");
            waits_us.push(start.elapsed().as_micros());
            key += 1;
        }
    });
    waits_us.sort_unstable();
    let at = |share: f64| waits_us[(waits_us.len() as f64 * share) as usize];
    let max = waits_us.last().copied().unwrap_or_default();
    println!(
        "{} short puts: p50 {} us, p99 {} us, max {max} us",
        waits_us.len(),
        at(0.5),
        at(0.99)
    );
    assert!(waits_us.len() > 100 && at(0.5) < 1_000, "p50 {} us of {}", at(0.5), waits_us.len());
}
