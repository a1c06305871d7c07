//! Closing beside who makes or drops a map, or changes one: once a close has had the manifest, it is the next
//! opening's, and once a close has failed, so are the log buffers.
//!
//! Hazards: a thread with a clone of the memory store asks whether the store is closed, then waits for the
//! manifest, which the keeper or the compactor has; the close comes first, and the thread writes after it
//! what the manifest said then, over what the next opening may have written meanwhile. A thread that has its
//! room in the log buffers completes its record there when the next opening has read them, and is told that
//! it is kept.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdstore::codec::U64;
use hdstore::{Change, Log, MapId, MapOptions, Seq, StreamId};

use crate::durability::{Durability, LogFailure};
use crate::format::manifest::MANIFEST_NAMES;
use crate::io::sim::SimDisk;
use crate::io::{IoError, IoOperation};
use crate::{CloseError, Store};

#[test]
fn who_waited_for_the_manifest_while_the_store_was_closed_does_not_write_it() {
    let disk = SimDisk::new(1);
    let manifests = || MANIFEST_NAMES.map(|name| disk.content(name));
    let builder = Store::builder().memory_limit_bytes(64 << 20).streams(4).chunk_bytes(256 << 10);
    let builder = builder.simulated(Arc::new(disk.clone()), Default::default(), [1; 16]);
    let store = builder.open("/simulated").expect("a new store");
    let map = |name| store.memory().map::<U64, U64>(name, MapOptions::default()).map(drop);
    map("old").expect("room");
    type Change<'a> = &'a (dyn Fn() -> bool + Sync);
    let makes: Change<'_> = &|| map("new").is_ok();
    let drops: Change<'_> = &|| store.memory().drop_map("old").is_ok();
    for change in [makes, drops] {
        let shared = &store.shared;
        let before = std::thread::scope(|scope| {
            let held = shared.manifests.lock().expect("no panic");
            let changer = scope.spawn(change);
            // Time to come as far as the lock. One that has not is refused all the same.
            std::thread::sleep(Duration::from_millis(100));
            shared.closed.store(true, Ordering::SeqCst);
            let before = manifests();
            drop(held);
            assert!(!changer.join().expect("no panic"), "a map of a closed store");
            before
        });
        assert!(manifests() == before, "the manifest was written after the close");
        shared.closed.store(false, Ordering::SeqCst);
    }
    store.close().expect("a clean close");
}

/// A maker of a map is in its write when the store breaks, and its owner closes it to open it again.
#[test]
fn a_close_that_fails_waits_for_who_writes_the_manifest_before_the_directory_is_let_go() {
    let disk = SimDisk::new(1);
    let builder = Store::builder().memory_limit_bytes(64 << 20).streams(4).chunk_bytes(256 << 10);
    let builder = builder.simulated(Arc::new(disk), Default::default(), [1; 16]);
    let store = builder.open("/simulated").expect("a new store");
    let shared = Arc::clone(&store.shared);
    std::thread::scope(|scope| {
        let writes = shared.manifests.lock().expect("no panic");
        shared.poison.set(IoError::from_errno(IoOperation::Write, "chunk-00000001", libc::EIO));
        let closer = scope.spawn(move || store.close());
        std::thread::sleep(Duration::from_millis(1_000));
        let is_over = closer.is_finished();
        drop(writes);
        assert!(closer.join().expect("no panic").is_err(), "the store is broken");
        assert!(!is_over, "the next opening has the manifest, and so has who writes it");
    });
}

fn is_poisoned(told: Result<(), hdstore::LogError>) -> bool {
    let told = told.expect_err("nobody knows");
    matches!(told.downcast_ref(), Some(LogFailure::Poisoned { .. }))
}

/// They have their rooms, and not yet their streams' locks: the close does not wait for them.
#[test]
fn changes_that_have_room_when_a_close_fails_are_not_acknowledged_afterwards() {
    let builder = Store::builder().memory_limit_bytes(64 << 20).streams(4).chunk_bytes(256 << 10);
    let disk = Arc::new(SimDisk::new(1));
    let builder = builder.simulated(disk, Default::default(), [1; 16]);
    let store = builder.open("/simulated").expect("a new store");
    let (log, shared) = (store.memory.log().clone(), Arc::clone(&store.shared));
    let (map, stream) = (MapId(1), StreamId(0));
    let key: &[u8] = b"key";
    let (long, value) = (vec![7; 100 << 10], b"value");
    let entry = Change::Entry { key, value, expiry_ms: None };
    let in_parts = Change::Entry { key, value: &long, expiry_ms: None };
    let changes = [entry, in_parts, Change::Absence { key }, Change::Clear];
    let rooms = changes.map(|change| {
        let mut room = log.reserve(map, stream, change).expect("room");
        log.write(&mut room, change);
        room
    });
    let group = [(map, entry), (map, Change::Absence { key: b"other" })];
    let mut of_group = log.reserve_group(stream, &group).expect("room");
    shared.poison.set(IoError::from_errno(IoOperation::Flush, "chunk-00000001", libc::EIO));
    let closed = store.close().expect_err("the store is broken");
    assert!(matches!(closed, CloseError::Log(LogFailure::Poisoned { .. })), "{closed}");
    for (seq, room) in (1..).zip(rooms) {
        let ticket = log.commit(room, Seq(seq));
        assert!(is_poisoned(log.settle(ticket, Durability::Buffered)), "change {seq}");
    }
    let ticket = log.commit_group(&mut of_group, &[Some(Seq(9)), Some(Seq(10))]);
    assert!(is_poisoned(log.settle(ticket, Durability::Buffered)), "the group");
}

/// As of a process that died at that moment, in which nobody is told anything.
#[test]
fn a_change_that_has_room_when_its_store_is_abandoned_is_not_acknowledged() {
    let builder = Store::builder().memory_limit_bytes(64 << 20).streams(4).chunk_bytes(256 << 10);
    let disk = Arc::new(SimDisk::new(1));
    let builder = builder.simulated(disk, Default::default(), [1; 16]);
    let store = builder.open("/simulated").expect("a new store");
    let log = store.memory.log().clone();
    let change = Change::Absence { key: b"key" };
    let mut room = log.reserve(MapId(1), StreamId(0), change).expect("room");
    log.write(&mut room, change);
    store.abandon();
    let ticket = log.commit(room, Seq(1));
    assert!(is_poisoned(log.settle(ticket, Durability::Buffered)));
}
