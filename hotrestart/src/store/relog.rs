//! Logging again what was recovered from beyond the end of the old life's blocks.
//!
//! Invariant: each such record keeps its stamp, and is flushed in the new life before the old one is cut
//! and its buffers are removed; until then the records of the new life do not count (`restart/plan.rs`),
//! since only some of them may be there, and a crash finds the old life as it was. Only what is still
//! current goes again, from memory.

use std::collections::HashMap;

use hdstore::{Change, Log, MapId, Seq, StreamId};

use crate::chunks::supply::Space;
use crate::durability::{Durability, LogFailure};
use crate::log::{DiskLog, Shared};
use crate::restart::beyond::Relog;

/// Logs the records again and waits until they are flushed. Returns how many there were.
pub(crate) fn relog(
    memory: &hdstore::Store<DiskLog>,
    shared: &Shared,
    records: Vec<Relog>,
) -> Result<u64, LogFailure> {
    let mut newest: HashMap<(MapId, StreamId, Option<Vec<u8>>), u64> = HashMap::new();
    for Relog { map, stream, key, seq } in records {
        let known = newest.entry((map, stream, key)).or_insert(seq);
        *known = seq.max(*known);
    }
    let log = memory.log();
    let mut count = 0;
    for ((map, stream, key), seq) in newest {
        let write = |change: Change<'_>, seq: Seq| -> Result<(), LogFailure> {
            log.commit(shared.write_record(map, stream, change, Space::All)?, seq);
            Ok(())
        };
        let Some(key) = key else {
            write(Change::Clear, Seq(seq))?;
            count += 1;
            continue;
        };
        let written = memory.look(map, stream, &key, |current, value, expiry_ms| {
            if current != Seq(seq) {
                return Ok(false);
            }
            let change = Change::Entry { key: &key, value, expiry_ms };
            write(change, current).map(|()| true)
        });
        let written = match written {
            Some(written) => written?,
            None => write(Change::Absence { key: &key }, Seq(seq)).map(|()| true)?,
        };
        count += u64::from(written);
    }
    for writer in 0..shared.lanes.len() as u32 {
        if let Some(ticket) = shared.last_ticket(writer) {
            let timeout = Some(shared.ack_timeout);
            shared.wait(ticket, Durability::Synced, timeout).map_err(|failure| match failure {
                LogFailure::TimedOut { .. } if shared.supply.no_space_bytes().is_some() => {
                    LogFailure::NoSpace { needed_bytes: shared.supply.chunk_size() }
                }
                other => other,
            })?;
        }
    }
    Ok(count)
}
