//! What the log buffers of a dead process hold.
//!
//! Invariant: only what a word in the commit table names counts, a record or all records of a group; a
//! reservation whose owner died is stepped over. A block whose buffer was given back had been written. Each
//! record is checked by its own checksum, since memory has none.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{Geometry, NUMBER, Owner, STATE, State, TABLE, split_commit_word};

/// The buffers of a life: per writer, what is whole of each block that may not be on the device.
#[derive(Debug, Default)]
pub(crate) struct LeftBehind {
    /// By writer, then by block number: where in `bytes` a record lies, or the records of a group, that
    /// became whole at once.
    pub(crate) blocks: BTreeMap<(u32, u64), Vec<(usize, usize)>>,
    /// By writer: all blocks below this were on the device, since their buffers were given back.
    pub(crate) written: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// Reads a file of buffers. `Err` says why it is not that of this life.
pub(crate) fn parse(bytes: Vec<u8>, expected: &Owner) -> Result<LeftBehind, String> {
    let (geometry, owner) = Geometry::decode(&bytes)?;
    if owner != *expected {
        return Err(format!(
            "buffers of store {} life {} boot {}, expected store {} life {} boot {}",
            owner.store, owner.life, owner.boot, expected.store, expected.life, expected.boot
        ));
    }
    if bytes.len() < geometry.file_bytes() {
        return Err(format!("{} bytes, expected {}", bytes.len(), geometry.file_bytes()));
    }
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let mut blocks = BTreeMap::new();
    let mut written = Vec::new();
    for writer in 0..geometry.writers {
        let mut free = BTreeSet::new();
        for slot in 0..geometry.buffers_per_writer {
            let control = geometry.of_writer(writer).control(slot);
            let state = State(word(control + STATE));
            if state.is_free() {
                free.insert(word(control + NUMBER));
                continue;
            }
            let mut whole = Vec::new();
            for index in 0..state.records().min(geometry.records_max as usize) {
                let committed = word(control + TABLE + index * 8);
                let (offset, len) = split_commit_word(committed);
                if committed != 0 && offset + len <= geometry.buffer_bytes as usize {
                    whole.push((geometry.of_writer(writer).data(slot) + offset, len));
                }
            }
            blocks.insert((writer, word(control + NUMBER)), whole);
        }
        let first = blocks.range((writer, 0)..).next().map(|((_, number), _)| *number);
        // All are free only when the ring was closed, and then all that was in it had been written.
        let first = first.unwrap_or_else(|| free.last().map_or(0, |last| last + 1));
        // Buffers are given back in order, after their blocks were written. What comes right before the first
        // that was not is a block of such a buffer, or a directory whose write may have been under way.
        let before = first.saturating_sub(1);
        written.push(if free.contains(&before) { first } else { before });
    }
    Ok(LeftBehind { blocks, written, bytes })
}
