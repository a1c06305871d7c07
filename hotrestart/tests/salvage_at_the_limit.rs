//! A copy that went bad in memory before it was written, met while there is no memory left to load into:
//! `Salvage` goes on with the older version, where there is one.
//!
//! Hazard: chunks that find no memory at first are loaded last, after all that they supersede was dropped;
//! what a bad record supersedes would go, too, and the key with it.

use std::path::Path;

use hotrestart::codec::{Bytes, U64};
use hotrestart::format::{
    BlockKind, ChunkHeader, ChunkOrigin, ChunkWalk, Record, RecordKind, Records, Walked,
};
use hotrestart::{Builder, Map, MapOptions, RecoveryMode, Store};

const CHUNK: u64 = 256 << 10;
const LIMIT: u64 = 16 << 20;
/// How many keys are held and removed.
const HELD: u64 = 3_000;
/// The keys of which every second one's copies go bad: chunks with nothing else need no memory.
const KEYS: std::ops::Range<u64> = 1 << 40..(1 << 40) + 120;
/// Bytes of a block's header, and where its checksum stands and what it covers begins.
const BLOCK_HEADER: usize = 64;
const CRC_AT: std::ops::Range<usize> = 4..8;

fn builder() -> Builder {
    let store = Store::builder().memory_limit_bytes(LIMIT).streams(1).chunk_bytes(CHUNK);
    store.writers(1).loader_threads(1)
}

fn map_of(store: &Store) -> Map<U64, Bytes> {
    store.map("m", MapOptions::default()).expect("a map")
}

/// Long: its copies fill chunks of their own, which find no memory themselves.
fn newer_version() -> Vec<u8> {
    vec![9; 20_000]
}

/// Changes the last byte of each of the keys' values in a chunk of survivors, as if they had gone bad before
/// their blocks were sealed. Returns how many there are.
fn spoil_copies(path: &Path) -> usize {
    let mut bytes = std::fs::read(path).expect("a chunk");
    let header = ChunkHeader::decode(&bytes).expect("a header");
    if header.origin != ChunkOrigin::Survivors {
        return 0;
    }
    let binding = header.binding();
    let mut blocks = Vec::new();
    for walked in ChunkWalk::new(&bytes, binding) {
        let Walked::Block { offset, header, payload } = walked else { continue };
        if header.kind == BlockKind::Directory {
            continue;
        }
        let is_one = |record: &Record<'_>| {
            let key = record.key.try_into().map(u64::from_le_bytes);
            let is_one = key.is_ok_and(|key| KEYS.contains(&key) && key % 2 == 0);
            record.kind == RecordKind::Entry && is_one
        };
        let records = Records::new(payload).map_while(Result::ok).filter(is_one);
        let last = |record: Record<'_>| offset + BLOCK_HEADER + record.offset + record.len - 1;
        let len = BLOCK_HEADER + header.payload_len as usize;
        blocks.push((offset, len, records.map(last).collect::<Vec<_>>()));
    }
    for (offset, len, places) in &blocks {
        places.iter().for_each(|at| bytes[*at] ^= 1);
        let crc = binding.crc(&bytes[offset + CRC_AT.end..offset + len]);
        bytes[*offset..][CRC_AT].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(path, bytes).expect("writable");
    blocks.iter().map(|(.., places)| places.len()).sum()
}

#[test]
fn older_versions_stay_when_their_bad_copies_are_loaded_last_for_want_of_memory() {
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().join("store");
    let store = builder().open(&directory).expect("a store");
    let map = map_of(&store);
    // What is removed later, and held: to load it takes the memory that the rest needs. The older versions
    // are in many chunks, so that in any order some are loaded before memory is short.
    for key in 0..HELD {
        map.insert(&key, &[1; 3_000]).expect("room");
        if key % 25 == 0 {
            map.insert(&(KEYS.start + key / 25), b"the older version").expect("room");
        }
    }
    store.hold().expect("held");
    let value = |round: u64| [(round % 251) as u8; 3_000];
    // The facts of absence are in many chunks, too: else what was removed takes no memory once one is loaded.
    for key in 0..HELD {
        assert!(map.remove(&key).expect("room"), "{key}");
        map.insert(&(10_000 + key), &value(0)).expect("room");
    }
    let is_full = |key: &u64| map.insert(key, &value(0)).is_err();
    let full = (10_000 + HELD..).find(is_full).expect("it gets full");
    // A little room, for overwrites.
    let rest = 10_000..full - 1_200;
    (rest.end..full).for_each(|key| assert!(map.remove(&key).expect("room"), "{key}"));
    let mut newer = KEYS;
    for round in 1..8_u64 {
        for key in rest.clone() {
            map.insert(&key, &value(round)).expect("room");
            // Each in another chunk.
            if key % 40 == 0
                && let Some(key) = newer.next()
            {
                map.insert(&key, &newer_version()).expect("room");
            }
        }
    }
    assert!(store.stats().chunks_freed > 20, "{:#?}", store.stats());
    // No room is left, so that most chunks find no memory at first, with bad copies among them.
    let last = (full..).find(is_full).expect("it gets full");
    drop(map);
    store.close().expect("a clean close");
    let files = std::fs::read_dir(&directory).expect("a directory").flatten();
    let chunks = files.filter(|file| file.file_name().to_string_lossy().starts_with("chunk-"));
    let spoilt: usize = chunks.map(|chunk| spoil_copies(&chunk.path())).sum();
    assert!(spoilt > 20, "only {spoilt} copies");
    let expected = (rest.count() as u64) + (last - full) + KEYS.count() as u64;
    let mut short = 0;
    for seed in 1..40 {
        let salvaged = home.path().join(format!("salvaged {seed}"));
        std::fs::create_dir(&salvaged).expect("a directory");
        for file in std::fs::read_dir(&directory).expect("a directory").flatten() {
            std::fs::copy(file.path(), salvaged.join(file.file_name())).expect("a copy");
        }
        let open = builder().recovery(RecoveryMode::Salvage).load_order(seed).open(&salvaged);
        let store = open.unwrap_or_else(|error| panic!("order {seed}: {error}"));
        // Chunks that found no memory at first were read again.
        let report = store.recovery();
        short += u32::from(report.bytes_read > report.chunks * CHUNK);
        let problems = &report.problems;
        assert!(problems.iter().any(|problem| problem.what.contains("went bad")), "{problems:?}");
        let map = map_of(&store);
        let of = |version: &[u8]| {
            let is_it = |key: &u64| {
                let found = map.get_with(key, |value| value == version);
                found.expect("readable") == Some(true)
            };
            KEYS.filter(is_it).count()
        };
        let found = (of(b"the older version"), of(&newer_version()));
        assert_eq!(found, (spoilt, KEYS.count() - spoilt), "order {seed}");
        assert_eq!(map.len(), expected, "order {seed}");
        drop(map);
        store.abandon();
        std::fs::remove_dir_all(&salvaged).expect("it can go");
        // In what order chunks come decides whether memory is short before all are in.
        if short == 3 {
            break;
        }
    }
    assert_eq!(short, 3, "so few orders found no memory at first");
}
