//! Random schedules of a whole store under shuttle (`--cfg shuttle`, `scripts/shuttle`): writers, groups,
//! readers with guards, who clears, and the one that ends what is due, on few keys.
//!
//! The code that runs is the store's own; at each step of an atomic and at each lock another thread may go
//! on. Hazards: a lost overwrite, a conditional change that two win, a value that comes back, a slot used
//! again under a guard or a pin, a lock order that deadlocks. Each schedule's histories must be explained
//! by a register (`linearizable/checker.rs`). A failing schedule is printed by shuttle and replayed by
//! `shuttle::replay`.
//!
//! `HDSTORE_SCHEDULES` says how many of each kind are run (2,000). What weak memory may do is not seen here
//! but by loom's models.
#![cfg(shuttle)]

#[path = "linearizable/checker.rs"]
mod checker;
#[path = "schedules/movement.rs"]
mod movement;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use checker::{Call, Done, is_linearizable};
use hdstore::codec::{Bytes, U64};
use hdstore::{GroupOutcome, ManualClock, Map, MapOptions, NoLog, Store, StreamId};
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};

type Keys = Map<U64, Bytes, NoLog>;

/// Runs the schedules of two schedulers: one that picks at random, one that delays threads for long.
fn schedules(check: impl Fn() + Send + Sync + Clone + 'static) {
    let count = std::env::var("HDSTORE_SCHEDULES")
        .map_or(2_000, |text| text.parse().expect("HDSTORE_SCHEDULES is a number"));
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(RandomScheduler::new(count), config.clone()).run(check.clone());
    Runner::new(PctScheduler::new(3, count), config).run(check);
    println!("{} schedules", 2 * count);
}

/// Values from here on are long, and all of one length.
const LONG: u64 = 1_000;

fn bytes_of(value: u64) -> Vec<u8> {
    let times = if value < LONG { 1 + value % 5 } else { 3_750 };
    value.to_le_bytes().repeat(times as usize)
}

fn number_of(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert!(bytes == bytes_of(number), "a mix of values: {bytes:?}");
    number
}

/// One store, two keys, and what was done to each.
struct Bench {
    store: Store,
    map: Keys,
    moment: AtomicU64,
    /// The writer has ended.
    written: AtomicBool,
    histories: [Mutex<Vec<Call>>; 2],
}

impl Bench {
    fn new() -> Arc<Bench> {
        Bench::with_limit(32 << 20)
    }

    fn with_limit(limit_bytes: u64) -> Arc<Bench> {
        let store = Store::builder()
            .memory_limit_bytes(limit_bytes)
            .streams(1)
            .lanes(1)
            .hash_seed(1)
            .clock(Arc::new(ManualClock::new(1_000)))
            .in_memory()
            .expect("a store");
        let map = store.map("m", MapOptions::default()).expect("a map");
        Arc::new(Bench {
            store,
            map,
            moment: AtomicU64::new(0),
            written: AtomicBool::new(false),
            histories: Default::default(),
        })
    }

    /// The order of steps; all threads are one, so this is the very order in which they happened.
    fn now(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::Relaxed)
    }

    fn note<'a>(&'a self, key: u64, call: impl FnOnce(&'a Keys) -> Done) -> Done {
        let began = self.now();
        let done = call(&self.map);
        self.note_since(began, key, done);
        done
    }

    /// Notes a call that has just ended.
    fn note_since(&self, began: u64, key: u64, done: Done) {
        let call = Call { began, ended: self.now(), done };
        self.histories[key as usize].lock().expect("no panic").push(call);
    }

    fn insert(&self, key: u64, value: u64) {
        self.note(key, |map| {
            map.insert(&key, &bytes_of(value)).expect("room");
            Done::Insert(value)
        });
    }

    fn get(&self, key: u64) -> Option<u64> {
        let done = self.note(key, |map| Done::Get(map.get_with(&key, number_of).expect("a read")));
        let Done::Get(found) = done else { unreachable!("what was noted") };
        found
    }

    /// Clears the map: a call on both keys.
    fn clear(&self) {
        let began = self.now();
        self.map.clear().expect("nothing refuses");
        let call = Call { began, ended: self.now(), done: Done::Clear };
        for history in &self.histories {
            history.lock().expect("no panic").push(call);
        }
    }

    /// Gives both keys a value in one group, or removes both: a call on each.
    fn group(&self, value: Option<u64>) {
        let (began, bytes) = (self.now(), value.map_or(Vec::new(), bytes_of));
        let mut group = self.store.group(StreamId(0));
        for key in &[0, 1] {
            match value {
                Some(_) => group.insert(&self.map, key, &bytes).expect("its stream"),
                None => group.remove(&self.map, key).expect("its stream"),
            };
        }
        let GroupOutcome::Done(was_there) = group.commit().expect("room") else {
            panic!("no condition")
        };
        assert_eq!(was_there[0], was_there[1], "another group was done in between");
        let ended = self.now();
        for (history, was_there) in self.histories.iter().zip(was_there) {
            let done = value.map_or(Done::Remove(was_there), Done::Insert);
            history.lock().expect("no panic").push(Call { began, ended, done });
        }
    }

    /// Reads by a guard and looks at it again until the writer has ended.
    fn hold(&self, key: u64) {
        assert!(self.hold_if_there(key), "a key that is always there");
    }

    /// Like `hold`, of a key that may be gone; whether it was there.
    fn hold_if_there(&self, key: u64) -> bool {
        let mut guard = None;
        self.note(key, |map| {
            guard = map.get(&key).expect("a read");
            Done::Get(guard.as_ref().map(|guard| number_of(guard.value_bytes())))
        });
        let Some(guard) = guard else { return false };
        let before = number_of(guard.value_bytes());
        while !self.written.load(Ordering::Relaxed) {
            thread::yield_now();
            let now = number_of(guard.value_bytes());
            assert_eq!(now, before, "a slot was used again under its guard");
        }
        true
    }

    /// Reads inside a call, under its pin, and stays there until the writer has ended.
    fn stay(&self, key: u64) {
        self.note(key, |map| {
            let found = map.get_with(&key, |bytes| {
                let before = number_of(bytes);
                while !self.written.load(Ordering::Relaxed) {
                    thread::yield_now();
                    // The compiler may take it that borrowed bytes stay as they are; that is the question
                    // here.
                    let now = number_of(std::hint::black_box(bytes));
                    assert_eq!(now, before, "a slot was used again under a pin");
                }
                before
            });
            Done::Get(found.expect("a read"))
        });
    }

    /// When all is over: nothing waits for anybody, and every byte is accounted for.
    fn end(&self) -> hdstore::Stats {
        // What the first takes apart the second finds retired.
        self.store.maintain(0);
        self.store.maintain(0);
        let stats = self.store.stats();
        assert_eq!((stats.unreclaimed_bytes, stats.detached_bytes), (0, 0), "nothing waits");
        assert_eq!(stats.accounted_bytes(), stats.committed_bytes);
        stats
    }

    fn check(&self) {
        for (key, history) in self.histories.iter().enumerate() {
            let history = history.lock().expect("no panic");
            assert!(is_linearizable(&history), "key {key}: nothing explains {history:#?}");
        }
    }
}

/// Ends what is due, as often as it gets its turn.
fn keeper(bench: &Arc<Bench>) -> thread::JoinHandle<()> {
    let bench = Arc::clone(bench);
    thread::spawn(move || {
        for _ in 0..3 {
            bench.store.maintain(0);
            bench.store.sweep(1_000, 16).expect("nothing refuses");
        }
    })
}

#[test]
fn changes_of_one_key_by_two_writers_have_an_order_whatever_the_schedule() {
    schedules(|| {
        let bench = Bench::new();
        let writers = [0u64, 1].map(|writer| {
            let bench = Arc::clone(&bench);
            thread::spawn(move || {
                let mut last = 0;
                for step in 0..3 {
                    let fresh = 1 + writer + step * 2;
                    match shuttle::rand::thread_rng().gen_range(0..5u32) {
                        0 => bench.insert(0, fresh),
                        1 => {
                            bench.note(0, |map| {
                                let value = bytes_of(fresh);
                                let did = map.insert_if_absent(&0, &value).expect("room");
                                Done::InsertIfAbsent(fresh, did)
                            });
                        }
                        2 => {
                            bench.note(0, |map| Done::Remove(map.remove(&0).expect("a removal")));
                        }
                        3 => last = bench.get(0).unwrap_or(last),
                        _ => {
                            bench.note(0, |map| {
                                let (old, new) = (bytes_of(last), bytes_of(fresh));
                                let did = map.compare_exchange(&0, &old, &new).expect("room");
                                Done::CompareExchange(last, fresh, did)
                            });
                        }
                    }
                }
            })
        });
        let keeper = keeper(&bench);
        writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
        keeper.join().expect("no panic");
        bench.check();
    });
}

#[test]
fn guards_and_pins_beside_overwrites_and_reclamation_keep_their_slots() {
    schedules(|| {
        let bench = Bench::new();
        bench.insert(0, 5);
        bench.insert(1, 10);
        let holder = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || bench.hold(0))
        };
        let reader = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || bench.stay(1))
        };
        let writer = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || {
                for value in 3..9 {
                    // Both keys, with values of one class, so that a slot that is freed is soon another's.
                    bench.insert(value % 2, value * 5);
                    bench.store.maintain(0);
                }
                bench.written.store(true, Ordering::Relaxed);
            })
        };
        let keeper = keeper(&bench);
        for thread in [holder, reader, writer, keeper] {
            thread.join().expect("no panic");
        }
        bench.check();
        bench.store.maintain(0);
        assert_eq!(bench.store.stats().unreclaimed_bytes, 0, "nothing waits for anybody");
    });
}

#[test]
fn an_expired_entry_beside_its_sweep_and_an_overwrite_is_removed_once_and_the_new_one_stays() {
    schedules(|| {
        let bench = Bench::new();
        bench.map.insert_expiring(&0, &bytes_of(1), 900).expect("room");
        let sweepers = [0, 1].map(|_| {
            let bench = Arc::clone(&bench);
            thread::spawn(move || bench.store.sweep(1_000, 64).expect("nothing refuses").removed)
        });
        let writer = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || bench.insert(0, 2))
        };
        let removed: u64 =
            sweepers.into_iter().map(|sweeper| sweeper.join().expect("no panic")).sum();
        writer.join().expect("no panic");
        assert!(removed <= 1, "one entry was removed {removed} times");
        assert_eq!(bench.get(0), Some(2), "a sweep took what had not expired");
        bench.check();
    });
}

#[test]
fn a_clear_beside_puts_guards_and_pins_has_its_place_in_every_history() {
    schedules(|| {
        let bench = Bench::new();
        bench.insert(0, 5);
        bench.insert(1, 10);
        let holder = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || _ = bench.hold_if_there(0))
        };
        let reader = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || [0, 1, 0].into_iter().for_each(|key| _ = bench.get(key)))
        };
        let clearer = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || {
                bench.clear();
                bench.insert(1, 7);
                bench.clear();
                bench.insert(0, 8);
                bench.written.store(true, Ordering::Relaxed);
            })
        };
        let writer = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || {
                bench.insert(0, 3);
                bench.note(1, |map| Done::Remove(map.remove(&1).expect("a removal")));
            })
        };
        let keeper = keeper(&bench);
        for thread in [holder, reader, clearer, writer, keeper] {
            thread.join().expect("no panic");
        }
        bench.get(0);
        bench.get(1);
        bench.check();
        bench.end();
    });
}

#[test]
fn groups_of_two_writers_beside_clears_readers_and_reclamation_are_never_mixed() {
    schedules(|| {
        let bench = Bench::new();
        let writers = [0u64, 1].map(|writer| {
            let bench = Arc::clone(&bench);
            thread::spawn(move || {
                for step in 0..3 {
                    let fresh = 1 + writer + step * 2;
                    let is_put = shuttle::rand::thread_rng().gen_range(0..4u32) > 0;
                    bench.group(is_put.then_some(fresh));
                }
            })
        });
        let clearer = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || bench.clear())
        };
        let reader = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || [0, 1, 0].into_iter().for_each(|key| _ = bench.get(key)))
        };
        let keeper = keeper(&bench);
        writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
        for thread in [clearer, reader, keeper] {
            thread.join().expect("no panic");
        }
        assert_eq!(bench.get(0), bench.get(1), "all of the last group is there, or nothing");
        bench.check();
        bench.store.maintain(0);
        bench.store.maintain(0);
        let stats = bench.store.stats();
        assert_eq!(stats.accounted_bytes(), stats.committed_bytes);
    });
}
