//! The closed sets of words that flags take, with their spelling in the report.
//!
//! Owns the spelling: the word on the command line and the word in the report's `settings` are the same.
//! Used by the argument parser, the workloads and the engine adapter. See docs/benchmarking.md, "Flags".

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// When a put counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// In the shared log buffer: survives the death of the process.
    Buffered,
    /// Written to the device.
    Written,
    /// Written and flushed.
    Synced,
}

/// How the log reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// io_uring where the kernel allows it, else pwritev2.
    Auto,
    /// io_uring or an error.
    Uring,
    /// preadv2, pwritev2 and fdatasync, each on the thread that writes.
    Syscall,
}

/// Which page size the store asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePages {
    /// The largest that this machine gives.
    Auto,
    /// 4 KiB pages.
    Off,
    /// Transparent huge pages by advice.
    Thp,
    /// Reserved pages of 2 MiB.
    #[value(name = "2m")]
    #[serde(rename = "2m")]
    TwoMiB,
    /// Reserved pages of 1 GiB, then the next best: what auto does.
    #[value(name = "1g")]
    #[serde(rename = "1g")]
    OneGiB,
}

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Every key alike.
    Uniform,
    /// YCSB's scrambled zipfian, constant 0.99.
    Zipfian,
}

/// The YCSB core workloads that an unordered store can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// 50 % reads, 50 % updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Reads only.
    C,
    /// 95 % reads of the latest keys, 5 % inserts.
    D,
    /// 50 % reads, 50 % read-modify-writes.
    F,
}

impl Workload {
    /// Parses one letter; E is refused with its reason.
    pub fn parse(text: &str) -> Result<Workload, String> {
        match text {
            "a" | "A" => Ok(Workload::A),
            "b" | "B" => Ok(Workload::B),
            "c" | "C" => Ok(Workload::C),
            "d" | "D" => Ok(Workload::D),
            "f" | "F" => Ok(Workload::F),
            "e" | "E" => {
                Err("workload e scans ranges of keys in order, and this store is a hash map: \
                              it keeps no order to scan (possible values: a, b, c, d, f)"
                    .to_owned())
            }
            _ => Err("possible values: a, b, c, d, f".to_owned()),
        }
    }
}

/// The formats that `import` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Key, TAB, value, LF.
    Tsv,
    /// RFC 4180 with a header.
    Csv,
    /// One JSON object a line.
    Jsonl,
}

/// One of the probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Probe {
    /// Sequential writes and reads.
    Sequential,
    /// A small write and a flush.
    Flush,
    /// Copies in memory.
    Memcpy,
    /// Loads that miss every cache.
    Misses,
    /// The bare append loop.
    Append,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_flag_and_the_word_in_the_report_are_the_same() {
        fn check<T: ValueEnum + Serialize>() {
            for choice in T::value_variants() {
                let flag = choice.to_possible_value().expect("no hidden choices");
                let json = serde_json::to_value(choice).expect("a word");
                assert_eq!(json, serde_json::Value::from(flag.get_name()));
            }
        }
        check::<Durability>();
        check::<Io>();
        check::<HugePages>();
        check::<Distribution>();
        check::<Format>();
    }

    #[test]
    fn workload_e_is_refused_with_its_reason() {
        assert!(Workload::parse("e").expect_err("refused").contains("order"));
    }
}
