//! Opening: the order of steps, each of which may be the last before a crash.
//!
//! 1. Lock, manifest, headers: everything that can refuse the store refuses it here, before anything is
//!    changed.
//! 2. New log buffers. Load: settled chunks in parallel, tails in order, what the old buffers still hold.
//!    A store that is refused here is left as it was. Then what counts is flushed, and files in which
//!    nothing counts come into the stock of chunks or are removed.
//! 3. The manifest with the new life; the former lives stay undecided.
//! 4. Writers start; what lay beyond the old end is logged again and flushed.
//! 5. The manifest with the old lives cut; only then are their buffers removed and changes taken.
//!
//! A crash in the middle leaves the former lives undecided, and the next opening finds the same as this
//! one did.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdstore::{IndexHash, MapSpec};

use super::Store;
use super::identity::{boot_id, check_fixed, find_manifest, open_disk};
use super::load::{ToRelog, is_whole, left_behind, load, remove_buffers_of_failed_openings, sweep};
use super::runner::Runner;
use super::threads;
use crate::buffers::layout::{Geometry, Owner};
use crate::buffers::place::{Made, Places};
use crate::buffers::ring::Ring;
use crate::chunks::blocks::Counters;
use crate::chunks::budget::DiskBudget;
use crate::chunks::catalogue::Catalogue;
use crate::chunks::floor::BudgetFloor;
use crate::chunks::supply::{BUFFERS_PER_CHUNK, Reserve, Supply};
use crate::clears::Clears;
use crate::config::{Builder, RecoveryMode};
use crate::dir::manifests::Manifests;
use crate::dir::seqs::SeqReserve;
use crate::error::OpenError;
use crate::format::manifest::{BuffersPlace, Life, LifeState};
use crate::format::{BootId, FileNumber, FreedBlocks, LifeNumber, Manifest};
use crate::holds::Holds;
use crate::io::Disk;
use crate::log::{DiskLog, Lane, Shared};
use crate::poison::Poison;
use crate::restart::plan::{self, Plan};
use crate::restart::report::RecoveryReport;
use crate::runs::LiveRuns;

pub(crate) fn open(
    builder: Builder,
    directory: &Path,
    runner: &mut dyn Runner,
) -> Result<Store, OpenError> {
    let start = Instant::now();
    let mut report = RecoveryReport::default();
    let (disk, lock) = open_disk(&builder, directory, &mut report)?;
    let boot = boot_id(&builder, directory)?;
    let places = match &builder.shared {
        Some(regions) => Places::Memory(Arc::clone(regions)),
        None => {
            Places::Files { shared: builder.buffers_dir.clone(), directory: directory.to_owned() }
        }
    };
    let (manifest, copies) = find_manifest(&builder, &*disk, directory, &mut report)?;
    check_fixed(&builder, &manifest)?;
    let entries = disk.list()?;
    let mut plan = plan::make(&*disk, &entries, &manifest, boot)?;
    check_memory(&builder, &manifest, &plan, report.was_clean)?;
    let left = left_behind(&builder, &places, &manifest, boot, &mut report)?;
    if builder.recovery == RecoveryMode::Strict && !plan.problems.is_empty() {
        return Err(OpenError::Corrupt { problems: plan.problems });
    }
    report.problems.append(&mut plan.problems);

    let life = LifeNumber(manifest.life.0 + 1);
    report.life = life.0;
    report.orphans_swept = places.sweep(boot);
    let geometry = Geometry::for_chunks(
        manifest.chunk_size,
        builder.writer_count(),
        builder.buffers_per_writer,
    );
    let owner = Owner { store: manifest.store, life, boot };
    let made = places.make(&geometry, &owner).map_err(|source| OpenError::Environment {
        path: directory.to_owned(),
        doing: "making the log buffers",
        source,
    })?;
    if let Some(reason) = &made.fallback {
        tracing::warn!(%reason, "the log buffers are in the store's directory");
        report.buffers_fallback = Some(reason.clone());
    }
    let known = manifest.clone();
    let manifests = Manifests::new(Arc::clone(&disk), manifest, &copies);
    let next_file = FileNumber(manifests.current.next_file.0.max(plan.highest_file + 1));
    let parts = Parts { disk: &disk, manifests, geometry, life, next_file };
    let loaded = make_memory(&builder, parts, &made).and_then(|(memory, shared, poison)| {
        let found = (&plan, &left);
        let relog = load(&builder, &*disk, &memory, &known, found, &mut report, start)?;
        // Damage that was passed over stays as it is, to be looked at.
        let is_whole = is_whole(&report);
        if is_whole {
            sweep(&*disk, &plan, &shared.supply)?;
            remove_buffers_of_failed_openings(&known, &places);
        }
        Ok((memory, shared, poison, relog, is_whole))
    });
    let (memory, shared, poison, relog, is_whole) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            if let Err(left) = places.remove(owner.store, life, made.place) {
                tracing::warn!(%left, "the log buffers of a refused opening could not be removed");
            }
            return Err(error);
        }
    };
    report.holds = super::hold::summaries(&shared);
    shared.may_forget.store(is_whole, Ordering::Relaxed);
    // From here on the manifest may know the life, so its buffers stay, whatever happens.
    begin_life(&shared, &builder, &made, (boot, life), (is_whole, &relog))?;
    let running = threads::start(
        runner,
        &builder,
        &disk,
        &memory,
        &shared,
        &poison,
        &geometry,
        (places, made, lock, owner),
    )?;
    let mut store = Store { memory, shared, report, running: Some(running) };
    match finish_opening(&store, runner, relog) {
        Ok(relogged) => store.report.relogged = relogged,
        Err(error) => {
            // The former lives are undecided still: what is here now ends like a process that died.
            store.abandon();
            return Err(error);
        }
    }
    if let Some(running) = &mut store.running {
        threads::start_compactor(runner, &builder, &disk, &store.memory, &store.shared, running)?;
    }
    store.report.duration = start.elapsed();
    Ok(store)
}

fn check_memory(
    builder: &Builder,
    manifest: &Manifest,
    plan: &Plan,
    was_clean: bool,
) -> Result<(), OpenError> {
    let needed_bytes = if was_clean { manifest.memory_bytes } else { plan.live_bytes };
    if needed_bytes > builder.memory_limit_bytes {
        return Err(OpenError::MemoryLimit {
            limit_bytes: builder.memory_limit_bytes,
            needed_bytes,
        });
    }
    Ok(())
}

fn begin_life(
    shared: &Shared,
    builder: &Builder,
    made: &Made,
    (boot, life): (BootId, LifeNumber),
    (is_swept, relog): (bool, &ToRelog),
) -> Result<(), OpenError> {
    // The compactor counts as the last.
    let writers = builder.writer_count() as usize + 1;
    let now_ms = builder.clock.wall_ms();
    let highest = relog.durable.iter().max().copied().unwrap_or(0);
    let seqs_from = relog.seq_start.max(highest + 1);
    let mut manifests = shared.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (files, _) = shared.supply.files();
    manifests.expect_files(files + shared.supply.ahead());
    manifests.update(|manifest| {
        manifest.life = life;
        manifest.closed_cleanly = false;
        manifest.memory_bytes = 0;
        manifest.latest_time_ms = manifest.latest_time_ms.max(now_ms);
        manifest.next_chunk = Supply::first_id(LifeNumber(life.0 + 1));
        manifest.seq_start = relog.seq_start;
        manifest.seq_limit = manifest.seq_limit.max(shared.seqs.limit_after(seqs_from));
        // A life is forgotten when no file of it is left: else openings that end early would each leave one.
        let undecided = plan::undecided(manifest);
        manifest.lives.retain(|life| {
            !is_swept
                || Some(life.number) == undecided
                || (life.state == LifeState::Cut
                    && life.valid_blocks.iter().any(|blocks| *blocks > 0))
        });
        manifest.lives.push(Life {
            number: life,
            boot,
            state: LifeState::Open,
            buffers: made.place,
            valid_blocks: vec![0; writers],
            freed: FreedBlocks::default(),
        });
    })?;
    shared.seqs.begin(seqs_from, manifests.current.seq_limit);
    Ok(())
}

/// The id of a life's first run.
fn first_run(life: u64) -> u64 {
    life << 32
}

/// What the memory store is made from.
struct Parts<'a> {
    disk: &'a Arc<dyn Disk>,
    manifests: Manifests,
    geometry: Geometry,
    life: LifeNumber,
    next_file: FileNumber,
}

type Memory = (hdstore::Store<DiskLog>, Arc<Shared>, Arc<Poison>);

fn make_memory(builder: &Builder, parts: Parts<'_>, made: &Made) -> Result<Memory, OpenError> {
    let Parts { disk, manifests, geometry, life, next_file } = parts;
    let manifest = manifests.current.clone();
    let poison = Arc::new(Poison::default());
    let writers = geometry.writers as usize;
    let reserve = Reserve {
        buffers: writers * (geometry.buffers_per_writer as usize).div_ceil(BUFFERS_PER_CHUNK),
        waste: writers,
        compaction: 2,
        removals: writers,
    };
    let rings = (0..geometry.writers).map(|writer| {
        let ring = Ring::new(Arc::clone(&made.region), geometry, writer, manifest.chunk_size);
        ring.set_tables(manifest.maps.len() as u64 * u64::from(manifest.streams));
        Arc::new(ring)
    });
    let rings: Vec<Arc<Ring>> = rings.collect();
    let supply = Supply::new(
        Arc::clone(disk),
        Arc::clone(&poison),
        manifest.chunk_size,
        builder.fill,
        life,
        next_file,
        reserve,
        rings.clone(),
    );
    let budget = DiskBudget {
        ratio: builder.disk_budget,
        chunk_size: manifest.chunk_size,
        standing_files: supply.ahead() + u64::from(geometry.writers) + 1,
        beyond_files: supply.beyond(),
    };
    let shared = Arc::new(Shared {
        budget,
        floor: BudgetFloor::default(),
        lanes: rings.into_iter().map(Lane::new).collect(),
        poison: Arc::clone(&poison),
        supply: Arc::new(supply),
        counters: Arc::new(Counters::new(manifest.streams, geometry.writers)),
        catalogue: Arc::new(Catalogue::default()),
        manifests: Mutex::new(manifests),
        seqs: SeqReserve::new(builder.seq_step),
        closed: AtomicBool::new(false),
        next_run: AtomicU64::new(first_run(life.0)),
        runs: LiveRuns::default(),
        clears: Clears::default(),
        holds: Holds::of(&manifest.held, life.0),
        tables: AtomicU64::new(manifest.maps.len() as u64 * u64::from(manifest.streams)),
        has_expiring: AtomicBool::new(false),
        pending_bytes: AtomicU64::new(0),
        compaction: Arc::default(),
        admission: Mutex::default(),
        may_forget: AtomicBool::new(false),
        hash: IndexHash::new(manifest.hash_seed),
        streams: manifest.streams,
        record_max: Ring::record_max(manifest.chunk_size),
        put_timeout: Duration::from_millis(builder.put_timeout_ms),
        ack_timeout: Duration::from_millis(builder.ack_timeout_ms),
    });
    let mut memory = hdstore::Store::builder()
        .memory_limit_bytes(builder.memory_limit_bytes)
        .streams(manifest.streams)
        .huge_pages(builder.huge_pages)
        .hash_seed(manifest.hash_seed)
        .clock(SharedClock {
            clock: Arc::clone(&builder.clock),
            floor_ms: manifest.latest_time_ms,
        });
    if let Some(topology) = &builder.topology {
        memory = memory.topology(topology.clone());
    }
    if let Some(bytes) = builder.unreclaimed_max_bytes {
        memory = memory.unreclaimed_max_bytes(bytes);
    }
    let memory = memory.with_log(DiskLog { shared: Arc::clone(&shared) })?;
    for map in &manifest.maps {
        let spec = MapSpec {
            id: map.id,
            name: map.name.clone(),
            key_type: map.key_type.clone(),
            value_type: map.value_type.clone(),
            level: map.durability.into(),
            placement: map.placement,
        };
        memory.restore_map(spec).map_err(OpenError::Memory)?;
    }
    memory.raise_next_map(manifest.next_map);
    Ok((memory, shared, poison))
}

/// The builder's clock, for the store in memory. It never shows a time before the latest that was
/// persisted, so that a clock that was set back revives nothing that had expired.
struct SharedClock {
    clock: Arc<dyn hdstore::Clock>,
    floor_ms: u64,
}

impl hdstore::Clock for SharedClock {
    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms().max(self.floor_ms)
    }

    fn monotonic_ms(&self) -> u64 {
        self.clock.monotonic_ms()
    }
}

/// Logs again what must be, and decides the end of the former lives.
fn finish_opening(
    store: &Store,
    runner: &mut dyn Runner,
    relog: ToRelog,
) -> Result<u64, OpenError> {
    store.shared.poison.check()?;
    let relogged = super::relog::relog(&store.memory, &store.shared, runner, relog.records)?;
    store.shared.runs.forget_logged_again(first_run(store.report.life));
    for (durable, seq) in store.shared.counters.durable.iter().zip(&relog.durable) {
        durable.fetch_max(*seq, Ordering::Release);
    }
    if relog.ends.is_empty() {
        return Ok(relogged);
    }
    let Some(running) = &store.running else { return Ok(relogged) };
    let mut manifests =
        store.shared.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut ended = Vec::new();
    manifests.update(|manifest| {
        for (number, writer, blocks) in &relog.ends {
            let Some(life) = manifest.lives.iter_mut().find(|life| life.number.0 == *number) else {
                continue;
            };
            life.valid_blocks[*writer as usize] = *blocks;
            life.state = LifeState::Cut;
            ended.push((life.number, life.buffers));
            if *writer as usize + 1 == life.valid_blocks.len() {
                life.buffers = BuffersPlace::None;
            }
        }
    })?;
    for (life, place) in ended {
        if let Err(error) = running.places.remove(running.store, life, place) {
            tracing::warn!(%error, life = life.0, "log buffers of a former life could not be removed");
        }
    }
    Ok(relogged)
}
