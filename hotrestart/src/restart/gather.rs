//! What compaction must know of a chunk that was loaded: gathered while it is in memory.
//!
//! Invariant: only a chunk that was found whole goes to the catalogue; one with damage that was passed over
//! stays as it is, to be looked at. Callers: the fold and the judging of tails. Cost: the headers of a
//! chunk's records are read once more, some 2 % of loading them.

use hdstore::IndexHash;

use super::plan::ChunkFile;
use crate::chunks::catalogue::{Catalogue, Chunk, Forgettable};
use crate::chunks::sample::{Sampler, of_line, places_of};
use crate::format::block::{BLOCK_HEADER_LEN, sealed_len};
use crate::format::{BlockKind, ChunkOrigin, DirectoryLine, FileNumber, RecordKind, Records};

/// Gathers one chunk.
pub(crate) struct Gather<'a> {
    file: &'a ChunkFile,
    hash: &'a IndexHash,
    sampler: Sampler,
    directory: Option<std::ops::Range<usize>>,
    absences: u32,
    has_runs: bool,
}

impl<'a> Gather<'a> {
    pub(crate) fn new(file: &'a ChunkFile, hash: &'a IndexHash) -> Gather<'a> {
        Gather {
            sampler: Sampler::new(file.header.chunk_size),
            file,
            hash,
            directory: None,
            absences: 0,
            has_runs: false,
        }
    }

    /// Takes in a valid block that counts.
    pub(crate) fn block(&mut self, offset: usize, kind: BlockKind, payload: &[u8]) {
        if kind == BlockKind::Directory {
            self.directory = Some(offset..offset + sealed_len(payload.len()));
            return;
        }
        let base = offset + BLOCK_HEADER_LEN;
        for record in Records::read_ahead(payload).map_while(Result::ok) {
            let is_fact = matches!(record.kind, RecordKind::Absence | RecordKind::Clear);
            self.absences += u32::from(is_fact);
            self.has_runs |= record.part.is_some();
            let at = base + record.offset;
            self.sampler.offer(at, record.len, || {
                let line = DirectoryLine::of(&record, at, |key| self.hash.of(key));
                of_line(record.map, record.stream, &line)
            });
        }
    }

    /// The chunk, whose blocks below `end` count.
    pub(crate) fn finish(mut self, end: u64, catalogue: &Catalogue) {
        let header = &self.file.header;
        let Some(file) = FileNumber::from_file_name(&self.file.name) else { return };
        if header.first_block.0 >= end {
            return;
        }
        let places = self.sampler.places(header.chunk_size, self.directory.as_ref());
        let samples = self.sampler.take();
        catalogue.add(Chunk {
            id: header.chunk,
            file,
            life: header.life,
            writer: header.writer.0,
            blocks: header.first_block.0..end,
            directory: self.directory,
            youngest: match header.origin {
                ChunkOrigin::Changes => header.clock + header.chunk_size,
                ChunkOrigin::Survivors => header.clock,
            },
            absences: self.absences,
            has_runs: self.has_runs,
            places: places_of(header.origin, places, &samples),
            samples,
            forgettable: Forgettable::default(),
            judged_at: None,
            is_charged: true,
        });
    }
}
