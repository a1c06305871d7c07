//! Removing: a fact with its own stamp, logged like a put.

use super::access::{find_locked, find_pinned, live_bytes};
use super::node::{Holding, NoRoom};
use super::{Inner, MapCore};
use crate::entry::view::EntryView;
use crate::error::Error;
use crate::ids::StreamId;
use crate::index::word::Word;
use crate::log::{Change, Log};
use crate::slab::batch::BATCH_BYTES;

impl<L: Log> Inner<L> {
    /// Removes a key if `wanted` accepts its entry. `wanted` may be asked twice: before the lock and under
    /// it. `Some` with the ticket when it was removed.
    pub(crate) fn remove_if(
        &self,
        map: &MapCore<L>,
        stream: StreamId,
        key: &[u8],
        wanted: impl Fn(&EntryView<'_>) -> bool,
    ) -> Result<Option<L::Ticket>, Error> {
        self.check_lengths(key, 0)?;
        map.check()?;
        self.log.check().map_err(Error::Log)?;
        let hash = self.hash.of(key);
        let place = self.place(map, stream);
        {
            let pin = self.pin();
            match find_pinned(&place.node.arena, place.table, place.table.homes(hash), key, &pin) {
                Some(view) if wanted(&view) => {}
                _ => return Ok(None),
            }
        }
        self.may_retire(place.node)?;
        let prepared = place
            .node
            .prepare(None, Holding::Nothing)
            .map_err(|NoRoom| self.capacity(place.node, BATCH_BYTES))?;
        loop {
            let change = Change::Absence { key };
            let mut room = self.log.reserve(map.spec.id, stream, change).map_err(Error::Log)?;
            self.log.write(&mut room, change);
            let locked = self.lock_stream(&place);
            map.check()?;
            let position = L::position(&room);
            if position < locked.position() {
                continue;
            }
            let Some((found, view)) =
                find_locked(&place.node.arena, place.table, place.table.homes(hash), key, &locked)
            else {
                return Ok(None);
            };
            if !wanted(&view) {
                return Ok(None);
            }
            let seq = locked.next_seq(stream)?;
            if !self.log.admits(seq) {
                drop((locked, room));
                self.log.wait_to_admit(seq).map_err(Error::Log)?;
                continue;
            }
            let location = view.location();
            let slot_bytes = place.node.slot_bytes(&view);
            place.table.sub(live_bytes(&view), slot_bytes);
            place.table.publish(found.place, Word::EMPTY);
            let ticket = self.log.commit(room, seq);
            locked.set_seq(seq);
            locked.set_position(position);
            drop(locked);
            prepared.settle(Some((location, slot_bytes)));
            return Ok(Some(ticket));
        }
    }
}
