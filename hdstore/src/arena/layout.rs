//! Where the regions of a node's arena lie (`docs/format.md`, section 4).
//!
//! Invariant: the regions do not overlap, each starts at a multiple of 2 MiB, and each is large enough for
//! whatever the memory limit allows, so that nothing in the arena ever moves or runs out before the limit is
//! reached. Address space is not memory: only what is committed counts.

use super::os::UNIT;

/// Bytes of a slab page.
pub(crate) const PAGE: u64 = 256 * 1024;
/// Bytes of the page table per page.
pub(crate) const PAGE_META: u64 = 64;
/// Bytes of the superblock.
pub(crate) const SUPERBLOCK: u64 = 4096;
/// Bytes of a stream's head.
pub(crate) const STREAM_HEAD: u64 = 64;
/// Maps that a store can ever have open at a time.
pub(crate) const MAPS_MAX: u64 = 65_536;
/// The smallest large slot (address space, not memory).
pub(crate) const LARGE_MIN: u64 = 64 * 1024;
/// Classes of large slots: 64 KiB, 128 KiB, ... 2 GiB.
pub(crate) const LARGE_CLASSES: usize = 16;
/// Large slots are committed in steps of this.
pub(crate) const LARGE_STEP: u64 = 4096;

/// The places of the regions, as offsets.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Stream heads, after the superblock.
    pub(crate) streams: u64,
    /// The map table: one word per map id slot.
    pub(crate) maps: u64,
    /// The page table.
    pub(crate) page_table: u64,
    /// The table of large slots, by class.
    pub(crate) large_table: [u64; LARGE_CLASSES],
    /// Slab pages.
    pub(crate) pages: u64,
    /// How many slab pages there is room for.
    pub(crate) pages_max: u64,
    /// Large slots, by class.
    pub(crate) large: [u64; LARGE_CLASSES],
    /// How many large slots of a class there is room for.
    pub(crate) large_max: [u64; LARGE_CLASSES],
    /// Where it all ends.
    pub(crate) end: u64,
}

/// What a load may commit beyond the limit when the store was at its limit: its records come in another order
/// than they did, so pages fill and tables grow somewhat differently.
pub(crate) fn load_overdraft(limit_bytes: u64) -> u64 {
    (4 << 20) + limit_bytes / 32
}

impl Layout {
    /// Places the regions for a memory limit, streams, and a largest value.
    pub(crate) fn new(limit_bytes: u64, streams: u32, slot_max_bytes: u64) -> Layout {
        let mut next = 0;
        let mut region = |bytes: u64| {
            let start = next;
            next += bytes.next_multiple_of(UNIT);
            start
        };
        let superblock = region(SUPERBLOCK + u64::from(streams) * STREAM_HEAD);
        let maps = region(MAPS_MAX * 8);
        let most_bytes = limit_bytes + load_overdraft(limit_bytes);
        let pages_max = most_bytes / PAGE;
        let page_table = region(pages_max * PAGE_META);
        let mut large_max = [0; LARGE_CLASSES];
        let mut large_table = [0; LARGE_CLASSES];
        for class in 0..LARGE_CLASSES {
            let smallest = (LARGE_MIN << class) / 2;
            if smallest <= slot_max_bytes {
                large_max[class] = most_bytes / smallest + 1;
            }
            large_table[class] = region(large_max[class] * 8);
        }
        // Slab pages start at a multiple of 1 GiB from the base when there are that many, for the ladder's
        // first rung.
        if limit_bytes >= super::os::GIB {
            let gap = next.next_multiple_of(super::os::GIB) - next;
            next += gap;
        }
        let mut region = |bytes: u64| {
            let start = next;
            next += bytes.next_multiple_of(UNIT);
            start
        };
        let pages = region(pages_max * PAGE);
        let mut large = [0; LARGE_CLASSES];
        for class in 0..LARGE_CLASSES {
            large[class] = region(large_max[class] * (LARGE_MIN << class));
        }
        Layout {
            streams: superblock + SUPERBLOCK,
            maps,
            page_table,
            large_table,
            pages,
            pages_max,
            large,
            large_max,
            end: next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Location;

    #[test]
    fn regions_do_not_overlap_and_fit_a_location() {
        for limit in [16 << 20, 1 << 30, 100 << 30, 512 << 30] {
            let layout = Layout::new(limit, 271, (limit / 4).min(1 << 30) + 65_600);
            let mut starts = vec![layout.streams, layout.maps, layout.page_table, layout.pages];
            starts.extend(layout.large_table);
            starts.extend(
                layout.large.iter().zip(layout.large_max).filter(|l| l.1 > 0).map(|l| *l.0),
            );
            let mut sorted = starts.clone();
            sorted.sort_unstable();
            assert!(layout.pages + layout.pages_max * PAGE <= layout.large[0]);
            assert!(layout.end >> 3 <= Location::MASK, "{limit}: {:x}", layout.end);
            assert!(sorted.iter().all(|start| *start < layout.end));
        }
    }
}
