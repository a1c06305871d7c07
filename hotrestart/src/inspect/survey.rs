//! The survey of a store: manifests, chunk headers and blocks, and what of them counts.
//!
//! Invariant: problems and notes are found in an order that does not depend on the file system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::buffers::{self, Undecided};
use super::chunks::ChunkFile;
use super::judge::{self, Extent};
use super::report::{ManifestReport, Problem, counted};
use super::{InspectError, Options, torn_headers};
use crate::format::manifest::MANIFEST_NAMES;
use crate::format::{ChunkHeaderError, FileNumber, LifeNumber, Manifest, ManifestError, WriterId};

/// What was found without looking into payloads.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) path: PathBuf,
    pub(super) manifest: Option<Manifest>,
    pub(super) copies: Vec<ManifestReport>,
    pub(super) chunks: Vec<ChunkFile>,
    pub(super) undecided: Option<Undecided>,
    pub(super) extents: BTreeMap<(LifeNumber, WriterId), Extent>,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<String>,
}

impl Survey {
    pub(super) fn of(path: &Path, options: &Options) -> Result<Survey, InspectError> {
        let numbers = chunk_numbers(path)?;
        let mut survey = Survey {
            path: path.to_owned(),
            manifest: None,
            copies: Vec::new(),
            chunks: Vec::new(),
            undecided: None,
            extents: BTreeMap::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        };
        survey.read_manifests()?;
        if survey.copies.is_empty() && numbers.is_empty() {
            return Err(InspectError::NotAStore { path: path.to_owned() });
        }
        for number in numbers {
            match ChunkFile::read(path, number) {
                Ok(chunk) => survey.chunks.push(chunk),
                Err(error) => {
                    let name = number.file_name();
                    survey.problem(&name, 0, "a file that can be read", &error.to_string());
                }
            }
        }
        survey.judge_manifests();
        survey.undecided = buffers::read(&mut survey, options);
        if let Some(manifest) = survey.manifest.clone() {
            torn_headers::judge(&mut survey, &manifest);
        }
        judge::judge(&mut survey);
        Ok(survey)
    }

    pub(super) fn is_clean(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.closed_cleanly)
    }

    pub(super) fn problem(&mut self, file: &str, offset: u64, expected: &str, found: &str) {
        let (file, expected, found) = (file.to_owned(), expected.to_owned(), found.to_owned());
        self.problems.push(Problem { file, offset, expected, found });
    }

    /// A problem after a clean close; after a crash it may be what the crash left.
    pub(super) fn problem_if_clean(
        &mut self,
        file: &str,
        offset: u64,
        expected: &str,
        found: &str,
    ) {
        if self.is_clean() {
            self.problem(file, offset, expected, found);
        } else {
            self.notes.push(format!("{file} at {offset}: expected {expected}, found {found}"));
        }
    }

    fn read_manifests(&mut self) -> Result<(), InspectError> {
        for (index, name) in MANIFEST_NAMES.into_iter().enumerate() {
            let path = self.path.join(name);
            let content = match std::fs::read(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(InspectError::Unreadable { path, error }),
                Ok(content) => content,
            };
            let decoded = Manifest::decode(&content);
            if let Err(error @ (ManifestError::Version { .. } | ManifestError::Features(_))) =
                &decoded
            {
                return Err(InspectError::Refused { path, reason: error.to_string() });
            }
            self.copies.push(ManifestReport {
                file: name.to_owned(),
                generation: decoded.as_ref().ok().map(|manifest| manifest.generation),
                is_current: false,
                error: decoded.as_ref().err().map(ToString::to_string),
            });
            match decoded {
                Ok(manifest) if manifest.generation % 2 != index as u64 => {
                    let found = format!("generation {}", manifest.generation);
                    let expected = "a generation that belongs into this copy";
                    self.problem(name, 16, expected, &found);
                }
                Ok(manifest) => {
                    let known = self.manifest.as_ref().map_or(0, |known| known.generation);
                    if manifest.generation > known {
                        self.manifest = Some(manifest);
                    }
                }
                Err(ManifestError::Empty) => {
                    self.notes.push(format!("{name} is empty: its first writing was interrupted"));
                }
                Err(error) => self.problem(name, 0, "a valid manifest", &error.to_string()),
            }
        }
        Ok(())
    }

    fn judge_manifests(&mut self) {
        let Some(manifest) = self.manifest.clone() else {
            if self.problems.is_empty() {
                self.problem(MANIFEST_NAMES[0], 0, "a manifest", "none that is valid");
            }
            return;
        };
        for copy in &mut self.copies {
            copy.is_current = copy.generation == Some(manifest.generation);
        }
        let other = MANIFEST_NAMES[(manifest.generation as usize + 1) % 2];
        if manifest.generation > 1 && !self.copies.iter().any(|copy| copy.file == other) {
            self.problem(other, 0, "the other copy of the manifest", "no such file");
        }
        self.judge_headers(&manifest);
    }

    fn judge_headers(&mut self, manifest: &Manifest) {
        let chunks = std::mem::take(&mut self.chunks);
        for chunk in &chunks {
            let name = &chunk.name;
            match &chunk.header {
                Ok(header) if header.store != manifest.store => {
                    let (expected, found) = (manifest.store.to_string(), header.store.to_string());
                    self.problem(name, 16, &format!("store {expected}"), &format!("store {found}"));
                }
                Ok(header) if header.chunk_size != manifest.chunk_size => {
                    let (expected, found) = (manifest.chunk_size, header.chunk_size);
                    self.problem(name, 56, &format!("chunk size {expected}"), &found.to_string());
                }
                Ok(header) if header.life > manifest.life => {
                    let expected = format!("a life up to {}", manifest.life);
                    self.problem(name, 40, &expected, &format!("life {}", header.life));
                }
                Ok(header) if manifest.life(header.life).is_none() => {
                    let life = header.life;
                    self.notes.push(format!("{name} is of life {life}, which is over: void"));
                }
                Ok(_) if chunk.bytes != manifest.chunk_size => {
                    let expected = format!("{} bytes", manifest.chunk_size);
                    let found = format!("{} bytes", chunk.bytes);
                    self.problem_if_clean(name, chunk.bytes, &expected, &found);
                }
                Ok(_) => {}
                Err(ChunkHeaderError::TooShort { len }) => {
                    self.notes.push(format!(
                        "{name} has {}: its making was interrupted",
                        counted(*len as u64, "byte", "bytes")
                    ));
                }
                // Judged when it is known which life is undecided (`torn_headers.rs`).
                Err(_) => {}
            }
        }
        self.chunks = chunks;
    }
}

fn chunk_numbers(path: &Path) -> Result<Vec<FileNumber>, InspectError> {
    let unreadable = |error| InspectError::Unreadable { path: path.to_owned(), error };
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        numbers.extend(name.to_str().and_then(FileNumber::from_file_name));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
