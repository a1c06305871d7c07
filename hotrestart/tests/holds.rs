//! Holds: chunks stay as they are until they are released.
//!
//! Hazards: a held chunk is compacted, used again or removed, by overwrites, drops, closes, crashes or
//! openings; what is held is no whole state of the store; what was removed comes back since a held chunk
//! still has an older record of it; a hold costs disk without a bound, or for ever; a hold that nobody knows
//! any more is not told.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hotrestart::codec::{Bytes, U64};
use hotrestart::format::ChunkHeader;
use hotrestart::hdstore::ManualClock;
use hotrestart::io::Disk;
use hotrestart::io::sim::SimDisk;
use hotrestart::{
    Builder, Hold, HoldError, IoChoice, LogFailure, Map, MapOptions, OpenError, RecoveryMode,
    SharedRegions, Store,
};

const CHUNK: u64 = 256 << 10;
const KEYS: u64 = 6_000;

fn builder() -> Builder {
    Store::builder().memory_limit_bytes(256 << 20).streams(4).writers(2).chunk_bytes(CHUNK)
}

fn map_of(store: &Store) -> Map<U64, Bytes> {
    store.map("m", MapOptions::default()).expect("a map")
}

fn value(key: u64, version: u64) -> Vec<u8> {
    let mut value = vec![(key ^ version) as u8; 200 + (key % 300) as usize];
    value[..8].copy_from_slice(&version.to_le_bytes());
    value
}

fn version_of(value: &[u8]) -> u64 {
    u64::from_le_bytes(value[..8].try_into().expect("eight bytes"))
}

fn fill(store: &Store, versions: std::ops::Range<u64>) {
    let map = map_of(store);
    for version in versions {
        (0..KEYS).for_each(|key| map.insert(&key, &value(key, version)).expect("room"));
    }
}

/// The stable bytes of everything that is held.
fn held_bytes(dir: &Path, hold: &Hold) -> HashMap<String, Vec<u8>> {
    let bytes = |name: &str, len: u64| {
        let mut bytes = std::fs::read(dir.join(name)).expect("a held file is there");
        bytes.truncate(len as usize);
        bytes
    };
    let files = hold.files().iter();
    files.map(|file| (file.name.clone(), bytes(&file.name, file.stable_bytes))).collect()
}

fn freed(store: &Store) -> u64 {
    store.stats().chunks_freed
}

/// Makes a store of what is held.
fn copy_of(dir: &Path, hold: &Hold) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for (name, mut bytes) in held_bytes(dir, hold) {
        bytes.resize(CHUNK as usize, 0);
        std::fs::write(copy.path().join(name), bytes).expect("written");
    }
    let (name, manifest) = hold.manifest();
    std::fs::write(copy.path().join(name), manifest).expect("written");
    copy
}

#[test]
fn held_chunks_keep_their_bytes_through_overwrites_drops_closes_and_crashes() {
    for io in [IoChoice::Uring, IoChoice::Syscall] {
        let dir = tempfile::tempdir().expect("a directory");
        let builder = || builder().io(io);
        let mut store = builder().open(dir.path()).expect("a new store");
        fill(&store, 0..2);
        let hold = store.hold().expect("held");
        let before = held_bytes(dir.path(), &hold);
        let bytes: usize = before.values().map(Vec::len).sum();
        assert!(bytes as u64 > KEYS * 300, "{bytes} bytes hold less than there was");
        let mut all_freed = 0;
        for round in 0..5 {
            fill(&store, 2..8);
            if round == 2 {
                assert!(store.drop_map("m").expect("dropped"));
                fill(&store, 0..2);
            }
            all_freed += freed(&store);
            if round % 2 == 0 {
                store.abandon();
            } else {
                store.close().expect("a clean close");
            }
            assert!(before == held_bytes(dir.path(), &hold), "round {round}: held bytes changed");
            store = builder().open(dir.path()).expect("opens");
            let listed = &store.recovery().holds;
            assert_eq!(listed.iter().map(|hold| hold.id).collect::<Vec<_>>(), [hold.id()]);
            assert!(before == held_bytes(dir.path(), &hold), "round {round}: an opening's fault");
        }
        assert!(all_freed > 200, "only {all_freed} chunks were freed: nothing was at stake");
        let stats = store.stats();
        assert_eq!(stats.held_bytes, before.len() as u64 * CHUNK);
        assert_eq!((stats.compaction_stopped, stats.holds.len()), (None, 1));

        assert!(store.release(hold.id()).expect("released"));
        assert!(!store.release(hold.id()).expect("there is none"));
        let next = store.hold().expect("held");
        assert!(next.id() > hold.id(), "an id is never used again");
        assert!(store.release(next.id()).expect("released"));
        fill(&store, 8..16);
        let is_gone = |name: &String| {
            std::fs::read(dir.path().join(name)).map_or(true, |bytes| bytes != before[name])
        };
        let gone = before.keys().filter(|name| is_gone(name)).count();
        assert!(gone > before.len() / 2, "only {gone} of {} were compacted", before.len());
        store.close().expect("a clean close");
    }
}

/// Tells another thread of the end of this one's work.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_held_is_a_store_with_all_that_was_acknowledged_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().open(dir.path()).expect("a new store");
    fill(&store, 1..4);
    let map = map_of(&store);
    let (done, acked) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut judged = 0;
    std::thread::scope(|scope| {
        // Also when this thread panics: else the other one would put for ever.
        let end = End(&done);
        scope.spawn(|| {
            for version in 10.. {
                for key in 0..KEYS {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    map.insert(&key, &value(key, version)).expect("room");
                    acked.store(version * KEYS + key, Ordering::Release);
                }
            }
        });
        for round in 0..6 {
            std::thread::sleep(Duration::from_millis(40));
            let before = acked.load(Ordering::Acquire);
            assert!(before > 0, "round {round}: nothing was put yet");
            let hold = store.hold().unwrap_or_else(|error| panic!("round {round}: {error}"));
            std::thread::sleep(Duration::from_millis(20));
            let copy = copy_of(dir.path(), &hold);
            let copied = builder().open(copy.path()).expect("what is held is a store");
            assert_eq!(copied.recovery().problems, []);
            let found = map_of(&copied);
            assert_eq!(found.len(), KEYS);
            for key in 0..KEYS {
                let found = found.get_owned(&key).expect("ok").expect("every key is there");
                let version = version_of(&found);
                assert!(found == value(key, version), "{key}: not what was put");
                // The version that the key had when the call began, or a later one.
                let least = if key <= before % KEYS { before / KEYS } else { before / KEYS - 1 };
                assert!(least < 10 || version >= least, "{key}: {version}, {least}");
                judged += u64::from(least >= 10);
            }
            copied.close().expect("and it can be used");
            if round % 2 == 0 {
                assert!(store.release(hold.id()).expect("released"));
            }
        }
        drop(end);
    });
    assert_eq!(store.holds().len(), 3);
    assert!(judged > KEYS, "{judged} versions of a key were acknowledged before their hold");
    assert!(freed(&store) > 20, "compaction was not at stake");
}

#[test]
fn what_was_removed_stays_so_while_an_older_record_of_it_is_held() {
    let dir = tempfile::tempdir().expect("a directory");
    let builder = || builder().streams(1).writers(1);
    let store = builder().open(dir.path()).expect("a new store");
    let map = map_of(&store);
    let doomed = 100_000..140_000_u64;
    for key in doomed.clone() {
        map.insert(&key, &value(key % 16, 1)).expect("room");
    }
    let hold = store.hold().expect("held");
    doomed.clone().for_each(|key| assert!(map.remove(&key).expect("room")));
    // Facts are a large part of what there is, so that it is found out again and again which may go.
    for version in 1..60 {
        (0..2_000).for_each(|key| map.insert(&key, &value(key, version)).expect("room"));
    }
    assert!(freed(&store) > 30, "compaction was not at stake");
    drop(map);
    store.abandon();
    let store = builder().open(dir.path()).expect("opens");
    let map = map_of(&store);
    assert_eq!(map.len(), 2_000, "what was removed is back");
    assert!(store.release(hold.id()).expect("released"));
    for version in 60..90 {
        (0..2_000).for_each(|key| map.insert(&key, &value(key, version)).expect("room"));
    }
    assert!(freed(&store) > 30, "compaction was not at stake after the release");
    drop(map);
    store.abandon();
    let store = builder().open(dir.path()).expect("opens");
    assert_eq!(map_of(&store).len(), 2_000, "what was removed is back after the release");
}

#[test]
fn a_long_hold_costs_what_it_holds_and_nothing_after_its_release() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().open(dir.path()).expect("a new store");
    let map = map_of(&store);
    let keys = 60_000_u64;
    let overwrite = |version: u64| {
        (0..keys).for_each(|key| map.insert(&key, &value(key, version)).expect("room"));
        let stats = store.stats();
        // Beside the budget there are files for one compaction and for what the log buffers hold.
        let bound = stats.disk_budget_bytes + 24 * CHUNK;
        assert!(stats.allocated_bytes <= bound, "{} of {bound}", stats.allocated_bytes);
        stats
    };
    let before = overwrite(1);
    let hold = store.hold().expect("held");
    let held = store.stats().held_bytes;
    assert!(held > keys * 300);
    let mut highest = 0;
    for version in 2..14 {
        highest = highest.max(overwrite(version).allocated_bytes);
    }
    assert_eq!(store.stats().held_bytes, held);
    let budget = before.disk_budget_bytes.max(store.stats().disk_budget_bytes - held);
    assert!(highest > budget, "{highest} of {budget}: the hold was not at stake");
    assert!(store.release(hold.id()).expect("released"));
    let start = Instant::now();
    let mut version = 14;
    while store.stats().allocated_bytes > budget + 24 * CHUNK {
        assert!(start.elapsed() < Duration::from_secs(60), "{:#?}", store.stats());
        overwrite(version);
        version += 1;
    }
}

/// A store on a simulated disk, with threads.
fn simulated(disk: &SimDisk) -> Builder {
    let regions = SharedRegions::default();
    let clock = ManualClock::new(1_000_000);
    let disk: std::sync::Arc<dyn Disk> = std::sync::Arc::new(disk.clone());
    builder().put_timeout_ms(300).clock(clock).simulated(disk, regions, [1; 16])
}

fn used(disk: &SimDisk) -> u64 {
    disk.list().iter().flatten().map(|entry| entry.len).sum()
}

#[test]
fn on_a_full_disk_a_hold_ends_overwrites_by_name_and_its_release_brings_them_back() {
    let disk = SimDisk::new(1);
    let store = simulated(&disk).disk_budget(1_000.0).open("/simulated").expect("a new store");
    let (map, keys) = (map_of(&store), 6 * KEYS);
    (0..keys).for_each(|key| map.insert(&key, &value(key, 1)).expect("room"));
    let hold = store.hold().expect("held");
    // What is live has no room beside what is held.
    disk.set_capacity(Some(used(&disk)));
    let overwrite =
        |keys: u64| (0..keys).try_for_each(|key| map.insert(&key, &value(key, 4))).err();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < Duration::from_secs(60), "it is never told what is missing");
        let error = overwrite(keys).expect("what is held is not given up for puts");
        let hotrestart::Error::Log(source) = &error else { panic!("{error}") };
        match source.downcast_ref::<LogFailure>() {
            Some(LogFailure::NoSpace { needed_bytes: CHUNK }) => break,
            // Compaction has just freed something.
            Some(LogFailure::Busy { .. }) => {}
            _ => panic!("{error}"),
        }
    }
    assert_eq!(store.stats().holds.len(), 1);
    // Holding still more is refused once that would take the bytes that freeing needs.
    let refused = (0..10_000).find_map(|_| store.hold().err()).expect("bytes without end");
    assert!(matches!(&refused, HoldError::Manifest { .. }), "{refused}");
    for hold in store.holds() {
        assert!(store.release(hold.id).expect("a release needs no byte"));
    }
    assert!(!store.release(hold.id()).expect("it is released"));
    let start = Instant::now();
    while let Some(error) = overwrite(2_000) {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not go on: {error}");
    }
}

#[test]
fn a_held_chunk_that_is_missing_is_told_by_its_hold() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().open(dir.path()).expect("a new store");
    fill(&store, 0..1);
    let hold = store.hold().expect("held");
    store.close().expect("a clean close");
    let lost = &hold.files()[1];
    std::fs::remove_file(dir.path().join(&lost.name)).expect("it is there");
    let error = builder().open(dir.path()).expect_err("a chunk is lost");
    let OpenError::Corrupt { problems } = &error else { panic!("{error}") };
    let told = format!("chunk {} is missing, which hold {} keeps", lost.chunk, hold.id());
    assert!(problems.iter().any(|problem| problem.what == told), "{problems:?}");
    let options = hotrestart::inspect::Options::default();
    let report = hotrestart::inspect::check(dir.path(), &options).expect("it can be inspected");
    assert!(report.problems.iter().any(|problem| problem.found == told), "{:?}", report.problems);
    assert_eq!(report.holds.len(), 1);

    let store = builder().recovery(RecoveryMode::Salvage).open(dir.path()).expect("salvaged");
    assert_eq!(store.holds().len(), 1, "what is left stays held");
    assert!(store.release(hold.id()).expect("released"));
}

/// Flips bits in the first bytes of a file.
fn flip(path: &Path, bytes: std::ops::Range<usize>) {
    let mut content = std::fs::read(path).expect("a file");
    content[bytes].iter_mut().for_each(|byte| *byte ^= 1);
    std::fs::write(path, content).expect("written");
}

#[test]
fn a_held_chunk_whose_header_goes_bad_is_told_by_its_file_and_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().open(dir.path()).expect("a new store");
    fill(&store, 0..2);
    let hold = store.hold().expect("held");
    let before = freed(&store);
    for version in 2..100 {
        fill(&store, version..version + 1);
        if freed(&store) > before + hold.files().len() as u64 {
            break;
        }
    }
    assert!(freed(&store) > before, "nothing that is held was freed meanwhile");
    store.close().expect("a clean close");
    // One bit, and more than can be made good.
    for (file, bytes) in hold.files().iter().flat_map(|file| [(file, 64..65), (file, 0..64)]) {
        let path = dir.path().join(&file.name);
        flip(&path, bytes.clone());
        let error = builder().open(dir.path()).expect_err("a header is bad");
        let OpenError::Corrupt { problems } = &error else { panic!("{error}") };
        let is_told = |problem: &hotrestart::Problem| {
            problem.file == file.name && problem.offset == 0 && problem.what.contains("header")
        };
        assert!(problems.iter().any(is_told), "{}: {problems:?}", file.name);
        flip(&path, bytes);
    }
    let file = &hold.files()[0];
    flip(&dir.path().join(&file.name), 64..65);
    let before = held_bytes(dir.path(), &hold);
    let store = builder().recovery(RecoveryMode::Salvage).open(dir.path()).expect("salvaged");
    let problems = &store.recovery().problems;
    assert!(problems.iter().all(|problem| problem.file == file.name), "{problems:?}");
    assert_eq!(store.holds().len(), 1);
    fill(&store, 100..102);
    assert!(held_bytes(dir.path(), &hold) == before, "what is held was changed");
}

#[test]
fn held_chunks_stay_when_what_was_salvaged_ends_before_them() {
    // Whether the last chunks are known to be whole depends on what was written when they were begun.
    let at_stake = (0..30).any(|_| is_kept_beyond_what_was_salvaged());
    assert!(at_stake, "no life ended before the last of its held chunks");
}

/// Whether a held chunk lay beyond the end of what was salvaged; it is kept as it is then.
fn is_kept_beyond_what_was_salvaged() -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    let builder = || builder().writers(1).flush_interval_ms(3_600_000);
    let store = builder().open(dir.path()).expect("a new store");
    fill(&store, 0..1);
    let hold = store.hold().expect("held");
    store.abandon();
    let first_block = |name: &str| {
        let bytes = std::fs::read(dir.path().join(name)).expect("a chunk");
        ChunkHeader::decode(&bytes).expect("a header").first_block
    };
    let mut names: Vec<&String> = hold.files().iter().map(|file| &file.name).collect();
    names.sort_by_key(|name| first_block(name));
    assert!(names.len() > 3, "{names:?}");
    // A block of the last but one goes bad: the life ends there, and what follows is logged again.
    let bad = dir.path().join(names[names.len() - 2]);
    let mut bytes = std::fs::read(&bad).expect("a chunk");
    bytes[4096 + 100] ^= 1;
    std::fs::write(&bad, bytes).expect("written");
    let before = held_bytes(dir.path(), &hold);
    let store = builder().recovery(RecoveryMode::Salvage).open(dir.path()).expect("salvaged");
    if store.recovery().relogged == 0 {
        return false;
    }
    fill(&store, 2..3);
    store.close().expect("a clean close");
    for round in 4..7 {
        let store = builder().open(dir.path()).expect("what is left is decided");
        fill(&store, round..round + 2);
        assert!(
            before == held_bytes(dir.path(), &hold),
            "round {round}: a held file is used again"
        );
        store.abandon();
    }
    let store = builder().open(dir.path()).expect("opens");
    assert!(store.release(hold.id()).expect("released"));
    true
}

#[test]
fn an_empty_hold_holds_nothing_and_chunks_of_former_lives_are_held_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().open(dir.path()).expect("a new store");
    let hold = store.hold().expect("nothing is to be held");
    assert!(hold.files().is_empty() && store.holds().len() == 1);
    assert!(store.release(hold.id()).expect("released"));
    fill(&store, 0..1);
    assert!(!store.hold().expect("held").files().is_empty());
    store.close().expect("a clean close");
    let store = builder().open(dir.path()).expect("opens");
    // The stable bytes of a former life's chunk are the whole file.
    let hold = store.hold().expect("held");
    assert!(hold.files().iter().all(|file| file.stable_bytes == CHUNK), "{hold:?}");
    assert_eq!(store.holds().len(), 2);
}
