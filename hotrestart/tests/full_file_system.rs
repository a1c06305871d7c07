//! A real file system that is full, and processes that are killed on it: `scripts/full-disk` mounts small
//! ones and runs these tests there. Without it they do nothing, since a full disk cannot be had without root.
//!
//! Hazards: a put that found no space left something behind; removals fail when they are needed most; a store
//! does not go on when space returns; what was acknowledged is gone after the process died on a full disk;
//! where not a byte is left the manifest cannot say what is free, or a store does not open.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hotrestart::codec::{Bytes, U64};
use hotrestart::{Builder, Durability, Error, IoChoice, LogFailure, Map, MapOptions, Store};

const CHUNK: u64 = 1 << 20;
const BALLAST_BYTES: usize = 24 << 20;
/// What the child of the second test is told by.
const NOTES: &str = "HOTRESTART_NOTES";
const SEED: &str = "HOTRESTART_SEED";

/// The small file system; `None` when the tests do not run by `scripts/full-disk`, which makes it.
fn small_dir() -> Option<PathBuf> {
    std::env::var_os("HOTRESTART_SMALL_DIR").map(PathBuf::from)
}

fn builder() -> Builder {
    let io = match std::env::var("HOTRESTART_IO").as_deref() {
        Ok("syscall") => IoChoice::Syscall,
        _ => IoChoice::Uring,
    };
    let builder = Store::builder().memory_limit_bytes(1 << 30).streams(8).chunk_bytes(CHUNK);
    // The file system is the bound here, not the disk budget.
    builder.io(io).writers(2).put_timeout_ms(300).disk_budget(1_000.0)
}

fn map_of(store: &Store) -> Map<U64, Bytes> {
    store.map("m", MapOptions::default()).expect("a map")
}

fn value(key: u64, version: u64) -> Vec<u8> {
    let len = 16 + (key * 31 + version * 7) % 9_000;
    let mut bytes = vec![(key ^ version) as u8; len as usize];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes
}

fn is_no_space(error: &Error) -> bool {
    let Error::Log(source) = error else { return false };
    match source.downcast_ref::<LogFailure>() {
        Some(LogFailure::NoSpace { needed_bytes }) => *needed_bytes == CHUNK,
        _ => false,
    }
}

/// Whether the disk is only slower than the caller's patience.
fn is_busy(error: &Error) -> bool {
    let Error::Log(source) = error else { return false };
    matches!(source.downcast_ref::<LogFailure>(), Some(LogFailure::Busy { .. }))
}

fn check(store: &Store, oracle: &HashMap<u64, u64>) {
    let map = map_of(store);
    assert_eq!(map.len(), oracle.len() as u64);
    for (key, version) in oracle {
        let found = map.get_owned(key).expect("ok").unwrap_or_else(|| panic!("{key} is lost"));
        assert!(found == value(*key, *version), "{key}: not version {version}");
    }
}

/// Puts until there is no space.
fn fill_up(map: &Map<U64, Bytes>, oracle: &mut HashMap<u64, u64>, next: &mut u64) {
    loop {
        match map.insert(next, &value(*next, 1)) {
            Ok(()) => _ = oracle.insert(*next, 1),
            Err(error) if is_no_space(&error) => return,
            // Space is coming back: compaction is freeing what removals left.
            Err(error) if is_busy(&error) => continue,
            Err(error) => panic!("{error}"),
        }
        *next += 1;
    }
}

#[test]
fn a_full_file_system_refuses_puts_takes_removals_and_goes_on_by_itself() {
    let Some(dir) = small_dir() else { return };
    let (store_dir, ballast) = (dir.join("store"), dir.join("ballast"));
    std::fs::write(&ballast, vec![7; BALLAST_BYTES]).expect("room for the ballast");
    let store = builder().open(&store_dir).expect("a new store");
    let map = map_of(&store);
    let (mut oracle, mut next) = (HashMap::new(), 0);
    fill_up(&map, &mut oracle, &mut next);
    println!("full after {} entries", oracle.len());
    assert!(!map.contains_key(&next).expect("ok"), "a put that was refused changed something");
    assert!(oracle.len() > 2_000, "it was full at once");
    check(&store, &oracle);
    // Removals work, and the space that they give back is used.
    for key in (0..next).filter(|key| key % 4 != 0) {
        assert!(map.remove(&key).unwrap_or_else(|error| panic!("removing {key}: {error}")));
        oracle.remove(&key);
    }
    let before = next;
    let deadline = Instant::now() + Duration::from_secs(60);
    while next < before + 1_000 {
        fill_up(&map, &mut oracle, &mut next);
        assert!(Instant::now() < deadline, "no space returned: {:#?}", store.stats());
    }
    println!("{} more entries after removals", next - before);
    // Full once more; now somebody else makes room.
    fill_up(&map, &mut oracle, &mut next);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            std::fs::remove_file(&ballast).expect("removed");
        });
        let start = Instant::now();
        while let Err(error) = map.insert(&next, &value(next, 1)) {
            assert!(is_no_space(&error) || is_busy(&error), "{error}");
            assert!(start.elapsed() < Duration::from_secs(30), "it does not go on by itself");
        }
        println!("goes on {} ms after it was full", start.elapsed().as_millis());
        oracle.insert(next, 1);
    });
    drop(map);
    store.persist(Durability::Synced).expect("there is space");
    store.close().expect("a clean close");
    let store = builder().open(&store_dir).unwrap_or_else(|error| panic!("{error}"));
    check(&store, &oracle);
    store.close().expect("a clean close");
    std::fs::remove_dir_all(&store_dir).expect("removed");
}

/// Somebody else who takes every byte and every inode that is left.
struct Outsider {
    dir: PathBuf,
    count: u32,
}

impl Outsider {
    fn new(dir: PathBuf) -> Outsider {
        std::fs::create_dir(&dir).expect("made");
        Outsider { dir, count: 0 }
    }

    fn fill_up(&mut self) {
        for len in [1 << 20, 4096, 1] {
            // What was there ends in the middle of a block.
            self.count += 1;
            let Ok(mut file) = File::create(self.dir.join(self.count.to_string())) else {
                continue;
            };
            while file.write_all(&vec![7; len]).is_ok() {}
            let _ = file.sync_all();
        }
        while File::create(self.dir.join(self.count.to_string())).is_ok() {
            self.count += 1;
        }
        // A file system gives back a little of what it had kept for writes under way.
        if let Ok(mut file) = File::options().append(true).open(self.dir.join("1")) {
            while file.write_all(&[7; 512]).is_ok() {}
        }
    }
}

impl Drop for Outsider {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn without_a_byte_left_a_store_frees_opens_and_goes_on_by_what_it_frees() {
    let Some(dir) = small_dir() else { return };
    let store_dir = dir.join("store");
    let mut outsider = Outsider::new(dir.join("outsider"));
    let store = builder().open(&store_dir).expect("a new store");
    let map = map_of(&store);
    let (mut oracle, mut next) = (HashMap::new(), 0);
    while next < 12_000 {
        map.insert(&next, &value(next, 1)).expect("room");
        oracle.insert(next, 1);
        next += 1;
    }
    let doomed: Map<U64, Bytes> = store.map("doomed", MapOptions::default()).expect("a map");
    (0..2_000).for_each(|key| doomed.insert(&key, &value(key, 2)).expect("room"));
    outsider.fill_up();
    fill_up(&map, &mut oracle, &mut next);
    // Neighbours of what is freed stay, so that the manifest must say more and more.
    for key in (0..next).filter(|key| (key / 300) % 2 == 1) {
        assert!(map.remove(&key).unwrap_or_else(|error| panic!("removing {key}: {error}")));
        oracle.remove(&key);
    }
    let before = next;
    let deadline = Instant::now() + Duration::from_secs(60);
    while next < before + 1_000 {
        outsider.fill_up();
        fill_up(&map, &mut oracle, &mut next);
        assert!(Instant::now() < deadline, "no room came back: {:#?}", store.stats());
    }
    println!("{} entries more on a full disk, by compaction alone", next - before);
    // It ends like a process that died, and somebody else takes what it lets go.
    drop((map, doomed));
    store.abandon();
    outsider.fill_up();
    let store = builder().open(&store_dir).unwrap_or_else(|error| panic!("{error}"));
    check(&store, &oracle);
    store.close().expect("a clean close");
    outsider.fill_up();
    let store = builder().open(&store_dir).unwrap_or_else(|error| panic!("{error}"));
    check(&store, &oracle);
    // Its stock went with the close; what a drop leaves needs none to be freed.
    assert!(store.drop_map("doomed").expect("a drop needs no byte"));
    let (map, before) = (map_of(&store), next);
    while next < before + 200 {
        fill_up(&map, &mut oracle, &mut next);
        assert!(Instant::now() < deadline, "no room came back: {:#?}", store.stats());
    }
    drop(map);
    check(&store, &oracle);
    store.close().expect("a clean close");
    std::fs::remove_dir_all(&store_dir).expect("removed");
}

/// What the child does at step `step`: a key, and a version or none for a removal.
fn change(seed: u64, step: u64) -> (u64, Option<u64>) {
    let mixed =
        (seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = mixed ^ mixed >> 32;
    (mixed % 20_000, (mixed >> 40 & 7 != 0).then_some(step))
}

/// Does nothing unless it runs in the child that the test below starts: changes the store for ever, and notes
/// of each change whether it was done (`1`), refused for want of space (`0`) or of time (`b`).
#[test]
fn child_on_a_full_file_system() {
    let Some(notes) = std::env::var_os(NOTES) else { return };
    let seed: u64 = std::env::var(SEED).expect("a seed").parse().expect("a number");
    let mut notes = File::create(notes).expect("made");
    let store_dir = small_dir().expect("the parent has it").join("store");
    let store = builder().put_timeout_ms(20).open(store_dir).expect("a store");
    let map = map_of(&store);
    for step in 0.. {
        let (key, version) = change(seed, step);
        let done = match version {
            Some(version) => map.insert(&key, &value(key, version)).map(|()| true),
            None => map.remove(&key),
        };
        let note = match done {
            Ok(_) => b"1",
            Err(error) if is_no_space(&error) => b"0",
            Err(error) if is_busy(&error) => b"b",
            Err(error) => panic!("step {step}: {error}"),
        };
        notes.write_all(note).expect("noted");
    }
}

fn spawn(notes: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "child_on_a_full_file_system", "--nocapture"])
        .env(NOTES, notes)
        .env(SEED, seed.to_string())
        .spawn()
        .expect("a child process")
}

fn notes_of(path: &Path) -> Vec<u8> {
    let mut notes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        file.read_to_end(&mut notes).expect("read");
    }
    notes
}

#[test]
fn a_process_killed_on_a_full_file_system_loses_nothing() {
    let Some(dir) = small_dir() else { return };
    let notes_dir = tempfile::tempdir().expect("a directory elsewhere");
    let notes_path = notes_dir.path().join("notes");
    let store_dir = dir.join("store");
    let rounds =
        std::env::var("HOTRESTART_KILLS").map_or(4, |text| text.parse().expect("a number"));
    let mut refusals = 0;
    for seed in 1..=rounds {
        let _ = std::fs::remove_dir_all(&store_dir);
        let _ = std::fs::remove_file(&notes_path);
        let mut child = spawn(&notes_path, seed);
        // Some time after it is full.
        let start = Instant::now();
        while !notes_of(&notes_path).contains(&b'0') {
            assert!(child.try_wait().expect("asked").is_none(), "seed {seed}: the child has ended");
            assert!(start.elapsed() < Duration::from_secs(120), "seed {seed}: it never was full");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(50 + seed * 137 % 900));
        child.kill().expect("killed");
        child.wait().expect("gone");
        let notes = notes_of(&notes_path);
        refusals += notes.iter().filter(|note| **note == b'0').count();
        let mut oracle = HashMap::new();
        for (step, _) in (0..).zip(&notes).filter(|(_, note)| **note == b'1') {
            match change(seed, step) {
                (key, Some(version)) => _ = oracle.insert(key, version),
                (key, None) => _ = oracle.remove(&key),
            }
        }
        let store =
            builder().open(&store_dir).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        // The change under way when the child died may have been done.
        let (key, version) = change(seed, notes.len() as u64);
        let found = map_of(&store).get_owned(&key).expect("ok");
        if found == version.map(|version| value(key, version)) {
            match version {
                Some(version) => _ = oracle.insert(key, version),
                None => _ = oracle.remove(&key),
            }
        }
        check(&store, &oracle);
        drop(store);
    }
    println!("{rounds} kills, {refusals} changes refused before them");
    let _ = std::fs::remove_dir_all(&store_dir);
}
