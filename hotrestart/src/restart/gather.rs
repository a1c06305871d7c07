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
use crate::format::directory::LINE_LEN;
use crate::format::{BlockKind, ChunkOrigin, DirectoryLine, FileNumber, RecordKind, Records};

/// Gathers one chunk.
pub(crate) struct Gather<'a> {
    file: &'a ChunkFile,
    hash: &'a IndexHash,
    sampler: Sampler,
    directory: Option<std::ops::Range<usize>>,
    absences: u32,
    absence_bytes: u32,
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
            absence_bytes: 0,
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
            self.absence_bytes += u32::from(is_fact) * (record.len + LINE_LEN) as u32;
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
            absence_bytes: self.absence_bytes,
            has_runs: self.has_runs,
            places: places_of(header.origin, places, &samples),
            samples,
            forgettable: Forgettable::default(),
            pinned_bytes: 0.0,
            judged_at: None,
            is_charged: true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{
        BlockNumber, ChunkHeader, ChunkId, LifeNumber, MapId, RecordHeader, StoreId, StreamId,
        WriterId,
    };

    #[test]
    fn facts_that_an_opening_finds_count_with_all_that_they_take() {
        let header = ChunkHeader {
            store: StoreId([1; 16]),
            chunk: ChunkId(1 << 32),
            life: LifeNumber(1),
            writer: WriterId(0),
            chunk_size: 256 << 10,
            first_block: BlockNumber(0),
            flushed: BlockNumber(0),
            written: BlockNumber(0),
            live_bytes: 0,
            origin: ChunkOrigin::Changes,
            clock: 0,
        };
        let name = FileNumber(1).file_name();
        let file = ChunkFile { name, header, is_restored: false };
        let (mut payload, mut expected) = (Vec::new(), 0);
        for (seq, key_len) in (1..).zip([16, 2_000, 20_000]) {
            let (map, stream) = (MapId(1), StreamId(0));
            let fact = RecordHeader { seq, ..RecordHeader::absence(map, stream, key_len) };
            let entry = RecordHeader { seq, ..RecordHeader::entry(map, stream, key_len, 0, None) };
            expected += fact.encoded_len() + LINE_LEN;
            for header in [fact, entry] {
                let at = payload.len();
                payload.resize(at + header.encoded_len(), 0);
                header.encode_into(&vec![b'k'; key_len], b"", &mut payload[at..]);
            }
        }
        let (hash, catalogue) = (IndexHash::new(7), Catalogue::default());
        let mut gather = Gather::new(&file, &hash);
        gather.block(4096, BlockKind::Records, &payload);
        gather.finish(1, &catalogue);
        let known = catalogue.take_new();
        assert_eq!(known[0].absences, 3);
        assert_eq!(known[0].absence_bytes as usize, expected);
    }
}
