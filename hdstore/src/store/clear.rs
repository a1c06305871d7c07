//! Clearing: a fact with its own stamp for each stream of a map, however many entries there are.
//!
//! Invariants: under the stream's lock the table becomes empty by a few stores (`index/detach.rs`), in the
//! same section that takes the seq and completes the record, so a put of the stream comes wholly before or
//! wholly after. Readers find the table as it was, or empty. What the table was made of is queued
//! (`detached.rs`) and freed later, when no reader can be in it.
//!
//! What may go wrong: no memory for a record of the queue (80 bytes, of which one is kept in reserve), or a
//! log that refuses; each before anything of that stream changed. Cost: the lock is held for some twenty
//! stores and the seq.

use super::node::NoRoom;
use super::{Inner, MapCore};
use crate::error::Error;
use crate::ids::StreamId;
use crate::log::{Change, Log};

/// What clearing a stream did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cleared<T> {
    /// Entries that are gone, expired ones included.
    pub(crate) entries: u64,
    pub(crate) ticket: T,
}

impl<L: Log> Inner<L> {
    /// Clears a map's part in a stream; `None` when nothing was there.
    pub(crate) fn clear_stream(
        &self,
        map: &MapCore<L>,
        stream: StreamId,
    ) -> Result<Option<Cleared<L::Ticket>>, Error> {
        self.check_stream(stream)?;
        map.check()?;
        self.log.check().map_err(Error::Log)?;
        let place = self.place(map, stream);
        if place.table.buckets() == 0 {
            return Ok(None);
        }
        let record = place
            .node
            .record()
            .map_err(|NoRoom| self.capacity(place.node, super::detached::RECORD_BYTES))?;
        loop {
            let id = map.spec.id;
            let mut room = self.log.reserve(id, stream, Change::Clear).map_err(Error::Log)?;
            self.log.write(&mut room, Change::Clear);
            let locked = self.lock_stream(&place);
            map.check()?;
            let position = L::position(&room);
            if position < locked.position() {
                continue;
            }
            let counts = place.table.counts();
            if counts.buckets == 0 {
                return Ok(None);
            }
            let seq = locked.next_seq(stream)?;
            if !self.log.admits(seq) {
                drop((locked, room));
                self.log.wait_to_admit(seq).map_err(Error::Log)?;
                continue;
            }
            let pieces = place.table.detach();
            let ticket = self.log.commit(room, seq);
            locked.set_seq(seq);
            locked.set_position(position);
            drop(locked);
            record.queue(&pieces, counts.slot_bytes, counts.overflow_buckets);
            return Ok(Some(Cleared { entries: counts.entries, ticket }));
        }
    }

    /// Clears a map's part in some streams, one after the other, and notes a ticket for each that had any.
    /// Returns how many entries are gone; when a stream fails, what came before it stays cleared.
    pub(crate) fn clear(
        &self,
        map: &MapCore<L>,
        streams: std::ops::Range<u32>,
        tickets: &mut Vec<L::Ticket>,
    ) -> Result<u64, Error> {
        map.check()?;
        let mut entries = 0;
        for stream in streams {
            if let Some(cleared) = self.clear_stream(map, StreamId(stream))? {
                entries += cleared.entries;
                tickets.push(cleared.ticket);
            }
        }
        Ok(entries)
    }
}
