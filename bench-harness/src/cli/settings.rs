//! What one run uses, every default filled in, as the report's `settings` echoes it.
//!
//! Owns the invariant that a run depends on nothing of the command line but this: the child of `restart`
//! gets the same values as JSON. Called by the commands; refuses settings that no run could satisfy.
//! See docs/benchmarking.md, "Flags".

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::args::{DataArgs, PhaseArgs, StoreArgs};
use super::choices::{Distribution, Durability, HugePages, Io, Workload};
use crate::failure::Failure;
use crate::system::{cpu, memory};

/// Settings of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreSettings {
    /// Directory of the store.
    pub dir: PathBuf,
    /// Hard limit of the store's memory in bytes.
    pub memory_limit: u64,
    /// What was asked for.
    pub io: Io,
    /// What the store then used; known once it is open.
    pub io_used: Option<String>,
    /// Page size asked for.
    pub huge_pages: HugePages,
    /// Bytes of chunk files for each byte of live records.
    pub disk_budget: f64,
}

/// Settings of a loaded data set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataSettings {
    /// Distinct keys.
    pub entries: u64,
    /// Bytes of a value.
    pub value_size: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Threads.
    pub threads: u32,
    /// When a put counts as done.
    pub durability: Durability,
    /// Seed of everything random.
    pub seed: u64,
    /// Threads are pinned to cpus.
    pub pin: bool,
}

/// Settings of a measured phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PhaseSettings {
    /// Seconds measured.
    pub seconds: f64,
    /// Seconds before that.
    pub warmup: f64,
    /// Operations per call.
    pub batch: u32,
    /// Callers per thread.
    pub in_flight: u32,
    /// Operations per second intended; none is a closed loop.
    pub rate: Option<f64>,
    /// In a closed loop one call in so many is timed.
    pub time_every: u32,
}

/// All settings of a run over a loaded data set.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// The store.
    #[serde(flatten)]
    pub store: StoreSettings,
    /// The data.
    #[serde(flatten)]
    pub data: DataSettings,
    /// The measured phase.
    #[serde(flatten)]
    pub phase: PhaseSettings,
    /// How keys are chosen: `uniform`, `zipfian`, or `latest` for workload d.
    pub distribution: KeyChoice,
    /// The YCSB workload, of `mixed` only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workload: Option<Workload>,
}

/// How a run chooses keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyChoice {
    /// Every key alike.
    Uniform,
    /// Scrambled zipfian.
    Zipfian,
    /// Zipfian by recency of insertion.
    Latest,
}

impl From<Distribution> for KeyChoice {
    fn from(distribution: Distribution) -> KeyChoice {
        match distribution {
            Distribution::Uniform => KeyChoice::Uniform,
            Distribution::Zipfian => KeyChoice::Zipfian,
        }
    }
}

impl StoreSettings {
    /// Fills in the default memory limit.
    pub fn resolve(args: &StoreArgs) -> StoreSettings {
        StoreSettings {
            dir: args.dir.clone(),
            memory_limit: args.memory_limit.unwrap_or_else(memory::default_limit_bytes),
            io: args.io,
            io_used: None,
            huge_pages: args.huge_pages,
            disk_budget: args.disk_budget,
        }
    }
}

impl DataSettings {
    /// Fills in the default threads, and refuses keys too short to be distinct.
    pub fn resolve(args: &DataArgs) -> Result<DataSettings, Failure> {
        let key_size = args.key_size;
        if key_size == 0 || key_size > 65_535 {
            return Err(Failure::usage(format!(
                "--key-size {key_size}: keys are 1 to 65535 bytes"
            )));
        }
        if args.value_size > 1 << 30 {
            let size = args.value_size;
            return Err(Failure::usage(format!("--value-size {size}: values are at most 1 GiB")));
        }
        if key_size < 8 && args.entries > 1_u64 << (8 * key_size) {
            return Err(Failure::usage(format!(
                "--key-size {key_size} has {} distinct keys, --entries asks for {}",
                1_u64 << (8 * key_size),
                args.entries
            )));
        }
        Ok(DataSettings {
            entries: args.entries,
            value_size: args.value_size,
            key_size,
            threads: args.threads.unwrap_or_else(cpu::available),
            durability: args.durability,
            seed: args.seed,
            pin: args.pin,
        })
    }
}

impl PhaseSettings {
    /// Takes the flags as they are.
    pub fn resolve(args: &PhaseArgs, batch: u32, threads: u32) -> Result<PhaseSettings, Failure> {
        let callers = u64::from(threads) * u64::from(args.in_flight);
        if callers > 8192 {
            return Err(Failure::usage(format!(
                "--threads {threads} x --in-flight {} is {callers} callers; at most 8192",
                args.in_flight
            )));
        }
        Ok(PhaseSettings {
            seconds: args.seconds,
            warmup: args.warmup,
            batch,
            in_flight: args.in_flight,
            rate: args.rate,
            time_every: args.time_every,
        })
    }
}

impl Settings {
    /// Puts the groups of flags together.
    pub fn resolve(
        store: &StoreArgs,
        data: &DataArgs,
        phase: &PhaseArgs,
        batch: u32,
        distribution: KeyChoice,
    ) -> Result<Settings, Failure> {
        let data = DataSettings::resolve(data)?;
        let phase = PhaseSettings::resolve(phase, batch, data.threads)?;
        Ok(Settings {
            store: StoreSettings::resolve(store),
            data,
            phase,
            distribution,
            workload: None,
        })
    }
}
