//! Power cuts, dying processes and failing disks, on the simulated disk, from seeds.
//!
//! Invariants under test: what was acknowledged as `Synced` survives a power cut, as `Buffered` the death
//! of the process; what comes back is a prefix of each stream; no stamp is used twice; a second recovery
//! gives the first's result; after a failed write or flush nothing is acknowledged. `docs/testing.md`
//! says how to replay a seed.

mod bench;
mod full;
mod headers;
mod offline;
mod stamps;
mod threads;

use std::time::{Duration, Instant};

use bench::{KEYS, Machine, Oracle, Random, Seed, map_of};
use hotrestart::codec::{Bytes, U64};
use hotrestart::io::sim::{Fault, FaultPlan};
use hotrestart::io::{Disk, IoOperation};
use hotrestart::{
    CloseError, Durability, Error, LogFailure, Map, MapOptions, OpenError, RecoveryMode, Store,
};

fn failure(error: &Error) -> &LogFailure {
    let Error::Log(source) = error else { panic!("{error}") };
    source.downcast_ref().expect("the log's own failure")
}

fn sorted(store: &Store) -> Vec<(u64, Vec<u8>)> {
    let map = map_of(store);
    let mut all: Vec<_> =
        map.iter().map(|entry| (entry.key().expect("ok"), entry.value_bytes().to_vec())).collect();
    all.sort();
    all
}

#[test]
fn whatever_dies_when_nothing_acknowledged_is_lost_and_prefixes_come_back() {
    let (mut gone, mut relogged) = (0, 0);
    for seed in 1..=14 {
        let _seed = Seed(seed);
        let mut random = Random::new(seed);
        let mut machine = Machine::new(seed);
        if seed % 2 == 0 {
            machine.disk.set_plan(FaultPlan::unruly());
        }
        let mut store = machine.open(1 + (seed % 3) as u32).expect("a new store");
        let mut oracle = Oracle::learn(&store);
        for crash in 0..7 {
            let changes = random.below(160);
            oracle.change(&store, &mut random, changes);
            if random.below(3) == 0 {
                std::thread::sleep(Duration::from_millis(random.below(12)));
            }
            let power = random.below(2) == 0;
            machine.crash(Some(store), power);
            let writers = 1 + random.below(3) as u32;
            store = machine.open(writers).unwrap_or_else(|error| {
                panic!("seed {seed}, crash {crash} (power {power}): {error}")
            });
            gone += oracle.check(&store, !power);
            relogged += store.recovery().relogged;
            if random.below(3) == 0 {
                let before = sorted(&store);
                let power = random.below(2) == 0;
                machine.crash(Some(store), power);
                store = machine.open(1).expect("the second recovery");
                assert!(sorted(&store) == before, "the second recovery gave something else");
            }
            if random.below(4) == 0 {
                store.close().expect("a clean close");
                store = machine.open(2).expect("a clean store");
                assert!(store.recovery().was_clean);
            }
        }
        store.close().expect("a clean close");
    }
    assert!(
        gone > 50 && relogged > 50,
        "{gone} changes lost, {relogged} found in log buffers only"
    );
}

#[test]
fn a_crash_in_the_middle_of_opening_changes_nothing() {
    let (mut begun, mut ended, mut undone) = (0, 0, 0);
    for seed in 100..=115 {
        let _seed = Seed(seed);
        let mut random = Random::new(seed);
        let mut machine = Machine::new(seed);
        let store = machine.open(2).expect("a new store");
        let mut oracle = Oracle::learn(&store);
        let mut store = Some(store);
        for _ in 0..4 {
            oracle.change(store.as_ref().expect("open"), &mut random, 80);
            let mut power = random.below(3) == 0;
            machine.crash(store.take(), power);
            let mut survives_all = !power;
            for _ in 0..1 + random.below(2) {
                machine.disk.hold();
                let (builder, steps) = (machine.builder().writers(2), random.below(45));
                let opening = std::thread::spawn(move || builder.open("/simulated"));
                let step_and_wait = |steps| {
                    machine.disk.step(steps);
                    let start = Instant::now();
                    while !opening.is_finished() && !machine.disk.is_held_back() {
                        assert!(start.elapsed() < Duration::from_secs(60), "it waits for nothing");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                };
                step_and_wait(steps);
                step_and_wait(random.below(6));
                power = random.below(2) == 0;
                machine.disk = machine.disk.crash(power);
                match opening.join().expect("no panic") {
                    Ok(store) => {
                        store.abandon();
                        ended += 1;
                    }
                    Err(_) => undone += 1,
                }
                machine.note_crash(power);
                survives_all &= !power;
                let open =
                    machine.inspect().lives.iter().filter(|life| life.state == "open").count();
                begun += u32::from(open > 1);
            }
            let opened = machine.open(1 + random.below(3) as u32);
            let opened = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            oracle.check(&opened, survives_all);
            store = Some(opened);
        }
    }
    println!("{undone} openings were undone, {ended} had ended, {begun} lives had begun");
    assert!(undone > 20 && begun > 0, "{undone} openings were undone, {begun} lives had begun");
}

#[test]
fn each_failing_call_of_an_opening_is_an_error_and_the_next_opening_finds_everything() {
    let _seed = Seed(7);
    let mut random = Random::new(7);
    let mut machine = Machine::new(7);
    let store = machine.open(2).expect("a new store");
    let mut oracle = Oracle::learn(&store);
    let mut store = Some(store);
    let operations = [
        IoOperation::List,
        IoOperation::Open,
        IoOperation::Create,
        IoOperation::Read,
        IoOperation::Write,
        IoOperation::Flush,
        IoOperation::SyncDirectory,
        IoOperation::Remove,
        IoOperation::Queue,
    ];
    let mut refused = 0;
    for operation in operations {
        for nth in 0..8 {
            oracle.change(store.as_ref().expect("open"), &mut random, 25);
            machine.crash(store.take(), false);
            let fault = Fault::Errno(libc::EIO);
            machine.disk.set_plan(FaultPlan::default().with(operation, nth, fault));
            match machine.open(2) {
                Ok(store) => {
                    oracle.check(&store, true);
                    machine.crash(Some(store), false);
                }
                Err(_) => {
                    refused += 1;
                    machine.crash(None, false);
                }
            }
            let opened = machine.open(1);
            let opened = opened.unwrap_or_else(|error| panic!("{operation:?} {nth}: {error}"));
            oracle.check(&opened, true);
            store = Some(opened);
        }
    }
    assert!(refused > 20, "only {refused} openings met their fault");
}

#[test]
fn what_a_dead_process_wrote_and_never_flushed_survives_a_power_cut_once_it_was_recovered() {
    for seed in 200..210 {
        let _seed = Seed(seed);
        let mut machine = Machine::new(seed);
        let open = |machine: &Machine| {
            machine.builder().writers(1).flush_interval_ms(3_600_000).open("/simulated")
        };
        let store = open(&machine).expect("a new store");
        let map = map_of(&store);
        for key in 0..60 {
            map.insert(&key, &vec![key as u8; 5_000]).expect("room");
        }
        store.persist(Durability::Written).expect("written");
        assert_eq!(store.stats().flushes, 0, "nothing is known to be flushed");
        drop(map);
        machine.crash(Some(store), false);
        let store = open(&machine).expect("recovers");
        let before = sorted(&store);
        assert_eq!(before.len(), 60);
        machine.crash(Some(store), true);
        let store = open(&machine).expect("recovers again");
        assert!(sorted(&store) == before, "recovered, reported, and then lost");
    }
}

#[test]
fn files_that_no_life_uses_do_not_pile_up() {
    let mut machine = Machine::new(3);
    let mut most = 0;
    for opening in 0..12 {
        let store = machine.open(2).expect("opens");
        map_of(&store).insert(&opening, b"v").expect("room");
        match opening % 3 {
            0 => store.close().expect("closed"),
            n => machine.crash(Some(store), n == 1),
        }
        let files = machine.disk.list().expect("a directory").len();
        most = most.max(files);
    }
    // Two copies of the manifest, at most one used chunk for each opening, and one life's stock.
    assert!(most <= 2 + 12 + 10, "{most} files");
    let store = machine.open(1).expect("opens");
    store.close().expect("closed");
    let files = machine.disk.list().expect("a directory").len();
    assert!(files <= 2 + 12, "{files} files after a clean close");
}

fn poisoned_by(operation: IoOperation, nth: u64, fault: Fault) {
    let mut machine = Machine::new(11 + nth);
    let store = machine.open(1).expect("a new store");
    let synced = MapOptions::default().durability(Durability::Synced);
    let map: Map<U64, Bytes> = store.map("m", synced).expect("a map");
    machine.disk.set_plan(FaultPlan::default().with(operation, nth, fault));
    let mut acknowledged = 0;
    let error = loop {
        match map.insert(&acknowledged, &acknowledged.to_le_bytes()) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000, "the fault never came");
    };
    assert!(matches!(failure(&error), LogFailure::Poisoned { .. }), "{error}");
    for key in 0..acknowledged {
        assert!(map.contains_key(&key).expect("reads go on"));
    }
    let again = map.insert(&5_000, b"late").expect_err("nothing is acknowledged any more");
    assert!(matches!(failure(&again), LogFailure::Poisoned { .. }), "{again}");
    assert!(map.remove(&0).is_err());
    let persisted = store.persist(Durability::Synced).expect_err("no promise");
    assert!(matches!(persisted, LogFailure::Poisoned { .. }), "{persisted}");
    assert!(store.stats().poisoned.is_some());
    drop(map);
    let closed = store.close().expect_err("not clean");
    assert!(matches!(closed, CloseError::Log(LogFailure::Poisoned { .. })), "{closed}");
    machine.crash(None, true);
    let store = machine.open(1).expect("recovers");
    let map = map_of(&store);
    for key in 0..acknowledged {
        let value = map.get_owned(&key).expect("ok");
        assert_eq!(value.as_deref(), Some(&key.to_le_bytes()[..]), "{operation:?} {nth}");
    }
}

#[test]
fn a_failed_write_or_flush_acknowledges_nothing_more() {
    for nth in [0, 1, 2, 9] {
        poisoned_by(IoOperation::Write, nth, Fault::Errno(libc::EIO));
        poisoned_by(IoOperation::Flush, nth, Fault::Errno(libc::EIO));
        poisoned_by(IoOperation::Flush, nth, Fault::FlushLosesData);
    }
}

#[test]
fn a_put_that_waits_for_room_is_told_of_the_poison_soon() {
    let machine = Machine::new(5);
    let store = machine.builder().writers(1).buffers_per_writer(2).open("/s").expect("a new store");
    let map = map_of(&store);
    machine.disk.hold();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let putter = scope.spawn(|| {
            (0u64..).find_map(|n| map.insert(&(n % KEYS), &[1; 4_000]).err()).expect("it ends")
        });
        std::thread::sleep(Duration::from_millis(60));
        machine.disk.set_plan(FaultPlan::default().with(
            IoOperation::Write,
            0,
            Fault::Errno(libc::EIO),
        ));
        machine.disk.release();
        let error = putter.join().expect("no panic");
        assert!(matches!(failure(&error), LogFailure::Poisoned { .. }), "{error}");
    });
    assert!(start.elapsed() < Duration::from_secs(5), "it waited for its whole deadline");
}

#[test]
fn two_damaged_copies_of_the_manifest_are_never_taken_for_a_new_store() {
    let mut machine = Machine::new(31);
    let store = machine.open(1).expect("a new store");
    map_of(&store);
    store.close().expect("closed");
    machine.crash(None, false);
    for entry in machine.disk.list().expect("a directory") {
        machine.disk.flip_bit(&entry.name, 50, 3);
    }
    let error = machine.open(1).expect_err("both are damaged");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[test]
fn a_flipped_bit_below_the_known_flushed_mark_is_no_torn_tail() {
    let mut machine = Machine::new(41);
    let store = machine.open(1).expect("a new store");
    let map = map_of(&store);
    for round in 0..6u64 {
        for key in 0..KEYS {
            map.insert(&key, &vec![round as u8; 3_000]).expect("room");
        }
        store.persist(Durability::Synced).expect("synced");
    }
    drop(map);
    machine.crash(Some(store), true);
    let names: Vec<String> =
        machine.disk.list().expect("a directory").into_iter().map(|entry| entry.name).collect();
    let first = names.iter().find(|name| name.starts_with("chunk-")).expect("a chunk").clone();
    machine.disk.flip_bit(&first, 4096 + 64 + 700, 5);
    let error = machine.open(1).expect_err("corruption");
    let OpenError::Corrupt { problems } = &error else { panic!("{error}") };
    assert!(problems.iter().any(|problem| problem.file == first), "{problems:?}");
    machine.crash(None, false);
    let store = machine
        .builder()
        .recovery(RecoveryMode::Salvage)
        .open("/s")
        .expect("what is left, when it is asked for");
    assert_eq!(map_of(&store).len(), KEYS, "later values of all keys are whole");
}
