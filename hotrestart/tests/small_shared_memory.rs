//! Shared memory that is too small: the log buffers go to the directory, said once, and nothing is lost.
//!
//! The small tmpfs is mounted in a mount namespace of its own (`unshare`, from util-linux), in which this
//! test program runs again as a child; so the test needs no rights and leaves nothing behind.

use std::process::Command;

use hotrestart::codec::{Bytes, U64};
use hotrestart::{MapOptions, Store};

const CHILD: &str = "HOTRESTART_SMALL_TMPFS";

#[test]
fn a_tmpfs_that_is_too_small_does_not_lose_buffered_changes() {
    if let Ok(tmpfs) = std::env::var(CHILD) {
        return in_the_namespace(&tmpfs);
    }
    let tmpfs = tempfile::tempdir().expect("a directory");
    let program = std::env::current_exe().expect("this program's path");
    let script = "mount -t tmpfs -o size=1m none \"$1\" && exec \"$2\" --exact --nocapture \"$3\"";
    let name = "a_tmpfs_that_is_too_small_does_not_lose_buffered_changes";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(tmpfs.path())
        .arg(&program)
        .arg(name)
        .env(CHILD, tmpfs.path())
        .output()
        .expect("unshare, from util-linux, is there");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("in the directory"), "{text}");
}

fn in_the_namespace(tmpfs: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || {
        Store::builder()
            .memory_limit_bytes(64 << 20)
            .buffers_dir(tmpfs)
            .open(dir.path())
            .expect("opens")
    };
    let store = open();
    let reason = store.stats().buffers_fallback.expect("the buffers do not fit 1 MiB");
    println!("in the directory, because of {reason}");
    assert_eq!(std::fs::read_dir(tmpfs).expect("the tmpfs").count(), 0, "nothing half-made stays");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for key in 0..5_000 {
        map.insert(&key, &[3; 500]).expect("room");
    }
    drop(map);
    store.abandon();
    let store = open();
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("the map");
    assert_eq!(map.len(), 5_000);
    assert!(
        (0..5_000)
            .all(|key| map.get_with(&key, |value| value == [3; 500]).expect("ok") == Some(true))
    );
}
