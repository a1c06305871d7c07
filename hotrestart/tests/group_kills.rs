//! Groups of a real process that is killed at random moments, in the middle of whatever it does.
//!
//! Hazard: a part of a group comes back, or one that was acknowledged does not. The test runs itself as the
//! child: there each thread puts one number to all keys of its stream, long values among them, again and
//! again, and notes in a file which was acknowledged. After each SIGKILL all keys of a stream must have one
//! number, that one or the next.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hotrestart::codec::{Bytes, U64};
use hotrestart::{IoChoice, Map, MapOptions, Store, StreamId};

const NAME: &str = "all_of_a_group_or_nothing_is_there_after_each_kill";
const CHILD: &str = "HOTRESTART_GROUP_KILLS_CHILD";
const STREAMS: u32 = 2;
const KEYS: u64 = 6;

fn open(path: &Path, io: IoChoice) -> Store {
    let builder = Store::builder().memory_limit_bytes(64 << 20).streams(STREAMS);
    let builder = builder.chunk_bytes(256 << 10).writers(1).io(io).buffers_dir(path.join("shm"));
    builder.open(path.join("store")).expect("opens")
}

fn map_of(store: &Store) -> Map<U64, Bytes> {
    store.map("m", MapOptions::default().placed_by_owner()).expect("a map")
}

/// The bytes of a number: of some keys a few, of one more than fits a record with the others.
fn value(number: u64, key: u64) -> Vec<u8> {
    let len = if key == 3 { 7_000 } else { 1 + key as usize * 20 };
    number.to_le_bytes().repeat(len)
}

/// What the child does until it is killed.
fn change_for_ever(path: &Path, io: IoChoice) {
    let store = open(path, io);
    let map = map_of(&store);
    let acknowledged = std::fs::File::options().write(true).open(path.join("acknowledged"));
    let acknowledged = acknowledged.expect("the parent's file");
    std::thread::scope(|scope| {
        for stream in 0..STREAMS {
            let (store, map, acknowledged) = (&store, &map, &acknowledged);
            scope.spawn(move || {
                let part = map.in_stream(StreamId(stream)).expect("a part");
                let found = part.get_owned(&0).expect("readable");
                let mut number = found.map_or(0, |found| number_of(&found));
                loop {
                    number += 1;
                    let values: Vec<_> = (0..KEYS).map(|key| (key, value(number, key))).collect();
                    let mut group = store.group(StreamId(stream));
                    for (key, value) in &values {
                        group.insert(map, key, value).expect("its stream");
                    }
                    assert!(group.commit().expect("room").is_done());
                    let at = u64::from(stream) * 8;
                    acknowledged.write_all_at(&number.to_le_bytes(), at).expect("written");
                }
            });
        }
    });
}

fn number_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

/// What the file says was acknowledged in a stream.
fn acknowledged(path: &Path, stream: u32) -> u64 {
    let bytes = std::fs::read(path.join("acknowledged")).expect("the file");
    number_of(&bytes[stream as usize * 8..])
}

#[test]
fn all_of_a_group_or_nothing_is_there_after_each_kill() {
    if let Some(path) = std::env::var_os(CHILD) {
        let path = Path::new(&path);
        let io = if path.ends_with("uring") { IoChoice::Uring } else { IoChoice::Syscall };
        change_for_ever(path, io);
    }
    for (name, io) in [("uring", IoChoice::Uring), ("syscall", IoChoice::Syscall)] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.join("shm")).expect("a directory");
        std::fs::write(path.join("acknowledged"), [0; 16]).expect("written");
        open(&path, io).close().expect("a new store");
        let mut groups = 0;
        for kill in 0..8_u64 {
            let mut child = Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", NAME])
                .env(CHILD, &path)
                .stdout(Stdio::null())
                .spawn()
                .expect("a child");
            let before = acknowledged(&path, 0);
            let start = std::time::Instant::now();
            while acknowledged(&path, 0) < before + 50 {
                assert!(start.elapsed().as_secs() < 30, "the child does nothing");
                assert!(child.try_wait().expect("a child").is_none(), "the child has ended");
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_micros(kill * 1_713 % 7_000));
            child.kill().expect("killed");
            child.wait().expect("dead");
            let store = open(&path, io);
            let map = map_of(&store);
            for stream in 0..STREAMS {
                let part = map.in_stream(StreamId(stream)).expect("a part");
                let least = acknowledged(&path, stream);
                let found =
                    part.get_owned(&0).expect("readable").map_or(0, |found| number_of(&found));
                assert!(
                    found == least || found == least + 1,
                    "{name}, kill {kill}, stream {stream}: {found} is there, {least} was acknowledged"
                );
                for key in 0..KEYS {
                    let expected = (found > 0).then(|| value(found, key));
                    let of_key = part.get_owned(&key).expect("readable");
                    assert!(
                        of_key == expected,
                        "{name}, kill {kill}: key {key} of stream {stream}"
                    );
                }
                groups = groups.max(found);
            }
            drop(map);
            store.close().expect("closed");
        }
        println!("{name}: {groups} groups, 8 kills");
    }
}
