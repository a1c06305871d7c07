//! Survivors: which records of a victim must be kept, and their way into blocks of their own.
//!
//! Invariants: a record is left behind only when memory holds something newer of its key, when its table was
//! cleared later, when its map was dropped, or when it is a fact of absence, or a clear, that no older record
//! can contradict, or a fact that a newer one of the victim implies (`implied.rs`). A survivor keeps its
//! stamp and its body checksum: the checksum is carried from the victim, never reckoned anew over memory that
//! may have gone bad. An entry is copied from memory after its slot was seen to hold exactly that stamp;
//! facts of absence and values in parts are copied from the victim's bytes, which its blocks' checksums
//! cover.
//!
//! Caller: the compactor's state machine. Cost of an entry: two cache misses, run side by side with others',
//! and a copy if it is current. Nothing is locked but the table of runs.

use std::ops::ControlFlow;

use hdstore::{Seq, Stamp, Stamps};

use super::lines::Line;
use crate::chunks::blocks::{Blocks, Step};
use crate::clears::Clears;
use crate::format::block::BLOCK_HEADER_LEN;
use crate::format::{DirectoryLine, LineKind, Record, RecordHeader, Records};
use crate::io::AlignedBuf;
use crate::log::DiskLog;
use crate::runs::{LiveRuns, RunOf};

/// Stamps that are looked up together.
const LOOKED_UP: usize = 64;

/// Where survivors go: blocks that are being filled.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) blocks: Blocks,
    free: Vec<AlignedBuf>,
    filling: Option<AlignedBuf>,
    payload_len: usize,
    records: u32,
    capacity: usize,
    /// Buffers that there are, at most.
    buffers: usize,
}

/// Why copying stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The victim is done.
    Done,
    /// All buffers are on their way to the device.
    NoBuffer,
    /// A chunk is needed and none is there.
    NoChunk,
    /// A part belongs to a put that is under way; the victim must wait.
    Pending,
    /// At this offset of the victim is not the record that its directory lists there.
    Damaged { offset: usize },
}

impl Output {
    /// Blocks of at most `block_bytes`, of which `buffers` are on their way at most.
    pub(crate) fn new(blocks: Blocks, block_bytes: usize, buffers: usize) -> Output {
        Output {
            blocks,
            free: (0..buffers).map(|_| AlignedBuf::zeroed(block_bytes)).collect(),
            filling: None,
            payload_len: 0,
            records: 0,
            capacity: block_bytes - BLOCK_HEADER_LEN,
            buffers,
        }
    }

    /// Whether nothing was added since the block with this number was begun.
    pub(crate) fn is_untouched_since(&self, block: u64) -> bool {
        self.payload_len == 0 && self.blocks.next_number() == block
    }

    /// The size of its buffers.
    pub(crate) fn block_bytes(&self) -> usize {
        self.capacity + BLOCK_HEADER_LEN
    }

    /// Takes a buffer back whose write has completed.
    pub(crate) fn give(&mut self, mut buf: AlignedBuf) {
        // A directory may be as long as a block; its buffer is none of these.
        if self.free.len() == self.buffers {
            return;
        }
        buf.set_len(self.capacity + BLOCK_HEADER_LEN);
        self.free.push(buf);
    }

    /// Makes room for a record of `len` bytes; `clock` is the age of a chunk that must be begun for it.
    fn make_room(&mut self, len: usize, clock: u64, step: &mut Step) -> Result<(), Stop> {
        let fits = |output: &Output| {
            output.payload_len + len <= output.capacity
                && output.payload_len + len <= output.blocks.payload_room(1)
        };
        if self.blocks.has_chunk() && self.filling.is_some() && fits(self) {
            return Ok(());
        }
        self.seal(step);
        if self.blocks.has_chunk() && !fits(self) {
            self.blocks.end_chunk(self.blocks.next_number(), step);
        }
        if !self.blocks.has_chunk()
            && !self.blocks.open_chunk(self.blocks.next_number(), clock, step)
        {
            return Err(Stop::NoChunk);
        }
        if self.filling.is_none() {
            self.filling = Some(self.free.pop().ok_or(Stop::NoBuffer)?);
        }
        Ok(())
    }

    /// Adds a record, for which there is room.
    fn add(&mut self, line: &Line, len: usize, body: usize, encode: impl FnOnce(&mut [u8])) {
        let offset = self.blocks.payload_base() + self.payload_len;
        let listed = DirectoryLine { offset: offset as u32, ..line.line };
        self.blocks.list(line.map, line.stream, &listed, len, body);
        let buf = self.filling.as_mut().expect("room was made");
        encode(&mut buf[BLOCK_HEADER_LEN + self.payload_len..][..len]);
        self.payload_len += len;
        self.records += 1;
    }

    /// Seals the block that is being filled, if anything is in it.
    pub(crate) fn seal(&mut self, step: &mut Step) {
        if self.payload_len == 0 {
            return;
        }
        let Some(mut buf) = self.filling.take() else { return };
        let sealed = crate::format::block::sealed_len(self.payload_len);
        buf.set_len(sealed);
        buf[BLOCK_HEADER_LEN + self.payload_len..].fill(0);
        let of_block = (self.blocks.next_number(), self.payload_len, self.records);
        self.blocks.append(buf.into(), of_block, None, step);
        (self.payload_len, self.records) = (0, 0);
    }

    /// Seals what is being filled and ends the chunk.
    pub(crate) fn end_chunk(&mut self, step: &mut Step) {
        self.seal(step);
        self.blocks.end_chunk(self.blocks.next_number(), step);
    }
}

/// What copying needs to know.
pub(crate) struct Sources<'a> {
    pub(crate) stamps: &'a Stamps<DiskLog>,
    pub(crate) runs: &'a LiveRuns,
    pub(crate) clears: &'a Clears,
    /// Bytes of the victim from the chunk's start, if it was read whole.
    pub(crate) victim: &'a [u8],
    /// The age of the victim's records.
    pub(crate) clock: u64,
    /// Whether the fact of absence with this number among the victim's may be left behind.
    pub(crate) may_forget: &'a dyn Fn(usize) -> bool,
}

/// How far copying a victim has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    line: usize,
    absences: usize,
}

/// Copies the survivors among `lines` from `position` on, which it moves, until done or stopped.
pub(crate) fn copy(
    lines: &[Line],
    position: &mut Position,
    sources: &Sources<'_>,
    output: &mut Output,
    step: &mut Step,
) -> Stop {
    while let Some(line) = lines.get(position.line) {
        let copied = match line.line.kind {
            LineKind::Entry => {
                let rest = &lines[position.line..];
                let count = rest.iter().take(LOOKED_UP).take_while(|line| is_entry(line)).count();
                copy_entries(&rest[..count], &mut position.line, sources, output, step)
            }
            LineKind::Absence | LineKind::Clear => {
                copy_fact(line, position.absences, sources, output, step).map(|()| {
                    position.absences += 1;
                    position.line += 1;
                })
            }
            LineKind::Part | LineKind::Head => {
                copy_of_run(line, sources, output, step).map(|()| position.line += 1)
            }
        };
        if let Err(stop) = copied {
            return stop;
        }
    }
    Stop::Done
}

/// The run of a part among `lines` that belongs to a put that is under way. To be asked before anything is
/// copied, since copies of a victim that then must wait would count as live beside their originals. What is
/// not pending in a full chunk does not become so.
pub(crate) fn pending_run(lines: &[Line], runs: &LiveRuns) -> Option<u64> {
    let parts = lines.iter().filter(|line| line.line.kind == LineKind::Part);
    parts.map(|line| line.line.run()).find(|run| runs.get(*run) == Some(RunOf::Pending))
}

fn is_entry(line: &Line) -> bool {
    line.line.kind == LineKind::Entry
}

fn stamp_of(line: &Line) -> Stamp {
    let (map, stream) = (line.map, line.stream);
    Stamp { map, stream, hash: line.line.hash, seq: Seq(line.line.seq) }
}

fn copy_entries(
    lines: &[Line],
    at: &mut usize,
    sources: &Sources<'_>,
    output: &mut Output,
    step: &mut Step,
) -> Result<(), Stop> {
    let mut stamps = [Stamp::default(); LOOKED_UP];
    for (stamp, line) in stamps.iter_mut().zip(lines) {
        *stamp = stamp_of(line);
    }
    let first = *at;
    let mut stopped = None;
    sources.stamps.current(&stamps[..lines.len()], |index, entry| {
        let line = &lines[index];
        let (key, value) = (entry.key, entry.value);
        let header =
            RecordHeader::entry(line.map, line.stream, key.len(), value.len(), entry.expiry_ms);
        let header = RecordHeader { seq: line.line.seq, body_crc: line.line.body_crc, ..header };
        let len = header.encoded_len();
        if let Err(stop) = output.make_room(len, sources.clock, step) {
            *at = first + index;
            stopped = Some(stop);
            return ControlFlow::Break(());
        }
        output.add(line, len, key.len() + value.len(), |out| {
            header.encode_into(key, value, out);
        });
        ControlFlow::Continue(())
    });
    match stopped {
        Some(stop) => Err(stop),
        None => {
            *at = first + lines.len();
            Ok(())
        }
    }
}

fn copy_fact(
    line: &Line,
    number: usize,
    sources: &Sources<'_>,
    output: &mut Output,
    step: &mut Step,
) -> Result<(), Stop> {
    if (sources.may_forget)(number) {
        return Ok(());
    }
    let (record, bytes) = record_at(sources.victim, line)?;
    // What is below a clear is void, and so is all of a map that was dropped.
    if record.seq < sources.clears.newest(line.map, line.stream).0
        || !sources.stamps.knows(line.map)
    {
        return Ok(());
    }
    if line.line.kind == LineKind::Clear {
        return copy_bytes(line, &record, bytes, sources, output, step);
    }
    let newest = sources.stamps.newest(line.map, line.stream, record.key);
    if newest.is_some_and(|newest| newest.0 > record.seq) {
        return Ok(());
    }
    copy_bytes(line, &record, bytes, sources, output, step)
}

fn copy_of_run(
    line: &Line,
    sources: &Sources<'_>,
    output: &mut Output,
    step: &mut Step,
) -> Result<(), Stop> {
    let (record, bytes) = record_at(sources.victim, line)?;
    let Some(part) = record.part else { return Ok(()) };
    let stamp = match sources.runs.get(part.run) {
        Some(RunOf::Pending) => return Err(Stop::Pending),
        Some(RunOf::Entry(stamp)) => stamp,
        None => return Ok(()),
    };
    let mut is_current = false;
    sources.stamps.current(&[stamp], |_, _| {
        is_current = true;
        ControlFlow::Break(())
    });
    if !is_current {
        // The entry was replaced: its parts elsewhere are garbage, too, and are so without this.
        sources.runs.forget(part.run);
        return Ok(());
    }
    copy_bytes(line, &record, bytes, sources, output, step)
}

fn copy_bytes(
    line: &Line,
    record: &Record<'_>,
    bytes: &[u8],
    sources: &Sources<'_>,
    output: &mut Output,
    step: &mut Step,
) -> Result<(), Stop> {
    output.make_room(bytes.len(), sources.clock, step)?;
    let body = record.key.len() + record.value.len();
    output.add(line, bytes.len(), body, |out| out.copy_from_slice(bytes));
    Ok(())
}

/// A record of a victim, whose blocks have been checked, but not that its directory agrees with them.
///
/// # Errors
/// `Damaged`, when it is not what the directory lists there.
pub(super) fn record_at<'a>(victim: &'a [u8], line: &Line) -> Result<(Record<'a>, &'a [u8]), Stop> {
    let offset = line.line.offset as usize;
    let damaged = Stop::Damaged { offset };
    let bytes = victim.get(offset..).ok_or(damaged)?;
    let record = Records::new(bytes).next().and_then(Result::ok).ok_or(damaged)?;
    let listed = DirectoryLine::of(&record, offset, |_| line.line.hash);
    let is_listed = record.offset == 0
        && (record.map, record.stream) == (line.map, line.stream)
        && listed == line.line;
    let bytes = bytes.get(..record.len).filter(|_| is_listed).ok_or(damaged)?;
    Ok((record, bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chunks::blocks::{Counters, Identity};
    use crate::chunks::catalogue::Catalogue;
    use crate::chunks::supply::{Reserve, Supply};
    use crate::format::{ChunkOrigin, FileNumber, LifeNumber, MapId, StoreId, StreamId, WriterId};
    use crate::io::{Fill, sim::SimDisk};
    use crate::poison::Poison;

    fn output(block_bytes: usize, buffers: usize) -> Output {
        let chunk_size = 4 * block_bytes as u64;
        let (life, origin) = (LifeNumber(1), ChunkOrigin::Survivors);
        let identity =
            Identity { store: StoreId([1; 16]), life, writer: WriterId(0), chunk_size, origin };
        let reserve = Reserve { buffers: 0, waste: 0, compaction: 0, removals: 0 };
        let (disk, poison) = (Arc::new(SimDisk::new(1)), Arc::new(Poison::default()));
        let file = FileNumber(1);
        let supply =
            Supply::new(disk, poison, chunk_size, Fill::Zero, life, file, reserve, Vec::new());
        let (counters, catalogue) = (Arc::new(Counters::new(1, 1)), Arc::new(Catalogue::default()));
        Output::new(
            Blocks::new(identity, Arc::new(supply), counters, catalogue),
            block_bytes,
            buffers,
        )
    }

    #[test]
    fn directories_as_long_as_a_block_do_not_become_buffers_without_end() {
        let mut output = output(65_536, 3);
        for _ in 0..10 {
            output.give(AlignedBuf::zeroed(65_536));
        }
        assert_eq!(output.free.len(), 3);
    }

    #[test]
    fn a_directory_that_lists_what_is_not_there_is_damage_and_no_panic() {
        let (map, stream) = (MapId(1), StreamId(0));
        let header = RecordHeader::absence(map, stream, 3);
        let header = RecordHeader { seq: 9, body_crc: 7, ..header };
        let mut bytes = vec![0; 100];
        header.encode_into(b"key", b"", &mut bytes[8..]);
        let record = Records::new(&bytes[8..]).next().expect("one").expect("whole");
        let line = DirectoryLine::of(&record, 8, |_| 5);
        let found = |line| record_at(&bytes, &Line { map, stream, line }).map(|(_, bytes)| bytes);
        assert_eq!(found(line).map(<[u8]>::len), Ok(record.len));
        for wrong in [0, 9, 30, 99, 100, 1 << 29] {
            let offset = wrong as usize;
            let line = DirectoryLine { offset: wrong, ..line };
            assert_eq!(found(line), Err(Stop::Damaged { offset }));
        }
        let other_seq = DirectoryLine { seq: 10, ..line };
        assert_eq!(found(other_seq), Err(Stop::Damaged { offset: 8 }));
    }

    #[test]
    fn a_victim_with_a_part_of_a_put_under_way_waits_before_anything_of_it_is_copied() {
        let runs = LiveRuns::default();
        let line = |kind, run: u64| {
            let line = DirectoryLine {
                seq: run >> 48,
                hash: run & ((1 << 48) - 1),
                offset: 0,
                kind,
                body_crc: 0,
            };
            Line { map: MapId(1), stream: StreamId(0), line }
        };
        let (entry, part) = (line(LineKind::Entry, 7 << 32 | 1), line(LineKind::Part, 7 << 32 | 1));
        assert_eq!(pending_run(&[entry, part], &runs), None, "a part that nobody knows is garbage");
        runs.set(7 << 32 | 1, RunOf::Pending);
        assert_eq!(pending_run(&[entry, part], &runs), Some(7 << 32 | 1));
        assert_eq!(pending_run(&[entry], &runs), None);
        runs.set(7 << 32 | 1, RunOf::Entry(Stamp::default()));
        assert_eq!(pending_run(&[entry, part], &runs), None);
    }
}
