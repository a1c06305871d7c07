//! Decoders meet bytes that no encoder wrote: random ones, valid ones with damage, and those of later
//! versions. None may panic, read too far, or accept what was changed.

use hotrestart::format::block::{self, BLOCK_HEADER_LEN, sealed_len};
use hotrestart::format::chunk::CHUNK_HEADER_LEN;
use hotrestart::format::crc::crc32c;
use hotrestart::format::directory::{DirectoryLine, LineKind};
use hotrestart::format::manifest::{
    BuffersPlace, DurabilityCode, Life, LifeState, ManifestError, MapRecord,
};
use hotrestart::format::record::{PartOf, body_crc, write_padding};
use hotrestart::format::{
    Binding, BlockError, BlockHeader, BlockKind, BlockNumber, BootId, ChunkHeader,
    ChunkHeaderError, ChunkId, ChunkOrigin, ChunkWalk, Directory, DirectoryBuilder, FileNumber,
    FreedBlocks, LifeNumber, Manifest, MapId, RecordError, RecordHeader, Records, StoreId,
    StreamId, Walked, WriterId,
};
use hotrestart::hdstore::Placement;
use proptest::collection::vec;
use proptest::prelude::*;

fn binding() -> Binding {
    Binding::of(StoreId([1; 16]), ChunkId(2), LifeNumber(3))
}

fn sealed(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; sealed_len(payload.len())];
    out[BLOCK_HEADER_LEN..BLOCK_HEADER_LEN + payload.len()].copy_from_slice(payload);
    let header = BlockHeader {
        number: BlockNumber(5),
        flushed: BlockNumber(1),
        written: BlockNumber(2),
        payload_len: payload.len() as u32,
        records: 1,
        live_mib: 3,
        kind: BlockKind::Records,
    };
    block::seal(&mut out, &header, binding());
    out
}

fn chunk_header() -> Vec<u8> {
    let header = ChunkHeader {
        store: StoreId([1; 16]),
        chunk: ChunkId(2),
        life: LifeNumber(3),
        writer: WriterId(0),
        chunk_size: 1 << 20,
        first_block: BlockNumber(0),
        flushed: BlockNumber(0),
        written: BlockNumber(0),
        live_bytes: 99,
        origin: ChunkOrigin::Survivors,
        clock: 77,
    };
    let mut out = vec![0; CHUNK_HEADER_LEN];
    header.encode_into(&mut out);
    out
}

fn manifest() -> Manifest {
    let map = |id: u32, name: &str| MapRecord {
        id: MapId(id),
        name: name.to_owned(),
        key_type: "bytes".to_owned(),
        value_type: "utf-8".to_owned(),
        durability: DurabilityCode::Buffered,
        placement: Placement::ByHash,
    };
    Manifest {
        generation: 7,
        store: StoreId([1; 16]),
        chunk_size: 8 << 20,
        streams: 16,
        closed_cleanly: false,
        hash_seed: 1,
        life: LifeNumber(2),
        latest_time_ms: 3,
        memory_bytes: 4,
        next_map: MapId(3),
        next_file: FileNumber(4),
        next_chunk: ChunkId(5),
        seq_start: 6,
        seq_limit: 7,
        lives: vec![Life {
            number: LifeNumber(2),
            boot: BootId([9; 16]),
            state: LifeState::Open,
            buffers: BuffersPlace::SharedMemory,
            valid_blocks: vec![0; 4],
            freed: FreedBlocks::default(),
        }],
        maps: vec![map(1, "first"), map(2, "second")],
        stream_records: Vec::new(),
        held: Vec::new(),
    }
}

const KINDS: [LineKind; 5] =
    [LineKind::Entry, LineKind::Absence, LineKind::Part, LineKind::Head, LineKind::Clear];

/// Flips every bit of `bytes`, one at a time.
fn every_flip(bytes: &[u8], mut check: impl FnMut(&[u8], usize)) {
    let mut damaged = bytes.to_vec();
    for bit in 0..bytes.len() * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        check(&damaged, bit);
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_single_bit_of_a_block_is_protected() {
    let payload: Vec<u8> = (0..700).map(|index| index as u8).collect();
    let block = sealed(&payload);
    let own = BLOCK_HEADER_LEN + payload.len();
    every_flip(&block[..own], |damaged, bit| {
        let whole = [damaged, &block[own..]].concat();
        assert!(block::check(&whole, binding()).is_err(), "bit {bit}");
    });
}

#[test]
fn every_single_bit_of_a_chunk_header_is_protected() {
    every_flip(&chunk_header(), |damaged, bit| {
        assert!(ChunkHeader::decode(damaged).is_err(), "bit {bit}");
    });
}

#[test]
fn every_single_bit_of_a_manifest_is_protected() {
    every_flip(&manifest().encode(), |damaged, bit| {
        assert!(Manifest::decode(damaged).is_err(), "bit {bit}");
    });
}

#[test]
fn every_shortened_manifest_is_refused_and_bytes_after_it_are_not_looked_at() {
    let encoded = manifest().encode();
    for len in 0..encoded.len() {
        assert!(Manifest::decode(&encoded[..len]).is_err(), "{len} bytes");
    }
    let longer = [&encoded[..], &[0xee; 100]].concat();
    assert_eq!(Manifest::decode(&longer), Ok(manifest()));
}

/// Changes bytes of a manifest and makes its checksum right again.
fn resealed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = manifest().encode();
    encoded[at..at + bytes.len()].copy_from_slice(bytes);
    encoded[32..36].fill(0);
    let crc = crc32c(&encoded);
    encoded[32..36].copy_from_slice(&crc.to_le_bytes());
    encoded
}

#[test]
fn a_map_whose_keys_are_placed_in_an_unknown_way_is_refused() {
    let encoded = manifest().encode();
    let at = encoded.windows(5).rposition(|bytes| bytes == b"bytes").expect("a map's key type");
    let name = manifest().maps.last().expect("a map").name.len();
    let class = at - name - 16 + 4;
    assert_eq!(Manifest::decode(&resealed(class, &0_u32.to_le_bytes())), Ok(manifest()));
    let refused = Manifest::decode(&resealed(class, &2_u32.to_le_bytes()));
    let field = "stream class of a map";
    assert_eq!(refused, Err(ManifestError::Field { field, offset: class, found: 2 }));
}

#[test]
fn a_newer_store_is_refused_by_name() {
    let version = Manifest::decode(&resealed(8, &2_u32.to_le_bytes()));
    assert_eq!(version, Err(ManifestError::Version { found: 2 }));
    let features = Manifest::decode(&resealed(12, &9_u32.to_le_bytes())).expect_err("unknown");
    assert!(features.to_string().contains("encryption, group records"), "{features}");

    let mut header = chunk_header();
    header[8] = 7;
    let crc = crc32c(&header[..4092]);
    header[4092..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(ChunkHeader::decode(&header), Err(ChunkHeaderError::Version { found: 7 }));
}

#[test]
fn counts_that_promise_too_much_are_refused() {
    for (at, bytes) in [(136, [0xff; 4]), (140, [0xff; 4]), (144, [1, 0, 0, 0]), (180, [0xff; 4])] {
        assert!(Manifest::decode(&resealed(at, &bytes)).is_err(), "at {at}");
    }
    assert!(Manifest::decode(&resealed(176, &[3])).is_err(), "a state that no life has");
    for (at, bytes) in [(120, [0; 8]), (120, [8; 8]), (128, [0xff; 8])] {
        let refused = Manifest::decode(&resealed(at, &bytes));
        let is_named = matches!(refused, Err(ManifestError::Field { field: "seq limit", .. }));
        assert!(is_named, "at {at}: {refused:?}");
    }
}

#[test]
fn a_blank_chunk_is_told_from_a_damaged_one() {
    assert_eq!(ChunkHeader::decode(&[0; 4096]), Err(ChunkHeaderError::Blank));
    let mut damaged = vec![0; 4096];
    damaged[4000] = 1;
    assert!(matches!(ChunkHeader::decode(&damaged), Err(ChunkHeaderError::Magic { .. })));
}

#[test]
fn records_of_later_versions_are_refused_by_name() {
    for (kind, name) in [(5, "group"), (7, "drop")] {
        let payload = [kind; 64];
        let first = Records::new(&payload).next();
        assert_eq!(first, Some(Err(RecordError::Unsupported { offset: 0, name })));
    }
    assert!(matches!(Records::new(&[8; 64]).next(), Some(Err(RecordError::Kind { found: 8, .. }))));
    for first in [0x41, 0x12, 0x03, 0x13, 0x10, 0x14, 0x16, 0x26] {
        let payload = [first; 64];
        let mut records = Records::new(&payload);
        assert!(matches!(records.next(), Some(Err(RecordError::Flags { .. }))), "{first:#x}");
        assert_eq!(records.next(), None, "records go on after an error");
    }
}

#[test]
fn a_block_of_another_chunk_or_with_an_unknown_kind_is_refused() {
    let block = sealed(b"payload");
    let other = Binding::of(StoreId([1; 16]), ChunkId(2), LifeNumber(4));
    assert!(matches!(block::check(&block, other), Err(BlockError::Checksum { .. })));
    let mut unknown = block.clone();
    unknown[44] = 3;
    let crc = binding().crc(&unknown[8..BLOCK_HEADER_LEN + 7]);
    unknown[4..8].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(block::check(&unknown, binding()), Err(BlockError::Kind { found: 3 }));
}

#[derive(Clone, Debug)]
struct Sample {
    header: RecordHeader,
    key: Vec<u8>,
    value: Vec<u8>,
}

fn sample() -> impl Strategy<Value = Sample> {
    let ids = (any::<u32>(), any::<u32>(), 0_u64..1 << 48);
    let body = (vec(any::<u8>(), 1..300), vec(any::<u8>(), 0..600), any::<Option<u64>>());
    let part = (any::<u64>(), any::<u32>());
    (ids, body, part, 0..5).prop_map(
        |((map, stream, seq), (key, value, expiry), (run, number), kind)| {
            let (map, stream) = (MapId(map), StreamId(stream));
            let part = PartOf { run, number };
            let header = match kind {
                0 => RecordHeader::absence(map, stream, key.len()),
                1 => RecordHeader::part(map, stream, part, &value),
                4 => RecordHeader::clear(map, stream),
                _ => RecordHeader::entry(map, stream, key.len(), value.len(), expiry),
            };
            let part = if kind == 3 { Some(part) } else { header.part };
            let header = RecordHeader { part, seq, ..header };
            let key = if matches!(kind, 1 | 4) { Vec::new() } else { key };
            let value = if matches!(kind, 0 | 3 | 4) { Vec::new() } else { value };
            let crc = body_crc(&key, &value, header.expiry);
            Sample { header: RecordHeader { body_crc: crc, ..header }, key, value }
        },
    )
}

fn payload_of(samples: &[Sample], gaps: &[usize]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        let start = payload.len();
        payload.resize(start + sample.header.encoded_len(), 0xee);
        let len = sample.header.encode_into(&sample.key, &sample.value, &mut payload[start..]);
        assert_eq!(start + len, payload.len());
        let padded = payload.len() + gaps[index % gaps.len()];
        let end = payload.len();
        payload.resize(padded, 0xee);
        write_padding(&mut payload[end..]);
    }
    payload
}

proptest! {
    #[test]
    fn records_come_back_whatever_padding_is_between(
        samples in vec(sample(), 0..12), gaps in vec(0_usize..40, 1..5),
    ) {
        let payload = payload_of(&samples, &gaps);
        let records: Result<Vec<_>, _> = Records::new(&payload).collect();
        let records = records.expect("all of them are valid");
        prop_assert_eq!(records.len(), samples.len());
        for (record, sample) in records.iter().zip(&samples) {
            prop_assert_eq!(record.key, &sample.key[..]);
            prop_assert_eq!(record.value, &sample.value[..]);
            prop_assert_eq!(&record.header(), &sample.header);
            let again = Records::starting_at(&payload, record.offset).next();
            prop_assert_eq!(again, Some(Ok(record.clone())));
        }
    }

    #[test]
    fn damaged_records_end_in_an_error_or_stay_within_the_payload(
        samples in vec(sample(), 1..6),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut payload = payload_of(&samples, &[0, 9]);
        for (at, byte) in damage {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        payload.truncate(cut.index(payload.len() + 1));
        let mut end = 0;
        for record in Records::new(&payload) {
            let Ok(record) = record else { break };
            prop_assert!(record.offset >= end && record.offset + record.len <= payload.len());
            end = record.offset + record.len;
        }
    }

    #[test]
    fn random_bytes_are_read_without_harm(bytes in vec(any::<u8>(), 0..9000)) {
        let _ = Manifest::decode(&bytes);
        let _ = ChunkHeader::decode(&bytes);
        let _ = block::check(&bytes, binding());
        if let Ok(directory) = Directory::decode(&bytes) {
            directory.tables().for_each(|table| table.lines().for_each(drop));
        }
        let _ = Records::new(&bytes).count();
        let covered: usize = ChunkWalk::new(&bytes, binding()).map(|walked| match walked {
            Walked::Block { header, .. } => header.sealed_len(),
            Walked::Gap { len, .. } => len,
        }).sum();
        prop_assert_eq!(covered, bytes.len().saturating_sub(CHUNK_HEADER_LEN));
    }

    #[test]
    fn random_bytes_behind_a_valid_start_are_read_without_harm(
        bytes in vec(any::<u8>(), 0..600), kind in 1_u8..8, flags in 0_u8..4,
    ) {
        let mut payload = vec![kind | flags << 4];
        payload.extend(&bytes);
        let _ = Records::new(&payload).count();
        let mut tables = 2_u32.to_le_bytes().to_vec();
        tables.extend([0; 12]);
        tables.extend(&bytes);
        let _ = Directory::decode(&tables);
        let mut encoded = manifest().encode();
        let at = 152.min(encoded.len());
        encoded.splice(at..at + bytes.len().min(encoded.len() - at), bytes.iter().copied());
        let len = encoded.len() as u64;
        encoded[24..32].copy_from_slice(&len.to_le_bytes());
        encoded[32..36].fill(0);
        let crc = crc32c(&encoded);
        encoded[32..36].copy_from_slice(&crc.to_le_bytes());
        let _ = Manifest::decode(&encoded);
    }

    #[test]
    fn directories_come_back_and_shortened_ones_do_not(
        lines in vec(
            (0_u32..4, 0_u32..3, 0_u64..1 << 48, any::<u64>(), 0_u32..1 << 28, 0_usize..5), 0..60,
        ),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut builder = DirectoryBuilder::new();
        for (map, stream, seq, hash, offset, kind) in &lines {
            let hash = *hash & hotrestart::format::directory::HASH_MASK;
            let (kind, body_crc) = (KINDS[*kind], hash as u32);
            let line = DirectoryLine { seq: *seq, hash, offset: *offset, kind, body_crc };
            builder.add(MapId(*map), StreamId(*stream), &line, 3);
        }
        prop_assert!(builder.encoded_len() <= DirectoryBuilder::new().encoded_len_with(lines.len()));
        let mut payload = vec![0; builder.encoded_len()];
        builder.encode_into(&mut payload);
        let directory = Directory::decode(&payload).expect("it is valid");
        for table in directory.tables() {
            let is_own = |line: &&(u32, u32, u64, u64, u32, usize)| {
                (MapId(line.0), StreamId(line.1)) == (table.map, table.stream)
            };
            let own = lines.iter().filter(is_own);
            let seqs: Vec<_> = own.map(|line| (line.2, line.4, KINDS[line.5])).collect();
            let of_line = |line: DirectoryLine| (line.seq, line.offset, line.kind);
            prop_assert!(table.lines().all(|line| line.body_crc == line.hash as u32));
            let found: Vec<_> = table.lines().map(of_line).collect();
            prop_assert_eq!(found, seqs);
        }
        prop_assert_eq!(directory.records as usize, lines.len());
        prop_assert!(Directory::decode(&payload[..cut.index(payload.len())]).is_err());
    }
}
