//! The only file of the harness that calls the store: everything else speaks of puts and gets.
//!
//! Owns the translation of settings into the store's options and of its errors into exit statuses. One
//! map, "bench", of bytes to bytes. Called by every command that opens a store; adds nothing to the cost
//! of a call.

use std::path::Path;

use hotrestart::codec::Bytes;
use hotrestart::hdstore::{BuildError, Error};
use hotrestart::{LogFailure, Map, MapOptions, OpenError, Progress, RecoveryMode, Store};
use indicatif::ProgressBar;

use crate::cli::choices::{Durability, HugePages, Io};
use crate::cli::settings::{DataSettings, StoreSettings};
use crate::failure::Failure;

/// Streams of the stores made here: fixed when a store is made, so the same for every command.
const STREAMS: u32 = 64;

/// The name of the one map.
const MAP: &str = "bench";

/// An open store with its one map.
pub struct Engine {
    store: Store,
    map: Map<Bytes, Bytes>,
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The key has the value.
    Done,
    /// Refused, memory is full. Nothing changed.
    NoMemory,
    /// Refused, the disk budget is used up or the log has no room. Nothing changed.
    NoDisk,
}

/// What a store has at a moment, and may have.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The memory limit.
    pub limit_bytes: u64,
    /// Memory committed, metadata included.
    pub committed_bytes: u64,
    /// Replaced values that wait for readers.
    pub unreclaimed_bytes: u64,
    /// Live records as the disk budget counts them.
    pub record_bytes: u64,
    /// Chunk files.
    pub allocated_bytes: u64,
    /// What they may be.
    pub budget_bytes: u64,
    /// And what they may be beyond that for a while.
    pub beyond_bytes: u64,
    /// What has stopped or is damaged.
    pub trouble: Option<String>,
}

/// Bytes of a record beside key and value, as the disk budget counts them (docs/compaction.md).
const RECORD_OVERHEAD: u64 = 16;

/// What opening read.
#[derive(Clone, Copy, Debug)]
pub struct Recovered {
    /// Bytes read from the log.
    pub bytes_read: u64,
    /// Records found in them.
    pub records: u64,
}

impl Engine {
    /// Makes or opens the store of a run.
    pub fn open(settings: &StoreSettings, data: &DataSettings) -> Result<Engine, Failure> {
        open(settings, data.durability, None)
    }

    /// Opens a store that must be there, with progress.
    pub fn reopen(
        settings: &StoreSettings,
        data: &DataSettings,
        bar: &ProgressBar,
    ) -> Result<Engine, Failure> {
        must_hold_something(&settings.dir)?;
        open(settings, data.durability, Some(bar.clone()))
    }

    /// Makes the store of an import: its puts are buffered, its end is synced.
    pub fn open_for_import(settings: &StoreSettings) -> Result<Engine, Failure> {
        open(settings, Durability::Buffered, None)
    }

    /// Opens the store of an import to compare it.
    pub fn reopen_for_import(settings: &StoreSettings) -> Result<Engine, Failure> {
        must_hold_something(&settings.dir)?;
        open(settings, Durability::Buffered, None)
    }

    /// Puts one entry; returns when the map's durability is reached.
    #[inline]
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        self.map.insert(key, value).map_err(operation)
    }

    /// Puts one entry, unless the store has no room for it.
    pub fn try_put(&self, key: &[u8], value: &[u8]) -> Result<Put, Failure> {
        let Err(error) = self.map.insert(key, value) else { return Ok(Put::Done) };
        if error.is_capacity() {
            return Ok(Put::NoMemory);
        }
        match &error {
            Error::Log(log)
                if matches!(
                    log.downcast_ref(),
                    Some(LogFailure::DiskBudget { .. } | LogFailure::Busy { .. })
                ) =>
            {
                Ok(Put::NoDisk)
            }
            _ => Err(operation(error)),
        }
    }

    /// Removes one entry; says whether it was there.
    pub fn remove(&self, key: &[u8]) -> Result<bool, Failure> {
        self.map.remove(key).map_err(operation)
    }

    /// Removes all entries.
    pub fn clear(&self) -> Result<u64, Failure> {
        self.map.clear().map_err(operation)
    }

    /// What the store has, and may have.
    pub fn figures(&self) -> Figures {
        let stats = self.store.stats();
        let damaged = stats.chunks_damaged.first().map(|(file, why)| format!("{file}: {why}"));
        let stopped = stats.compaction_stopped.map(|why| format!("compaction has stopped: {why}"));
        Figures {
            limit_bytes: stats.memory.limit_bytes,
            committed_bytes: stats.memory.committed_bytes,
            unreclaimed_bytes: stats.memory.unreclaimed_bytes,
            record_bytes: stats.memory.live_bytes + RECORD_OVERHEAD * stats.memory.entries,
            allocated_bytes: stats.allocated_bytes,
            budget_bytes: stats.disk_budget_bytes,
            beyond_bytes: stats.disk_beyond_bytes,
            trouble: stats.poisoned.or(stopped).or(damaged),
        }
    }

    /// Puts several entries with one wait.
    pub fn put_many(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), Failure> {
        self.map.put_many(pairs).map_err(|error| operation(error.source))
    }

    /// Reads one value in place.
    #[inline]
    pub fn get<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, Failure> {
        self.map.get_with(key, read).map_err(operation)
    }

    /// Reads several values in place, each with its place in `keys`.
    pub fn get_many(
        &self,
        keys: &[&[u8]],
        read: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<(), Failure> {
        self.map.get_many_with(keys, read).map_err(operation)
    }

    /// Entries, by the store's own count.
    pub fn len(&self) -> u64 {
        self.map.len()
    }

    /// Walks over all entries.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for entry in self.map.iter() {
            visit(entry.key_bytes(), entry.value_bytes())?;
        }
        Ok(())
    }

    /// `uring` or `syscall`.
    pub fn io_used(&self) -> String {
        self.store.stats().io_used.to_string()
    }

    /// Bytes submitted to chunks since the store was opened.
    pub fn log_bytes(&self) -> u64 {
        self.store.stats().bytes_submitted
    }

    /// Bytes written to make chunks ready since the store was opened.
    pub fn zero_fill_bytes(&self) -> u64 {
        self.store.stats().zero_fill_bytes
    }

    /// What opening read.
    pub fn recovered(&self) -> Recovered {
        let recovery = self.store.recovery();
        Recovered { bytes_read: recovery.bytes_read, records: recovery.records }
    }

    /// Closes cleanly: everything written, flushed and marked so.
    pub fn close(self) -> Result<(), Failure> {
        drop(self.map);
        self.store
            .close()
            .map_err(|error| Failure::environment(format!("closing the store: {error}")))
    }
}

fn open(
    settings: &StoreSettings,
    durability: Durability,
    bar: Option<ProgressBar>,
) -> Result<Engine, Failure> {
    let builder = Store::builder()
        .memory_limit_bytes(settings.memory_limit)
        .streams(STREAMS)
        .disk_budget(settings.disk_budget)
        .io(match settings.io {
            Io::Auto => hotrestart::IoChoice::Auto,
            Io::Uring => hotrestart::IoChoice::Uring,
            Io::Syscall => hotrestart::IoChoice::Syscall,
        })
        .huge_pages(match settings.huge_pages {
            // The store's ladder begins with 1 GiB pages; there is no "1 GiB or nothing".
            HugePages::Auto | HugePages::OneGiB => hotrestart::HugePages::Auto,
            HugePages::Off => hotrestart::HugePages::Off,
            HugePages::Thp => hotrestart::HugePages::Transparent,
            HugePages::TwoMiB => hotrestart::HugePages::Explicit2M,
        })
        .recovery(RecoveryMode::Strict)
        .on_progress(move |progress: &Progress| {
            if let Some(bar) = &bar {
                bar.set_length(progress.bytes_total);
                bar.set_position(progress.bytes_done);
            }
        });
    let store = builder.open(&settings.dir).map_err(opening)?;
    let durability = match durability {
        Durability::Buffered => hotrestart::Durability::Buffered,
        Durability::Written => hotrestart::Durability::Written,
        Durability::Synced => hotrestart::Durability::Synced,
    };
    let options = MapOptions::<hotrestart::Durability>::default().durability(durability);
    let map = store.map(MAP, options).map_err(operation)?;
    Ok(Engine { store, map })
}

/// An empty directory would become a new store instead of being opened.
fn must_hold_something(dir: &Path) -> Result<(), Failure> {
    let mut entries = std::fs::read_dir(dir).map_err(Failure::file("read directory", dir))?;
    match entries.next() {
        Some(_) => Ok(()),
        None => Err(Failure::usage(format!(
            "--dir {} is empty: there is no store in it",
            dir.display()
        ))),
    }
}

/// The exit status of a failed opening: 1 for a store that is not as it was left, 2 for settings it refuses.
fn opening(error: OpenError) -> Failure {
    let message = format!("opening the store: {error}");
    match error {
        OpenError::Corrupt { .. }
        | OpenError::BuffersLost { .. }
        | OpenError::BuffersOfAnother { .. } => Failure::wrong(message),
        OpenError::Setting { .. }
        | OpenError::Fixed { .. }
        | OpenError::NotAStore { .. }
        | OpenError::AnotherStore { .. }
        | OpenError::NewerFormat { .. }
        | OpenError::MemoryLimit { .. }
        | OpenError::Build(BuildError::Setting { .. } | BuildError::LimitTooSmall { .. }) => {
            Failure::usage(message)
        }
        _ => Failure::environment(message),
    }
}

/// The exit status of a failed operation: 2 for a key or value that no store takes, else the environment.
fn operation(error: Error) -> Failure {
    match error {
        Error::EmptyKey | Error::TooLarge { .. } => Failure::usage(error.to_string()),
        other => Failure::environment(other.to_string()),
    }
}
