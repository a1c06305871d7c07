//! Bytes per entry, measured: `memory [thousand entries]` prints the table of `docs/memory.md`.

use hdstore::codec::{Bytes, U64};
use hdstore::{MapOptions, Store};

fn main() {
    let thousands: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000);
    let entries = thousands * 1_000;
    println!("{entries} entries, 8 B keys, bytes per entry");
    println!("   value  key+value  header  rounding  index  other    all");
    for value_bytes in [16usize, 100, 239, 1007] {
        let limit = (entries * (value_bytes as u64 + 200)).max(64 << 20);
        let store = Store::builder().memory_limit_bytes(limit).in_memory().expect("address space");
        let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
        let value = vec![7; value_bytes];
        for n in 0..entries {
            map.insert(&n, &value).expect("room");
        }
        let stats = store.stats();
        let each = |bytes: u64| bytes as f64 / entries as f64;
        println!(
            "{value_bytes:8}  {:9.2}  {:6.2}  {:8.2}  {:5.2}  {:5.2}  {:5.1}",
            each(stats.live_bytes),
            each(stats.header_bytes),
            each(stats.rounding_bytes),
            each(stats.index_bytes),
            each(stats.metadata_bytes),
            each(stats.committed_bytes - stats.free_bytes),
        );
    }
}
