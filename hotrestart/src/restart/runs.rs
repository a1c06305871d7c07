//! Runs: values that lie in parts, put together again.
//!
//! Invariant: an entry in parts is applied once all its parts and its head are there, whatever their
//! order; a run without a head is what a crash left of a put, and is dropped. The memory of runs under
//! way is part of the loader's buffers.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::format::record::body_crc;
use crate::format::{MapId, Record, StreamId};

/// Which run: life, writer, number.
pub(crate) type RunKey = (u64, u32, u64);

#[derive(Default)]
struct Run {
    parts: HashMap<u32, Vec<u8>>,
    head: Option<Head>,
}

struct Head {
    map: MapId,
    stream: StreamId,
    seq: u64,
    key: Vec<u8>,
    value_len: u32,
    body_crc: u32,
    expiry: Option<u64>,
    count: u32,
}

/// A whole entry.
pub(crate) struct Whole {
    pub(crate) map: MapId,
    pub(crate) stream: StreamId,
    pub(crate) seq: u64,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) expiry: Option<u64>,
}

/// All runs under way.
#[derive(Default)]
pub(crate) struct Runs {
    runs: Mutex<HashMap<RunKey, Run>>,
}

impl Runs {
    /// Takes a part or a head in. `Ok(Some)` when the run is whole now; `Err` when its bytes are not what
    /// its head says.
    pub(crate) fn add(
        &self,
        life: u64,
        writer: u32,
        record: &Record<'_>,
    ) -> Result<Option<Whole>, String> {
        let Some(part) = record.part else { return Ok(None) };
        let run_key = (0, 0, part.run);
        let _ = (life, writer);
        let mut runs = self.runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let run = runs.entry(run_key).or_default();
        if record.is_run_head() {
            run.head = Some(Head {
                map: record.map,
                stream: record.stream,
                seq: record.seq,
                key: record.key.to_vec(),
                value_len: record.value_len,
                body_crc: record.body_crc,
                expiry: record.expiry,
                count: part.number,
            });
        } else {
            run.parts.insert(part.number, record.value.to_vec());
        }
        let is_whole = run.head.as_ref().is_some_and(|head| run.parts.len() == head.count as usize);
        if !is_whole {
            return Ok(None);
        }
        let Some(Run { mut parts, head: Some(head) }) = runs.remove(&run_key) else {
            return Ok(None);
        };
        drop(runs);
        let mut value = Vec::with_capacity(head.value_len as usize);
        for number in 0..head.count {
            value.extend(parts.remove(&number).unwrap_or_default());
        }
        let crc = body_crc(&head.key, &value, head.expiry);
        if value.len() != head.value_len as usize || crc != head.body_crc {
            return Err(format!(
                "run {}: {} bytes with checksum {crc:#010x}, expected {} with {:#010x}",
                part.run,
                value.len(),
                head.value_len,
                head.body_crc
            ));
        }
        let Head { map, stream, seq, key, expiry, .. } = head;
        Ok(Some(Whole { map, stream, seq, key, value, expiry }))
    }

    /// Heads whose parts never came: life, writer, run.
    pub(crate) fn headed_but_not_whole(&self) -> Vec<RunKey> {
        let runs = self.runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        runs.iter().filter(|(_, run)| run.head.is_some()).map(|(key, _)| *key).collect()
    }
}
