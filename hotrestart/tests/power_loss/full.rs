//! A simulated disk without space: puts are refused, removals go on, a close ends, an opening works, and
//! nothing acknowledged is lost.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::bench::{Machine, Seed, map_of};
use crate::failure;
use hotrestart::codec::{Bytes, U64};
use hotrestart::io::Disk;
use hotrestart::{CloseError, Durability, HoldError, LogFailure, Map, OpenError};

fn used_bytes(machine: &Machine) -> u64 {
    machine.disk.list().expect("a directory").iter().map(|entry| entry.len).sum()
}

/// Puts until the disk is full; returns the keys that were acknowledged. On a machine that is busy with other
/// things the writer may not get round to a buffer in time before.
fn fill_up(map: &Map<U64, Bytes>) -> u64 {
    let mut key = 0;
    while key < 4_000 {
        match map.insert(&key, &[3; 2_000]) {
            Ok(()) => key += 1,
            Err(error) => match failure(&error) {
                LogFailure::Busy { .. } => {}
                LogFailure::NoSpace { needed_bytes } => {
                    assert_eq!(*needed_bytes, 256 << 10);
                    return key;
                }
                _ => panic!("{error}"),
            },
        }
    }
    panic!("the disk never got full");
}

#[test]
fn a_full_disk_refuses_puts_takes_removals_and_goes_on_by_itself() {
    let mut machine = Machine::new(21);
    let open = |machine: &Machine| {
        machine.builder().writers(1).put_timeout_ms(150).open("/s").expect("opens")
    };
    let store = open(&machine);
    let map = map_of(&store);
    machine.disk.set_capacity(Some(used_bytes(&machine) + (700 << 10)));
    let full_at = fill_up(&map);
    assert!(store.stats().no_space_bytes == Some(256 << 10) && store.stats().poisoned.is_none());
    assert_eq!(map.get_owned(&full_at).expect("ok"), None, "a refused put changed nothing");
    for key in 0..full_at / 2 {
        assert!(map.remove(&key).expect("removals have a reserve"));
    }
    let soon = Some(Duration::from_secs(5));
    store.persist_within(Durability::Synced, soon).expect("what was taken becomes durable");
    machine.disk.set_capacity(None);
    let start = Instant::now();
    while map.insert(&9_999, b"again").is_err() || store.stats().no_space_bytes.is_some() {
        assert!(start.elapsed() < Duration::from_secs(3), "it did not go on by itself");
    }
    store.persist(Durability::Synced).expect("synced");
    drop(map);
    machine.crash(Some(store), true);
    let store = open(&machine);
    assert_eq!(map_of(&store).len(), full_at - full_at / 2 + 1);
}

#[test]
fn closing_on_a_full_disk_ends_and_loses_nothing() {
    let mut machine = Machine::new(22);
    let open = |machine: &Machine| {
        let builder = machine.builder().writers(1).buffers_per_writer(16).put_timeout_ms(150);
        builder.open("/s").expect("opens")
    };
    let store = open(&machine);
    let map = map_of(&store);
    machine.disk.set_capacity(Some(used_bytes(&machine)));
    machine.disk.hold();
    let mut acknowledged = 0;
    let error = loop {
        match map.insert(&acknowledged, &[3; 2_000]) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(failure(&error), LogFailure::NoSpace { .. }), "{error}");
    // What removals take of the reserve is in the log buffers alone when the close begins.
    machine.disk.release();
    store.persist(Durability::Written).expect("what was taken has its place");
    machine.disk.hold();
    let mut removed = 0;
    while removed < acknowledged && map.remove(&removed).is_ok() {
        removed += 1;
    }
    assert!(removed > 0, "nothing was under way");
    assert!(store.stats().no_space_bytes.is_some(), "the disk is not full");
    machine.disk.release();
    drop(map);
    let start = Instant::now();
    let closed = store.close();
    assert!(start.elapsed() < Duration::from_secs(5), "it hung");
    if let Err(error) = &closed {
        assert!(matches!(error, CloseError::Log(LogFailure::NoSpace { .. })), "{error}");
    }
    machine.disk.set_capacity(None);
    machine.crash(None, false);
    let store = open(&machine);
    assert_eq!(store.recovery().was_clean, closed.is_ok());
    assert_eq!(map_of(&store).len(), acknowledged - removed);
}

#[test]
fn a_store_that_died_on_a_full_disk_opens_on_the_full_disk() {
    let (mut opened_full, mut logged_all_again) = (0, 0);
    for seed in 50..54 {
        let _seed = Seed(seed);
        let mut machine = Machine::new(seed);
        let open = |machine: &Machine| {
            machine
                .builder()
                .writers(1)
                .put_timeout_ms(150)
                .ack_timeout_ms(2_000)
                // What lies in the buffers when the process dies is not on its way to the device.
                .write_interval_ms(60_000)
                .open("/s")
        };
        let store = open(&machine).expect("a new store");
        let map = map_of(&store);
        machine.disk.set_capacity(Some(used_bytes(&machine) + (600 << 10)));
        let full_at = fill_up(&map);
        // In the log buffers alone, too, is something when the process dies.
        machine.disk.hold();
        let mut removed = 0;
        while removed < 100 && map.remove(&removed).is_ok() {
            removed += 1;
        }
        assert!(removed > 0, "nothing is in the log buffers alone");
        drop(map);
        machine.crash(Some(store), false);
        let opened = open(&machine);
        if seed % 2 == 0 {
            // What the buffers hold may need more than the disk has; then it is said, and nothing is lost.
            match opened {
                Ok(store) => {
                    assert_eq!(map_of(&store).len(), full_at - removed);
                    // A write that was on its way when the process died, since compaction asked for it, may
                    // have reached the device.
                    opened_full += 1;
                    logged_all_again += u64::from(store.recovery().relogged >= removed);
                }
                Err(error) => {
                    assert!(matches!(error, OpenError::Log(LogFailure::NoSpace { .. })), "{error}")
                }
            }
            continue;
        }
        if let Ok(store) = opened {
            store.abandon();
        }
        machine.disk.set_capacity(None);
        machine.crash(None, false);
        let store = open(&machine).expect("with space it opens");
        assert_eq!(map_of(&store).len(), full_at - removed);
    }
    assert!(opened_full == 0 || logged_all_again > 0, "what the buffers held was logged again");
}

/// As on file systems that copy on write: one copy of the manifest says the change, the other finds no space.
#[test]
fn a_hold_or_a_release_that_finds_no_space_for_one_copy_of_the_manifest_has_changed_nothing() {
    let second_copy = 1 << 16 | 1;
    let mut machine = Machine::new(23);
    let store = machine.open(1).expect("a new store");
    map_of(&store).insert(&1, b"v").expect("room");
    machine.full_for_small_files.store(second_copy, Ordering::Relaxed);
    let error = store.hold().expect_err("no space");
    assert!(matches!(error, HoldError::Manifest { .. }), "{error}");
    assert_eq!(machine.full_for_small_files.load(Ordering::Relaxed), 0, "it never found no space");
    assert!(store.holds().is_empty() && store.stats().poisoned.is_none());
    machine.crash(Some(store), true);
    let store = machine.open(1).expect("opens");
    assert_eq!(store.holds(), [], "nobody was told of this hold");
    map_of(&store).insert(&2, b"w").expect("room");
    let hold = store.hold().expect("there is space");
    let held = store.holds();
    machine.full_for_small_files.store(second_copy, Ordering::Relaxed);
    store.release(hold.id()).expect_err("no space");
    assert_eq!(machine.full_for_small_files.load(Ordering::Relaxed), 0, "it never found no space");
    assert_eq!(store.holds(), held);
    machine.crash(Some(store), true);
    let store = machine.open(1).expect("opens");
    assert_eq!(store.holds(), held, "it was not released");
    assert!(store.release(hold.id()).expect("there is space"));
}
