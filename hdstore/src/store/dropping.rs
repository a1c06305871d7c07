//! Dropping a map: its name goes, its memory follows, its number is never given again.
//!
//! Order: the log forgets the map, durably (its one record); handles are refused from then on; the name is
//! free; each stream's table is detached like a cleared one. What cannot be detached at once, since memory
//! for a record of the queue is short and a reader has not left, is detached by later upkeep; the table
//! headers go when the last handle has.
//!
//! Invariants: a put that holds its stream's lock when the map goes is part of what is dropped; one that
//! comes later is refused. Until the log has forgotten the map nothing changes here, and after that nothing
//! fails. Who asks for the map by its name meanwhile still gets it, and is refused later. Callers:
//! `Store::drop_map`; `Store::maintain` and whoever makes or drops a map (`bury`).

use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Weak};

use super::{Inner, MapCore, Maps, Store};
use crate::error::Error;
use crate::ids::StreamId;
use crate::log::Log;
use crate::sync::{fence, lock};

/// A dropped map of which something is left.
pub(super) struct Grave<L: Log> {
    /// Until every table is detached.
    core: Option<Arc<MapCore<L>>>,
    handles: Weak<MapCore<L>>,
    /// Tables of lower streams are detached.
    next_stream: u32,
    slot: u32,
    tables: Vec<u64>,
}

impl<L: Log> Store<L> {
    /// Drops a map with everything in it, in one step however large it is. Returns whether there was one of
    /// this name. Its handles fail with [`Error::Dropped`] from then on, or find nothing where they cannot
    /// fail; guards and walks keep what they hold. A map that is made under the same name later is another
    /// one. Memory comes free as after [`Map::clear`](crate::Map::clear).
    ///
    /// Puts that are under way come before it, and are dropped, or fail.
    ///
    /// # Errors
    /// [`Error::Log`]: the log refused. The map is still there then; but after a crash of a store on disk it
    /// may be gone.
    ///
    /// ```
    /// # use hdstore::{Error, MapOptions, Store, codec::{Str, U64}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Str, U64>("m", MapOptions::default())?;
    /// map.insert("a", &1)?;
    /// assert!(store.drop_map("m")?);
    /// assert!(matches!(map.insert("a", &2), Err(Error::Dropped { name }) if name == "m"));
    /// let other = store.map::<Str, U64>("m", MapOptions::default())?;
    /// assert!(other.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "destroy")]
    pub fn drop_map(&self, name: &str) -> Result<bool, Error> {
        let inner = &*self.inner;
        inner.log.check().map_err(Error::Log)?;
        let _making = lock(&inner.making);
        let core = {
            let maps = inner.maps.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            maps.by_name.get(name).cloned()
        };
        let Some(core) = core else { return Ok(false) };
        inner.log.drop_map(core.spec.id).map_err(Error::Log)?;
        let mut maps = inner.maps.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Before the locks of its streams are taken: whoever takes one after that sees it.
        core.is_dropped.store(true, Release);
        maps.by_name.remove(name);
        maps.in_order.retain(|map| map.spec.id != core.spec.id);
        let grave = Grave {
            handles: Arc::downgrade(&core),
            next_stream: 0,
            slot: core.slot,
            tables: core.tables.clone(),
            core: Some(core),
        };
        maps.graves.push(grave);
        inner.bury(&mut maps);
        Ok(true)
    }
}

impl<L: Log> Inner<L> {
    /// Goes on with dropped maps: detaches what is left, and frees the headers that no handle can reach.
    pub(super) fn bury(&self, maps: &mut Maps<L>) {
        let mut graves = std::mem::take(&mut maps.graves);
        graves.retain_mut(|grave| {
            if let Some(core) = &grave.core {
                while grave.next_stream < self.streams
                    && self.detach_dropped(core, StreamId(grave.next_stream))
                {
                    grave.next_stream += 1;
                }
                if grave.next_stream == self.streams {
                    grave.core = None;
                }
            }
            let is_held = grave.core.is_some() || grave.handles.strong_count() > 0;
            if !is_held {
                // The pair of the `Release` by which the last handle went, as in `Arc`'s own drop: the count
                // alone does not order what was done with the tables before they are freed.
                fence(Acquire);
                self.unmake_tables(grave.slot, &grave.tables);
                maps.free_slots.push(std::cmp::Reverse(grave.slot));
            }
            is_held
        });
        maps.graves = graves;
    }

    /// Detaches a table of a dropped map; false when there is no memory for the record.
    fn detach_dropped(&self, core: &MapCore<L>, stream: StreamId) -> bool {
        let place = self.place(core, stream);
        // Under the lock of all maps: what finds no memory now is left to upkeep.
        let Ok(record) = place.node.record_at_once() else { return false };
        let locked = self.lock_stream(&place);
        let counts = place.table.counts();
        if counts.buckets == 0 {
            return true;
        }
        let pieces = place.table.detach();
        drop(locked);
        record.queue(&pieces, counts.slot_bytes, counts.overflow_buckets);
        true
    }

    /// Maps of which something is left: how many, and what their tables hold that is not detached.
    pub(super) fn graves(&self) -> (u64, u64) {
        let maps = self.maps.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let left = maps.graves.iter().filter_map(|grave| grave.core.as_ref());
        let bytes = left
            .map(|core| self.map_stats(core, self.all()))
            .map(|left| left.slot_bytes + left.index_bytes);
        (maps.graves.len() as u64, bytes.sum())
    }

    /// Goes on with dropped maps, if there are any.
    pub(crate) fn bury_all(&self) {
        let is_any = {
            let maps = self.maps.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            !maps.graves.is_empty()
        };
        if is_any {
            self.bury(&mut self.maps.write().unwrap_or_else(std::sync::PoisonError::into_inner));
        }
    }
}
