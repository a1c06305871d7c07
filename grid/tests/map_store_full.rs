//! Maps over a user's database of which no more changes may wait.

#[path = "support/rows.rs"]
mod rows;
mod support;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdgrid::{
    BlockingMapStore, EntryEventKind, Map, MapError, MapEvent, MapStoreConfig, OnThreads,
    StoreError,
};
use rows::{Number, Rows};
use support::{Bed, eventually};

type Numbers = Map<Number, Number>;

const DELAY: Duration = Duration::from_secs(5);

/// So many may wait, others for room for so long.
fn config(write_capacity: u64, write_room_timeout: Duration) -> MapStoreConfig {
    let write_capacity = write_capacity.try_into().expect("some");
    let config = MapStoreConfig::default();
    MapStoreConfig { write_delay: DELAY, write_capacity, write_room_timeout, ..config }
}

const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(60);

fn bed_with(rows: &Rows, config: MapStoreConfig) -> Bed {
    let rows = rows.clone();
    Bed::with(move |builder| builder.map_store("m", config.clone(), rows.clone()))
}

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

#[track_caller]
fn assert_full<T: std::fmt::Debug>(done: Result<T, MapError>) {
    assert!(matches!(done, Err(MapError::MapStoreFull { .. })), "{done:?}");
}

#[test]
fn what_needs_no_room_waits_for_none() {
    let rows = Rows::of([(3, 30), (4, 40)]);
    let bed = bed_with(&rows, config(2, SOON));
    let map = map(&bed);
    let map = map.blocking();
    map.loaded().expect("loaded");
    map.set(&1, &1).expect("room");
    map.set(&2, &2).expect("room");
    assert_full(map.set(&5, &5));
    assert_full(map.remove(&3));
    assert_full(map.compute(&4, |_| Some(41)));
    assert_full(map.clear());
    // The place of one that waits is taken.
    map.set(&1, &11).expect("coalesces");
    assert_eq!(map.compute(&2, |old| old.map(|old| old + 10)).expect("coalesces"), Some(12));
    assert_eq!(map.remove(&1).expect("coalesces"), Some(11));
    // Nothing happens.
    assert_eq!(map.put_if_absent(&3, &0).expect("there"), Some(30));
    assert_eq!(map.replace(&77, &0).expect("absent"), None);
    assert_eq!(map.remove(&77).expect("absent"), None);
    assert!(!map.remove_if_same(&3, &31).expect("another"));
    assert_eq!(map.compute(&78, |_| None).expect("absent"), None);
    // The database is not told.
    assert!(map.set_ttl(&4, Duration::from_secs(60)).expect("there"));
    assert!(map.evict(&2).expect("evicted"));
    assert_eq!(map.evict_all().expect("evicted"), 2);
    assert_eq!(map.get_all(&[&1, &2, &3, &4]).expect("get"), [None, Some(12), Some(30), Some(40)]);
    // What was refused has changed nothing.
    assert_eq!(map.flush().expect("flushed"), 0);
    assert_eq!(rows.rows(), [(2, 12), (3, 30), (4, 40)]);
}

#[test]
fn what_waits_for_room_is_done_and_told_once() {
    let rows = Rows::default();
    let bed = bed_with(&rows, config(1, LATE));
    let map = map(&bed);
    let (tell, told) = channel();
    let listening = map.listen().values().register(move |event| {
        if let MapEvent::Entry(event) = event {
            tell.send((event.kind(), event.key().expect("a number"))).expect("heard");
        }
    });
    listening.expect("listening");
    map.blocking().set(&1, &1).expect("room");
    let waits = std::thread::spawn({
        let map = map.clone();
        move || map.blocking().set(&2, &2)
    });
    eventually("it waits, and its key is taken", || {
        !map.blocking().try_put(&2, &3, Duration::ZERO).expect("not yet")
    });
    eventually("room", || {
        bed.pass(DELAY);
        waits.is_finished()
    });
    waits.join().expect("no panic").expect("room in the end");
    eventually("stored", || {
        bed.pass(DELAY);
        rows.rows() == [(1, 1), (2, 2)]
    });
    let told: Vec<_> = told.try_iter().collect();
    assert_eq!(told, [(EntryEventKind::Added, 1), (EntryEventKind::Added, 2)]);
}

#[test]
fn what_finds_no_room_is_told_to_no_listener_though_its_value_is_there() {
    let rows = Rows::of([(2, 2)]);
    let bed = bed_with(&rows, config(1, SOON));
    let map = map(&bed);
    map.blocking().loaded().expect("loaded");
    map.blocking().set(&1, &1).expect("room");
    let (tell, told) = channel();
    let listening = map.listen().register(move |_| tell.send(()).expect("heard"));
    listening.expect("listening");
    assert_full(map.blocking().set(&2, &2));
    bed.pass(Duration::ZERO);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), []);
}

#[test]
fn never_more_changes_wait_than_may() {
    let rows = Rows::default();
    rows.state().failing.extend(["store", "store_all"]);
    let bed = bed_with(&rows, config(5, SOON));
    let map = map(&bed);
    let done: usize = std::thread::scope(|scope| {
        let each = (0..8).map(|thread| {
            let map = map.clone();
            let put = move |key: i32| map.blocking().set(&(thread * 100 + key), &key);
            scope.spawn(move || (0..5).filter(|key| put(*key).is_ok()).count())
        });
        let each: Vec<_> = each.collect();
        each.into_iter().map(|each| each.join().expect("no panic")).sum()
    });
    assert_eq!((done, map.len(), map.local_map_stats().dirty_entry_count), (5, 5, 5));
}

#[test]
fn a_refused_change_that_a_newer_one_has_outdated_is_told_no_more() {
    let rows = Rows::default();
    rows.state().refused.insert(13);
    rows.pause("store");
    let bed = bed_with(&rows, config(9, SOON));
    let map = map(&bed);
    map.blocking().set(&1, &13).expect("set");
    bed.pass(DELAY);
    rows.await_waiting(1);
    map.blocking().set(&1, &14).expect("set");
    assert_eq!(map.local_map_stats().dirty_entry_count, 2);
    rows.go_on();
    eventually("the newer one alone waits", || map.local_map_stats().dirty_entry_count == 1);
    eventually("stored", || {
        bed.pass(DELAY);
        rows.rows() == [(1, 14)]
    });
    let mut asked = rows.take_asked();
    asked.retain(|call| call.starts_with("store"));
    assert_eq!(asked, ["store 1 13", "store 1 14"]);
    assert_eq!(map.local_map_stats().map_store_refusal_count, 1);
}

/// Takes a row each time that it is told to.
struct Gate(Arc<Mutex<Receiver<()>>>);

impl BlockingMapStore<Number, Number> for Gate {
    fn load(&self, _key: &i32) -> Result<Option<i32>, StoreError> {
        Ok(None)
    }

    fn post_processes(&self) -> bool {
        true
    }

    fn store(&self, _key: &i32, _value: &i32) -> Result<Option<i32>, StoreError> {
        Ok(self.0.lock().expect("one at a time").recv().map(|()| None)?)
    }

    fn delete(&self, _key: &i32) -> Result<(), StoreError> {
        Ok(())
    }
}

#[test]
fn each_change_that_a_slow_database_takes_makes_room_at_once() {
    let (take, takes): (Sender<()>, _) = channel();
    let takes = Arc::new(Mutex::new(takes));
    let bed = Bed::with(move |builder| {
        let store = OnThreads::new(Gate(Arc::clone(&takes)));
        builder.map_store("m", config(3, LATE), store)
    });
    let map = map(&bed);
    for key in 1..=3 {
        map.blocking().set(&key, &key).expect("room");
    }
    bed.pass(DELAY);
    for left in [2, 1] {
        take.send(()).expect("it waits");
        eventually("room for one", || map.local_map_stats().dirty_entry_count == left);
    }
    drop(take);
}
