//! What an opening makes of the same stores.

use std::fs;
use std::path::Path;

use crate::build::*;
use crate::checked;
use hotrestart::codec::Bytes;
use hotrestart::format::crc::crc32c;
use hotrestart::format::manifest::{LifeState, MapRecord};
use hotrestart::format::{Manifest, MapId, RecordHeader, StreamId};
use hotrestart::{Builder, MapOptions, OpenError, RecoveryMode, Store};
use tempfile::TempDir;

fn builder() -> Builder {
    Store::builder().memory_limit_bytes(64 << 20)
}

fn value_of(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    let map = store.map::<Bytes, Bytes>("bench", MapOptions::default()).expect("a map");
    map.get_owned(key).expect("ok")
}

/// A store of one chunk that was closed cleanly.
fn store_of(blocks: &[&[Record<'_>]]) -> TempDir {
    let dir = TempDir::new().expect("a directory for the test");
    let mut chunk = ChunkWriter::new(1, 1, 0, 0);
    blocks.iter().for_each(|records| chunk.block(records));
    fs::write(dir.path().join("chunk-00000000"), chunk.close()).expect("it can be written");
    let blocks = vec![blocks.len() as u64 + 1];
    // With one stream every key is where a reader looks for it.
    for manifest in [
        manifest(1, LifeState::Open, blocks.clone(), false),
        manifest(2, LifeState::Cut, blocks, true),
    ] {
        write_manifest(dir.path(), &Manifest { streams: 1, ..manifest });
    }
    dir
}

#[test]
fn a_head_without_its_parts_is_corruption_and_never_half_a_value() {
    let dir = store_of(&[
        &[entry(1, "e", b"older"), part(1, b"second half")],
        &[head(6, "e", b"first half, second half", 2), entry(7, "a", b"whole")],
    ]);
    assert!(!checked(dir.path()).is_sound);
    let error = builder().open(dir.path()).expect_err("a part is missing");
    let OpenError::Corrupt { problems } = &error else { panic!("{error}") };
    assert!(problems[0].what.contains("1 of 2 parts"), "{problems:?}");
    let store = builder().recovery(RecoveryMode::Salvage).open(dir.path()).expect("asked for");
    assert_eq!(store.recovery().problems.len(), 1);
    assert_eq!(value_of(&store, b"a").as_deref(), Some(&b"whole"[..]));
    assert_eq!(value_of(&store, b"e").as_deref(), Some(&b"older"[..]), "what is left of it");
}

#[test]
fn a_head_whose_parts_are_not_its_own_is_corruption() {
    let wrong = store_of(&[
        &[part(0, b"first half, "), part(1, b"another end")],
        &[head(6, "e", b"first half, second half", 2)],
    ]);
    let error = builder().open(wrong.path()).expect_err("another value");
    assert!(error.to_string().contains("checksum"), "{error}");
    let long = store_of(&[
        &[part(0, b"first half, "), part(1, &[7; 400])],
        &[head(6, "e", b"first half, second half", 2)],
    ]);
    let error = builder().open(long.path()).expect_err("longer than its head says");
    assert!(error.to_string().contains("does not fit"), "{error}");
}

#[test]
fn a_replaced_value_whose_parts_are_gone_is_nobodys_loss() {
    let dir = store_of(&[
        &[part(0, b"first half, "), head(6, "e", b"first half, second half", 2)],
        &[entry(8, "e", b"newer")],
    ]);
    let report = checked(dir.path());
    assert!(report.is_sound, "{:?}", report.problems);
    let store = builder().open(dir.path()).expect("nothing that counts is missing");
    assert_eq!(value_of(&store, b"e").as_deref(), Some(&b"newer"[..]));
}

#[test]
fn a_last_chunk_whose_header_is_beyond_repair_is_named_and_not_only_the_one_before_it() {
    let dir = TempDir::new().expect("a directory for the test");
    let mut first = ChunkWriter::new(1, 1, 0, 0);
    first.block(&[entry(1, "a", b"one")]);
    let mut last = ChunkWriter::new(2, 1, 0, 2);
    last.block(&[entry(2, "b", b"two")]);
    let mut bytes = last.close();
    bytes[20] ^= 0x55;
    fs::write(dir.path().join("chunk-00000000"), first.close()).expect("it can be written");
    fs::write(dir.path().join("chunk-00000001"), &bytes).expect("it can be written");
    for generation in [1, 2] {
        let made = manifest(generation, LifeState::Cut, vec![4], true);
        write_manifest(dir.path(), &Manifest { streams: 1, ..made });
    }
    let error = builder().open(dir.path()).expect_err("blocks are missing");
    let OpenError::Corrupt { problems } = &error else { panic!("{error}") };
    let named: Vec<_> = problems.iter().map(|problem| (&*problem.file, problem.offset)).collect();
    assert_eq!(named[0], ("chunk-00000001", 0), "{problems:?}");
    assert!(named[1..].iter().all(|(file, _)| *file == "chunk-00000000"), "{problems:?}");
    assert!(error.to_string().contains("RecoveryMode::Salvage"), "{error}");
    let store = builder().recovery(RecoveryMode::Salvage).open(dir.path()).expect("asked for");
    assert_eq!(&store.recovery().problems, problems);
    assert_eq!(value_of(&store, b"a").as_deref(), Some(&b"one"[..]));
    drop(store);
    let left = fs::read(dir.path().join("chunk-00000001")).expect("it stays");
    assert!(left == bytes, "and is as it was");
}

fn reseal(path: &Path, change: impl FnOnce(&mut Vec<u8>), crc_at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    change(&mut bytes);
    let crc = if crc_at == 32 {
        bytes[32..36].fill(0);
        crc32c(&bytes)
    } else {
        crc32c(&bytes[..crc_at])
    };
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    fs::write(path, bytes).expect("it can be written");
}

#[test]
fn a_newer_format_and_a_file_of_another_store_are_told_apart() {
    let another = |dir: &Path| {
        let mut bytes = ChunkWriter::new(9, 1, 0, 0).bytes;
        bytes[16] ^= 1;
        let crc = crc32c(&bytes[..4092]);
        bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
        fs::write(dir.join("chunk-00000007"), bytes).expect("it can be written");
    };
    let dir = clean_store();
    another(dir.path());
    let error = builder().open(dir.path()).expect_err("a chunk of another store");
    assert!(matches!(&error, OpenError::AnotherStore { file, .. } if file == "chunk-00000007"));

    // A newer manifest says so, whatever else lies there: its chunks are not this program's to judge.
    for name in ["manifest.0", "manifest.1"] {
        reseal(&dir.path().join(name), |bytes| bytes[8] = 2, 32);
    }
    let error = builder().open(dir.path()).expect_err("a newer store");
    assert!(
        matches!(&error, OpenError::NewerFormat { file, .. } if file == "manifest.0"),
        "{error}"
    );

    // A chunk of a newer format beside one of another store: each alone is refused by its own name.
    let dir = clean_store();
    reseal(&dir.path().join("chunk-00000000"), |bytes| bytes[8] = 2, 4092);
    let error = builder().open(dir.path()).expect_err("a newer chunk");
    assert!(
        matches!(&error, OpenError::NewerFormat { file, .. } if file == "chunk-00000000"),
        "{error}"
    );
    another(dir.path());
    let error = builder().open(dir.path()).expect_err("two reasons to refuse it");
    let is_named = matches!(&error, OpenError::NewerFormat { .. } | OpenError::AnotherStore { .. });
    assert!(is_named, "{error}");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_refused_number_of_streams_leaves_nothing_behind() {
    let parent = TempDir::new().expect("a directory for the test");
    for (streams, limit) in [(0, 64 << 20), (65_537, 64 << 20), (64, 1 << 16)] {
        let dir = parent.path().join("new");
        let refused = Store::builder().memory_limit_bytes(limit).streams(streams).open(&dir);
        let error = refused.expect_err("no store is made with this");
        assert!(matches!(error, OpenError::Setting { .. } | OpenError::Build(_)), "{error}");
        assert!(!dir.exists(), "{streams} streams: {:?}", names(&dir));
        fs::create_dir(&dir).expect("a directory");
        let refused = Store::builder().memory_limit_bytes(limit).streams(streams).open(&dir);
        refused.expect_err("nor in a directory that is there");
        assert_eq!(names(&dir), Vec::<String>::new(), "{streams} streams");
        fs::remove_dir(&dir).expect("it is empty");
    }
    let shared = "/dev/shm";
    let left =
        names(Path::new(shared)).into_iter().filter(|name| name.contains(&STORE.to_string()));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_path_that_is_a_file_is_refused_as_what_it_is() {
    let parent = TempDir::new().expect("a directory for the test");
    let file = parent.path().join("file");
    fs::write(&file, "no store").expect("it can be written");
    let error = builder().open(&file).expect_err("a file");
    assert!(error.to_string().contains("not a directory"), "{error}");
    let error = builder().open(file.join("below")).expect_err("below a file");
    assert!(error.to_string().to_lowercase().contains("not a directory"), "{error}");
    assert_eq!(fs::read(&file).expect("it is there"), b"no store");
}

#[test]
fn what_is_below_a_clear_or_of_a_dropped_map_is_void_wherever_it_lies_and_other_maps_are_damage() {
    let of_map = |map, (header, key, value): Record<'static>| {
        (RecordHeader { map: MapId(map), ..header }, key, value)
    };
    let clear = |map, seq| {
        let header = RecordHeader::clear(MapId(map), StreamId(0));
        (RecordHeader { seq, ..header }, &b""[..], &b""[..])
    };
    // The manifest has map 2 alone; map 1 was dropped, and map 3 was never made.
    let with_maps = |dir: &Path| {
        let path = dir.join("manifest.0");
        let found = Manifest::decode(&fs::read(&path).expect("it is there")).expect("valid");
        let maps = found.maps.iter().cloned().map(|map| MapRecord { id: MapId(2), ..map });
        let maps = maps.collect();
        let changed = Manifest { maps, next_map: MapId(3), ..found };
        write_manifest(dir, &changed);
        write_manifest(dir, &Manifest { generation: 1, ..changed });
    };
    let blocks: [&[Record<'_>]; 2] = [
        &[
            of_map(2, entry(9, "after", b"kept")),
            clear(2, 8),
            of_map(1, entry(3, "a", b"dropped")),
            of_map(2, absence(5, "before")),
        ],
        &[
            // A value of which parts are missing would be damage if it were not void.
            of_map(2, head(6, "e", b"first half, second half", 2)),
            of_map(2, entry(7, "before", b"cleared")),
            of_map(1, absence(4, "a")),
            clear(1, 10),
            clear(2, 2),
        ],
    ];
    let dir = store_of(&blocks);
    with_maps(dir.path());
    let report = checked(dir.path());
    assert!(report.is_sound, "{:#?}", report.problems);
    let totals = report.totals;
    assert_eq!((totals.entries, totals.absences, totals.clears), (1, 0, 1));
    assert_eq!((totals.dropped_records, report.maps[0].entries), (3, 1));
    let live = [entry(9, "after", b"kept"), clear(2, 8)];
    let live_bytes: usize = live.iter().map(|(header, _, _)| header.encoded_len()).sum();
    assert_eq!(totals.live_bytes, live_bytes as u64);
    for threads in [1, 3] {
        let store = builder().loader_threads(threads).open(dir.path()).expect("nothing is wrong");
        assert_eq!(store.recovery().entries, 1);
        assert_eq!(value_of(&store, b"after").as_deref(), Some(&b"kept"[..]));
        assert_eq!(value_of(&store, b"before"), None);
        store.close().expect("a clean close");
    }

    let dir = store_of(&[&[of_map(3, entry(1, "a", b"of no map"))]]);
    with_maps(dir.path());
    let report = checked(dir.path());
    assert_eq!(report.problems.len(), 1, "{:#?}", report.problems);
    assert!(report.problems[0].found.contains("map 3"), "{:#?}", report.problems);
    let error = builder().open(dir.path()).expect_err("a map that was never made");
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}
