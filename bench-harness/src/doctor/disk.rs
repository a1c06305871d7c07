//! Findings about the directory's disk: space, file system, O_DIRECT and its alignment, device, cache,
//! scheduler.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use memmap2::MmapMut;
use rustix::fs::{AtFlags, StatxFlags, statx};

use super::{Finding, Verdict};
use crate::failure::Failure;
use crate::report::units;
use crate::system::block;

/// Fails only if no file can be made in the directory.
pub fn findings(dir: &Path) -> Result<Vec<Finding>, Failure> {
    let mut findings = vec![space(dir)?, file_system(dir), direct(dir)?];
    findings.extend(device(dir));
    Ok(findings)
}

fn space(dir: &Path) -> Result<Finding, Failure> {
    let facts =
        rustix::fs::statvfs(dir).map_err(|error| Failure::file("stat", dir)(error.into()))?;
    let free = facts.f_bavail * facts.f_frsize;
    let found = format!("{} free", units::bytes(free));
    Ok(if free >= 4 << 30 {
        Finding::new("disk space", found, Verdict::Ok)
    } else {
        Finding::new("disk space", found, Verdict::Bad)
            .change("a store needs about twice its live bytes, and more")
    })
}

fn file_system(dir: &Path) -> Finding {
    let Some(mount) = block::mount_of(dir) else {
        return Finding::new("file system", "not found in mountinfo", Verdict::Unknown);
    };
    let found = format!("{} on {} ({})", mount.kind, mount.point.display(), mount.options);
    match mount.kind.as_str() {
        "ext4" | "xfs" => Finding::new("file system", found, Verdict::Ok),
        "tmpfs" | "ramfs" => Finding::new("file system", found, Verdict::Bad).change(
            "this is memory: nothing here survives a power cut; name a directory on a disk",
        ),
        "btrfs" | "zfs" | "f2fs" => Finding::new("file system", found, Verdict::Fair)
            .change("copy on write makes every overwrite a new block: ext4 or XFS"),
        "overlay" => {
            Finding::new("file system", found, Verdict::Fair).change("mount a volume for the store")
        }
        _ => Finding::new("file system", found, Verdict::Fair).change("ext4 and XFS are tested"),
    }
}

/// Writes a small file at falling alignments: what a write does counts, not what the kernel promises.
fn direct(dir: &Path) -> Result<Finding, Failure> {
    let path = dir.join(format!(".doctor-{}", std::process::id()));
    let _remove = RemoveFile(&path);
    File::create_new(&path).map_err(Failure::file("create", &path))?;
    let Ok(file) = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path) else {
        return Ok(Finding::new("O_DIRECT", "refused by the file system", Verdict::Bad)
            .change("name a directory on ext4 or XFS"));
    };
    let block = MmapMut::map_anon(8192).map_err(Failure::file("map memory for", &path))?;
    let smallest = [512, 1024, 2048, 4096].into_iter().find(|&size| {
        file.write_all_at(&block[..size], 0).is_ok()
            && file.write_all_at(&block[..size], size as u64).is_ok()
    });
    let stated = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let stated =
        stated.filter(|facts| facts.stx_mask & StatxFlags::DIOALIGN.bits() != 0).map(|facts| {
            format!(
                "; kernel states memory {}, offset {}",
                facts.stx_dio_mem_align, facts.stx_dio_offset_align
            )
        });
    let stated = stated.unwrap_or_default();
    Ok(match smallest {
        Some(size) => {
            Finding::new("O_DIRECT", format!("works from {size} B on{stated}"), Verdict::Ok)
        }
        None => Finding::new("O_DIRECT", format!("4096 B writes fail{stated}"), Verdict::Bad)
            .change("the store aligns to 4096 B: name a directory on another device"),
    })
}

struct RemoveFile<'a>(&'a Path);

impl Drop for RemoveFile<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

fn device(dir: &Path) -> Vec<Finding> {
    let Some(device) = block::device_of(dir) else {
        return vec![Finding::new(
            "device",
            "none of its own (overlay, network or memory)",
            Verdict::Unknown,
        )];
    };
    let model = device.model.unwrap_or_else(|| "model not told".to_owned());
    let blocks =
        device.physical_block_bytes.map_or_else(String::new, |bytes| format!(", {bytes} B blocks"));
    let node = device.numa_node.filter(|&node| node >= 0);
    let node = node.map_or_else(String::new, |node| format!(", NUMA node {node}"));
    let found = format!("{} ({model}{blocks}{node})", device.name);
    // Virtual disks call themselves rotational unless their host says otherwise.
    let is_virtual = ["vd", "xvd"].iter().any(|prefix| device.name.starts_with(prefix));
    let mut findings = vec![match device.rotational {
        Some(true) if is_virtual => Finding::new("device", found, Verdict::Ok)
            .change("a virtual disk: what is under it is not told; run probe"),
        Some(true) => {
            Finding::new("device", found, Verdict::Bad).change("a spinning disk: expect 0.1 GB/s")
        }
        _ => Finding::new("device", found, Verdict::Ok),
    }];
    findings.push(match device.write_cache.as_deref() {
        None => Finding::new("device cache", "not exposed", Verdict::Unknown),
        Some("write through") => Finding::new("device cache", "write through", Verdict::Ok)
            .change("a flush is nearly free: the device says it loses nothing"),
        Some(other) => Finding::new("device cache", other, Verdict::Ok)
            .change("synced puts pay for a flush of it; power-loss protection makes that cheap"),
    });
    findings.push(match device.scheduler.as_deref() {
        None => Finding::new("I/O scheduler", "not exposed", Verdict::Unknown),
        Some("none") => Finding::new("I/O scheduler", "none", Verdict::Ok),
        Some(other) => Finding::new("I/O scheduler", other, Verdict::Fair)
            .change(format!("echo none > /sys/block/{}/queue/scheduler", device.name)),
    });
    findings
}
