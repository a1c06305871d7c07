//! What of the format is in a store's files, by name.
//!
//! Invariant: whoever adds a kind of record, chunk or field adds it here, to `EVERYTHING`, and to a golden
//! store of the next version.

use std::collections::BTreeSet;

use hotrestart::format::manifest::{BuffersPlace, LifeState, MANIFEST_NAMES};
use hotrestart::format::{
    BlockKind, ChunkHeader, ChunkWalk, Directory, Manifest, RecordKind, Records, Walked,
};

use crate::pack::Files;

/// All of version 1 that can be in a directory, in order.
pub const EVERYTHING: [&str; 41] = [
    "block Directory",
    "block Records",
    "buffers file",
    "chunk Changes",
    "chunk Survivors",
    "chunk of several writers",
    "copied Absence",
    "copied Clear",
    "copied Entry",
    "copied Head",
    "copied Part",
    "copied expiry",
    "line Absence",
    "line Clear",
    "line Entry",
    "line Head",
    "line Part",
    "manifest clean",
    "manifest feature compaction",
    "manifest held chunk",
    "manifest life Cut",
    "manifest life Open",
    "manifest life with buffers Directory",
    "manifest life with buffers None",
    "manifest life with buffers SharedMemory",
    "manifest life with freed blocks",
    "manifest map Buffered",
    "manifest map ByHash",
    "manifest map ByOwner",
    "manifest map Synced",
    "manifest map Written",
    "manifest map number never to be given again",
    "manifest not clean",
    "manifest seq start above 1",
    "padding",
    "record Absence",
    "record Clear",
    "record Entry",
    "record Part",
    "record with expiry",
    "void block",
];

/// Where the manifest's incompatible features are.
const FEATURES_AT: usize = 12;

pub fn of_files(files: &Files, found: &mut BTreeSet<String>) {
    for name in MANIFEST_NAMES {
        if let Some(bytes) = files.get(name) {
            of_manifest(bytes, found);
        }
    }
    for (name, bytes) in files {
        if name.starts_with("buffers-") {
            found.insert("buffers file".to_owned());
        }
        if let (true, Ok(header)) = (name.starts_with("chunk-"), ChunkHeader::decode(bytes)) {
            of_chunk(bytes, &header, found);
        }
    }
}

fn of_manifest(bytes: &[u8], found: &mut BTreeSet<String>) {
    let manifest = Manifest::decode(bytes).expect("a valid copy");
    let mut note = |what: String| _ = found.insert(format!("manifest {what}"));
    note(if manifest.closed_cleanly { "clean" } else { "not clean" }.to_owned());
    if bytes[FEATURES_AT] == 2 {
        note("feature compaction".to_owned());
    }
    for map in &manifest.maps {
        note(format!("map {:?}", map.durability));
        note(format!("map {:?}", map.placement));
    }
    if manifest.next_map.0 as usize > manifest.maps.len() + 1 {
        note("map number never to be given again".to_owned());
    }
    if manifest.seq_start > 1 {
        note("seq start above 1".to_owned());
    }
    for life in &manifest.lives {
        note(match life.state {
            LifeState::Open => "life Open".to_owned(),
            LifeState::Cut => "life Cut".to_owned(),
        });
        note(match life.buffers {
            BuffersPlace::None => "life with buffers None".to_owned(),
            BuffersPlace::SharedMemory => "life with buffers SharedMemory".to_owned(),
            BuffersPlace::Directory => "life with buffers Directory".to_owned(),
        });
        if !life.freed.ranges().is_empty() {
            note("life with freed blocks".to_owned());
        }
    }
    if !manifest.held.is_empty() {
        note("held chunk".to_owned());
    }
}

fn of_chunk(bytes: &[u8], chunk: &ChunkHeader, found: &mut BTreeSet<String>) {
    let mut note = |what: String| _ = found.insert(what);
    note(format!("chunk {:?}", chunk.origin));
    if chunk.writer.0 > 0 && format!("{:?}", chunk.origin) == "Changes" {
        note("chunk of several writers".to_owned());
    }
    let is_copy = format!("{:?}", chunk.origin) == "Survivors";
    let mut next = chunk.first_block.0;
    for walked in ChunkWalk::new(bytes, chunk.binding()) {
        let Walked::Block { header, payload, .. } = walked else { continue };
        note(format!("block {:?}", header.kind));
        if header.number.0 != next {
            note("void block".to_owned());
        }
        next = header.number.0 + 1;
        if header.kind == BlockKind::Directory {
            let directory = Directory::decode(payload).expect("a directory");
            let lines = directory.tables().flat_map(|table| table.lines());
            lines.for_each(|line| note(format!("line {:?}", line.kind)));
            continue;
        }
        let mut at = 0;
        for record in Records::new(payload) {
            let record = record.expect("a record");
            if record.offset > at {
                note("padding".to_owned());
            }
            at = record.offset + record.len;
            note(format!("record {:?}", record.kind));
            if is_copy {
                let is_head = record.kind == RecordKind::Entry && record.part.is_some();
                let kind = if is_head { "Head".to_owned() } else { format!("{:?}", record.kind) };
                note(format!("copied {kind}"));
            }
            if record.expiry.is_some() {
                note("record with expiry".to_owned());
                if is_copy {
                    note("copied expiry".to_owned());
                }
            }
        }
        if at < payload.len() {
            note("padding".to_owned());
        }
    }
}
