//! Maps over a user's database that hears of changes later.

#[path = "support/rows.rs"]
mod rows;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use hdgrid::{Map, MapError, MapStoreConfig};
use proptest::prelude::*;
use rows::{Number, Rows};
use support::{Bed, eventually};

type Numbers = Map<Number, Number>;

const DELAY: Duration = Duration::from_secs(5);

fn config() -> MapStoreConfig {
    let write_room_timeout = Duration::from_millis(200);
    MapStoreConfig { write_delay: DELAY, write_room_timeout, ..MapStoreConfig::default() }
}

fn bed_with(rows: &Rows, config: MapStoreConfig) -> Bed {
    let rows = rows.clone();
    Bed::with(move |builder| builder.map_store("m", config.clone(), rows.clone()))
}

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

/// Has time pass until nothing waits but what is set aside.
#[track_caller]
fn settle(bed: &Bed, map: &Numbers) {
    eventually("everything is stored", || {
        bed.pass(Duration::from_secs(60));
        let stats = map.local_map_stats();
        stats.dirty_entry_count == stats.dead_letter_count
    });
}

/// A flush, while time passes: what was refused just before it waits.
fn flushed(bed: &Bed, map: &Numbers) -> u64 {
    std::thread::scope(|scope| {
        let map = map.clone();
        let flush = scope.spawn(move || map.blocking().flush().expect("flushed"));
        eventually("flushed", || {
            bed.pass(Duration::from_secs(1));
            flush.is_finished()
        });
        flush.join().expect("joined")
    })
}

fn stores(rows: &Rows) -> Vec<String> {
    let mut asked = rows.take_asked();
    asked.retain(|call| call.starts_with("store") || call.starts_with("delete"));
    asked
}

#[test]
fn a_change_is_stored_no_earlier_than_its_delay_and_the_last_of_a_key_alone() {
    let rows = Rows::default();
    let bed = bed_with(&rows, config());
    let map = map(&bed);
    map.blocking().set(&1, &1).expect("set");
    bed.pass(DELAY - Duration::from_millis(1));
    map.blocking().set(&1, &2).expect("set");
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!((stores(&rows).len(), map.local_map_stats().dirty_entry_count), (0, 1));
    bed.pass(Duration::from_millis(1));
    eventually("stored", || map.local_map_stats().dirty_entry_count == 0);
    assert_eq!((stores(&rows), rows.rows()), (vec!["store 1 2".to_owned()], vec![(1, 2)]));
}

#[test]
fn where_changes_do_not_coalesce_each_reaches_the_database_in_its_order() {
    let rows = Rows::default();
    let bed = bed_with(&rows, MapStoreConfig { write_coalescing: false, ..config() });
    let map = map(&bed);
    for value in 1..=5 {
        map.blocking().set(&1, &value).expect("set");
    }
    assert!(map.blocking().delete(&1).expect("deleted"));
    map.blocking().set(&1, &9).expect("set");
    settle(&bed, &map);
    let expected =
        ["store 1 1", "store 1 2", "store 1 3", "store 1 4", "store 1 5", "delete 1", "store 1 9"];
    assert_eq!(stores(&rows), expected);
}

#[test]
fn readers_see_what_waits_whatever_the_database_has() {
    let rows = Rows::of([(1, 10), (2, 20)]);
    let bed = bed_with(&rows, config());
    let map = map(&bed);
    map.blocking().loaded().expect("loaded");
    map.blocking().set(&1, &11).expect("set");
    assert!(map.blocking().delete(&2).expect("deleted"));
    assert!(map.blocking().evict(&1).expect("evicted"));
    rows.take_asked();
    assert_eq!(map.blocking().get_all(&[&1, &2]).expect("get"), [Some(11), None]);
    assert!(map.blocking().evict(&1).expect("it is in memory again"));
    assert_eq!(map.blocking().get(&1).expect("get"), Some(11));
    assert!(map.blocking().evict(&1).expect("evicted"));
    assert_eq!(map.blocking().replace(&1, &12).expect("replaced"), Some(11));
    assert!(map.blocking().evict(&1).expect("evicted"));
    assert_eq!(map.blocking().remove(&1).expect("removed"), Some(12));
    map.blocking().set(&1, &11).expect("set");
    assert_eq!(map.blocking().put(&2, &21).expect("put"), None);
    assert_eq!(map.blocking().load_all(true).expect("loaded"), 2, "what waits counts, too");
    assert_eq!(map.blocking().get_all(&[&1, &2]).expect("get"), [Some(11), Some(21)]);
    assert_eq!(rows.take_asked(), [""; 0]);
    settle(&bed, &map);
    assert_eq!(rows.rows(), [(1, 11), (2, 21)]);
}

#[test]
fn what_waits_survives_a_restart_and_reaches_the_database_though_nobody_opens_the_map() {
    for write_coalescing in [true, false] {
        let rows = Rows::of([(1, 10)]);
        let mut bed = bed_with(&rows, MapStoreConfig { write_coalescing, ..config() });
        let map = map(&bed);
        for key in 0..100 {
            map.blocking().set(&key, &key).expect("set");
            map.blocking().set(&key, &(key + 1000)).expect("set");
        }
        assert!(map.blocking().delete(&1).expect("deleted"));
        drop(map);
        bed.stop();
        assert_eq!((stores(&rows).len(), rows.rows()), (0, vec![(1, 10)]));
        bed.restart_stopped();
        let expected: Vec<_> =
            (0..100).filter(|key| *key != 1).map(|key| (key, key + 1000)).collect();
        eventually("everything is stored", || {
            bed.pass(Duration::from_secs(1));
            rows.rows() == expected
        });
        let map = self::map(&bed);
        settle(&bed, &map);
        assert_eq!((map.len(), map.blocking().get(&1).expect("get")), (99, None));
    }
}

/// Sets a change of key 1 aside: the database refuses it, and takes others.
fn set_aside(rows: &Rows, bed: &Bed, map: &Numbers, value: i32) {
    rows.state().refused.insert(value);
    map.blocking().set(&1, &value).expect("set");
    let mut next = 100;
    eventually("set aside", || {
        let _ = map.blocking().set(&next, &next);
        next += 1;
        bed.pass(Duration::from_secs(60));
        map.local_map_stats().dead_letter_count == 1
    });
    settle(bed, map);
}

#[test]
fn the_next_change_of_a_key_has_what_is_set_aside_tried_again_before_it() {
    let rows = Rows::default();
    let refusals_max = 1.try_into().expect("some");
    let bed = bed_with(&rows, MapStoreConfig { refusals_max, write_coalescing: false, ..config() });
    let map = map(&bed);
    set_aside(&rows, &bed, &map, 13);
    rows.state().refused.clear();
    stores(&rows);
    map.blocking().set(&1, &14).expect("set");
    assert_eq!((flushed(&bed, &map), stores(&rows).len()), (0, 2), "in their order");
    assert_eq!(rows.state().rows[&1], 14);
    let stats = map.local_map_stats();
    assert_eq!((stats.dirty_entry_count, stats.dead_letter_count), (0, 0));
}

#[test]
fn who_waits_for_room_hears_of_room_that_is_given_up() {
    let rows = Rows::default();
    let (refusals_max, write_capacity) = (1.try_into().expect("some"), 2.try_into().expect("some"));
    let write_room_timeout = Duration::from_secs(3_600);
    let bed = bed_with(
        &rows,
        MapStoreConfig { refusals_max, write_capacity, write_room_timeout, ..config() },
    );
    let map = map(&bed);
    set_aside(&rows, &bed, &map, 13);
    map.blocking().set(&2, &2).expect("the last room");
    std::thread::scope(|scope| {
        let other = map.clone();
        let set = scope.spawn(move || other.blocking().set(&3, &3));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(map.drop_dead_letters(), 1);
        set.join().expect("joined").expect("there is room");
    });
}

#[test]
fn what_post_processes_is_told_each_entry_by_itself() {
    let rows = Rows::default();
    rows.state().raised_by = 1;
    let bed = bed_with(&rows, config());
    let map = map(&bed);
    map.blocking().set(&1, &1).expect("set");
    map.blocking().set(&2, &2).expect("set");
    assert_eq!(flushed(&bed, &map), 0);
    assert!(stores(&rows).iter().all(|call| !call.starts_with("store_all")));
    assert_eq!(rows.rows(), [(1, 2), (2, 3)]);
    assert_eq!(map.blocking().get(&1).expect("get"), Some(1), "the map keeps what it was given");
}

#[test]
fn while_the_database_is_down_nothing_is_lost_or_set_aside_and_what_waits_is_bounded() {
    let rows = Rows::default();
    let write_capacity = 20.try_into().expect("some");
    let bed = bed_with(&rows, MapStoreConfig { write_capacity, ..config() });
    let map = map(&bed);
    rows.state().failing.extend(["store", "store_all", "delete"]);
    for key in 0..20 {
        map.blocking().set(&key, &key).expect("room");
    }
    for _ in 0..50 {
        bed.pass(Duration::from_secs(40));
        std::thread::sleep(Duration::from_millis(2));
    }
    let full = map.blocking().set(&99, &99);
    assert!(matches!(full, Err(MapError::MapStoreFull { waiting: 20, .. })), "{full:?}");
    assert!(matches!(map.blocking().compute(&98, |_| Some(1)), Err(MapError::MapStoreFull { .. })));
    let stats = map.local_map_stats();
    assert_eq!((stats.dirty_entry_count, stats.dead_letter_count), (20, 0));
    assert!(stats.map_store_refusal_count >= 20, "{stats:?}");
    rows.state().failing.clear();
    settle(&bed, &map);
    map.blocking().set(&99, &99).expect("room");
    settle(&bed, &map);
    assert_eq!(rows.rows().len(), 21);
}

#[test]
fn a_change_that_the_database_refuses_holds_up_no_other_and_is_set_aside() {
    let rows = Rows::default();
    let refusals_max = 3.try_into().expect("some");
    let bed = bed_with(&rows, MapStoreConfig { refusals_max, ..config() });
    let map = map(&bed);
    rows.state().refused.insert(13);
    let mut next = 100;
    map.blocking().set(&1, &13).expect("set");
    map.blocking().set(&2, &666).expect("set, and the store will panic");
    eventually("set aside", || {
        map.blocking().set(&next, &next).expect("set");
        bed.pass(Duration::from_secs(60));
        eventually("others are stored", || rows.state().rows.contains_key(&next));
        next += 1;
        map.local_map_stats().dead_letter_count == 2
    });
    settle(&bed, &map);
    let letters = map.dead_letters().expect("readable");
    let mut told: Vec<_> =
        letters.iter().map(|letter| (letter.key, letter.value, &*letter.error)).collect();
    told.sort_unstable();
    let panicked = "it panicked: the number of the beast";
    assert_eq!(told, [(1, Some(13), "13 is refused"), (2, Some(666), panicked)]);
    assert_eq!(flushed(&bed, &map), 2, "nobody waits for them");

    rows.state().refused.clear();
    map.blocking().set(&2, &22).expect("set");
    assert_eq!((map.retry_dead_letters(), map.local_map_stats().dead_letter_count), (1, 0));
    settle(&bed, &map);
    let stored = rows.rows();
    assert!(stored.starts_with(&[(1, 13), (2, 22)]), "{stored:?}");
}

#[test]
fn what_is_given_up_leaves_the_database_and_the_map_as_they_are() {
    let rows = Rows::of([(1, 10)]);
    let refusals_max = 1.try_into().expect("some");
    let mut bed = bed_with(&rows, MapStoreConfig { refusals_max, ..config() });
    let map = map(&bed);
    rows.state().refused.insert(13);
    map.blocking().set(&1, &13).expect("set");
    let mut next = 100;
    eventually("set aside", || {
        map.blocking().set(&next, &next).expect("set");
        next += 1;
        bed.pass(Duration::from_secs(60));
        map.local_map_stats().dead_letter_count == 1
    });
    settle(&bed, &map);
    assert_eq!((map.drop_dead_letters(), map.drop_dead_letters()), (1, 0));
    assert_eq!((map.blocking().get(&1).expect("get"), rows.state().rows[&1]), (Some(13), 10));
    assert_eq!(map.local_map_stats().dirty_entry_count, 0);
    drop(map);
    rows.take_asked();
    bed.restart();
    bed.pass(Duration::from_secs(60));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(stores(&rows), [""; 0], "also after a restart");
}

#[test]
fn a_flush_does_not_wait_for_the_delay_and_waits_for_what_is_under_way() {
    let rows = Rows::default();
    let bed = bed_with(&rows, config());
    let map = map(&bed);
    map.blocking().set(&1, &1).expect("set");
    rows.pause("store");
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| map.clone().blocking().flush().expect("flushed"));
        rows.await_waiting(1);
        // What is put while a change is away waits for itself, and the flush does not wait for it.
        map.blocking().set(&1, &111).expect("set");
        assert!(!flush.is_finished());
        rows.go_on();
        assert_eq!(flush.join().expect("joined"), 0);
    });
    assert_eq!(rows.rows(), [(1, 1)]);
    settle(&bed, &map);
    assert_eq!(rows.rows(), [(1, 111)]);
}

#[test]
fn a_clear_reaches_rows_that_are_not_in_memory_and_what_is_put_after_it_stays() {
    let rows = Rows::default();
    let bed = bed_with(&rows, config());
    let map = map(&bed);
    map.blocking().loaded().expect("loaded");
    rows.state().rows.extend((0..100).map(|key| (key, key)));
    map.blocking().set(&200, &1).expect("set");
    map.blocking().set(&300, &1).expect("set");
    assert!(map.blocking().evict(&300).expect("it waits, and neither has it"));
    assert_eq!(map.blocking().clear().expect("cleared"), 1);
    map.blocking().set(&7, &77).expect("set");
    assert_eq!((map.len(), map.blocking().get(&8).expect("get")), (1, None));
    settle(&bed, &map);
    assert_eq!(rows.rows(), [(7, 77)]);
}

#[test]
fn what_waited_reaches_the_database_before_anything_that_is_written_through() {
    let rows = Rows::default();
    let deferred = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (given, defers) = (rows.clone(), std::sync::Arc::clone(&deferred));
    let mut bed = Bed::with(move |builder| {
        let is_deferred = defers.load(std::sync::atomic::Ordering::Relaxed);
        let config = if is_deferred { config() } else { MapStoreConfig::default() };
        builder.map_store("m", config, given.clone())
    });
    map(&bed).blocking().set(&1, &1).expect("set");
    map(&bed).blocking().set(&2, &2).expect("set");
    deferred.store(false, std::sync::atomic::Ordering::Relaxed);
    bed.restart();
    map(&bed).blocking().set(&1, &10).expect("set");
    assert_eq!(rows.rows(), [(1, 10), (2, 2)]);
}

#[test]
fn a_map_that_is_destroyed_has_nothing_wait() {
    let rows = Rows::default();
    let mut bed = bed_with(&rows, config());
    map(&bed).blocking().set(&1, &1).expect("set");
    assert!(bed.member().destroy_map("m").expect("destroyed"));
    bed.restart();
    let map = map(&bed);
    bed.pass(Duration::from_secs(60));
    assert_eq!((map.local_map_stats().dirty_entry_count, rows.rows()), (0, vec![]));
    let own = bed.member().map::<Number, Number>("hd:pending:m");
    assert!(matches!(own, Err(MapError::OwnName { .. })), "{own:?}");
}

/// What happens in a random history.
#[derive(Clone, Copy, Debug)]
enum Step {
    Set(i32, i32),
    Delete(i32),
    Remove(i32),
    Replace(i32, i32),
    Evict(i32),
    Get(i32),
    Clear,
    Time(u64),
    Fail(bool),
    Flush,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0..12i32;
    let step = prop_oneof![
        8 => (key(), 0..600i32).prop_map(|(key, value)| Step::Set(key, value)),
        3 => key().prop_map(Step::Delete),
        3 => key().prop_map(Step::Remove),
        3 => (key(), 0..600i32).prop_map(|(key, value)| Step::Replace(key, value)),
        3 => key().prop_map(Step::Evict),
        6 => key().prop_map(Step::Get),
        1 => Just(Step::Clear),
        4 => (0..9_000u64).prop_map(Step::Time),
        1 => any::<bool>().prop_map(Step::Fail),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_readers_see_the_last_change_and_the_database_has_it_in_the_end(
        steps in steps(),
        write_coalescing in any::<bool>(),
    ) {
        let rows = Rows::of((0..6).map(|key| (key, -key)));
        let mut model: BTreeMap<i32, i32> = rows.rows().into_iter().collect();
        let mut bed = bed_with(&rows, MapStoreConfig { write_coalescing, ..config() });
        let mut map = map(&bed);
        let mut is_down = false;
        for step in steps {
            let blocking = map.blocking();
            match step {
                Step::Set(key, value) => {
                    blocking.set(&key, &value).expect("set");
                    model.insert(key, value);
                }
                Step::Delete(key) => {
                    blocking.delete(&key).expect("deleted");
                    model.remove(&key);
                }
                Step::Remove(key) => {
                    let removed = blocking.remove(&key).expect("removed");
                    prop_assert_eq!(removed, model.remove(&key));
                }
                Step::Replace(key, value) => {
                    let old = model.get(&key).copied();
                    prop_assert_eq!(blocking.replace(&key, &value).expect("replaced"), old);
                    old.map(|_| model.insert(key, value));
                }
                Step::Evict(key) => drop(blocking.evict(&key).expect("evicted")),
                Step::Get(key) => prop_assert_eq!(blocking.get(&key).expect("get"), model.get(&key).copied()),
                Step::Clear => {
                    // What the database has and the map has not heard of is cleared, too.
                    blocking.clear().expect("cleared");
                    model.clear();
                }
                Step::Time(ms) => bed.pass(Duration::from_millis(ms)),
                Step::Fail(fails) => {
                    is_down = fails;
                    let mut state = rows.state();
                    state.failing.clear();
                    if fails {
                        state.failing.extend(["store", "store_all", "delete", "delete_all"]);
                    }
                }
                Step::Flush if !is_down => prop_assert_eq!(flushed(&bed, &map), 0),
                Step::Flush => {}
                Step::Restart => {
                    drop(map);
                    bed.restart();
                    map = self::map(&bed);
                }
            }
        }
        rows.state().failing.clear();
        prop_assert_eq!(flushed(&bed, &map), 0);
        prop_assert_eq!(rows.rows(), model.clone().into_iter().collect::<Vec<_>>());
        for key in 0..12 {
            prop_assert_eq!(map.blocking().get(&key).expect("get"), model.get(&key).copied());
        }
    }
}
