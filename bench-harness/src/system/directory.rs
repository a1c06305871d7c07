//! A run's directory: may it be used, what it occupies, and removal of what a run made.
//!
//! Owns the rule that no run writes into a directory that already holds something (docs/benchmarking.md).
//! Called by every command before it touches the disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Makes the directory if it is missing; refuses one that is not empty.
pub fn claim_empty(dir: &Path) -> Result<(), Failure> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Failure::usage(format!(
                "--dir {} is not empty: this command fills a store of its own and overwrites nothing; \
                 name a missing or empty directory",
                dir.display()
            ))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(Failure::file("create directory", dir))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(Failure::usage(format!("--dir {} is not a directory", dir.display())))
        }
        Err(error) => Err(Failure::file("read directory", dir)(error)),
    }
}

/// Makes the directory, and those above it, if they are missing; removes them again, when dropped, if they
/// were made here and are empty.
pub fn make(dir: &Path) -> Result<MadeHere, Failure> {
    let missing = dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
    let made = MadeHere { paths: missing.map(Path::to_owned).collect() };
    fs::create_dir_all(dir).map_err(Failure::file("create directory", dir))?;
    Ok(made)
}

/// See [`make`].
#[derive(Debug)]
pub struct MadeHere {
    /// The deepest first.
    paths: Vec<PathBuf>,
}

impl Drop for MadeHere {
    fn drop(&mut self) {
        // Not empty any more: somebody else's files are not ours to remove.
        for path in &self.paths {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Bytes allocated on disk by everything in the directory.
pub fn allocated_bytes(dir: &Path) -> Result<u64, Failure> {
    let mut total = 0;
    for path in files(dir)? {
        // A file may go between listing and asking (a chunk given back): it then occupies nothing.
        match fs::symlink_metadata(&path) {
            Ok(metadata) => total += metadata.blocks() * 512,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::file("stat", &path)(error)),
        }
    }
    Ok(total)
}

/// Every regular file in the directory and below.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).map_err(Failure::file("read directory", &next))? {
            let entry = entry.map_err(Failure::file("read directory", &next))?;
            let kind = entry.file_type().map_err(Failure::file("stat", &entry.path()))?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Removes a directory, and all in it, when dropped: for what `quick` and `probe` made themselves.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Claims an empty directory that lives as long as this guard.
    pub fn claim(path: &Path) -> Result<Scratch, Failure> {
        claim_empty(path)?;
        Ok(Scratch { path: path.to_owned() })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_anything_in_it_is_refused() {
        let home = tempfile::tempdir().expect("tempdir");
        let missing = home.path().join("a/b");
        claim_empty(&missing).expect("a missing one is made");
        claim_empty(&missing).expect("an empty one is taken");
        fs::write(missing.join("x"), b"1").expect("write");
        assert_eq!(claim_empty(&missing).expect_err("refused").exit_status(), 2);
        assert_eq!(claim_empty(&missing.join("x")).expect_err("refused").exit_status(), 2);
        assert!(allocated_bytes(&missing).expect("sized") >= 512);
    }

    #[test]
    fn what_was_made_for_a_look_goes_again_and_nothing_else() {
        let there = tempfile::tempdir().expect("a directory");
        let deep = there.path().join("a/b/c");
        drop(make(&deep).expect("made"));
        assert!(there.path().exists() && !there.path().join("a").exists());
        let made = make(&deep).expect("made");
        fs::write(there.path().join("a/file"), "x").expect("written");
        drop(made);
        assert!(there.path().join("a/file").exists() && !there.path().join("a/b").exists());
    }
}
