//! A process that forks while a store is open: the child must not get at what the parent's store writes.
//!
//! Log buffers are shared memory. A child that put something would take room and stamps that the parent
//! gives again, and after a restart there would be entries that the parent never made. So the buffers are
//! no part of the child: a change there ends the child, and reading its copy of memory goes on.
#![allow(unsafe_code, reason = "fork, and the end of the child")]

use std::time::{Duration, Instant};

use hotrestart::codec::{Bytes, U64};
use hotrestart::{Map, MapOptions, Store};

fn open(dir: &std::path::Path) -> Store {
    Store::builder()
        .memory_limit_bytes(64 << 20)
        .streams(2)
        .chunk_bytes(256 << 10)
        .writers(1)
        .open(dir)
        .expect("opens")
}

fn map_of(store: &Store) -> Map<U64, Bytes> {
    store.map("m", MapOptions::default()).expect("a map")
}

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Exited(i32),
    Killed(i32),
}

/// Runs `act` in a forked child, which exits with its result.
fn in_a_child(act: impl FnOnce() -> i32) -> Ended {
    // SAFETY: the child runs `act` and ends by `_exit`; it takes no lock that another thread of this test
    // may hold, since none of them allocates or prints for ever.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        let code = act();
        // SAFETY: ends this process without its destructors, which are the parent's business.
        unsafe { libc::_exit(code) };
    }
    let start = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: the status outlives the call, and the child is ours.
        let waited = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };
        if waited == child {
            return match libc::WIFSIGNALED(status) {
                true => Ended::Killed(libc::WTERMSIG(status)),
                false => Ended::Exited(libc::WEXITSTATUS(status)),
            };
        }
        if start.elapsed() > Duration::from_secs(30) {
            // SAFETY: the child is ours and has not been waited for.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_forked_child_that_changes_the_store_is_ended_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let map = map_of(&store);
    for key in 0..100 {
        map.insert(&key, b"the parent's").expect("room");
    }
    let read = in_a_child(|| match map.get_with(&7, |value| value == b"the parent's") {
        Ok(Some(true)) => 0,
        _ => 1,
    });
    assert_eq!(read, Ended::Exited(0), "a child reads what was there when it was forked");
    let changed = in_a_child(|| match map.insert(&7, b"the child's") {
        Ok(()) => 0,
        Err(_) => 1,
    });
    assert_ne!(changed, Ended::Exited(0), "a child took room in the parent's log");
    for key in 100..200 {
        map.insert(&key, b"the parent's, later").expect("the child is nobody to wait for");
    }
    drop(map);
    store.abandon();
    let store = open(dir.path());
    let map = map_of(&store);
    assert_eq!(map.len(), 200);
    for key in 0..200 {
        let expected: &[u8] = if key < 100 { b"the parent's" } else { b"the parent's, later" };
        assert_eq!(map.get_owned(&key).expect("ok").as_deref(), Some(expected), "key {key}");
    }
}
