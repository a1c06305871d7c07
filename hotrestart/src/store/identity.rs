//! Which store this is: the directory and its lock, the boot, the manifest and what it fixes for ever.
//!
//! Invariant: nothing here changes a store. A directory that holds something else is refused; damage of
//! both copies of the manifest is never taken for a new store. Called once per opening, by `open.rs`;
//! `docs/restart.md` has the order.

use std::path::Path;
use std::sync::Arc;

use crate::chunks::supply::Supply;
use crate::config::{Builder, STREAMS_DEFAULT};
use crate::dir::lock::DirLock;
use crate::dir::manifests::{self, Copies};
use crate::error::{OpenError, Problem};
use crate::format::manifest::MANIFEST_NAMES;
use crate::format::{BootId, FileNumber, LifeNumber, Manifest, ManifestError, MapId, StoreId};
use crate::io::{self, Disk};
use crate::restart::report::RecoveryReport;

pub(super) fn environment(
    path: &Path,
    doing: &'static str,
) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Environment { path, doing, source }
}

/// The directory's disk and lock.
pub(super) fn open_disk(
    builder: &Builder,
    directory: &Path,
    report: &mut RecoveryReport,
) -> Result<(Arc<dyn Disk>, Option<DirLock>), OpenError> {
    if let Some(disk) = &builder.disk {
        return Ok((Arc::clone(disk), None));
    }
    let is_new = MANIFEST_NAMES.iter().all(|name| !directory.join(name).exists());
    if is_new {
        try_memory(builder)?;
    }
    if directory.exists() && !directory.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(environment(directory, "opening the store's directory")(source));
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

/// Whether a store can be made with these settings at all, before anything is made on disk: it takes address
/// space and a few pages.
fn try_memory(builder: &Builder) -> Result<(), OpenError> {
    hdstore::Store::builder()
        .memory_limit_bytes(builder.memory_limit_bytes)
        .streams(builder.streams.unwrap_or(STREAMS_DEFAULT))
        .in_memory()?;
    Ok(())
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

/// Which boot of the machine this is.
pub(super) fn boot_id(builder: &Builder, directory: &Path) -> Result<BootId, OpenError> {
    if let Some(boot) = builder.boot {
        return Ok(BootId(boot));
    }
    current_boot().map_err(environment(directory, "reading the boot id"))
}

/// The machine's boot id.
pub(crate) fn current_boot() -> std::io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let mut boot = [0; 16];
    for (byte, pair) in boot.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).unwrap_or("0");
        *byte = u8::from_str_radix(pair, 16).unwrap_or(0);
    }
    Ok(BootId(boot))
}

/// The store's manifest, or that of a new one, and what there is of its copies.
pub(super) fn find_manifest(
    builder: &Builder,
    disk: &dyn Disk,
    directory: &Path,
    report: &mut RecoveryReport,
) -> Result<(Manifest, Copies), OpenError> {
    let mut copies = manifests::read(disk)?;
    let (newest, bad) = (copies.newest.take(), std::mem::take(&mut copies.bad));
    let both_bad = bad.len() > 1;
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
        return Ok((manifest, copies));
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
    // One copy that is not valid may be the torn first write of a new store; of two, one was whole once.
    if both_bad {
        return Err(OpenError::Corrupt { problems: problems.collect() });
    }
    report.created = true;
    report.was_clean = true;
    Ok((new_manifest(builder, directory)?, copies))
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
        seq_start: 1,
        seq_limit: 1,
        lives: Vec::new(),
        maps: Vec::new(),
        stream_records: Vec::new(),
        held: Vec::new(),
    })
}

/// Refuses settings that differ from what the store was made with.
pub(super) fn check_fixed(builder: &Builder, manifest: &Manifest) -> Result<(), OpenError> {
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
