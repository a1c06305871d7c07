//! Room in the log for the record of one change: found first, then written, then completed under the lock.
//!
//! Invariant: a room holds exactly the record of the change it was reserved for; a value that is too long for
//! one record is written in parts before, and counts only when its entry's record is completed. Caller:
//! `log.rs` for changes, `store/relog.rs` at an opening. What may go wrong: no room (`log.rs` says why),
//! before anything is written. Cost: the room's, a checksum and a copy; an allocation for long values and
//! clears alone.

use std::sync::atomic::Ordering;

use hdstore::{Change, MapId, Seq, Stamp, StreamId};

use crate::buffers::ring::Room;
use crate::chunks::supply::Space;
use crate::durability::{LogFailure, Ticket};
use crate::format::RecordHeader;
use crate::format::record::{PartOf, body_crc, patch_seq, write_body};
use crate::log::Shared;
use crate::runs::PendingRun;

/// Room for the record of one change.
pub struct LogRoom<'a> {
    room: Room<'a>,
    writer: u32,
    /// What few changes have. A room is moved about on each put's way, so it is short.
    rest: Option<Box<Rest<'a>>>,
}

/// What becomes of a change when its record is whole, beside the record.
enum Rest<'a> {
    /// Its value lies in parts, and has been written.
    Run(PendingRun<'a>),
    /// The table that it clears, and where that is noted.
    Clear(&'a Shared, MapId, StreamId),
}

impl LogRoom<'_> {
    /// The turn that the room lies in.
    #[inline]
    pub(crate) fn turn(&self) -> u64 {
        self.room.turn()
    }

    /// Completes the record, which was written.
    #[inline]
    pub(crate) fn commit(self, seq: Seq) -> Ticket {
        let LogRoom { mut room, writer, rest } = self;
        if let Some(mut rest) = rest {
            match &mut *rest {
                Rest::Run(run) => run.commit(seq),
                Rest::Clear(shared, map, stream) => {
                    shared.clears.raise(*map, *stream, seq);
                    shared.floor.note_sudden_fall();
                }
            }
        }
        patch_seq(room.bytes(), seq.0);
        let buffer = room.turn();
        room.commit();
        Ticket { writer, buffer }
    }
}

/// The header of a change's record as it will be, but for seq and checksum.
#[inline(always)]
fn header_of(map: MapId, stream: StreamId, change: Change<'_>) -> RecordHeader {
    match change {
        Change::Entry { key, value, expiry_ms } => {
            RecordHeader::entry(map, stream, key.len(), value.len(), expiry_ms)
        }
        Change::Absence { key } => RecordHeader::absence(map, stream, key.len()),
        Change::Clear => RecordHeader::clear(map, stream),
        _ => unreachable!("a change that this version does not make"),
    }
}

/// The key and value of a change, and when it expires.
#[inline(always)]
fn body_of(change: Change<'_>) -> (&[u8], &[u8], Option<u64>) {
    match change {
        Change::Entry { key, value, expiry_ms } => (key, value, expiry_ms),
        Change::Absence { key } => (key, &[], None),
        _ => (&[], &[], None),
    }
}

impl Shared {
    /// Finds room for a change's record, and writes its header there; if its value is long, the value in
    /// parts before that.
    #[inline(always)]
    pub(crate) fn reserve_record(
        &self,
        map: MapId,
        stream: StreamId,
        change: Change<'_>,
        space: Space,
    ) -> Result<LogRoom<'_>, LogFailure> {
        let header = header_of(map, stream, change);
        let len = header.encoded_len();
        let is_plain = len <= self.record_max && !matches!(change, Change::Clear);
        let writer = self.writer_of(stream);
        if is_plain {
            let mut room = self.room(&self.lanes[writer as usize], (len, 1), space)?;
            header.encode_header(room.bytes());
            return Ok(LogRoom { room, writer, rest: None });
        }
        self.reserve_with_rest(map, stream, change, space)
    }

    #[cold]
    fn reserve_with_rest(
        &self,
        map: MapId,
        stream: StreamId,
        change: Change<'_>,
        space: Space,
    ) -> Result<LogRoom<'_>, LogFailure> {
        let mut header = header_of(map, stream, change);
        let (key, value, _) = body_of(change);
        let rest = match change {
            Change::Clear => Rest::Clear(self, map, stream),
            _ => {
                let (part, pending) = self.write_run((map, stream), key, value, space)?;
                header.part = Some(part);
                Rest::Run(pending)
            }
        };
        let writer = self.writer_of(stream);
        let mut room = self.room(&self.lanes[writer as usize], (header.encoded_len(), 1), space)?;
        header.encode_header(room.bytes());
        Ok(LogRoom { room, writer, rest: Some(Box::new(rest)) })
    }

    /// Writes what follows the header of a change's record, into the room that was reserved for it: all of
    /// the record is there then but its seq.
    #[inline(always)]
    pub(crate) fn write_record(&self, room: &mut LogRoom<'_>, change: Change<'_>) {
        if matches!(change, Change::Clear) {
            return;
        }
        let (key, value, expiry) = body_of(change);
        // Of what is to be copied, not of the copy: that is still on its way to the cache.
        let crc = body_crc(key, value, expiry);
        let is_elsewhere = matches!(room.rest.as_deref(), Some(Rest::Run(_)));
        let value_here = if is_elsewhere { &[] } else { value };
        self.note_expiry(expiry);
        write_body(room.room.bytes(), crc, key, value_here);
    }

    /// Writes a value in parts; its entry, whose record carries what is returned, must be committed later.
    pub(crate) fn write_run(
        &self,
        (map, stream): (MapId, StreamId),
        key: &[u8],
        value: &[u8],
        space: Space,
    ) -> Result<(PartOf, PendingRun<'_>), LogFailure> {
        let lane = &self.lanes[self.writer_of(stream) as usize];
        let run = self.next_run.fetch_add(1, Ordering::Relaxed);
        let stamp = Stamp { map, stream, hash: self.hash.of(key), seq: Seq(0) };
        let len = value.len() as u64;
        let pending = PendingRun::begin(&self.runs, run, stamp, (&self.pending_bytes, len));
        let mut number = 0;
        for bytes in value.chunks(self.record_max / 2) {
            let header = RecordHeader::part(map, stream, PartOf { run, number }, bytes);
            lane.ring
                .wait_for_slack(self.put_timeout, || self.check().is_ok())
                .map_err(|no_room| self.refusal(&no_room))?;
            let mut room = self.room(lane, (header.encoded_len(), 1), space)?;
            header.encode_into(&[], bytes, room.bytes());
            room.commit();
            number += 1;
        }
        Ok((PartOf { run, number }, pending))
    }
}
