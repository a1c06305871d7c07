//! Loading: what the files and the old log buffers hold goes into memory, and is made durable as far as
//! it was not.
//!
//! Invariants: whatever is judged to count is flushed before the manifest says so, since the process
//! before may have died between a write and its flush. No seq is given twice, also of those that a life
//! gave without leaving a trace. Called by `open.rs`, before anything new is logged; `docs/restart.md`
//! has the rules.

use std::time::Instant;

use hdstore::{Seq, StreamId};

use crate::buffers::layout::Owner;
use crate::buffers::place::Places;
use crate::buffers::recover::{LeftBehind, parse};
use crate::config::{Builder, RecoveryMode};
use crate::error::{OpenError, Problem};
use crate::format::manifest::BuffersPlace;
use crate::format::{BootId, LifeNumber, Manifest};
use crate::io::Disk;
use crate::log::DiskLog;
use crate::restart::fold::{Fold, Relog};
use crate::restart::plan::{self, Plan};
use crate::restart::read::flush_all;
use crate::restart::report::RecoveryReport;
use crate::restart::tail::{self, Judged};

/// A life begins at least `ERA` times its number, and at least one to `TURNS` times `GAP` above what was
/// found, by its number. So the starts of a life and of the `TURNS` before it are a `GAP` apart whatever
/// was found of those: far more than what can wait for a flush. The seqs last for some 500,000 lives that
/// all change a stream and are never closed cleanly.
const ERA: u64 = 1 << 28;
const GAP: u64 = 1 << 24;
const TURNS: u64 = 64;

/// What the seqs of a stream go on above, when `seq` is the highest that was found, and `last_traced` the
/// last life that left anything of the stream.
fn go_on_above(seq: u64, last_traced: u64, new: u64, was_clean: bool) -> Seq {
    if was_clean && last_traced + 1 == new {
        return Seq(seq);
    }
    let above = seq.saturating_add((1 + new % TURNS) * GAP).max(new.saturating_mul(ERA));
    Seq(above).min(Seq::MAX)
}

/// The log buffers of the life that is undecided.
pub(super) type LeftByLife = Vec<(LifeNumber, LeftBehind)>;

pub(super) fn left_behind(
    builder: &Builder,
    places: &Places,
    manifest: &Manifest,
    boot: BootId,
    report: &mut RecoveryReport,
) -> Result<LeftByLife, OpenError> {
    let mut left = Vec::new();
    for life in &manifest.lives {
        let has_buffers =
            Some(life.number) == plan::undecided(manifest) && life.buffers != BuffersPlace::None;
        if !has_buffers || life.boot != boot {
            continue;
        }
        let owner = Owner { store: manifest.store, life: life.number, boot };
        let place = format!("{:?}", life.buffers);
        let bytes = places.read(manifest.store, life.number, life.buffers);
        let parsed = match bytes {
            Ok(Some(bytes)) => parse(bytes, &owner),
            Ok(None) => Err("the file is gone".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match parsed {
            Ok(parsed) => left.push((life.number, parsed)),
            Err(reason) if builder.recovery == RecoveryMode::Strict => {
                return Err(OpenError::BuffersLost {
                    life: life.number.0,
                    place: format!("{place}: {reason}"),
                });
            }
            Err(reason) => report.problems.push(Problem {
                file: String::new(),
                offset: 0,
                what: format!(
                    "the log buffers of life {} are lost ({place}: {reason}), with all changes that \
                     were only there",
                    life.number
                ),
            }),
        }
    }
    Ok(left)
}

/// What has to be logged again, and where the former lives end.
pub(super) struct ToRelog {
    pub(super) records: Vec<Relog>,
    pub(super) ends: Vec<(u64, u32, u64)>,
    /// By stream, the highest seq that was found.
    pub(super) durable: Vec<u64>,
}

/// Fills the memory, and says what is left to do.
pub(super) fn load(
    builder: &Builder,
    disk: &dyn Disk,
    memory: &hdstore::Store<DiskLog>,
    plan: &Plan,
    left: &LeftByLife,
    report: &mut RecoveryReport,
    start: Instant,
) -> Result<ToRelog, OpenError> {
    let salvage = builder.recovery == RecoveryMode::Salvage;
    let loading = memory.start_load();
    let on_progress = builder.on_progress.as_deref();
    let shared = &memory.log().shared;
    let shape = (shared.supply.chunk_size(), shared.streams);
    let fold = Fold::new(disk, &loading, shape, salvage, start, on_progress);
    fold.expect_chunks(
        plan.settled.len() + plan.tails.iter().map(|tail| tail.chunks.len()).sum::<usize>(),
    );
    fold.run(&plan.settled, builder.loader_count())?;
    let mut relog = ToRelog { records: Vec::new(), ends: Vec::new(), durable: Vec::new() };
    relog.ends.extend(plan.void.iter().map(|(life, writer)| (*life, *writer, 0)));
    for tail in &plan.tails {
        let of_life = left.iter().find(|(life, _)| life.0 == tail.life).map(|(_, left)| left);
        let Judged { life, writer, blocks, relog: records, cut } =
            tail::judge(&fold, tail, of_life)?;
        relog.records.extend(records);
        relog.ends.push((life, writer, blocks));
        report.cuts.extend(cut);
    }
    for (life, writer, run) in fold.runs.headed_but_not_whole() {
        fold.problem(Problem {
            file: String::new(),
            offset: 0,
            what: format!(
                "run {run} of writer {writer} in life {life} has its entry, but not all its parts"
            ),
        });
    }
    let mut problems = fold.take_problems();
    if !salvage && !problems.is_empty() {
        return Err(OpenError::Corrupt { problems });
    }
    report.problems.append(&mut problems);
    (report.bytes_read, report.chunks, report.records) = fold.counts();
    let traces = fold.traces();
    drop(fold);
    for (stream, (seq, life)) in traces.iter().enumerate() {
        let above = go_on_above(*seq, *life, report.life, report.was_clean);
        loading.raise_seq(StreamId(stream as u32), above).map_err(OpenError::Memory)?;
    }
    relog.durable = traces.into_iter().map(|(seq, _)| seq).collect();
    flush_all(disk, &plan.unflushed)?;
    report.entries = loading.finish();
    Ok(relog)
}

/// Removes the files in which nothing counts: chunks that were made and not used, and those beyond a cut.
pub(super) fn sweep(disk: &dyn Disk, plan: &Plan) -> Result<(), OpenError> {
    for name in &plan.unused {
        disk.remove(name)?;
    }
    if !plan.unused.is_empty() {
        disk.sync_dir()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_that_leave_no_trace_never_share_a_stamp() {
        for found in [0, 1, 77, ERA - 1, 9 * ERA, 1 << 40] {
            let mut start = go_on_above(found, 3, 5, false).0;
            for life in 6..40 {
                // The life before gave seqs that nothing is left of, or some that were logged again in
                // the next one.
                let next = go_on_above(found + life, life - 1, life, false).0;
                assert!(next >= start + GAP, "life {life} above {found}");
                start = next;
            }
        }
        let mut found = 1 << 40;
        for life in 6..400_000 {
            found = go_on_above(found, life - 1, life, false).0;
        }
        assert!(Seq(found) < Seq::MAX, "seqs run out by crashes alone");
        assert_eq!(go_on_above(7, 4, 5, true), Seq(7), "nothing is lost by a clean close");
        assert_eq!(go_on_above(0, 0, 1, true), Seq(0), "a new store");
        assert_eq!(go_on_above(Seq::MAX.0, 4, 5, false), Seq::MAX);
    }
}
