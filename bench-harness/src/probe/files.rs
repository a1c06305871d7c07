//! A bare read of files that are there: what a restart's disk rate is held against.
//!
//! The whole blocks of 1 MiB of each file, 8 under way by io_uring with O_DIRECT, and nothing done with
//! them. Called by `restart` after the store was closed: whatever caches lie below this machine then help
//! the bare read and not the store.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::disk::{BLOCK, DEPTH};
use crate::failure::Failure;
use crate::raw::ring::{Direction, Ring};

/// Bytes a second of reading `files` one after the other, until `most` bytes are read. None where io_uring
/// or O_DIRECT cannot be had, or no file has a whole block.
pub fn read_bare(files: &[PathBuf], most: u64) -> Result<Option<f64>, Failure> {
    let Ok(mut ring) = Ring::new(DEPTH, BLOCK) else { return Ok(None) };
    let mut opened = Vec::new();
    let mut planned = 0;
    for path in files {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
        let file = match file {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            other => other.map_err(Failure::file("open", path))?,
        };
        let len = file.metadata().map_err(Failure::file("stat", path))?.len();
        let blocks = len / BLOCK as u64;
        if blocks > 0 && planned < most {
            planned += blocks * BLOCK as u64;
            opened.push((Arc::new(file), blocks));
        }
    }
    let start = Instant::now();
    let bytes = read_all(&mut ring, &opened).map_err(|error| {
        Failure::environment(format!("a bare read of the store's files: {error}"))
    })?;
    Ok((bytes > 0).then(|| bytes as f64 / start.elapsed().as_secs_f64()))
}

fn read_all(ring: &mut Ring, files: &[(Arc<File>, u64)]) -> io::Result<u64> {
    let mut bytes = 0;
    for (file, blocks) in files {
        for block in 0..*blocks {
            let slot = loop {
                match ring.free_slot() {
                    Some(slot) => break slot,
                    None => bytes += ring.wait(1)?,
                }
            };
            ring.submit(slot, file, Direction::Read, (block * BLOCK as u64, BLOCK))?;
        }
    }
    while ring.in_flight() > 0 {
        bytes += ring.wait(1)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_of_every_file_are_read_and_no_more_than_asked() {
        let dir = tempfile::tempdir().expect("tempdir");
        let paths: Vec<_> = [3 * BLOCK, BLOCK + 4096, 100]
            .iter()
            .enumerate()
            .map(|(number, len)| {
                let path = dir.path().join(number.to_string());
                std::fs::write(&path, vec![7; *len]).expect("written");
                path
            })
            .collect();
        let Ok(mut ring) = Ring::new(DEPTH, BLOCK) else {
            assert!(std::env::var_os("CI").is_none(), "io_uring is a prerequisite of the checks");
            return;
        };
        let open = |path: &PathBuf| Arc::new(File::open(path).expect("opened"));
        let files = [(open(&paths[0]), 3), (open(&paths[1]), 1)];
        assert_eq!(read_all(&mut ring, &files).expect("read"), 4 * BLOCK as u64);
        drop(ring);
        let short = [paths[2].clone()];
        assert_eq!(read_bare(&short, 1 << 40).expect("nothing to read"), None);
        assert!(read_bare(&[dir.path().join("missing")], 1).is_err());
    }
}
