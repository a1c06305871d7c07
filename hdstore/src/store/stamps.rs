//! What a log asks of the store: which of these records are still what the store holds?
//!
//! Invariant: a seq is given once in a stream, so an entry whose slot holds a record's seq is that record,
//! and no key has to be compared; the index hash is enough to find it. What is handed to the caller lies
//! under a pin and is one whole entry.
//!
//! Caller: the compactor of `hotrestart`. Stamps go in groups whose cache misses run side by side; a group
//! costs one pin. Nothing is locked and nothing is changed.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::Store;
use super::access::{find_pinned, find_stamp};
use super::maps::{MapCore, MapsById};
use super::read::GROUP;
use crate::ids::{MapId, Seq, StreamId};
use crate::log::Log;

/// Which record: its place in a stream's history, and its key's hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The map.
    pub map: MapId,
    /// The stream.
    pub stream: StreamId,
    /// The key's index hash.
    pub hash: u64,
    /// The seq.
    pub seq: Seq,
}

/// An entry that is current.
#[derive(Clone, Copy, Debug)]
pub struct Current<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// When it expires, in milliseconds since 1970. It may have expired.
    pub expiry_ms: Option<u64>,
}

/// The maps of a store by number, for looking stamps up.
pub struct Stamps<L: Log> {
    store: Store<L>,
    maps: MapsById<L>,
}

impl<L: Log> std::fmt::Debug for Stamps<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stamps").field("maps", &self.maps.len()).finish_non_exhaustive()
    }
}

impl<L: Log> Store<L> {
    /// A view of the store by stamps. It knows the maps there are now; see [`Stamps::refresh`].
    pub fn stamps(&self) -> Stamps<L> {
        Stamps { store: self.clone(), maps: MapsById::of(&self.inner) }
    }
}

impl<L: Log> Stamps<L> {
    /// Takes in the maps that were made, and forgets those that were dropped, since.
    pub fn refresh(&mut self) {
        self.maps = MapsById::of(&self.store.inner);
    }

    /// Lets go of maps that were dropped since: what is known here keeps their tables.
    pub fn forget_dropped(&mut self) {
        if self.maps.iter().any(|map| map.is_dropped.load(Ordering::Relaxed)) {
            self.refresh();
        }
    }

    /// Whether the map is one of the store's.
    pub fn knows(&self, map: MapId) -> bool {
        self.map(map).is_some()
    }

    /// Calls `each` with the number and the entry of every stamp that is current, in their order, until it
    /// says to stop.
    pub fn current(
        &self,
        stamps: &[Stamp],
        mut each: impl FnMut(usize, Current<'_>) -> ControlFlow<()>,
    ) {
        let inner = &*self.store.inner;
        for (group_index, group) in stamps.chunks(GROUP).enumerate() {
            let pin = inner.pin();
            let mut places: [_; GROUP] = std::array::from_fn(|index| {
                let stamp = group.get(index)?;
                if stamp.stream.0 >= inner.streams {
                    return None;
                }
                let place = inner.place(self.map(stamp.map)?, stamp.stream);
                let homes = place.table.prefetch(stamp.hash);
                Some((place, homes))
            });
            for (stamp, target) in group.iter().zip(&mut places) {
                let Some((place, homes)) = target else { continue };
                match place.table.may_have(homes, stamp.seq) {
                    Some(word) => place.node.arena.prefetch(word.location().offset()),
                    // Most records of a victim are stale, and end here, without a look at any slot.
                    None => *target = None,
                }
            }
            let views: [_; GROUP] = std::array::from_fn(|index| {
                let (stamp, (place, homes)) = (group.get(index)?, places[index].as_ref()?);
                let arena = &place.node.arena;
                let view = find_stamp(arena, place.table, *homes, stamp.seq, &pin)?;
                // The rest of the entry comes while the others are looked up.
                let bytes = (view.key().len() + view.value().len()) as u64;
                arena.prefetch_bytes(view.location().offset() + 64, bytes);
                Some(view)
            });
            for (index, view) in views.iter().enumerate() {
                let Some(view) = view else { continue };
                let (key, value, expiry_ms) = (view.key(), view.value(), view.expiry_ms());
                let entry = Current { key, value, expiry_ms };
                if each(group_index * GROUP + index, entry).is_break() {
                    return;
                }
            }
        }
    }

    /// The seq of a key's entry, which may have expired.
    pub fn newest(&self, map: MapId, stream: StreamId, key: &[u8]) -> Option<Seq> {
        let inner = &*self.store.inner;
        if stream.0 >= inner.streams {
            return None;
        }
        let place = inner.place(self.map(map)?, stream);
        let pin = inner.pin();
        let hash = inner.hash.of(key);
        find_pinned(&place.node.arena, place.table, place.table.homes(hash), key, &pin)
            .map(|view| view.seq())
    }

    fn map(&self, map: MapId) -> Option<&MapCore<L>> {
        self.maps.get(map)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::codec::{Bytes, U64};
    use crate::{IndexHash, MapOptions};

    #[test]
    fn only_the_record_that_a_slot_holds_is_current() {
        // The seqs of a key's records are as many apart; with 512 the byte in their words is the same.
        [500, 512].into_iter().for_each(ask_for_each_of_three_rounds);
    }

    fn ask_for_each_of_three_rounds(keys: u64) {
        let store = Store::builder().memory_limit_bytes(64 << 20).streams(1).hash_seed(7);
        let store = store.in_memory().expect("a store");
        let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
        let hash = IndexHash::new(7);
        let mut asked = Vec::new();
        for round in 0..3_u8 {
            for key in 0..keys {
                map.insert(&key, &[round; 40]).expect("room");
                let (map, stream) = (MapId(1), StreamId(0));
                let (hash, seq) = (hash.of(&key.to_le_bytes()), Seq(asked.len() as u64 + 1));
                asked.push(Stamp { map, stream, hash, seq });
            }
        }
        map.remove(&3).expect("removed");
        let (first, last) = (2 * keys as usize, 2 * keys as usize + 400);
        let stamps = store.stamps();
        let mut found = Vec::new();
        stamps.current(&asked, |index, entry| {
            assert_eq!(entry.value, [2; 40], "an old value");
            assert_eq!(asked[index].hash, hash.of(entry.key));
            assert_eq!(stamps.newest(MapId(1), StreamId(0), entry.key), Some(asked[index].seq));
            found.push(index);
            if index == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let expected: Vec<usize> = (first..=last).filter(|index| *index != first + 3).collect();
        assert_eq!(found, expected);
        let elsewhere = Stamp { map: MapId(9), stream: StreamId(77), hash: 1, seq: Seq(1) };
        stamps.current(&[elsewhere], |_, _| panic!("no such map or stream"));
    }
}
