//! Values in parts: whether each entry has all its parts, and whether together they match its checksum.
//!
//! Invariant: a run is valid only when whole. Parts without an entry are what a crash between them
//! leaves: garbage.

use std::collections::{BTreeMap, HashMap};

use super::records::Place;
use super::report::counted;
use super::survey::Survey;
use crate::format::crc;
use crate::format::{Record, RecordKind};

/// The id of a run, unique in the store.
type RunKey = u64;

/// All parts and all entries whose values are in parts.
#[derive(Debug, Default)]
pub(super) struct Runs {
    parts: HashMap<RunKey, BTreeMap<u32, Part>>,
    heads: Vec<Head>,
}

#[derive(Debug)]
struct Part {
    chunk: usize,
    record_len: u64,
    value_len: u32,
    crc: u32,
}

#[derive(Debug)]
struct Head {
    run: RunKey,
    file: String,
    offset: u64,
    count: u32,
    value_len: u32,
    key_crc: u32,
    expiry: Option<u64>,
    body_crc: u32,
}

impl Runs {
    /// Takes a record that belongs to a run; the index of the entry if it is one.
    pub(super) fn add(&mut self, place: &Place<'_>, record: &Record<'_>) -> Option<u32> {
        let part = record.part?;
        let run = part.run;
        if record.kind == RecordKind::Part {
            let chunk = place.chunk;
            let (record_len, value_len) = (record.len as u64, record.value_len);
            let part_of_run = Part { chunk, record_len, value_len, crc: record.body_crc };
            self.parts.entry(run).or_default().insert(part.number, part_of_run);
            return None;
        }
        self.heads.push(Head {
            run,
            file: place.file.to_owned(),
            offset: place.offset,
            count: part.number,
            value_len: record.value_len,
            key_crc: crc::crc32c(record.key),
            expiry: record.expiry,
            body_crc: record.body_crc,
        });
        Some(self.heads.len() as u32 - 1)
    }

    /// The chunk and the length of each part of an entry's value.
    pub(super) fn parts_of(&self, head: u32) -> impl Iterator<Item = (usize, u64)> {
        let parts = self.parts.get(&self.heads[head as usize].run);
        parts.into_iter().flat_map(BTreeMap::values).map(|part| (part.chunk, part.record_len))
    }

    /// Reports every one of these entries whose parts are not all there or do not fit. Parts of a value that
    /// was replaced may be freed before its head.
    pub(super) fn judge(&self, survey: &mut Survey, current: impl Iterator<Item = u32>) {
        let mut current: Vec<u32> = current.collect();
        current.sort_unstable();
        for head in current.into_iter().filter_map(|head| self.heads.get(head as usize)) {
            let expected = format!(
                "an entry of {} and {} with checksum {:#010x}",
                counted(head.count.into(), "part", "parts"),
                counted(head.value_len.into(), "byte", "bytes"),
                head.body_crc
            );
            if let Err(found) = self.whole(head) {
                survey.problem(&head.file, head.offset, &expected, &found);
            }
        }
    }

    fn whole(&self, head: &Head) -> Result<(), String> {
        let none = BTreeMap::new();
        let parts = self.parts.get(&head.run).unwrap_or(&none);
        let len: u64 = parts.values().map(|part| u64::from(part.value_len)).sum();
        let in_order = parts.keys().zip(0..).all(|(number, index)| *number == index);
        if parts.len() != head.count as usize || !in_order || len != u64::from(head.value_len) {
            let parts = counted(parts.len() as u64, "part", "parts");
            return Err(format!("{parts} and {}", counted(len, "byte", "bytes")));
        }
        let combine =
            |crc, part: &Part| crc::crc32c_combine(crc, part.crc, u64::from(part.value_len));
        let crc = parts.values().fold(head.key_crc, combine);
        let crc = match head.expiry {
            Some(expiry) => crc::crc32c_append(crc, &expiry.to_le_bytes()),
            None => crc,
        };
        if crc == head.body_crc { Ok(()) } else { Err(format!("checksum {crc:#010x}")) }
    }
}
