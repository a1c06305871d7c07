//! A long value is put together in its own slot: a restart takes the store's memory and its buffers, no
//! copies on the heap. One test alone in its process, since it looks at the process's peak.

use hotrestart::codec::{Bytes, U64};
use hotrestart::{MapOptions, Store};

const MIB: u64 = 1 << 20;

/// A figure of /proc/self/status, in MiB.
fn status_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the kernel tells");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number") / 1024
}

#[test]
fn a_long_value_does_not_lie_on_the_heap_while_a_store_loads() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || {
        let builder = Store::builder().memory_limit_bytes(900 * MIB).streams(1).writers(1);
        builder.loader_threads(2).open(dir.path()).expect("opens")
    };
    let len = 200 * MIB as usize;
    let store = open();
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    map.insert(&1, &vec![7; len]).expect("room");
    drop(map);
    store.abandon();
    let before = status_mib("VmRSS:");
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak starts anew");
    let store = open();
    let grown = status_mib("VmHWM:") - before;
    println!("the peak of opening: {grown} MiB for a value of 200 MiB");
    // The value; seven chunks under way and one held per thread; old and new log buffers; memory ahead.
    assert!(grown < 200 + 7 * 8 + 2 * 8 + 3 * 18 + 64, "{grown} MiB for a value of 200 MiB");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let value = map.get(&1).expect("ok").expect("it is there");
    assert!(value.value_bytes().len() == len && value.value_bytes().iter().all(|byte| *byte == 7));
}
