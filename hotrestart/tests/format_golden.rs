//! Golden bytes of every format on disk, written out by hand from `docs/format.md`: a change of the code
//! that changes a byte on disk fails here. Checksums are computed by a bitwise CRC-32C of this file's
//! own.

use hotrestart::format::block::{self, BLOCK_HEADER_LEN};
use hotrestart::format::chunk::CHUNK_HEADER_LEN;
use hotrestart::format::crc::crc32c;
use hotrestart::format::directory::{DirectoryLine, LineKind};
use hotrestart::format::manifest::{
    BuffersPlace, DurabilityCode, HeldChunk, Life, LifeState, MapRecord, StreamRecord,
};
use hotrestart::format::record::{PartOf, body_crc, patch_seq, write_padding};
use hotrestart::format::{
    Binding, BlockHeader, BlockKind, BlockNumber, BootId, ChunkHeader, ChunkId, ChunkOrigin,
    Directory, DirectoryBuilder, FileNumber, FreedBlocks, FreedRange, HoldId, LifeNumber, Manifest,
    MapId, RecordHeader, Records, StoreId, StreamId, WriterId,
};
use hotrestart::hdstore::Placement;

fn crc(start: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!start, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("hex digits are ASCII");
        u8::from_str_radix(text, 16).expect("they are hex digits")
    };
    digits.chunks(2).map(byte).collect()
}

const STORE: StoreId = StoreId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

#[test]
fn the_checksum_is_castagnoli() {
    assert_eq!(crc(0, b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn a_chunk_header() {
    let header = ChunkHeader {
        store: STORE,
        chunk: ChunkId(0x1122),
        life: LifeNumber(3),
        writer: WriterId(4),
        chunk_size: 8 << 20,
        first_block: BlockNumber(5),
        flushed: BlockNumber(6),
        written: BlockNumber(7),
        live_bytes: 0x0102_0304_0506,
        origin: ChunkOrigin::Survivors,
        clock: 0x0908,
    };
    let mut expected = hex("4844434855 4e4b31 01000000 00000000 000102030405060708090a0b0c0d0e0f
        2211000000000000 0300000000000000 04000000 01000000 0000800000000000
        0500000000000000 0600000000000000 0700000000000000 0605040302010000");
    expected.resize(168, 0);
    expected.extend(hex("0809000000000000"));
    expected.resize(4092, 0);
    expected.extend(crc(0, &expected).to_le_bytes());
    let mut encoded = vec![0xee; CHUNK_HEADER_LEN];
    header.encode_into(&mut encoded);
    assert_eq!(encoded, expected);
    assert_eq!(ChunkHeader::decode(&expected), Ok(header));
}

#[test]
fn a_block_and_its_binding() {
    let binding = Binding::of(STORE, ChunkId(0x1122), LifeNumber(3));
    let bound = hex("000102030405060708090a0b0c0d0e0f 2211000000000000 0300000000000000");
    let header = BlockHeader {
        number: BlockNumber(0x0807),
        flushed: BlockNumber(2),
        written: BlockNumber(3),
        payload_len: 5,
        records: 1,
        live_mib: 0x0a0b,
        kind: BlockKind::Directory,
    };
    let body = hex("0708000000000000 0200000000000000 0300000000000000 05000000 01000000
        0b0a0000 02 000000 00000000000000000000000000000000 6162636465");
    let mut expected = b"HDBK".to_vec();
    expected.extend(crc(crc(0, &bound), &body).to_le_bytes());
    expected.extend(body);
    expected.resize(4096, 0);
    let mut encoded = vec![0xee; 8192];
    encoded[BLOCK_HEADER_LEN..BLOCK_HEADER_LEN + 5].copy_from_slice(b"abcde");
    assert_eq!(block::seal(&mut encoded, &header, binding), 4096);
    assert_eq!(&encoded[..4096], expected);
    assert_eq!(block::check(&expected, binding), Ok(header));
}

#[test]
fn an_entry_an_absence_a_part_a_clear_and_padding() {
    let mut expected = hex("11 060504030201");
    expected.extend(crc(0, &hex("6b657976616c756500e40b5402000000")).to_le_bytes());
    expected.extend(hex("ac02 05 03 05 00e40b5402000000 6b6579 76616c7565"));
    let mut header = RecordHeader::entry(MapId(300), StreamId(5), 3, 5, Some(10_000_000_000));
    header.body_crc = body_crc(b"key", b"value", header.expiry);
    let mut encoded = vec![0; header.encoded_len()];
    assert_eq!(header.encode_into(b"key", b"value", &mut encoded), expected.len());
    patch_seq(&mut encoded, 0x0102_0304_0506);
    assert_eq!(encoded, expected);

    let absence = RecordHeader::absence(MapId(1), StreamId(128), 3);
    let absence = RecordHeader { seq: 7, body_crc: crc(0, b"key"), ..absence };
    let mut second = hex("02 070000000000");
    second.extend(crc(0, b"key").to_le_bytes());
    second.extend(hex("01 8001 03 6b6579"));
    let mut encoded = vec![0; absence.encoded_len()];
    absence.encode_into(b"key", b"", &mut encoded);
    assert_eq!(encoded, second);

    let part = PartOf { run: 9, number: 2 };
    let part = RecordHeader::part(MapId(1), StreamId(2), part, b"value");
    let mut third = hex("23 000000000000");
    third.extend(crc(0, b"value").to_le_bytes());
    third.extend(hex("01 02 05 0900000000000000 02000000 76616c7565"));
    let mut encoded = vec![0; part.encoded_len()];
    part.encode_into(b"", b"value", &mut encoded);
    assert_eq!(encoded, third);

    let clear = RecordHeader { seq: 8, ..RecordHeader::clear(MapId(300), StreamId(2)) };
    let fourth = hex("06 080000000000 00000000 ac02 02");
    let mut encoded = vec![0; clear.encoded_len()];
    clear.encode_into(b"", b"", &mut encoded);
    assert_eq!(encoded, fourth);

    let mut padding = [0xee; 10];
    write_padding(&mut padding);
    assert_eq!(padding.to_vec(), hex("04000000 0a000000 0000"));
    let mut short = [0xee; 7];
    write_padding(&mut short);
    assert_eq!(short, [0; 7]);

    let payload = [&expected[..], &padding, &second, &fourth, &short, &third].concat();
    let records: Vec<_> =
        Records::new(&payload).map(|record| record.expect("it is valid")).collect();
    assert_eq!(records.len(), 4);
    assert_eq!(records[2].header(), clear);
    assert_eq!((records[0].seq, records[0].expiry), (0x0102_0304_0506, Some(10_000_000_000)));
    assert_eq!((records[1].key, records[1].stream), (&b"key"[..], StreamId(128)));
    assert_eq!((records[3].value, records[3].offset), (&b"value"[..], payload.len() - third.len()));
    assert!(records.iter().all(|record| record.computed_crc() == Some(record.body_crc)));
}

#[test]
fn the_budgeted_record_header_of_16_bytes() {
    let header = RecordHeader::entry(MapId(1), StreamId(270 / 4), 8, 239, None);
    assert_eq!(header.header_len(), 16);
    assert_eq!(header.encoded_len(), 16 + 8 + 239);
}

#[test]
fn a_directory() {
    let line = |seq, hash, offset, kind| DirectoryLine {
        seq,
        hash,
        offset,
        kind,
        body_crc: 0x0a00_0000 | seq as u32,
    };
    let mut builder = DirectoryBuilder::new();
    builder.add(MapId(1), StreamId(2), &line(7, 0xffff_0102_0304_0506, 4160, LineKind::Entry), 10);
    builder.add(MapId(3), StreamId(4), &line(8, 1, 4200, LineKind::Absence), 20);
    builder.add(MapId(1), StreamId(2), &line(9, 2, 4300, LineKind::Head), 30);
    builder.add(MapId(3), StreamId(4), &line(10, 0, 4400, LineKind::Clear), 0);
    let expected = hex("02000000 04000000 3c00000000000000
        01000000 02000000 02000000 00000000
        070000000000 060504030201 40100000 0700000a
        090000000000 020000000000 cc100030 0900000a
        03000000 04000000 02000000 00000000
        080000000000 010000000000 68100010 0800000a
        0a0000000000 000000000000 30110040 0a00000a");
    let mut encoded = vec![0xee; builder.encoded_len()];
    assert_eq!(builder.encode_into(&mut encoded), expected.len());
    assert_eq!(encoded, expected);
    let directory = Directory::decode(&expected).expect("it is valid");
    let tables: Vec<_> = directory.tables().collect();
    assert_eq!((tables.len(), tables[1].map, directory.bytes), (2, MapId(3), 60));
    let lines = [line(8, 1, 4200, LineKind::Absence), line(10, 0, 4400, LineKind::Clear)];
    assert_eq!(tables[1].lines().collect::<Vec<_>>(), lines);
}

#[test]
fn a_manifest() {
    let manifest = Manifest {
        generation: 2,
        store: STORE,
        chunk_size: 1 << 20,
        streams: 3,
        closed_cleanly: true,
        hash_seed: 4,
        life: LifeNumber(5),
        latest_time_ms: 6,
        memory_bytes: 7,
        next_map: MapId(8),
        next_file: FileNumber(9),
        next_chunk: ChunkId(10),
        seq_start: 11,
        seq_limit: 0x0c0d,
        lives: vec![Life {
            number: LifeNumber(5),
            boot: BootId([0xbb; 16]),
            state: LifeState::Cut,
            buffers: BuffersPlace::Directory,
            valid_blocks: vec![11, 12],
            freed: FreedBlocks::from_ranges(vec![FreedRange { writer: 1, first: 2, end: 3 }])
                .expect("in order"),
        }],
        maps: vec![MapRecord {
            id: MapId(1),
            name: "map".to_owned(),
            key_type: "k".to_owned(),
            value_type: String::new(),
            durability: DurabilityCode::Synced,
            placement: Placement::ByOwner,
        }],
        stream_records: vec![StreamRecord {
            stream: StreamId(1),
            epoch: 2,
            first_seq: 3,
            floor: 4,
        }],
        held: vec![HeldChunk { chunk: ChunkId(1), holder: HoldId(2) }],
    };
    let mut expected = hex("48444d414e494631 01000000 02000000 0200000000000000 fc00000000000000
        00000000 00000000 000102030405060708090a0b0c0d0e0f 0000100000000000 03000000 01000000
        0400000000000000 0500000000000000 0600000000000000 0700000000000000
        08000000 09000000 0a00000000000000 0b00000000000000 0d0c000000000000
        01000000 01000000 01000000 01000000
        0500000000000000 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb 02 02 0000 02000000
        0b00000000000000 0c00000000000000
        0100000000000000 0100000000000000 0200000000000000 0300000000000000
        01000000 01000000 0300 0100 0000 03 00 6d6170 6b
        01000000 00000000 0200000000000000 0300000000000000 0400000000000000
        0100000000000000 0200000000000000");
    let len = expected.len() as u64;
    expected[24..32].copy_from_slice(&len.to_le_bytes());
    let checksum = crc(0, &expected);
    expected[32..36].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(manifest.encode(), expected);
    assert_eq!(Manifest::decode(&expected), Ok(manifest.clone()));
    assert_eq!(manifest.file_name(), "manifest.0");
}
