//! Headers of chunks that cannot be read after a power cut: gone bad, or never whole on the device.
//!
//! Hazards: flushed blocks are lost without a word because of one bit in a header; a store whose header was
//! cut off by the power cut, as may happen to any, is refused.

use std::sync::{Arc, Mutex};

use crate::bench::{Machine, map_of};
use hotrestart::codec::{Bytes, U64};
use hotrestart::format::{ChunkHeader, FileNumber};
use hotrestart::io::Disk;
use hotrestart::io::sim::{FaultPlan, SimDisk};
use hotrestart::{Durability, Map, MapOptions, OpenError, Problem, RecoveryMode, Store};

const PUTS: u64 = 200;
const CRC_AT: u64 = 4092;

/// A store whose machine lost its power after `PUTS` puts, each of them flushed.
fn after_synced_puts(writers: u32) -> Machine {
    let mut machine = Machine::new(90 + u64::from(writers));
    let store = machine.open(writers).expect("a new store");
    let synced = MapOptions::default().durability(Durability::Synced);
    let map: Map<U64, Bytes> = store.map("m", synced).expect("a map");
    for key in 0..PUTS {
        map.insert(&key, &key.to_le_bytes()).expect("room");
    }
    drop(map);
    machine.crash(Some(store), true);
    machine
}

/// The chunks of a writer, from the oldest to the newest.
fn chunks_of(disk: &SimDisk, writer: u32) -> Vec<(ChunkHeader, String)> {
    let entries = disk.list().expect("a directory");
    let names = entries.into_iter().map(|entry| entry.name);
    let chunks = names.filter(|name| FileNumber::from_file_name(name).is_some());
    let mut chunks: Vec<_> = chunks
        .filter_map(|name| {
            let header = ChunkHeader::decode(&disk.content(&name)?).ok()?;
            (header.writer.0 == writer).then_some((header, name))
        })
        .collect();
    chunks.sort_by_key(|(header, _)| header.chunk);
    chunks
}

/// The chunk that a writer was filling when the power went.
fn last_chunk(disk: &SimDisk, writer: u32) -> String {
    chunks_of(disk, writer).pop().expect("a chunk").1
}

/// A disk with the same content.
fn copy_of(disk: &SimDisk) -> SimDisk {
    let copy = Arc::new(Mutex::new(None));
    let taken = Arc::clone(&copy);
    disk.watch(move |moment| {
        let image = moment.crash(false, &FaultPlan::default(), 1);
        *taken.lock().expect("no panic") = Some(image);
    });
    disk.note_step();
    disk.unwatch();
    copy.lock().expect("no panic").take().expect("it was looked at")
}

fn opened(machine: &Machine, disk: &SimDisk, mode: RecoveryMode) -> Result<Store, OpenError> {
    machine.on(disk.clone()).builder().writers(1).recovery(mode).open("/simulated")
}

fn refused(machine: &Machine, disk: &SimDisk, about: &str) -> Vec<Problem> {
    match opened(machine, disk, RecoveryMode::Strict) {
        Err(OpenError::Corrupt { problems }) => problems,
        Err(error) => panic!("{about}: {error}"),
        Ok(store) => panic!("{about}: opened, with {} entries", map_of(&store).len()),
    }
}

/// Of the last block of a life no later one says that it was flushed.
#[test]
fn a_flipped_bit_in_the_header_of_a_chunk_with_one_flushed_block_takes_it_not_along_without_a_word()
{
    let mut machine = Machine::new(97);
    let store = machine.open(1).expect("a new store");
    let synced = MapOptions::default().durability(Durability::Synced);
    let map: Map<U64, Bytes> = store.map("m", synced).expect("a map");
    map.insert(&1, &1_u64.to_le_bytes()).expect("room");
    drop(map);
    machine.crash(Some(store), true);
    for offset in [0, 34, 48, 64, 3_000, CRC_AT] {
        let about = format!("offset {offset}");
        let disk = copy_of(&machine.disk);
        let file = last_chunk(&disk, 0);
        disk.flip_bit(&file, offset, 0);
        of_header(&refused(&machine, &disk, &about), &file, &about);
        let report = machine.on(disk.clone()).inspect();
        assert!(report.problems.iter().any(|problem| problem.file == file), "{about}");
        assert_eq!(salvaged(&machine, &disk, &file, &about), 1, "{about}");
    }
}

/// The problem with the header of a file; without one the test fails.
fn of_header<'p>(problems: &'p [Problem], file: &str, about: &str) -> &'p Problem {
    let found = problems.iter().find(|problem| problem.file == file && problem.offset == 0);
    found.unwrap_or_else(|| panic!("{about}: not named: {problems:?}"))
}

/// What a store holds that was salvaged; the file with the damaged header is as it was.
fn salvaged(machine: &Machine, disk: &SimDisk, file: &str, about: &str) -> u64 {
    let before = disk.content(file);
    let store = opened(machine, disk, RecoveryMode::Salvage)
        .unwrap_or_else(|error| panic!("{about}: {error}"));
    of_header(&store.recovery().problems, file, about);
    let map = map_of(&store);
    let entries = map.len() as u64;
    for entry in map.iter() {
        let key = entry.key().expect("a number");
        assert_eq!(entry.value_bytes(), key.to_le_bytes(), "{about}");
    }
    drop(map);
    assert!(disk.content(file) == before, "{about}: the file was changed");
    store.abandon();
    entries
}

#[test]
fn a_flipped_bit_in_the_header_of_the_last_chunk_is_no_header_that_was_cut_off() {
    // Magic, version, features, store, id, life, writer, origin, size, first block, marks, bytes that are
    // always zeros, checksum.
    let places =
        [0, 8, 12, 16, 32, 36, 40, 48, 52, 56, 64, 66, 72, 80, 100, 168, 2_000, 4_091, CRC_AT];
    for writers in [1, 2] {
        let machine = after_synced_puts(writers);
        for (writer, offset) in (0..writers).flat_map(|writer| places.map(|at| (writer, at))) {
            let about = format!("writer {writer} of {writers}, offset {offset}");
            let disk = copy_of(&machine.disk);
            let (header, file) = chunks_of(&disk, writer).pop().expect("a chunk");
            disk.flip_bit(&file, offset, 0);
            let before = disk.content(&file);
            let problems = refused(&machine, &disk, &about);
            let problem = of_header(&problems, &file, &about);
            let blocks = format!("blocks {} to ", header.first_block);
            let of = format!("of writer {writer} in life 1");
            assert!(problem.what.starts_with("chunk header: "), "{about}: {problem}");
            assert!(problem.what.contains(&blocks) && problem.what.contains(&of), "{problem}");
            assert!(disk.content(&file) == before, "{about}: the file was changed");
            let report = machine.on(disk.clone()).inspect();
            let is_named = |problem: &hotrestart::inspect::Problem| {
                problem.file == file && problem.offset == 0 && problem.found.contains(&of)
            };
            assert!(report.problems.iter().any(is_named), "{about}: {:?}", report.problems);
            assert_eq!(report.totals.entries, PUTS, "{about}");
        }
    }
}

#[test]
fn what_lies_behind_a_header_with_a_flipped_bit_is_salvaged_again_and_again() {
    for (writers, offset) in [(1, 0), (1, 34), (1, 48), (1, 64), (2, 48), (2, 3_000)] {
        let mut machine = after_synced_puts(writers);
        for chunk in [0, 1] {
            let about = format!("{writers} writers, offset {offset}, chunk {chunk} from the end");
            let disk = copy_of(&machine.disk);
            let (_, file) = chunks_of(&disk, 0).into_iter().rev().nth(chunk).expect("a chunk");
            disk.flip_bit(&file, offset, 0);
            assert_eq!(salvaged(&machine, &disk, &file, &about), PUTS, "{about}");
            // Then the life is cut; its end was decided with the blocks of this chunk.
            let disk = disk.crash(true);
            machine.note_crash(true);
            of_header(&refused(&machine, &disk, &about), &file, &about);
            let report = machine.on(disk.clone()).inspect();
            assert!(report.problems.iter().any(|problem| problem.file == file), "{about}");
            assert_eq!(report.totals.entries, PUTS, "{about}");
            assert_eq!(salvaged(&machine, &disk, &file, &about), PUTS, "{about}, again");
        }
    }
}

#[test]
fn a_header_of_which_nothing_is_left_is_damage_when_flushed_blocks_lie_behind_it() {
    let machine = after_synced_puts(1);
    let file = last_chunk(&machine.disk, 0);
    type Damage<'a> = (&'a str, &'a dyn Fn(&mut [u8]));
    let damages: [Damage<'_>; 4] = [
        ("zeros", &|header| header.fill(0)),
        ("another's bytes", &|header| header.fill(0x5a)),
        ("a sector of another's bytes", &|header| header[..512].fill(0xa5)),
        ("some bits of fields", &|header| {
            [32, 40, 48].into_iter().for_each(|at| header[at] ^= 0x13)
        }),
    ];
    for (about, damage) in damages {
        let disk = copy_of(&machine.disk);
        damaged(&disk, &file, damage);
        let before = disk.content(&file);
        let problems = refused(&machine, &disk, about);
        let problem = of_header(&problems, &file, about);
        assert!(problem.what.contains("blocks ") && problem.what.contains("life 1"), "{problem}");
        assert!(disk.content(&file) == before, "{about}: the file was changed");
        let report = machine.on(disk.clone()).inspect();
        let is_named = |problem: &hotrestart::inspect::Problem| problem.file == file;
        assert!(report.problems.iter().any(is_named), "{about}: {:?}", report.problems);
        let left = salvaged(&machine, &disk, &file, about);
        assert!(0 < left && left < PUTS, "{about}: {left} entries");
        assert_eq!(report.totals.entries, left, "{about}");
    }
}

/// Changes the header of a chunk on the medium.
fn damaged(disk: &SimDisk, file: &str, damage: &dyn Fn(&mut [u8])) {
    let before = disk.content(file).expect("a file");
    let mut header = before[..4096].to_vec();
    damage(&mut header);
    for (at, (old, new)) in before.iter().zip(&header).enumerate() {
        for bit in (0..8).filter(|bit| (old ^ new) >> bit & 1 == 1) {
            disk.flip_bit(file, at as u64, bit);
        }
    }
}

#[test]
fn a_header_that_was_never_flushed_and_is_torn_is_a_write_that_was_cut_off() {
    let mut machine = Machine::new(95);
    let quiet = machine.builder().writers(1).flush_interval_ms(3_600_000);
    let store = quiet.open("/simulated").expect("a new store");
    let map = map_of(&store);
    for key in 0..60 {
        map.insert(&key, &vec![key as u8; 5_000]).expect("room");
        store.persist(Durability::Written).expect("written");
    }
    assert_eq!(store.stats().flushes, 0, "nothing is known to be flushed");
    drop(map);
    // The device had taken all of it when the power went, but for a piece of a header.
    machine.crash(Some(store), false);
    for (chunk, tear) in [(0, 0..512), (0, 3_584..4_096), (1, 0..4_096)] {
        let disk = copy_of(&machine.disk);
        let (header, file) = chunks_of(&disk, 0).into_iter().nth(chunk).expect("a chunk");
        damaged(&disk, &file, &|header| header[tear.clone()].fill(0));
        // While the machine runs nothing that was written may be gone.
        let problems = refused(&machine, &disk, "in the same boot");
        of_header(&problems, &file, "in the same boot");
        let mut other = machine.on(disk);
        other.note_crash(true);
        let report = other.inspect();
        assert!(report.is_sound, "{:#?}", report.problems);
        let store = other.open(1).expect("a torn tail");
        assert_eq!(store.recovery().problems, []);
        let [cut] = store.recovery().cuts[..] else { panic!("{:?}", store.recovery().cuts) };
        assert_eq!(cut.blocks, header.first_block.0);
    }
}
