//! Models of the ring under loom: every order of reservations, commits, sealing, release and closing that
//! the memory model allows.
//!
//! The code that runs is the ring's own. The oracle has a state: each thread notes what it committed and
//! what it gave up, the writer notes what it saw. At the end both must be the same: each committed record
//! exactly once, in the turn that its room named, each given-up room as padding, and nothing that came
//! after the sealing of its turn. That no two threads have the same bytes at once is judged by `watched.rs`
//! at every access. A wake that is lost is a deadlock here, since loom's clock never strikes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use loom::thread;

use super::layout::Geometry;
use super::ring::{First, NoRoom, Ring};
use super::turns::SealedTurn;
use crate::format::block::BLOCK_HEADER_LEN;
use crate::io::{AlignedBuf, Region, Waker};

/// Bytes of a record in these models: more than the shortest padding.
const LEN: usize = 16;
const PADDING: u8 = 4;
/// What marks the second record of a group, which has no word of its own in the commit table.
const SECOND: u8 = 0x80;

fn model(preemptions: usize, check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 50_000;
    builder.preemption_bound.get_or_insert(preemptions);
    let executions = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&executions);
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        check();
    });
    println!("{} executions", executions.load(Relaxed));
}

/// Two buffers of so many records each.
fn ring(records_max: u32) -> Arc<Ring> {
    let geometry = Geometry { writers: 1, buffers_per_writer: 2, buffer_bytes: 4096, records_max };
    let region = Region::from_buf(AlignedBuf::zeroed(geometry.file_bytes()));
    Arc::new(Ring::new(region, geometry, 0, 1 << 20))
}

/// What threads did: (turn, id) of what was committed, and turns with something that was given up.
#[derive(Default)]
struct Oracle {
    committed: StdMutex<Vec<(u64, u8)>>,
    given_up: StdMutex<Vec<u64>>,
}

/// The end of all time, as a deadline.
fn never() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(86_400))
}

impl Oracle {
    fn put(&self, ring: &Ring, id: u8) -> Result<(), NoRoom> {
        let mut room = ring.reserve((LEN, 1), First::May, never(), || true)?;
        room.bytes().fill(id);
        let turn = room.turn();
        // Noted before the commit: the writer may see it at once.
        self.committed.lock().expect("no panic").push((turn, id));
        room.commit();
        Ok(())
    }

    /// A group of two records in one room.
    fn put_group(&self, ring: &Ring, id: u8) -> Result<(), NoRoom> {
        let mut room = ring.reserve((2 * LEN, 2), First::May, never(), || true)?;
        room.bytes()[..LEN].fill(id);
        room.bytes()[LEN..].fill(id | SECOND);
        let turn = room.turn();
        self.committed.lock().expect("no panic").extend([(turn, id), (turn, id | SECOND)]);
        room.commit();
        Ok(())
    }

    fn give_up(&self, ring: &Ring) {
        let room = ring.reserve((LEN, 1), First::May, never(), || true).expect("room");
        self.given_up.lock().expect("no panic").push(room.turn());
        drop(room);
    }

    fn check(&self, seen: Seen) {
        let mut committed = std::mem::take(&mut *self.committed.lock().expect("no panic"));
        let mut given_up = std::mem::take(&mut *self.given_up.lock().expect("no panic"));
        committed.sort_unstable();
        given_up.sort_unstable();
        assert_eq!(seen.records, committed, "what was committed is what was written, in its turn");
        assert_eq!(seen.paddings, given_up, "what was given up is padding");
    }
}

/// What the writer saw.
#[derive(Default)]
struct Seen {
    next_turn: u64,
    next_number: u64,
    records: Vec<(u64, u8)>,
    paddings: Vec<u64>,
}

impl Seen {
    /// Takes the next turn if it is whole, as the writer does, and gives its buffer back.
    fn take(&mut self, ring: &Ring) -> bool {
        let Some(sealed) = ring.sealed(self.next_turn) else { return false };
        self.look(ring, &sealed);
        self.next_turn += 1;
        ring.release(self.next_turn);
        true
    }

    fn look(&mut self, ring: &Ring, sealed: &SealedTurn) {
        assert_eq!(sealed.number, self.next_number, "blocks are numbered without a gap");
        self.next_number += 1 + u64::from(sealed.ends_chunk);
        let block = ring.block(self.next_turn, sealed.payload_len);
        let block = crate::io::IoBuf::from(block);
        let payload = &block[BLOCK_HEADER_LEN..BLOCK_HEADER_LEN + sealed.payload_len];
        let mut rooms = 0;
        for record in payload.chunks(LEN) {
            if record[0] == PADDING {
                assert_eq!(record[4], LEN as u8);
                self.paddings.push(self.next_turn);
            } else {
                assert!(record.iter().all(|byte| *byte == record[0]), "a torn record {record:?}");
                assert_ne!(record[0], 0, "a turn counted as whole before its bytes were there");
                self.records.push((self.next_turn, record[0]));
                rooms += usize::from(record[0] & SECOND == 0);
            }
        }
        let whole = ring.handed_out(self.next_turn).1;
        assert_eq!(whole, rooms, "the commit table names what is there");
        self.records.sort_unstable();
    }

    /// Seals and takes, as a writer does that somebody waits for, until it has seen so many rooms.
    fn take_rooms(&mut self, ring: &Ring, rooms: usize) {
        while self.records.len() + self.paddings.len() < rooms {
            ring.seal_turn(self.next_turn);
            if !self.take(ring) {
                thread::yield_now();
            }
        }
    }

    /// Takes everything that comes until the ring has ended.
    fn drain(mut self, ring: &Ring) -> Seen {
        while !ring.is_ended(self.next_turn) {
            if !self.take(ring) {
                thread::yield_now();
            }
        }
        self.paddings.sort_unstable();
        self
    }
}

#[test]
fn what_is_committed_is_written_once_and_nothing_after_sealing() {
    model(4, || {
        let (ring, oracle) = (ring(4), Arc::new(Oracle::default()));
        let putters = [1u8, 2].map(|id| {
            let (ring, oracle) = (Arc::clone(&ring), Arc::clone(&oracle));
            thread::spawn(move || oracle.put(&ring, id).expect("room"))
        });
        let mut seen = Seen::default();
        seen.take_rooms(&ring, 2);
        for putter in putters {
            putter.join().expect("no panic");
        }
        ring.close();
        oracle.check(seen.drain(&ring));
    });
}

#[test]
fn a_span_is_closed_by_whoever_comes_first_and_what_was_taken_from_it_is_written() {
    model(3, || {
        // The third record of a thread begins a span in these models: what is left takes one record more.
        let (ring, oracle) = (ring(8), Arc::new(Oracle::default()));
        for id in 1..4 {
            oracle.put(&ring, id).expect("room");
        }
        let other = {
            let (ring, oracle) = (Arc::clone(&ring), Arc::clone(&oracle));
            // Of the same lane: models have one.
            thread::spawn(move || oracle.put(&ring, 6).expect("room"))
        };
        let mut seen = Seen::default();
        ring.seal_turn(0);
        let mut taken = seen.take(&ring);
        oracle.put(&ring, 5).expect("room");
        other.join().expect("no panic");
        while !taken {
            taken = seen.take(&ring);
        }
        ring.close();
        let seen = seen.drain(&ring);
        assert!(seen.paddings.len() <= 2, "at most the rest of a span in each turn");
        oracle.given_up.lock().expect("no panic").extend(&seen.paddings);
        oracle.check(seen);
    });
}

#[test]
fn a_span_that_a_long_record_passes_by_is_not_forgotten_when_its_turn_is_sealed() {
    model(3, || {
        // A record so long does not end the span: it is looked for in the ring, beside it.
        const LONG: usize = 4 * LEN;
        let (ring, oracle) = (ring(8), Arc::new(Oracle::default()));
        for id in 1..4 {
            oracle.put(&ring, id).expect("room");
        }
        let putter = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let room = ring.reserve((LONG, 1), First::May, never(), || true).expect("room");
                room.turn()
            })
        };
        ring.seal_turn(0);
        let turn = putter.join().expect("no panic");
        ring.close();
        // Nobody is at anything any more.
        for each in 0..=turn {
            assert!(
                ring.sealed(each).is_some(),
                "turn {each} waits for ever; the room was in {turn}"
            );
        }
    });
}

#[test]
fn a_group_lies_in_one_turn_and_is_written_whole_whenever_that_is_sealed() {
    model(4, || {
        // Two records a turn: where one place is left the group begins the next turn.
        let (ring, oracle) = (ring(2), Arc::new(Oracle::default()));
        oracle.put(&ring, 1).expect("room");
        let grouper = {
            let (ring, oracle) = (Arc::clone(&ring), Arc::clone(&oracle));
            thread::spawn(move || oracle.put_group(&ring, 3).expect("room"))
        };
        let mut seen = Seen::default();
        seen.take_rooms(&ring, 3);
        grouper.join().expect("no panic");
        ring.close();
        oracle.check(seen.drain(&ring));
    });
}

#[test]
fn a_room_that_was_given_up_is_padding_and_holds_no_block_back() {
    model(4, || {
        let (ring, oracle) = (ring(4), Arc::new(Oracle::default()));
        let giver = {
            let (ring, oracle) = (Arc::clone(&ring), Arc::clone(&oracle));
            thread::spawn(move || oracle.give_up(&ring))
        };
        let putter = {
            let (ring, oracle) = (Arc::clone(&ring), Arc::clone(&oracle));
            thread::spawn(move || oracle.put(&ring, 7).expect("room"))
        };
        let mut seen = Seen::default();
        seen.take_rooms(&ring, 2);
        giver.join().expect("no panic");
        putter.join().expect("no panic");
        ring.close();
        oracle.check(seen.drain(&ring));
    });
}

#[test]
fn a_buffer_is_used_again_only_after_its_release_and_a_put_that_waits_is_woken() {
    model(4, || {
        // One record a turn, two buffers: the third put waits until the first turn is released.
        let (ring, oracle) = (ring(1), Arc::new(Oracle::default()));
        oracle.put(&ring, 1).expect("room");
        oracle.put(&ring, 2).expect("room");
        let putter = {
            let (ring, oracle) = (Arc::clone(&ring), Arc::clone(&oracle));
            thread::spawn(move || oracle.put(&ring, 3).expect("room comes"))
        };
        let mut seen = Seen::default();
        // The put has to seal the second turn itself; the first is whole already.
        assert!(seen.take(&ring), "a turn that is full is sealed by whoever finds it full");
        putter.join().expect("no panic");
        ring.close();
        oracle.check(seen.drain(&ring));
    });
}

#[test]
fn buffers_that_go_round_beside_their_writer_keep_every_record_apart() {
    model(3, || {
        let (ring, oracle) = (ring(1), Arc::new(Oracle::default()));
        let putter = {
            let (ring, oracle) = (Arc::clone(&ring), Arc::clone(&oracle));
            thread::spawn(move || {
                for id in 1..4 {
                    oracle.put(&ring, id).expect("room comes");
                }
            })
        };
        let mut seen = Seen::default();
        seen.take_rooms(&ring, 3);
        putter.join().expect("no panic");
        ring.close();
        oracle.check(seen.drain(&ring));
    });
}

#[test]
fn a_put_that_waits_for_room_is_told_when_the_ring_closes() {
    model(4, || {
        let (ring, oracle) = (ring(1), Arc::new(Oracle::default()));
        oracle.put(&ring, 1).expect("room");
        oracle.put(&ring, 2).expect("room");
        let putter = {
            let (ring, oracle) = (Arc::clone(&ring), Arc::clone(&oracle));
            thread::spawn(move || {
                let refused = oracle.put(&ring, 3).expect_err("nothing is ever released");
                assert!(matches!(refused, NoRoom::Stopped), "{refused:?}");
            })
        };
        ring.close();
        putter.join().expect("no panic");
        oracle.check(Seen::default().drain(&ring));
    });
}

#[test]
fn closing_beside_puts_loses_none_that_got_room() {
    model(4, || {
        let (ring, oracle) = (ring(1), Arc::new(Oracle::default()));
        let putter = {
            let (ring, oracle) = (Arc::clone(&ring), Arc::clone(&oracle));
            thread::spawn(move || {
                // Refused or kept, never taken and lost.
                let _ = oracle.put(&ring, 1).is_ok() && oracle.put(&ring, 2).is_ok();
            })
        };
        ring.close();
        let seen = Seen::default().drain(&ring);
        putter.join().expect("no panic");
        oracle.check(seen);
    });
}

#[test]
fn a_writer_that_goes_to_sleep_is_woken_by_the_first_record() {
    model(4, || {
        let ring = ring(4);
        let waker = Waker::of_condition();
        ring.set_waker(waker.clone());
        let putter = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                ring.reserve((LEN, 1), First::May, None, || true).expect("room").commit();
            })
        };
        // As `writer/drive.rs` does it: say that sleep comes, look for work, sleep.
        loop {
            ring.about_to_sleep();
            if ring.reserved_bytes(ring.active_turn()) > 0 {
                break;
            }
            waker.sleep(None);
            ring.awake();
        }
        putter.join().expect("no panic");
    });
}

#[test]
fn a_long_value_that_waits_for_slack_is_woken_by_the_release() {
    model(4, || {
        let (ring, oracle) = (ring(1), Arc::new(Oracle::default()));
        oracle.put(&ring, 1).expect("room");
        oracle.put(&ring, 2).expect("room");
        let waiter = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let day = Duration::from_secs(86_400);
                ring.wait_for_slack(day, || true).expect("slack comes");
            })
        };
        let mut seen = Seen::default();
        assert!(seen.take(&ring));
        waiter.join().expect("no panic");
    });
}

#[test]
fn who_asks_for_slack_while_a_turn_is_released_does_not_count_below_nothing() {
    model(3, || {
        let (ring, oracle) = (ring(1), Arc::new(Oracle::default()));
        oracle.put(&ring, 1).expect("room");
        let asking = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let day = Duration::from_secs(86_400);
                ring.wait_for_slack(day, || true).expect("slack comes");
            })
        };
        let mut seen = Seen::default();
        seen.take_rooms(&ring, 1);
        asking.join().expect("no panic");
    });
}
