//! The settings of a store, and how one is made.

use std::sync::Arc;

use crate::arena::layout::{MAPS_MAX, PAGE};
use crate::arena::numa::Topology;
use crate::arena::os::{PageKind, UNIT};
use crate::clock::{Clock, SystemClock};
use crate::entry::layout::VALUE_MAX;
use crate::error::BuildError;
use crate::log::{Log, NoLog};
use crate::store::Store;

/// The smallest memory limit, in bytes.
pub const MEMORY_LIMIT_MIN: u64 = 16 << 20;
/// The largest memory limit, in bytes: what 42 bits of location reach.
pub const MEMORY_LIMIT_MAX: u64 = 896 << 30;
/// The most streams.
pub const STREAMS_MAX: u32 = 65_536;

/// Which pages to put under the arena. Each falls to the next smaller kind where the system has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HugePages {
    /// Explicit 1 GiB pages, else explicit 2 MiB pages, else transparent ones.
    #[default]
    Auto,
    /// Pages of 4 KiB only.
    Off,
    /// Transparent huge pages, by advice.
    Transparent,
    /// Explicit pages of 2 MiB, else transparent ones.
    Explicit2M,
}

/// Settings of a store; made by [`Store::builder`].
///
/// ```
/// let store = hdstore::Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
/// assert_eq!(store.stats().limit_bytes, 64 << 20);
/// # Ok::<(), hdstore::BuildError>(())
/// ```
#[must_use]
#[derive(Clone)]
pub struct Builder {
    pub(crate) memory_limit_bytes: u64,
    pub(crate) streams: u32,
    pub(crate) huge_pages: HugePages,
    pub(crate) unreclaimed_max_bytes: Option<u64>,
    pub(crate) topology: Option<Topology>,
    pub(crate) lanes: Option<usize>,
    pub(crate) hash_seed: Option<u64>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            memory_limit_bytes: 1 << 30,
            streams: 64,
            huge_pages: HugePages::Auto,
            unreclaimed_max_bytes: None,
            topology: None,
            lanes: None,
            hash_seed: None,
            clock: Arc::new(SystemClock::default()),
        }
    }
}

impl Builder {
    /// The hard limit on memory, metadata included, in bytes: 16 MiB to 896 GiB, rounded down to 2 MiB.
    /// Default 1 GiB.
    pub fn memory_limit_bytes(mut self, bytes: u64) -> Self {
        self.memory_limit_bytes = bytes;
        self
    }

    /// How many streams the keys are spread over: 1 to 65,536. One writer at a time works in each. Default
    /// 64.
    pub fn streams(mut self, streams: u32) -> Self {
        self.streams = streams;
        self
    }

    /// Which pages to put under the arena. Default [`HugePages::Auto`].
    pub fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// The bound on memory of replaced values that wait for readers, in bytes, per NUMA node. Default: 1/32
    /// of the memory limit, at least 1 MiB; 256 KiB or more. See `docs/memory.md`.
    pub fn unreclaimed_max_bytes(mut self, bytes: u64) -> Self {
        self.unreclaimed_max_bytes = Some(bytes);
        self
    }

    /// The NUMA topology, instead of the machine's.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// How many lanes of free slots there are per node: 1 to 1,024, rounded up to a power of two. Default: as
    /// many as processors, at most 64.
    pub fn lanes(mut self, lanes: usize) -> Self {
        self.lanes = Some(lanes);
        self
    }

    /// The seed of the index hash, instead of a random one.
    pub fn hash_seed(mut self, seed: u64) -> Self {
        self.hash_seed = Some(seed);
        self
    }

    /// The source of time. Default [`SystemClock`]; a [`crate::ManualClock`] moves when it is told to.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Makes a store that lives in memory alone.
    ///
    /// # Errors
    /// A setting out of range, or no address space.
    pub fn in_memory(self) -> Result<Store, BuildError> {
        self.with_log(NoLog)
    }

    /// Makes a store over a log: the seam for `hotrestart`.
    ///
    /// # Errors
    /// As for [`Builder::in_memory`].
    pub fn with_log<L: Log>(self, log: L) -> Result<Store<L>, BuildError> {
        self.check()?;
        Store::new(self, log)
    }

    fn check(&self) -> Result<(), BuildError> {
        let setting = |name, found: String, expected: &str| {
            Err(BuildError::Setting { name, found, expected: expected.to_owned() })
        };
        if !(MEMORY_LIMIT_MIN..=MEMORY_LIMIT_MAX).contains(&self.memory_limit_bytes) {
            let expected =
                format!("{MEMORY_LIMIT_MIN} to {MEMORY_LIMIT_MAX} bytes (16 MiB to 896 GiB)");
            return setting("memory_limit_bytes", self.memory_limit_bytes.to_string(), &expected);
        }
        if self.streams == 0 || self.streams > STREAMS_MAX {
            return setting("streams", self.streams.to_string(), "1 to 65,536");
        }
        if let Some(lanes) = self.lanes.filter(|lanes| !(1..=1024).contains(lanes)) {
            return setting("lanes", lanes.to_string(), "1 to 1,024");
        }
        if let Some(bytes) = self.unreclaimed_max_bytes.filter(|bytes| *bytes < PAGE) {
            return setting("unreclaimed_max_bytes", bytes.to_string(), "262144 (256 KiB) or more");
        }
        if self.topology.as_ref().is_some_and(|topology| topology.nodes().is_empty()) {
            return setting("topology", "no node".to_owned(), "at least one node");
        }
        Ok(())
    }

    /// The limit as it is kept: whole units of 2 MiB.
    pub(crate) fn limit_bytes(&self) -> u64 {
        self.memory_limit_bytes / UNIT * UNIT
    }

    /// The longest value: 1 GiB or a quarter of the limit.
    pub(crate) fn value_max_bytes(&self) -> u64 {
        VALUE_MAX.min(self.limit_bytes() / 4)
    }

    pub(crate) fn page_kind(&self) -> PageKind {
        match self.huge_pages {
            HugePages::Auto => PageKind::Huge1G,
            HugePages::Off => PageKind::Small,
            HugePages::Transparent => PageKind::Transparent,
            HugePages::Explicit2M => PageKind::Huge2M,
        }
    }
}

/// The most maps of a store.
pub const MAPS_LIMIT: u64 = MAPS_MAX;
