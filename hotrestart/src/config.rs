//! The settings of a persistent store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hdstore::{Clock, HugePages, SystemClock, Topology};

use crate::dir::seqs;
use crate::error::OpenError;
use crate::format::chunk::{CHUNK_SIZE_DEFAULT, CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, is_chunk_size};
use crate::io::{Disk, Fill, IoChoice};
use crate::restart::report::Progress;
use crate::store::Store;
use crate::store::runner::{Runner, Threads};

/// What to do when acknowledged data turn out to be damaged or gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryMode {
    /// Do not open, and say what is wrong where.
    #[default]
    Strict,
    /// Open with what is left, and report what is not. What was lost are changes: keys that they removed are
    /// there again, and values that they replaced. Without a valid manifest nothing can be salvaged.
    Salvage,
}

type OnProgress = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Settings of a store; made by [`Store::builder`].
///
/// ```
/// use hotrestart::{MapOptions, Store, codec::{Str, U64}};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let store = Store::builder().memory_limit_bytes(64 << 20).open(path)?;
/// let map = store.map::<Str, U64>("ages", MapOptions::default())?;
/// map.insert("Ada", &36)?;
/// store.close()?;
///
/// let store = Store::builder().memory_limit_bytes(64 << 20).open(path)?;
/// let map = store.map::<Str, U64>("ages", MapOptions::default())?;
/// assert_eq!(map.get_owned("Ada")?, Some(36));
/// # store.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
#[derive(Clone)]
pub struct Builder {
    pub(crate) memory_limit_bytes: u64,
    pub(crate) streams: Option<u32>,
    pub(crate) writers: Option<u32>,
    pub(crate) loader_threads: Option<usize>,
    pub(crate) chunk_bytes: Option<u64>,
    pub(crate) buffers_per_writer: u32,
    pub(crate) buffers_dir: PathBuf,
    pub(crate) io: IoChoice,
    pub(crate) disk: Option<Arc<dyn Disk>>,
    pub(crate) shared: Option<crate::SharedRegions>,
    pub(crate) boot: Option<[u8; 16]>,
    pub(crate) huge_pages: HugePages,
    pub(crate) topology: Option<Topology>,
    pub(crate) unreclaimed_max_bytes: Option<u64>,
    pub(crate) recovery: RecoveryMode,
    pub(crate) write_interval_ms: u64,
    pub(crate) flush_interval_ms: u64,
    pub(crate) put_timeout_ms: u64,
    pub(crate) ack_timeout_ms: u64,
    pub(crate) fill: Fill,
    pub(crate) disk_budget: f64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) on_progress: Option<OnProgress>,
    pub(crate) seq_step: u64,
    pub(crate) absence_bytes: Option<u64>,
    pub(crate) surveys_often: bool,
    pub(crate) load_order: Option<u64>,
}

/// Bytes of chunks for each live record byte, when nothing else was asked for.
pub(crate) const DISK_BUDGET_DEFAULT: f64 = 2.0;
/// The least that a disk budget may be: below it compaction would copy nearly all it reads.
pub(crate) const DISK_BUDGET_MIN: f64 = 1.25;

/// Streams of a new store when none were asked for.
pub(crate) const STREAMS_DEFAULT: u32 = 64;

impl Default for Builder {
    fn default() -> Self {
        Builder {
            memory_limit_bytes: 1 << 30,
            streams: None,
            writers: None,
            loader_threads: None,
            chunk_bytes: None,
            buffers_per_writer: 8,
            buffers_dir: PathBuf::from("/dev/shm"),
            io: IoChoice::Auto,
            disk: None,
            shared: None,
            boot: None,
            huge_pages: HugePages::Auto,
            topology: None,
            unreclaimed_max_bytes: None,
            recovery: RecoveryMode::Strict,
            write_interval_ms: 100,
            flush_interval_ms: 1_000,
            put_timeout_ms: 10_000,
            ack_timeout_ms: 30_000,
            fill: Fill::Allocate,
            disk_budget: DISK_BUDGET_DEFAULT,
            clock: Arc::new(SystemClock::default()),
            on_progress: None,
            seq_step: seqs::STEP,
            absence_bytes: None,
            surveys_often: false,
            load_order: None,
        }
    }
}

impl Builder {
    /// The hard limit on the store's memory, metadata included, in bytes: 16 MiB to 896 GiB, rounded down to
    /// 2 MiB; default 1 GiB. It may differ at each opening. Log buffers come on top (see `docs/memory.md`).
    pub fn memory_limit_bytes(mut self, bytes: u64) -> Self {
        self.memory_limit_bytes = bytes;
        self
    }

    /// How many streams a new store has, 1 to 65,536; default 64. An existing store has what it was made
    /// with, and refuses another number.
    pub fn streams(mut self, streams: u32) -> Self {
        self.streams = Some(streams);
        self
    }

    /// How many writer threads there are, 1 to 64; it may differ at each opening. Default: one per four
    /// processors, at most 16.
    pub fn writers(mut self, writers: u32) -> Self {
        self.writers = Some(writers);
        self
    }

    /// How many threads load at a restart, 1 to 256. Default: one per processor, at most 16.
    pub fn loader_threads(mut self, threads: usize) -> Self {
        self.loader_threads = Some(threads);
        self
    }

    /// The size of the chunks of a new store, in bytes: a power of two from 256 KiB to 64 MiB; default 8
    /// MiB. An existing store has what it was made with, and refuses another size.
    pub fn chunk_bytes(mut self, bytes: u64) -> Self {
        self.chunk_bytes = Some(bytes);
        self
    }

    /// Log buffers of a writer, each a quarter of a chunk: 2 to 64, default 8.
    pub fn buffers_per_writer(mut self, buffers: u32) -> Self {
        self.buffers_per_writer = buffers;
        self
    }

    /// The tmpfs for the log buffers. Default `/dev/shm`. Where it has no room they go into the store's
    /// directory, which is said once and shown in the statistics.
    pub fn buffers_dir(mut self, path: impl AsRef<Path>) -> Self {
        self.buffers_dir = path.as_ref().to_owned();
        self
    }

    /// Which I/O to use. Default: io_uring where it works.
    pub fn io(mut self, io: IoChoice) -> Self {
        self.io = io;
        self
    }

    /// Which pages to put under the memory. See [`hdstore::HugePages`].
    pub fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// The NUMA topology, instead of the machine's.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// The bound on memory of replaced values that wait for readers, in bytes, per NUMA node. Default: 1/32
    /// of the memory limit, at least 1 MiB; 256 KiB or more. See `docs/memory.md`.
    pub fn unreclaimed_max_bytes(mut self, bytes: u64) -> Self {
        self.unreclaimed_max_bytes = Some(bytes);
        self
    }

    /// What to do about damage. Default [`RecoveryMode::Strict`].
    pub fn recovery(mut self, mode: RecoveryMode) -> Self {
        self.recovery = mode;
        self
    }

    /// A change is on the device within this time, in milliseconds; default 100.
    pub fn write_interval_ms(mut self, ms: u64) -> Self {
        self.write_interval_ms = ms;
        self
    }

    /// And flushed within this time, in milliseconds; default 1,000.
    pub fn flush_interval_ms(mut self, ms: u64) -> Self {
        self.flush_interval_ms = ms;
        self
    }

    /// How long a change waits for room in the log, in milliseconds, before it is refused; default 10,000.
    /// With 0 nothing waits, and what goes in parts and fills half of a writer's log buffers, a long value or
    /// those of a group, is refused unless the writer keeps up with it: see `docs/durability.md`.
    pub fn put_timeout_ms(mut self, ms: u64) -> Self {
        self.put_timeout_ms = ms;
        self
    }

    /// How long a change waits for its durability, in milliseconds, before its outcome is reported as
    /// unknown; default 30,000.
    pub fn ack_timeout_ms(mut self, ms: u64) -> Self {
        self.ack_timeout_ms = ms;
        self
    }

    /// What a new chunk is filled with: allocated blocks (default), or zeros that are really written. See
    /// `docs/durability.md`.
    pub fn fill(mut self, fill: Fill) -> Self {
        self.fill = fill;
        self
    }

    /// The disk budget: bytes of chunk files for each byte of live records, at least 1.25; default 2.0.
    /// Compaction keeps a store within it, or within 1.08 times its records and some 17 chunks where that is
    /// more; changes wait for that as they wait for room in the log, also those that make the store smaller,
    /// which are never refused for it. Less disk costs more writing: see `docs/compaction.md`.
    pub fn disk_budget(mut self, ratio: f64) -> Self {
        self.disk_budget = ratio;
        self
    }

    /// The source of time. Default: the system's. An [`hdstore::ManualClock`] moves when it is told to.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Calls `on_progress` while a restart loads, about ten times a second, from a loading thread.
    pub fn on_progress(mut self, on_progress: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(on_progress));
        self
    }

    /// Uses this disk, shared memory and boot id instead of the directory's: for simulations.
    #[doc(hidden)]
    pub fn simulated(
        mut self,
        disk: Arc<dyn Disk>,
        shared: crate::SharedRegions,
        boot: [u8; 16],
    ) -> Self {
        self.disk = Some(disk);
        self.shared = Some(shared);
        self.boot = Some(boot);
        self
    }

    /// How far ahead of the seqs that were given the manifest's limit is at an opening: for tests of it.
    #[doc(hidden)]
    pub fn seq_step(mut self, step: u64) -> Self {
        self.seq_step = step.max(1);
        self
    }

    /// The memory for facts of absence while a store loads, instead of a sixteenth of the limit: for tests of
    /// a load in several passes.
    #[doc(hidden)]
    pub fn absence_bytes_max(mut self, bytes: u64) -> Self {
        self.absence_bytes = Some(bytes);
        self
    }

    /// Surveys of facts of absence whenever one may find any, whatever it costs, and of a few at a time: for
    /// tests of what surveys forget.
    #[doc(hidden)]
    pub fn surveys_often(mut self, often: bool) -> Self {
        self.surveys_often = often;
        self
    }

    /// Chunks are loaded in an order that comes from this seed, instead of the newest first: for tests that
    /// any order gives the same.
    #[doc(hidden)]
    pub fn load_order(mut self, seed: u64) -> Self {
        self.load_order = Some(seed);
        self
    }

    /// Opens the store in a directory, or makes a new one where there is none; returns when every key can
    /// be read.
    ///
    /// # Errors
    /// See [`OpenError`]: each says what is wrong and leaves the files as they were.
    pub fn open(self, directory: impl AsRef<Path>) -> Result<Store, OpenError> {
        self.open_with(directory.as_ref(), &mut Threads)
    }

    pub(crate) fn open_with(
        self,
        directory: &Path,
        runner: &mut dyn Runner,
    ) -> Result<Store, OpenError> {
        self.check()?;
        if directory.as_os_str().is_empty() {
            return Err(OpenError::Setting {
                name: "directory",
                found: "an empty path".to_owned(),
                expected: "a path (\".\" is the current directory)".to_owned(),
            });
        }
        crate::store::open::open(self, directory, runner)
    }

    fn check(&self) -> Result<(), OpenError> {
        let setting = |name, found: String, expected: &str| {
            Err(OpenError::Setting { name, found, expected: expected.to_owned() })
        };
        if self.chunk_bytes.is_some_and(|bytes| !is_chunk_size(bytes)) {
            let expected = format!(
                "a power of two from {CHUNK_SIZE_MIN} to {CHUNK_SIZE_MAX} (256 KiB to 64 MiB)"
            );
            return setting(
                "chunk_bytes",
                self.chunk_bytes.unwrap_or_default().to_string(),
                &expected,
            );
        }
        if self.streams.is_some_and(|streams| !(1..=65_536).contains(&streams)) {
            return setting("streams", self.streams.unwrap_or_default().to_string(), "1 to 65536");
        }
        if self.writers.is_some_and(|writers| !(1..=64).contains(&writers)) {
            return setting("writers", self.writers.unwrap_or_default().to_string(), "1 to 64");
        }
        if self.loader_threads.is_some_and(|threads| !(1..=256).contains(&threads)) {
            return setting(
                "loader_threads",
                self.loader_threads.unwrap_or_default().to_string(),
                "1 to 256",
            );
        }
        if !(self.disk_budget >= DISK_BUDGET_MIN && self.disk_budget.is_finite()) {
            let expected = format!("a number from {DISK_BUDGET_MIN}");
            return setting("disk_budget", self.disk_budget.to_string(), &expected);
        }
        if !(2..=64).contains(&self.buffers_per_writer) {
            return setting("buffers_per_writer", self.buffers_per_writer.to_string(), "2 to 64");
        }
        Ok(())
    }

    pub(crate) fn chunk_size_of_new(&self) -> u64 {
        self.chunk_bytes.unwrap_or(CHUNK_SIZE_DEFAULT)
    }

    pub(crate) fn writer_count(&self) -> u32 {
        self.writers.unwrap_or_else(|| (processors() / 4).clamp(1, 16) as u32)
    }

    /// What a load may take for facts of absence, beside the memory limit.
    pub(crate) fn absence_bytes(&self) -> u64 {
        self.absence_bytes.unwrap_or(self.memory_limit_bytes / 16)
    }

    pub(crate) fn loader_count(&self) -> usize {
        self.loader_threads.unwrap_or_else(|| processors().min(16))
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
