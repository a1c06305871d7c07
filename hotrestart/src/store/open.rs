//! Opening: the order of steps, each of which may be the last before a crash.
//!
//! 1. Lock, manifest, headers: everything that can refuse the store refuses it here, before anything is changed.
//! 2. New log buffers. Load: settled chunks in parallel, tails in order, what the old buffers still hold. A store that is
//!    refused here is left as it was.
//! 3. The manifest with the new life; the former lives stay undecided.
//! 4. Writers start; what lay beyond the old end is logged again and flushed.
//! 5. The manifest with the old lives cut; only then are their buffers removed and changes taken.
//!
//! A crash in the middle leaves the former lives undecided, and the next opening finds the same as this one did.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdstore::{IndexHash, MapSpec};

use super::Store;
use super::close::{ClockHandle, Facts, Running};
use crate::buffers::layout::{Geometry, Owner};
use crate::buffers::place::{Made, Places};
use crate::buffers::recover::{LeftBehind, parse};
use crate::buffers::ring::Ring;
use crate::config::{Builder, RecoveryMode, STREAMS_DEFAULT};
use crate::dir::lock::DirLock;
use crate::dir::manifests::{self, Copies, Manifests};
use crate::error::{OpenError, Problem};
use crate::format::manifest::{BuffersPlace, Life, LifeState};
use crate::format::{
    BootId, FileNumber, LifeNumber, Manifest, ManifestError, MapId, StoreId, WriterId,
};
use crate::io::{self, Disk};
use crate::log::{DiskLog, Lane, Shared};
use crate::poison::Poison;
use crate::restart::fold::{Fold, Relog};
use crate::restart::plan::{self, Plan};
use crate::restart::report::RecoveryReport;
use crate::restart::tail::{self, Judged};
use crate::writer::drive::{self, Control};
use crate::writer::machine::{Counters, Identity, Intervals, Writer};
use crate::writer::supply::Supply;

/// Seqs left out after a life that was not closed: more than could have been given without a trace.
const SEQ_GAP: u64 = 1 << 24;

pub(crate) fn open(builder: Builder, directory: &Path) -> Result<Store, OpenError> {
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
    let left = left_behind(&builder, &places, &manifest, boot)?;
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
    let manifests = Manifests::new(Arc::clone(&disk), manifest, copies);
    let next_file = FileNumber(manifests.current.next_file.0.max(plan.highest_file + 1));
    let parts = Parts { disk: &disk, manifests, geometry, life, next_file };
    let loaded = make_memory(&builder, parts, &made).and_then(|(memory, shared, poison)| {
        let relog = load(&builder, &*disk, &memory, &plan, &left, &mut report, start)?;
        begin_life(&shared, &builder, &made, boot, life)?;
        Ok((memory, shared, poison, relog))
    });
    let (memory, shared, poison, relog) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            if let Err(left) = places.remove(owner.store, life, made.place) {
                tracing::warn!(%left, "the log buffers of a refused opening could not be removed");
            }
            return Err(error);
        }
    };
    let running = start_threads(
        &builder,
        &disk,
        &memory,
        &shared,
        &poison,
        &geometry,
        (places, made, lock, owner),
    )?;
    let mut store = Store { memory, shared, report, running: Some(running) };
    match finish_opening(&store, relog) {
        Ok(relogged) => store.report.relogged = relogged,
        Err(error) => {
            // The former lives are undecided still: what is here now ends like a process that died.
            store.abandon();
            return Err(error);
        }
    }
    store.report.duration = start.elapsed();
    Ok(store)
}

fn environment(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Environment { path, doing, source }
}

fn open_disk(
    builder: &Builder,
    directory: &Path,
    report: &mut RecoveryReport,
) -> Result<(Arc<dyn Disk>, Option<DirLock>), OpenError> {
    if let Some(disk) = &builder.disk {
        return Ok((Arc::clone(disk), None));
    }
    std::fs::create_dir_all(directory).map_err(environment(directory, "making the directory"))?;
    let foreign = foreign_file(directory)?;
    if let Some(found) = foreign {
        return Err(OpenError::NotAStore { path: directory.to_owned(), found });
    }
    let lock = crate::dir::lock::take(directory).map_err(environment(directory, "locking"))?;
    let Some(lock) = lock else { return Err(OpenError::Locked { path: directory.to_owned() }) };
    let (disk, probe) = io::choose(directory, builder.io)?;
    if let Some(reason) = &probe.uring_refused {
        tracing::warn!(%reason, "io_uring is not available: using system calls");
        report.uring_refused = Some(reason.clone());
    }
    Ok((disk, Some(lock)))
}

/// A file that shows that a directory without a manifest is something else.
fn foreign_file(directory: &Path) -> Result<Option<String>, OpenError> {
    let mut foreign = None;
    let entries = std::fs::read_dir(directory).map_err(environment(directory, "listing"))?;
    for entry in entries {
        let entry = entry.map_err(environment(directory, "listing"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("manifest.") {
            return Ok(None);
        }
        let is_ours = name == "lock"
            || name == "lost+found"
            || name.starts_with("probe-")
            || name.starts_with("buffers-");
        if !is_ours {
            foreign = Some(name);
        }
    }
    Ok(foreign)
}

fn boot_id(builder: &Builder, directory: &Path) -> Result<BootId, OpenError> {
    if let Some(boot) = builder.boot {
        return Ok(BootId(boot));
    }
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text =
        std::fs::read_to_string(path).map_err(environment(directory, "reading the boot id"))?;
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let mut boot = [0; 16];
    for (byte, pair) in boot.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).unwrap_or("0");
        *byte = u8::from_str_radix(pair, 16).unwrap_or(0);
    }
    Ok(BootId(boot))
}

/// The store's manifest, or that of a new one, and how many copies there are.
fn find_manifest(
    builder: &Builder,
    disk: &dyn Disk,
    directory: &Path,
    report: &mut RecoveryReport,
) -> Result<(Manifest, usize), OpenError> {
    let Copies { newest, bad, count } = manifests::read(disk)?;
    let newer = bad.iter().find_map(|(name, error)| match error {
        ManifestError::Version { .. } | ManifestError::Features(_) => {
            Some(OpenError::NewerFormat { file: (*name).to_owned(), reason: error.to_string() })
        }
        _ => None,
    });
    if let Some(newer) = newer {
        return Err(newer);
    }
    let problems = bad.iter().map(|(name, error)| Problem {
        file: (*name).to_owned(),
        offset: 0,
        what: error.to_string(),
    });
    if let Some(manifest) = newest {
        for problem in problems {
            tracing::warn!(%problem, "a copy of the manifest is not valid; the other one is used");
            report.problems.push(problem);
        }
        report.was_clean = manifest.closed_cleanly;
        return Ok((manifest, count));
    }
    let chunk =
        disk.list()?.into_iter().find(|entry| FileNumber::from_file_name(&entry.name).is_some());
    if let Some(chunk) = chunk {
        let mut problems: Vec<Problem> = problems.collect();
        problems.push(Problem {
            file: chunk.name,
            offset: 0,
            what: "a chunk, and no valid manifest to judge it by".to_owned(),
        });
        return Err(OpenError::Corrupt { problems });
    }
    report.created = true;
    report.was_clean = true;
    Ok((new_manifest(builder, directory)?, 0))
}

fn new_manifest(builder: &Builder, directory: &Path) -> Result<Manifest, OpenError> {
    let mut random = [0; 24];
    if builder.disk.is_none() {
        use std::io::Read;
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .map_err(environment(directory, "choosing an identity"))?;
    }
    let (mut store, mut seed) = ([0; 16], [0; 8]);
    store.copy_from_slice(&random[..16]);
    seed.copy_from_slice(&random[16..]);
    Ok(Manifest {
        generation: 0,
        store: StoreId(store),
        chunk_size: builder.chunk_size_of_new(),
        streams: builder.streams.unwrap_or(STREAMS_DEFAULT),
        closed_cleanly: true,
        hash_seed: u64::from_le_bytes(seed),
        life: LifeNumber(0),
        latest_time_ms: 0,
        memory_bytes: 0,
        next_map: MapId(1),
        next_file: FileNumber(0),
        next_chunk: Supply::first_id(LifeNumber(1)),
        lives: Vec::new(),
        maps: Vec::new(),
        stream_records: Vec::new(),
        held: Vec::new(),
    })
}

fn check_fixed(builder: &Builder, manifest: &Manifest) -> Result<(), OpenError> {
    let asked = [
        ("streams", builder.streams.map(u64::from), u64::from(manifest.streams)),
        ("bytes per chunk", builder.chunk_bytes, manifest.chunk_size),
    ];
    for (name, found, expected) in asked {
        if let Some(found) = found
            && found != expected
        {
            return Err(OpenError::Fixed { name, expected, found });
        }
    }
    Ok(())
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

/// The log buffers of the lives that were not decided, by life.
type LeftByLife = Vec<(LifeNumber, LeftBehind)>;

fn left_behind(
    builder: &Builder,
    places: &Places,
    manifest: &Manifest,
    boot: BootId,
) -> Result<LeftByLife, OpenError> {
    let mut left = Vec::new();
    for life in &manifest.lives {
        let has_buffers = life.state == LifeState::Open && life.buffers != BuffersPlace::None;
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
            Err(reason) => tracing::warn!(%reason, life = life.number.0, "log buffers are lost"),
        }
    }
    Ok(left)
}

fn begin_life(
    shared: &Shared,
    builder: &Builder,
    made: &Made,
    boot: BootId,
    life: LifeNumber,
) -> Result<(), OpenError> {
    let writers = builder.writer_count() as usize;
    let now_ms = builder.clock.wall_ms();
    let mut manifests = shared.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    manifests.update(|manifest| {
        manifest.life = life;
        manifest.closed_cleanly = false;
        manifest.memory_bytes = 0;
        manifest.latest_time_ms = manifest.latest_time_ms.max(now_ms);
        manifest.next_chunk = Supply::first_id(LifeNumber(life.0 + 1));
        manifest.lives.retain(|life| {
            life.state == LifeState::Open || life.valid_blocks.iter().any(|blocks| *blocks > 0)
        });
        manifest.lives.push(Life {
            number: life,
            boot,
            state: LifeState::Open,
            buffers: made.place,
            valid_blocks: vec![0; writers],
        });
    })?;
    Ok(())
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
    let ahead = 2 * geometry.writers as usize;
    let supply = Supply::new(
        Arc::clone(disk),
        Arc::clone(&poison),
        manifest.chunk_size,
        builder.fill,
        life,
        next_file,
        ahead,
    );
    let lanes = (0..geometry.writers).map(|writer| {
        let ring = Ring::new(Arc::clone(&made.region), geometry, writer, manifest.chunk_size);
        ring.set_tables(manifest.maps.len() as u64 * u64::from(manifest.streams));
        Lane::new(Arc::new(ring))
    });
    let shared = Arc::new(Shared {
        lanes: lanes.collect(),
        poison: Arc::clone(&poison),
        supply: Arc::new(supply),
        counters: Arc::new(Counters::new(manifest.streams)),
        manifests: Mutex::new(manifests),
        closed: AtomicBool::new(false),
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
        .clock(SharedClock(Arc::clone(&builder.clock)));
    if let Some(topology) = &builder.topology {
        memory = memory.topology(topology.clone());
    }
    let memory = memory.with_log(DiskLog { shared: Arc::clone(&shared) })?;
    for map in &manifest.maps {
        let spec = MapSpec {
            id: map.id,
            name: map.name.clone(),
            key_type: map.key_type.clone(),
            value_type: map.value_type.clone(),
            level: map.durability.into(),
        };
        memory.restore_map(spec).map_err(OpenError::Memory)?;
    }
    Ok((memory, shared, poison))
}

/// The builder's clock, for the store in memory.
struct SharedClock(Arc<dyn hdstore::Clock>);

impl hdstore::Clock for SharedClock {
    fn wall_ms(&self) -> u64 {
        self.0.wall_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.monotonic_ms()
    }
}

/// What has to be logged again, and where the former lives end.
struct ToRelog {
    records: Vec<Relog>,
    ends: Vec<(u64, u32, u64)>,
}

fn load(
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
    let chunk_size = memory.log().shared.supply.chunk_size();
    let fold = Fold::new(disk, &loading, chunk_size, salvage, start, on_progress);
    fold.expect_chunks(
        plan.settled.len() + plan.tails.iter().map(|tail| tail.chunks.len()).sum::<usize>(),
    );
    fold.run(&plan.settled, builder.loader_count())?;
    let mut relog = ToRelog { records: Vec::new(), ends: Vec::new() };
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
    drop(fold);
    if !report.was_clean {
        loading.skip_seqs(SEQ_GAP);
    }
    report.entries = loading.finish();
    Ok(relog)
}

fn start_threads(
    builder: &Builder,
    disk: &Arc<dyn Disk>,
    memory: &hdstore::Store<DiskLog>,
    shared: &Arc<Shared>,
    poison: &Arc<Poison>,
    geometry: &Geometry,
    (places, made, lock, owner): (Places, Made, Option<DirLock>, Owner),
) -> Result<Running, OpenError> {
    let (hash_seed, chunk_size) = {
        let manifests = shared.manifests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (manifests.current.hash_seed, manifests.current.chunk_size)
    };
    shared.counters.live_bytes.store(memory.live_bytes(), Ordering::Relaxed);
    shared.supply.restock();
    let intervals =
        Intervals { write_ms: builder.write_interval_ms, flush_ms: builder.flush_interval_ms };
    let mut writers = Vec::new();
    for (index, lane) in shared.lanes.iter().enumerate() {
        let identity = Identity {
            store: owner.store,
            life: owner.life,
            writer: WriterId(index as u32),
            chunk_size,
        };
        let writer = Writer::new(
            identity,
            Arc::clone(&lane.ring),
            Arc::clone(&lane.progress),
            Arc::clone(&shared.supply),
            Arc::clone(poison),
            Arc::clone(&shared.counters),
            IndexHash::new(hash_seed),
            intervals,
        );
        let control = Arc::new(Control::default());
        let (disk, ring, poison) = (Arc::clone(disk), Arc::clone(&lane.ring), Arc::clone(poison));
        let (clock, of_thread) = (Arc::clone(&builder.clock), Arc::clone(&control));
        let thread = std::thread::Builder::new()
            .name(format!("hr-writer-{index}"))
            .spawn(move || drive::run(writer, &*disk, &ring, &poison, &*clock, &of_thread))
            .map_err(environment(Path::new("."), "starting a writer"))?;
        writers.push((control, thread));
    }
    let keeper = drive::keep(Arc::clone(shared), memory.clone())
        .map_err(environment(Path::new("."), "starting the keeper"))?;
    Ok(Running {
        writers,
        keeper,
        places,
        place: made.place,
        store: owner.store,
        life: owner.life,
        clock: ClockHandle(Arc::clone(&builder.clock)),
        facts: Facts { io_used: disk.kind(), buffer_bytes: geometry.file_bytes() as u64 },
        _lock: lock,
    })
}

/// Logs again what must be, and decides the end of the former lives.
fn finish_opening(store: &Store, relog: ToRelog) -> Result<u64, OpenError> {
    let relogged = super::relog::relog(&store.memory, &store.shared, relog.records)?;
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
