//! Recorded histories of real threads on few keys: for each key there must be an order of one thing at a
//! time that explains every answer.
//!
//! Hazards: an overwrite or a change of a group that is lost, a conditional change that two win, a removed or
//! cleared value that comes back, a read that goes back in time, a guard whose slot is used again. Each round
//! has new keys and a few threads that do random things to them, while another ends what is due (`maintain`,
//! `sweep`); then each key's history is searched (`checker.rs`). A failure prints the seed and the history;
//! the threads' own order is not replayed by it, their choices are.
//!
//! `HDSTORE_HISTORY_SECONDS` makes it longer (`scripts/long`), `HDSTORE_SEED` begins at another seed.

mod checker;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use checker::{CALLS_MAX, Call, Done, is_linearizable};
use hdstore::codec::{Bytes, U64};
use hdstore::{GroupOutcome, Map, MapOptions, NoLog, Store};

const KEYS: u64 = 3;
const THREADS: u64 = 4;
/// Calls of a thread in a round; a key gets all of them at worst. One of them may be a clear, which is a call
/// on every key.
const CALLS: usize = CALLS_MAX / THREADS as usize;

/// A small generator of its own, so that a seed means the same for ever (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// The bytes of a value: its number again and again, of a length that differs from its neighbours'.
fn bytes_of(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(1 + (value % 23) as usize)
}

fn number_of(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert!(bytes == bytes_of(number), "a mix of values: {bytes:?}");
    number
}

/// Reads a value inside the call, under its pin, and reads it again after others had the processor.
fn number_at_length(bytes: &[u8]) -> u64 {
    let number = number_of(bytes);
    std::thread::yield_now();
    // The compiler may take it that borrowed bytes stay as they are; that is the question here.
    assert_eq!(number_of(std::hint::black_box(bytes)), number, "a value changed under a pin");
    number
}

type Keys = Map<U64, Bytes, NoLog>;

/// One random call on one key.
fn call(map: &Keys, key: u64, fresh: u64, last_seen: &mut u64, random: &mut Random) -> Done {
    match random.below(10) {
        0 | 1 => {
            let value = map.get_with(&key, number_at_length).expect("a read");
            *last_seen = value.unwrap_or(*last_seen);
            Done::Get(value)
        }
        2 => {
            let guard = map.get(&key).expect("a read");
            let value = guard.as_ref().map(|guard| number_of(guard.value_bytes()));
            std::thread::yield_now();
            let again = guard.as_ref().map(|guard| number_of(guard.value_bytes()));
            assert_eq!(value, again, "a guard's value changed under it");
            *last_seen = value.unwrap_or(*last_seen);
            Done::Get(value)
        }
        3 | 4 => {
            map.insert(&key, &bytes_of(fresh)).expect("room");
            Done::Insert(fresh)
        }
        5 => {
            let did = map.insert_if_absent(&key, &bytes_of(fresh)).expect("room");
            Done::InsertIfAbsent(fresh, did)
        }
        6 | 7 => {
            let old = *last_seen;
            let did = map.compare_exchange(&key, &bytes_of(old), &bytes_of(fresh)).expect("room");
            if did {
                *last_seen = fresh;
            }
            Done::CompareExchange(old, fresh, did)
        }
        _ => Done::Remove(map.remove(&key).expect("a removal")),
    }
}

/// One group of random changes on the keys that share a stream with the one of this index: a call on each.
fn group(
    store: &Store,
    map: &Keys,
    keys: Vec<u64>,
    index: usize,
    fresh: u64,
    random: &mut Random,
) -> Vec<(u64, Done)> {
    let stream_of = |key: &u64| map.stream_of_key(key).expect("a stream");
    let stream = stream_of(&keys[index]);
    let bytes = bytes_of(fresh);
    let mut group = store.group(stream);
    let mut done = Vec::new();
    for (index, key) in (0..).zip(&keys).filter(|(_, key)| stream_of(key) == stream) {
        if random.below(3) == 0 {
            group.remove(map, key).expect("its stream");
            done.push((index, Done::Remove(true)));
        } else {
            group.insert(map, key, &bytes).expect("its stream");
            done.push((index, Done::Insert(fresh)));
        }
    }
    let GroupOutcome::Done(was_there) = group.commit().expect("room") else {
        panic!("no condition")
    };
    for ((_, done), was_there) in done.iter_mut().zip(was_there) {
        if *done == Done::Remove(true) {
            *done = Done::Remove(was_there);
        }
    }
    done
}

/// The histories of one round's keys.
fn round(store: &Store, map: &Keys, round: u64, seed: u64) -> Vec<Vec<Call>> {
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    let (ready, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let by_thread = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (ready, now) = (&ready, &now);
                scope.spawn(move || {
                    let mut random = Random::new(seed ^ (thread + 1) << 48);
                    let mut calls = Vec::with_capacity(CALLS);
                    let mut last_seen = [0; KEYS as usize];
                    ready.fetch_add(1, Ordering::AcqRel);
                    while ready.load(Ordering::Acquire) < THREADS as usize {
                        std::thread::yield_now();
                    }
                    for step in 0..CALLS as u64 {
                        let index = random.below(KEYS);
                        let fresh = 1 + thread + step * THREADS;
                        let began = now();
                        if random.below(24) == 0 {
                            map.clear().expect("cleared");
                            let call = Call { began, ended: now(), done: Done::Clear };
                            calls.extend((0..KEYS).map(|index| (index, call)));
                            continue;
                        }
                        if random.below(12) == 0 {
                            let keys = (0..KEYS).map(|index| round * KEYS + index).collect();
                            let done = group(store, map, keys, index as usize, fresh, &mut random);
                            let (began, ended) = (began, now());
                            let calls_of = |(index, done)| (index, Call { began, ended, done });
                            calls.extend(done.into_iter().map(calls_of));
                            continue;
                        }
                        let seen = &mut last_seen[index as usize];
                        let done = call(map, round * KEYS + index, fresh, seen, &mut random);
                        calls.push((index, Call { began, ended: now(), done }));
                    }
                    calls
                })
            })
            .collect();
        let keeper = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                store.maintain(0);
                store.sweep(0, 64).expect("nothing expires");
                std::thread::yield_now();
            }
        });
        // The keeper must hear of the end even when a thread has panicked.
        let joined: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        stop.store(true, Ordering::Release);
        keeper.join().expect("no panic");
        let calls: Vec<_> = joined.into_iter().flat_map(|calls| calls.expect("no panic")).collect();
        calls
    });
    let mut histories = vec![Vec::new(); KEYS as usize];
    for (index, call) in by_thread {
        histories[index as usize].push(call);
    }
    histories
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn no_history_of_a_key_needs_two_things_at_once() {
    let seconds = from_environment("HDSTORE_HISTORY_SECONDS");
    let first_seed = from_environment("HDSTORE_SEED").unwrap_or(1);
    let store =
        Store::builder().memory_limit_bytes(64 << 20).streams(2).in_memory().expect("a store");
    let map: Keys = store.map("m", MapOptions::default()).expect("a map");
    let start = Instant::now();
    let (mut rounds, mut calls, mut overlapping) = (0u64, 0u64, 0u64);
    let goes_on = |rounds: u64| match seconds {
        Some(seconds) => start.elapsed() < Duration::from_secs(seconds),
        None => rounds < 1_000,
    };
    while goes_on(rounds) {
        let seed = first_seed + rounds;
        for mut history in round(&store, &map, rounds, seed) {
            history.sort_by_key(|call| call.began);
            overlapping += overlaps(&history);
            calls += history.len() as u64;
            assert!(
                is_linearizable(&history),
                "HDSTORE_SEED={seed}: nothing explains {history:#?}"
            );
        }
        for key in rounds * KEYS..(rounds + 1) * KEYS {
            map.remove(&key).expect("a removal");
        }
        rounds += 1;
    }
    println!("{rounds} rounds, {calls} calls, {overlapping} of them beside another of their key");
    assert!(overlapping > 0, "threads that never met show nothing");
}

/// Calls that began before the one before them had ended.
fn overlaps(sorted: &[Call]) -> u64 {
    sorted.windows(2).filter(|pair| pair[1].began < pair[0].ended).count() as u64
}

#[test]
fn histories_that_no_register_has_are_found() {
    let at = |began, ended, done| Call { began, ended, done };
    let write = at(0, 1, Done::Insert(1));
    let bad: [&[Call]; 8] = [
        // A value that nobody wrote; a write that is not seen; one that is unseen again.
        &[at(0, 1, Done::Get(Some(9)))],
        &[write, at(2, 3, Done::Get(None))],
        &[at(0, 9, Done::Insert(1)), at(1, 2, Done::Get(Some(1))), at(3, 4, Done::Get(None))],
        // Two win one exchange; two insert where nothing was.
        &[
            write,
            at(2, 6, Done::CompareExchange(1, 2, true)),
            at(3, 5, Done::CompareExchange(1, 3, true)),
        ],
        &[at(0, 5, Done::InsertIfAbsent(1, true)), at(1, 4, Done::InsertIfAbsent(2, true))],
        // A removed value comes back; an exchange fails though nobody came between.
        &[write, at(2, 3, Done::Remove(true)), at(4, 5, Done::Get(Some(1)))],
        &[write, at(2, 3, Done::CompareExchange(1, 2, false))],
        // A cleared value is still there.
        &[write, at(2, 3, Done::Clear), at(4, 5, Done::Get(Some(1)))],
    ];
    for history in bad {
        assert!(!is_linearizable(history), "{history:?}");
    }
    let good: [&[Call]; 3] = [
        &[at(0, 9, Done::Insert(1)), at(1, 2, Done::Get(None)), at(3, 4, Done::Get(Some(1)))],
        &[
            write,
            at(2, 6, Done::CompareExchange(1, 2, true)),
            at(3, 5, Done::CompareExchange(1, 3, false)),
        ],
        &[write, at(2, 9, Done::Remove(true)), at(2, 9, Done::Get(Some(1)))],
    ];
    for history in good {
        assert!(is_linearizable(history), "{history:?}");
    }
}
