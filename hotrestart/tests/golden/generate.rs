//! Makes the stores that became the golden files: small, with fixed identities, each the same at every run of
//! one build.
//!
//! Invariant: nothing in them tells of the machine, the time or the directory in which they were made. The
//! machines of a store are stepped on this thread by a seed, and the clock moves with them.
//!
//! What it writes becomes golden once, by hand, for a new version of the format; those of an old version are
//! never made again (`docs/format.md`, section 12). It runs with every test, so that it works when it is
//! needed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotrestart::format::crc::crc32c;
use hotrestart::format::manifest::MANIFEST_NAMES;
use hotrestart::format::{BootId, ChunkId, FileNumber, LifeNumber, Manifest, MapId, StoreId};
use hotrestart::{Builder, Durability, Error, IoChoice, LogFailure, ManualClock, Stepper, Store};

use crate::listing::STREAMS;
use crate::pack::{self, Files};

/// When the stores were made, in milliseconds since 1970.
pub const BEGIN_MS: u64 = 1_700_000_000_000;
/// The boot in which all of it happened.
pub const BOOT: BootId = BootId([7; 16]);
pub const CHUNK: u64 = 256 << 10;
/// Turns that a change is given.
const PATIENCE: u32 = 50_000;
/// Where a header of log buffers has the boot, its checksum, and the path of the store's directory.
const BOOT_AT: std::ops::Range<usize> = 40..56;
const HEADER_CRC_AT: usize = 68;
const PATH_AT: std::ops::Range<usize> = 128..4096;

/// A store that is being made.
pub struct Maker {
    pub path: PathBuf,
    pub buffers_dir: PathBuf,
    pub clock: Arc<ManualClock>,
    stepper: Stepper,
    store: Option<Store>,
}

fn failure(error: &Error) -> Option<&LogFailure> {
    match error {
        Error::Log(source) => source.downcast_ref(),
        _ => None,
    }
}

impl Maker {
    /// A store with an identity of its own in an empty directory.
    pub fn new(path: &Path, number: u8) -> Maker {
        let store = std::array::from_fn(|at| number.wrapping_mul(29) ^ (at as u8 * 17));
        let manifest = Manifest {
            generation: 0,
            store: StoreId(store),
            chunk_size: CHUNK,
            streams: STREAMS,
            closed_cleanly: true,
            hash_seed: 0x0123_4567_89ab_cdef ^ u64::from(number) << 56,
            life: LifeNumber(0),
            latest_time_ms: 0,
            memory_bytes: 0,
            next_map: MapId(1),
            next_file: FileNumber(0),
            next_chunk: ChunkId(1 << 32),
            seq_start: 1,
            seq_limit: 1,
            lives: Vec::new(),
            maps: Vec::new(),
            stream_records: Vec::new(),
            held: Vec::new(),
        };
        std::fs::write(path.join(manifest.file_name()), manifest.encode()).expect("writable");
        let clock = Arc::new(ManualClock::new(BEGIN_MS));
        let stepper = stepper(&clock, u64::from(number));
        let buffers_dir = path.join("no such directory");
        Maker { path: path.to_owned(), buffers_dir, clock, stepper, store: None }
    }

    pub fn builder(&self, writers: u32) -> Builder {
        Store::builder()
            .memory_limit_bytes(32 << 20)
            .writers(writers)
            .loader_threads(1)
            .buffers_per_writer(2)
            .buffers_dir(&self.buffers_dir)
            .io(IoChoice::Syscall)
            .write_interval_ms(15)
            .flush_interval_ms(60)
            .put_timeout_ms(0)
            .ack_timeout_ms(0)
            .clock(Arc::clone(&self.clock))
    }

    pub fn open(&mut self, builder: Builder, seed: u64) {
        self.stepper = stepper(&self.clock, seed);
        self.store = Some(self.stepper.open(builder, &self.path).expect("it opens"));
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("it was opened")
    }

    pub fn steps(&mut self, count: u32) {
        (0..count).for_each(|_| self.stepper.step());
    }

    /// Makes a change, with turns until there is room for it.
    pub fn make<T>(&mut self, mut change: impl FnMut(&Store) -> Result<T, Error>) {
        for _ in 0..PATIENCE {
            match change(self.store()) {
                Ok(_) => return,
                Err(error) => match failure(&error) {
                    // It is done, and durable a few turns later.
                    Some(LogFailure::TimedOut { .. }) => return,
                    Some(LogFailure::Busy { .. } | LogFailure::DiskBudget { .. }) => self.steps(1),
                    _ => panic!("{error}"),
                },
            }
        }
        panic!("no room in {PATIENCE} turns: {:#?}", self.store().stats());
    }

    /// Takes turns until all of it is as durable as that.
    pub fn persist(&mut self, level: Durability) {
        for _ in 0..PATIENCE {
            if self.store().persist_within(level, Some(std::time::Duration::ZERO)).is_ok() {
                return;
            }
            self.steps(1);
        }
        panic!("not durable in {PATIENCE} turns");
    }

    pub fn close(&mut self) {
        let store = self.store.take().expect("it was opened");
        self.stepper.close(store).expect("a clean close");
    }

    /// Ends as if the process died.
    pub fn abandon(&mut self) {
        self.store.take().expect("it was opened").abandon();
    }

    /// The files, without what tells of this machine.
    pub fn files(&self) -> Files {
        let mut files = pack::read(&self.path);
        set_boot(&mut files, BOOT);
        for (_, bytes) in files.iter_mut().filter(|(name, _)| name.starts_with("buffers-")) {
            bytes[PATH_AT].fill(0);
        }
        files
    }
}

fn stepper(clock: &Arc<ManualClock>, seed: u64) -> Stepper {
    let clock = Arc::clone(clock);
    Stepper::new(seed, move || clock.advance_ms(1))
}

/// Has all lives in a directory run in this boot.
pub fn set_boot(files: &mut Files, boot: BootId) {
    for name in MANIFEST_NAMES {
        let Some(bytes) = files.get_mut(name) else { continue };
        let mut manifest = Manifest::decode(bytes).expect("a valid copy");
        manifest.lives.iter_mut().for_each(|life| life.boot = boot);
        let encoded = manifest.encode();
        bytes[..encoded.len()].copy_from_slice(&encoded);
    }
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name.starts_with("buffers-")) {
        bytes[BOOT_AT].copy_from_slice(&boot.0);
        let crc = crc32c(&bytes[..HEADER_CRC_AT]);
        bytes[HEADER_CRC_AT..HEADER_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }
}
