//! Spans: bytes and words of the active turn that a thread has reserved ahead of need.
//!
//! Invariant: a span's bytes and words are its lane's alone, until a room takes them or the span is closed;
//! closed, its rest is padding and its words say that nothing is missing there. A lane has one span at a
//! time, so no turn waits for one that nobody knows of: the writer closes those of a sealed turn.
//!
//! Why: a put that takes its room from its lane's span touches no line that other threads write. A span is
//! at most a sixteenth of what its lane has taken in the turn, so a turn with few records has none, and what
//! a turn loses to the rests of spans is a few per cent at most.
//!
//! Caller: `ring.rs`. What may go wrong: the lane is taken, and the caller goes to the ring itself. Cost of
//! a room from a span: the lane's lock, which is free but for the writer's visits.

use crossbeam_utils::CachePadded;

use crate::sync::{Mutex, MutexGuard, thread_index, try_lock};

/// A power of two. One in models, so that all threads meet there.
const LANES: usize = if cfg!(loom) { 1 } else { 64 };

/// A span's part of what its lane has taken in the turn. Models are too short for the real one.
const SHARE: usize = if cfg!(loom) { 1 } else { 16 };

/// The longest span, in bytes: what is lost at its end, where a record does not fit, is half a record.
const SPAN_MAX_BYTES: usize = 16 << 10;

/// Longer records do not end a span that has no room for them. Models have room for few bytes.
const SHORT_BYTES: usize = if cfg!(loom) { 32 } else { SPAN_MAX_BYTES / 8 };

/// What a lane has in a turn.
#[derive(Debug, Default)]
pub(super) struct Span {
    /// The turn that the numbers below belong to, and its buffer.
    pub(super) turn: u64,
    pub(super) slot: u32,
    /// Bytes that are left, as places in the buffer.
    at: usize,
    end: usize,
    /// Words of the commit table that are left. The last one is for the padding of the rest.
    index: usize,
    index_end: usize,
    /// What was taken in the turn.
    bytes: usize,
    records: usize,
}

impl Span {
    pub(super) fn is_open(&self) -> bool {
        self.index < self.index_end
    }

    /// Bytes and first word for a room of `len` bytes of `count` records.
    #[inline]
    pub(super) fn take(&mut self, len: usize, count: usize) -> Option<(usize, usize)> {
        if self.at + len > self.end || self.index + count >= self.index_end {
            return None;
        }
        let taken = (self.at, self.index);
        self.at += len;
        self.index += count;
        self.bytes += len;
        self.records += count;
        Some(taken)
    }

    /// Bytes that are left.
    pub(super) fn left_bytes(&self) -> usize {
        self.end - self.at
    }

    /// Whether a room of so many bytes, for which there is no place here, ends the span.
    pub(super) fn ends_for(&self, len: usize) -> bool {
        len <= SHORT_BYTES
    }

    /// What would be worth reserving for a room of `len` bytes of `count` records in a turn: bytes and words.
    fn worth(&self, turn: u64, len: usize, count: usize) -> (usize, usize) {
        if self.is_open() || self.turn != turn {
            return (len, count);
        }
        let rooms = (self.bytes / SHARE).min(SPAN_MAX_BYTES) / len;
        if rooms < 2 {
            return (len, count);
        }
        let bytes = rooms * len;
        // By the records so far, since those that come need not be as long as this one.
        let words = (bytes * self.records).div_ceil(self.bytes).max(count + 1);
        (bytes, words + 1)
    }

    /// Takes what is left: bytes and words, as places.
    pub(super) fn rest(&mut self) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let rest = (self.at..self.end, self.index..self.index_end);
        (self.at, self.index) = (self.end, self.index_end);
        rest
    }
}

/// What a room asks of the ring: itself, and the span that its lane begins behind it. The lane is borrowed
/// until the answer, so that what is kept then is what was asked for, of the turn it was asked of.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    span: Option<&'a mut Span>,
    turn: u64,
    room: (usize, usize),
    reserved: (usize, usize),
}

impl<'a> Wish<'a> {
    /// For a room of so many bytes and words in a turn, which `fits` there; of no more than that where more
    /// does not, or where the caller's lane is taken.
    #[inline]
    pub(super) fn new(
        span: Option<&'a mut Span>,
        turn: u64,
        room: (usize, usize),
        fits: impl Fn((usize, usize)) -> bool,
    ) -> Wish<'a> {
        let worth = span.as_ref().map(|span| span.worth(turn, room.0, room.1));
        let reserved = worth.filter(|worth| fits(*worth)).unwrap_or(room);
        Wish { span, turn, room, reserved }
    }

    /// Bytes and words to reserve.
    #[inline]
    pub(super) fn reserved(&self) -> (usize, usize) {
        self.reserved
    }

    /// It was reserved, from `at` and `index` on: the room is at its start, and the lane keeps the rest.
    #[inline]
    pub(super) fn begin(self, slot: u32, (at, index): (usize, usize)) {
        let Wish { span, turn, room: (len, count), reserved: (bytes, words) } = self;
        let Some(span) = span else { return };
        if span.turn != turn {
            debug_assert!(!span.is_open(), "the rest of a span of another turn is nobody's");
            *span = Span { turn, slot, ..Span::default() };
        }
        span.bytes += len;
        span.records += count;
        if words > count {
            (span.at, span.end) = (at + len, at + bytes);
            (span.index, span.index_end) = (index + count, index + words);
        }
    }
}

/// The spans of a ring, by lane.
#[derive(Debug)]
pub(super) struct Lanes(Box<[CachePadded<Mutex<Span>>]>);

impl Lanes {
    pub(super) fn new() -> Lanes {
        Lanes((0..LANES).map(|_| CachePadded::new(Mutex::new(Span::default()))).collect())
    }

    /// The calling thread's, unless somebody is at it.
    #[inline]
    pub(super) fn mine(&self) -> Option<MutexGuard<'_, Span>> {
        try_lock(&self.0[thread_index() % LANES])
    }

    /// All that nobody is at.
    pub(super) fn idle(&self) -> impl Iterator<Item = MutexGuard<'_, Span>> {
        self.0.iter().filter_map(|lane| try_lock(lane))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Reserves rooms of these lengths as a ring does that has room for all: bytes and words reserved,
    /// reservations, and bytes lost in the rests of spans.
    fn reserve(lens: impl Iterator<Item = usize>) -> (usize, usize, usize, usize) {
        let mut span = Span { turn: 7, ..Span::default() };
        let (mut bytes, mut words, mut reservations, mut lost) = (0, 0, 0, 0);
        for len in lens {
            if span.take(len, 1).is_some() {
                continue;
            }
            if span.ends_for(len) {
                let (rest, of_words) = span.rest();
                assert!(rest.is_empty() || !of_words.is_empty(), "padding that nobody waits for");
                lost += rest.len();
            }
            let wish = Wish::new(Some(&mut span), 7, (len, 1), |_| true);
            let reserved = wish.reserved();
            wish.begin(0, (bytes, words));
            (bytes, words) = (bytes + reserved.0, words + reserved.1);
            reservations += 1;
        }
        lost += span.rest().0.len();
        (bytes, words, reservations, lost)
    }

    #[test]
    fn a_turn_with_few_records_has_nothing_but_them() {
        assert_eq!(reserve([250; 20].into_iter()), (5_000, 20, 20, 0));
        assert_eq!(reserve([70_000; 20].into_iter()), (1_400_000, 20, 20, 0));
    }

    #[test]
    fn many_records_are_reserved_together_and_little_is_lost() {
        let (bytes, words, reservations, lost) = reserve(std::iter::repeat_n(250, 4_000));
        assert!(reservations < 250, "{reservations} for 4000 records of {bytes} bytes");
        assert!(lost <= 16 << 10 && words < 4_000 + 4_000 / 10, "{lost} bytes lost, {words} words");
        let mixed = (0..40_000_usize).map(|n| 20 + n * n % 911);
        let (bytes, words, reservations, lost) = reserve(mixed);
        assert!(reservations < 3_000, "{reservations}");
        assert!(lost < bytes / 20, "{lost} of {bytes}");
        assert!(words < 40_000 + 40_000 / 5, "{words}");
    }

    #[test]
    fn a_span_is_of_one_turn_and_a_long_record_does_not_end_it() {
        let mut span = Span::default();
        fn wish(span: &mut Span, turn: u64, len: usize) -> Wish<'_> {
            Wish::new(Some(span), turn, (len, 1), |_| true)
        }
        wish(&mut span, 3, 100_000).begin(0, (0, 0));
        assert!(!span.is_open());
        let few = Wish::new(Some(&mut span), 3, (100, 1), |(bytes, _)| bytes <= 4_000);
        assert_eq!(few.reserved(), (100, 1), "the turn has no room for a span");
        assert_eq!(wish(&mut span, 4, 100).reserved(), (100, 1), "another turn");
        let third = wish(&mut span, 3, 100);
        let reserved = third.reserved();
        assert!(reserved.0 > 4_000, "{reserved:?}");
        third.begin(0, (100_000, 1));
        assert!(span.is_open() && !span.ends_for(5_000));
        assert_eq!(wish(&mut span, 3, 5_000).reserved(), (5_000, 1), "beside an open span");
        assert_eq!(span.take(50, 1), Some((100_100, 2)));
        let (rest, words) = span.rest();
        assert_eq!((rest.end, words.end), (100_000 + reserved.0, 1 + reserved.1));
        assert!(!span.is_open());
    }
}
