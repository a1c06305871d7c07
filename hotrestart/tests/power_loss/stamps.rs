//! No stamp twice: the limit of the seqs in the manifest, with so small a step that puts run into it.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::bench::{KEYS, Machine, Oracle, Random, Seed, map_of};
use hotrestart::format::Manifest;
use hotrestart::io::sim::{Fault, FaultPlan};
use hotrestart::io::{Disk, IoOperation};
use hotrestart::{Durability, LogFailure, Store};

const STEP: u64 = 8;

/// What the newer valid copy of the manifest says: no stream has given a seq at or above this.
fn limit_on(disk: &impl Disk) -> u64 {
    let copies = ["manifest.0", "manifest.1"].map(|name| disk.read_small(name, 1 << 20));
    let manifests = copies.into_iter().flatten().filter_map(|copy| Manifest::decode(&copy).ok());
    manifests.max_by_key(|manifest| manifest.generation).expect("a manifest").seq_limit
}

/// The highest seq of the entries that are there, and the lowest that is at least `from`.
fn seqs_of(store: &Store, from: u64) -> (u64, Option<u64>) {
    let seqs: Vec<u64> = map_of(store).iter().map(|entry| entry.seq().0).collect();
    let highest = seqs.iter().max().copied().unwrap_or(0);
    (highest, seqs.into_iter().filter(|seq| *seq >= from).min())
}

fn open(machine: &Machine) -> Store {
    let builder = machine.builder().writers(2).seq_step(STEP);
    builder.open("/simulated").unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn no_seq_is_given_that_the_manifest_does_not_cover_and_none_twice_whatever_dies() {
    for seed in 400..406 {
        let _seed = Seed(seed);
        let mut random = Random::new(seed);
        let mut machine = Machine::new(seed);
        if seed % 2 == 0 {
            machine.disk.set_plan(FaultPlan::unruly());
        }
        let mut store = open(&machine);
        let mut oracle = Oracle::learn(&store);
        let mut began_at = 0;
        for _ in 0..6 {
            let (_, before) = seqs_of(&store, 0);
            let last_known = seqs_of(&store, 0).0;
            oracle.change(&store, &mut random, 40);
            let (highest, lowest_new) = seqs_of(&store, last_known.max(before.unwrap_or(0)) + 1);
            assert!(lowest_new.is_none_or(|seq| seq >= began_at), "{lowest_new:?} < {began_at}");
            let power = random.below(2) == 0;
            machine.crash(Some(store), power);
            let mut survives_all = !power;
            let limit = limit_on(&machine.disk);
            assert!(highest < limit, "seq {highest} was given, the limit is {limit}");
            began_at = limit;
            if random.below(2) == 0 {
                machine.disk.hold();
                let builder = machine.builder().writers(1).seq_step(STEP);
                let opening = std::thread::spawn(move || builder.open("/simulated"));
                machine.disk.step(random.below(40));
                std::thread::sleep(Duration::from_millis(6));
                let power = random.below(2) == 0;
                machine.disk = machine.disk.crash(power);
                survives_all &= !power;
                if let Ok(store) = opening.join().expect("no panic") {
                    store.abandon();
                }
                machine.note_crash(power);
                began_at = limit_on(&machine.disk);
                assert!(began_at >= limit, "the limit never goes down");
            }
            store = open(&machine);
            oracle.check(&store, survives_all);
        }
    }
}

#[test]
fn an_idle_life_that_is_closed_cleanly_does_not_bring_lost_stamps_back() {
    for idle_lives in 1..4 {
        let mut machine = Machine::new(idle_lives);
        let open = |machine: &Machine| {
            machine.builder().streams(1).writers(1).open("/simulated").expect("opens")
        };
        let store = open(&machine);
        let map = map_of(&store);
        map.insert(&0, b"kept").expect("room");
        store.persist(Durability::Synced).expect("synced");
        let mut given: HashSet<u64> = HashSet::new();
        for key in 1..KEYS {
            map.insert(&key, b"lost").expect("room");
            given.insert(map.get(&key).expect("ok").expect("it is there").seq().0);
        }
        drop(map);
        machine.crash(Some(store), true);
        for _ in 0..idle_lives {
            open(&machine).close().expect("a clean close");
        }
        let store = open(&machine);
        assert!(store.recovery().was_clean);
        let map = map_of(&store);
        for key in 1..KEYS {
            map.insert(&key, b"new").expect("room");
            let seq = map.get(&key).expect("ok").expect("it is there").seq().0;
            assert!(given.insert(seq), "stamp {seq} twice");
        }
    }
}

#[test]
fn clean_closes_use_up_no_seqs() {
    let mut machine = Machine::new(9);
    let mut last = 0;
    for n in 0..5 {
        let store = machine.builder().streams(1).writers(1).open("/simulated").expect("opens");
        map_of(&store).insert(&n, b"v").expect("room");
        last = map_of(&store).get(&n).expect("ok").expect("it is there").seq().0;
        store.close().expect("a clean close");
        machine.crash(None, false);
    }
    assert_eq!(last, 5);
}

/// A store that writes no blocks by itself, so that the next writes are those of the manifest.
fn quiet(machine: &Machine) -> Store {
    let builder = machine.builder().streams(1).writers(1).seq_step(64).put_timeout_ms(5_000);
    builder.write_interval_ms(3_600_000).flush_interval_ms(3_600_000).open("/s").expect("opens")
}

#[test]
fn puts_beyond_the_limit_are_refused_when_it_cannot_be_raised() {
    let machine = Machine::new(77);
    let store = quiet(&machine);
    let map = map_of(&store);
    let plan = FaultPlan::default().with(IoOperation::Write, 0, Fault::Errno(libc::EIO));
    machine.disk.set_plan(plan);
    let error = (0..1_000).find_map(|_| map.insert(&1, b"v").err()).expect("no seq is left");
    let hotrestart::Error::Log(source) = &error else { panic!("{error}") };
    let failure: Option<&LogFailure> = source.downcast_ref();
    assert!(matches!(failure, Some(LogFailure::Poisoned { .. })), "{error}");
    let seq = map.get(&1).expect("reads go on").expect("it is there").seq().0;
    assert!(seq < limit_on(&machine.disk), "seq {seq} is not covered");
}

#[test]
fn a_manifest_that_finds_no_space_is_written_again_and_puts_only_wait() {
    let machine = Machine::new(78);
    let store = quiet(&machine);
    let map = map_of(&store);
    machine.full_for_small_files.store(3, Ordering::Relaxed);
    for _ in 0..200 {
        map.insert(&1, b"v").expect("it waits for the keeper");
        let seq = map.get(&1).expect("ok").expect("it is there").seq().0;
        assert!(seq < limit_on(&machine.disk), "seq {seq} is not covered");
    }
    assert_eq!(machine.full_for_small_files.load(Ordering::Relaxed), 0, "it never found no space");
    assert!(store.stats().poisoned.is_none());
}
