//! Power cuts and dying processes while maps are dropped and made again, on the simulated disk, from seeds.
//!
//! Hazards: a dropped map comes back, or with a part of what it held; its records are taken for those of the
//! map that came after it; a drop that failed has taken something. After each crash the map is there with a
//! prefix of its history, or it is gone.

#[path = "power_loss/bench.rs"]
#[allow(dead_code, reason = "the workbench serves the power cuts first")]
mod bench;

use std::sync::atomic::Ordering;

use bench::{Machine, Random, Seed};
use hotrestart::codec::{Bytes, U64};
use hotrestart::hdstore::MapId;
use hotrestart::io::IoOperation;
use hotrestart::io::sim::{Fault, FaultPlan};
use hotrestart::{Durability, Map, MapOptions, Store};

fn named(store: &Store, name: &str) -> Map<U64, Bytes> {
    store.map(name, MapOptions::default()).expect("a map")
}

fn id_of(store: &Store, name: &str) -> Option<MapId> {
    store.memory().maps().into_iter().find(|map| map.0 == name).map(|map| map.1)
}

/// How the writing of a copy of the manifest fails.
fn failure_of_a_copy(random: &mut Random) -> (IoOperation, Fault) {
    match random.below(3) {
        0 => (IoOperation::Write, Fault::Errno(libc::EIO)),
        1 => (IoOperation::Flush, Fault::Errno(libc::EIO)),
        _ => (IoOperation::Flush, Fault::FlushLosesData),
    }
}

/// A key that is put after a drop that failed.
const LATER: u64 = 1 << 40;

/// The value that key `key` gets as the `version`th change of its map.
fn bytes_of(key: u64, version: u64) -> Vec<u8> {
    let len = if version.is_multiple_of(31) { 90_000 } else { 500 };
    let mut bytes = vec![(key ^ version) as u8; len];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes
}

#[test]
fn a_crash_in_the_middle_of_a_drop_leaves_the_whole_map_or_none() {
    let (mut gone, mut kept, mut acknowledged) = (0, 0, 0);
    for seed in 1..=40u64 {
        let _seed = Seed(seed);
        let mut random = Random::new(seed);
        let mut machine = Machine::new(seed);
        let store = machine.open(2).expect("a new store");
        let mut model = Vec::new();
        {
            let (first, other) = (named(&store, "m"), named(&store, "other"));
            for version in 0..60 {
                let key = random.below(20);
                first.insert(&key, &bytes_of(key, version)).expect("room");
                other.insert(&key, b"stays").expect("room");
            }
            for key in 0..20 {
                model.extend(first.get_owned(&key).expect("ok").map(|value| (key, value)));
            }
        }
        store.persist(Durability::Synced).expect("synced");
        let id = id_of(&store, "m").expect("it is there");
        // The manifest's two copies: which call the crash comes at, and what is left of that one.
        let (operation, fault) = failure_of_a_copy(&mut random);
        let nth = random.below(3);
        machine.disk.set_plan(FaultPlan::default().with(operation, nth, fault));
        let dropped = store.drop_map("m");
        // A drop that failed leaves a map in which changes are acknowledged, or nothing is any more.
        let is_acknowledged = dropped.is_err()
            && named(&store, "m").insert(&LATER, b"later").is_ok()
            && store.persist(Durability::Synced).is_ok();
        if is_acknowledged {
            model.push((LATER, b"later".to_vec()));
            acknowledged += 1;
        }
        let power = random.below(2) == 0;
        machine.crash(Some(store), power);
        machine.disk.set_plan(FaultPlan::default());
        let store = machine.open(1 + random.below(2) as u32).expect("recovery");
        match id_of(&store, "m") {
            Some(found) => {
                assert!(
                    !matches!(dropped, Ok(true)),
                    "a drop that was acknowledged came to nothing"
                );
                assert_eq!(found, id);
                let mut found: Vec<_> = named(&store, "m")
                    .iter()
                    .map(|entry| (entry.key().expect("a number"), entry.value_bytes().to_vec()))
                    .collect();
                found.sort();
                found.retain(|(key, _)| is_acknowledged || *key != LATER);
                assert!(found == model, "a part of the map is gone");
                kept += 1;
            }
            None => {
                assert!(!is_acknowledged, "what was acknowledged after a failed drop is gone");
                let again = named(&store, "m");
                assert!(again.is_empty(), "the new map has entries of the old one");
                assert!(id_of(&store, "m").expect("it is there") > id, "a number was given twice");
                again.insert(&1, b"new").expect("room");
                gone += 1;
            }
        }
        assert!(named(&store, "other").len() > 10);
        store.close().expect("a clean close");
        let report = machine.inspect();
        assert!(report.is_sound, "{:#?}", report.problems);
    }
    assert!(gone > 5 && kept > 5 && acknowledged > 5, "{gone}, {kept}, {acknowledged} times");
}

#[test]
fn a_map_whose_making_failed_is_not_there_after_a_crash() {
    let (mut refused, mut poisoned) = (0, 0);
    for seed in 1..=40u64 {
        let _seed = Seed(seed);
        let mut random = Random::new(seed);
        let mut machine = Machine::new(seed);
        let store = machine.open(2).expect("a new store");
        let other = named(&store, "other");
        other.insert(&1, b"stays").expect("room");
        store.persist(Durability::Synced).expect("synced");
        let (operation, fault) = failure_of_a_copy(&mut random);
        // The first copy's call, or the second's.
        machine.disk.set_plan(FaultPlan::default().with(operation, random.below(2), fault));
        let made = store.map::<U64, Bytes>("m", MapOptions::default());
        made.expect_err("a copy of the manifest could not be written");
        let goes_on =
            other.insert(&2, b"stays").is_ok() && store.persist(Durability::Synced).is_ok();
        drop(other);
        machine.crash(Some(store), random.below(2) == 0);
        machine.disk.set_plan(FaultPlan::default());
        let store = machine.open(1).expect("recovery");
        if goes_on {
            assert_eq!(id_of(&store, "m"), None, "a map that was not made");
            assert_eq!(named(&store, "other").len(), 2);
            refused += 1;
        } else {
            assert!(named(&store, "other").get_owned(&1).expect("ok").is_some());
            poisoned += 1;
        }
        store.close().expect("a clean close");
    }
    assert!(refused > 20, "{refused} times refused, {poisoned} times poisoned");
}

#[test]
fn maps_that_come_and_go_are_never_mixed_up_whatever_dies() {
    let (mut judged, mut made_again) = (0, 0);
    for seed in 1..=8u64 {
        let _seed = Seed(seed);
        let mut random = Random::new(seed);
        let mut machine = Machine::new(seed);
        if seed.is_multiple_of(2) {
            machine.disk.set_plan(FaultPlan::unruly());
        }
        let mut highest = 0;
        for crash in 0..5 {
            let store = machine.open(1 + random.below(3) as u32);
            let store = store.unwrap_or_else(|error| panic!("seed {seed}, crash {crash}: {error}"));
            // The generation of a map stands in each of its values.
            for (name, id, _) in store.memory().maps() {
                highest = highest.max(id.0);
                for entry in named(&store, &name).iter() {
                    let found =
                        u32::from_le_bytes(entry.value_bytes()[..4].try_into().expect("four"));
                    assert_eq!(found, id.0, "an entry of map {found} in map {id}");
                    judged += 1;
                }
            }
            for _ in 0..12 {
                let name = format!("m{}", random.below(3));
                let known = id_of(&store, &name);
                let map = named(&store, &name);
                let id = id_of(&store, &name).expect("it was made").0;
                assert!(known.is_some() || id > highest, "number {id} after {highest}");
                made_again += u32::from(known.is_none() && highest > 0);
                highest = highest.max(id);
                for _ in 0..random.below(60) {
                    let mut value = vec![id as u8; 200 + random.below(3_000) as usize];
                    value[..4].copy_from_slice(&id.to_le_bytes());
                    map.insert(&random.below(30), &value).expect("room");
                }
                match random.below(4) {
                    0 => assert!(store.drop_map(&name).expect("dropped")),
                    1 => drop(map.clear().expect("cleared")),
                    2 => store.persist(Durability::Synced).expect("synced"),
                    _ => {}
                }
            }
            machine.crash(Some(store), random.below(2) == 0);
        }
    }
    assert!(
        judged > 100 && made_again > 20,
        "{judged} entries came back, {made_again} maps were new"
    );
}

#[test]
fn a_drop_that_finds_no_space_for_the_manifest_has_taken_nothing() {
    let mut machine = Machine::new(5);
    let store = machine.open(1).expect("a new store");
    let map = named(&store, "m");
    map.insert(&1, b"v").expect("room");
    machine.full_for_small_files.store(1, Ordering::Relaxed);
    store.drop_map("m").expect_err("no space");
    assert_eq!(map.get_owned(&1).expect("it is there").as_deref(), Some(&b"v"[..]));
    map.insert(&2, b"w").expect("room");
    store.persist(Durability::Synced).expect("synced");
    drop(map);
    machine.crash(Some(store), true);
    let store = machine.open(1).expect("recovery");
    assert_eq!(named(&store, "m").len(), 2);
    assert!(store.drop_map("m").expect("there is space again"));
    machine.crash(Some(store), true);
    let store = machine.open(1).expect("recovery");
    assert_eq!(id_of(&store, "m"), None);
}
