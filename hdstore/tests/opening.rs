//! Maps are opened and made beside each other, and beside whoever finds no memory for one: nobody waits for
//! what another waits for, the same name is one map, and no memory is lost.

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

/// A store at its limit, which is full of values that are as long as a map's headers.
struct Full {
    store: Store,
    full: Map<U64, Bytes>,
}

impl Full {
    fn new() -> Full {
        let store = store();
        let full = map_of(&store, "full");
        let entries = (0..).take_while(|key| full.insert(key, &VALUE).is_ok()).count();
        assert!(entries > 10_000, "{entries} entries");
        Full { store, full }
    }

    /// Has so many threads make a map, which wait for the reader, and calls `beside` meanwhile; then the
    /// reader leaves.
    fn make_beside_a_reader(&self, makers: u64, beside: impl FnOnce(&Store)) {
        let (inside, entered) = channel();
        let (leave, left) = channel::<()>();
        let is_made = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (reader, is_made) = (self.full.clone(), &is_made);
            scope.spawn(move || {
                let read = reader.get_with(&makers, |_| {
                    inside.send(()).expect("somebody waits");
                    left.recv().expect("somebody lets it go");
                });
                assert!(read.is_ok());
            });
            entered.recv().expect("the reader begins");
            // The only slots for headers, when the reader has left.
            (0..makers).for_each(|key| assert!(self.full.remove(&key).expect("removals work")));
            let (begin, begun) = channel();
            let make = || {
                let (begin, store) = (begin.clone(), &self.store);
                scope.spawn(move || {
                    begin.send(()).expect("somebody waits");
                    let made = store.map::<U64, Bytes>("new", MapOptions::default());
                    is_made.store(true, SeqCst);
                    made.map(drop)
                })
            };
            let makers: Vec<_> = (0..makers).map(|_| make()).collect();
            makers.iter().for_each(|_| begun.recv().expect("each begins"));
            beside(&self.store);
            let was_made = is_made.load(SeqCst);
            leave.send(()).expect("the reader is there");
            assert!(!was_made, "others have waited until it was made, or it did not wait");
            for maker in makers {
                maker.join().expect("no panic").expect("room when the reader has left");
            }
        });
        assert_eq!(self.store.maps().len(), 2);
    }
}

#[test]
fn making_a_map_of_a_full_store_keeps_nobody_waiting_who_opens_lists_or_drops_others() {
    Full::new().make_beside_a_reader(1, |store| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            map_of(store, "full");
            assert!(!store.drop_map("none").expect("no log refuses"));
            assert_eq!(store.maps().len(), 1);
            // Else the maker might never come to the lock that it shall not keep.
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn a_map_that_several_threads_make_at_once_is_one_and_costs_as_much_as_one() {
    const THREADS: u64 = 4;
    let full = Full::new();
    // All of them have looked whether it is there, and wait for its memory, when the first can make it.
    full.make_beside_a_reader(THREADS, |_| std::thread::sleep(Duration::from_millis(50)));
    let store = &full.store;
    store.maintain(0);
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    let more = (0..THREADS).take_while(|key| full.full.insert(key, &VALUE).is_ok()).count() as u64;
    assert_eq!(more, THREADS - 1, "slots for all but one map came back");
    let handles = [0, 1].map(|_| map_of(store, "new"));
    full.full.clear().expect("cleared");
    handles[0].insert(&1, b"of both").expect("room");
    assert_eq!(handles[1].get_owned(&1).expect("ok").as_deref(), Some(&b"of both"[..]));
}
