//! Blocks of a life that compaction has freed: whoever misses them knows why.
//!
//! Invariant: ranges are in order, apart and not empty, so the list is as short as it can be: at most one
//! range more per writer than there are chunks left. The compactor adds to it, durably, before a chunk's
//! file is used again; opening and `inspect` read it. See `docs/format.md`, section 6.

use std::ops::Range;

/// The freed blocks of one life.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FreedBlocks {
    ranges: Vec<FreedRange>,
}

/// Freed blocks of one writer that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FreedRange {
    /// The writer.
    pub writer: u32,
    /// The number of the first block.
    pub first: u64,
    /// The number after the last one.
    pub end: u64,
}

impl FreedBlocks {
    /// The list that has these ranges; `None` if they are not in order, apart and not empty.
    #[must_use]
    pub fn from_ranges(ranges: Vec<FreedRange>) -> Option<FreedBlocks> {
        let is_sound = ranges.iter().all(|range| range.first < range.end)
            && ranges.windows(2).all(|pair| {
                pair[0].writer < pair[1].writer
                    || (pair[0].writer == pair[1].writer && pair[0].end < pair[1].first)
            });
        is_sound.then_some(FreedBlocks { ranges })
    }

    /// All ranges, in order.
    #[must_use]
    pub fn ranges(&self) -> &[FreedRange] {
        &self.ranges
    }

    /// Adds the blocks of a chunk.
    pub fn add(&mut self, writer: u32, blocks: Range<u64>) {
        if blocks.is_empty() {
            return;
        }
        let mut new = FreedRange { writer, first: blocks.start, end: blocks.end };
        let touches = |range: &FreedRange| {
            range.writer == writer && range.first <= new.end && new.first <= range.end
        };
        let start = self
            .ranges
            .iter()
            .position(|range| touches(range) || *range > new)
            .unwrap_or(self.ranges.len());
        let count = self.ranges[start..].iter().take_while(|range| touches(range)).count();
        for range in &self.ranges[start..start + count] {
            new.first = new.first.min(range.first);
            new.end = new.end.max(range.end);
        }
        self.ranges.splice(start..start + count, [new]);
    }

    /// The first block from `block` on that is not freed.
    #[must_use]
    pub fn next_kept(&self, writer: u32, block: u64) -> u64 {
        let within = |range: &&FreedRange| {
            range.writer == writer && range.first <= block && block < range.end
        };
        self.ranges.iter().find(within).map_or(block, |range| range.end)
    }

    /// The number after the highest freed block of a writer; 0 without one.
    #[must_use]
    pub fn end(&self, writer: u32) -> u64 {
        let ends = self.ranges.iter().filter(|range| range.writer == writer);
        ends.map(|range| range.end).max().unwrap_or(0)
    }

    /// Whether all these blocks are freed.
    #[must_use]
    pub fn covers(&self, writer: u32, blocks: &Range<u64>) -> bool {
        blocks.is_empty()
            || self.ranges.iter().any(|range| {
                range.writer == writer && range.first <= blocks.start && blocks.end <= range.end
            })
    }

    /// The first of these blocks that is not freed, with the end of the stretch of such; `None` if all are.
    #[must_use]
    pub fn first_gap(&self, writer: u32, blocks: Range<u64>) -> Option<Range<u64>> {
        let mut start = blocks.start;
        for range in self.ranges.iter().filter(|range| range.writer == writer) {
            if range.first > start {
                break;
            }
            start = start.max(range.end);
        }
        let next = self
            .ranges
            .iter()
            .find(|range| range.writer == writer && range.first > start)
            .map_or(blocks.end, |range| range.first.min(blocks.end));
        (start < blocks.end).then_some(start..next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_become_one() {
        let mut freed = FreedBlocks::default();
        for blocks in [10..20, 40..50, 0..0, 20..30, 30..40] {
            freed.add(1, blocks);
        }
        freed.add(0, 5..6);
        let range = |writer, first, end| FreedRange { writer, first, end };
        assert_eq!(freed.ranges(), [range(0, 5, 6), range(1, 10, 50)]);
        assert_eq!(freed.first_gap(1, 0..60), Some(0..10));
        assert_eq!(freed.first_gap(1, 10..60), Some(50..60));
        assert_eq!(freed.first_gap(1, 10..50), None);
        assert_eq!(FreedBlocks::from_ranges(vec![range(1, 5, 6), range(0, 5, 6)]), None);
        assert_eq!(FreedBlocks::from_ranges(vec![range(1, 5, 6), range(1, 6, 7)]), None);
    }

    proptest! {
        #[test]
        fn the_list_says_what_a_set_of_blocks_would(
            chunks in proptest::collection::vec((0..3_u32, 0..60_u64, 0..9_u64), 0..40),
            asked in (0..3_u32, 0..60_u64, 0..9_u64),
        ) {
            let mut freed = FreedBlocks::default();
            let mut set = BTreeSet::new();
            for (writer, first, len) in chunks {
                freed.add(writer, first..first + len);
                set.extend((first..first + len).map(|block| (writer, block)));
            }
            prop_assert_eq!(FreedBlocks::from_ranges(freed.ranges().to_vec()), Some(freed.clone()));
            let (writer, first, len) = asked;
            let blocks = first..first + len;
            let missing = blocks.clone().find(|block| !set.contains(&(writer, *block)));
            prop_assert_eq!(freed.covers(writer, &blocks), missing.is_none());
            let kept = (first..).find(|block| !set.contains(&(writer, *block)));
            prop_assert_eq!(Some(freed.next_kept(writer, first)), kept);
            let highest = set.iter().filter(|(of, _)| *of == writer).map(|(_, block)| block + 1).max();
            prop_assert_eq!(freed.end(writer), highest.unwrap_or(0));
            let gap = freed.first_gap(writer, blocks.clone());
            prop_assert_eq!(gap.as_ref().map(|gap| gap.start), missing);
            if let Some(gap) = gap {
                prop_assert!(gap.clone().all(|block| !set.contains(&(writer, block))));
                prop_assert!(gap.end == blocks.end || set.contains(&(writer, gap.end)));
            }
        }
    }
}
