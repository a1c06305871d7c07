//! Entries move out of sparse pages: the limit can be used again for values of any size, and nobody who
//! reads, holds, writes, clears or grows meanwhile sees anything of it.

use std::time::{Duration, Instant};

use hdstore::codec::{Bytes, U64};
use hdstore::{Map, MapOptions, Store};

const MIB: u64 = 1 << 20;

fn store(limit_bytes: u64) -> (Store, Map<U64, Bytes>) {
    let store = Store::builder()
        .memory_limit_bytes(limit_bytes)
        .streams(8)
        .hash_seed(1)
        .in_memory()
        .expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    (store, map)
}

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn values_that_grow_and_shrink_again_fill_the_limit_at_every_size() {
    const LIMIT: u64 = 64 * MIB;
    let (store, map) = store(LIMIT);
    let mut random = Random(7);
    let mut keys: Vec<u64> = Vec::new();
    let mut next = 0;
    let steps = 12u32;
    let sizes = (0..=steps)
        .chain((0..steps).rev())
        .map(|step| (32.0 * 256f64.powf(f64::from(step) / f64::from(steps))) as usize);
    for size in sizes {
        let value = vec![size as u8; size];
        let mut put_bytes = 0;
        let start = Instant::now();
        let mut refused = 0;
        let mut puts = 0;
        while put_bytes < LIMIT / 2 {
            if map.insert(&next, &value).is_ok() {
                keys.push(next);
                next += 1;
                put_bytes += size as u64;
                puts += 1;
                continue;
            }
            refused += 1;
            let victim = keys.swap_remove(random.below(keys.len() as u64) as usize);
            assert!(map.remove(&victim).expect("removals work"));
        }
        let took = start.elapsed();
        let stats = store.stats();
        println!(
            "{size}: {} entries, live {:.1} MiB, index {:.1} free {:.1} round {:.1} unrec {:.1} com {:.1}, puts {puts} refused {refused}, {:.0} ns/op, moved {} emptied {}",
            stats.entries,
            stats.live_bytes as f64 / MIB as f64,
            stats.index_bytes as f64 / MIB as f64,
            stats.free_bytes as f64 / MIB as f64,
            stats.rounding_bytes as f64 / MIB as f64,
            stats.unreclaimed_bytes as f64 / MIB as f64,
            stats.committed_bytes as f64 / MIB as f64,
            took.as_nanos() as f64 / (puts + refused) as f64,
            stats.moved_entries,
            stats.emptied_pages
        );
    }
    let _ = Duration::from_secs(1);
}
