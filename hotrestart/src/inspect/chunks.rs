//! One chunk file, walked: its header, its blocks, and the gaps between them.
//!
//! Invariant: only places and headers are kept, so that a store of any size can be surveyed; payloads are
//! read again, a chunk at a time, by whoever needs them.

use std::path::Path;

use super::report::ChunkReport;
use crate::format::{
    BlockError, BlockHeader, BlockKind, ChunkHeader, ChunkHeaderError, ChunkWalk, FileNumber,
    Walked,
};

/// What a chunk file holds.
#[derive(Debug)]
pub(super) struct ChunkFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) header: Result<ChunkHeader, ChunkHeaderError>,
    /// Why the header was not valid, when it could be restored.
    damage: Option<ChunkHeaderError>,
    pub(super) blocks: Vec<(u64, BlockHeader)>,
    pub(super) gaps: Vec<(u64, BlockError)>,
}

impl ChunkFile {
    pub(super) fn read(path: &Path, number: FileNumber) -> std::io::Result<ChunkFile> {
        let name = number.file_name();
        let content = std::fs::read(path.join(&name))?;
        let mut chunk = ChunkFile {
            name,
            bytes: content.len() as u64,
            header: ChunkHeader::decode(&content),
            damage: None,
            blocks: Vec::new(),
            gaps: Vec::new(),
        };
        chunk.walk(&content);
        Ok(chunk)
    }

    /// Looks at the chunk as if it had this header, which it had.
    pub(super) fn restore(&mut self, header: ChunkHeader, content: &[u8]) {
        self.damage = std::mem::replace(&mut self.header, Ok(header)).err();
        self.walk(content);
    }

    fn walk(&mut self, content: &[u8]) {
        let Ok(header) = &self.header else { return };
        for walked in ChunkWalk::new(content, header.binding()) {
            match walked {
                Walked::Block { offset, header, .. } => self.blocks.push((offset as u64, header)),
                Walked::Gap { offset, error, .. } => self.gaps.push((offset as u64, error)),
            }
        }
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.blocks.iter().any(|(_, block)| block.kind == BlockKind::Directory)
    }

    /// The first gap behind the last block whose number is below `number`.
    pub(super) fn gap_before(&self, number: u64) -> Option<&(u64, BlockError)> {
        let below = self.blocks.iter().rfind(|(_, block)| block.number.0 < number);
        let from = below.map_or(0, |(offset, _)| *offset);
        self.gaps.iter().find(|(offset, _)| *offset > from)
    }

    /// The chunk's line, with the bytes of its live and superseded records.
    pub(super) fn report(&self, (live, garbage): (u64, u64)) -> ChunkReport {
        let identity = |header: &ChunkHeader| (header.chunk.0, header.life.0, header.writer.0);
        let blocks = self.blocks.first().zip(self.blocks.last());
        let records = self.blocks.iter().filter(|(_, block)| block.kind == BlockKind::Records);
        ChunkReport {
            file: self.name.clone(),
            bytes: self.bytes,
            identity: self.header.as_ref().ok().map(identity),
            error: self.header.as_ref().err().or(self.damage.as_ref()).map(ToString::to_string),
            blocks: blocks.map(|(first, last)| (first.1.number.0, last.1.number.0)),
            records: records.map(|(_, block)| u64::from(block.records)).sum(),
            is_sealed: self.is_sealed(),
            live_bytes: live,
            garbage_bytes: garbage,
        }
    }
}
