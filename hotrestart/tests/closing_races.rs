//! Closing while other threads put: what returned Ok is there afterwards, and nobody hangs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hotrestart::codec::{Bytes, U64};
use hotrestart::{Builder, Durability, Error, LogFailure, MapOptions, Store};

const THREADS: u64 = 4;

fn builder() -> Builder {
    Store::builder().memory_limit_bytes(128 << 20).streams(8).chunk_bytes(256 << 10).writers(2)
}

#[test]
fn a_put_that_returned_while_the_store_closed_is_there_after_reopening() {
    let mut raced = 0;
    for round in 0..24u64 {
        let dir = tempfile::tempdir().expect("a directory");
        let store = builder().open(dir.path()).expect("a new store");
        let level = if round % 3 == 0 { Durability::Synced } else { Durability::Buffered };
        let options = MapOptions::default().durability(level);
        let map: hotrestart::Map<U64, Bytes> = store.map("m", options).expect("a map");
        let acknowledged: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
        let start = Instant::now();
        let before = std::thread::scope(|scope| {
            for (thread, done) in acknowledged.iter().enumerate() {
                let map = &map;
                scope.spawn(move || {
                    let len = [10, 300, 9_000, 70_000][(thread + round as usize) % 4];
                    for n in 0..400_000u64 {
                        let key = thread as u64 + (n % 500) * THREADS;
                        let mut value = vec![n as u8; len];
                        value.extend(n.to_le_bytes());
                        if let Err(error) = map.insert(&key, &value) {
                            // Whatever else ends it, it is no race then.
                            let Error::Log(source) = &error else { panic!("{error}") };
                            let is_closed =
                                matches!(source.downcast_ref(), Some(LogFailure::Closed));
                            assert!(is_closed, "round {round}: {error}");
                            return;
                        }
                        done.store(n + 1, Ordering::Release);
                    }
                    panic!("round {round}: it had put everything before the store closed");
                });
            }
            std::thread::sleep(Duration::from_micros(300 + round * 1_300));
            let before: Vec<u64> =
                acknowledged.iter().map(|done| done.load(Ordering::Acquire)).collect();
            store.close().expect("a clean close");
            before
        });
        let after = acknowledged.iter().map(|done| done.load(Ordering::Acquire));
        raced += u32::from(after.zip(before).any(|(after, before)| after > before));
        assert!(start.elapsed() < Duration::from_secs(20), "round {round}: somebody hung");
        drop(map);
        let store = builder().open(dir.path()).expect("a clean store");
        assert!(store.recovery().was_clean && store.recovery().problems.is_empty());
        let map: hotrestart::Map<U64, Bytes> =
            store.map("m", MapOptions::default()).expect("the map");
        for (thread, done) in acknowledged.iter().enumerate() {
            let done = done.load(Ordering::Acquire);
            for n in done.saturating_sub(500)..done {
                let key = thread as u64 + (n % 500) * THREADS;
                let value = map.get_owned(&key).expect("ok");
                let value = value.unwrap_or_else(|| panic!("round {round}: key {key} is lost"));
                let (_, number) = value.split_at(value.len() - 8);
                let number = u64::from_le_bytes(number.try_into().expect("8 bytes"));
                // The one put that was under way may be there or not.
                assert!(number == n || number == n + 500, "round {round}: {number} for {n}");
            }
        }
    }
    assert!(raced > 5, "puts returned during {raced} of 24 closes");
}
