//! `inspect` on stores whose process died: it shows what an opening would give, and says where it is.

use std::path::Path;
use std::process::Command;

use hotrestart::codec::{Bytes, U64};
use hotrestart::inspect::{Options, Report, check};
use hotrestart::{Builder, Durability, MapOptions, OpenError, Store};

fn builder(shared: &Path) -> Builder {
    Store::builder()
        .memory_limit_bytes(64 << 20)
        .streams(4)
        .chunk_bytes(256 << 10)
        .buffers_dir(shared)
}

fn inspect(dir: &Path, shared: &Path) -> Report {
    let options = Options { buffers_dir: shared.to_owned(), ..Options::default() };
    check(dir, &options).expect("it is a store")
}

/// Overwrites, removals, values in parts; `round` makes each one's bytes its own.
fn change(store: &Store, round: u64) {
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for key in 0..120 {
        match (key + round) % 11 {
            0 => drop(map.remove(&key).expect("room")),
            1 if key < 12 => map.insert(&key, &vec![round as u8; 150_000]).expect("room"),
            _ => map.insert(&key, &vec![round as u8; 900]).expect("room"),
        }
    }
}

#[test]
fn inspect_counts_what_an_opening_finds_wherever_the_records_are() {
    let shared = tempfile::tempdir().expect("a directory");
    let mut buffered = 0;
    for (round, fallback) in (1..9).zip([false, true].into_iter().cycle()) {
        let dir = tempfile::tempdir().expect("a directory");
        let buffers = if fallback { Path::new("/proc/nonexistent") } else { shared.path() };
        for crash in 0..3 {
            let store = builder(buffers).writers(1 + crash % 2).open(dir.path()).expect("opens");
            for changes in 0..=(round + u64::from(crash)) % 4 {
                change(&store, round + changes);
            }
            if crash == 1 {
                store.persist(Durability::Written).expect("written");
            }
            store.abandon();
            let report = inspect(dir.path(), buffers);
            assert!(report.is_sound, "{:?}", report.problems);
            let totals = report.totals;
            buffered += totals.buffered_records;
            let store = builder(buffers).open(dir.path()).expect("opens");
            assert_eq!(totals.entries, store.recovery().entries, "round {round}, crash {crash}");
            assert_eq!(report.maps[0].entries, totals.entries);
            let stats = store.stats().memory;
            assert_eq!(totals.entry_bytes, stats.live_bytes, "round {round}, crash {crash}");
            store.abandon();
            assert_eq!(inspect(dir.path(), buffers).totals.entries, totals.entries);
        }
    }
    assert!(buffered > 100, "only {buffered} records were in log buffers alone");
}

#[test]
fn lost_log_buffers_are_corruption_offline_as_they_are_at_an_opening() {
    let (dir, shared) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("another"));
    let store = builder(shared.path()).open(dir.path()).expect("a new store");
    change(&store, 1);
    store.abandon();
    let elsewhere = tempfile::tempdir().expect("a third");
    let report = inspect(dir.path(), elsewhere.path());
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(report.problems[0].expected.contains("the log buffers of life 1"));
    let error = builder(elsewhere.path()).open(dir.path()).expect_err("they are not there");
    assert!(matches!(error, OpenError::BuffersLost { .. }), "{error}");
    assert!(inspect(dir.path(), shared.path()).is_sound);
}

#[test]
fn each_command_shows_the_records_of_a_dead_process_and_says_where_they_are() {
    let (dir, shared) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("another"));
    let store = builder(shared.path())
        .write_interval_ms(3_600_000)
        .flush_interval_ms(3_600_000)
        .open(dir.path())
        .expect("a new store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    map.insert(&7, b"only in memory").expect("room");
    drop(map);
    store.abandon();
    let run = |command: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_hotrestart-inspect"));
        program.arg(command).arg(dir.path()).arg("--buffers").arg(shared.path());
        let output = program.output().expect("the program was built");
        assert_eq!(output.status.code(), Some(0), "{command}: {output:?}");
        String::from_utf8(output.stdout).expect("it is UTF-8")
    };
    for command in ["check", "list"] {
        let text = run(command);
        assert!(text.contains("1 entry of 22 bytes") && text.contains("in 1 record in"), "{text}");
        assert!(text.contains("1 record of these only in the log buffers"), "{text}");
    }
    let dumped = run("dump");
    assert!(dumped.starts_with("log buffers:") && dumped.contains("only in memory"), "{dumped}");
}
