//! The database of a map over several lives: written behind, then through, then none; destroyed and made
//! again; stopped in the middle.

#[path = "support/rows.rs"]
mod rows;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use hdgrid::{Map, MapConfig, MapError, MapStoreConfig, Member, StartError};
use rows::{Number, Rows};
use support::{Bed, eventually};

type Numbers = Map<Number, Number>;

const DELAY: Duration = Duration::from_secs(5);

fn config() -> MapStoreConfig {
    MapStoreConfig { write_delay: DELAY, ..MapStoreConfig::default() }
}

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

const BEHIND: u8 = 0;
const THROUGH: u8 = 1;
const NONE: u8 = 2;
const GIVEN_UP: u8 = 3;
const LOADS: u8 = 4;

/// A member whose map is written as the number says.
fn phases(rows: &Rows) -> (Bed, Arc<AtomicU8>) {
    let phase = Arc::new(AtomicU8::new(BEHIND));
    let (given, seen) = (rows.clone(), Arc::clone(&phase));
    let write_room_timeout = Duration::from_millis(200);
    let through = MapStoreConfig { write_room_timeout, ..MapStoreConfig::default() };
    let bed = Bed::with(move |builder| match seen.load(Ordering::Relaxed) {
        BEHIND => builder.map_store("m", config(), given.clone()),
        THROUGH => builder.map_store("m", through.clone(), given.clone()),
        NONE => builder,
        LOADS => builder.map_loader("m", through.clone(), given.clone()),
        _ => builder.drop_waiting_changes("m"),
    });
    (bed, phase)
}

#[test]
fn one_refused_change_of_before_holds_up_its_own_key_alone() {
    let rows = Rows::default();
    let (mut bed, phase) = phases(&rows);
    map(&bed).blocking().set(&1, &13).expect("set");
    rows.state().refused.insert(13);
    phase.store(THROUGH, Ordering::Relaxed);
    bed.restart();
    let map = map(&bed);
    let set = map.blocking().set(&1, &14);
    let Err(MapError::MapStore { source, .. }) = &set else { panic!("{set:?}") };
    assert!(source.to_string().contains("an older change of this key waits"), "{source}");
    eventually("set aside", || {
        map.blocking().set(&2, &2).expect("another key");
        bed.pass(Duration::from_secs(60));
        map.local_map_stats().dead_letter_count == 1
    });
    assert_eq!(map.blocking().get(&3).expect("asked"), None);
    let set = map.blocking().set(&1, &14);
    let Err(MapError::MapStore { source, .. }) = &set else { panic!("{set:?}") };
    assert!(source.to_string().contains("retry_dead_letters() or drop_dead_letters()"), "{source}");
    assert_eq!(map.drop_dead_letters(), 1);
    map.blocking().set(&1, &14).expect("set");
    assert_eq!(rows.rows(), [(1, 14), (2, 2)]);
}

#[test]
fn a_member_that_stops_tells_no_change_before_an_older_one_of_its_key() {
    let rows = Rows::default();
    let (mut bed, phase) = phases(&rows);
    map(&bed).blocking().set(&1, &1).expect("set");
    rows.state().failing.extend(["store", "store_all"]);
    phase.store(THROUGH, Ordering::Relaxed);
    bed.restart();
    let map = map(&bed);
    eventually("refused", || {
        let refused = map.blocking().set(&1, &10).is_err();
        refused && map.local_map_stats().map_store_refusal_count >= 2
    });
    rows.state().failing.clear();
    let change = {
        let map = map.clone();
        std::thread::spawn(move || map.blocking().set(&1, &10))
    };
    bed.stop();
    let is_done = change.join().expect("joined").is_ok();
    drop(map);
    bed.restart_stopped();
    let map = self::map(&bed);
    eventually("told", || {
        bed.pass(Duration::from_secs(1));
        map.local_map_stats().dirty_entry_count == 0
    });
    let (told, kept) = (rows.rows(), map.blocking().get(&1).expect("get"));
    assert_eq!(told, [(1, kept.expect("there"))], "done: {is_done}");
    assert!(kept == Some(if is_done { 10 } else { 1 }), "{kept:?}, done: {is_done}");
}

#[test]
fn what_waits_is_never_told_over_what_was_put_without_a_store() {
    let rows = Rows::default();
    let (mut bed, phase) = phases(&rows);
    map(&bed).blocking().set(&1, &1).expect("set");
    for without in [LOADS, NONE] {
        phase.store(without, Ordering::Relaxed);
        bed.restart();
        let refused = bed.member().map::<Number, Number>("m").map(drop);
        assert!(matches!(refused, Err(MapError::ChangesWait { waiting: 1, .. })), "{refused:?}");
    }
    let other: Numbers = bed.member().map("other").expect("of another map nothing waits");
    other.blocking().set(&1, &1).expect("set");
    phase.store(GIVEN_UP, Ordering::Relaxed);
    bed.restart();
    assert_eq!(map(&bed).blocking().get(&1).expect("get"), Some(1), "the map keeps its entries");
    map(&bed).blocking().set(&1, &2).expect("set");
    phase.store(BEHIND, Ordering::Relaxed);
    bed.restart();
    let map = map(&bed);
    for _ in 0..20 {
        bed.pass(DELAY);
    }
    assert_eq!((map.blocking().flush().expect("flushed"), rows.rows()), (0, vec![]));
}

#[test]
fn what_waits_for_a_map_store_that_is_given_is_never_dropped() {
    let dir = tempfile::tempdir().expect("a directory");
    let builder = Member::builder(dir.path()).map_store("m", config(), Rows::default());
    let refused = builder.drop_waiting_changes("m").start().map(drop);
    assert!(matches!(refused, Err(StartError::DropsWaitingChanges { .. })), "{refused:?}");
    let builder = Member::builder(dir.path()).map_loader("m", config(), Rows::default());
    builder.drop_waiting_changes("m").start().expect("nothing waits for what only loads");
}

#[test]
fn maps_of_the_members_own_are_destroyed_by_nobody() {
    let rows = Rows::default();
    let (bed, _) = phases(&rows);
    map(&bed).blocking().set(&1, &1).expect("set");
    let refused = bed.member().destroy_map("hd:pending:m");
    assert!(matches!(refused, Err(MapError::OwnName { .. })), "{refused:?}");
    let own = "hd:pending:m";
    let dir = tempfile::tempdir().expect("a directory");
    let settings = [
        Member::builder(dir.path()).map(own, MapConfig::default()),
        Member::builder(dir.path()).map_store(own, config(), rows.clone()),
        Member::builder(dir.path()).map_loader(own, config(), rows.clone()),
        Member::builder(dir.path()).drop_waiting_changes(own),
    ];
    for builder in settings {
        let refused = builder.start().map(drop);
        let is_own = matches!(refused, Err(StartError::Map(MapError::OwnName { .. })));
        assert!(is_own, "{refused:?}");
    }
    assert_eq!(map(&bed).blocking().flush().expect("flushed"), 0);
    assert_eq!(rows.rows(), [(1, 1)]);
}

#[test]
fn a_store_is_asked_nothing_after_its_end() {
    let rows = Rows::of([(1, 1)]);
    let (mut bed, _) = phases(&rows);
    let map = map(&bed);
    bed.stop();
    let loaded = map.blocking().load_all(false);
    assert!(loaded.is_err(), "{loaded:?}");
    assert_eq!(rows.take_asked(), [""; 0]);
}

#[test]
fn a_map_that_is_made_again_begins_when_the_one_before_has_ended() {
    let rows = Rows::default();
    let given = rows.clone();
    let bed =
        Bed::with(move |builder| builder.map_store("m", MapStoreConfig::default(), given.clone()));
    let first = map(&bed);
    first.blocking().loaded().expect("loaded");
    rows.take_asked();
    rows.pause("load");
    std::thread::scope(|scope| {
        scope.spawn(|| drop(first.blocking().get(&9)));
        rows.await_waiting(1);
        assert!(bed.member().destroy_map("m").expect("destroyed"));
        let second = map(&bed);
        let set = scope.spawn(move || second.blocking().set(&1, &1).expect("set"));
        rows.go_on();
        set.join().expect("joined");
    });
    let asked = rows.take_asked();
    let at = |call: &str| asked.iter().position(|asked| asked == call).expect("asked");
    assert!(at("destroy") < at("init m {}") && at("init m {}") < at("store 1 1"), "{asked:?}");
}

#[test]
fn a_member_that_stops_waits_for_the_call_under_way_and_tells_no_other() {
    let rows = Rows::default();
    let (mut bed, _) = phases(&rows);
    let map = map(&bed);
    rows.state().failing.insert("store_all");
    for key in 0..50 {
        map.blocking().set(&key, &key).expect("set");
    }
    rows.pause("store");
    bed.pass(2 * DELAY);
    rows.await_waiting(1);
    let is_stopping = map.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Of a map whose member stops nothing is locked any more.
            eventually("it stops", || is_stopping.blocking().lock(&99).is_err());
            rows.go_on();
        });
        bed.stop();
    });
    assert!(rows.rows().len() <= 2, "{} were told", rows.rows().len());
    bed.restart_stopped();
    rows.state().failing.clear();
    let map = self::map(&bed);
    assert_eq!(map.blocking().flush().expect("flushed"), 0);
    assert_eq!(rows.rows().len(), 50);
}

#[test]
fn who_waits_for_room_holds_up_no_member_that_stops() {
    let rows = Rows::default();
    let given = rows.clone();
    let write_capacity = 1.try_into().expect("some");
    let mut bed = Bed::with(move |builder| {
        let write_room_timeout = Duration::from_secs(3_600);
        let config = MapStoreConfig { write_capacity, write_room_timeout, ..config() };
        builder.map_store("m", config, given.clone())
    });
    let map = map(&bed);
    map.blocking().set(&1, &1).expect("set");
    let waiter = std::thread::spawn(move || map.blocking().set(&2, &2));
    std::thread::sleep(Duration::from_millis(100));
    bed.stop();
    let set = waiter.join().expect("joined");
    assert!(matches!(set, Err(MapError::Gone { .. })), "{set:?}");
}

#[test]
fn a_delay_without_end_is_none_that_is_over() {
    let rows = Rows::default();
    let given = rows.clone();
    let bed = Bed::with(move |builder| {
        let config = MapStoreConfig { write_delay: Duration::MAX, ..MapStoreConfig::default() };
        builder.map_store("m", config, given.clone())
    });
    let map = map(&bed);
    map.blocking().set(&1, &1).expect("set");
    bed.pass(Duration::from_secs(1 << 40));
    assert_eq!((map.local_map_stats().dirty_entry_count, rows.rows()), (1, vec![]));
    assert_eq!(map.blocking().flush().expect("flushed"), 0);
    assert_eq!(rows.rows(), [(1, 1)]);
}
