//! Which chunks to compact: (garbage / live) x age of the youngest record, by a sample of each. Facts of
//! absence that nothing but a chunk's garbage keeps count as its garbage (`pins.rs`).
//!
//! Invariant: a choice changes nothing; it needs no count that puts would have to keep. Estimates are
//! renewed a part at a time, those of the best candidates always before they are chosen. Caller: the
//! compactor. Cost: some 10 us for each estimate that is renewed. See `docs/compaction.md`.

use std::collections::HashMap;

use hdstore::{Stamp, Stamps};

use super::implied::kept_share;
use super::lines;
use super::pins::Pins;
use super::survey::Waiting;
use crate::chunks::catalogue::{Chunk, Forgettable};
use crate::format::{ChunkId, LineKind};
use crate::log::{DiskLog, Shared};
use crate::runs::RunOf;

/// Estimates renewed at each choice, in turn.
const RENEWED: usize = 96;
/// The best candidates, whose estimates are renewed before the choice.
const CANDIDATES: usize = 24;
/// Below this share of garbage a chunk is not worth it.
const GARBAGE_MIN: f64 = 0.04;

/// A chunk that may be chosen, with what is thought of it.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) chunk: Chunk,
    /// The share of its bytes that is live, by the last estimate.
    pub(crate) live: f64,
    /// The share of its facts of absence that no other of them implies, by its sample.
    not_implied: f64,
    /// A part of this run is in it, which was being put when it was looked at last.
    pending: Option<u64>,
}

impl Known {
    fn new(chunk: Chunk, pending: Option<u64>) -> Known {
        let not_implied = kept_share(&chunk.samples, chunk.absences);
        Known { chunk, live: 1.0, not_implied, pending }
    }

    /// The share of its facts that must be kept: what a survey let go and what is implied may be the same.
    fn kept_facts(&self) -> f64 {
        (1.0 - self.let_go(&self.chunk.forgettable)).min(self.not_implied)
    }

    /// The share of its facts that these are.
    fn let_go(&self, facts: &Forgettable) -> f64 {
        f64::from(facts.count()) / f64::from(self.chunk.absences.max(1))
    }
}

/// All chunks that may be chosen.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    known: Vec<Known>,
    /// Where renewing goes on.
    next: usize,
    /// What each byte costs that the victims chosen last free.
    price: f64,
}

impl Candidates {
    pub(crate) fn add(&mut self, chunk: Chunk) {
        self.known.push(Known::new(chunk, None));
    }

    /// Adds a chunk that is no victim as long as this run is being put.
    pub(crate) fn add_pending(&mut self, chunk: Chunk, run: u64) {
        self.known.push(Known::new(chunk, Some(run)));
    }

    /// All of them, in no order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.known.iter().map(|known| &known.chunk)
    }

    /// The chunks with facts of absence that neither compaction leaves behind nor a survey has let go, as far
    /// as is known, when this life has freed so many chunks.
    pub(super) fn waiting(&self, freed: u64) -> impl Iterator<Item = (&Chunk, Waiting)> {
        let chunks = self.known.len() as f64;
        self.known.iter().filter_map(move |known| {
            let chunk = &known.chunk;
            let facts = u64::from(chunk.absences);
            let kept_bytes = known.kept_facts() * f64::from(chunk.absence_bytes);
            let freed_since = chunk.judged_at.map(|then| freed.saturating_sub(then) as f64);
            let freed_share = freed_since.map_or(1.0, |since| (since / chunks).min(1.0));
            (chunk.absences > chunk.forgettable.count())
                .then_some((chunk, Waiting { facts, kept_bytes, freed_share }))
        })
    }

    /// Notes what a survey found that may be forgotten, and takes it, when this life had freed so many
    /// chunks. Returns the bytes that it let go.
    pub(crate) fn note_judged(
        &mut self,
        by_chunk: &mut HashMap<ChunkId, Forgettable>,
        freed: u64,
    ) -> f64 {
        if by_chunk.is_empty() {
            return 0.0;
        }
        let mut let_go = 0.0;
        for known in &mut self.known {
            if let Some(forgettable) = by_chunk.remove(&known.chunk.id) {
                let more = known.let_go(&forgettable) - known.let_go(&known.chunk.forgettable);
                let_go += more * f64::from(known.chunk.absence_bytes);
                known.chunk.forgettable = forgettable;
                known.chunk.judged_at = Some(freed);
            }
        }
        by_chunk.clear();
        let_go
    }

    /// Notes what a survey found that keeps facts, when this life had freed so many chunks as it began: those
    /// that it judged, and did not let go.
    pub(super) fn note_pins(&mut self, pins: &Pins, freed: u64) {
        let judged = self.known.iter().filter(|known| known.chunk.judged_at == Some(freed));
        let kept = |known: &Known| known.kept_facts() * f64::from(known.chunk.absence_bytes);
        let kept_bytes: f64 = judged.map(kept).sum();
        for known in &mut self.known {
            known.chunk.pinned_bytes = pins.kept_by(known.chunk.id, kept_bytes);
        }
    }

    /// Bytes that are read and written for each byte that the victims chosen last free, as far as is known.
    pub(crate) fn price(&self) -> f64 {
        self.price
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Takes the chunks that are best compacted now, whose survivors are about a chunk's worth and that are
    /// `most` at most; fewer, or none, when no more are worth it. Never one that is held. Where nothing may
    /// be copied, only those that seem to have no survivors.
    pub(crate) fn choose(
        &mut self,
        (most, may_copy): (usize, bool),
        clock: u64,
        stamps: &Stamps<DiskLog>,
        log: &Shared,
    ) -> Vec<Chunk> {
        self.renew(stamps, log);
        let chunk_size = log.supply.chunk_size() as f64;
        let worth = |known: &Known| Worth {
            live: known.live,
            pinned: known.chunk.pinned_bytes / chunk_size,
            age: clock.saturating_sub(known.chunk.youngest),
        };
        let mut order: Vec<usize> = (0..self.known.len()).collect();
        let held = log.holds.chunks();
        order.retain(|index| !held.contains(&self.known[*index].chunk.id));
        for known in &mut self.known {
            known.pending.take_if(|run| log.runs.get(*run) != Some(RunOf::Pending));
        }
        order.retain(|index| self.known[*index].pending.is_none());
        // Before the best are looked at: an old chunk with hardly any garbage may have a higher score than a
        // new one that is all garbage, and nobody grows older while puts wait.
        order.retain(|index| worth(&self.known[*index]).may_take(may_copy));
        let best = order.len().min(CANDIDATES);
        if best == 0 {
            return Vec::new();
        }
        let by_score = |a: &usize, b: &usize| {
            worth(&self.known[*b]).score().total_cmp(&worth(&self.known[*a]).score())
        };
        order.select_nth_unstable_by(best - 1, by_score);
        order.truncate(best);
        for index in &order {
            let known = &mut self.known[*index];
            known.live = live_share(known, stamps, log);
        }
        let worths: Vec<Worth> = order.iter().map(|index| worth(&self.known[*index])).collect();
        let picked = pick(&worths, most, may_copy);
        let costs = picked.iter().map(|place| {
            let chunk = &self.known[order[*place]].chunk;
            let read = lines::wanted(chunk, chunk_size as usize).len() as f64 / chunk_size;
            (read, worths[*place])
        });
        self.price = price(costs);
        let mut chosen: Vec<usize> = picked.into_iter().map(|place| order[place]).collect();
        chosen.sort_unstable();
        let mut victims: Vec<Known> =
            chosen.into_iter().rev().map(|index| self.known.swap_remove(index)).collect();
        // Those without survivors first: they need no chunk, and give one to the others. Survivors of one age
        // lie together, so that chunks of the cold ones are left alone later.
        victims.sort_by_key(|known| (known.live > 0.0, known.chunk.youngest));
        victims.into_iter().map(|known| known.chunk).collect()
    }

    /// Renews the estimates of some, in turn.
    fn renew(&mut self, stamps: &Stamps<DiskLog>, log: &Shared) {
        for _ in 0..RENEWED.min(self.known.len()) {
            self.next = (self.next + 1) % self.known.len();
            let known = &mut self.known[self.next];
            known.live = live_share(known, stamps, log);
        }
    }
}

/// What is thought of a chunk, as shares of its bytes.
#[derive(Clone, Copy, Debug)]
struct Worth {
    live: f64,
    /// Facts of absence, in any chunk, that its old entries keep.
    pinned: f64,
    /// Bytes logged since its youngest record.
    age: u64,
}

impl Worth {
    /// What goes with it, here or elsewhere.
    fn freed(self) -> f64 {
        1.0 - self.live + self.pinned
    }

    /// Whether it may be a victim.
    fn may_take(self, may_copy: bool) -> bool {
        if may_copy { self.freed() >= GARBAGE_MIN } else { self.live == 0.0 }
    }

    /// What it is worth by what it costs. The age counts from a megabyte, so that the newest chunk is worth
    /// something, too.
    fn score(self) -> f64 {
        self.freed() / self.live.max(1.0 / 128.0) * (self.age as f64 + f64::from(1 << 20))
    }
}

/// The places of the best candidates, whose survivors are about a chunk's worth.
fn pick(candidates: &[Worth], most: usize, may_copy: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.retain(|place| candidates[*place].may_take(may_copy));
    order.sort_by(|a, b| candidates[*b].score().total_cmp(&candidates[*a].score()));
    let mut live = 0.0;
    let fits = |place: &usize| {
        let before = live;
        live += candidates[*place].live;
        live <= 1.0 || before == 0.0
    };
    order.into_iter().take(most).take_while(fits).collect()
}

/// Bytes read and written for each byte freed, of victims of which these shares are read.
fn price(victims: impl Iterator<Item = (f64, Worth)>) -> f64 {
    let costs = victims.map(|(read, worth)| (read + worth.live, worth.freed()));
    let (cost, freed) = costs.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    cost / f64::max(freed, GARBAGE_MIN)
}

/// The share of a chunk's bytes that is live, by its sample. Padding is garbage like any other.
fn live_share(known: &Known, stamps: &Stamps<DiskLog>, log: &Shared) -> f64 {
    let chunk = &known.chunk;
    if chunk.samples.is_empty() {
        return 0.0;
    }
    let mut asked: Vec<Stamp> = Vec::with_capacity(chunk.samples.len());
    let (mut live, mut facts) = (0_usize, 0_usize);
    for sample in &chunk.samples {
        match sample.kind {
            LineKind::Entry | LineKind::Head => asked.push(sample.stamp),
            LineKind::Absence | LineKind::Clear => {
                let Stamp { map, stream, seq, .. } = sample.stamp;
                facts += usize::from(stamps.knows(map) && seq >= log.clears.newest(map, stream));
            }
            LineKind::Part => match log.runs.get(sample.stamp.seq.0 << 48 | sample.stamp.hash) {
                Some(RunOf::Entry(stamp)) => asked.push(stamp),
                Some(RunOf::Pending) => live += 1,
                None => {}
            },
        }
    }
    stamps.current(&asked, |_, _| {
        live += 1;
        std::ops::ControlFlow::Continue(())
    });
    (live as f64 + facts as f64 * known.kept_facts()) / f64::from(chunk.places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worth(live: f64, pinned: f64, age: u64) -> Worth {
        Worth { live, pinned, age }
    }

    fn score(live: f64, age: u64) -> f64 {
        worth(live, 0.0, age).score()
    }

    #[test]
    fn an_old_chunk_that_is_hardly_worth_it_does_not_hide_a_new_one_that_is() {
        // The old one's score is the higher, and remains so while puts wait and nothing is logged.
        let (old, new) = (worth(0.97, 0.0, 2 << 30), worth(0.09, 0.0, 0));
        assert!(old.score() > new.score());
        assert_eq!(pick(&[old, old, new], 8, true), [2]);
        assert_eq!(pick(&[old, worth(0.0, 0.0, 0), new], 8, false), [1]);
    }

    #[test]
    fn victims_have_a_chunk_of_survivors_together_and_the_first_is_always_taken() {
        let lives = [(0.9, 900), (0.3, 30), (0.05, 1), (0.0, 1), (0.0, 0)];
        let candidates = lives.map(|(live, age_mib)| worth(live, 0.0, age_mib << 20));
        assert_eq!(pick(&candidates, 8, true), [3, 4, 0]);
        assert_eq!(pick(&candidates[..2], 8, true), [0]);
        assert_eq!(pick(&candidates, 2, true), [3, 4]);
    }

    #[test]
    fn old_entries_count_with_the_facts_that_they_keep() {
        let (plain, pins) = (worth(0.99, 0.0, 1 << 30), worth(0.99, 0.1, 1 << 30));
        assert_eq!(pick(&[plain, pins], 8, true), [1]);
        assert_eq!(pick(&[plain, pins], 8, false), [0_usize; 0], "it has survivors");
        assert!(worth(0.5, 0.1, 0).score() > worth(0.5, 0.0, 0).score());
    }

    #[test]
    fn of_two_chunks_with_the_same_garbage_the_one_at_rest_is_worth_more() {
        assert!(score(0.5, 100 << 20) > score(0.5, 10 << 20));
        assert!(score(0.2, 10 << 20) > score(0.5, 10 << 20));
        assert!(score(0.0, 0) > score(0.5, 0));
        assert_eq!(score(1.0, 1 << 40), 0.0, "a chunk without garbage is worth nothing");
    }
}
