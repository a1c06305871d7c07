//! The report's `machine`: enough to tell two machines, or two settings of one, apart.
//!
//! Called once per report; reads a dozen small files.

use std::path::Path;

use serde::Serialize;

use super::{block, cpu, memory};

/// Facts of the machine a report comes from.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Kernel name and release.
    pub kernel: String,
    /// Processor architecture.
    pub architecture: String,
    /// Processor model.
    pub cpu: Option<String>,
    /// Cpus this process may use.
    pub cpus: u32,
    /// RAM in bytes.
    pub ram_bytes: Option<u64>,
    /// The control group's limit, if there is one.
    pub cgroup_limit_bytes: Option<u64>,
    /// NUMA nodes.
    pub numa_nodes: u32,
    /// Use of transparent huge pages.
    pub transparent_huge_pages: Option<String>,
    /// File system under the directory.
    pub file_system: Option<String>,
    /// Its mount options.
    pub mount_options: Option<String>,
    /// Block device under the directory.
    pub device: Option<String>,
    /// The device's model.
    pub device_model: Option<String>,
    /// The device's write cache.
    pub device_write_cache: Option<String>,
    /// The device's scheduler.
    pub device_scheduler: Option<String>,
}

impl Machine {
    /// Reads the facts, with the disk's under `dir`.
    pub fn read(dir: &Path) -> Machine {
        let names = rustix::system::uname();
        let mount = block::mount_of(dir);
        let device = block::device_of(dir);
        Machine {
            kernel: format!(
                "{} {}",
                names.sysname().to_string_lossy(),
                names.release().to_string_lossy()
            ),
            architecture: names.machine().to_string_lossy().into_owned(),
            cpu: cpu::model(),
            cpus: cpu::available(),
            ram_bytes: memory::ram_bytes(),
            cgroup_limit_bytes: memory::cgroup_limit_bytes(),
            numa_nodes: numa_nodes(),
            transparent_huge_pages: sys_choice("/sys/kernel/mm/transparent_hugepage/enabled"),
            file_system: mount.as_ref().map(|mount| mount.kind.clone()),
            mount_options: mount.map(|mount| mount.options),
            device: device.as_ref().map(|device| device.name.clone()),
            device_model: device.as_ref().and_then(|device| device.model.clone()),
            device_write_cache: device.as_ref().and_then(|device| device.write_cache.clone()),
            device_scheduler: device.and_then(|device| device.scheduler),
        }
    }
}

/// NUMA nodes with a directory in sysfs; 1 where sysfs has none.
pub fn numa_nodes() -> u32 {
    let Ok(entries) = std::fs::read_dir("/sys/devices/system/node") else { return 1 };
    let is_node =
        |name: &str| name.strip_prefix("node").is_some_and(|rest| rest.parse::<u32>().is_ok());
    let nodes = entries.flatten().filter(|entry| is_node(&entry.file_name().to_string_lossy()));
    (nodes.count() as u32).max(1)
}

/// The choice in use of a sysfs file with choices.
pub fn sys_choice(path: &str) -> Option<String> {
    Some(block::active_choice(&std::fs::read_to_string(path).ok()?))
}
