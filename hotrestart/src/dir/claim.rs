//! How many bytes the manifest may come to need, for the chunk files that there are.
//!
//! Invariant: freeing chunks, dropping maps, cutting lives, openings and closings never make the manifest
//! longer than this. Freed blocks of one writer in one life are kept apart by chunks that are left, so there
//! are no more ranges than chunks and one for each writer of each life; a life stays listed only while a
//! chunk of it is left, but for the one that an opening decides about and the one that it begins. Maps and
//! held chunks count as they are: who adds to them claims the bytes first (`manifests.rs`). A pure function.
//!
//! Cost: 128 bytes of each copy for a chunk file of a store with one writer, 32 more for each further one.
//! See `docs/durability.md`, "A full disk".

use crate::format::Manifest;
use crate::format::manifest::{FREED_LEN, LIFE_LEN};

/// Lives that are listed though they may have no chunk: the one that is decided about, and the current one.
const LIVES_BESIDE: u64 = 2;
/// The counts of writers and of ranges, beside the life's own fields, and what each writer takes.
const COUNT_LEN: u64 = 8;
const WRITER_LEN: u64 = 8;

/// The bytes that are enough for a store of so many chunk files, whatever is freed.
pub(super) fn bound(manifest: &Manifest, files: u64) -> u64 {
    let lives = manifest.lives.len() as u64;
    let writers = manifest.lives.iter().map(|life| life.valid_blocks.len() as u64);
    let all_writers: u64 = writers.clone().sum();
    let writers_max = writers.max().unwrap_or(0);
    let ranges: u64 = manifest.lives.iter().map(|life| life.freed.ranges().len() as u64).sum();
    let lives_len = |lives: u64, writers: u64, ranges: u64| {
        lives * (LIFE_LEN as u64 + COUNT_LEN) + writers * WRITER_LEN + ranges * FREED_LEN as u64
    };
    let own = manifest.encode().len() as u64 - lives_len(lives, all_writers, ranges);
    let lives_max = (lives + 1).max(files + LIVES_BESIDE);
    let ranges_max = ranges.max(files) + lives_max * writers_max;
    own + lives_len(lives_max, lives_max * writers_max, ranges_max)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::format::manifest::{BuffersPlace, Life, LifeState};
    use crate::format::{BootId, ChunkId, FileNumber, FreedBlocks, LifeNumber, MapId, StoreId};

    pub(in crate::dir) fn manifest(lives: u64, writers: usize) -> Manifest {
        let life = |number| Life {
            number: LifeNumber(number),
            boot: BootId([1; 16]),
            state: LifeState::Cut,
            buffers: BuffersPlace::None,
            valid_blocks: vec![1 << 40; writers],
            freed: FreedBlocks::default(),
        };
        Manifest {
            generation: 1,
            store: StoreId([1; 16]),
            chunk_size: 1 << 20,
            streams: 1,
            closed_cleanly: false,
            hash_seed: 1,
            life: LifeNumber(lives),
            latest_time_ms: 0,
            memory_bytes: 0,
            next_map: MapId(1),
            next_file: FileNumber(0),
            next_chunk: ChunkId(0),
            seq_start: 1,
            seq_limit: 1,
            lives: (1..=lives).map(life).collect(),
            maps: Vec::new(),
            stream_records: Vec::new(),
            held: Vec::new(),
        }
    }

    #[test]
    fn no_order_of_freeing_makes_a_manifest_longer_than_its_bound() {
        // The worst: every chunk of every writer has neighbours on both sides when it is freed.
        for (lives, writers, chunks) in [(1, 1, 40), (3, 2, 10), (7, 4, 1), (2, 8, 3)] {
            let mut manifest = manifest(lives, writers);
            let files = lives * writers as u64 * chunks;
            let claimed = bound(&manifest, files);
            for order in [1, 2, 3] {
                for life in &mut manifest.lives {
                    for writer in 0..writers as u32 {
                        for chunk in (0..chunks).filter(|chunk| chunk % 3 == order - 1) {
                            life.freed.add(writer, chunk * 10..chunk * 10 + 5);
                        }
                    }
                }
                let len = manifest.encode().len() as u64;
                assert!(len <= claimed, "{len} bytes, {claimed} claimed for {files} chunks");
                let freed: u64 =
                    manifest.lives.iter().map(|life| life.freed.ranges().len() as u64).sum();
                assert!(bound(&manifest, files - freed.min(files)) <= claimed);
            }
        }
    }

    #[test]
    fn an_opening_and_its_cut_fit_into_what_the_life_before_had_claimed() {
        let mut manifest = manifest(4, 3);
        let claimed = bound(&manifest, 4);
        let next = Life { number: LifeNumber(5), ..manifest.lives[0].clone() };
        manifest.lives.push(next);
        assert!(manifest.encode().len() as u64 <= claimed);
        assert!(bound(&manifest, 4) <= claimed, "and the next one, too");
    }
}
