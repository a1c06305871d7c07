//! Several directories with one store on one machine: copies beside their original, a store made of what a
//! hold keeps, a directory that was moved. Each has its own log buffers and what was acknowledged in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use hotrestart::codec::{Bytes, U64};
use hotrestart::{Durability, MapOptions, OpenError, RecoveryMode, Store};

/// A place for directories, and the shared memory that they have in common.
struct Home {
    home: tempfile::TempDir,
    shared: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        let new = || tempfile::tempdir().expect("a directory");
        Home { home: new(), shared: new() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Nothing is written but what somebody waits for.
    fn builder(&self) -> hotrestart::Builder {
        let builder = Store::builder().memory_limit_bytes(64 << 20).chunk_bytes(256 << 10);
        let builder = builder.write_interval_ms(3_600_000).flush_interval_ms(3_600_000);
        builder.writers(1).buffers_dir(self.shared.path())
    }

    fn open(&self, name: &str) -> Store {
        let opened = self.builder().open(self.at(name));
        opened.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn copy(&self, from: &str, to: &str) {
        fs::create_dir(self.at(to)).expect("a directory");
        self.fill(to, from);
    }

    /// Copies the files of a directory into another one.
    fn fill(&self, to: &str, from: &str) {
        for entry in fs::read_dir(self.at(from)).expect("a directory") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), self.at(to).join(entry.file_name())).expect("a copy");
        }
    }

    fn buffers(&self) -> usize {
        fs::read_dir(self.shared.path()).expect("a directory").count()
    }

    /// A store with keys below ten on the device, and those below twenty in its log buffers only, that died.
    fn dead(&self, name: &str) -> Contents {
        let store = self.open(name);
        put(&store, 0..10, "flushed");
        store.persist(Durability::Synced).expect("flushed");
        put(&store, 10..20, "only in a buffer");
        let all = contents(&store);
        store.abandon();
        all
    }
}

type Contents = BTreeMap<u64, Vec<u8>>;

fn put(store: &Store, keys: std::ops::Range<u64>, value: &str) {
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for key in keys {
        map.insert(&key, value.as_bytes()).expect("room");
    }
}

fn contents(store: &Store) -> Contents {
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    map.iter().map(|entry| (entry.key().expect("a number"), entry.value_bytes().to_vec())).collect()
}

#[test]
fn two_directories_of_one_store_that_are_open_together_keep_each_what_was_acknowledged_in_it() {
    let home = Home::new();
    let store = home.open("original");
    put(&store, 0..10, "before");
    store.close().expect("closed");
    home.copy("original", "copy");

    let (original, copy) = (home.open("original"), home.open("copy"));
    put(&original, 5..12, "of the original");
    put(&copy, 8..20, "of the copy");
    let (of_original, of_copy) = (contents(&original), contents(&copy));
    assert_ne!(of_original, of_copy);
    original.abandon();
    copy.abandon();
    let (copy, original) = (home.open("copy"), home.open("original"));
    assert!(original.recovery().relogged > 0 && copy.recovery().relogged > 0, "only in buffers");
    assert_eq!((contents(&original), contents(&copy)), (of_original, of_copy));
    original.close().expect("closed");
    copy.close().expect("closed");
    assert_eq!(home.buffers(), 0);
}

#[test]
fn a_copy_that_is_opened_and_closed_leaves_what_its_dead_original_has_in_log_buffers() {
    let home = Home::new();
    home.open("original").close().expect("closed");
    home.copy("original", "copy");
    let of_original = home.dead("original");
    let copy = home.open("copy");
    put(&copy, 0..3, "of the copy");
    copy.close().expect("closed");
    assert_eq!(contents(&home.open("original")), of_original);
}

#[test]
fn a_copy_of_a_store_that_was_not_closed_is_refused_by_name_of_its_original_and_takes_nothing() {
    let home = Home::new();
    let all = home.dead("original");
    home.copy("original", "copy of the dead one");
    refuse_then_salvage(&home, "copy of the dead one", 1);
    let live = home.open("original");
    assert_eq!(contents(&live), all);
    home.copy("original", "copy of the open one");
    refuse_then_salvage(&home, "copy of the open one", 2);
    put(&live, 20..30, "and so on");
    let all = contents(&live);
    live.abandon();
    assert_eq!(contents(&home.open("original")), all);
}

fn refuse_then_salvage(home: &Home, copy: &str, of_life: u64) {
    let error = home.builder().open(home.at(copy)).expect_err("it has no buffers of its own");
    let OpenError::BuffersOfAnother { life, owner, .. } = &error else { panic!("{error}") };
    let original = fs::canonicalize(home.at("original")).expect("a directory");
    assert_eq!((*life, owner.as_str()), (of_life, original.to_str().expect("text")), "{error}");
    let store = home.builder().recovery(RecoveryMode::Salvage).open(home.at(copy));
    let store = store.expect("asked for");
    let problems = &store.recovery().problems;
    assert!(problems.len() == 1 && problems[0].what.contains(owner), "{problems:?}");
    assert_eq!(contents(&store).get(&3), Some(&b"flushed".to_vec()));
    put(&store, 0..20, "of a copy");
    store.close().expect("closed");
}

#[test]
fn a_store_of_held_files_beside_its_origin_and_the_origin_keep_each_what_was_acknowledged() {
    let home = Home::new();
    let origin = home.open("origin");
    put(&origin, 0..10, "before");
    let hold = origin.hold().expect("held");
    fs::create_dir(home.at("held")).expect("a directory");
    let (name, manifest) = hold.manifest();
    fs::write(home.at("held").join(name), manifest).expect("written");
    for held in hold.files() {
        let bytes = fs::read(home.at("origin").join(&held.name)).expect("a chunk");
        let file = fs::File::create(home.at("held").join(&held.name)).expect("a file");
        file.set_len(bytes.len() as u64).expect("its length");
        file.write_all_at(&bytes[..held.stable_bytes as usize], 0).expect("written");
    }
    put(&origin, 10..15, "of the origin");

    let held = home.open("held");
    assert_eq!(contents(&held).keys().copied().collect::<Vec<u64>>(), Vec::from_iter(0..10));
    put(&held, 0..2, "of the held");
    // Now both are in the same life.
    let of_origin = contents(&origin);
    origin.abandon();
    let origin = home.open("origin");
    assert_eq!(contents(&origin), of_origin);
    put(&origin, 0..4, "again of the origin");
    let (of_origin, of_held) = (contents(&origin), contents(&held));
    origin.abandon();
    held.abandon();
    assert_eq!(contents(&home.open("held")), of_held);
    assert_eq!(contents(&home.open("origin")), of_origin);
}

#[test]
fn a_directory_that_was_moved_to_another_file_system_still_finds_its_log_buffers() {
    let home = Home::new();
    let all = home.dead("before");
    home.copy("before", "after");
    fs::remove_dir_all(home.at("before")).expect("removed");
    let store = home.open("after");
    assert!(store.recovery().relogged > 0, "nothing was in the buffers alone");
    assert_eq!(contents(&store), all);
}

#[test]
fn a_copy_in_the_place_of_its_original_leaves_the_log_buffers_to_it() {
    let home = Home::new();
    let all = home.dead("store");
    fs::rename(home.at("store"), home.at("put aside")).expect("moved");
    home.copy("put aside", "store");
    // Nobody can tell this from a move: it takes what it finds, and takes it away from nobody.
    for name in ["store", "put aside"] {
        let store = home.open(name);
        assert_eq!(contents(&store), all, "{name}");
        store.close().expect("closed");
    }
    assert_eq!(home.buffers(), 0);
}

/// A store and its copy that died in one life, with as much on the device, and in log buffers only what each
/// was told is kept.
fn dead_twins(home: &Home) -> [(&'static str, Contents); 2] {
    home.open("original").close().expect("closed");
    home.copy("original", "copy");
    ["original", "copy"].map(|name| {
        let store = home.open(name);
        put(&store, 0..20, name);
        let all = contents(&store);
        store.abandon();
        (name, all)
    })
}

#[test]
fn a_store_and_its_copy_that_died_in_one_life_find_each_its_own_log_buffers_after_a_new_mount() {
    let home = Home::new();
    let twins = dead_twins(&home);
    for (name, _) in &twins {
        // The path is the same, the number of the directory is not.
        let before = format!("{name} before");
        fs::rename(home.at(name), home.at(&before)).expect("moved");
        home.copy(&before, name);
    }
    for (name, all) in &twins {
        assert_eq!(contents(&home.open(name)), *all, "{name}");
    }
}

#[test]
fn a_copy_whose_directory_has_the_number_of_one_that_is_gone_takes_no_log_buffers_for_its_own() {
    let home = Home::new();
    let twins = dead_twins(&home);
    let number = fs::metadata(home.at("original")).expect("a directory").ino();
    for (name, _) in &twins {
        home.copy(name, &format!("{name} put by"));
    }
    for (name, _) in &twins {
        fs::remove_dir_all(home.at(name)).expect("removed");
    }
    // A file system gives the number again soon (ext4: at once), or never.
    for attempt in 0..100 {
        let directory = home.at(&format!("attempt {attempt}"));
        fs::create_dir(&directory).expect("a directory");
        if fs::metadata(&directory).expect("a directory").ino() == number {
            fs::rename(&directory, home.at("copy")).expect("moved");
            break;
        }
    }
    for (name, _) in &twins {
        fs::create_dir_all(home.at(name)).expect("a directory");
        home.fill(name, &format!("{name} put by"));
    }
    for (name, all) in twins.iter().rev() {
        assert_eq!(contents(&home.open(name)), *all, "{name}");
    }
}
