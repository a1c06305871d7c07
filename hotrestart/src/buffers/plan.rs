//! What is planned into the chunk that buffers are being filled for: how much of it the next block may take.
//!
//! Invariant: whatever is handed out, the chunk's directory has room behind it: each record that a turn may
//! hand out has a line in it, and each table that it may touch. Caller: `ring.rs`, when it opens a turn.

use super::layout::Geometry;
use crate::format::block::{BLOCK_HEADER_LEN, sealed_len};
use crate::format::chunk::CHUNK_HEADER_LEN;
use crate::format::directory::{DIRECTORY_HEADER_LEN, LINE_LEN, TABLE_LEN};

/// What is planned into the chunk that buffers are being filled for.
#[derive(Debug)]
pub(super) struct ChunkFill {
    pub(super) used: usize,
    pub(super) records: usize,
    pub(super) number: u64,
    /// Whether the active turn ends only since there are more tables: it may be empty, and the chunk goes on.
    pub(super) is_planned_anew: bool,
}

impl ChunkFill {
    pub(super) fn new(number: u64) -> ChunkFill {
        ChunkFill { used: CHUNK_HEADER_LEN, records: 0, number, is_planned_anew: false }
    }

    /// Payload bytes and records that still fit the chunk beside a directory of all its records; the
    /// records of the next block are allowed half as many again as the present density would give.
    pub(super) fn room_left(
        &self,
        chunk_size: usize,
        tables: usize,
        geometry: &Geometry,
    ) -> (usize, usize) {
        let directory_of = |records: usize| {
            let tables = tables.min(records.max(1));
            sealed_len(DIRECTORY_HEADER_LEN + tables * TABLE_LEN + records * LINE_LEN)
        };
        let per_byte = 1.5 * self.records.max(1) as f64 / self.used as f64;
        let left = chunk_size.saturating_sub(self.used + directory_of(self.records) + 8192);
        let payload = left as f64 / (1.0 + per_byte * LINE_LEN as f64);
        let records = ((payload * per_byte) as usize + 64).min(geometry.records_max as usize);
        let taken = self.used + directory_of(self.records + records) + BLOCK_HEADER_LEN + 4096;
        (chunk_size.saturating_sub(taken).min(geometry.largest_payload()), records)
    }
}
