//! Memory: of the machine, of the control group, of this process.
//!
//! Owns the default of `--memory-limit`: 75 % of the smaller of RAM and cgroup limit. Called by the
//! settings, the reports and `doctor`. All figures in bytes.

use std::fs;

/// One field of a /proc file whose lines look like `Name:   123 kB`, in bytes.
pub fn field_bytes(path: &str, name: &str) -> Option<u64> {
    parse_field_bytes(&fs::read_to_string(path).ok()?, name)
}

fn parse_field_bytes(text: &str, name: &str) -> Option<u64> {
    let line =
        text.lines().find(|line| line.strip_prefix(name).is_some_and(|r| r.starts_with(':')))?;
    let mut words = line.split_whitespace().skip(1);
    let number: u64 = words.next()?.parse().ok()?;
    Some(if words.next() == Some("kB") { number * 1024 } else { number })
}

/// RAM of the machine.
pub fn ram_bytes() -> Option<u64> {
    field_bytes("/proc/meminfo", "MemTotal")
}

/// The tightest memory limit of the control groups this process is in, if there is one.
pub fn cgroup_limit_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut tightest: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        // A container often sees its own group at the root of the mount, not at the path named here,
        // and every ancestor's limit binds too.
        let mut ancestor = Some(std::path::Path::new(path));
        while let Some(group) = ancestor {
            let relative = group.strip_prefix("/").unwrap_or(group);
            let limit = fs::read_to_string(std::path::Path::new(root).join(relative).join(file));
            if let Some(limit) = limit.ok().and_then(|text| text.trim().parse::<u64>().ok()) {
                tightest = Some(tightest.map_or(limit, |so_far| so_far.min(limit)));
            }
            ancestor = group.parent();
        }
    }
    // Control groups of version 1 say "no limit" by a number near 2^63.
    tightest.filter(|&limit| limit < 1 << 60)
}

/// The default of `--memory-limit`.
pub fn default_limit_bytes() -> u64 {
    let ram = ram_bytes().unwrap_or(1 << 30);
    let usable = cgroup_limit_bytes().map_or(ram, |limit| limit.min(ram));
    usable / 4 * 3
}

/// Memory of this process: VmRSS (private, file and shared mappings) and hugetlb pages, which VmRSS
/// omits.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident = parse_field_bytes(&status, "VmRSS")?;
    Some(resident + parse_field_bytes(&status, "HugetlbPages").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_not_taken_for_a_longer_name() {
        let text = "MemTotalX:   1 kB\nMemTotal:     12 kB\nHugePages_Total:   3\n";
        assert_eq!(parse_field_bytes(text, "MemTotal"), Some(12_288));
        assert_eq!(parse_field_bytes(text, "HugePages_Total"), Some(3));
        assert_eq!(parse_field_bytes(text, "Absent"), None);
    }

    #[test]
    fn the_default_limit_leaves_a_quarter_of_the_machine() {
        let ram = ram_bytes().expect("meminfo");
        let limit = default_limit_bytes();
        assert!(limit > 0 && limit <= ram / 4 * 3);
        assert!(resident_bytes().expect("status") > 0);
    }
}
