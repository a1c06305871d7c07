//! Which headers are taken for damage, and which for what a crash leaves.

use super::*;
use crate::format::block::{BLOCK_HEADER_LEN, seal};
use crate::format::manifest::{BuffersPlace, HeldChunk};
use crate::format::{
    BlockKind, BlockNumber, BootId, ChunkOrigin, FileNumber, FreedBlocks, HoldId, LifeNumber,
    MapId, StoreId, WriterId,
};

const CHUNK: usize = 256 << 10;
const STORE: StoreId = StoreId([1; 16]);
/// The life that is undecided, and the one that began to open after it.
const LIFE: LifeNumber = LifeNumber(3);
const LATER: LifeNumber = LifeNumber(4);
/// Of two writers and the compactor.
const COMPACTOR: u32 = 2;

fn life(number: LifeNumber, state: LifeState, valid_blocks: Vec<u64>) -> Life {
    let freed = FreedBlocks::default();
    let buffers = BuffersPlace::None;
    Life { number, boot: BootId([0; 16]), state, buffers, valid_blocks, freed }
}

/// A store with a life that is cut, one that is undecided, and one that began to open.
fn manifest() -> Manifest {
    Manifest {
        generation: 9,
        store: STORE,
        chunk_size: CHUNK as u64,
        streams: 4,
        closed_cleanly: false,
        hash_seed: 0,
        life: LATER,
        latest_time_ms: 0,
        memory_bytes: 0,
        next_map: MapId(2),
        next_file: FileNumber(1),
        next_chunk: ChunkId::first_of(LATER),
        seq_start: 1,
        seq_limit: 1 << 30,
        lives: vec![
            life(LifeNumber(2), LifeState::Cut, vec![30, 0, 0]),
            life(LIFE, LifeState::Open, vec![0, 0, 12]),
            life(LATER, LifeState::Open, vec![0, 0, 0]),
        ],
        maps: Vec::new(),
        stream_records: Vec::new(),
        held: Vec::new(),
    }
}

fn id(life: LifeNumber, count: u64) -> ChunkId {
    ChunkId(ChunkId::first_of(life).0 + count)
}

fn header(writer: u32, chunk: ChunkId, first_block: u64) -> ChunkHeader {
    let is_survivors = writer == COMPACTOR;
    ChunkHeader {
        store: STORE,
        chunk,
        life: LifeNumber(chunk.0 >> 32),
        writer: WriterId(writer),
        chunk_size: CHUNK as u64,
        first_block: BlockNumber(first_block),
        flushed: BlockNumber(first_block),
        written: BlockNumber(first_block),
        live_bytes: 0,
        origin: if is_survivors { ChunkOrigin::Survivors } else { ChunkOrigin::Changes },
        clock: chunk.0 % 1_000,
    }
}

/// A chunk with blocks that bear these marks, flushed and written.
fn chunk(header: &ChunkHeader, marks: &[(u64, u64)]) -> Vec<u8> {
    let mut chunk = vec![0; CHUNK];
    header.encode_into(&mut chunk);
    let numbers = header.first_block.0..;
    for (index, ((flushed, written), number)) in marks.iter().zip(numbers).enumerate() {
        let block = BlockHeader {
            number: BlockNumber(number),
            flushed: BlockNumber(*flushed),
            written: BlockNumber(*written),
            payload_len: 100,
            records: 1,
            live_mib: 0,
            kind: BlockKind::Records,
        };
        let at = CHUNK_HEADER_LEN + index * ALIGNMENT;
        chunk[at + BLOCK_HEADER_LEN..][..100].fill(number as u8);
        seal(&mut chunk[at..], &block, header.binding());
    }
    chunk
}

/// A chunk of the undecided life whose second block says that the first was flushed.
fn flushed(writer: u32, count: u64, first: u64) -> Vec<u8> {
    chunk(&header(writer, id(LIFE, count), first), &[(first, first), (first + 1, first + 1)])
}

/// How a header goes bad: by one bit, or beyond what can be made good.
fn one_bit(chunk: &mut [u8]) {
    chunk[48] ^= 1;
}

fn lost(chunk: &mut [u8]) {
    chunk[..CHUNK_HEADER_LEN].fill(0x6b);
}

fn judged(manifest: &Manifest, known: &[ChunkHeader], chunk: &[u8]) -> Option<Damage> {
    assert!(ChunkHeader::decode(chunk).is_err(), "the header can be read");
    Judge::new(manifest, false, known.iter()).judge(chunk)
}

#[test]
fn blocks_that_were_flushed_prove_that_a_bad_header_was_whole() {
    let manifest = manifest();
    let known = [header(0, id(LIFE, 6), 4)];
    let mut chunk = flushed(0, 7, 20);
    one_bit(&mut chunk);
    let damage = judged(&manifest, &known, &chunk).expect("damage");
    assert_eq!(damage.restored, Some(header(0, id(LIFE, 7), 20)));
    assert!(damage.what.contains("blocks 20 to 21 of writer 0 in life 3"), "{}", damage.what);
    lost(&mut chunk);
    let damage = judged(&manifest, &known, &chunk).expect("damage");
    assert_eq!(damage.restored, None);
    assert!(damage.what.contains("blocks 20 to 21 of an unknown"), "{}", damage.what);
}

#[test]
fn blocks_that_were_never_flushed_prove_nothing_but_in_the_boot_that_wrote_them() {
    let manifest = manifest();
    let mut chunk = chunk(&header(0, id(LIFE, 7), 20), &[(18, 20), (20, 22), (20, 23)]);
    lost(&mut chunk);
    assert!(judged(&manifest, &[], &chunk).is_none());
    assert!(Judge::new(&manifest, true, [].iter()).judge(&chunk).is_some());
}

#[test]
fn a_header_that_can_be_restored_was_whole_and_is_missed_when_its_first_block_is_there() {
    let manifest = manifest();
    let mut chunk = chunk(&header(0, id(LIFE, 7), 20), &[(18, 20), (20, 22)]);
    one_bit(&mut chunk);
    assert!(judged(&manifest, &[], &chunk).is_some());
    chunk[CHUNK_HEADER_LEN] ^= 1;
    assert!(judged(&manifest, &[], &chunk).is_none(), "what is left of it is beyond a gap");
    chunk[CHUNK_HEADER_LEN..].fill(0);
    assert!(judged(&manifest, &[], &chunk).is_none(), "there is nothing to be missed");
}

#[test]
fn a_lost_first_block_does_not_hide_that_it_was_flushed() {
    let manifest = manifest();
    for (mark, is_damage) in [(20, false), (21, true), (22, true)] {
        for damage in [one_bit, lost] {
            let mut chunk = chunk(&header(0, id(LIFE, 7), 20), &[(0, 0), (0, 0), (mark, mark)]);
            chunk[CHUNK_HEADER_LEN..CHUNK_HEADER_LEN + 8].fill(0);
            damage(&mut chunk);
            let found = judged(&manifest, &[], &chunk);
            assert_eq!(found.is_some(), is_damage, "mark {mark}: {found:?}");
        }
    }
    // Block 22 alone is left. What is not known is how many were before it: one at least.
    let mut chunk = chunk(&header(0, id(LIFE, 7), 20), &[(0, 0), (0, 0), (21, 21)]);
    chunk[CHUNK_HEADER_LEN..CHUNK_HEADER_LEN + 2 * ALIGNMENT].fill(0);
    one_bit(&mut chunk);
    assert!(judged(&manifest, &[], &chunk).is_some(), "the header says where it begins");
    lost(&mut chunk);
    assert!(judged(&manifest, &[], &chunk).is_none(), "the chunk may begin with block 21");
}

#[test]
fn marks_of_another_writer_prove_nothing_and_those_of_its_own_in_other_headers_do() {
    let mut manifest = manifest();
    let mut chunk = chunk(&header(1, id(LIFE, 7), 20), &[]);
    one_bit(&mut chunk);
    let later =
        |writer| ChunkHeader { flushed: BlockNumber(21), ..header(writer, id(LIFE, 8), 21) };
    assert!(judged(&manifest, &[later(0)], &chunk).is_none());
    assert!(judged(&manifest, &[later(1)], &chunk).is_some());
    manifest.lives[1].valid_blocks[1] = 21;
    assert!(judged(&manifest, &[], &chunk).is_some(), "the manifest says it, too");
}

#[test]
fn a_chunk_is_found_by_its_header_or_near_the_highest_id_and_nowhere_else() {
    let manifest = manifest();
    let known = [header(0, id(LIFE, 50_000), 90)];
    for (count, is_found) in
        [(50_001, true), (49_990, true), (50_000, false), (50_000 + 2 * NEAR, false), (3, false)]
    {
        let mut chunk = flushed(1, count, 20);
        lost(&mut chunk);
        assert_eq!(judged(&manifest, &known, &chunk).is_some(), is_found, "chunk {count}");
    }
    let mut chunk = flushed(1, 3, 20);
    // Neither is one that is named; but two bits are too many to be made good.
    chunk[70] ^= 3;
    assert!(judged(&manifest, &known, &chunk).is_some());
}

#[test]
fn freed_blocks_behind_a_torn_header_are_no_damage() {
    let mut manifest = manifest();
    manifest.lives[1].freed.add(0, 10..40);
    let old = flushed(0, 7, 20);
    let new = chunk(&header(1, id(LIFE, 30), 20), &[]);
    // The file was used again, and a piece of the new header came to the device.
    for sectors in [0..512, 512..CHUNK_HEADER_LEN] {
        let mut torn = old.clone();
        torn[sectors.clone()].copy_from_slice(&new[sectors]);
        assert!(judged(&manifest, &[], &torn).is_none());
    }
    let mut chunk = flushed(0, 7, 20);
    one_bit(&mut chunk);
    assert!(judged(&manifest, &[], &chunk).is_none(), "nothing in it counts");
    // What is freed of one writer is not freed of another whose header is damaged.
    let mut chunk = flushed(1, 7, 20);
    chunk[70] ^= 3;
    assert!(judged(&manifest, &[], &chunk).is_some());
}

#[test]
fn void_survivors_behind_the_torn_header_of_a_later_opening_are_no_damage() {
    let manifest = manifest();
    let old = flushed(COMPACTOR, 7, 20);
    let new = chunk(&header(0, id(LATER, 0), 0), &[]);
    for sectors in [0..512, 512..CHUNK_HEADER_LEN] {
        let mut torn = old.clone();
        torn[sectors.clone()].copy_from_slice(&new[sectors]);
        assert!(judged(&manifest, &[], &torn).is_none());
    }
    for (first, is_damage) in [(20, false), (11, true)] {
        let mut chunk = flushed(COMPACTOR, 7, first);
        chunk[2_000] ^= 1;
        assert_eq!(judged(&manifest, &[], &chunk).is_some(), is_damage, "survivors from {first}");
    }
}

#[test]
fn of_a_life_whose_end_is_decided_a_header_is_missed_where_its_blocks_count() {
    let mut manifest = manifest();
    let of = |count, first| {
        let mut chunk = chunk(&header(0, id(LifeNumber(2), count), first), &[(0, 0)]);
        one_bit(&mut chunk);
        chunk
    };
    assert!(judged(&manifest, &[], &of(0, 29)).is_some());
    assert!(judged(&manifest, &[], &of(1, 30)).is_none(), "it is void");
    manifest.lives[0].freed.add(0, 0..30);
    assert!(judged(&manifest, &[], &of(0, 29)).is_none(), "it is freed");
    manifest.held.push(HeldChunk { chunk: id(LifeNumber(2), 0), holder: HoldId(1) });
    assert!(judged(&manifest, &[], &of(0, 29)).is_some(), "it is held");
    assert!(judged(&manifest, &[], &of(1, 29)).is_none(), "another one is held");
}

#[test]
fn chunks_of_others_and_of_openings_that_did_not_end_are_nobodys_loss() {
    let manifest = manifest();
    let mut foreign = header(0, id(LIFE, 7), 20);
    foreign.store = StoreId([2; 16]);
    for header in [foreign, header(0, id(LATER, 7), 20), header(7, id(LIFE, 7), 20)] {
        let mut chunk = chunk(&header, &[(20, 20), (21, 21)]);
        chunk[2_000] ^= 1;
        assert!(judged(&manifest, &[], &chunk).is_none(), "{header:?}");
    }
    let judge = Judge::new(&manifest, false, [].iter());
    assert!(judge.judge(&[]).is_none() && judge.judge(&[0; CHUNK]).is_none());
    assert!(!judge.may_count(&[0; 8192]));
    assert!(judge.may_count(&flushed(0, 7, 20)[..8192]));
}
