//! Expiry: entries whose time has come leave, a budget's worth per call.
//!
//! An expired entry is absent for every reader at once; the sweep frees its memory and logs the fact. The
//! cursor goes round all maps, streams and buckets, so that each entry is looked at once per round whatever
//! the budget.

use super::access::view_pinned;
use super::{Inner, Store};
use crate::error::Error;
use crate::ids::StreamId;
use crate::index::word::WORDS;
use crate::log::Log;
use crate::sync::lock;

/// Where the next sweep goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    map: usize,
    stream: u32,
    bucket: u64,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepReport {
    /// Entries looked at.
    pub examined: u64,
    /// Entries removed.
    pub removed: u64,
    /// Whether the sweep came to the end of the last map, and starts over next time.
    pub finished_round: bool,
}

impl<L: Log> Store<L> {
    /// Removes entries that have expired at `now_ms` (milliseconds since 1970), looking at about `budget`
    /// entries; and frees about as many of cleared and dropped maps.
    ///
    /// ```
    /// use hdstore::{MapOptions, ManualClock, Store, codec::{Bytes, U64}};
    /// use std::sync::Arc;
    /// let clock = Arc::new(ManualClock::new(1_000));
    /// let store = Store::builder().memory_limit_bytes(64 << 20).clock(Arc::clone(&clock)).in_memory()?;
    /// let map = store.map::<U64, Bytes>("sessions", MapOptions::default())?;
    /// map.insert_expiring(&7, b"token", 1_500)?;
    /// clock.set_ms(1_500);
    /// assert!(map.get(&7)?.is_none(), "an expired entry is absent at once");
    /// assert_eq!(store.sweep(1_500, 1_000)?.removed, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for removing a key; what was removed before stays removed.
    pub fn sweep(&self, now_ms: u64, budget: u64) -> Result<SweepReport, Error> {
        self.inner.sweep(now_ms, budget)
    }
}

impl<L: Log> Inner<L> {
    fn sweep(&self, now_ms: u64, budget: u64) -> Result<SweepReport, Error> {
        self.nodes.iter().for_each(|node| _ = node.take_apart(budget.div_ceil(WORDS)));
        let mut cursor = lock(&self.sweep);
        let maps = self.all_maps();
        let mut report = SweepReport::default();
        let mut visited = 0;
        let mut expired: Vec<Vec<u8>> = Vec::new();
        while visited < budget {
            let Some(map) = maps.get(cursor.map) else {
                *cursor = Cursor::default();
                report.finished_round = true;
                return Ok(report);
            };
            let stream = StreamId(cursor.stream);
            let place = self.place(map, stream);
            {
                let pin = self.pin();
                let buckets = place.table.buckets();
                while cursor.bucket < buckets && visited < budget && expired.is_empty() {
                    place.table.for_each_in_bucket(cursor.bucket, |found| {
                        let view = view_pinned(&place.node.arena, found.word, &pin);
                        visited += 1;
                        if view.expiry_ms().is_some_and(|expiry_ms| expiry_ms <= now_ms) {
                            expired.push(view.key().to_vec());
                        }
                    });
                    visited += 1;
                    cursor.bucket += 1;
                }
                if cursor.bucket >= buckets {
                    cursor.bucket = 0;
                    cursor.stream += 1;
                    visited += 1;
                }
            }
            // Before anything can fail: the next sweep goes on from a place that exists.
            if cursor.stream == self.streams {
                cursor.stream = 0;
                cursor.map += 1;
            }
            for key in expired.drain(..) {
                let due =
                    |expiry_ms: Option<u64>| expiry_ms.is_some_and(|expiry_ms| expiry_ms <= now_ms);
                match self.remove_if(map, stream, &key, |view| due(view.expiry_ms())) {
                    Ok(None) => {}
                    // A sweep waits for no disk.
                    Ok(Some(ticket)) => {
                        self.log.settle(ticket, L::Level::default()).map_err(Error::Log)?;
                        report.removed += 1;
                    }
                    // What was dropped meanwhile is gone with all the rest.
                    Err(Error::Dropped { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            report.examined = visited;
        }
        Ok(report)
    }
}
