//! Compaction on a real file system: the disk stays within its budget, and nothing that is live is lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hotrestart::codec::{Bytes, U64};
use hotrestart::format::{
    BlockKind, ChunkHeader, ChunkOrigin, ChunkWalk, RecordKind, Records, Walked,
};
use hotrestart::{Builder, Durability, LogFailure, Map, MapOptions, Stats, Store};

const CHUNK: u64 = 256 << 10;

fn builder() -> Builder {
    Store::builder().memory_limit_bytes(256 << 20).streams(4).chunk_bytes(CHUNK)
}

/// What a store of these entries may occupy.
fn bound_bytes(stats: &Stats, ratio: f64) -> u64 {
    let record_bytes = stats.memory.live_bytes + 16 * stats.memory.entries;
    ((ratio * record_bytes as f64) as u64).max(record_bytes * 5 / 4 + 40 * CHUNK)
}

fn value(key: u64, round: u64, len: usize) -> Vec<u8> {
    let mut value = vec![(key ^ round) as u8; len];
    value[..8].copy_from_slice(&round.to_le_bytes());
    value
}

fn chunk_bytes_on_disk(path: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(path).expect("a directory");
    let is_chunk = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("chunk-");
    entries
        .filter_map(Result::ok)
        .filter(|entry| is_chunk(&entry.file_name()))
        .map(|entry| entry.metadata().map_or(0, |metadata| metadata.len()))
        .sum()
}

fn put(map: &Map<U64, Bytes>, oracle: &mut HashMap<u64, Vec<u8>>, key: u64, value: Vec<u8>) {
    map.insert(&key, &value).expect("room");
    oracle.insert(key, value);
}

fn check(map: &Map<U64, Bytes>, oracle: &HashMap<u64, Vec<u8>>) {
    assert_eq!(map.len(), oracle.len() as u64);
    for (key, value) in oracle {
        assert_eq!(map.get_owned(key).expect("readable").as_ref(), Some(value), "key {key}");
    }
}

#[test]
fn overwriting_for_ever_takes_no_more_than_the_budget() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut oracle = HashMap::new();
    let store = builder().open(dir.path()).expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let mut highest = 0.0_f64;
    for round in 0..40 {
        for step in 0..20_000_u64 {
            let key = (step * 7919 + round * 31) % 60_000;
            put(&map, &mut oracle, key, value(key, round, 200 + (key % 100) as usize));
        }
        let stats = store.stats();
        let on_disk = chunk_bytes_on_disk(dir.path());
        highest = highest.max(on_disk as f64 / bound_bytes(&stats, 2.0) as f64);
        assert!(highest <= 1.0, "{on_disk} bytes of {}", bound_bytes(&stats, 2.0));
    }
    let stats = store.stats();
    assert!(stats.chunks_freed > 500, "{} chunks were freed", stats.chunks_freed);
    assert_eq!((stats.compaction_stopped, stats.chunks_damaged), (None, Vec::new()));
    println!("at most {:.0} % of the bound, {} chunks freed", highest * 100.0, stats.chunks_freed);
    check(&map, &oracle);
    drop(map);
    store.abandon();
    let store = builder().open(dir.path()).expect("recovery");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("the map");
    check(&map, &oracle);
    drop(map);
    store.close().expect("a clean end");
    let store = builder().open(dir.path()).expect("again");
    assert!(store.recovery().problems.is_empty());
    check(&store.map("m", MapOptions::default()).expect("the map"), &oracle);
}

#[test]
fn removed_keys_stay_removed_through_compaction_and_restarts() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut oracle = HashMap::new();
    for life in 0..4_u64 {
        let store = builder().open(dir.path()).expect("a store");
        let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
        check(&map, &oracle);
        for round in 0..8 {
            for step in 0..6_000_u64 {
                let key = (step * 31 + life * 1009 + round) % 20_000;
                if (step + round) % 3 == 0 {
                    map.remove(&key).expect("removed");
                    oracle.remove(&key);
                } else {
                    put(&map, &mut oracle, key, value(key, round, 300));
                }
            }
        }
        let freed = store.stats().chunks_freed;
        assert!(freed > 5, "life {life}: {freed} chunks were freed: compaction was not at stake");
        drop(map);
        if life % 2 == 0 { store.abandon() } else { store.close().expect("a clean end") }
    }
    let store = builder().open(dir.path()).expect("a store");
    check(&store.map("m", MapOptions::default()).expect("the map"), &oracle);
}

#[test]
fn long_values_survive_compaction_in_parts() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut oracle = HashMap::new();
    let store = builder().open(dir.path()).expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for round in 0..60_u64 {
        put(&map, &mut oracle, round % 7, value(round % 7, round, 300_000 + 1000 * round as usize));
        for key in 100..3_000 {
            put(&map, &mut oracle, key, value(key, round, 200));
        }
    }
    assert!(store.stats().chunks_freed > 50, "{} chunks were freed", store.stats().chunks_freed);
    check(&map, &oracle);
    drop(map);
    store.abandon();
    assert!(copied_parts(dir.path()) > 0, "no part of a value was copied");
    let store = builder().open(dir.path()).expect("recovery");
    check(&store.map("m", MapOptions::default()).expect("the map"), &oracle);
}

/// Parts of values among what compaction copied.
fn copied_parts(path: &std::path::Path) -> usize {
    let files = std::fs::read_dir(path).expect("a directory").flatten();
    let chunks = files.filter(|file| file.file_name().to_string_lossy().starts_with("chunk-"));
    let parts_of = |bytes: &[u8]| {
        let header = ChunkHeader::decode(bytes).ok()?;
        let blocks = ChunkWalk::new(bytes, header.binding()).filter_map(|walked| match walked {
            Walked::Block { header, payload, .. } if header.kind == BlockKind::Records => {
                Some(payload)
            }
            _ => None,
        });
        let records = blocks.flat_map(|payload| Records::new(payload).map_while(Result::ok));
        let parts = records.filter(|record| record.kind == RecordKind::Part).count();
        (header.origin == ChunkOrigin::Survivors).then_some(parts)
    };
    chunks.filter_map(|chunk| parts_of(&std::fs::read(chunk.path()).expect("readable"))).sum()
}

/// Keys come and go for ever beside a few that stay in the oldest chunk: the facts of absence of those that
/// went are forgotten.
#[test]
fn keys_that_come_and_go_leave_no_pile_of_facts_beside_cold_records() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut oracle = HashMap::new();
    let store = builder().open(dir.path()).expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for key in 0..1_000 {
        put(&map, &mut oracle, key, value(key, 0, 200));
    }
    let mut removed = 0;
    for round in 1..60_u64 {
        let keys = round * 10_000..round * 10_000 + 6_000;
        for key in keys.clone() {
            map.insert(&key, b"passing by").expect("room");
        }
        for key in keys {
            removed += u64::from(map.remove(&key).expect("removed"));
        }
    }
    let (stats, on_disk) = (store.stats(), chunk_bytes_on_disk(dir.path()));
    assert!(on_disk <= bound_bytes(&stats, 2.0), "{on_disk} of {}", bound_bytes(&stats, 2.0));
    assert!(removed * 24 > 2 * bound_bytes(&stats, 2.0) / 3, "as many facts would not fit");
    check(&map, &oracle);
    drop(map);
    store.abandon();
    let store = builder().open(dir.path()).expect("recovery");
    check(&store.map("m", MapOptions::default()).expect("the map"), &oracle);
}

/// A store that is emptied gives its disk back.
#[test]
fn a_store_that_is_emptied_gives_its_disk_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().open(dir.path()).expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for key in 0..100_000_u64 {
        map.insert(&key, &[1; 200]).expect("room");
    }
    let full = chunk_bytes_on_disk(dir.path());
    for key in 0..100_000_u64 {
        map.remove(&key).expect("removed");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while chunk_bytes_on_disk(dir.path()) > full / 2 {
        assert!(Instant::now() < deadline, "{} of {full}", chunk_bytes_on_disk(dir.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Flips a bit of every copy of `pattern` in this process's own memory, whose bytes are `pattern` with each
/// bit turned, so that the search finds no copy of the question. Returns how many there were.
fn flip_in_memory(turned: &[u8]) -> usize {
    use std::os::unix::fs::FileExt;
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let memory = std::fs::File::options().read(true).write(true).open("/proc/self/mem");
    let memory = memory.expect("this process's memory");
    let pagemap = std::fs::File::open("/proc/self/pagemap").expect("which pages there are");
    let mut flipped = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-") && !line.contains("[stack]")) {
        let (start, rest) = line.split_once('-').expect("a range");
        let end = rest.split(' ').next().expect("an end");
        let start = u64::from_str_radix(start, 16).expect("hexadecimal");
        let end = u64::from_str_radix(end, 16).expect("hexadecimal");
        // Nothing of a store's is that large; the shadow memory of a sanitizer is.
        if end - start > 1 << 36 {
            continue;
        }
        let mut bytes = vec![0; 1 << 20];
        for at in (start..end).step_by(1 << 19) {
            let len = (end - at).min(1 << 20) as usize;
            let mut pages = vec![0; len / 4096 * 8];
            let is_mapped = pagemap.read_at(&mut pages, at / 4096 * 8).is_ok()
                && pages.chunks_exact(8).any(|page| page[7] & 0x80 != 0);
            if !is_mapped {
                continue;
            }
            let Ok(len) = memory.read_at(&mut bytes[..len], at) else { continue };
            let first: [u8; 8] = std::array::from_fn(|index| !turned[index]);
            let is_there = |offset: usize| {
                let rest = bytes[offset..len].iter();
                offset + turned.len() <= len && rest.zip(turned).all(|(a, b)| *a == !*b)
            };
            let words = bytes[..len].chunks_exact(8).enumerate();
            let found: Vec<usize> = words
                .filter(|(_, word)| **word == first)
                .map(|(index, _)| index * 8)
                .filter(|offset| is_there(*offset))
                .collect();
            for offset in found {
                let byte = bytes[offset + 3] ^ 4;
                memory.write_all_at(&[byte], at + offset as u64 + 3).expect("writable");
                flipped += 1;
            }
        }
        bytes.fill(0);
    }
    flipped
}

#[test]
fn a_value_that_goes_bad_in_memory_is_found_after_compaction_and_not_sealed_for_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().streams(1).open(dir.path()).expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let turned: Vec<u8> = (0..64_u8).map(|n| n.wrapping_mul(37) ^ 0x5b).collect();
    let cold: Vec<u8> = turned.iter().map(|byte| !byte).collect();
    map.insert(&1, &cold).expect("room");
    drop(cold);
    for key in 10..4_000 {
        map.insert(&key, &[7; 200]).expect("room");
    }
    assert!(flip_in_memory(&turned) > 0, "the value is in memory");
    let mut round = 0_u64;
    while store.stats().chunks_freed < 120 {
        for key in 10..4_000 {
            map.insert(&key, &value(key, round, 200)).expect("room");
        }
        round += 1;
    }
    drop(map);
    store.close().expect("a clean end");
    let refused = builder().streams(1).open(dir.path()).expect_err("a value that went bad");
    assert!(refused.to_string().contains("went bad in memory"), "{refused}");
}

/// What a put is told that finds the budget used up by chunks that cannot be compacted.
#[test]
fn a_put_at_the_disk_budget_is_told_what_is_allocated_and_the_store_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().put_timeout_ms(300).open(dir.path()).expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let mut oracle = HashMap::new();
    // Whatever is full is gone for compaction: the names of the files are.
    let hide = |from: &str, to: &str| {
        for entry in std::fs::read_dir(dir.path()).expect("a directory").flatten() {
            let name = entry.file_name().into_string().expect("a name");
            if let Some(number) = name.strip_prefix(from) {
                let other = dir.path().join(format!("{to}{number}"));
                std::fs::rename(entry.path(), other).expect("renamed");
            }
        }
    };
    let mut refused = None;
    'rounds: for round in 0..400_u64 {
        hide("chunk-", "hidden-");
        for key in 0..1_000 {
            match map.insert(&key, &value(key, round, 400)) {
                Ok(()) => drop(oracle.insert(key, value(key, round, 400))),
                Err(error) => {
                    refused = Some(error);
                    break 'rounds;
                }
            }
        }
    }
    let refused = refused.expect("it is refused at last");
    let hotrestart::Error::Log(source) = &refused else { panic!("{refused}") };
    let Some(LogFailure::DiskBudget { allocated_bytes, budget_bytes, .. }) = source.downcast_ref()
    else {
        panic!("{refused}")
    };
    assert!(allocated_bytes >= budget_bytes, "{refused}");
    assert!(!store.stats().chunks_damaged.is_empty(), "the chunks that cannot be read are named");
    check(&map, &oracle);
    assert!(map.remove(&1).expect("removals go on"));
    oracle.remove(&1);
    hide("hidden-", "chunk-");
    drop(map);
    store.close().expect("a clean end");
    let store = builder().open(dir.path()).expect("everything is there");
    check(&store.map("m", MapOptions::default()).expect("the map"), &oracle);
}

#[test]
fn padding_of_short_blocks_is_garbage_that_compaction_gives_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = builder().streams(1).put_timeout_ms(20_000).open(dir.path()).expect("a store");
    let level = MapOptions::default().durability(Durability::Written);
    let map: Map<U64, Bytes> = store.map("m", level).expect("a map");
    // Each put is a block of its own, of which it takes a quarter; no record is ever superseded.
    let mut oracle = HashMap::new();
    for key in 0..6_000 {
        put(&map, &mut oracle, key, value(key, 1, 1_000));
    }
    let stats = store.stats();
    assert!(stats.bytes_submitted > 6_000 * 4096, "{} bytes: no padding", stats.bytes_submitted);
    let bound = bound_bytes(&stats, 2.0);
    assert!(stats.allocated_bytes <= bound, "{} of {bound}", stats.allocated_bytes);
    assert!(stats.chunks_freed > 40, "{} chunks were freed", stats.chunks_freed);
    check(&map, &oracle);
    drop(map);
    store.abandon();
    let store = builder().streams(1).open(dir.path()).expect("recovery");
    check(&store.map("m", MapOptions::default()).expect("the map"), &oracle);
}
