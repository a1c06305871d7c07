//! The result of an inspection, as data: what the tables show and what `--json` writes.
//!
//! Invariant: `is_sound` is false exactly when there is a problem; notes never make a store unsound.

use std::collections::BTreeMap;

use serde::Serialize;

use super::records::Ledger;
use super::survey::Survey;
use crate::format::Manifest;
use crate::format::manifest::{BuffersPlace, Life, LifeState};

/// Something that no crash leaves behind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// The file's name; empty when a whole file is missing.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this structure.
    pub schema_version: u32,
    /// The directory.
    pub directory: String,
    /// The store's identity; empty when no manifest is valid.
    pub store: String,
    /// Whether nothing is wrong.
    pub is_sound: bool,
    /// Whether the newest valid manifest says that the store was closed cleanly.
    pub closed_cleanly: bool,
    /// What is wrong, and where.
    pub problems: Vec<Problem>,
    /// What a crash has left, and other things worth knowing.
    pub notes: Vec<String>,
    /// The copies of the manifest.
    pub manifests: Vec<ManifestReport>,
    /// The lives that the manifest lists.
    pub lives: Vec<LifeReport>,
    /// The maps that the manifest lists.
    pub maps: Vec<MapReport>,
    /// The holds that the manifest lists.
    pub holds: Vec<HoldReport>,
    /// The chunk files.
    pub chunks: Vec<ChunkReport>,
    /// Sums over everything that counts.
    pub totals: Totals,
}

/// One copy of the manifest.
#[derive(Clone, Debug, Serialize)]
pub struct ManifestReport {
    /// The file's name.
    pub file: String,
    /// The generation, if the copy is valid.
    pub generation: Option<u64>,
    /// Whether it is the one that counts.
    pub is_current: bool,
    /// Why it is not valid.
    pub error: Option<String>,
}

/// A set of chunks that stay as they are until it is released.
#[derive(Clone, Debug, Serialize)]
pub struct HoldReport {
    /// Its identity.
    pub id: u64,
    /// The chunks in it.
    pub chunks: Vec<u64>,
}

/// One life.
#[derive(Clone, Debug, Serialize)]
pub struct LifeReport {
    /// Its number.
    pub number: u64,
    /// `open` or `cut`.
    pub state: &'static str,
    /// The boot in which it ran.
    pub boot: String,
    /// Where its log buffers were: `none`, `shared memory` or `directory`.
    pub buffers: &'static str,
    /// Its writers.
    pub writers: Vec<WriterReport>,
}

/// One writer of a life.
#[derive(Clone, Debug, Serialize)]
pub struct WriterReport {
    /// Its number.
    pub writer: u32,
    /// Blocks from 0 that count.
    pub valid_blocks: u64,
    /// Blocks below this number are known flushed.
    pub known_flushed: u64,
    /// Blocks after the valid ones, which count for nothing.
    pub void_blocks: u64,
}

/// One map.
#[derive(Clone, Debug, Serialize)]
pub struct MapReport {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The codec of its keys.
    pub key_type: String,
    /// The codec of its values.
    pub value_type: String,
    /// Keys that have a value.
    pub entries: u64,
}

/// One chunk file.
#[derive(Clone, Debug, Serialize)]
pub struct ChunkReport {
    /// The file's name.
    pub file: String,
    /// Its length, in bytes.
    pub bytes: u64,
    /// The chunk's id, life and writer, if its header is valid.
    pub identity: Option<(u64, u64, u32)>,
    /// Why there is none.
    pub error: Option<String>,
    /// Numbers of the first and the last valid block.
    pub blocks: Option<(u64, u64)>,
    /// Records in its blocks, by their headers.
    pub records: u64,
    /// Whether it ends with a directory.
    pub is_sealed: bool,
    /// Bytes of records that are still needed.
    pub live_bytes: u64,
    /// Bytes of records that are superseded.
    pub garbage_bytes: u64,
}

/// Sums over everything that counts: valid blocks, and log buffers of a dead process.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Totals {
    /// Blocks.
    pub blocks: u64,
    /// Records, parts included.
    pub records: u64,
    /// Records of these that only log buffers hold.
    pub buffered_records: u64,
    /// Records of these that say again, with the same stamp, what one that is needed says.
    pub copies: u64,
    /// Keys that have a value.
    pub entries: u64,
    /// Keys whose newest record says that they are gone.
    pub absences: u64,
    /// Parts of maps in a stream that were cleared; what is older there counts as superseded.
    pub clears: u64,
    /// Records of maps that were dropped.
    pub dropped_records: u64,
    /// Bytes of keys and values of the entries.
    pub entry_bytes: u64,
    /// Bytes of the records that are still needed.
    pub live_bytes: u64,
    /// Bytes of the records that are superseded.
    pub garbage_bytes: u64,
}

pub(super) fn of_survey(survey: &Survey, ledger: &Ledger) -> Report {
    let manifest = survey.manifest.as_ref();
    let lives = manifest.map_or(&[][..], |manifest| &manifest.lives);
    let maps = manifest.map_or(&[][..], |manifest| &manifest.maps);
    Report {
        schema_version: 1,
        directory: survey.path.display().to_string(),
        store: manifest.map_or_else(String::new, |manifest| manifest.store.to_string()),
        is_sound: survey.problems.is_empty(),
        closed_cleanly: survey.is_clean(),
        problems: survey.problems.clone(),
        notes: survey.notes.clone(),
        manifests: survey.copies.clone(),
        lives: lives.iter().map(|life| life_report(survey, life)).collect(),
        maps: maps
            .iter()
            .map(|map| MapReport {
                id: map.id.0,
                name: map.name.clone(),
                key_type: map.key_type.clone(),
                value_type: map.value_type.clone(),
                entries: ledger.entries_of(map.id),
            })
            .collect(),
        holds: manifest.map_or_else(Vec::new, hold_reports),
        chunks: survey
            .chunks
            .iter()
            .enumerate()
            .map(|(index, chunk)| chunk.report(ledger.bytes_of(index)))
            .collect(),
        totals: ledger.totals(),
    }
}

fn hold_reports(manifest: &Manifest) -> Vec<HoldReport> {
    let mut holds: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for held in &manifest.held {
        holds.entry(held.holder.0).or_default().push(held.chunk.0);
    }
    holds.into_iter().map(|(id, chunks)| HoldReport { id, chunks }).collect()
}

/// A number with its noun: `1 block`, `2 blocks`.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn life_report(survey: &Survey, life: &Life) -> LifeReport {
    let extents = survey.extents.iter().filter(|((number, _), _)| *number == life.number);
    LifeReport {
        number: life.number.0,
        state: match life.state {
            LifeState::Open => "open",
            LifeState::Cut => "cut",
        },
        boot: life.boot.to_string(),
        buffers: match life.buffers {
            BuffersPlace::None => "none",
            BuffersPlace::SharedMemory => "shared memory",
            BuffersPlace::Directory => "directory",
        },
        writers: extents
            .map(|((_, writer), extent)| WriterReport {
                writer: writer.0,
                valid_blocks: extent.valid,
                known_flushed: extent.known_flushed,
                void_blocks: extent.void_blocks,
            })
            .collect(),
    }
}
