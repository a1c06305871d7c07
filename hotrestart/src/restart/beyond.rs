//! What lies beyond the settled chunks: log buffers of a dead process, and blocks behind a gap.
//!
//! Invariant: whatever counts there is applied like any other record, and is logged again in the new life,
//! but for what later records have made void: a table that was cleared since, a map that was dropped. Called
//! by `fold.rs`, before the chunks of each pass, on one thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdstore::Seq;

use super::fold::{Fold, Source, is_no_memory, is_of_run};
use super::runs::PartPlace;
use super::tail::Beyond;
use crate::error::OpenError;
use crate::format::{MapId, Record, RecordKind, StreamId};

/// A record that was applied from beyond what the disk holds without a gap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Relog {
    pub(crate) map: MapId,
    pub(crate) stream: StreamId,
    /// The key; none of a clear.
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) seq: u64,
}

impl<'a> Fold<'a> {
    /// What must be logged again. To be asked when everything is loaded: what was cleared later is left out.
    pub(crate) fn take_relog(&self) -> Vec<Relog> {
        let mut all = std::mem::take(
            &mut *self.relog.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        all.retain(|again| !self.loading.is_void(again.map, again.stream, Seq(again.seq)));
        all
    }

    /// Applies what lies beyond the settled chunks, and collects it to be logged again. False when memory ran
    /// out.
    pub(super) fn load_beyond(&self) -> Result<bool, OpenError> {
        let is_first = self.is_first_pass.load(Ordering::Relaxed);
        let mut is_all_in = true;
        // Backwards, so that the head of a run comes before its parts.
        for beyond in self.beyond.iter().rev() {
            let name: Arc<str> = beyond.file.as_str().into();
            let source = Source { name: &name, offset: beyond.offset, is_copied: false };
            let mut of_runs = Vec::new();
            let applied = self.payload(&source, &beyond.payload, &mut of_runs);
            let count = match applied {
                Err(error) if is_no_memory(&error) => {
                    is_all_in = false;
                    0
                }
                other => other?,
            };
            self.runs_beyond(beyond, &of_runs)?;
            if is_first {
                self.records.fetch_add(count, Ordering::Relaxed);
                self.collect_relog(&source, &beyond.payload);
            }
        }
        Ok(is_all_in)
    }

    /// Takes in the records of runs that `load_beyond` did not come to, since memory ran out before. Those
    /// that it came to are known.
    pub(super) fn load_runs_left(
        &self,
        beyond: &'a Beyond<'a>,
        records: &[Record<'a>],
    ) -> Result<(), OpenError> {
        let name: Arc<str> = beyond.file.as_str().into();
        let source = Source { name: &name, offset: beyond.offset, is_copied: false };
        let of_runs: Vec<_> = records
            .iter()
            .filter(|record| is_of_run(record) && self.note(&source, record))
            .map(|record| {
                let start = record.offset + record.len - record.value.len();
                (record.clone(), beyond.offset + start)
            })
            .collect();
        self.runs_beyond(beyond, &of_runs)
    }

    fn runs_beyond(
        &self,
        beyond: &'a Beyond<'a>,
        of_runs: &[(Record<'a>, usize)],
    ) -> Result<(), OpenError> {
        for (head, offset) in of_runs.iter().filter(|(record, _)| record.is_run_head()) {
            self.added(&beyond.file, *offset, self.runs.add_head(head, true)?);
        }
        for (part, offset) in of_runs.iter().filter(|(record, _)| !record.is_run_head()) {
            let place = PartPlace::Memory(part.value);
            self.added(&beyond.file, *offset, self.runs.add_part(part, place)?);
        }
        Ok(())
    }

    fn collect_relog(&self, source: &Source<'_>, payload: &[u8]) {
        let again = self
            .records_of(source, payload)
            .filter(|record| !is_of_run(record) && self.loading.knows(record.map));
        let again = again.map(|record| Relog {
            map: record.map,
            stream: record.stream,
            key: (record.kind != RecordKind::Clear).then(|| record.key.to_vec()),
            seq: record.seq,
        });
        self.relog.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(again);
    }
}
