//! Movement beside everything else: a store at its limit, whose two keys lie in the page that a put of
//! another size needs.
//!
//! `Store::charge_log` takes all memory but the eight pages that an empty store has. Two of them have values
//! of one length, a few slots each in use; the sparser one holds both keys of the bench. Whoever puts a value
//! of a length that no page is for begins a walk, which moves them while others overwrite, remove, clear,
//! hold and read them. The walk takes many steps, so the others begin at any of them. A put may be refused
//! here, since a guard or a batch may keep the page for as long as the schedule likes, and has then changed
//! nothing. How often entries moved is counted, and must be often, else nothing was tested.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use shuttle::rand::Rng;
use shuttle::thread;

use super::{Bench, Done, LONG, bytes_of, keeper, number_of, schedules};

const LIMIT: u64 = 16 << 20;
/// Long values in a page.
const OF_A_PAGE: u64 = 8;
/// Keys beside those of the bench, from here on.
const OTHERS: u64 = 100;
/// About as many steps as a put takes that moves both keys.
const STEPS: u32 = 1_500;

/// In how many schedules there were moves, how many entries moved, and how many puts were refused.
#[derive(Default)]
struct Seen {
    schedules: AtomicU64,
    moving: AtomicU64,
    moved: AtomicU64,
    refused: AtomicU64,
}

impl Seen {
    /// At least a quarter of the schedules must have moved something.
    fn check(&self) {
        let [schedules, moving, moved, refused] =
            [&self.schedules, &self.moving, &self.moved, &self.refused]
                .map(|count| count.load(Relaxed));
        println!(
            "{moving} of {schedules} schedules moved {moved} entries; {refused} puts were refused"
        );
        assert!(moving * 4 >= schedules, "too few schedules have moved anything");
    }
}

/// Lets others go on for up to so many steps.
fn dawdle(steps: u32) {
    (0..shuttle::rand::thread_rng().gen_range(0..steps)).for_each(|_| thread::yield_now());
}

impl Bench {
    /// A bench at the limit, with both keys in the sparser of two pages.
    fn at_the_limit() -> Arc<Bench> {
        let bench = Bench::with_limit(LIMIT);
        let committed = bench.store.stats().committed_bytes;
        assert!(bench.store.charge_log(LIMIT - committed), "what is left");
        let fill = |key: u64, len: usize| bench.map.insert(&key, &vec![7; len]).is_ok();
        let long = bytes_of(LONG).len();
        (0..OF_A_PAGE)
            .for_each(|key| assert!(fill(OTHERS + key, long), "room for the fuller page"));
        bench.insert(0, LONG);
        bench.insert(1, LONG + 1);
        // A page for each other length, as long as there is one.
        let lens = (0..).map(|step| 20_000 - step * 2_000);
        let pages =
            lens.zip(OTHERS + OF_A_PAGE..).take_while(|(len, key)| fill(*key, *len)).count();
        assert!(pages < 8, "the store is not at its limit");
        for key in 0..5 {
            assert!(bench.map.remove(&(OTHERS + key)).expect("removals work"));
        }
        assert_eq!(bench.store.stats().moved_entries, 0, "moved before anything began");
        bench
    }

    /// Puts a long value, if there is room.
    fn try_insert(&self, key: u64, value: u64, seen: &Seen) {
        let began = self.now();
        match self.map.insert(&key, &bytes_of(value)) {
            Ok(()) => self.note_since(began, key, Done::Insert(value)),
            Err(error) => {
                assert!(error.is_capacity(), "{error}");
                seen.refused.fetch_add(1, Relaxed);
            }
        }
    }

    /// Reads both keys in a batch, and again when others have had their turn.
    fn read_in_a_batch(&self) {
        let batch = self.store.read_batch();
        for key in [0, 1] {
            let mut first = None;
            self.note(key, |map| {
                first = map.get_in(&batch, &key).expect("a read");
                Done::Get(first.map(number_of))
            });
            thread::yield_now();
            if let Some(first) = first {
                number_of(std::hint::black_box(first));
            }
        }
    }
}

/// Runs what `act` spawns beside two puts that need a page each.
fn beside_moves(act: fn(&Arc<Bench>, &Arc<Seen>) -> Vec<thread::JoinHandle<()>>) {
    let seen = Arc::new(Seen::default());
    let counted = Arc::clone(&seen);
    schedules(move || {
        let bench = Bench::at_the_limit();
        let seen = Arc::clone(&counted);
        let mover = {
            let (bench, seen) = (Arc::clone(&bench), Arc::clone(&seen));
            thread::spawn(move || {
                // Two lengths that no page is for yet.
                for (key, len) in [(OTHERS + 50, 3_000), (OTHERS + 51, 1_500)] {
                    if let Err(error) = bench.map.insert(&key, &vec![7; len]) {
                        assert!(error.is_capacity(), "{error}");
                        seen.refused.fetch_add(1, Relaxed);
                    }
                }
                bench.written.store(true, Relaxed);
            })
        };
        let others = act(&bench, &seen);
        mover.join().expect("no panic");
        others.into_iter().for_each(|thread| thread.join().expect("no panic"));
        bench.get(0);
        bench.get(1);
        bench.check();
        let stats = bench.end();
        seen.schedules.fetch_add(1, Relaxed);
        seen.moving.fetch_add(u64::from(stats.moved_entries > 0), Relaxed);
        seen.moved.fetch_add(stats.moved_entries, Relaxed);
    });
    seen.check();
}

/// A thread that reads in a batch now and then.
fn batch_reader(bench: &Arc<Bench>) -> thread::JoinHandle<()> {
    let bench = Arc::clone(bench);
    thread::spawn(move || {
        for _ in 0..3 {
            dawdle(STEPS / 2);
            bench.read_in_a_batch();
        }
    })
}

#[test]
fn entries_that_move_beside_overwrites_removals_clears_and_batches_have_one_history_each() {
    beside_moves(|bench, seen| {
        let writer = {
            let (bench, seen) = (Arc::clone(bench), Arc::clone(seen));
            thread::spawn(move || {
                for step in 0..4 {
                    dawdle(STEPS / 2);
                    let key = shuttle::rand::thread_rng().gen_range(0..2u64);
                    match shuttle::rand::thread_rng().gen_range(0..12u32) {
                        0 => bench.clear(),
                        1..4 => {
                            bench.note(key, |map| {
                                Done::Remove(map.remove(&key).expect("removals work"))
                            });
                        }
                        _ => bench.try_insert(key, LONG + 10 + step, &seen),
                    }
                }
            })
        };
        vec![writer, batch_reader(bench), keeper(bench)]
    });
}

#[test]
fn guards_and_pins_keep_the_slots_that_their_entries_have_left() {
    beside_moves(|bench, seen| {
        let holder = {
            let bench = Arc::clone(bench);
            thread::spawn(move || {
                dawdle(STEPS);
                bench.hold(0);
            })
        };
        let writer = {
            let (bench, seen) = (Arc::clone(bench), Arc::clone(seen));
            // It takes slots of the class as they come free.
            thread::spawn(move || {
                for step in 0..4 {
                    dawdle(STEPS / 2);
                    bench.try_insert(1, LONG + 20 + step, &seen);
                }
            })
        };
        vec![holder, batch_reader(bench), writer]
    });
}
