//! Reading: pin, find, look. No lock, no allocation, no system call, no shared line written but the pin's
//! own.

use super::access::{find_pinned, view_published};
use super::node::thread_index;
use super::{Inner, MapCore, Place};
use crate::clock::Clock;
use crate::entry::view::EntryView;
use crate::hash::stream_of;
use crate::ids::{Location, StreamId};
use crate::index::table::Homes;
use crate::log::Log;
use crate::reclaim::hazard::Published;
use crate::reclaim::pin::Pinned;

/// A published slot of a node.
pub(crate) struct Held<'a> {
    node: &'a super::Node,
    location: Location,
    published: Published<'a>,
}

impl Held<'_> {
    pub(crate) fn view(&self) -> EntryView<'_> {
        view_published(&self.node.arena, self.location, &self.published)
    }
}

/// How many keys of a batch are looked up side by side.
pub(crate) const GROUP: usize = 16;

impl<L: Log> Inner<L> {
    #[inline]
    pub(crate) fn stream_of(&self, key: &[u8]) -> StreamId {
        if self.streams == 1 { StreamId(0) } else { stream_of(key, self.streams) }
    }

    /// Whether an entry has expired; the clock is read only when it can.
    #[inline]
    pub(crate) fn is_expired(&self, view: &EntryView<'_>) -> bool {
        view.expiry_ms().is_some_and(|expiry_ms| expiry_ms <= self.clock.wall_ms())
    }

    /// Calls `look` with the entry of a key, under a pin.
    #[inline]
    pub(crate) fn read<R>(
        &self,
        map: &MapCore<L>,
        stream: StreamId,
        key: &[u8],
        look: impl FnOnce(&EntryView<'_>) -> R,
    ) -> Option<R> {
        let hash = self.hash.of(key);
        let Place { node, table, .. } = self.place(map, stream);
        let pin = self.pin();
        let view = find_pinned(&node.arena, table, table.homes(hash), key, &pin)?;
        if self.is_expired(&view) {
            return None;
        }
        Some(look(&view))
    }

    /// Finds a key and publishes its slot, so that the value outlives the call.
    #[inline]
    pub(crate) fn hold<'a>(
        &'a self,
        map: &MapCore<L>,
        stream: StreamId,
        key: &[u8],
    ) -> Option<Held<'a>> {
        let hash = self.hash.of(key);
        let Place { node, table, .. } = self.place(map, stream);
        let pin = self.pin();
        let view = find_pinned(&node.arena, table, table.homes(hash), key, &pin)?;
        if self.is_expired(&view) {
            return None;
        }
        Some(self.hold_view(node, &view))
    }

    /// Publishes the slot of a view that a pin of the caller protects.
    pub(crate) fn hold_view<'a>(&'a self, node: &'a super::Node, view: &EntryView<'_>) -> Held<'a> {
        let location = view.location();
        Held { node, location, published: node.hazards.publish(location, thread_index()) }
    }

    /// Looks up many keys, their cache misses side by side, and calls `each` with the index and entry of
    /// each.
    pub(crate) fn read_many<K: AsRef<[u8]>>(
        &self,
        map: &MapCore<L>,
        keys: &[K],
        stream_of: impl Fn(&[u8]) -> StreamId,
        mut each: impl FnMut(usize, Option<&EntryView<'_>>),
    ) {
        let pin = self.pin();
        for (group_index, group) in keys.chunks(GROUP).enumerate() {
            let places = self.fetch_group(map, group, &stream_of, &pin);
            for (index, (key, slot)) in group.iter().zip(&places).enumerate() {
                let Some((homes, place)) = slot else { continue };
                let view = find_pinned(&place.node.arena, place.table, *homes, key.as_ref(), &pin)
                    .filter(|view| !self.is_expired(view));
                each(group_index * GROUP + index, view.as_ref());
            }
        }
    }

    /// Says where the searches for up to [`GROUP`] keys begin, and brings their lines in and those of the
    /// entries, all side by side.
    #[inline]
    pub(crate) fn fetch_group<'a, K: AsRef<[u8]>>(
        &'a self,
        map: &MapCore<L>,
        keys: &[K],
        stream_of: &impl Fn(&[u8]) -> StreamId,
        _pin: &Pinned<'_>,
    ) -> [Option<(Homes, Place<'a>)>; GROUP] {
        let mut places: [Option<(Homes, Place<'_>)>; GROUP] = [const { None }; GROUP];
        for (key, slot) in keys.iter().zip(&mut places) {
            let key = key.as_ref();
            let (hash, place) = (self.hash.of(key), self.place(map, stream_of(key)));
            *slot = Some((place.table.prefetch(hash), place));
        }
        for (homes, place) in places.iter_mut().flatten() {
            if let Some(word) = place.table.likely(homes) {
                place.node.arena.prefetch(word.location().offset());
            }
        }
        places
    }
}
