//! Facts of absence while a store loads: which keys are gone, and since which seq.
//!
//! Invariants: an older record of such a key is never entered, whatever the order in which records come. The
//! table grows to a fixed number of places, outside the memory limit: when a part of it is full, the keys it
//! covers are halved, by a hash, and everything of the other half (records as well as facts) is left to a
//! later pass over all records. So any number of facts needs no more memory, only more passes: about as many
//! as the table would have to be larger, since a pass covers what should fit by what the one before found.
//!
//! A key is known by 96 bits of seeded hash: that two of n keys share them has a chance of n^2 / 2^97.
//! Callers: `apply.rs`, under the lock of the key's stream, so that the table and the index agree. Cost: one
//! load for each new key while there is no fact; else a second hash, a short lock and a cache miss.
//! `docs/restart.md` has the reasons.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::hash::IndexHash;
use crate::ids::{MapId, Seq, StreamId};
use crate::sync::{Mutex, lock};

/// Bytes of one place: two halves of the key's hash, and the seq.
const PLACE_BYTES: u64 = 24;
/// Parts with a lock of their own, at most; a part has at least `PLACES_MIN` places.
const PARTS_MAX: u64 = 64;
const PLACES_MIN: u64 = 1_024;
/// The share of the places that the facts of a pass are to take: less than what is full, since parts differ.
const FILLED: (u64, u64) = (4, 5);

/// Who a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyHash {
    place: u64,
    /// By this half keys are divided among passes.
    spread: u64,
}

/// The table, and which keys this pass covers.
pub(crate) struct Facts {
    parts: Box<[Mutex<Part>]>,
    second: IndexHash,
    /// Whether there may be a fact, or a key that is not covered.
    is_used: AtomicBool,
    /// The spread of the keys that this pass covers: from here
    from: AtomicU64,
    /// up to and with this.
    to: AtomicU64,
}

struct Part {
    /// Places that there may be.
    places_max: usize,
    /// Both halves of the key's hash, and the seq; seq 0 is a free place. It doubles as facts come.
    facts: Vec<[u64; 3]>,
    used: usize,
}

impl Part {
    /// Where a key's fact is, or the free place that it would take. There is always a free one.
    fn find(&self, key: KeyHash) -> usize {
        let mut at = (key.place as usize >> 8) % self.facts.len();
        loop {
            let [place, spread, seq] = self.facts[at];
            if seq == 0 || (KeyHash { place, spread }) == key {
                return at;
            }
            at = (at + 1) % self.facts.len();
        }
    }

    fn seq_of(&self, key: KeyHash) -> u64 {
        if self.used == 0 { 0 } else { self.facts[self.find(key)][2] }
    }

    /// Whether a fact more needs more places than there may be.
    fn is_full(&self) -> bool {
        self.used * 8 >= self.places_max * 7
    }

    fn put(&mut self, key: KeyHash, seq: u64) {
        if self.used * 8 >= self.facts.len() * 7 {
            self.grow();
        }
        let at = self.find(key);
        let before = self.facts[at][2];
        self.used += usize::from(before == 0);
        self.facts[at] = [key.place, key.spread, seq.max(before)];
    }

    fn grow(&mut self) {
        let places = (self.facts.len() * 2).clamp(PLACES_MIN as usize, self.places_max);
        let mut larger = vec![[0; 3]; places];
        // Each page is written first: one that is read first is there twice, and a write to it interrupts all
        // processors.
        larger.iter_mut().step_by(128).for_each(|place| *place = std::hint::black_box([0; 3]));
        let all = std::mem::replace(&mut self.facts, larger);
        self.put_all(all, u64::MAX);
    }

    /// Forgets the facts of keys that are not covered.
    fn keep_up_to(&mut self, to: u64) {
        let places = self.facts.len();
        let all = std::mem::replace(&mut self.facts, vec![[0; 3]; places]);
        self.put_all(all, to);
    }

    fn put_all(&mut self, all: Vec<[u64; 3]>, to: u64) {
        self.used = 0;
        for [place, spread, seq] in all {
            if seq != 0 && spread <= to {
                self.put(KeyHash { place, spread }, seq);
            }
        }
    }
}

impl Facts {
    /// A table of about `max_bytes`. They are taken from the process's heap as facts come.
    pub(crate) fn new(max_bytes: u64, seed: u64) -> Facts {
        let places = (max_bytes / PLACE_BYTES).max(PLACES_MIN);
        let parts = (places / PLACES_MIN).clamp(1, PARTS_MAX);
        let places_max = (places / parts) as usize;
        let part = || Part { places_max, facts: Vec::new(), used: 0 };
        Facts {
            parts: (0..parts).map(|_| Mutex::new(part())).collect(),
            second: IndexHash::new(!seed),
            is_used: AtomicBool::new(false),
            from: AtomicU64::new(0),
            to: AtomicU64::new(u64::MAX),
        }
    }

    /// Who a key is; `hash` is its index hash.
    pub(crate) fn key(&self, (map, stream): (MapId, StreamId), key: &[u8], hash: u64) -> KeyHash {
        let table = u64::from(map.0) << 32 | u64::from(stream.0);
        let table = table.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Its upper bits count: keys are divided by ranges, of which each must cover as many keys of each
        // table.
        let spread = self.second.of(key) << (64 - IndexHash::BITS);
        KeyHash { place: hash ^ table, spread: spread ^ table }
    }

    /// Whether nothing has to be asked: there is no fact, and this pass covers every key.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_used.load(Ordering::Relaxed)
    }

    /// Whether this pass covers a key.
    pub(crate) fn covers(&self, key: KeyHash) -> bool {
        let (from, to) = (self.from.load(Ordering::Relaxed), self.to.load(Ordering::Relaxed));
        (from..=to).contains(&key.spread)
    }

    /// Whether a record of a key must not be entered: the key was gone later, or is left to another pass.
    pub(crate) fn hides(&self, key: KeyHash, seq: Seq) -> bool {
        !self.covers(key) || lock(self.part(key)).seq_of(key) > seq.0
    }

    /// Remembers that a key is gone since `seq`; false when the key is left to another pass.
    pub(crate) fn put(&self, key: KeyHash, seq: Seq) -> bool {
        self.is_used.store(true, Ordering::Relaxed);
        let mut part = lock(self.part(key));
        while self.covers(key) {
            if !part.is_full() {
                part.put(key, seq.0);
                return true;
            }
            // Another part may have halved the keys since this one was last tidied.
            let to = self.to.load(Ordering::Relaxed);
            part.keep_up_to(to);
            if part.is_full() {
                self.halve(to);
            }
        }
        false
    }

    /// Halves the keys of this pass, unless somebody has since they went up to `to`: parts fill at about the
    /// same time, and each would halve them once.
    fn halve(&self, to: u64) {
        let from = self.from.load(Ordering::Relaxed);
        let half = from + (to - from) / 2;
        let _ = self.to.compare_exchange(to, half, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Goes on to the keys that were left over, as many as should fit by what was found of this pass's; false
    /// when there are none. All records must come again.
    pub(crate) fn next_pass(&self) -> bool {
        let (mut used, mut places) = (0, 0);
        for part in &self.parts {
            let mut part = lock(part);
            places += part.places_max as u64;
            used += std::mem::take(&mut part.used) as u64;
            part.facts = Vec::new();
        }
        let (from, to) = (self.from.load(Ordering::Relaxed), self.to.load(Ordering::Relaxed));
        if to == u64::MAX {
            return false;
        }
        let fit = u128::from(to - from) * u128::from(places * FILLED.0 / FILLED.1);
        let next = u128::from(to) + fit / u128::from(used.max(1));
        self.from.store(to + 1, Ordering::Relaxed);
        self.to.store(u64::try_from(next).unwrap_or(u64::MAX).max(to + 1), Ordering::Relaxed);
        true
    }

    fn part(&self, key: KeyHash) -> &Mutex<Part> {
        &self.parts[key.place as usize % self.parts.len()]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn keys(facts: &Facts, count: u64) -> Vec<KeyHash> {
        let hash = IndexHash::new(1);
        let table = (MapId(1), StreamId(0));
        let key = |n: u64| facts.key(table, &n.to_le_bytes(), hash.of(&n.to_le_bytes()));
        (0..count).map(key).collect()
    }

    #[test]
    fn more_facts_than_places_take_more_passes_and_no_more_memory() {
        for bytes in [1, 24 * 5_000, 24 * 12_000, 24 * 200_000] {
            let facts = Facts::new(bytes, 1);
            let all = keys(&facts, 40_000);
            let mut remembered = vec![0; all.len()];
            let mut passes = 0;
            loop {
                passes += 1;
                let first_put: Vec<bool> = all
                    .iter()
                    .map(|key| facts.put(*key, Seq(7)) | facts.put(*key, Seq(5)))
                    .collect();
                for (n, key) in all.iter().enumerate() {
                    assert!(facts.hides(*key, Seq(6)) && (first_put[n] || !facts.covers(*key)));
                    if facts.covers(*key) {
                        remembered[n] += 1;
                        assert!(!facts.hides(*key, Seq(7)) && !facts.hides(*key, Seq(8)));
                    }
                }
                let places: usize = facts.parts.iter().map(|part| lock(part).facts.len()).sum();
                assert!(places as u64 <= (bytes / PLACE_BYTES).max(PLACES_MIN), "{places} places");
                if !facts.next_pass() {
                    break;
                }
            }
            assert!(remembered.iter().all(|passes| *passes == 1), "each key in one pass");
            assert_eq!(passes > 1, bytes < 24 * 100_000, "{bytes} bytes: {passes} passes");
            let places = (bytes / PLACE_BYTES).max(PLACES_MIN);
            let most = 2 + 40_000 * 4 / (places * 3);
            assert!(passes <= most, "{bytes} bytes: {passes} passes, expected {most} at most");
        }
    }

    #[test]
    fn threads_that_meet_full_parts_together_halve_the_keys_once() {
        let passes = |threads: usize| {
            let facts = Facts::new(24 * 80_000, 1);
            let all = keys(&facts, 300_000);
            let mut passes = 1;
            loop {
                let barrier = std::sync::Barrier::new(threads);
                std::thread::scope(|scope| {
                    for part in all.chunks(all.len().div_ceil(threads)) {
                        let (facts, barrier) = (&facts, &barrier);
                        scope.spawn(move || {
                            barrier.wait();
                            for key in part {
                                facts.put(*key, Seq(1));
                            }
                        });
                    }
                });
                if !facts.next_pass() {
                    return passes;
                }
                passes += 1;
            }
        };
        let (one, many) = (passes(1), passes(8));
        assert!(many <= one + one / 2, "{many} passes instead of {one}");
    }

    #[test]
    fn equal_keys_of_two_maps_or_two_streams_are_two_keys() {
        let facts = Facts::new(1 << 20, 1);
        let hash = IndexHash::new(1).of(b"k");
        let key = |map, stream| facts.key((MapId(map), StreamId(stream)), b"k", hash);
        assert!(facts.is_idle() && facts.put(key(1, 0), Seq(5)) && !facts.is_idle());
        assert!(facts.hides(key(1, 0), Seq(4)));
        assert!(!facts.hides(key(2, 0), Seq(4)) && !facts.hides(key(1, 1), Seq(4)));
    }
}
