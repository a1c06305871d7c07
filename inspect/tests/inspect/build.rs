//! Stores built by the format's own encoders, so that they can hold what no healthy store does.

use std::path::Path;

use hotrestart::format::block::{self, BLOCK_HEADER_LEN};
use hotrestart::format::chunk::CHUNK_HEADER_LEN;
use hotrestart::format::directory::{DirectoryLine, LineKind};
use hotrestart::format::manifest::{BuffersPlace, DurabilityCode, Life, LifeState, MapRecord};
use hotrestart::format::record::{PartOf, body_crc};
use hotrestart::format::{
    BlockHeader, BlockKind, BlockNumber, BootId, ChunkHeader, ChunkId, ChunkOrigin,
    DirectoryBuilder, FileNumber, FreedBlocks, LifeNumber, Manifest, MapId, RecordHeader,
    RecordKind, StoreId, StreamId, WriterId,
};
use hotrestart::hdstore::Placement;
use tempfile::TempDir;

pub const STORE: StoreId = StoreId([7; 16]);
pub const CHUNK_SIZE: usize = 256 << 10;

/// A record with its key and value.
pub type Record<'a> = (RecordHeader, &'a [u8], &'a [u8]);

/// Writes one chunk, block by block, as a writer does.
pub struct ChunkWriter {
    pub bytes: Vec<u8>,
    header: ChunkHeader,
    end: usize,
    next: u64,
    pub flushed: u64,
    directory: DirectoryBuilder,
}

impl ChunkWriter {
    pub fn new(chunk: u64, life: u64, writer: u32, first_block: u64) -> ChunkWriter {
        let header = ChunkHeader {
            store: STORE,
            chunk: ChunkId(chunk),
            life: LifeNumber(life),
            writer: WriterId(writer),
            chunk_size: CHUNK_SIZE as u64,
            first_block: BlockNumber(first_block),
            flushed: BlockNumber(0),
            written: BlockNumber(0),
            live_bytes: 0,
            origin: ChunkOrigin::Changes,
            clock: 0,
        };
        let mut bytes = vec![0; CHUNK_SIZE];
        header.encode_into(&mut bytes);
        let (end, directory) = (CHUNK_HEADER_LEN, DirectoryBuilder::new());
        ChunkWriter { bytes, header, end, next: first_block, flushed: 0, directory }
    }

    pub fn block(&mut self, records: &[Record<'_>]) {
        let mut at = self.end + BLOCK_HEADER_LEN;
        for (header, key, value) in records {
            let line = DirectoryLine {
                seq: header.seq,
                hash: header
                    .part
                    .filter(|_| header.kind == RecordKind::Part)
                    .map_or(99, |part| part.run),
                offset: at as u32,
                kind: LineKind::of(header.kind, header.part.is_some()),
                body_crc: header.body_crc,
            };
            self.directory.add(header.map, header.stream, &line, key.len() + value.len());
            at += header.encode_into(key, value, &mut self.bytes[at..]);
        }
        self.seal(BlockKind::Records, at - self.end - BLOCK_HEADER_LEN, records.len());
    }

    pub fn seal(&mut self, kind: BlockKind, payload_len: usize, records: usize) {
        let header = BlockHeader {
            number: BlockNumber(self.next),
            flushed: BlockNumber(self.flushed),
            written: BlockNumber(self.flushed),
            payload_len: payload_len as u32,
            records: records as u32,
            live_mib: 1,
            kind,
        };
        self.end += block::seal(&mut self.bytes[self.end..], &header, self.header.binding());
        self.next += 1;
    }

    pub fn close(mut self) -> Vec<u8> {
        let len = self.directory.encode_into(&mut self.bytes[self.end + BLOCK_HEADER_LEN..]);
        self.seal(BlockKind::Directory, len, 0);
        self.bytes
    }
}

pub fn entry<'a>(seq: u64, key: &'a str, value: &'a [u8]) -> Record<'a> {
    let header = RecordHeader::entry(MapId(1), StreamId(0), key.len(), value.len(), None);
    let body_crc = body_crc(key.as_bytes(), value, None);
    (RecordHeader { seq, body_crc, ..header }, key.as_bytes(), value)
}

pub fn absence(seq: u64, key: &str) -> Record<'_> {
    let header = RecordHeader::absence(MapId(1), StreamId(0), key.len());
    (
        RecordHeader { seq, body_crc: body_crc(key.as_bytes(), b"", None), ..header },
        key.as_bytes(),
        b"",
    )
}

pub fn part(number: u32, value: &[u8]) -> Record<'_> {
    (RecordHeader::part(MapId(1), StreamId(0), PartOf { run: 5, number }, value), b"", value)
}

pub fn head<'a>(seq: u64, key: &'a str, value: &[u8], parts: u32) -> Record<'a> {
    let header = RecordHeader::entry(MapId(1), StreamId(0), key.len(), value.len(), Some(77));
    let part = Some(PartOf { run: 5, number: parts });
    let body_crc = body_crc(key.as_bytes(), value, Some(77));
    (RecordHeader { seq, body_crc, part, ..header }, key.as_bytes(), b"")
}

pub fn manifest(
    generation: u64,
    state: LifeState,
    valid_blocks: Vec<u64>,
    closed_cleanly: bool,
) -> Manifest {
    let life = Life {
        number: LifeNumber(1),
        boot: BootId([1; 16]),
        state,
        buffers: BuffersPlace::SharedMemory,
        valid_blocks,
        freed: FreedBlocks::default(),
    };
    let map = MapRecord {
        id: MapId(1),
        name: "bench".to_owned(),
        key_type: "bytes".to_owned(),
        value_type: "bytes".to_owned(),
        durability: DurabilityCode::Written,
        placement: Placement::ByHash,
    };
    Manifest {
        generation,
        store: STORE,
        chunk_size: CHUNK_SIZE as u64,
        streams: 4,
        closed_cleanly,
        hash_seed: 3,
        life: LifeNumber(1),
        latest_time_ms: 0,
        memory_bytes: 0,
        next_map: MapId(2),
        next_file: FileNumber(9),
        next_chunk: ChunkId(9),
        seq_start: 1,
        seq_limit: 1 << 20,
        lives: vec![life],
        maps: vec![map],
        stream_records: Vec::new(),
        held: Vec::new(),
    }
}

pub fn write_manifest(dir: &Path, manifest: &Manifest) {
    std::fs::write(dir.join(manifest.file_name()), manifest.encode())
        .expect("the directory can be written");
}

/// Two writers, a sealed and an open chunk, overwrites, an absence and a value in parts; closed cleanly.
pub fn clean_store() -> TempDir {
    let dir = TempDir::new().expect("a directory for the test");
    let mut first = ChunkWriter::new(1, 1, 0, 0);
    first.block(&[entry(1, "a", b"old"), entry(2, "b", b"kept")]);
    first.block(&[entry(3, "a", b"new"), entry(4, "c", b"gone"), part(0, b"first half, ")]);
    let mut second = ChunkWriter::new(2, 1, 1, 0);
    second.flushed = 1;
    second.block(&[absence(5, "c"), entry(7, "d", &[9; 5000])]);
    let mut third = ChunkWriter::new(3, 1, 0, 3);
    third.block(&[part(1, b"second half"), head(6, "e", b"first half, second half", 2)]);
    for (number, bytes) in
        [(0, first.close()), (1, second.bytes), (2, third.bytes), (3, vec![0; CHUNK_SIZE])]
    {
        let path = dir.path().join(FileNumber(number).file_name());
        std::fs::write(path, bytes).expect("the directory can be written");
    }
    write_manifest(dir.path(), &manifest(1, LifeState::Open, vec![0, 0], false));
    write_manifest(dir.path(), &manifest(2, LifeState::Cut, vec![4, 1], true));
    dir
}

/// One writer (and a compactor without work) with four blocks of one record each, not closed; the last block
/// says that two are flushed.
pub fn crashed_store() -> TempDir {
    let dir = TempDir::new().expect("a directory for the test");
    let mut chunk = ChunkWriter::new(1, 1, 0, 0);
    for (number, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
        chunk.flushed = number.min(2) as u64;
        chunk.block(&[entry(number as u64 + 1, key, b"value")]);
    }
    std::fs::write(dir.path().join("chunk-00000000"), chunk.bytes).expect("it can be written");
    write_manifest(dir.path(), &manifest(1, LifeState::Open, vec![0, 0], false));
    dir
}
