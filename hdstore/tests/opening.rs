//! Maps are opened and made beside each other, and beside whoever finds no memory for one: nobody waits for
//! what another waits for, the same name is one map, and no memory is lost.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use hdstore::codec::{Bytes, U64};
use hdstore::{Map, MapOptions, Store};

const LIMIT: u64 = 32 << 20;
/// Streams, and so many that a map's headers lie in a slot of 512 bytes.
const STREAMS: u32 = 8;
/// With its header and key such a value lies in a slot of that size as well.
const VALUE: [u8; 488] = [1; 488];

fn store() -> Store {
    Store::builder().memory_limit_bytes(LIMIT).streams(STREAMS).in_memory().expect("a store")
}

fn map_of(store: &Store, name: &str) -> Map<U64, Bytes> {
    store.map(name, MapOptions::default()).expect("a map")
}

#[test]
fn making_a_map_of_a_full_store_keeps_nobody_waiting_who_opens_lists_or_drops_others() {
    let store = store();
    let full = map_of(&store, "full");
    let entries = (0..).take_while(|key| full.insert(key, &VALUE).is_ok()).count();
    assert!(entries > 10_000, "{entries} entries");
    let (inside, entered) = channel();
    let (leave, left) = channel::<()>();
    let is_made = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (reader, is_made, store) = (full.clone(), &is_made, &store);
        scope.spawn(move || {
            let read = reader.get_with(&1, |_| {
                inside.send(()).expect("somebody waits");
                left.recv().expect("somebody lets it go");
            });
            assert!(read.is_ok());
        });
        entered.recv().expect("the reader begins");
        // The only slot for the headers, when the reader has left.
        assert!(full.remove(&0).expect("removals work"));
        let (begin, begun) = channel();
        let maker = scope.spawn(move || {
            begin.send(()).expect("somebody waits");
            let made = store.map::<U64, Bytes>("new", MapOptions::default());
            is_made.store(true, SeqCst);
            made.map(drop)
        });
        begun.recv().expect("it begins");
        let (start, mut rounds) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(200) {
            map_of(store, "full");
            assert!(!store.drop_map("none").expect("no log refuses"));
            assert_eq!(store.maps().len(), 1);
            rounds += 1;
            // Else the maker might never come to the lock that it shall not keep.
            std::thread::sleep(Duration::from_millis(1));
        }
        let was_made = is_made.load(SeqCst);
        leave.send(()).expect("the reader is there");
        assert!(!was_made, "after {rounds} rounds: others waited until it was made, or it did not");
        maker.join().expect("no panic").expect("room when the reader has left");
    });
    assert_eq!(store.maps().len(), 2);
}

#[test]
fn a_map_that_several_threads_make_at_once_is_one_and_costs_as_much_as_one() {
    const THREADS: usize = 4;
    let store = store();
    map_of(&store, "lasting");
    for round in 0..200 {
        let barrier = Barrier::new(THREADS);
        let make = || {
            barrier.wait();
            let map = map_of(&store, "passing");
            map.insert_if_absent(&0, &[round as u8]).expect("room")
        };
        let firsts: usize = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..THREADS).map(|_| scope.spawn(make)).collect();
            makers.into_iter().map(|maker| usize::from(maker.join().expect("no panic"))).sum()
        });
        assert_eq!(firsts, 1, "threads that made a map of this name found different ones");
        assert_eq!(store.maps().len(), 2);
        assert!(store.drop_map("passing").expect("dropped"));
    }
    // Cleared tables wait for readers, of which there are none.
    (0..3).for_each(|_| store.maintain(0));
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    assert_eq!(stats.entries, 0);
    assert_eq!(stats.detached_bytes, 0);
}
