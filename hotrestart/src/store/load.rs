//! Loading: what the files and the old log buffers hold goes into memory, and is made durable as far as
//! it was not.
//!
//! Invariants: whatever is judged to count is flushed before the manifest says so, since the process
//! before may have died between a write and its flush. No seq is given twice, also of those that a life
//! gave without leaving a trace (`dir/seqs.rs`). Called by `open.rs`, before anything new is logged;
//! `docs/restart.md` has the rules.

use std::time::Instant;

use hdstore::{Seq, StreamId};

use crate::buffers::layout::Owner;
use crate::buffers::place::{Left, Places};
use crate::buffers::recover::{LeftBehind, parse};
use crate::chunks::register::{Register, Registered};
use crate::chunks::supply::Supply;
use crate::config::{Builder, RecoveryMode};
use crate::error::{OpenError, Problem};
use crate::format::manifest::{BuffersPlace, LifeState, MANIFEST_NAMES};
use crate::format::{BootId, FileNumber, LifeNumber, Manifest};
use crate::io::Disk;
use crate::io::sim::Random;
use crate::log::DiskLog;
use crate::restart::beyond::Relog;
use crate::restart::fold::Fold;
use crate::restart::plan::{self, Plan, Settled};
use crate::restart::read::flush_all;
use crate::restart::report::RecoveryReport;
use crate::restart::tail::{self, Judging};

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
        let is_strict = builder.recovery == RecoveryMode::Strict;
        let parsed = match places.read(manifest.store, life.number, life.buffers) {
            Ok(Left::Bytes(bytes)) => parse(bytes, &owner),
            Ok(Left::Nothing) => Err("the file is gone".to_owned()),
            Ok(Left::OfAnother(other)) if is_strict => {
                return Err(OpenError::BuffersOfAnother {
                    life: life.number.0,
                    file: other.file,
                    owner: other.owner,
                });
            }
            Ok(Left::OfAnother(other)) => {
                Err(format!("{} belongs to {}", other.file.display(), other.owner))
            }
            Err(error) => Err(error.to_string()),
        };
        match parsed {
            Ok(parsed) => left.push((life.number, parsed)),
            Err(reason) if is_strict => {
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
#[derive(Default)]
pub(super) struct ToRelog {
    pub(super) records: Vec<Relog>,
    pub(super) ends: Vec<(u64, u32, u64)>,
    /// By stream, the highest seq that was found.
    pub(super) durable: Vec<u64>,
    /// No stream gives a seq below this any more.
    pub(super) seq_start: u64,
}

/// Whether nothing is damaged but, at most, one of the two copies of the manifest.
pub(super) fn is_whole(report: &RecoveryReport) -> bool {
    report.problems.iter().all(|problem| problem.file.starts_with("manifest."))
}

/// Fills the memory, and says what is left to do.
pub(super) fn load(
    builder: &Builder,
    disk: &dyn Disk,
    memory: &hdstore::Store<DiskLog>,
    manifest: &Manifest,
    (plan, left): (&Plan, &LeftByLife),
    report: &mut RecoveryReport,
    start: Instant,
) -> Result<ToRelog, OpenError> {
    let salvage = builder.recovery == RecoveryMode::Salvage;
    let on_progress = builder.on_progress.as_deref();
    let shared = &memory.log().shared;
    let (chunk_size, streams) = (shared.supply.chunk_size(), shared.streams);
    let mut relog = ToRelog::default();
    relog.ends.extend(&plan.ends);
    let (mut settled, mut beyond) = (plan.settled.clone(), Vec::new());
    let mut judging = Judging {
        disk,
        chunk_size: chunk_size as usize,
        salvage,
        problems: Vec::new(),
        bytes_read: 0,
    };
    for tail in &plan.tails {
        let of_life = left.iter().find(|(life, _)| life.0 == tail.life).map(|(_, left)| left);
        let judged = tail::judge(&mut judging, tail, of_life)?;
        relog.ends.push((judged.life, judged.writer, judged.blocks));
        settled.extend(judged.settled);
        beyond.extend(judged.beyond);
        report.cuts.extend(judged.cut);
    }
    let loading = memory.start_load(builder.absence_bytes());
    let shape = (chunk_size, streams, builder.loader_count());
    let fold = Fold::new(disk, &loading, shared, shape, &beyond, start, on_progress);
    judging.problems.into_iter().for_each(|problem| fold.problem(problem));
    fold.note_bytes(judging.bytes_read as usize);
    arrange(&mut settled, builder.load_order);
    fold.load(&settled, builder.loader_count(), plan.live_bytes)?;
    for chunk in &settled {
        register(&shared.catalogue.register, chunk, chunk_size);
    }
    let mut problems = fold.take_problems();
    if !problems.is_empty() {
        problems.splice(0..0, plan.unreadable.iter().cloned());
    }
    if !salvage && !problems.is_empty() {
        return Err(OpenError::Corrupt { problems });
    }
    report.problems.append(&mut problems);
    shared.counters.clock.store(plan.clock, std::sync::atomic::Ordering::Relaxed);
    shared.supply.adopt(
        plan.settled.len() as u64
            + plan.tails.iter().map(|tail| tail.chunks.len() as u64).sum::<u64>(),
    );
    (report.bytes_read, report.chunks, report.records) = fold.counts();
    relog.records = fold.take_relog();
    relog.durable = fold.highest_seqs();
    drop(fold);
    for (map, stream, seq) in loading.cleared() {
        shared.clears.raise(map, stream, seq);
    }
    // After a clean close nothing is lost, and a stream goes on from what was found of it. Else seqs below
    // the limit may have been given of which nothing is left.
    let is_all_there = report.was_clean && is_whole(report);
    relog.seq_start = if is_all_there { manifest.seq_start } else { manifest.seq_limit };
    for (stream, found) in (0..).zip(&relog.durable) {
        let above = Seq(relog.seq_start - 1).max(Seq(*found));
        loading.raise_seq(StreamId(stream), above).map_err(OpenError::Memory)?;
    }
    flush_all(disk, &plan.unflushed)?;
    report.entries = loading.finish();
    Ok(relog)
}

/// Nothing is written any more to a chunk of a former life.
fn register(register: &Register, chunk: &Settled, stable_bytes: u64) {
    let header = &chunk.file.header;
    if let Some(file) = FileNumber::from_file_name(&chunk.file.name) {
        let registered = Registered {
            id: header.chunk,
            life: header.life,
            writer: header.writer.0,
            first_block: header.first_block.0,
            stable_bytes,
        };
        register.add(file, registered);
    }
}

/// Sorts chunks from the newest to the oldest, or into the order of a seed.
fn arrange(settled: &mut [Settled], order: Option<u64>) {
    settled.sort_by_key(|chunk| {
        let header = &chunk.file.header;
        std::cmp::Reverse((header.clock, header.chunk))
    });
    if let Some(seed) = order {
        let mut random = Random::new(seed);
        settled.sort_by_cached_key(|_| random.next());
    }
}

/// Takes the files in which nothing counts into the stock, as far as they are wanted there, and removes the
/// rest: chunks that were made and not used, and those beyond a cut. So an opening on a full disk has what it
/// needs to log again, whoever fills the disk meanwhile. The process before may have died between the writing
/// of the manifest that says so and its flush: it is flushed first, else a power cut would bring the former
/// one back, and not the files.
pub(super) fn sweep(disk: &dyn Disk, plan: &Plan, supply: &Supply) -> Result<(), OpenError> {
    if plan.unused.is_empty() {
        return Ok(());
    }
    let entries = disk.list()?;
    let names = entries.iter().map(|entry| &entry.name);
    let manifests: Vec<String> =
        names.filter(|name| MANIFEST_NAMES.contains(&name.as_str())).cloned().collect();
    flush_all(disk, &manifests)?;
    for name in &plan.unused {
        let entry = entries.iter().find(|entry| entry.name == *name);
        if !entry.is_some_and(|entry| supply.take_unused(entry)) {
            disk.remove(name)?;
        }
    }
    disk.sync_dir()?;
    Ok(())
}

/// Removes the log buffers of openings that did not come to their end: nothing that counts is in them, and
/// the manifest of the next life does not name them any more.
pub(super) fn remove_buffers_of_failed_openings(manifest: &Manifest, places: &Places) {
    let first = plan::undecided(manifest);
    for life in &manifest.lives {
        if life.state == LifeState::Open
            && Some(life.number) != first
            && let Err(error) = places.remove(manifest.store, life.number, life.buffers)
        {
            tracing::warn!(%error, life = %life.number, "log buffers of an opening could not be removed");
        }
    }
}
