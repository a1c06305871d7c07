//! A store where io_uring is forbidden, as in most containers: a filter in a child process of the test.
#![allow(unsafe_code, reason = "installs a seccomp filter")]

use std::process::Command;

use hotrestart::codec::{Bytes, U64};
use hotrestart::io::IoErrorClass;
use hotrestart::{Builder, IoChoice, IoKind, MapOptions, OpenError, Store};

const CHILD: &str = "HOTRESTART_TEST_DIRECTORY";

/// Makes `io_uring_setup` fail with EPERM in this process, for ever.
fn forbid_rings() {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut filter = [
        step(LOAD_NUMBER, 0, 0),
        step(JUMP_IF_EQUAL, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the call takes numbers only.
    let no_new_privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(no_new_privileges, 0);
    // SAFETY: the program and its filter live until the call returns, which copies them; the flag makes
    // it hold for all threads of the process.
    let set = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

fn builder() -> Builder {
    Store::builder().memory_limit_bytes(64 << 20).streams(4).chunk_bytes(256 << 10)
}

/// Does nothing unless it runs in the child that the test below starts.
#[test]
fn child_without_rings() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    forbid_rings();
    let error = builder().io(IoChoice::Uring).open(&directory).expect_err("it is forbidden");
    let OpenError::Io(error) = &error else { panic!("{error}") };
    assert!(matches!(error.class, IoErrorClass::Unavailable { .. }), "{error}");
    let store = builder().io(IoChoice::Auto).open(&directory).expect("the other backend works");
    assert_eq!(store.stats().io_used, IoKind::Syscall);
    let reason = store.recovery().uring_refused.clone().expect("it says why");
    assert!(reason.contains("seccomp") || reason.contains("io_uring_disabled"), "{reason}");
    let map: hotrestart::Map<U64, Bytes> = store.map("m", MapOptions::default()).expect("a map");
    for key in 0..500 {
        map.insert(&key, &key.to_le_bytes()).expect("room");
    }
    drop(map);
    store.close().expect("a clean close");
}

#[test]
fn a_process_that_may_not_use_io_uring_runs_on_system_calls_and_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "child_without_rings", "--nocapture"])
        .env(CHILD, directory.path())
        .output()
        .expect("a child process");
    let text = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}{text}", String::from_utf8_lossy(&child.stdout));
    let store = builder().open(directory.path()).expect("any backend reads it");
    let map: hotrestart::Map<U64, Bytes> = store.map("m", MapOptions::default()).expect("the map");
    assert_eq!(map.len(), 500);
}
