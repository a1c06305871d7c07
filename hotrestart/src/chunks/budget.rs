//! The disk budget: how many chunk files a store may have, and how hard compaction must work.
//!
//! Invariant: pure functions of what the store holds. The budget is a ratio of allocated bytes to live
//! record bytes; a store of a few chunks may have as many as it needs to run. Callers: the keeper (how many
//! files there may be), the compactor (its pace). See `docs/compaction.md`.

use crate::format::directory::LINE_LEN;

/// Bytes of a record beside key and value, for reckoning.
pub(crate) const RECORD_OVERHEAD: u64 = 16;
/// Chunks of garbage that any store may have.
const SLACK_FILES: u64 = 6;
/// The share of the budget at which compaction begins, when that leaves it anything to gain.
const BEGIN: f64 = 0.85;

/// What a store may allocate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskBudget {
    /// Allocated bytes for each live record byte.
    pub(crate) ratio: f64,
    pub(crate) chunk_size: u64,
    /// Files that are there whatever the store holds: the stock, and those being filled.
    pub(crate) standing_files: u64,
    /// Files that may be made beyond the budget, for compaction and removals: room is left for them.
    pub(crate) beyond_files: u64,
}

impl DiskBudget {
    /// The files that a store may have, those that may be made beyond apart.
    pub(crate) fn files(&self, entries: u64, live_bytes: u64) -> u64 {
        let record_bytes = (live_bytes + entries * RECORD_OVERHEAD) as f64;
        let by_ratio = (self.ratio * record_bytes / self.chunk_size as f64) as u64;
        // A full chunk is not all records: a directory follows, and blocks are padded.
        let listed_bytes = record_bytes + (entries * LINE_LEN as u64) as f64;
        let full = (1.08 * listed_bytes / self.chunk_size as f64).ceil() as u64;
        by_ratio.saturating_sub(self.beyond_files).max(full + self.standing_files + SLACK_FILES)
    }
}

/// From this pressure on compaction does not rest.
pub(crate) const REST_BELOW: f64 = 0.5;

/// How hard compaction must work, from 0 (not at all) to 1 (all the time).
pub(crate) fn pressure(files: u64, files_max: u64) -> f64 {
    let begin = files_max as f64 * BEGIN;
    ((files as f64 - begin) / (files_max as f64 - begin).max(1.0)).clamp(0.0, 1.0)
}

/// How long to rest after `worked_ms` of work under some pressure, in milliseconds.
pub(crate) fn rest_ms(worked_ms: u64, pressure: f64) -> u64 {
    let share = (pressure / REST_BELOW).clamp(0.1, 1.0);
    (worked_ms as f64 * (1.0 - share) / share) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_store_may_have_what_it_needs_and_a_large_one_no_more_than_its_ratio() {
        let budget =
            DiskBudget { ratio: 2.0, chunk_size: 8 << 20, standing_files: 12, beyond_files: 6 };
        assert_eq!(budget.files(0, 0), 18);
        let entries = 4_000_000;
        let files = budget.files(entries, entries * 247) + budget.beyond_files;
        let ratio = (files * (8 << 20)) as f64 / (entries * 263) as f64;
        assert!(ratio <= 2.0 && ratio > 1.98, "{ratio}");
    }

    /// Of entries of 16 bytes a chunk has a line of 20 bytes each beside records of 32.
    #[test]
    fn a_store_of_short_records_may_have_what_it_needs_whatever_its_size() {
        let chunk_size = 256_u64 << 10;
        let budget = DiskBudget { ratio: 2.0, chunk_size, standing_files: 12, beyond_files: 6 };
        for entries in (0..600_000).step_by(1_000) {
            let bytes = entries * (16 + 15 + LINE_LEN as u64);
            let (files, needed) = (budget.files(entries, entries * 16), bytes.div_ceil(chunk_size));
            assert!(files >= needed + budget.standing_files, "{entries}: {files} of {needed}");
        }
    }

    #[test]
    fn compaction_rests_below_its_share_and_works_all_the_time_near_the_budget() {
        assert_eq!(pressure(84, 100), 0.0);
        assert_eq!(pressure(100, 100), 1.0);
        assert_eq!(pressure(500, 100), 1.0);
        assert_eq!(rest_ms(10, 1.0), 0);
        assert_eq!(rest_ms(10, 0.5), 0);
        assert_eq!(rest_ms(10, 0.25), 10);
        assert_eq!(rest_ms(10, 0.0), 90);
        assert_eq!(pressure(3, 0), 1.0);
    }
}
