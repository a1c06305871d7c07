//! Which seqs may be given: those below a limit that the manifest holds.
//!
//! Invariant: a seq is given only after a limit above it is durable. So an opening that cannot know what
//! the life before gave (it was not closed, and lost what nobody saw) goes on from the limit, and no stamp
//! is used twice. The limit is one for all streams, and far ahead: a put looks at one word that hardly
//! ever changes; from half of what is ahead on it also says how far the seqs have come, and the keeper
//! raises the limit. A put that comes to the limit all the same waits for the keeper.
//!
//! Callers: `log.rs` for puts, the keeper, and the opening. Seqs that were ahead when a process died are
//! never given: at least `STEP`, and as many as the life had given, at most 256 times `STEP`
//! (`docs/durability.md`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use hdstore::Seq;

/// How far ahead the limit is at an opening.
pub(crate) const STEP: u64 = 1 << 24;
/// How many times farther it gets in a life that gives many.
const STEPS_MAX: u64 = 256;
/// One above the last seq there is.
const END: u64 = Seq::MAX.0 + 1;
/// A put that waits looks this often whether the store has been closed or poisoned.
const WAIT_SLICE: Duration = Duration::from_millis(20);

/// The limit, as puts and the keeper see it.
#[derive(Debug)]
pub(crate) struct SeqReserve {
    /// From this seq on the limit should be raised.
    due_from: AtomicU64,
    /// Seqs below this may be given: what the manifest says, durably.
    limit: AtomicU64,
    /// The highest seq from `due_from` on that was wanted.
    wanted: AtomicU64,
    /// Where this life began.
    start: AtomicU64,
    step: u64,
    waiting: Mutex<()>,
    raised: Condvar,
}

impl SeqReserve {
    /// Nothing may be given yet.
    pub(crate) fn new(step: u64) -> SeqReserve {
        SeqReserve {
            due_from: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            start: AtomicU64::new(0),
            step,
            waiting: Mutex::default(),
            raised: Condvar::new(),
        }
    }

    /// The limit for a life whose streams go on from `start` at most.
    pub(crate) fn limit_after(&self, start: u64) -> u64 {
        start.saturating_add(self.step).min(END)
    }

    /// A life begins: the manifest has this limit.
    pub(crate) fn begin(&self, start: u64, limit: u64) {
        self.start.store(start, Ordering::Relaxed);
        self.wanted.store(start, Ordering::Relaxed);
        self.raise(limit);
    }

    /// Whether a seq may be given: one load, as long as the limit is far.
    #[inline]
    pub(crate) fn admits(&self, seq: Seq) -> bool {
        seq.0 < self.due_from.load(Ordering::Relaxed) || self.admits_late(seq.0)
    }

    #[cold]
    fn admits_late(&self, seq: u64) -> bool {
        if self.wanted.load(Ordering::Relaxed) < seq {
            self.wanted.fetch_max(seq, Ordering::Relaxed);
        }
        seq < self.limit.load(Ordering::Acquire)
    }

    /// Waits until a seq may be given: true; or `deadline` came, or `keep_on` says no: false.
    pub(crate) fn wait(&self, seq: Seq, deadline: Instant, keep_on: impl Fn() -> bool) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while !self.admits(seq) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !keep_on() {
                return false;
            }
            let waited = self.raised.wait_timeout(waiting, left.min(WAIT_SLICE));
            waiting = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        true
    }

    /// The limit that the manifest should have, when that is more than it has.
    pub(crate) fn due(&self) -> Option<u64> {
        let wanted = self.wanted.load(Ordering::Relaxed);
        if wanted < self.due_from.load(Ordering::Relaxed) {
            return None;
        }
        let given = wanted - self.start.load(Ordering::Relaxed);
        let ahead = given.clamp(self.step, self.step.saturating_mul(STEPS_MAX));
        let limit = (wanted + 1).saturating_add(ahead).min(END);
        (limit > self.limit.load(Ordering::Relaxed)).then_some(limit)
    }

    /// The manifest has this limit now, durably.
    pub(crate) fn raise(&self, limit: u64) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let half = limit - limit.saturating_sub(wanted) / 2;
        self.limit.store(limit, Ordering::Release);
        self.due_from.store(half, Ordering::Release);
        let _waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.raised.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seq_beyond_the_limit_is_never_given_and_the_limit_keeps_ahead() {
        let seqs = SeqReserve::new(64);
        assert!(!seqs.admits(Seq(1)), "no life has begun");
        seqs.begin(1, seqs.limit_after(1));
        let mut limit = seqs.limit_after(1);
        for seq in 1..100_000 {
            assert_eq!(seqs.admits(Seq(seq)), seq < limit, "seq {seq}, limit {limit}");
            if let Some(due) = seqs.due() {
                assert!(due > limit && due > seq, "the limit goes up");
                assert!(due - seq <= 64 * STEPS_MAX + 1, "a crash costs no more than this");
                limit = due;
                seqs.raise(due);
            }
            assert!(limit - seq > 31, "raised when half is used");
        }
    }

    #[test]
    fn the_end_of_all_seqs_is_reached_and_not_passed() {
        let seqs = SeqReserve::new(STEP);
        seqs.begin(END - 10, seqs.limit_after(END - 10));
        assert!(seqs.admits(Seq::MAX) && seqs.due().is_none());
        assert!(!seqs.admits(Seq(END)));
        assert_eq!(seqs.due(), None);
    }

    #[test]
    fn who_waits_for_a_seq_is_woken_told_of_the_end_and_never_hangs() {
        let seqs = SeqReserve::new(4);
        seqs.begin(1, 5);
        let soon = || Instant::now() + Duration::from_millis(30);
        assert!(!seqs.wait(Seq(7), soon(), || true), "nobody raises it");
        assert!(!seqs.wait(Seq(7), Instant::now() + Duration::from_secs(60), || false));
        let deadline = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| seqs.wait(Seq(7), deadline, || true));
            seqs.raise(8);
            assert!(waiter.join().expect("no panic"));
        });
    }
}
