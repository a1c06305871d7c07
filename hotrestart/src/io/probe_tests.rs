//! What the probe does where io_uring is forbidden: a filter as containers have it, on one thread of the
//! test.
#![allow(unsafe_code, reason = "installs a seccomp filter")]

use tempfile::TempDir;

use super::probe::{IoChoice, choose};
use super::{IoErrorClass, IoKind};

/// Makes `io_uring_setup` fail with EPERM on this thread, for as long as it lives.
fn forbid_rings() {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut filter = [
        step(LOAD_NUMBER, 0, 0),
        libc::sock_filter { jf: 1, ..step(JUMP_IF_EQUAL, 0, libc::SYS_io_uring_setup as u32) },
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the call takes numbers only.
    let no_new_privileges = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(no_new_privileges, 0);
    // SAFETY: the program and its filter live until the call returns, which copies them.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn forbidden_io_uring_falls_back_with_a_reason_or_is_an_error_when_demanded() {
    let root = TempDir::new().expect("a directory for the test");
    let path = root.path().to_owned();
    let thread = std::thread::spawn(move || {
        forbid_rings();
        let (disk, report) = choose(&path, IoChoice::Auto).expect("plain system calls work");
        assert_eq!((disk.kind(), report.kind), (IoKind::Syscall, IoKind::Syscall));
        let reason = report.uring_refused.expect("it says why");
        assert!(reason.contains("seccomp") || reason.contains("io_uring_disabled"), "{reason}");
        let error = choose(&path, IoChoice::Uring).expect_err("it is forbidden");
        assert!(matches!(error.class, IoErrorClass::Unavailable { .. }), "{error}");
        let (_, report) = choose(&path, IoChoice::Syscall).expect("plain system calls work");
        assert_eq!(report.uring_refused, None, "nobody asked for it");
    });
    thread.join().expect("the checks hold");
    let (disk, report) = choose(root.path(), IoChoice::Auto).expect("this thread is free");
    assert_eq!((disk.kind(), report.uring_refused), (IoKind::Uring, None));
    assert!(report.uring_flags.is_some());
}
