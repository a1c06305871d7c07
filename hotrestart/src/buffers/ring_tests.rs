//! The ring against its hazards: closing while others reserve, numbers of blocks, room for the chunk's
//! directory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::layout::Geometry;
use super::ring::{First, Ring};
use crate::format::block::sealed_len;
use crate::format::chunk::CHUNK_HEADER_LEN;
use crate::format::directory::{DIRECTORY_HEADER_LEN, LINE_LEN, TABLE_LEN};
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
        assert_eq!(sealed.number, self.next_number, "turn {}", self.next_turn);
        self.next_number += 1 + u64::from(sealed.ends_chunk);
        self.bytes += sealed.payload_len as u64;
        self.records += u64::from(sealed.records);
        self.next_turn += 1;
        ring.release(self.next_turn);
        Some((sealed.payload_len, u64::from(sealed.records), sealed.ends_chunk))
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
                    while let Ok(room) = ring.reserve(len, First::May, soon(), || true) {
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

/// Fills chunks with records of these lengths, and plays the writer. At a record there are more tables:
/// (record, tables).
fn fill(chunk_size: u64, lens: &[usize], tables: &[(usize, u64)], chunks: u32) {
    let ring = ring(chunk_size, 2);
    let mut drain = Drain::default();
    let (mut used, mut records, mut touched, mut ended) = (CHUNK_HEADER_LEN, 0, 0, 0);
    let mut known = 1;
    // By turn, how many tables that are new to its chunk it may hold records of, at worst.
    let mut worst: std::collections::VecDeque<(u64, u64)> = std::collections::VecDeque::new();
    for n in 0.. {
        for (_, tables) in tables.iter().filter(|(at, _)| *at == n) {
            known = known.max(*tables);
            ring.set_tables(known);
        }
        let room = loop {
            match ring.reserve(lens[n % lens.len()], First::May, None, || true) {
                Ok(room) => break room,
                Err(_) => {
                    let (payload, of_turn, ends) = drain.take(&ring).expect("a sealed turn");
                    used += sealed_len(payload);
                    records += of_turn;
                    while worst.front().is_some_and(|(turn, _)| *turn < drain.next_turn) {
                        let known = worst.pop_front().map_or(0, |(_, known)| known);
                        touched = known.min(touched + 1);
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
        worst.push_back((room.turn(), known));
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
        tables in prop::collection::vec((0..30_000usize, 1..60_000u64), 1..5),
    ) {
        fill(1 << shift, &lens, &tables, 4);
    }
}

#[test]
fn the_directory_of_the_largest_chunk_of_the_smallest_records_has_room() {
    fill(64 << 20, &[19], &[(70_000, 60_000)], 2);
    // Sparse records first, then dense ones: the estimate from the past is wrong as it can be.
    let mut lens = vec![60_000; 100];
    lens.extend(vec![19; 400_000]);
    fill(8 << 20, &lens, &[(0, 64)], 6);
}

#[test]
fn a_map_made_while_a_chunk_fills_up_does_not_take_the_directorys_room() {
    for at in (0..9_000).step_by(97) {
        fill(256 << 10, &[19], &[(at, 40_000)], 2);
    }
}

#[test]
fn maps_that_are_made_one_after_the_other_do_not_use_a_chunk_up_each() {
    let ring = ring(8 << 20, 8);
    let mut drain = Drain::default();
    let mut ended = 0;
    for maps in 1..=100 {
        ring.set_tables(maps * 64);
        let room = ring.reserve(100, First::May, None, || true).unwrap_or_else(|_| panic!("room"));
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
            ring.reserve(100, First::May, None, || true)
                .unwrap_or_else(|_| panic!("room"))
                .commit();
        }
        ring.seal_turn(turn);
        assert!(drain.take(&ring).is_some(), "turn {turn} is whole");
    }
    for _ in 0..5 {
        std::mem::forget(
            ring.reserve(100, First::May, None, || true).unwrap_or_else(|_| panic!("room")),
        );
    }
    ring.reserve(100, First::May, None, || true).unwrap_or_else(|_| panic!("room")).commit();
    ring.seal_turn(4);
    assert!(ring.sealed(4).is_none(), "it is not whole");
    assert_eq!(ring.committed_records(4, 6), 1, "only the one that was committed in this turn");
}
