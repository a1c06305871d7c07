//! Findings about memory: size, control group, huge pages, locked memory, the tmpfs of the log buffers.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::{Finding, Verdict};
use crate::report::units;
use crate::system::{host, memory};

pub fn findings() -> Vec<Finding> {
    vec![ram(), cgroup(), transparent(), defragmentation(), reserved(), locked(), tmpfs(), swap()]
}

fn ram() -> Finding {
    let limit = units::bytes(memory::default_limit_bytes());
    match memory::ram_bytes() {
        Some(bytes) => {
            let found = format!("{}; default --memory-limit {limit}", units::bytes(bytes));
            Finding::new("memory", found, Verdict::Ok)
        }
        None => {
            Finding::new("memory", "not exposed", Verdict::Unknown).change("give --memory-limit")
        }
    }
}

fn cgroup() -> Finding {
    match (memory::cgroup_limit_bytes(), memory::ram_bytes()) {
        (None, _) => Finding::new("cgroup limit", "none", Verdict::Ok),
        (Some(limit), Some(ram)) if limit >= ram => {
            Finding::new("cgroup limit", units::bytes(limit), Verdict::Ok)
        }
        (Some(limit), _) => Finding::new("cgroup limit", units::bytes(limit), Verdict::Fair)
            .change("log buffers and page cache count against it too"),
    }
}

fn transparent() -> Finding {
    match host::sys_choice("/sys/kernel/mm/transparent_hugepage/enabled") {
        None => Finding::new("transparent huge pages", "not built in", Verdict::Bad)
            .change("reserve huge pages: sysctl vm.nr_hugepages=N"),
        Some(mode) if mode == "never" => Finding::new("transparent huge pages", mode, Verdict::Bad)
            .change("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        Some(mode) => Finding::new("transparent huge pages", mode, Verdict::Ok),
    }
}

fn defragmentation() -> Finding {
    match host::sys_choice("/sys/kernel/mm/transparent_hugepage/defrag") {
        None => Finding::new("huge page defrag", "not exposed", Verdict::Unknown),
        Some(mode) if mode == "always" => Finding::new("huge page defrag", mode, Verdict::Fair)
            .change("echo defer+madvise > /sys/kernel/mm/transparent_hugepage/defrag"),
        Some(mode) => Finding::new("huge page defrag", mode, Verdict::Ok),
    }
}

fn reserved() -> Finding {
    let pages = |size: &str, name: &str| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-{size}/{name}");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok())
    };
    let mut parts = Vec::new();
    let mut free = 0;
    for (size, name) in [("2048kB", "2 MiB"), ("1048576kB", "1 GiB")] {
        if let (Some(all), Some(unused)) =
            (pages(size, "nr_hugepages"), pages(size, "free_hugepages"))
        {
            parts.push(format!("{unused} of {all} x {name} free"));
            free += unused;
        }
    }
    if parts.is_empty() {
        return Finding::new("reserved huge pages", "not built in", Verdict::Unknown);
    }
    let found = parts.join(", ");
    if free > 0 {
        Finding::new("reserved huge pages", found, Verdict::Ok)
    } else {
        Finding::new("reserved huge pages", found, Verdict::Fair)
            .change("for --huge-pages 2m: sysctl vm.nr_hugepages=N before the store opens")
    }
}

fn locked() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    match limit {
        None => Finding::new("locked memory", "unlimited", Verdict::Ok),
        Some(bytes) if bytes >= 64 << 20 => {
            Finding::new("locked memory", units::bytes(bytes), Verdict::Ok)
        }
        Some(bytes) => Finding::new("locked memory", units::bytes(bytes), Verdict::Fair).change(
            "io_uring before Linux 5.12 counts against it: ulimit -l, or LimitMEMLOCK= of the unit",
        ),
    }
}

fn tmpfs() -> Finding {
    match rustix::fs::statvfs("/dev/shm") {
        Err(error) => Finding::new("/dev/shm", format!("unusable: {error}"), Verdict::Bad)
            .change("mount a tmpfs there, or log buffers go to a file in the store's directory"),
        Ok(facts) => {
            let free = facts.f_bavail * facts.f_frsize;
            let found = format!(
                "{} free of {}",
                units::bytes(free),
                units::bytes(facts.f_blocks * facts.f_frsize)
            );
            if free >= 256 << 20 {
                Finding::new("/dev/shm", found, Verdict::Ok)
            } else {
                Finding::new("/dev/shm", found, Verdict::Bad)
                    .change("mount -o remount,size=1G /dev/shm")
            }
        }
    }
}

fn swap() -> Finding {
    match memory::field_bytes("/proc/meminfo", "SwapTotal") {
        None => Finding::new("swap", "not exposed", Verdict::Unknown),
        Some(0) => Finding::new("swap", "none", Verdict::Ok),
        Some(bytes) => Finding::new("swap", units::bytes(bytes), Verdict::Fair).change(
            "a swapped-out map is slower than any disk figure: swapoff, or vm.swappiness=1",
        ),
    }
}
