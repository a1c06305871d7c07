//! The ring against its hazards: closing while others reserve, numbers of blocks, room for the chunk's
//! directory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::layout::{Geometry, Owner};
use super::recover::parse;
use super::ring::{First, Ring};
use super::room::copy_region;
use crate::format::block::{BLOCK_HEADER_LEN, sealed_len};
use crate::format::chunk::CHUNK_HEADER_LEN;
use crate::format::directory::{DIRECTORY_HEADER_LEN, LINE_LEN, TABLE_LEN};
use crate::format::record::{patch_seq, void_record};
use crate::format::{BootId, LifeNumber, MapId, RecordHeader, Records, StoreId, StreamId};
use crate::io::{AlignedBuf, Region};

fn ring(chunk_size: u64, buffers: u32) -> Ring {
    let geometry = Geometry::for_chunks(chunk_size, 1, buffers);
    let region = Region::from_buf(AlignedBuf::zeroed(geometry.file_bytes()));
    Ring::new(region, geometry, 0, chunk_size)
}

/// What the writer would do: takes sealed turns in order and checks that their numbers leave exactly the
/// directories out.
#[derive(Default)]
struct Drain {
    next_turn: u64,
    next_number: u64,
    bytes: u64,
    records: u64,
}

impl Drain {
    /// Takes one turn. Its payload and records, and whether the chunk ends.
    fn take(&mut self, ring: &Ring) -> Option<(usize, u64, bool)> {
        let sealed = ring.sealed(self.next_turn)?;
        let records = ring.handed_out(self.next_turn).0 as u64;
        self.records += records;
        assert_eq!(sealed.number, self.next_number, "turn {}", self.next_turn);
        self.next_number += 1 + u64::from(sealed.ends_chunk);
        self.bytes += sealed.payload_len as u64;
        self.next_turn += 1;
        ring.release(self.next_turn);
        Some((sealed.payload_len, records, sealed.ends_chunk))
    }
}

#[test]
fn closing_while_buffers_turn_over_hands_out_no_room_that_is_never_written() {
    for round in 0..500u64 {
        let ring = ring(256 << 10, 24);
        let taken = AtomicU64::new(0);
        let drained = std::thread::scope(|scope| {
            for thread in 0..2u64 {
                let (ring, taken) = (&ring, &taken);
                scope.spawn(move || {
                    let len = [33_000, 57_000, 40_000, 9_000][((round + thread) % 4) as usize];
                    let soon = || Some(Instant::now() + Duration::from_secs(60));
                    while let Ok(room) = ring.reserve((len, 1), First::May, soon(), || true) {
                        room.commit();
                        taken.fetch_add(len as u64, Ordering::Relaxed);
                    }
                });
            }
            let mut drain = Drain::default();
            while drain.next_turn < round % 30 {
                drain.take(&ring);
            }
            ring.close();
            let start = Instant::now();
            while !ring.is_ended(drain.next_turn) {
                assert!(start.elapsed() < Duration::from_secs(10), "a turn is open after the end");
                drain.take(&ring);
            }
            drain.bytes
        });
        assert_eq!(taken.load(Ordering::Relaxed), drained, "round {round}");
    }
}

/// Fills chunks with rooms of these lengths, of `group` records each, and plays the writer. At a room there
/// are more tables: (room, tables).
fn fill(chunk_size: u64, (lens, group): (&[usize], usize), tables: &[(usize, u64)], chunks: u32) {
    let ring = ring(chunk_size, 2);
    let mut drain = Drain::default();
    let (mut used, mut records, mut touched, mut ended) = (CHUNK_HEADER_LEN, 0, 0, 0);
    let mut known = 1;
    // By room, its turn, how many tables there are, and of how many that are new to its chunk it may hold
    // records, at worst.
    let mut worst: std::collections::VecDeque<(u64, u64, u64)> = std::collections::VecDeque::new();
    for n in 0.. {
        for (_, tables) in tables.iter().filter(|(at, _)| *at == n) {
            known = known.max(*tables);
            ring.set_tables(known);
        }
        let len = lens[n % lens.len()];
        // A record has at least 15 bytes.
        let count = group.min(len / 15);
        let room = loop {
            match ring.reserve((len, count), First::May, None, || true) {
                Ok(room) => break room,
                Err(_) => {
                    let (payload, of_turn, ends) = drain.take(&ring).expect("a sealed turn");
                    used += sealed_len(payload);
                    records += of_turn;
                    while let Some((_, known, new)) =
                        worst.pop_front_if(|(turn, ..)| *turn < drain.next_turn)
                    {
                        touched = known.min(touched + new);
                    }
                    if ends {
                        let tables = touched as usize * TABLE_LEN;
                        let lines = records as usize * LINE_LEN;
                        let directory = sealed_len(DIRECTORY_HEADER_LEN + tables + lines);
                        assert!(
                            used + directory <= chunk_size as usize,
                            "{used} bytes of blocks and {directory} of directory for {records} records"
                        );
                        (used, records, touched) = (CHUNK_HEADER_LEN, 0, 0);
                        ended += 1;
                    }
                }
            }
        };
        worst.push_back((room.turn(), known, count as u64));
        room.commit();
        if ended == chunks {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_directory_of_a_chunk_always_has_room(
        shift in 18..22u32,
        lens in prop::collection::vec(
            prop_oneof![4 => 20..40usize, 2 => 100..3_000usize, 1 => 3_000..57_000usize],
            1..6,
        ),
        group in prop_oneof![2 => Just(1usize), 1 => 2..257usize],
        tables in prop::collection::vec((0..30_000usize, 1..60_000u64), 1..5),
    ) {
        fill(1 << shift, (&lens, group), &tables, 4);
    }
}

#[test]
fn the_directory_of_the_largest_chunk_of_the_smallest_records_has_room() {
    fill(64 << 20, (&[19], 1), &[(70_000, 60_000)], 2);
    fill(64 << 20, (&[15 * 256], 256), &[(700, 60_000)], 2);
    // Sparse records first, then dense ones: the estimate from the past is wrong as it can be.
    let mut lens = vec![60_000; 100];
    lens.extend(vec![19; 400_000]);
    fill(8 << 20, (&lens, 1), &[(0, 64)], 6);
}

#[test]
fn a_map_made_while_a_chunk_fills_up_does_not_take_the_directorys_room() {
    for at in (0..9_000).step_by(97) {
        fill(256 << 10, (&[19], 1), &[(at, 40_000)], 2);
    }
}

#[test]
fn maps_that_are_made_one_after_the_other_do_not_use_a_chunk_up_each() {
    let ring = ring(8 << 20, 8);
    let mut drain = Drain::default();
    let mut ended = 0;
    for maps in 1..=100 {
        ring.set_tables(maps * 64);
        let room =
            ring.reserve((100, 1), First::May, None, || true).unwrap_or_else(|_| panic!("room"));
        let turn = room.turn();
        room.commit();
        // Somebody waits for it, so that it is written at once.
        ring.seal_turn(turn);
        while let Some((_, _, ends)) = drain.take(&ring) {
            ended += u32::from(ends);
        }
    }
    assert_eq!(drain.records, 100);
    assert!(ended <= 1, "{ended} chunks were ended for 100 records");
}

#[test]
fn a_record_of_a_former_turn_does_not_count_where_a_thread_died_with_its_room() {
    let ring = ring(256 << 10, 2);
    let mut drain = Drain::default();
    // Two rounds over both buffers, so that each word of the commit table had a record.
    for turn in 0..4 {
        for _ in 0..10 {
            ring.reserve((100, 1), First::May, None, || true)
                .unwrap_or_else(|_| panic!("room"))
                .commit();
        }
        ring.seal_turn(turn);
        assert!(drain.take(&ring).is_some(), "turn {turn} is whole");
    }
    for _ in 0..5 {
        std::mem::forget(
            ring.reserve((100, 1), First::May, None, || true).unwrap_or_else(|_| panic!("room")),
        );
    }
    ring.reserve((100, 1), First::May, None, || true).unwrap_or_else(|_| panic!("room")).commit();
    ring.seal_turn(4);
    assert!(ring.sealed(4).is_none(), "it is not whole");
    assert_eq!(ring.handed_out(4), (6, 1), "only the one that was committed in this turn");
}

/// What an opening would find in a ring whose process dies now: of each record its seq and the length of its
/// key, or what is wrong with it.
fn left_of(region: &std::sync::Arc<Region>, geometry: &Geometry) -> Vec<(u64, usize)> {
    let owner = Owner { store: StoreId([1; 16]), life: LifeNumber(1), boot: BootId([2; 16]) };
    let mut bytes = copy_region(region);
    let header = geometry.encode(&owner);
    bytes[..header.len()].copy_from_slice(&header);
    let left = parse(bytes, &owner).expect("its own buffers");
    let rooms = left.blocks.values().flatten();
    let records = rooms.flat_map(|(at, len)| Records::new(&left.bytes[*at..at + len]));
    records
        .map(|record| {
            let record = record.expect("whatever counts is whole");
            (record.seq, record.key.len())
        })
        .collect()
}

/// The records of a group become whole by one word: who dies at any step before it leaves none of them.
#[test]
fn a_process_that_dies_in_the_middle_of_a_group_leaves_all_of_it_or_nothing() {
    let geometry = Geometry::for_chunks(256 << 10, 1, 2);
    let region = Region::from_buf(AlignedBuf::zeroed(geometry.file_bytes()));
    let ring = Ring::new(std::sync::Arc::clone(&region), geometry, 0, 256 << 10);
    let (map, stream) = (MapId(1), StreamId(0));
    let headers = [
        RecordHeader::entry(map, stream, 1, 20, None),
        RecordHeader::absence(map, stream, 2),
        RecordHeader::entry(map, stream, 3, 0, Some(5)),
    ];
    let total = headers.iter().map(RecordHeader::encoded_len).sum();
    let reserve = |len, count| {
        ring.reserve((len, count), First::May, None, || true).unwrap_or_else(|_| panic!("room"))
    };
    // Somebody else's room lies before the group's, and is never committed.
    std::mem::forget(reserve(50, 1));
    let mut room = reserve(total, headers.len());
    assert_eq!(ring.handed_out(0), (4, 0));
    let (mut at, mut places) = (0, Vec::new());
    for header in &headers {
        let (key, value) = (vec![7; header.key_len.into()], vec![9; header.value_len as usize]);
        places.push(at..at + header.encode_into(&key, &value, &mut room.bytes()[at..]));
        at = places[places.len() - 1].end;
        assert_eq!(left_of(&region, &geometry), []);
    }
    for (place, seq) in places.iter().zip([4, 0, 5]) {
        let record = &mut room.bytes()[place.clone()];
        if seq == 0 {
            void_record(record)
        } else {
            patch_seq(record, seq)
        }
        assert_eq!(left_of(&region, &geometry), []);
    }
    room.commit();
    assert_eq!(left_of(&region, &geometry), [(4, 1), (5, 3)]);
    let mut next = reserve(headers[1].encoded_len(), 1);
    headers[1].encode_into(&[7; 2], &[], next.bytes());
    patch_seq(next.bytes(), 6);
    assert_eq!(left_of(&region, &geometry), [(4, 1), (5, 3)]);
    next.commit();
    assert_eq!(left_of(&region, &geometry), [(4, 1), (5, 3), (6, 2)]);
}

/// What a thread has reserved ahead is padding when its turn is sealed, whatever the buffer held in a former
/// turn, and nobody waits for that thread.
#[test]
fn what_an_idle_thread_reserved_ahead_holds_no_block_back() {
    let ring = ring(256 << 10, 2);
    let header = RecordHeader::entry(MapId(1), StreamId(0), 8, 200, None);
    let len = header.encoded_len();
    let mut seq = 0;
    for turn in 0..6 {
        let first = seq + 1;
        // Every turn ends in the middle of a span: after 32 records they are of two.
        for _ in 0..61 {
            let room = ring.reserve((len, 1), First::May, None, || true);
            let mut room = room.unwrap_or_else(|_| panic!("room"));
            assert_eq!(room.turn(), turn);
            seq += 1;
            header.encode_into(&[7; 8], &[9; 200], room.bytes());
            patch_seq(room.bytes(), seq);
            room.commit();
        }
        let reserved = ring.reserved_bytes(turn);
        assert!(reserved > 61 * len && reserved < 64 * len, "{reserved} bytes in turn {turn}");
        ring.seal_turn(turn);
        let sealed = ring.sealed(turn).expect("nobody is in the middle of anything");
        assert_eq!(sealed.payload_len, reserved);
        let block = crate::io::IoBuf::from(ring.block(turn, reserved));
        let payload = &block[BLOCK_HEADER_LEN..BLOCK_HEADER_LEN + reserved];
        let seqs: Vec<u64> =
            Records::new(payload).map(|record| record.expect("whole").seq).collect();
        assert_eq!(seqs, (first..=seq).collect::<Vec<_>>(), "turn {turn}");
        drop(block);
        ring.release(turn + 1);
    }
}
