//! Headers that cannot be read: writes that a crash cut off, or damage.
//!
//! The rule is that of blocks: what was on the device and is not valid is damage, anything else is torn. A
//! header is flushed before its first block is known to be, so a valid block behind it that says of this
//! writer's blocks that the chunk's first was flushed (in the same boot: written) proves that the header was
//! whole. Marks in the writer's other headers and in the manifest prove it as well. So does a header that can
//! be restored (`format/chunk_damage.rs`): a write that is cut off leaves none. Without such a proof a header
//! that cannot be read is what a power cut leaves of one that was under way, and its chunk counts for
//! nothing. Of lives whose end is decided the manifest says which blocks count.
//!
//! A header that was restored says which chunk and writer it is; it counts when damage is passed over. It is
//! missed where a mark says so, or the chunk's first block is behind it, which may be flushed though nothing
//! later says that; else nothing is lost with it. Of others only the blocks tell: each was sealed from the
//! binding of store, life and chunk, which can be reckoned back from its checksum. It is looked for among the
//! bindings of the chunk that the header names and of those with ids `NEAR` the highest of the life's other
//! chunks: ids are given in order, so that is where a chunk is that was filled last. A larger bound would
//! find little else that is not missed anyway, since later chunks of its writer say that it was flushed; with
//! this one a block of a former chunk is taken for one of these once in two million cases. Which writer's
//! they are is then not known: no mark is raised, and nothing of it is loaded. A header of zeros is taken for
//! that of a chunk that nobody has begun, unless a block begins behind it (`may_count`).
//!
//! Invariants: what a crash may leave is never damage. So blocks that compaction may have freed, or whose
//! file another chunk may have taken since, prove nothing. The opening and `inspect` ask, both with whole
//! chunks in memory. Cost: nothing without such a header; for each one CRC over the chunk.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::plan;
use crate::format::block;
use crate::format::chunk::CHUNK_HEADER_LEN;
use crate::format::chunk_damage::{Said, restore};
use crate::format::manifest::{Life, LifeState};
use crate::format::{
    ALIGNMENT, Binding, BlockHeader, ChunkHeader, ChunkId, ChunkWalk, Manifest, Walked,
};

/// How far from the highest id that is known in a life a chunk's id is looked for: as many as may have come
/// into the stock and out of it again meanwhile.
const NEAR: u64 = 1 << 10;

/// A header that was whole on the device.
#[derive(Debug)]
pub(crate) struct Damage {
    /// The header, if it could be restored.
    pub(crate) restored: Option<ChunkHeader>,
    /// What lies behind it.
    pub(crate) what: String,
}

/// What is known of a store's chunks, to judge those whose headers cannot be read.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    manifest: &'a Manifest,
    /// The life of which blocks say whether they count.
    undecided: Option<&'a Life>,
    /// Whether that life ran in this boot, so that completed writes are still there.
    same_boot: bool,
    /// By writer of that life, the mark in headers and manifest.
    marks: Vec<u64>,
    /// The chunks of that life that may be missing.
    missing: HashMap<Binding, ChunkId>,
}

/// What was found of a chunk's blocks.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    first: u64,
    last: u64,
    /// The chunk's first block has this number or a lower one.
    chunk_first_max: u64,
    /// The highest mark.
    mark: u64,
}

impl<'a> Judge<'a> {
    /// Judges by the manifest and by the headers that can be read. `same_boot`: whether the undecided life
    /// ran in this boot.
    pub(crate) fn new<'h>(
        manifest: &'a Manifest,
        same_boot: bool,
        headers: impl Iterator<Item = &'h ChunkHeader>,
    ) -> Judge<'a> {
        let undecided = plan::undecided(manifest).and_then(|life| manifest.life(life));
        let mut judge =
            Judge { manifest, undecided, same_boot, marks: Vec::new(), missing: HashMap::new() };
        let Some(life) = undecided else { return judge };
        let first_id = ChunkId::first_of(life.number).0;
        let (mut highest, mut known) = (first_id, HashSet::new());
        let freed_end = |writer: usize| life.freed.end(writer as u32);
        let marks = life.valid_blocks.iter().enumerate();
        judge.marks = marks.map(|(writer, blocks)| freed_end(writer).max(*blocks)).collect();
        for header in headers.filter(|header| header.life == life.number) {
            highest = highest.max(header.chunk.0);
            known.insert(header.chunk);
            let mark = judge.known(header.flushed.0, header.written.0);
            if let Some(of_writer) = judge.marks.get_mut(header.writer.0 as usize) {
                *of_writer = mark.max(*of_writer);
            }
        }
        let near = highest.saturating_sub(NEAR).max(first_id)..=highest.saturating_add(NEAR);
        for id in near.map(ChunkId).filter(|id| !known.contains(id)) {
            judge.missing.insert(Binding::of(manifest.store, id, life.number), id);
        }
        judge
    }

    /// Whether a chunk with a blank header may hold blocks that count; `front` is its header and the next
    /// 4 KiB.
    pub(crate) fn may_count(&self, front: &[u8]) -> bool {
        let behind = front.get(CHUNK_HEADER_LEN..).unwrap_or_default();
        self.undecided.is_some() && block::begins(behind)
    }

    /// Judges a chunk whose header cannot be read. `None`: a crash may have left it like that, or nothing in
    /// it counts.
    pub(crate) fn judge(&self, chunk: &[u8]) -> Option<Damage> {
        match restore(chunk) {
            Some(header) => self.of_restored(header, chunk),
            None => self.of_blocks(chunk),
        }
    }

    fn of_restored(&self, header: ChunkHeader, chunk: &[u8]) -> Option<Damage> {
        let is_own = header.store == self.manifest.store
            && header.chunk_size == self.manifest.chunk_size
            && header.chunk_size == chunk.len() as u64;
        if !is_own {
            return None;
        }
        let mut found: Option<Blocks> = None;
        for walked in ChunkWalk::new(chunk, header.binding()) {
            if let Walked::Block { offset, header, .. } = walked {
                self.note(&mut found, offset, &header);
            }
        }
        let is_held = self.manifest.held.iter().any(|held| held.chunk == header.chunk);
        if !is_held && !self.counts(&header, found.as_ref()) {
            return None;
        }
        let (life, writer) = (header.life, header.writer);
        let of = format!("of writer {writer} in life {life}");
        let what = match found {
            Some(Blocks { first, last, .. }) => format!("{} {of}", blocks(first, last)),
            None => format!("no valid block {of}"),
        };
        let what = format!("it was whole on the device, with {what} behind it");
        Some(Damage { restored: Some(header), what })
    }

    /// Whether blocks of a chunk count, so that its header was whole once.
    fn counts(&self, header: &ChunkHeader, found: Option<&Blocks>) -> bool {
        let (writer, first) = (header.writer.0, header.first_block.0);
        let Some(life) = self.manifest.life(header.life) else { return false };
        let Some(valid) = life.valid_blocks.get(writer as usize) else { return false };
        if life.freed.covers(writer, &(first..first + 1)) {
            return false;
        }
        let is_undecided = self.undecided.is_some_and(|undecided| undecided.number == life.number);
        match life.state {
            LifeState::Cut => first < *valid,
            LifeState::Open if !is_undecided => false,
            LifeState::Open if life.compactor() == Some(writer) => first < *valid,
            LifeState::Open => {
                let mark = found.map_or(0, |found| found.mark).max(self.marks[writer as usize]);
                mark > first || found.is_some_and(|found| found.first == first)
            }
        }
    }

    /// What the blocks alone say.
    fn of_blocks(&self, chunk: &[u8]) -> Option<Damage> {
        let life = self.undecided?;
        let said = Said::by(chunk)?;
        let named = Binding::of(self.manifest.store, said.chunk, life.number);
        let mut found: BTreeMap<ChunkId, Option<Blocks>> = BTreeMap::new();
        let mut at = CHUNK_HEADER_LEN;
        while let Some(bytes) = chunk.get(at..).filter(|bytes| !bytes.is_empty()) {
            let bound = block::bound_to(bytes).and_then(|(binding, header)| {
                let named = (binding == named).then_some(said.chunk);
                Some((named.or_else(|| self.missing.get(&binding).copied())?, header))
            });
            let Some((id, header)) = bound else {
                at += ALIGNMENT;
                continue;
            };
            self.note(found.entry(id).or_default(), at, &header);
            at += header.sealed_len();
        }
        let mut found = found.into_iter().filter_map(|(id, blocks)| Some((id, blocks?)));
        let is_damage = |(id, found): &(ChunkId, Blocks)| {
            found.mark > found.chunk_first_max && !self.may_be_void(life, &said, *id, found)
        };
        let (_, Blocks { first, last, .. }) = found.find(is_damage)?;
        let what = format!(
            "it was whole on the device, with {} of an unknown writer in life {} behind it",
            blocks(first, last),
            life.number
        );
        Some(Damage { restored: None, what })
    }

    /// Whether blocks of the chunk `id` may be what is left of a chunk that was freed, or of survivors beyond
    /// those that count, in a file that another chunk has taken, or was about to.
    fn may_be_void(&self, life: &Life, said: &Said, id: ChunkId, found: &Blocks) -> bool {
        let is_named = said.chunk == id;
        let is_freed = |writer: u32| life.freed.covers(writer, &(found.first..found.first + 1));
        let writers = life.valid_blocks.len() as u32;
        let is_freed = match is_named && said.writer.0 < writers {
            true => is_freed(said.writer.0),
            false => (0..writers).any(is_freed),
        };
        // Such survivors are gone as soon as an opening has judged, before it decides the life's end.
        let is_survivors = is_named && said.is_survivors && life.compactor() == Some(said.writer.0);
        let is_of_a_later_opening = said.store == self.manifest.store
            && life.number < said.life
            && said.chunk >= ChunkId::first_of(said.life)
            && said.life <= self.manifest.life;
        is_freed || is_survivors || is_of_a_later_opening
    }

    fn note(&self, found: &mut Option<Blocks>, offset: usize, header: &BlockHeader) {
        let number = header.number.0;
        let mark = self.known(header.flushed.0, header.written.0);
        // Where it is not the chunk's first block, at least one is before it.
        let before = u64::from(offset > CHUNK_HEADER_LEN);
        let chunk_first_max = number.saturating_sub(before);
        let known =
            found.get_or_insert(Blocks { first: number, last: number, chunk_first_max, mark });
        known.first = known.first.min(number);
        known.last = known.last.max(number);
        known.chunk_first_max = known.chunk_first_max.min(chunk_first_max);
        known.mark = known.mark.max(mark);
    }

    fn known(&self, flushed: u64, written: u64) -> u64 {
        if self.same_boot { flushed.max(written) } else { flushed }
    }
}

fn blocks(first: u64, last: u64) -> String {
    if first == last { format!("block {first}") } else { format!("blocks {first} to {last}") }
}

#[cfg(test)]
#[path = "torn_headers_tests.rs"]
mod tests;
