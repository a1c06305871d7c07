//! Closing beside who makes or drops a map: once a close has had the manifest, it is the next opening's.
//!
//! Hazard: a thread with a clone of the memory store asks whether the store is closed, then waits for the
//! manifest, which the keeper or the compactor has; the close comes first, and the thread writes after it
//! what the manifest said then, over what the next opening may have written meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdstore::MapOptions;
use hdstore::codec::U64;

use crate::Store;
use crate::format::manifest::MANIFEST_NAMES;
use crate::io::sim::SimDisk;
use crate::io::{IoError, IoOperation};

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
