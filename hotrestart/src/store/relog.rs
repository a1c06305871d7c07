//! Logging again what was recovered from beyond the end of the old life's blocks.
//!
//! Invariant: each such record keeps its stamp, and is flushed in the new life before the old one is cut
//! and its buffers are removed; until then the records of the new life do not count (`restart/plan.rs`),
//! since only some of them may be there, and a crash finds the old life as it was. Only what is still
//! current goes again, from memory.

use std::collections::HashMap;

use hdstore::{Change, Log, MapId, Seq, StreamId};

use super::runner::Runner;
use crate::chunks::supply::Space;
use crate::durability::{Durability, LogFailure};
use crate::log::{DiskLog, Shared};
use crate::restart::beyond::Relog;

/// Logs the records again and waits until they are flushed. Returns how many there were.
pub(crate) fn relog(
    memory: &hdstore::Store<DiskLog>,
    shared: &Shared,
    runner: &mut dyn Runner,
    records: Vec<Relog>,
) -> Result<u64, LogFailure> {
    let mut newest: HashMap<(MapId, StreamId, Option<Vec<u8>>), u64> = HashMap::new();
    for Relog { map, stream, key, seq } in records {
        let known = newest.entry((map, stream, key)).or_insert(seq);
        *known = seq.max(*known);
    }
    // In the order of their stamps, so that one seed of a simulation gives one log.
    let mut newest: Vec<_> = newest.into_iter().collect();
    newest.sort_unstable_by_key(|((map, stream, _), seq)| (*seq, stream.0, map.0));
    let mut count = 0;
    for ((map, stream, key), seq) in newest {
        count += loop {
            match log_again(memory, shared, (map, stream, key.as_deref()), Seq(seq)) {
                Err(LogFailure::Busy { .. }) if runner.go_on() => {}
                logged => break u64::from(logged?),
            }
        };
    }
    for writer in 0..shared.lanes.len() as u32 {
        let Some(ticket) = shared.last_ticket(writer) else { continue };
        let timeout = Some(shared.ack_timeout);
        loop {
            match shared.wait(ticket, Durability::Synced, timeout) {
                Ok(()) => break,
                Err(LogFailure::TimedOut { .. }) if runner.go_on() => {}
                Err(LogFailure::TimedOut { .. }) if shared.supply.no_space_bytes().is_some() => {
                    let needed_bytes = shared.supply.chunk_size();
                    return Err(LogFailure::NoSpace { needed_bytes });
                }
                Err(other) => return Err(other),
            }
        }
    }
    Ok(count)
}

/// Logs what a key has, or that it has nothing, unless something newer is logged already; without a key, that
/// the table was cleared.
fn log_again(
    memory: &hdstore::Store<DiskLog>,
    shared: &Shared,
    (map, stream, key): (MapId, StreamId, Option<&[u8]>),
    seq: Seq,
) -> Result<bool, LogFailure> {
    let log = memory.log();
    let write = |change: Change<'_>| -> Result<bool, LogFailure> {
        let mut room = shared.reserve_record(map, stream, change, Space::All)?;
        shared.write_record(&mut room, change);
        log.commit(room, seq);
        Ok(true)
    };
    let Some(key) = key else { return write(Change::Clear) };
    let written = memory.look(map, stream, key, |current, value, expiry_ms| {
        if current == seq { write(Change::Entry { key, value, expiry_ms }) } else { Ok(false) }
    });
    written.unwrap_or_else(|| write(Change::Absence { key }))
}
