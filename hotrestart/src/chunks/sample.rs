//! A sample of a chunk's records, by which the live share of the chunk is estimated at any time.
//!
//! Invariant: a record is in the sample once for each place that its bytes cover; there is one place in each
//! step, anywhere in it, the same in all chunks. So a byte of any record is as likely to be sampled as any
//! other, and the share of the places that is live estimates the share of the bytes that is. `SAMPLES` places
//! of a chunk: the estimate is right to six parts in a hundred (one standard deviation), at no cost for puts.
//! Cost: 2 KiB a chunk in memory, and some 10 us when the live share is asked. Callers: whoever fills or
//! loads a chunk; the compactor. See `docs/compaction.md`.

use std::ops::Range;

use hdstore::{Seq, Stamp};

use crate::format::directory::DirectoryLine;
use crate::format::{ChunkOrigin, LineKind, MapId, StreamId};
use crate::io::sim::Random;

/// Samples of a full chunk.
pub(crate) const SAMPLES: usize = 64;

/// Of padding this part of a chunk counts as nothing.
const PADDING_SHARE: u32 = 8;

/// One record of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Of a part, hash and seq hold the run's id.
    pub(crate) stamp: Stamp,
    pub(crate) kind: LineKind,
}

/// Takes a sample of a chunk whose records come in the order of their offsets.
#[derive(Debug)]
pub(crate) struct Sampler {
    step: usize,
    /// The number of the place that is looked at next, and where it is.
    index: usize,
    next: usize,
    samples: Vec<Sample>,
}

/// Where the place with this number lies: anywhere in its step, since blocks are aligned, and places at equal
/// distances would all lie in headers, or all in padding.
fn place(index: usize, step: usize) -> usize {
    index * step + Random::new(index as u64).below(step)
}

impl Sampler {
    pub(crate) fn new(chunk_size: u64) -> Sampler {
        let step = (chunk_size as usize / SAMPLES).max(1);
        Sampler { step, index: 0, next: place(0, step), samples: Vec::with_capacity(SAMPLES) }
    }

    /// Offers the next record; `sample` is asked when it is taken.
    #[inline]
    pub(crate) fn offer(&mut self, offset: usize, len: usize, sample: impl FnOnce() -> Sample) {
        let end = offset + len;
        if end <= self.next {
            return;
        }
        let mut covered = 0;
        while self.next < end {
            covered += usize::from(self.next >= offset);
            self.index += 1;
            self.next = place(self.index, self.step);
        }
        if covered > 0 {
            self.samples.extend(std::iter::repeat_n(sample(), covered));
        }
    }

    /// Places of a chunk at which a byte is looked at, those of its directory apart: what is none of a record
    /// there is padding, or was never used.
    pub(crate) fn places(&self, chunk_size: u64, directory: Option<&Range<usize>>) -> u32 {
        let is_in_directory =
            |at: usize| directory.is_some_and(|directory| directory.contains(&at));
        let places = (0..SAMPLES).map(|index| place(index, self.step));
        let places = places.filter(|at| *at < chunk_size as usize && !is_in_directory(*at));
        places.count() as u32
    }

    /// The sample; the sampler starts over.
    pub(crate) fn take(&mut self) -> Box<[Sample]> {
        (self.index, self.next) = (0, place(0, self.step));
        std::mem::take(&mut self.samples).into_boxed_slice()
    }
}

/// How many places count for a chunk's live share. A little padding is nowhere to be helped, and is not worth
/// a copy of everything beside it; nor is that of survivors, which were packed as well as can be.
pub(crate) fn places_of(origin: ChunkOrigin, places: u32, samples: &[Sample]) -> u32 {
    match origin {
        ChunkOrigin::Changes => (places - places / PADDING_SHARE).max(samples.len() as u32),
        ChunkOrigin::Survivors => samples.len() as u32,
    }
}

/// The sample that a directory line makes.
pub(crate) fn of_line(map: MapId, stream: StreamId, line: &DirectoryLine) -> Sample {
    Sample { stamp: Stamp { map, stream, hash: line.hash, seq: Seq(line.seq) }, kind: line.kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: u64) -> Sample {
        let stamp = Stamp { map: MapId(1), stream: StreamId(0), hash: number, seq: Seq(number) };
        Sample { stamp, kind: LineKind::Entry }
    }

    #[test]
    fn blocks_that_are_all_aligned_are_not_sampled_in_the_same_place() {
        // One record of a quarter of each block, after its header.
        for chunk_size in [256 << 10, 8 << 20] {
            let mut sampler = Sampler::new(chunk_size);
            for block in 1..chunk_size as usize / 4096 {
                sampler.offer(block * 4096 + 64, 1024, || sample(block as u64));
            }
            let taken = sampler.take().len();
            assert!((6..=28).contains(&taken), "{taken} of {SAMPLES} places, expected about 16");
        }
    }

    #[test]
    fn a_byte_is_as_likely_to_be_sampled_in_a_long_record_as_in_a_short_one() {
        let mut sampler = Sampler::new(64 * 1000);
        // One record has half of the bytes; the others are short, and there is room between them.
        let mut at = 0;
        for number in 0..1000 {
            sampler.offer(at, 20, || sample(number));
            at += 32;
        }
        sampler.offer(at, 32_000, || sample(9999));
        let samples = sampler.take();
        let long = samples.iter().filter(|sample| sample.stamp.hash == 9999).count();
        assert_eq!(long, 32);
        let short = samples.len() - long;
        assert!((14..=26).contains(&short), "{short}, expected about 20 of 32");
        assert!(samples.len() <= SAMPLES);
        sampler.offer(0, 64_000, || sample(1));
        assert_eq!(sampler.take().len(), SAMPLES, "a sampler starts over");
        assert_eq!(sampler.places(64_000, None), 64);
        assert_eq!(sampler.places(64_000, Some(&(56_000..64_000))), 56);
        assert_eq!(
            sampler.places(64_000, Some(&(8_000..9_000))),
            63,
            "what follows was never used"
        );
    }
}
