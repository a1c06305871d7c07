//! `hotrestart-inspect` finds every flipped bit that matters, names file and offset, and does not call
//! the torn tail of a crash corruption. The stores are built here by the format's own encoders.

use std::path::Path;
use std::process::{Command, Output};

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
use hotrestart::inspect::{InspectError, Options, Report, check, list_text};
use tempfile::TempDir;

const STORE: StoreId = StoreId([7; 16]);
const CHUNK_SIZE: usize = 256 << 10;

/// Writes one chunk, block by block, as a writer does.
struct ChunkWriter {
    bytes: Vec<u8>,
    header: ChunkHeader,
    end: usize,
    next: u64,
    flushed: u64,
    directory: DirectoryBuilder,
}

impl ChunkWriter {
    fn new(chunk: u64, life: u64, writer: u32, first_block: u64) -> ChunkWriter {
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

    fn block(&mut self, records: &[(RecordHeader, &[u8], &[u8])]) {
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
            self.directory.add(header.map, header.stream, line, key.len() + value.len());
            at += header.encode_into(key, value, &mut self.bytes[at..]);
        }
        self.seal(BlockKind::Records, at - self.end - BLOCK_HEADER_LEN, records.len());
    }

    fn seal(&mut self, kind: BlockKind, payload_len: usize, records: usize) {
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

    fn close(mut self) -> Vec<u8> {
        let len = self.directory.encode_into(&mut self.bytes[self.end + BLOCK_HEADER_LEN..]);
        self.seal(BlockKind::Directory, len, 0);
        self.bytes
    }
}

fn entry<'a>(seq: u64, key: &'a str, value: &'a [u8]) -> (RecordHeader, &'a [u8], &'a [u8]) {
    let header = RecordHeader::entry(MapId(1), StreamId(0), key.len(), value.len(), None);
    let body_crc = body_crc(key.as_bytes(), value, None);
    (RecordHeader { seq, body_crc, ..header }, key.as_bytes(), value)
}

fn absence(seq: u64, key: &str) -> (RecordHeader, &[u8], &[u8]) {
    let header = RecordHeader::absence(MapId(1), StreamId(0), key.len());
    (
        RecordHeader { seq, body_crc: body_crc(key.as_bytes(), b"", None), ..header },
        key.as_bytes(),
        b"",
    )
}

fn part(number: u32, value: &[u8]) -> (RecordHeader, &[u8], &[u8]) {
    (RecordHeader::part(MapId(1), StreamId(0), PartOf { run: 5, number }, value), b"", value)
}

fn head<'a>(
    seq: u64,
    key: &'a str,
    value: &[u8],
    parts: u32,
) -> (RecordHeader, &'a [u8], &'a [u8]) {
    let header = RecordHeader::entry(MapId(1), StreamId(0), key.len(), value.len(), Some(77));
    let part = Some(PartOf { run: 5, number: parts });
    let body_crc = body_crc(key.as_bytes(), value, Some(77));
    (RecordHeader { seq, body_crc, part, ..header }, key.as_bytes(), b"")
}

fn manifest(
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

fn write_manifest(dir: &Path, manifest: &Manifest) {
    std::fs::write(dir.join(manifest.file_name()), manifest.encode())
        .expect("the directory can be written");
}

/// Two writers, a sealed and an open chunk, overwrites, an absence and a value in parts; closed cleanly.
fn clean_store() -> TempDir {
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

/// One writer with four blocks of one record each, not closed; the last block says that two are flushed.
fn crashed_store() -> TempDir {
    let dir = TempDir::new().expect("a directory for the test");
    let mut chunk = ChunkWriter::new(1, 1, 0, 0);
    for (number, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
        chunk.flushed = number.min(2) as u64;
        chunk.block(&[entry(number as u64 + 1, key, b"value")]);
    }
    std::fs::write(dir.path().join("chunk-00000000"), chunk.bytes).expect("it can be written");
    write_manifest(dir.path(), &manifest(1, LifeState::Open, vec![0], false));
    dir
}

fn flip(dir: &Path, file: &str, offset: usize) {
    let path = dir.join(file);
    let mut bytes = std::fs::read(&path).expect("the file is there");
    bytes[offset] ^= 0x10;
    std::fs::write(&path, bytes).expect("the file can be written");
}

/// The boot in which the stores here were left ended with the machine.
fn options() -> Options {
    Options::default()
}

fn checked(dir: &Path) -> Report {
    check(dir, &options()).expect("it is a store")
}

fn inspect(arguments: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotrestart-inspect"));
    command.args(arguments).arg(dir).output().expect("the program was built")
}

#[test]
fn a_clean_store_is_sound_and_counted_rightly() {
    let dir = clean_store();
    let report = checked(dir.path());
    assert!(report.is_sound && report.closed_cleanly, "{:?}", report.problems);
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let totals = report.totals;
    assert_eq!((totals.blocks, totals.records), (5, 9));
    assert_eq!((totals.entries, totals.absences), (4, 1));
    assert_eq!(totals.entry_bytes, (1 + 3) + (1 + 4) + (1 + 5000) + (1 + 23));
    let dead = [entry(1, "a", b"old"), entry(4, "c", b"gone")];
    let garbage: usize = dead.iter().map(|(header, _, _)| header.encoded_len()).sum();
    assert_eq!(totals.garbage_bytes, garbage as u64);
    assert_eq!(report.maps[0].entries, 4);
    assert_eq!(report.chunks[0].blocks, Some((0, 2)));
    assert!(report.chunks[0].is_sealed && !report.chunks[1].is_sealed);
}

#[test]
fn after_a_clean_close_every_damaged_byte_is_found_where_it_is() {
    let whole = clean_store();
    let sizes: Vec<(String, usize, usize)> = [
        // File, and the range of bytes that count.
        ("manifest.0", 0..manifest(2, LifeState::Cut, vec![4, 1], true).encode().len()),
        ("manifest.1", 0..100),
        ("chunk-00000000", 0..4096),
        ("chunk-00000000", 4096..4096 + 64 + 36),
        ("chunk-00000000", 8192..8192 + 64 + 50),
        ("chunk-00000000", 12_288..12_288 + 64 + 100),
        ("chunk-00000001", 4096..4096 + 64 + 5000),
        ("chunk-00000002", 4096..4096 + 64 + 60),
    ]
    .into_iter()
    .map(|(file, range): (&str, std::ops::Range<usize>)| (file.to_owned(), range.start, range.end))
    .collect();
    for (file, start, end) in sizes {
        for offset in (start..end).step_by(1 + (end - start) / 40) {
            flip(whole.path(), &file, offset);
            let report = checked(whole.path());
            assert!(!report.is_sound, "{file} at {offset}");
            let near = |offset: usize| (start as u64..end as u64).contains(&(offset as u64));
            let named = report
                .problems
                .iter()
                .any(|problem| problem.file == file && near(problem.offset as usize));
            assert!(named, "{file} at {offset}: {:?}", report.problems);
            flip(whole.path(), &file, offset);
        }
    }
    assert!(checked(whole.path()).is_sound, "the flips were taken back");
}

#[test]
fn bytes_outside_of_valid_blocks_may_change() {
    let dir = clean_store();
    for (file, offset) in
        [("chunk-00000000", 8191), ("chunk-00000001", 100_000), ("chunk-00000003", 9000)]
    {
        flip(dir.path(), file, offset);
    }
    assert!(checked(dir.path()).is_sound);
}

#[test]
fn a_missing_chunk_is_noticed() {
    let dir = clean_store();
    std::fs::remove_file(dir.path().join("chunk-00000001")).expect("it is there");
    let report = checked(dir.path());
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(report.problems[0].expected.contains("block 0 of writer 1 of life 1"));
}

#[test]
fn a_missing_part_is_noticed() {
    let dir = clean_store();
    let mut third = ChunkWriter::new(3, 1, 0, 3);
    third.block(&[head(6, "e", b"first half, second half", 2)]);
    std::fs::write(dir.path().join("chunk-00000002"), third.bytes).expect("it can be written");
    let report = checked(dir.path());
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(report.problems[0].found.contains("1 part and"), "{:?}", report.problems);
}

#[test]
fn a_record_that_went_bad_before_it_was_sealed_is_noticed() {
    let dir = clean_store();
    let mut second = ChunkWriter::new(2, 1, 1, 0);
    let (header, key, value) = entry(7, "d", b"good");
    second.block(&[(RecordHeader { body_crc: 1, ..header }, key, value), absence(5, "c")]);
    std::fs::write(dir.path().join("chunk-00000001"), second.bytes).expect("it can be written");
    let report = checked(dir.path());
    assert!(report.problems[0].expected.starts_with("body checksum"), "{:?}", report.problems);
    assert_eq!(report.problems[0].offset, 4096 + 64);
}

#[test]
fn a_torn_tail_is_a_note_and_damage_below_the_mark_is_corruption() {
    let dir = crashed_store();
    assert!(checked(dir.path()).is_sound);
    let payload = |block: usize| 4096 + block * 4096 + 70;
    for (block, is_sound) in [(0, false), (1, false), (2, true), (3, true)] {
        flip(dir.path(), "chunk-00000000", payload(block));
        let report = checked(dir.path());
        assert_eq!(report.is_sound, is_sound, "block {block}: {:?}", report.problems);
        if block == 2 {
            let note = report.notes.iter().find(|note| note.contains("torn tail"));
            assert!(note.is_some_and(|note| note.contains("1 block is void")));
            assert_eq!(report.totals.entries, 2);
        }
        if !is_sound {
            assert_eq!(report.problems[0].offset, 4096 + 4096 * block as u64);
        }
        flip(dir.path(), "chunk-00000000", payload(block));
    }
}

#[test]
fn one_damaged_block_is_not_reported_once_per_table() {
    let dir = TempDir::new().expect("a directory for the test");
    let mut chunk = ChunkWriter::new(1, 1, 0, 0);
    for seq in 1..=2 {
        let in_stream = |stream| {
            let (header, key, value) = entry(seq, "a", b"value");
            (RecordHeader { stream: StreamId(stream), ..header }, key, value)
        };
        chunk.block(&[in_stream(0), in_stream(1), in_stream(2), in_stream(3)]);
    }
    std::fs::write(dir.path().join("chunk-00000000"), chunk.close()).expect("it can be written");
    write_manifest(dir.path(), &manifest(1, LifeState::Cut, vec![3], true));
    assert!(checked(dir.path()).is_sound, "before the damage");
    flip(dir.path(), "chunk-00000000", 4096 + 70);
    let problems = checked(dir.path()).problems;
    assert_eq!(problems.len(), 2, "the block, and what the directory says is lost: {problems:?}");
    assert!(problems[1].expected.contains("8 records") && problems[1].found.contains('4'));
}

#[test]
fn a_misplaced_block_is_noticed() {
    let dir = crashed_store();
    let path = dir.path().join("chunk-00000000");
    let mut bytes = std::fs::read(&path).expect("it is there");
    bytes.copy_within(4096..8192, 20_480);
    std::fs::write(&path, bytes).expect("it can be written");
    let report = checked(dir.path());
    assert_eq!((report.problems.len(), report.problems[0].offset), (1, 20_480));
}

#[test]
fn the_program_tells_sound_corrupt_and_usage_apart() {
    let dir = clean_store();
    let json = dir.path().join("report");
    let json = json.to_str().expect("the test's paths are UTF-8");
    let output = inspect(&["check", "--json", json], dir.path());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(json).expect("it was written")).expect("it is JSON");
    assert_eq!(report["totals"]["entries"], 4);
    assert_eq!(report["is_sound"], true);

    let listed = String::from_utf8(inspect(&["list"], dir.path()).stdout).expect("it is UTF-8");
    assert!(listed.contains("chunk-00000002") && listed.contains("bench"), "{listed}");
    let dumped = String::from_utf8(inspect(&["dump"], dir.path()).stdout).expect("it is UTF-8");
    assert_eq!(dumped.lines().count(), 9, "{dumped}");
    assert!(dumped.contains("absence map 1 stream 0 seq 5 key \"c\""), "{dumped}");
    assert!(dumped.contains("... (5000 bytes)"), "{dumped}");
    let full = inspect(&["dump", "--full"], dir.path()).stdout;
    assert!(full.len() > 5000 * 2, "{}", full.len());

    flip(dir.path(), "chunk-00000000", 4170);
    let corrupt = inspect(&["check"], dir.path());
    assert_eq!(corrupt.status.code(), Some(1));
    let text = String::from_utf8(corrupt.stdout).expect("it is UTF-8");
    assert!(text.contains("corrupt: chunk-00000000 at 4096"), "{text}");

    assert_eq!(inspect(&["check", "--no-such-flag"], dir.path()).status.code(), Some(2));
    let empty = TempDir::new().expect("a directory for the test");
    let output = inspect(&["check"], empty.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a store"));
    assert_eq!(inspect(&["list"], &empty.path().join("missing")).status.code(), Some(2));
}

#[test]
fn nothing_in_the_store_is_written() {
    let dir = clean_store();
    let state = || {
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .expect("it can be read")
            .map(|entry| {
                let entry = entry.expect("it can be read");
                let metadata = entry.metadata().expect("it can be read");
                (entry.file_name(), metadata.len(), metadata.modified().expect("Linux knows"))
            })
            .collect();
        files.sort();
        files
    };
    let before = state();
    for command in ["check", "list", "dump"] {
        assert_eq!(inspect(&[command], dir.path()).status.code(), Some(0));
    }
    assert_eq!(state(), before);
}

#[test]
fn a_newer_store_is_refused_and_a_lost_manifest_is_corruption() {
    let dir = clean_store();
    let mut newer = manifest(4, LifeState::Cut, vec![4, 1], true).encode();
    newer[8] = 2;
    newer[32..36].fill(0);
    let crc = crc32c::crc32c(&newer);
    newer[32..36].copy_from_slice(&crc.to_le_bytes());
    let path = dir.path().join("manifest.0");
    std::fs::write(&path, newer).expect("it can be written");
    let refused = check(dir.path(), &options()).expect_err("version 2 is not known");
    assert!(
        matches!(&refused, InspectError::Refused { reason, .. } if reason.contains("version 2"))
    );

    std::fs::remove_file(path).expect("it is there");
    std::fs::remove_file(dir.path().join("manifest.1")).expect("it is there");
    let report = checked(dir.path());
    assert!(!report.is_sound);
    assert!(list_text(&report).contains("expected a manifest"));
}
