//! Maps over a user's database, written through.

#[path = "support/rows.rs"]
mod rows;
mod support;

use std::time::Duration;

use hdgrid::{InitialMode, Interceptor, InterceptorError, Map, MapError, MapStoreConfig};
use rows::{Number, Rows};
use support::Bed;

type Numbers = Map<Number, Number>;

fn bed_with(rows: &Rows, config: MapStoreConfig) -> Bed {
    let rows = rows.clone();
    Bed::with(move |builder| {
        let builder = builder.map_store("of a minute", config.clone(), rows.clone());
        builder.map_store("m", config.clone(), rows.clone())
    })
}

fn bed(rows: &Rows) -> Bed {
    bed_with(rows, MapStoreConfig::default())
}

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

/// A map of which the database has told its beginning, and everything it names is loaded.
fn begun(bed: &Bed, rows: &Rows) -> Numbers {
    let map = map(bed);
    map.blocking().loaded().expect("loaded");
    rows.take_asked();
    map
}

fn failed<T: std::fmt::Debug>(result: Result<T, MapError>, expected: (&str, &str)) {
    match result {
        Err(MapError::MapStore { call, source, map, .. }) => {
            assert_eq!((call, &*source.to_string(), &*map), (expected.0, expected.1, "m"));
        }
        other => panic!("{other:?}, expected {expected:?}"),
    }
}

#[test]
fn what_memory_does_not_have_is_loaded_once_and_what_nobody_has_is_asked_for_each_time() {
    let rows = Rows::default();
    let bed = bed(&rows);
    let map = begun(&bed, &rows);
    rows.state().rows.extend([(1, 10), (2, 20), (3, 30)]);
    let blocking = map.blocking();
    assert_eq!(
        [1, 1, 9, 9].map(|key| blocking.get(&key).expect("get")),
        [Some(10), Some(10), None, None]
    );
    assert_eq!(rows.take_asked(), ["load 1", "load 9", "load 9"]);
    assert!(
        blocking.contains_key(&2).expect("asked") && !blocking.contains_key(&9).expect("asked")
    );
    assert_eq!(rows.take_asked(), ["load 2", "load 9"]);
    assert!(blocking.get_entry_view(&3).expect("a view").is_none(), "a view never loads");
    let all = blocking.get_all(&[&3, &1, &9, &3]).expect("get");
    assert_eq!(all, [Some(30), Some(10), None, Some(30)]);
    let asked = rows.take_asked();
    assert!(asked == ["load_all [3, 9]"] || asked == ["load_all [9, 3]"], "{asked:?}");
    assert_eq!(map.len(), 3);
}

#[test]
fn each_operation_asks_the_database_what_it_must_and_tells_it_what_it_does() {
    let rows = Rows::default();
    let bed = bed(&rows);
    let map = begun(&bed, &rows);
    rows.state().rows.extend((0..20).map(|key| (key, 10 * key)));
    let blocking = map.blocking();
    let asked = |expected: &[&str]| assert_eq!(rows.take_asked(), expected);

    assert_eq!(blocking.put(&1, &11).expect("put"), Some(10));
    asked(&["load 1", "store 1 11"]);
    blocking.set(&2, &21).expect("set");
    asked(&["store 2 21"]);
    assert!(blocking.try_put(&3, &31, Duration::ZERO).expect("put"));
    asked(&["store 3 31"]);
    assert_eq!(blocking.put_if_absent(&4, &41).expect("put"), Some(40));
    asked(&["load 4"]);
    assert_eq!(blocking.put_if_absent(&24, &41).expect("put"), None);
    asked(&["load 24", "store 24 41"]);
    assert_eq!(blocking.replace(&5, &51).expect("replaced"), Some(50));
    asked(&["load 5", "store 5 51"]);
    assert_eq!(blocking.replace(&25, &51).expect("absent"), None);
    asked(&["load 25"]);
    assert!(blocking.replace_if_same(&6, &60, &61).expect("replaced"));
    asked(&["load 6", "store 6 61"]);
    assert!(!blocking.replace_if_same(&6, &60, &62).expect("another"));
    asked(&[]);
    assert_eq!(blocking.remove(&7).expect("removed"), Some(70));
    asked(&["load 7", "delete 7"]);
    assert_eq!(blocking.remove(&27).expect("absent"), None);
    asked(&["load 27"]);
    assert!(!blocking.delete(&8).expect("deleted"), "memory did not have it");
    asked(&["delete 8"]);
    assert!(blocking.remove_if_same(&9, &90).expect("removed"));
    asked(&["load 9", "delete 9"]);
    assert!(blocking.try_remove(&10, Duration::ZERO).expect("removed"));
    asked(&["load 10", "delete 10"]);
    assert!(blocking.set_ttl(&11, Duration::from_secs(9)).expect("set"));
    asked(&["load 11"]);
    assert_eq!(blocking.compute(&12, |old| old.map(|old| old + 1)).expect("computed"), Some(121));
    asked(&["load 12", "store 12 121"]);
    assert_eq!(blocking.compute_if_present(&13, |_| None).expect("removed"), None);
    asked(&["load 13", "delete 13"]);
    assert_eq!(
        blocking.execute_on_key(&14, |entry| entry.value().copied()).expect("run"),
        Some(140)
    );
    asked(&["load 14"]);
    assert!(blocking.evict(&14).expect("evicted") && !blocking.evict(&15).expect("absent"));
    asked(&[]);
    assert_eq!(blocking.evict_all().expect("evicted"), 9);
    asked(&[]);
    let left = [
        (0, 0),
        (1, 11),
        (2, 21),
        (3, 31),
        (4, 40),
        (5, 51),
        (6, 61),
        (11, 110),
        (12, 121),
        (14, 140),
    ];
    let left = left.into_iter().chain((15..20).map(|key| (key, 10 * key))).chain([(24, 41)]);
    assert_eq!(rows.rows(), left.collect::<Vec<_>>());
}

#[test]
fn what_the_database_refuses_has_changed_nothing_and_leaves_the_key_free() {
    let rows = Rows::default();
    let bed = bed(&rows);
    let map = begun(&bed, &rows);
    let blocking = map.blocking();
    blocking.set(&1, &10).expect("set");
    rows.state().refused.insert(13);
    failed(blocking.set(&1, &13), ("store", "13 is refused"));
    failed(blocking.put(&1, &13), ("store", "13 is refused"));
    failed(blocking.compute(&1, |_| Some(13)), ("store", "13 is refused"));
    failed(blocking.set_all(&[(&1, &13)]), ("store", "13 is refused"));
    rows.state().failing.extend(["delete", "load"]);
    failed(blocking.remove(&1), ("delete", "no delete today"));
    failed(blocking.delete(&1), ("delete", "no delete today"));
    failed(blocking.get(&2), ("load", "no load today"));
    failed(blocking.put(&2, &2), ("load", "no load today"));
    failed(blocking.execute_on_key(&2, |_| ()), ("load", "no load today"));
    assert_eq!((blocking.get(&1).expect("get"), map.len()), (Some(10), 1));
    failed(blocking.set(&1, &666), ("store", "it panicked: the number of the beast"));
    failed(blocking.get(&1), ("load", "no load today"));
    rows.state().failing.clear();
    assert_eq!(blocking.get(&1).expect("asked again, as nobody knows what it did"), Some(10));
}

#[test]
fn a_lock_of_another_caller_holds_changes_up_and_no_load() {
    let rows = Rows::of([(1, 10)]);
    let bed = bed(&rows);
    let map = begun(&bed, &rows);
    assert!(map.blocking().evict(&1).expect("evicted"));
    let other = map.clone();
    other.blocking().lock(&1).expect("locked");
    assert_eq!(map.blocking().get(&1).expect("get"), Some(10));
    assert!(!map.blocking().try_put(&1, &11, Duration::ZERO).expect("not put"));
    other.blocking().set(&1, &12).expect("set");
    other.unlock(&1).expect("unlocked");
    assert_eq!(rows.rows(), [(1, 12)]);
}

#[test]
fn what_is_loaded_hides_nothing_that_was_put_meanwhile_and_many_readers_load_once() {
    let rows = Rows::of([]);
    let bed = bed(&rows);
    let map = begun(&bed, &rows);
    rows.state().rows.insert(1, 10);
    rows.pause("load");
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let map = map.clone();
                scope.spawn(move || map.blocking().get(&1).expect("get"))
            })
            .collect();
        rows.await_waiting(1);
        let writer = map.clone();
        let writer = scope.spawn(move || writer.blocking().set(&1, &20).expect("set"));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!writer.is_finished(), "the key is being loaded");
        rows.go_on();
        writer.join().expect("joined");
        for reader in readers {
            assert!([Some(10), Some(20)].contains(&reader.join().expect("joined")));
        }
    });
    assert_eq!(map.blocking().get(&1).expect("get"), Some(20));
    let asked = rows.take_asked();
    assert_eq!(asked.iter().filter(|call| *call == "load 1").count(), 1, "{asked:?}");
}

#[test]
fn a_change_that_has_begun_is_carried_out_when_its_caller_goes_away() {
    let rows = Rows::of([]);
    let mut bed = bed(&rows);
    let map = begun(&bed, &rows);
    rows.pause("store");
    let mut change = Box::pin(map.set(&1, &10));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(change.as_mut().poll(&mut context).is_pending());
    rows.await_waiting(1);
    drop(change);
    assert!(!map.blocking().try_put(&1, &11, Duration::ZERO).expect("the key is not free"));
    // A member that stops waits for it, too.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            rows.go_on();
        });
        bed.stop();
    });
    assert_eq!(rows.rows(), [(1, 10)]);
    let asked = rows.take_asked();
    assert_eq!(asked, ["store 1 10", "destroy"]);
    drop(map);
    rows.state().rows.clear();
    bed.restart_stopped();
    assert_eq!(self::map(&bed).blocking().get(&1).expect("get"), Some(10), "memory had it, too");
}

#[test]
fn many_entries_reach_the_database_in_batches_and_one_by_one_after_an_error() {
    let rows = Rows::of([]);
    let config =
        MapStoreConfig { batch_size: 4.try_into().expect("some"), ..MapStoreConfig::default() };
    let bed = bed_with(&rows, config);
    let map = begun(&bed, &rows);
    let entries: Vec<(i32, i32)> = (0..10).map(|key| (key, key + 100)).collect();
    let twice = entries.iter().map(|(key, value)| (key, value)).chain([(&3, &999)]);
    map.blocking().set_all(&twice.collect::<Vec<_>>()).expect("set");
    let asked = rows.take_asked();
    assert!(
        asked.len() == 3 && asked.iter().all(|call| call.starts_with("store_all")),
        "{asked:?}"
    );
    assert_eq!(map.blocking().get(&3).expect("get"), Some(999), "the last one counts");
    assert_eq!((rows.rows().len(), map.len()), (10, 10));

    map.blocking().set_all(&[(&20, &1), (&21, &2), (&22, &3)]).expect("set");
    rows.state().refused.insert(55);
    let some = [(&20, &50), (&21, &55), (&22, &57)];
    failed(map.blocking().set_all(&some), ("store", "55 is refused"));
    assert_eq!([20, 21, 22].map(|key| rows.state().rows[&key]), [50, 2, 57]);
    for (key, kept) in [(20, Some(50)), (21, None), (22, Some(57))] {
        let view = map.blocking().get_entry_view(&key).expect("a view, which never loads");
        assert_eq!(view.map(|view| view.value), kept, "what memory has of {key}");
    }
    rows.state().failing.insert("store_all");
    map.blocking().set_all(&[(&30, &30), (&31, &31)]).expect("set one by one");
    assert_eq!((map.blocking().get(&30).expect("get"), rows.state().rows[&31]), (Some(30), 31));
}

#[test]
fn a_clear_reaches_rows_that_are_not_in_memory_and_spares_what_is_locked() {
    let rows = Rows::of([]);
    let bed = bed(&rows);
    let map = begun(&bed, &rows);
    rows.state().rows.extend((0..3_000).map(|key| (key, key)));
    assert_eq!(map.blocking().load_keys(&[&1, &2, &5_000], false).expect("loaded"), 2);
    let other = map.clone();
    other.blocking().lock(&2).expect("locked");
    other.blocking().lock(&7).expect("locked");
    assert_eq!(map.blocking().clear().expect("cleared"), 1);
    assert_eq!(rows.rows(), [(2, 2), (7, 7)]);
    assert_eq!((map.len(), map.blocking().get(&2).expect("get")), (1, Some(2)));

    rows.state().failing.extend(["delete_all", "delete"]);
    other.force_unlock(&2).expect("unlocked");
    failed(map.blocking().clear(), ("delete", "no delete today"));
    assert_eq!(rows.rows(), [(2, 2), (7, 7)]);
    let kept = [&2, &7].map(|key| map.blocking().get(key).expect("get"));
    assert_eq!(kept, [Some(2), Some(7)], "what the database keeps is there");
}

#[test]
fn everything_is_loaded_from_the_first_use_on_or_at_once_and_again_when_asked_for() {
    for initial_mode in [InitialMode::Lazy, InitialMode::Eager] {
        let rows = Rows::of((0..2_500).map(|key| (key, key)));
        let bed = bed_with(&rows, MapStoreConfig { initial_mode, ..MapStoreConfig::default() });
        let map = map(&bed);
        if initial_mode == InitialMode::Lazy {
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!((map.len(), rows.take_asked().len()), (0, 0));
            assert_eq!(map.blocking().get(&-1).expect("get"), None);
        }
        assert_eq!(map.blocking().loaded().expect("loaded"), 2_500);
        assert_eq!(map.len(), 2_500);
        rows.state().rows.extend([(1, 111), (9_999, 9)]);
        assert_eq!(map.blocking().load_all(false).expect("loaded"), 1, "what memory has it keeps");
        assert_eq!(map.blocking().get(&1).expect("get"), Some(1));
        assert_eq!(map.blocking().load_all(true).expect("loaded"), 2_501);
        assert_eq!(map.blocking().get(&1).expect("get"), Some(111));
        rows.state().failing.insert("load_all_keys");
        failed(map.blocking().load_all(false), ("load_all_keys", "no keys today"));
    }
}

#[test]
fn after_a_restart_memory_counts_as_long_as_it_has_an_entry_and_the_rest_is_loaded() {
    let rows = Rows::of([(1, 10), (2, 20)]);
    let mut bed = bed(&rows);
    let map = begun(&bed, &rows);
    drop(map);
    rows.state().rows.extend([(1, 11), (3, 30)]);
    bed.restart();
    let map = self::map(&bed);
    assert_eq!(
        map.blocking().loaded().expect("loaded"),
        1,
        "a load after a restart finds what is new"
    );
    let all = map.blocking().get_all(&[&1, &2, &3]).expect("get");
    assert_eq!(all, [Some(10), Some(20), Some(30)]);
}

#[test]
fn what_is_loaded_lives_as_long_as_the_map_says() {
    let rows = Rows::of([(1, 10)]);
    let bed = bed(&rows);
    let map: Numbers = bed.member().map("of a minute").expect("a map");
    assert_eq!(map.blocking().loaded().expect("loaded"), 1);
    let view = map.blocking().get_entry_view(&1).expect("a view").expect("it is there");
    assert_eq!(view.expiration_ms, Some(bed.now_ms() + 60_000));
    rows.state().rows.insert(1, 11);
    bed.pass(Duration::from_secs(61));
    assert_eq!(map.blocking().get(&1).expect("get"), Some(11), "loaded anew, as it has expired");
}

#[test]
fn a_store_is_told_of_its_beginning_before_anything_and_of_its_end_after_everything() {
    let rows = Rows::of([]);
    let properties = [("url".to_owned(), "here".to_owned())].into();
    let mut bed = bed_with(&rows, MapStoreConfig { properties, ..MapStoreConfig::default() });
    rows.state().failing.insert("init");
    let map = map(&bed);
    failed(map.blocking().set(&1, &1), ("init", "no init today"));
    failed(map.blocking().get(&1), ("init", "no init today"));
    rows.state().failing.clear();
    rows.take_asked();
    map.blocking().set(&1, &1).expect("set");
    map.blocking().set(&1, &2).expect("set");
    assert_eq!(rows.take_asked(), ["init m {\"url\": \"here\"}", "store 1 1", "store 1 2"]);
    assert!(bed.member().destroy_map("m").expect("destroyed"));
    assert!(matches!(map.blocking().get(&5), Err(MapError::Gone { .. })));
    bed.stop();
    assert_eq!(rows.take_asked(), ["destroy"]);
    assert_eq!(rows.rows(), [(1, 2)], "a map that is destroyed leaves its rows");
}

#[test]
fn what_the_database_makes_of_a_value_is_what_the_map_has() {
    let rows = Rows::of([]);
    rows.state().raised_by = 1;
    let bed = bed(&rows);
    let map = begun(&bed, &rows);
    map.blocking().set(&1, &10).expect("set");
    map.blocking().set_all(&[(&2, &20), (&3, &30)]).expect("set");
    assert_eq!(map.blocking().compute(&4, |_| Some(40)).expect("computed"), Some(41));
    let all = map.blocking().get_all(&[&1, &2, &3, &4]).expect("get");
    assert_eq!(all, [Some(11), Some(21), Some(31), Some(41)]);
}

/// Refuses odd values, and doubles others.
struct Doubles;

impl Interceptor<Number, Number> for Doubles {
    fn intercept_put(&self, _: &i32, _: Option<i32>, new: i32) -> Result<i32, InterceptorError> {
        if new % 2 == 0 { Ok(2 * new) } else { Err("odd".into()) }
    }
}

#[test]
fn interceptors_are_asked_before_the_database_and_the_database_has_what_they_made() {
    let rows = Rows::of([]);
    let bed = bed(&rows);
    let map = begun(&bed, &rows);
    map.add_interceptor(Doubles).expect("added");
    assert!(matches!(map.blocking().set(&1, &1), Err(MapError::Intercepted { .. })));
    assert_eq!(rows.take_asked(), [""; 0]);
    assert!(matches!(
        map.blocking().set_all(&[(&1, &2), (&2, &1)]),
        Err(MapError::Intercepted { .. })
    ));
    assert_eq!(rows.take_asked(), ["store 1 4"]);
    map.blocking().set_all(&[(&1, &4), (&2, &6)]).expect("set");
    map.blocking().set(&3, &8).expect("set");
    assert_eq!(rows.rows(), [(1, 8), (2, 12), (3, 16)]);
    assert_eq!(map.blocking().get(&3).expect("get"), Some(16));
}

#[test]
fn what_concerns_memory_alone_is_done_while_the_database_cannot_begin() {
    let rows = Rows::default();
    let given = rows.clone();
    let mut bed = Bed::with(move |builder| {
        let builder = builder.map_loader("l", MapStoreConfig::default(), given.clone());
        builder.map_store("m", MapStoreConfig::default(), given.clone())
    });
    map(&bed).blocking().set(&1, &1).expect("set");
    bed.restart();
    rows.state().failing.insert("init");
    let map = map(&bed);
    assert_eq!(map.blocking().get(&1).expect("get"), Some(1));
    assert!(map.blocking().set_ttl(&1, Duration::from_secs(9)).expect("it is in memory"));
    assert!(map.blocking().evict(&1).expect("it is in memory"));
    failed(map.blocking().get(&1), ("init", "no init today"));
    let loads: Numbers = bed.member().map("l").expect("a map");
    loads.blocking().set(&1, &1).expect("the database hears of no change");
}

#[test]
fn a_change_that_the_database_hears_nothing_of_begins_the_first_load_as_any_other() {
    let rows = Rows::of([(1, 10)]);
    let given = rows.clone();
    let bed =
        Bed::with(move |builder| builder.map_loader("l", MapStoreConfig::default(), given.clone()));
    let map: Numbers = bed.member().map("l").expect("a map");
    rows.pause("init");
    map.blocking().set(&2, &2).expect("set");
    rows.await_waiting(1);
    rows.go_on();
    assert_eq!(map.blocking().loaded().expect("loaded"), 1);
}
