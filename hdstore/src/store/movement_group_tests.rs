//! A group that moves against what happens between its copies and their publication: other threads have that
//! long in a store, and it is microseconds. Here both steps are taken by hand, and it happens in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Store;
use super::access::view_pinned;
use super::movement_group::Group;
use super::node::Node;
use crate::clock::ManualClock;
use crate::codec::{Bytes, U64};
use crate::ids::{Location, StreamId};
use crate::index::table::{Found, Table};
use crate::map::{Map, MapOptions};
use crate::reclaim::pin::Pinned;
use crate::slab::sparse::{PageSet, class_if_apart};

/// Entries that fill ten pages, and how many of them stay for each that goes.
const FILLED: u64 = 12_000;
const KEPT_OF: u64 = 4;
const VALUE: usize = 200;
/// When the clock of the tests begins, and when every third of the entries expires.
const START_MS: u64 = 1_000;
const EXPIRY_MS: u64 = 2_000;

/// A store of one stream whose sparse pages are set apart, but for a few with room for what they hold.
struct Bed {
    store: Store,
    map: Map<U64, Bytes>,
    clock: Arc<ManualClock>,
    apart: PageSet,
}

/// Some entries of pages that are set apart, as a walk finds and copies them.
struct Copies<'n> {
    keys: Vec<u64>,
    clears: u64,
    group: Group<'n>,
}

impl Bed {
    fn new() -> Bed {
        let clock = Arc::new(ManualClock::new(START_MS));
        let store = Store::builder()
            .memory_limit_bytes(32 << 20)
            .streams(1)
            .lanes(1)
            .hash_seed(1)
            .clock(Arc::clone(&clock))
            .in_memory()
            .expect("a store");
        let map: Map<U64, Bytes> = store.map("m", MapOptions::default()).expect("a map");
        for key in 0..FILLED {
            let value = value(key, 1, VALUE);
            match key % 3 {
                0 => map.insert_expiring(&key, &value, EXPIRY_MS).expect("room"),
                _ => map.insert(&key, &value).expect("room"),
            }
        }
        for key in (0..FILLED).filter(|key| key % KEPT_OF != 0) {
            assert!(map.remove(&key).expect("removals work"));
        }
        let node = &store.inner.nodes[0];
        // Brings every free slot to its page.
        node.give_back(0);
        let outlook = node.slabs.look_for_sparse(&node.arena, 0);
        let apart = node.slabs.set_apart(&node.arena, &outlook, 0);
        assert!(node.slabs.sparse.apart() > 3, "no page is sparse");
        Bed { store, map, clock, apart }
    }

    fn node(&self) -> &Node {
        &self.store.inner.nodes[0]
    }

    fn table(&self) -> Table<'_> {
        self.store.inner.place(&self.map.core, StreamId(0)).table
    }

    /// Every key that a walk over the table meets, with where its entry lies.
    fn places(&self) -> BTreeMap<u64, Location> {
        let pin = self.node().pins.pin();
        let mut places = BTreeMap::new();
        for bucket in 0..self.table().buckets() {
            self.table().for_each_in_bucket(bucket, |found| {
                let former = places.insert(self.key_of(&found, &pin), found.word.location());
                assert_eq!(former, None, "a key is there twice");
            });
        }
        places
    }

    fn key_of(&self, found: &Found, pin: &Pinned<'_>) -> u64 {
        let view = view_pinned(&self.node().arena, found.word, pin);
        u64::from_le_bytes(view.key().try_into().expect("eight bytes"))
    }

    /// The first entries of the table, from a bucket on, that lie in pages that are set apart.
    fn find(&self, from: u64) -> Vec<Found> {
        let (mut left, mut found) = (u64::MAX, Vec::new());
        let range = (from, self.table().buckets());
        self.node().find_apart(&self.table(), &self.apart, range, &mut left, &mut found);
        found
    }

    /// Copies the first entries from a bucket on, under a pin.
    fn copy<'n>(&'n self, from: u64, pin: &Pinned<'_>) -> Copies<'n> {
        let clears = self.table().clears();
        let found = self.find(from);
        assert!(found.len() > 8, "too few entries lie in sparse pages: {}", found.len());
        let keys = found.iter().map(|found| self.key_of(found, pin)).collect();
        let group = self.node().copy_found(&found, pin);
        assert!(group.is_whole, "no retirement was promised");
        Copies { keys, clears, group }
    }

    /// Publishes what was copied, ends the pin, and says how many entries were moved.
    fn publish(&self, copies: Copies<'_>, pin: Pinned<'_>) -> u64 {
        let before = self.node().movement.moved();
        let mut group = copies.group;
        self.node().publish_copied(&self.table(), 0, copies.clears, &mut group, &pin);
        drop(pin);
        self.node().settle_moved(group);
        self.node().movement.moved() - before
    }

    fn is_apart(&self, key: u64) -> bool {
        let location = self.places()[&key];
        let is_apart = class_if_apart(&self.node().arena, location).is_some();
        assert_eq!(is_apart, self.apart.has(location), "the set says what the pages say");
        is_apart
    }

    fn found(&self, key: u64) -> Option<Vec<u8>> {
        self.map.get_owned(&key).expect("a read")
    }

    /// No byte is lost: each is some entry's, or free, and nothing waits.
    fn check_accounts(&self) {
        self.store.maintain(0);
        self.store.maintain(0);
        let stats = self.store.stats();
        assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
        assert_eq!((stats.unreclaimed_bytes, stats.detached_bytes), (0, 0), "something waits");
        assert_eq!(stats.entries, self.places().len() as u64);
    }
}

/// A value that says whose it is, and which of its values.
fn value(key: u64, version: u64, len: usize) -> Vec<u8> {
    (key << 8 | version).to_le_bytes().into_iter().cycle().take(len).collect()
}

#[test]
fn what_moves_leaves_its_page_whole_and_with_its_seq_and_expiry() {
    let bed = Bed::new();
    let guards: BTreeMap<u64, _> = (0..FILLED)
        .step_by(KEPT_OF as usize)
        .map(|key| (key, bed.map.get(&key).expect("a read").expect("there")))
        .collect();
    let pin = bed.node().pins.pin();
    let copies = bed.copy(0, &pin);
    let keys = copies.keys.clone();
    assert!(keys.iter().any(|key| key % 3 == 0), "none that expires");
    assert_eq!(bed.publish(copies, pin), keys.len() as u64);
    for key in &keys {
        assert!(!bed.is_apart(*key), "key {key} has not moved");
        let moved = bed.map.get(key).expect("a read").expect("there");
        let before = &guards[key];
        assert_eq!(moved.value_bytes(), value(*key, 1, VALUE), "key {key}");
        assert_eq!(before.value_bytes(), value(*key, 1, VALUE), "key {key}, under its guard");
        assert_eq!((moved.seq(), moved.expiry_ms()), (before.seq(), before.expiry_ms()));
    }
    drop(guards);
    bed.clock.set_ms(EXPIRY_MS);
    for key in keys {
        assert_eq!(bed.found(key).is_some(), key % 3 != 0, "key {key} and its time");
    }
    bed.check_accounts();
}

#[test]
fn a_value_that_came_after_the_copy_stays_and_a_removed_key_stays_away() {
    let bed = Bed::new();
    let pin = bed.node().pins.pin();
    let copies = bed.copy(0, &pin);
    let keys = copies.keys.clone();
    // Of the same length, so of the same class; of another; gone; gone and there again.
    bed.map.insert(&keys[0], &value(keys[0], 2, VALUE)).expect("room");
    bed.map.insert(&keys[1], &value(keys[1], 2, 3 * VALUE)).expect("room");
    assert!(bed.map.remove(&keys[2]).expect("removals work"));
    assert!(bed.map.remove(&keys[3]).expect("removals work"));
    bed.map.insert(&keys[3], &value(keys[3], 2, VALUE)).expect("room");
    let seqs = |bed: &Bed| {
        let guard = |key: &u64| bed.map.get(key).expect("a read").map(|guard| guard.seq());
        keys[..4].iter().map(guard).collect::<Vec<_>>()
    };
    let before = seqs(&bed);
    assert_eq!(bed.publish(copies, pin), keys.len() as u64 - 4, "what is left has moved");
    assert_eq!(seqs(&bed), before);
    assert_eq!(bed.found(keys[0]), Some(value(keys[0], 2, VALUE)));
    assert_eq!(bed.found(keys[1]), Some(value(keys[1], 2, 3 * VALUE)));
    assert_eq!(bed.found(keys[2]), None);
    assert_eq!(bed.found(keys[3]), Some(value(keys[3], 2, VALUE)));
    for key in &keys[4..] {
        assert!(!bed.is_apart(*key), "key {key} has not moved");
        assert_eq!(bed.found(*key), Some(value(*key, 1, VALUE)), "key {key}");
    }
    bed.check_accounts();
}

#[test]
fn a_table_that_was_cleared_after_the_copy_stays_empty_and_what_came_then_stays() {
    let bed = Bed::new();
    let pin = bed.node().pins.pin();
    let copies = bed.copy(0, &pin);
    let keys = copies.keys.clone();
    assert_eq!(bed.map.clear().expect("cleared"), FILLED / KEPT_OF);
    bed.map.insert(&keys[0], &value(keys[0], 2, VALUE)).expect("room");
    // The detached words still stand where they were found: nothing but the count of clears says more.
    assert_eq!(bed.publish(copies, pin), 0, "moved what was cleared");
    assert_eq!(bed.found(keys[0]), Some(value(keys[0], 2, VALUE)));
    assert!(keys[1..].iter().all(|key| bed.found(*key).is_none()), "back after the clear");
    assert_eq!(bed.places().len(), 1);
    bed.check_accounts();
}

#[test]
fn an_entry_whose_word_moved_to_another_bucket_after_the_copy_stays_and_is_there_once() {
    const MORE: u64 = 20_000;
    let bed = Bed::new();
    let pin = bed.node().pins.pin();
    let copies = bed.copy(0, &pin);
    let keys = copies.keys.clone();
    (FILLED..FILLED + MORE).for_each(|key| bed.map.insert(&key, b"short").expect("room"));
    let moved = bed.publish(copies, pin);
    assert!(0 < moved && moved < keys.len() as u64, "{moved} of {} words stood", keys.len());
    let places = bed.places();
    assert_eq!(places.len() as u64, FILLED / KEPT_OF + MORE);
    for key in &keys {
        assert_eq!(bed.found(*key), Some(value(*key, 1, VALUE)), "key {key}");
    }
    let left = keys.iter().filter(|key| bed.apart.has(places[key])).count() as u64;
    assert_eq!(left, keys.len() as u64 - moved);
    bed.check_accounts();
}

#[test]
fn what_was_copied_in_vain_gives_its_slots_and_promises_back() {
    let bed = Bed::new();
    let (mut in_vain, mut metadata_bytes) = (0, 0);
    for round in 0..40 {
        let pin = bed.node().pins.pin();
        let copies = bed.copy(round * 8, &pin);
        let keys = copies.keys.clone();
        keys.iter().for_each(|key| bed.map.insert(key, &value(*key, 2, VALUE)).expect("room"));
        in_vain += keys.len();
        assert_eq!(bed.publish(copies, pin), 0, "an older value came back");
        for key in keys {
            assert_eq!(bed.found(key), Some(value(key, 2, VALUE)), "key {key}");
        }
        bed.check_accounts();
        if round == 0 {
            metadata_bytes = bed.store.stats().metadata_bytes;
        }
    }
    // A promise that is kept for nothing takes its part of a batch, and more batches in the end.
    assert!(in_vain > 500, "{in_vain}");
    assert!(bed.store.stats().metadata_bytes <= metadata_bytes, "promises were not given back");
}

#[test]
fn entries_of_a_page_that_serves_again_and_those_without_room_elsewhere_stay() {
    let bed = Bed::new();
    let (before, free_bytes) = (bed.places(), bed.store.stats().free_bytes);
    let class = before.values().find_map(|at| class_if_apart(&bed.node().arena, *at));
    let class = class.expect("a page that is set apart");
    // Others take every slot that there is elsewhere.
    let take = || bed.node().slabs.take_elsewhere(&bed.node().arena, class);
    let taken: Vec<_> = std::iter::from_fn(take).collect();
    assert!(taken.len() > 100 && taken.iter().all(|slot| !bed.apart.has(slot.location)));
    let move_some = || {
        let pin = bed.node().pins.pin();
        bed.publish(bed.copy(0, &pin), pin)
    };
    move_some();
    let places = bed.places();
    let of_class = |at: &Location| class_if_apart(&bed.node().arena, *at) == Some(class);
    let mut stay = before.iter().filter(|(_, at)| of_class(at));
    assert!(stay.all(|(key, at)| places[key] == *at), "moved to a page that shall become empty");
    taken.iter().for_each(|slot| bed.node().free_now(slot.location));
    bed.node().flush();
    // The walk still has its set of pages, which nobody wants emptied any more.
    bed.node().slabs.end_apart(&bed.node().arena, 1, false);
    assert_eq!(move_some(), 0, "moved for nothing");
    assert_eq!(bed.places(), places);
    bed.check_accounts();
    assert_eq!(bed.store.stats().free_bytes, free_bytes);
}
