//! The command line: every subcommand with exactly the flags that apply to it.
//!
//! Owns the contract for scripts of docs/benchmarking.md: a flag that a subcommand cannot use does not
//! exist there, so it is refused by name. Called by `main` once. Parsing has no effect on the machine.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::choices::{Distribution, Durability, Format, HugePages, Io, Probe, Workload};
use super::size::{parse_rate, parse_seconds, parse_size, parse_size_u32};
use crate::churn::Pattern;

/// Fills, measures, kills and restarts a store, and says how near the machine it came.
#[derive(Parser, Debug)]
#[command(name = "bench-harness", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Start with:
  bench-harness doctor --dir DIR
  bench-harness quick --dir DIR
  bench-harness restart --dir DIR

Exit status:
  0    done, nothing lost or wrong
  1    lost, wrong, corrupt, or a verify mismatch
  2    usage or refused input
  3    the environment: I/O, no space, no permission
  130  interrupted: the report is partial";

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// What this machine offers, and what to change.
    Doctor(DoctorArgs),
    /// The machine's limits: disk, flush, memory, a bare append loop.
    Probe(ProbeArgs),
    /// Load, then overwrite: operations per second, tails, write amplification.
    Write(WriteArgs),
    /// Load, then get.
    Read(ReadArgs),
    /// Load and overwrite in a child process, kill it, reopen, check every entry.
    Restart(RestartArgs),
    /// YCSB A, B, C, D or F.
    Mixed(MixedArgs),
    /// Change everything for hours at the memory limit and the disk budget, and look at every bound.
    Churn(ChurnArgs),
    /// Put a tsv, csv or jsonl file into a store, or compare a store with it.
    Import(ImportArgs),
    /// All of it, small, in under two minutes, with a table at the end.
    Quick(QuickArgs),
    /// The filling side of `restart`: runs until it is killed.
    #[command(hide = true)]
    FillUntilKilled(FillArgs),
}

/// A count from 1 to `most`.
fn count(most: i64) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=most)
}

/// A count of entries: from 1, and below what a key's index can count.
fn count_of_entries() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=1 << 40)
}

/// Flags of every subcommand that opens a store.
#[derive(Args, Debug, Clone)]
pub struct StoreArgs {
    /// Directory of the store; missing or empty unless the subcommand says otherwise.
    #[arg(long, value_name = "D")]
    pub dir: PathBuf,
    /// Hard limit of the store's memory, metadata included [default: 75 % of the smaller of RAM and
    /// cgroup limit].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory_limit: Option<u64>,
    /// How the log reaches the disk.
    #[arg(long, value_enum, default_value = "auto")]
    pub io: Io,
    /// Page size asked for.
    #[arg(long, value_enum, default_value = "auto")]
    pub huge_pages: HugePages,
    /// Disk budget: bytes of chunk files for each byte of live records, at least 1.25.
    #[arg(long, value_name = "RATIO", default_value_t = 2.0, value_parser = ratio)]
    pub disk_budget: f64,
    /// Write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Flags of the data set that a run loads.
#[derive(Args, Debug, Clone)]
pub struct DataArgs {
    /// Distinct keys to load.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = count_of_entries())]
    pub entries: u64,
    /// Bytes of a value.
    #[arg(long, value_name = "V", default_value = "239", value_parser = parse_size_u32)]
    pub value_size: u32,
    /// Bytes of a key.
    #[arg(long, value_name = "K", default_value = "8", value_parser = parse_size_u32)]
    pub key_size: u32,
    /// Threads that load and then run [default: the cpus this process may use].
    #[arg(long, value_name = "T", value_parser = count(4096))]
    pub threads: Option<u32>,
    /// When a put counts as done.
    #[arg(long, value_enum, default_value = "buffered")]
    pub durability: Durability,
    /// Seed of keys, values and choices.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
    /// Pin each thread to a cpu.
    #[arg(long)]
    pub pin: bool,
}

/// Flags of the measured phase.
#[derive(Args, Debug, Clone)]
pub struct PhaseArgs {
    /// Seconds measured; 0 loads only.
    #[arg(long, value_name = "S", default_value = "10", value_parser = parse_seconds)]
    pub seconds: f64,
    /// Seconds before that, not counted.
    #[arg(long, value_name = "S", default_value = "2", value_parser = parse_seconds)]
    pub warmup: f64,
    /// Callers per thread, each with one call outstanding.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(1024))]
    pub in_flight: u32,
    /// Open loop: operations per second of all threads; latency counts from the intended start.
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Closed loop: the clock is read for one call in N; all are counted.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "rate",
        value_parser = count(1_000_000))]
    pub time_every: u32,
}

/// Batches, where a subcommand has one kind of operation.
#[derive(Args, Debug, Clone)]
pub struct BatchArgs {
    /// Operations per call (put_many, get_many).
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(65_536))]
    pub batch: u32,
}

/// How the measured phase chooses keys.
#[derive(Args, Debug, Clone)]
pub struct DistributionArgs {
    /// How keys are chosen.
    #[arg(long, value_enum, default_value = "uniform")]
    pub distribution: Distribution,
}

/// `write`.
#[derive(Args, Debug, Clone)]
pub struct WriteArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub phase: PhaseArgs,
    #[command(flatten)]
    pub batch: BatchArgs,
    #[command(flatten)]
    pub keys: DistributionArgs,
}

/// `read`.
#[derive(Args, Debug, Clone)]
pub struct ReadArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub phase: PhaseArgs,
    #[command(flatten)]
    pub batch: BatchArgs,
    #[command(flatten)]
    pub keys: DistributionArgs,
}

/// `restart`.
#[derive(Args, Debug, Clone)]
pub struct RestartArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub phase: PhaseArgs,
    #[command(flatten)]
    pub batch: BatchArgs,
    #[command(flatten)]
    pub keys: DistributionArgs,
    /// How often the filling process is killed. From the second time on it goes on with the same store, for a
    /// random time of up to --seconds, and may die while it opens it; every second time all entries are
    /// checked.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub kills: u32,
}

/// `mixed`.
#[derive(Args, Debug, Clone)]
pub struct MixedArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub phase: PhaseArgs,
    /// YCSB workload: a, b, c, d or f.
    #[arg(long, value_name = "W", default_value = "a", value_parser = Workload::parse)]
    pub workload: Workload,
    /// How keys are chosen; workload d always reads the latest [default: zipfian].
    #[arg(long, value_enum)]
    pub distribution: Option<Distribution>,
}

/// `churn`.
#[derive(Args, Debug, Clone)]
pub struct ChurnArgs {
    #[command(flatten)]
    pub store: StoreArgs,
    /// Seconds of all patterns together, the time to fill and to check apart.
    #[arg(long, value_name = "S", default_value = "7200", value_parser = parse_seconds)]
    pub seconds: f64,
    /// Only this pattern; may be given several times.
    #[arg(long, value_enum, value_name = "PATTERN")]
    pub pattern: Vec<Pattern>,
    /// Threads [default: the cpus this process may use].
    #[arg(long, value_name = "T", value_parser = count(4096))]
    pub threads: Option<u32>,
    /// Seed of keys, values and choices.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
}

/// `import`.
#[derive(Args, Debug, Clone)]
pub struct ImportArgs {
    /// File to read.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Format of FILE [default: by its suffix].
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Column or member that is the key [default: the first].
    #[arg(long, value_name = "NAME")]
    pub key: Option<String>,
    /// Write nothing: open the store and compare every entry with FILE.
    #[arg(long)]
    pub verify: bool,
}

/// `probe`.
#[derive(Args, Debug, Clone)]
pub struct ProbeArgs {
    /// Directory on the disk to probe.
    #[arg(long, value_name = "D")]
    pub dir: PathBuf,
    /// Seconds of each probe.
    #[arg(long, value_name = "S", default_value = "2", value_parser = parse_seconds)]
    pub seconds: f64,
    /// Largest file that a probe makes.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    pub file_size: u64,
    /// Bytes of memory that the memory probes walk.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    pub memory_size: u64,
    /// Bytes of a value in the append loop.
    #[arg(long, value_name = "V", default_value = "239", value_parser = parse_size_u32)]
    pub value_size: u32,
    /// Run only these probes, separated by commas.
    #[arg(long, value_name = "PROBE", value_enum, value_delimiter = ',')]
    pub only: Vec<Probe>,
    /// Write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `doctor`.
#[derive(Args, Debug, Clone)]
pub struct DoctorArgs {
    /// Directory that a store would use.
    #[arg(long, value_name = "D", default_value = ".")]
    pub dir: PathBuf,
    /// Write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `quick`.
#[derive(Args, Debug, Clone)]
pub struct QuickArgs {
    /// Directory to work in, missing or empty; removed at the end.
    #[arg(long, value_name = "D", default_value = "quick-data")]
    pub dir: PathBuf,
    /// How the log reaches the disk.
    #[arg(long, value_enum, default_value = "auto")]
    pub io: Io,
    /// Write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The hidden filling side of `restart`.
#[derive(Args, Debug, Clone)]
pub struct FillArgs {
    /// The parent's settings, as JSON.
    #[arg(long)]
    pub settings: String,
    /// The shared table of issued and acknowledged versions.
    #[arg(long)]
    pub table: PathBuf,
    /// The parent, with which it dies.
    #[arg(long)]
    pub parent: u32,
}

/// A disk budget.
fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if ratio.is_finite() && ratio >= 1.25 => Ok(ratio),
        _ => Err(format!("'{text}' is not a number from 1.25")),
    }
}
