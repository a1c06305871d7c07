//! Stores on a real directory: closed, killed, refused, damaged.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use hotrestart::codec::{Bytes, U64};
use hotrestart::format::crc::crc32c;
use hotrestart::{Builder, Durability, IoChoice, MapOptions, OpenError, RecoveryMode, Store};

fn builder() -> Builder {
    Store::builder().memory_limit_bytes(64 << 20).streams(4).chunk_bytes(256 << 10)
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn value(key: u64, version: u64) -> Vec<u8> {
    let len = (key * 37 + version * 11) % 700;
    (0..len).map(|n| (n + key + version) as u8).collect()
}

fn map_of(store: &Store) -> hotrestart::Map<U64, Bytes> {
    store.map("m", MapOptions::default()).expect("a map")
}

/// Overwrites, removes, and returns what must be there.
fn fill(store: &Store, rounds: u64) -> HashMap<u64, Vec<u8>> {
    let map = map_of(store);
    let mut model = HashMap::new();
    for version in 0..rounds {
        for key in 0..300 {
            if (key + version) % 7 == 0 {
                map.remove(&key).expect("removed");
                model.remove(&key);
            } else {
                map.insert(&key, &value(key, version)).expect("room");
                model.insert(key, value(key, version));
            }
        }
    }
    model
}

fn contents(store: &Store) -> HashMap<u64, Vec<u8>> {
    let map = map_of(store);
    map.iter().map(|entry| (entry.key().expect("a number"), entry.value_bytes().to_vec())).collect()
}

fn backends() -> [IoChoice; 2] {
    [IoChoice::Uring, IoChoice::Syscall]
}

#[test]
fn everything_is_back_after_a_clean_close_with_other_writers_and_threads() {
    for io in backends() {
        let dir = dir();
        let store = builder().io(io).writers(3).open(dir.path()).expect("a new store");
        let model = fill(&store, 12);
        store.close().expect("a clean close");
        for (writers, threads) in [(1, 1), (2, 5)] {
            let reopened =
                builder().io(io).writers(writers).loader_threads(threads).open(dir.path());
            let store = reopened.expect("a clean store");
            assert!(store.recovery().was_clean && store.recovery().problems.is_empty());
            assert_eq!(contents(&store), model);
            store.close().expect("a clean close");
        }
    }
}

#[test]
fn a_process_that_dies_loses_nothing_that_was_buffered() {
    for io in backends() {
        let dir = dir();
        let mut model = HashMap::new();
        for crash in 0..4 {
            let store = builder().io(io).writers(1 + crash % 2).open(dir.path()).expect("recovers");
            assert_eq!(contents(&store), model, "after crash {crash}");
            let relogged = store.recovery().relogged;
            assert!(crash == 0 || relogged > 0, "crash {crash}: nothing was buffered alone");
            let filled = fill(&store, 3 + u64::from(crash) * 5);
            model = filled;
            store.abandon();
        }
        let store = builder().io(io).open(dir.path()).expect("recovers");
        assert!(!store.recovery().was_clean);
        assert_eq!(contents(&store), model);
        store.close().expect("a clean close");
        let store = builder().io(io).open(dir.path()).expect("opens");
        assert_eq!(
            contents(&store),
            model,
            "what was logged again is there without the old buffers"
        );
    }
}

#[test]
fn durabilities_are_reached_and_waiters_may_go_away() {
    for io in backends() {
        let dir = dir();
        let store = builder().io(io).open(dir.path()).expect("a new store");
        let synced = MapOptions::default().durability(Durability::Synced);
        let map: hotrestart::Map<U64, Bytes> = store.map("synced", synced).expect("a map");
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let map = &map;
                scope.spawn(move || {
                    for n in 0..30 {
                        map.insert(&(thread * 100 + n), b"v").expect("synced");
                    }
                });
            }
        });
        let stats = store.stats();
        assert!(
            stats.flushes >= 1 && stats.flushes <= 240,
            "group commit: {} flushes",
            stats.flushes
        );
        let safe: u64 = (0..4)
            .map(|stream| store.durable_through(hotrestart::hdstore::StreamId(stream)).0)
            .sum();
        assert_eq!(safe, 120);
        map_of(&store).insert(&1, b"buffered").expect("room");
        drop(store.persisted(Durability::Synced));
        store.persist_within(Durability::Written, Some(Duration::from_secs(10))).expect("written");
        store.persist(Durability::Synced).expect("synced");
        store.close().expect("a clean close");
    }
}

#[test]
fn long_values_and_empty_ones_survive_in_parts() {
    let dir = dir();
    let open = || builder().memory_limit_bytes(256 << 20).open(dir.path());
    let store = open().expect("a new store");
    let map = map_of(&store);
    let lens = [0, 1, 50_000, 57_000, 60_000, 65_536, 300_000, 5_000_001];
    for (key, len) in lens.into_iter().enumerate() {
        let value: Vec<u8> = (0..len).map(|n| (n / 251 + n + key) as u8).collect();
        map.insert(&(key as u64), &value).expect("room");
    }
    let model = contents(&store);
    drop(map);
    store.abandon();
    let store = open().expect("recovers");
    assert!(contents(&store) == model, "after a crash");
    store.close().expect("a clean close");
    let store = open().expect("opens");
    assert!(contents(&store) == model, "after a clean close");
    let error = map_of(&store)
        .insert(&1, &vec![0; (64 << 20) + 1])
        .expect_err("over a quarter of the limit");
    assert!(error.to_string().contains("67108864"), "{error}");
}

#[test]
fn a_store_is_refused_by_name_of_what_is_wrong() {
    let dir = dir();
    let store = builder().open(dir.path()).expect("a new store");
    fill(&store, 3);
    let locked = builder().open(dir.path()).expect_err("a live process has it");
    assert!(matches!(locked, OpenError::Locked { .. }), "{locked}");
    store.close().expect("a clean close");
    let other = builder().streams(5).open(dir.path()).expect_err("made with 4");
    assert!(
        matches!(other, OpenError::Fixed { name: "streams", expected: 4, found: 5 }),
        "{other}"
    );
    let other =
        builder().chunk_bytes(512 << 10).open(dir.path()).expect_err("made with another size");
    assert!(matches!(other, OpenError::Fixed { expected: 262_144, found: 524_288, .. }), "{other}");

    let foreign = tempfile::tempdir().expect("a directory");
    fs::write(foreign.path().join("letter.txt"), "dear").expect("a file");
    let error = builder().open(foreign.path()).expect_err("not a store");
    assert!(
        matches!(&error, OpenError::NotAStore { found, .. } if found == "letter.txt"),
        "{error}"
    );

    let second = tempfile::tempdir().expect("a directory");
    let store = builder().open(second.path()).expect("a new store");
    fill(&store, 3);
    store.close().expect("a clean close");
    fs::copy(second.path().join("chunk-00000001"), dir.path().join("chunk-00000fff"))
        .expect("a copy");
    let error = builder().open(dir.path()).expect_err("a chunk of another store");
    assert!(
        matches!(&error, OpenError::AnotherStore { file, .. } if file == "chunk-00000fff"),
        "{error}"
    );
    fs::remove_file(dir.path().join("chunk-00000fff")).expect("it is there");

    for name in ["manifest.0", "manifest.1"] {
        let path = second.path().join(name);
        let mut bytes = fs::read(&path).expect("a manifest");
        bytes[8] = 9;
        let len = u64::from_le_bytes(bytes[24..32].try_into().expect("eight bytes")) as usize;
        let crc = {
            bytes[32..36].fill(0);
            crc32c(&bytes[..len])
        };
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        fs::write(&path, bytes).expect("a manifest");
    }
    let error = builder().open(second.path()).expect_err("a newer format");
    assert!(
        matches!(&error, OpenError::NewerFormat { file, .. } if file == "manifest.0"),
        "{error}"
    );
}

#[test]
fn a_memory_limit_smaller_than_the_data_is_refused_before_loading() {
    for clean in [true, false] {
        let dir = dir();
        let big = || Store::builder().memory_limit_bytes(128 << 20).chunk_bytes(256 << 10);
        let store = big().open(dir.path()).expect("a new store");
        let map = map_of(&store);
        for key in 0..40_000 {
            map.insert(&key, &[7; 1_000]).expect("room");
        }
        std::thread::sleep(Duration::from_millis(250));
        for key in 0..2_000 {
            map.insert(&key, &[8; 1_000]).expect("room");
        }
        drop(map);
        if clean {
            store.close().expect("a clean close");
        } else {
            store.abandon();
        }
        let error = big().memory_limit_bytes(32 << 20).open(dir.path()).expect_err("too small");
        let OpenError::MemoryLimit { limit_bytes, needed_bytes } = error else { panic!("{error}") };
        assert!(limit_bytes == 32 << 20 && needed_bytes > 38 << 20, "{needed_bytes}");
        let store = big().open(dir.path()).expect("the refusal changed nothing");
        assert_eq!(map_of(&store).len(), 40_000);
    }
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[offset] ^= 4;
    fs::write(path, bytes).expect("a file");
}

#[test]
fn a_flipped_bit_after_a_clean_close_is_found_with_its_place() {
    let dir = dir();
    // With such a budget nothing is compacted: the first chunk is garbage for the most part.
    let uncompacted = builder().writers(1).disk_budget(1e6);
    let store = uncompacted.open(dir.path()).expect("a new store");
    let model = fill(&store, 20);
    store.close().expect("a clean close");
    let chunk = dir.path().join("chunk-00000001");
    let record_at = 4096 + 64 + 500;
    for (offset, what) in
        [(record_at, "a record"), (4096 + 20, "a block header"), (40, "the chunk header")]
    {
        flip(&chunk, offset);
        let error = builder().open(dir.path()).expect_err(what);
        let OpenError::Corrupt { problems } = &error else { panic!("{what}: {error}") };
        assert!(
            problems.iter().any(|problem| problem.file == "chunk-00000001"),
            "{what}: {problems:?}"
        );
        let salvaged = copy_of(dir.path());
        let store = builder()
            .recovery(RecoveryMode::Salvage)
            .open(salvaged.path())
            .expect("what is left opens");
        assert!(!store.recovery().problems.is_empty(), "{what}");
        assert!(!contents(&store).is_empty(), "{what}");
        drop(store);
        flip(&chunk, offset);
    }
    flip(&dir.path().join("manifest.1"), 70);
    let store = builder().open(dir.path()).expect("one good copy is enough");
    assert_eq!(store.recovery().problems.len(), 1);
    assert_eq!(contents(&store), model);
    store.close().expect("a clean close");
    let store = builder().open(dir.path()).expect("the copy was repaired");
    assert!(store.recovery().problems.is_empty());
}

#[test]
fn bytes_outside_any_valid_block_may_change_unnoticed() {
    let dir = dir();
    let store = builder().writers(1).open(dir.path()).expect("a new store");
    let model = fill(&store, 2);
    store.close().expect("a clean close");
    let chunk = dir.path().join("chunk-00000001");
    let len = fs::metadata(&chunk).expect("a file").len() as usize;
    flip(&chunk, len - 1);
    let store = builder().open(dir.path()).expect("padding does not matter");
    assert_eq!(contents(&store), model);
}

fn copy_of(from: &Path) -> tempfile::TempDir {
    let to = dir();
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.path().join(entry.file_name())).expect("a copy");
    }
    to
}

#[test]
fn lost_log_buffers_are_never_taken_for_a_clean_end() {
    let dir = dir();
    let shared = tempfile::tempdir().expect("a directory");
    let open = || builder().buffers_dir(shared.path());
    let store = open().open(dir.path()).expect("a new store");
    fill(&store, 2);
    store.abandon();
    let name =
        fs::read_dir(shared.path()).expect("a directory").next().expect("a file").expect("a file");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(name.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
    fs::remove_file(name.path()).expect("it is there");
    let error = open().open(dir.path()).expect_err("the buffers are gone");
    assert!(matches!(error, OpenError::BuffersLost { life: 1, .. }), "{error}");
    let store = open().recovery(RecoveryMode::Salvage).open(dir.path()).expect("asked for");
    let problems = &store.recovery().problems;
    assert!(problems.len() == 1 && problems[0].what.contains("life 1"), "{problems:?}");
    store.close().expect("closed");
    open().open(dir.path()).expect("the loss is decided").close().expect("closed");
    assert_eq!(
        fs::read_dir(shared.path()).expect("a directory").count(),
        0,
        "no buffers stay behind"
    );
}

#[test]
fn without_shared_memory_the_buffers_go_to_the_directory_and_still_survive() {
    let dir = dir();
    let open = || builder().buffers_dir("/proc/nonexistent");
    let store = open().open(dir.path()).expect("a new store");
    assert!(
        store.stats().buffers_fallback.is_some_and(|reason| reason.contains("/proc/nonexistent"))
    );
    let model = fill(&store, 5);
    store.abandon();
    let store = open().open(dir.path()).expect("recovers");
    assert_eq!(contents(&store), model);
    assert!(store.recovery().relogged > 0, "nothing was in the buffers alone");
    store.close().expect("closed");
    let buffers = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("buffers-");
    let left =
        fs::read_dir(dir.path()).expect("a directory").filter_map(Result::ok).filter(|_| true);
    assert_eq!(left.map(buffers).filter(|is| *is).count(), 0);
}

#[test]
fn a_directory_that_was_moved_opens_where_it_is() {
    let parent = dir();
    let (before, after) = (parent.path().join("before"), parent.path().join("after"));
    let store = builder().open(&before).expect("a new store");
    let model = fill(&store, 4);
    store.abandon();
    fs::rename(&before, &after).expect("moved");
    let store = builder().open(&after).expect("recovers");
    assert_eq!(contents(&store), model);
}

#[test]
fn orphans_of_dead_stores_are_swept_after_a_day_and_others_are_left_alone() {
    let shared = tempfile::tempdir().expect("a directory");
    let open = |dir: &Path| builder().buffers_dir(shared.path()).open(dir);
    let parent = dir();
    let at = |name: &str| parent.path().join(name);
    open(&at("gone")).expect("a new store").abandon();
    let orphan = fs::read_dir(shared.path()).expect("a directory").next().expect("a file");
    let orphan = orphan.expect("a file").path();
    open(&at("moved")).expect("a new store").abandon();
    open(&at("dead")).expect("a new store").abandon();
    fs::remove_dir_all(at("gone")).expect("removed");
    fs::rename(at("moved"), at("found again")).expect("moved");
    let unlinked = open(&at("alive, but its directory is out of sight")).expect("a new store");
    fs::rename(at("alive, but its directory is out of sight"), at("elsewhere")).expect("moved");

    let swept = |name: &str| {
        let store = open(&at(name)).expect("opens");
        let swept = store.recovery().orphans_swept;
        store.close().expect("closed");
        swept
    };
    assert_eq!(swept("live"), 0, "what is missing may have been moved");
    let day = Duration::from_secs(25 * 60 * 60);
    for entry in fs::read_dir(shared.path()).expect("a directory") {
        let path = entry.expect("a file").path();
        if path == orphan {
            let file = fs::File::open(path).expect("a file");
            file.set_modified(std::time::SystemTime::now() - day).expect("dated back");
        }
    }
    assert_eq!(swept("live"), 1);
    assert!(!orphan.exists());
    assert_eq!(swept("dead") + swept("found again"), 0, "their buffers were there");
    drop(unlinked);
}

#[test]
fn a_closed_store_refuses_changes_and_still_reads() {
    let dir = dir();
    let store = builder().open(dir.path()).expect("a new store");
    let map = map_of(&store);
    map.insert(&1, b"kept").expect("room");
    store.close().expect("closed");
    assert!(map.insert(&2, b"too late").is_err());
    assert_eq!(map.get_owned(&1).expect("ok").as_deref(), Some(&b"kept"[..]));
}
