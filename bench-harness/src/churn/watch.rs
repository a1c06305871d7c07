//! The bounds, looked at every second: memory, disk, what waits for readers, and that nothing has stopped.
//!
//! The disk budget holds at each moment, also while live data shrinks, but for what a clear leaves: that is
//! on its way out, and must not rise. See docs/compaction.md, "The budget".

use std::collections::VecDeque;

use crate::engine::Figures;
use crate::system::memory;

/// Looks before this one that count, too: the store takes a moment to notice how much it holds.
const LAG: usize = 2;
/// Below this many times what may be made beyond the budget a store has a few chunks, and no ratio.
const FEW: u64 = 8;
/// Seconds without any operation that are a problem.
const STILL_MAX_SECONDS: u64 = 15;
/// While values drift in size, the share of the memory limit that live records have at least.
const LIVE_MIN: f64 = 0.4;
/// More problems are one problem.
const TOLD: usize = 5;

/// What was seen.
#[derive(Debug, Default)]
pub struct Watch {
    /// The most memory that the store had committed.
    pub memory_max_bytes: u64,
    /// The most that the process had resident.
    pub rss_max_bytes: Option<u64>,
    /// The most bytes of chunk files.
    pub disk_max_bytes: u64,
    /// The highest ratio of chunk files to live records, since what the pattern before left is gone.
    pub ratio_max: f64,
    /// The most bytes that waited for readers.
    pub unreclaimed_max_bytes: u64,
    /// Seconds with more on disk than the budget, while what the pattern before left was on its way out.
    pub over_budget_seconds: u64,
    /// The fewest bytes of live records since memory was full.
    pub live_min_bytes: Option<u64>,
    /// Bounds that were broken.
    pub problems: Vec<String>,
    still_seconds: u64,
    allowed: VecDeque<u64>,
    former_bytes: Option<u64>,
    /// Whether the store has been within its budget.
    was_within: bool,
}

impl Watch {
    /// Takes a second's operations in: a store that stands still is as bad as one that grows.
    pub fn count(&mut self, at_seconds: u64, operations: u64) {
        self.still_seconds = if operations == 0 { self.still_seconds + 1 } else { 0 };
        if self.still_seconds == STILL_MAX_SECONDS {
            self.problem(at_seconds, format!("nothing was done for {STILL_MAX_SECONDS} s"));
        }
    }

    /// Takes a second's figures in.
    pub fn look(&mut self, at_seconds: u64, ratio: f64, now: &Figures) {
        self.memory_max_bytes = self.memory_max_bytes.max(now.committed_bytes);
        self.unreclaimed_max_bytes = self.unreclaimed_max_bytes.max(now.unreclaimed_bytes);
        self.rss_max_bytes = self.rss_max_bytes.max(memory::resident_bytes());
        self.disk_max_bytes = self.disk_max_bytes.max(now.allocated_bytes);
        if now.committed_bytes > now.limit_bytes {
            let (found, bound) = (now.committed_bytes, now.limit_bytes);
            self.problem(at_seconds, format!("memory {found} B beyond the limit {bound} B"));
        }
        self.look_at_disk(at_seconds, ratio, now);
        if let Some(trouble) = &now.trouble {
            self.problem(at_seconds, trouble.clone());
        }
    }

    /// Takes a second's figures in after memory was full, while whatever does not fit drives others out: the
    /// limit must be usable for values of each size.
    pub fn look_while_full(&mut self, at_seconds: u64, now: &Figures) {
        let least = (LIVE_MIN * now.limit_bytes as f64) as u64;
        let former = self.live_min_bytes.unwrap_or(u64::MAX);
        if now.record_bytes < least && former >= least {
            let found = now.record_bytes;
            self.problem(at_seconds, format!("{found} B live of {least} B that fit at least"));
        }
        self.live_min_bytes = Some(former.min(now.record_bytes));
    }

    fn look_at_disk(&mut self, at_seconds: u64, ratio: f64, now: &Figures) {
        let by_ratio = (ratio * now.record_bytes as f64) as u64;
        let allowed = by_ratio.max(now.budget_bytes + now.beyond_bytes);
        self.allowed.push_back(allowed);
        if self.allowed.len() > LAG + 1 {
            self.allowed.pop_front();
        }
        let allowed = self.allowed.iter().copied().max().unwrap_or(allowed);
        let is_within = now.allocated_bytes <= allowed;
        self.was_within |= is_within;
        let is_large = now.record_bytes > FEW * now.beyond_bytes;
        if self.was_within && is_large && now.allocated_bytes > now.budget_bytes / 2 {
            let found = now.allocated_bytes as f64 / now.record_bytes as f64;
            self.ratio_max = self.ratio_max.max(found);
        }
        let is_falling = self.former_bytes.is_none_or(|former| now.allocated_bytes <= former);
        if !is_within && !self.was_within && is_falling {
            self.over_budget_seconds += 1;
        } else if !is_within {
            let (found, former) = (now.allocated_bytes, self.former_bytes.unwrap_or(0));
            self.problem(
                at_seconds,
                format!("disk {found} B beyond {allowed} B, and before that {former} B"),
            );
        }
        self.former_bytes = Some(now.allocated_bytes);
    }

    fn problem(&mut self, at_seconds: u64, what: String) {
        if self.problems.len() < TOLD {
            self.problems.push(format!("after {at_seconds} s: {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(allocated_mib: u64, record_mib: u64) -> Figures {
        Figures {
            limit_bytes: 1 << 30,
            committed_bytes: 1 << 29,
            unreclaimed_bytes: 0,
            record_bytes: record_mib << 20,
            allocated_bytes: allocated_mib << 20,
            budget_bytes: (2 * record_mib) << 20,
            beyond_bytes: 24 << 20,
            trouble: None,
        }
    }

    #[test]
    fn what_a_clear_left_may_shrink_towards_the_budget_and_nothing_may_grow_beyond_it() {
        let mut watch = Watch::default();
        for second in 2..20 {
            watch.look(second, 2.0, &figures(1000 - second, 50));
        }
        assert_eq!(watch.problems, Vec::<String>::new());
        assert_eq!((watch.over_budget_seconds, watch.ratio_max), (18, 0.0));
        watch.look(20, 2.0, &figures(990, 50));
        assert_eq!(watch.problems.len(), 1, "{:?}", watch.problems);
    }

    #[test]
    fn a_store_that_was_within_its_budget_may_not_leave_it_by_shrinking() {
        let mut watch = Watch::default();
        watch.look(1, 2.0, &figures(1000, 500));
        watch.look(2, 2.0, &figures(990, 300));
        watch.look(3, 2.0, &figures(980, 300));
        assert_eq!(watch.problems, Vec::<String>::new(), "it may not have noticed yet");
        watch.look(4, 2.0, &figures(970, 300));
        assert_eq!(watch.problems.len(), 1, "{:?}", watch.problems);
        assert_eq!(watch.ratio_max, 990.0 / 300.0);
    }

    #[test]
    fn memory_beyond_the_limit_and_what_has_stopped_are_problems() {
        let mut watch = Watch::default();
        watch.look(1, 2.0, &Figures { committed_bytes: (1 << 30) + 1, ..figures(10, 10) });
        watch.look(2, 2.0, &Figures { trouble: Some("poisoned".to_owned()), ..figures(10, 10) });
        assert_eq!(watch.problems.len(), 2, "{:?}", watch.problems);
    }

    #[test]
    fn memory_that_is_full_of_little_is_a_problem_told_once() {
        let mut watch = Watch::default();
        watch.look_while_full(1, &figures(10, 700));
        assert_eq!(watch.problems, Vec::<String>::new());
        (2..9).for_each(|second| watch.look_while_full(second, &figures(10, 300)));
        assert_eq!(watch.problems.len(), 1, "{:?}", watch.problems);
        assert_eq!(watch.live_min_bytes, Some(300 << 20));
    }

    #[test]
    fn a_store_that_stands_still_is_a_problem_told_once() {
        let mut watch = Watch::default();
        watch.count(1, 7);
        for second in 2..60 {
            watch.count(second, 0);
        }
        assert_eq!(watch.problems.len(), 1, "{:?}", watch.problems);
    }
}
