//! The file system and the block device under a directory.
//!
//! Finds the mount by the longest mount point above the directory and the device by its number in /sys;
//! both may be absent (overlay, network, tmpfs). Called by `doctor` and by the report's `machine`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// Options of the mount and of the file system.
    pub options: String,
    /// What is mounted.
    pub source: String,
}

/// The mount that holds `dir`.
pub fn mount_of(dir: &Path) -> Option<Mount> {
    let absolute = fs::canonicalize(dir).ok()?;
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = text.lines().filter_map(parse_mount);
    // A later mount on the same point hides the earlier one: the last of the longest counts.
    mounts
        .filter(|mount| absolute.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.as_os_str().len())
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let right: Vec<&str> = right.split(' ').collect();
    Some(Mount {
        point: PathBuf::from(left.get(4)?.replace("\\040", " ")),
        kind: (*right.first()?).to_owned(),
        options: merge_options(left.get(5)?, right.get(2)?),
        source: (*right.get(1)?).to_owned(),
    })
}

/// Options of the mount, then those of the file system that differ.
fn merge_options(mount: &str, file_system: &str) -> String {
    let mut merged: Vec<&str> = mount.split(',').collect();
    for option in file_system.split(',') {
        if !merged.contains(&option) {
            merged.push(option);
        }
    }
    merged.join(",")
}

/// The block device under a directory.
#[derive(Clone, Debug)]
pub struct Device {
    /// Kernel name, such as nvme0n1.
    pub name: String,
    /// Model, where the device tells one.
    pub model: Option<String>,
    /// `write back` or `write through`.
    pub write_cache: Option<String>,
    /// The scheduler in use.
    pub scheduler: Option<String>,
    /// True for a spinning disk.
    pub rotational: Option<bool>,
    /// Bytes of a physical block.
    pub physical_block_bytes: Option<u64>,
    /// The NUMA node of the device.
    pub numa_node: Option<i64>,
}

/// The device under `dir`, partitions resolved to their disk.
pub fn device_of(dir: &Path) -> Option<Device> {
    let number = fs::metadata(dir).ok()?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let link = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let disk = if link.join("queue").is_dir() { link } else { link.parent()?.to_owned() };
    let read = |name: &str| {
        let text = fs::read_to_string(disk.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    Some(Device {
        name: disk.file_name()?.to_string_lossy().into_owned(),
        model: read("device/model"),
        write_cache: read("queue/write_cache"),
        scheduler: read("queue/scheduler").map(|text| active_choice(&text)),
        rotational: read("queue/rotational").map(|text| text == "1"),
        physical_block_bytes: read("queue/physical_block_size").and_then(|text| text.parse().ok()),
        numa_node: read("device/numa_node").and_then(|text| text.parse().ok()),
    })
}

/// The word in brackets of a sysfs choice such as `[none] mq-deadline`, or the whole text.
pub fn active_choice(text: &str) -> String {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(text, |(choice, _)| choice).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_with_optional_fields_and_an_escaped_space_is_read() {
        let line =
            "36 35 98:0 / /mnt\\040a rw,noatime master:1 shared:2 - ext4 /dev/root rw,discard";
        let mount = parse_mount(line).expect("a mount");
        assert_eq!(mount.point, PathBuf::from("/mnt a"));
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("ext4", "/dev/root"));
        assert_eq!(mount.options, "rw,noatime,discard");
    }

    #[test]
    fn the_choice_in_use_is_told_from_the_choices_there_are() {
        assert_eq!(active_choice("none [mq-deadline] kyber"), "mq-deadline");
        assert_eq!(active_choice("none"), "none");
    }
}
