//! What the machinery found, each once more by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hotrestart::codec::{Bytes, U64};
use hotrestart::format::manifest::MANIFEST_NAMES;
use hotrestart::format::{ChunkHeader, ChunkOrigin, ChunkWalk, RecordKind, Records, Walked};
use hotrestart::io::sim::{Fault, FaultPlan};
use hotrestart::io::{Disk, IoErrorClass, IoOperation};
use hotrestart::{Durability, Hold, HoldError, Map, MapOptions, OpenError, Stepper, Store};

use crate::world::{BEGIN_MS, End, World};

fn open(world: &World) -> (Stepper, Store, Map<U64, Bytes>) {
    let mut stepper = world.stepper(1);
    let store = world.open(&mut stepper, 1, 1).expect("it opens");
    let map = store.map("m", MapOptions::default()).expect("a map");
    (stepper, store, map)
}

fn step_until(stepper: &mut Stepper, what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if is_so() {
            return;
        }
        stepper.step();
    }
    panic!("it never came to this: {what}");
}

#[test]
fn a_sweep_that_was_refused_in_the_last_stream_goes_on_where_there_is_something() {
    let world = World::new(1);
    let (mut stepper, store, map) = open(&world);
    for key in 0..64 {
        map.insert_expiring(&key, b"for a while", BEGIN_MS + 1).expect("room");
    }
    let fault = Fault::Errno(libc::EIO);
    world.disk.set_plan(FaultPlan::default().with(IoOperation::Write, 0, fault));
    step_until(&mut stepper, "poison", || store.stats().poisoned.is_some());
    // Each gets one entry farther, through all streams and round again.
    let mut refused = 0;
    for _ in 0..200 {
        let swept = store.memory().sweep(world.now_ms() + 10, u64::MAX / 2);
        refused += u32::from(swept.is_err());
        assert!(swept.is_err() || swept.is_ok_and(|report| report.removed == 0));
    }
    assert_eq!(store.stats().memory.entries, 64);
    assert!(refused > 100, "only {refused} were refused");
}

#[test]
fn what_the_last_flush_of_a_close_dropped_is_missed_when_the_process_dies() {
    let world = World::new(1);
    let (mut stepper, store, map) = open(&world);
    map.insert(&1, &vec![1; 3_000]).expect("room");
    step_until(&mut stepper, "a mark", || {
        (0..4).any(|stream| store.durable_through(hotrestart::hdstore::StreamId(stream)).0 > 0)
    });
    map.insert(&2, &vec![2; 3_000]).expect("room");
    drop(map);
    let plan = FaultPlan::default().with(IoOperation::Flush, 0, Fault::FlushLosesData);
    world.disk.set_plan(plan);
    stepper.close(store).expect_err("the last flush fails");
    let next = world.end(End::Process);
    let error = next.open(&mut next.stepper(2), 1, 1).expect_err("something is gone");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[test]
fn what_was_written_and_dropped_by_a_failed_flush_is_missed_when_the_process_dies() {
    let mut missed = 0;
    for flushed_before in 0..6 {
        let world = World::new(flushed_before);
        let (mut stepper, store, map) = open(&world);
        for key in 0..flushed_before {
            map.insert(&key, &vec![1; 3_000]).expect("room");
            step_until(&mut stepper, "a mark", || {
                (0..4).any(|stream| {
                    store.durable_through(hotrestart::hdstore::StreamId(stream)).0 > 0
                })
            });
        }
        world.disk.set_plan(FaultPlan::default().with(
            IoOperation::Flush,
            0,
            Fault::FlushLosesData,
        ));
        map.insert(&100, &vec![2; 3_000]).expect("room");
        let written = store.persist_within(Durability::Written, Some(std::time::Duration::ZERO));
        assert!(written.is_err(), "nobody has taken a turn yet");
        step_until(&mut stepper, "poison", || store.stats().poisoned.is_some());
        // It was acknowledged as written, its buffer was given back, and the device has lost it.
        let next = world.end(End::Process);
        drop(map);
        store.abandon();
        let mut stepper = next.stepper(2);
        match next.open(&mut stepper, 1, 1) {
            Err(OpenError::Corrupt { problems }) => {
                assert!(problems[0].what.contains("were on the device"), "{problems:?}");
                missed += 1;
            }
            Err(error) => panic!("{error}"),
            Ok(store) => {
                let map: Map<U64, Bytes> = store.map("m", MapOptions::default()).expect("a map");
                assert!(map.contains_key(&100).expect("reads go on"), "{flushed_before}: gone");
            }
        }
    }
    assert!(missed > 3, "only {missed} of 6 were missed: the flush dropped nothing");
}

#[test]
fn a_quota_that_is_used_up_is_no_space_and_no_poison() {
    let world = World::new(1);
    let (mut stepper, store, map) = open(&world);
    let quota = Fault::Errno(libc::EDQUOT);
    let plan = FaultPlan::default().with(IoOperation::Create, 0, quota);
    world.disk.set_plan(plan.with(IoOperation::Create, 1, quota));
    let is_told = || {
        let _ = map.insert(&1, &vec![1; 40_000]);
        store.stats().no_space_bytes.is_some()
    };
    step_until(&mut stepper, "no space", is_told);
    step_until(&mut stepper, "space", || store.stats().no_space_bytes.is_none());
    assert_eq!(store.stats().poisoned, None);
    let plan = FaultPlan::default().with(IoOperation::Write, 0, quota);
    world.disk.set_plan(plan);
    let error = world.disk.write_small("small", b"more than it has").expect_err("a quota");
    assert!(matches!(error.class, IoErrorClass::NoSpace { .. }), "{error}");
    world.disk.set_plan(FaultPlan::default().with(IoOperation::Write, 1, quota));
    world.disk.write_small("small", b"more than it has").expect("the quota has room again");
    world.disk.write_small("small", b"no more than that").expect_err("one byte more");
    world.disk.write_small("small", b"no more than it").expect("within what it has");
}

#[test]
fn an_opening_removes_nothing_by_a_manifest_that_was_written_and_not_flushed() {
    let world = World::new(1);
    let (mut stepper, store, map) = open(&world);
    let keys = 60;
    let put = |stepper: &mut Stepper, key: u64, fill: u8| {
        while map.insert(&key, &vec![fill; 20_000]).is_err() {
            stepper.step();
        }
    };
    (0..keys).for_each(|key| put(&mut stepper, key, 1));
    (0..500).for_each(|_| stepper.step());
    // The process dies whenever a copy of the manifest is written and not flushed.
    let dead: Arc<Mutex<Vec<World>>> = Arc::default();
    let (of_watcher, before) = (Arc::clone(&dead), world.clone());
    world.disk.watch(move |moment| {
        let next = before.after(moment, End::Process, 1);
        let is_between = MANIFEST_NAMES.iter().any(|name| next.disk.unflushed_writes(name) > 0);
        if is_between {
            of_watcher.lock().expect("nobody panics here").push(next);
        }
    });
    let mut round = 2;
    while store.stats().chunks_freed < 40 {
        (0..keys).for_each(|key| put(&mut stepper, key, round));
        (0..200).for_each(|_| stepper.step());
        round += 1;
    }
    world.disk.unwatch();
    drop(map);
    store.abandon();
    let dead = std::mem::take(&mut *dead.lock().expect("nobody panics here"));
    assert!(dead.len() > 6, "only {} deaths", dead.len());
    let cuts = Arc::new(AtomicU64::new(0));
    for world in dead {
        // And the power goes at any step of the opening after that.
        let (before, count) = (world.clone(), Arc::clone(&cuts));
        world.disk.watch(move |moment| {
            let cut = before.after(moment, End::PowerTakesAll, 1);
            let (_, store, map) = open(&cut);
            assert_eq!(map.len(), keys, "entries are gone");
            store.abandon();
            count.fetch_add(1, Ordering::Relaxed);
        });
        let (_, store, map) = open(&world);
        world.disk.unwatch();
        assert_eq!(map.len(), keys);
        store.abandon();
    }
    assert!(cuts.load(Ordering::Relaxed) > 100, "{cuts:?}");
}

/// Whether a part of a value lies behind a block that is missing.
fn has_parts_beyond_a_gap(world: &World) -> bool {
    let mut by_number = std::collections::BTreeMap::new();
    for entry in world.disk.list().expect("a list") {
        let content = world.disk.content(&entry.name).unwrap_or_default();
        let Ok(header) = ChunkHeader::decode(content.get(..4096).unwrap_or_default()) else {
            continue;
        };
        for walked in ChunkWalk::new(&content, header.binding()) {
            let Walked::Block { header, payload, .. } = walked else { continue };
            let is_part = |record: Result<hotrestart::format::Record<'_>, _>| {
                record.is_ok_and(|record| record.kind == RecordKind::Part)
            };
            by_number.insert(header.number.0, Records::new(payload).any(is_part));
        }
    }
    let gap = (0..).find(|number| !by_number.contains_key(number)).expect("numbers go on");
    by_number.range(gap..).any(|(_, has_part)| *has_part)
}

/// A key and its value.
type Put = (u64, Vec<u8>);

#[test]
fn a_long_value_of_which_parts_lie_beyond_a_missing_block_comes_back_when_the_process_dies() {
    let world = World::new(7);
    let (mut stepper, store, map) = open(&world);
    let done: Arc<Mutex<Vec<Put>>> = Arc::default();
    let dead: Arc<Mutex<Vec<(World, usize)>>> = Arc::default();
    let (of_watcher, so_far, before) = (Arc::clone(&dead), Arc::clone(&done), world.clone());
    let mut seed = 0;
    world.disk.watch(move |moment| {
        seed += 1;
        let next = before.after(moment, End::Process, seed);
        let mut dead = of_watcher.lock().expect("nobody panics here");
        if dead.len() < 60 && has_parts_beyond_a_gap(&next) {
            dead.push((next, so_far.lock().expect("nobody panics here").len()));
        }
    });
    for key in 0..12_u64 {
        let value: Vec<u8> = (0..150_000 + key).map(|at| (at / 100 + key) as u8).collect();
        while map.insert(&key, &value).is_err() {
            (0..20).for_each(|_| stepper.step());
        }
        done.lock().expect("nobody panics here").push((key, value));
    }
    world.disk.unwatch();
    drop(map);
    store.abandon();
    let dead = std::mem::take(&mut *dead.lock().expect("nobody panics here"));
    assert!(dead.len() > 10, "only {} deaths", dead.len());
    let done = done.lock().expect("nobody panics here");
    let mut relogged = 0;
    for (world, acknowledged) in dead {
        let (_, store, map) = open(&world);
        relogged += store.recovery().relogged;
        for (key, value) in &done[..acknowledged] {
            let found = map.get_owned(key).expect("readable");
            assert!(found.as_ref() == Some(value), "key {key} of {acknowledged}");
        }
        // And it is in the log of the life that found it.
        drop(map);
        let next = world.end(End::PowerTakesAll);
        store.abandon();
        let (_, store, map) = open(&next);
        for (key, value) in &done[..acknowledged] {
            let found = map.get_owned(key).expect("readable");
            assert!(found.as_ref() == Some(value), "key {key} of {acknowledged}, later");
        }
        drop(map);
        store.abandon();
    }
    assert!(relogged > 10, "only {relogged} values were beyond what the disk held");
}

/// Whether copies were written behind others of their chunk, and not flushed.
fn has_unflushed_copies(world: &World) -> bool {
    world.disk.list().expect("a list").iter().any(|entry| {
        let content = world.disk.content(&entry.name).unwrap_or_default();
        let header = ChunkHeader::decode(content.get(..4096).unwrap_or_default());
        let is_of_survivors = header.is_ok_and(|header| header.origin == ChunkOrigin::Survivors);
        is_of_survivors && world.disk.unflushed_writes(&entry.name) > 0
    })
}

fn held(stepper: &mut Stepper, store: &Store) -> Hold {
    for _ in 0..20_000 {
        match store.hold() {
            Ok(hold) => return hold,
            Err(HoldError::Busy { .. } | HoldError::Log(_)) => stepper.step(),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing is held");
}

#[test]
fn a_held_chunk_keeps_copies_that_were_written_and_not_flushed_before_the_process_died() {
    let world = World::new(3);
    let (mut stepper, store, map) = open(&world);
    let dead: Arc<Mutex<Vec<World>>> = Arc::default();
    let (of_watcher, before) = (Arc::clone(&dead), world.clone());
    let mut seed = 0;
    world.disk.watch(move |moment| {
        seed += 1;
        let mut dead = of_watcher.lock().expect("nobody panics here");
        if dead.len() < 100 {
            let next = before.after(moment, End::Process, seed);
            dead.extend(has_unflushed_copies(&next).then_some(next));
        }
    });
    let keys = 200;
    let mut round = 1;
    while store.stats().chunks_freed < 40 {
        // Some are put less often, so that there is always something to copy.
        for key in (0..keys).filter(|key| key % round == 0) {
            while map.insert(&key, &vec![round as u8; 6_000]).is_err() {
                stepper.step();
            }
        }
        (0..50).for_each(|_| stepper.step());
        round = round % 7 + 1;
    }
    world.disk.unwatch();
    drop(map);
    store.abandon();
    let dead = std::mem::take(&mut *dead.lock().expect("nobody panics here"));
    assert!(dead.len() > 40, "only {} deaths", dead.len());
    let mut changed = 0;
    for world in dead {
        let (mut stepper, store, map) = open(&world);
        let hold = held(&mut stepper, &store);
        let stable = |world: &World| -> Vec<Vec<u8>> {
            let of = |file: &hotrestart::HeldFile| {
                let content = world.disk.content(&file.name).expect("a held file is there");
                content[..file.stable_bytes as usize].to_vec()
            };
            hold.files().iter().map(of).collect()
        };
        let promised = stable(&world);
        let next = world.end(End::PowerTakesAll);
        drop(map);
        store.abandon();
        changed += usize::from(stable(&next) != promised);
    }
    assert_eq!(changed, 0, "bytes of held chunks changed");
}
