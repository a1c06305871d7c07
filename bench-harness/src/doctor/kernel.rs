//! Findings about the kernel: its release, io_uring, the clock, cpus and their governor, NUMA.

use std::fs;

use io_uring::IoUring;

use super::{Finding, Verdict};
use crate::system::{cpu, host};

pub fn findings() -> Vec<Finding> {
    vec![release(), uring(), cpus(), governor(), numa(), clock()]
}

fn release() -> Finding {
    let names = rustix::system::uname();
    let text = names.release().to_string_lossy().into_owned();
    let mut numbers = text.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("{} {text}", names.sysname().to_string_lossy());
    if version >= (6, 1) {
        Finding::new("kernel", found, Verdict::Ok)
    } else if version >= (5, 11) {
        Finding::new("kernel", found, Verdict::Fair)
            .change("6.1 or newer completes io_uring on the writer's own thread (DEFER_TASKRUN)")
    } else {
        Finding::new("kernel", found, Verdict::Bad)
            .change("io_uring needs 5.11 or newer here: pwritev2 is used")
    }
}

fn uring() -> Finding {
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let sysctl = sysctl.map_or_else(|_| "absent".to_owned(), |text| text.trim().to_owned());
    match IoUring::new(8) {
        Ok(_) => {
            Finding::new("io_uring", format!("works (io_uring_disabled: {sysctl})"), Verdict::Ok)
        }
        Err(error) => {
            let why = match (error.raw_os_error(), sysctl.as_str()) {
                (_, "1" | "2") => "sysctl kernel.io_uring_disabled=0".to_owned(),
                (Some(libc::EPERM), _) => {
                    "a seccomp filter forbids it (containers do): allow io_uring_setup, io_uring_enter and \
                     io_uring_register in its profile"
                        .to_owned()
                }
                (Some(libc::ENOSYS), _) => "the kernel has no io_uring (gVisor, or built without)".to_owned(),
                _ => String::new(),
            };
            let found = format!("blocked: {error} (io_uring_disabled: {sysctl})");
            Finding::new("io_uring", found, Verdict::Fair).change(
                format!("{why}; until then the store uses pwritev2").trim_start_matches("; "),
            )
        }
    }
}

fn cpus() -> Finding {
    let model = cpu::model().unwrap_or_else(|| "unknown model".to_owned());
    let count = cpu::available();
    let found = format!("{count} x {model}");
    if count >= 2 {
        Finding::new("cpus", found, Verdict::Ok)
    } else {
        Finding::new("cpus", found, Verdict::Fair)
            .change("callers and the writer share the one cpu")
    }
}

fn governor() -> Finding {
    match host::sys_choice("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") {
        None => Finding::new("cpu governor", "not exposed (virtual machine)", Verdict::Unknown),
        Some(governor) if governor == "performance" => {
            Finding::new("cpu governor", governor, Verdict::Ok)
        }
        Some(governor) => Finding::new("cpu governor", governor, Verdict::Fair)
            .change("cpupower frequency-set -g performance"),
    }
}

fn numa() -> Finding {
    let nodes = host::numa_nodes();
    let plural = if nodes == 1 { "" } else { "s" };
    let finding = Finding::new("NUMA", format!("{nodes} node{plural}"), Verdict::Ok);
    match fs::read_to_string("/proc/sys/kernel/numa_balancing") {
        Ok(text) if nodes > 1 && text.trim() != "0" => {
            Finding { verdict: Verdict::Fair, ..finding }.change("sysctl kernel.numa_balancing=0")
        }
        _ => finding,
    }
}

fn clock() -> Finding {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match host::sys_choice(path) {
        None => Finding::new("clock source", "not exposed", Verdict::Unknown),
        Some(clock) if ["tsc", "kvm-clock", "arch_sys_counter"].contains(&clock.as_str()) => {
            Finding::new("clock source", clock, Verdict::Ok)
        }
        Some(clock) => Finding::new("clock source", clock, Verdict::Bad)
            .change("reading it is a system call: every measured operation pays for it"),
    }
}
