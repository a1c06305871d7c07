//! Groups in the log: the records of several changes in one room, whole by one step.
//!
//! Invariant: a group's records lie one after the other in one reservation of one log buffer, and its one
//! word in the commit table is set when all are complete; a block counts as a whole. So after the death of
//! the process as after a power cut all of it is there, or none, without a byte for that in the format. A
//! change that came to nothing (the removal of what was not there) leaves padding. Values that would make the
//! group too long lie in parts before it, the longest first; they count only with their entry's record.
//!
//! Caller: `log.rs`. What may go wrong: no room, as for any change; too many bytes. Cost: as for the same
//! changes one by one, less a reservation for each. `docs/decisions/0016-a-group-is-one-room.md`.

use std::ops::Range;

use hdstore::{Change, MapId, Seq, StreamId};

use crate::buffers::ring::Room;
use crate::chunks::supply::Space;
use crate::durability::{LogFailure, Ticket};
use crate::format::RecordHeader;
use crate::format::record::{PartOf, body_crc, patch_seq, void_record};
use crate::log::Shared;
use crate::runs::PendingRun;

/// Room for the records of a group, which are there but for their seqs.
pub struct GroupRoom<'a> {
    /// Until it is committed.
    room: Option<Room<'a>>,
    ticket: Ticket,
    /// By change, where its record lies in the room.
    records: Vec<Range<usize>>,
    /// Values in parts, with the number of their change.
    runs: Vec<(usize, PendingRun<'a>)>,
}

/// A change, as it will be logged.
struct Planned<'c> {
    header: RecordHeader,
    key: &'c [u8],
    value: &'c [u8],
}

impl<'c> Planned<'c> {
    fn of(map: MapId, stream: StreamId, change: Change<'c>) -> Planned<'c> {
        let (mut header, key, value, expiry_ms): (_, _, &[u8], _) = match change {
            Change::Entry { key, value, expiry_ms } => {
                let header = RecordHeader::entry(map, stream, key.len(), value.len(), expiry_ms);
                (header, key, value, expiry_ms)
            }
            Change::Absence { key } => {
                (RecordHeader::absence(map, stream, key.len()), key, &[], None)
            }
            _ => unreachable!("a change that groups do not have"),
        };
        header.body_crc = body_crc(key, value, expiry_ms);
        Planned { header, key, value }
    }
}

/// Marks the values that must lie elsewhere for a group's records to take at most `max` bytes, the longest
/// first, as in parts. Returns what the records take then.
fn push_out(planned: &mut [Planned<'_>], max: usize) -> usize {
    let mut total = planned.iter().map(|each| each.header.encoded_len()).sum();
    if total <= max {
        return total;
    }
    let mut by_length: Vec<usize> = (0..planned.len()).collect();
    by_length.sort_by_key(|index| std::cmp::Reverse(planned[*index].value.len()));
    for index in by_length {
        let header = &mut planned[index].header;
        let here = header.encoded_len();
        header.part = Some(PartOf { run: 0, number: 0 });
        // What is no longer than the name of its parts stays, and so do all that follow.
        if total <= max || header.encoded_len() >= here || header.value_len == 0 {
            header.part = None;
            break;
        }
        total -= here - header.encoded_len();
    }
    total
}

impl Shared {
    /// Writes the records of a group, all but their seqs, and parts before them where values are long.
    pub(crate) fn write_group(
        &self,
        stream: StreamId,
        changes: &[(MapId, Change<'_>)],
    ) -> Result<GroupRoom<'_>, LogFailure> {
        let mut planned: Vec<_> =
            changes.iter().map(|(map, change)| Planned::of(*map, stream, *change)).collect();
        let len = push_out(&mut planned, self.record_max);
        if len > self.record_max {
            let (needed_bytes, max_bytes) = (len as u64, self.record_max as u64);
            return Err(LogFailure::GroupTooLarge { needed_bytes, max_bytes });
        }
        let is_removal = changes.iter().all(|(_, change)| matches!(change, Change::Absence { .. }));
        let space = if is_removal { Space::Removal } else { Space::Common };
        let mut runs = Vec::new();
        for (index, Planned { header, key, value }) in planned.iter_mut().enumerate() {
            self.note_expiry(header.expiry);
            if header.part.is_some() {
                let (part, pending) = self.write_run((header.map, stream), key, value, space)?;
                header.part = Some(part);
                *value = &[];
                runs.push((index, pending));
            }
        }
        let writer = self.writer_of(stream);
        let mut room = self.room(&self.lanes[writer as usize], (len, planned.len()), space)?;
        let mut records = Vec::with_capacity(planned.len());
        let mut at = 0;
        for Planned { header, key, value } in &planned {
            let end = at + header.encoded_len();
            header.encode_into(key, value, &mut room.bytes()[at..end]);
            records.push(at..end);
            at = end;
        }
        let ticket = Ticket { writer, buffer: room.turn() };
        Ok(GroupRoom { room: Some(room), ticket, records, runs })
    }
}

impl GroupRoom<'_> {
    /// The turn that the room lies in.
    pub(crate) fn turn(&self) -> u64 {
        self.ticket.buffer
    }

    /// Completes the records that have a seq, makes padding of the others, and has all count at once.
    ///
    /// # Panics
    /// When it was done before.
    pub(crate) fn commit(&mut self, seqs: &[Option<Seq>]) -> Ticket {
        let mut room = self.room.take().expect("a group is committed once");
        for (record, seq) in self.records.iter().zip(seqs) {
            let record = &mut room.bytes()[record.clone()];
            match seq {
                Some(seq) => patch_seq(record, seq.0),
                None => void_record(record),
            }
        }
        for (index, run) in &mut self.runs {
            if let Some(seq) = seqs[*index] {
                run.commit(seq);
            }
        }
        room.commit();
        self.ticket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'c>(key: &'c [u8], value: &'c [u8]) -> Planned<'c> {
        let change = Change::Entry { key, value, expiry_ms: None };
        Planned::of(MapId(1), StreamId(0), change)
    }

    #[test]
    fn no_value_leaves_a_groups_room_before_a_longer_one_and_none_in_vain() {
        let values: Vec<Vec<u8>> = [5, 900, 40, 13, 300].map(|len| vec![7; len]).to_vec();
        let planned = || values.iter().map(|value| entry(b"key", value)).collect::<Vec<_>>();
        let whole = push_out(&mut planned(), usize::MAX);
        let is_out = |max: usize| {
            let mut planned = planned();
            let len = push_out(&mut planned, max);
            let here: usize = planned.iter().map(|each| each.header.encoded_len()).sum();
            assert_eq!(len, here, "bytes for a bound of {max}");
            (planned.iter().map(|each| each.header.part.is_some()).collect::<Vec<_>>(), len)
        };
        assert_eq!(is_out(whole), (vec![false; 5], whole));
        assert_eq!(is_out(whole - 1).0, [false, true, false, false, false]);
        let (out, len) = is_out(500);
        assert_eq!((out.as_slice(), len <= 500), (&[false, true, false, false, false][..], true));
        let (out, len) = is_out(300);
        assert_eq!((out.as_slice(), len <= 300), (&[false, true, false, false, true][..], true));
        let (out, len) = is_out(1);
        assert_eq!(out, [false, true, true, true, true], "5 bytes take less than their name");
        assert!(len > 1, "and what does not fit is told");
    }
}
