//! The rest of a pass: chunks for which memory ran out, and values whose parts came before their heads.
//!
//! Threads that load at the same time may hold records that a chunk under way supersedes; at a store's limit
//! there is no memory for those. So the chunks that met the limit are put by. When all others are in, first
//! everything that they supersede goes, and then they are loaded by one thread, each from its last record to
//! its first, so that nothing is entered that does not stay. Pages and tables fill in another order than they
//! did before, so this may go a stated little beyond the limit (`Loading::allow_overdraft`).
//!
//! Invariant: a load fails for want of memory only when what it leaves in memory does not fit. Called by
//! `fold.rs`, on one thread.

use std::sync::Arc;

use super::fold::{Fold, GROUP, Source, applied, is_as_put, is_of_run};
use super::plan::Settled;
use super::read::ChunkReader;
use super::runs::{Added, Part, PartPlace, PartState, Run};
use crate::error::{OpenError, Problem};
use crate::format::{ChunkOrigin, Record, Records};

/// The chunk that parts were read from last.
struct LastChunk<'a> {
    reader: ChunkReader<'a>,
    name: Arc<str>,
    bytes: Vec<u8>,
}

impl Fold<'_> {
    /// Loads what was put by: what lies beyond the settled chunks, and the chunks with these numbers.
    pub(super) fn load_put_by(
        &self,
        settled: &[Settled],
        put_by: Vec<usize>,
    ) -> Result<(), OpenError> {
        self.runs.give_up_slots();
        let mut reader = ChunkReader::new(self.disk, self.chunk_size, 1)?;
        for piece in self.beyond {
            self.drop_older(Records::new(&piece.payload).map_while(Result::ok))?;
        }
        for index in &put_by {
            let bytes = reader.read_one(&settled[*index].file.name, self.chunk_size)?;
            self.note_bytes(bytes.len());
            let is_copied = settled[*index].file.header.origin == ChunkOrigin::Survivors;
            self.payloads(&settled[*index], &bytes, None, |_, payload| {
                let records = Records::new(payload).map_while(Result::ok);
                // A copy that went bad supersedes nothing: it will not be entered either (`Fold::note`).
                self.drop_older(records.filter(|record| !is_copied || is_as_put(record)))
            })?;
        }
        self.loading.drop_void().map_err(OpenError::Memory)?;
        self.loading.allow_overdraft();
        for piece in self.beyond.iter().rev() {
            let records: Vec<Record<'_>> =
                Records::new(&piece.payload).map_while(Result::ok).collect();
            self.apply_backwards(&records)?;
            self.load_runs_left(piece, &records)?;
        }
        for index in put_by {
            let chunk = &settled[index];
            let bytes = reader.read_one(&chunk.file.name, self.chunk_size)?;
            self.note_bytes(bytes.len());
            self.chunk_backwards(chunk, &bytes)?;
        }
        Ok(())
    }

    fn drop_older<'p>(&self, records: impl Iterator<Item = Record<'p>>) -> Result<(), OpenError> {
        let records = records.filter(|record| !is_of_run(record) && self.loading.knows(record.map));
        let all: Vec<_> = records.map(|record| applied(&record)).collect();
        self.loading.drop_older(&all).map_err(OpenError::Memory)
    }

    fn chunk_backwards(&self, chunk: &Settled, bytes: &[u8]) -> Result<(), OpenError> {
        let name: Arc<str> = chunk.file.name.as_str().into();
        let (mut records, mut of_runs) = (Vec::new(), Vec::new());
        let mut gather = self.gather(chunk);
        let is_whole = self.payloads(chunk, bytes, gather.as_mut(), |offset, payload| {
            let is_copied = chunk.file.header.origin == ChunkOrigin::Survivors;
            let source = Source { name: &name, offset, is_copied };
            for record in Records::new(payload).map_while(Result::ok) {
                if !self.note(&source, &record) {
                    continue;
                }
                if is_of_run(&record) {
                    let start = record.offset + record.len - record.value.len();
                    of_runs.push((record, offset + start));
                } else {
                    records.push(record);
                }
            }
            Ok(())
        })?;
        self.apply_backwards(&records)?;
        self.run_records(&name, &of_runs)?;
        let count = (records.len() + of_runs.len()) as u64;
        self.note_chunk(chunk, gather.filter(|_| is_whole), count);
        Ok(())
    }

    fn apply_backwards(&self, records: &[Record<'_>]) -> Result<(), OpenError> {
        let records = records.iter().rev().filter(|record| !is_of_run(record));
        let backwards: Vec<_> = records.map(applied).collect();
        backwards
            .chunks(GROUP)
            .try_for_each(|group| self.loading.apply(group).map(|_| ()).map_err(OpenError::Memory))
    }

    /// Puts the values together of which parts came before the head, or for which there was no memory.
    pub(super) fn finish_runs(&self) -> Result<(), OpenError> {
        let mut unfinished = self.runs.take_unfinished();
        if unfinished.is_empty() {
            return Ok(());
        }
        let reader = ChunkReader::new(self.disk, self.chunk_size, 1)?;
        let mut last = LastChunk { reader, name: "".into(), bytes: Vec::new() };
        while let Some((number, mut run)) = unfinished.pop_front() {
            let Some(head) = &run.head else { continue };
            if run.filling.is_none() {
                let begun = head.begin(self.loading);
                let is_full = matches!(begun, Err(hdstore::Error::Capacity { .. }));
                run.filling = if is_full {
                    // Older values of the same key may hold what is missing.
                    unfinished.iter_mut().for_each(|(_, run)| run.give_up_slot());
                    self.loading.allow_overdraft();
                    head.begin(self.loading).map_err(OpenError::Memory)?
                } else {
                    begun.map_err(OpenError::Memory)?
                };
            }
            if run.filling.is_some() {
                self.finish_run(number, run, &mut last)?;
            }
        }
        Ok(())
    }

    fn finish_run(
        &self,
        number: u64,
        mut run: Run<'_>,
        last: &mut LastChunk<'_>,
    ) -> Result<(), OpenError> {
        let (found, expected) = (run.parts.len(), run.head.as_ref().map_or(0, |head| head.count));
        if found != expected as usize {
            // Parts of a value that was replaced may be freed before its head; what replaced it may have come
            // after the head.
            run.give_up_slot();
            let head = run.head.as_ref().map(|head| head.begin(self.loading)).transpose();
            if head.map_err(OpenError::Memory)?.flatten().is_none() {
                return Ok(());
            }
            let what = format!("run {number} has its entry, but {found} of {expected} parts");
            self.problem(Problem { file: String::new(), offset: 0, what });
            return Ok(());
        }
        let is_left = |part: &Part<'_>| !matches!(part.state, PartState::Placed);
        let left = run.parts.iter().filter(|(_, part)| is_left(part));
        let left: Vec<_> = left.map(|(number, part)| (*number, part.place.clone())).collect();
        let mut fits = true;
        for (part, place) in left {
            let bytes = match &place {
                PartPlace::Memory(bytes) => bytes,
                PartPlace::File { name, offset, len } => {
                    if last.name != *name {
                        last.bytes = last.reader.read_one(name, self.chunk_size)?;
                        last.name = Arc::clone(name);
                        self.note_bytes(last.bytes.len());
                    }
                    &last.bytes[*offset..offset + len]
                }
            };
            fits &= run.place(part, bytes);
        }
        let added = match fits {
            true => self.runs.enter(number, run)?,
            false => Added::Bad(format!("run {number}: its parts do not fit its value")),
        };
        self.added("", 0, added);
        Ok(())
    }
}
