//! Many keys at once over a user's database, in batches.

#[path = "support/rows.rs"]
mod rows;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::Stream;
use hdgrid::data::Serial;
use hdgrid::{Entries, Map, MapError, MapLoader, MapStore, MapStoreConfig, StoreError};
use proptest::prelude::*;
use rows::{Number, Rows};
use support::Bed;

type Numbers = Map<Number, Number>;

/// How long a thread is given to come to where it waits; what it finds must be right without, too.
const HEAD_START: Duration = Duration::from_millis(100);

fn bed(store: impl MapStore<Number, Number> + Clone) -> Bed {
    Bed::with(move |builder| {
        let builder = builder.partition_count(3);
        builder.map_store("m", MapStoreConfig::default(), store.clone())
    })
}

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

/// A map of which everything is loaded.
fn begun(bed: &Bed, rows: &Rows) -> Numbers {
    let map = map(bed);
    map.blocking().loaded().expect("loaded");
    rows.take_asked();
    map
}

fn set_all(map: &Numbers, entries: &[(i32, i32)]) -> Result<(), MapError> {
    map.blocking().set_all(&entries.iter().map(|(key, value)| (key, value)).collect::<Vec<_>>())
}

#[test]
fn get_all_returns_what_another_load_brings_meanwhile() {
    let rows = Rows::default();
    let bed = bed(rows.clone());
    let map = begun(&bed, &rows);
    rows.state().rows.insert(1, 10);
    rows.pause("load");
    std::thread::scope(|scope| {
        let one = map.clone();
        let one = scope.spawn(move || one.blocking().get(&1).expect("get"));
        rows.await_waiting(1);
        let all = map.clone();
        let all = scope.spawn(move || all.blocking().get_all(&[&1, &2]).expect("get"));
        std::thread::sleep(HEAD_START);
        rows.go_on();
        assert_eq!(one.join().expect("joined"), Some(10));
        assert_eq!(all.join().expect("joined"), [Some(10), None]);
    });
}

#[test]
fn get_all_beside_the_first_load_returns_everything_that_the_database_has() {
    let rows = Rows::of((0..50).map(|key| (key, key)));
    let bed = bed(rows.clone());
    let map = map(&bed);
    rows.pause("load_all");
    assert_eq!(map.blocking().get(&99).expect("get"), None);
    rows.await_waiting(1);
    let keys: Vec<i32> = (0..50).collect();
    let all = std::thread::scope(|scope| {
        let all = scope.spawn(|| map.blocking().get_all(&keys.iter().collect::<Vec<_>>()));
        std::thread::sleep(HEAD_START);
        rows.go_on();
        all.join().expect("joined").expect("get")
    });
    assert_eq!(all, (0..50).map(Some).collect::<Vec<_>>());
}

/// Stores and removes what it can of many, as unordered bulk calls do, and says then that not everything was.
#[derive(Clone, Default)]
struct Bulk {
    rows: Rows,
    keys_panic: Arc<AtomicBool>,
}

impl MapLoader<Number, Number> for Bulk {
    async fn load(&self, key: &i32) -> Result<Option<i32>, StoreError> {
        self.rows.load(key).await
    }

    async fn load_all(&self, keys: &[i32]) -> Result<Entries<Number, Number>, StoreError> {
        self.rows.load_all(keys).await
    }

    fn load_all_keys(&self) -> impl Stream<Item = Result<i32, StoreError>> + Send {
        assert!(!self.keys_panic.load(Ordering::Relaxed), "no keys");
        self.rows.load_all_keys()
    }
}

impl MapStore<Number, Number> for Bulk {
    async fn store(&self, key: &i32, value: &i32) -> Result<(), StoreError> {
        self.rows.store(key, value).await
    }

    async fn store_all(&self, entries: &[(i32, i32)]) -> Result<(), StoreError> {
        let mut done = Ok(());
        for (key, value) in entries {
            done = self.rows.store(key, value).await.and(done);
        }
        done
    }

    async fn delete(&self, key: &i32) -> Result<(), StoreError> {
        if *key == 7 {
            return Err("7 is referred to".into());
        }
        self.rows.delete(key).await
    }

    async fn delete_all(&self, keys: &[i32]) -> Result<(), StoreError> {
        let mut done = Ok(());
        for key in keys {
            done = self.delete(key).await.and(done);
        }
        done
    }
}

/// The key and the reason of an error of the database.
fn refusal<T: std::fmt::Debug>(result: Result<T, MapError>) -> (i32, String) {
    match result {
        Err(MapError::MapStore { key: Some(key), source, .. }) => {
            (Number::read(key.as_ref()).expect("a number"), source.to_string())
        }
        other => panic!("{other:?} names no key"),
    }
}

#[test]
fn what_is_refused_of_many_puts_keeps_no_other_from_being_done_and_parts_nothing() {
    let bulk = Bulk::default();
    let bed = bed(bulk.clone());
    let map = map(&bed);
    set_all(&map, &(0..40).map(|key| (key, key)).collect::<Vec<_>>()).expect("set");
    bulk.rows.state().refused.extend([1007, 1008, 1030]);
    let set = set_all(&map, &(0..40).map(|key| (key, key + 1000)).collect::<Vec<_>>());
    let (key, why) = refusal(set);
    assert_eq!(why, format!("{} is refused", key + 1000));
    for key in 0..40 {
        let expected = if [7, 8, 30].contains(&key) { key } else { key + 1000 };
        assert_eq!(bulk.rows.state().rows[&key], expected);
        assert_eq!(map.blocking().get(&key).expect("get"), Some(expected), "of {key}");
    }
}

#[test]
fn while_the_database_refuses_everything_many_puts_end_soon_and_part_nothing() {
    let rows = Rows::default();
    let bed = bed(rows.clone());
    let map = begun(&bed, &rows);
    set_all(&map, &(1_000..6_000).map(|key| (key, key)).collect::<Vec<_>>()).expect("set");
    rows.state().failing.extend(["store", "store_all"]);
    rows.take_asked();
    let set = set_all(&map, &(1_000..6_000).map(|key| (key, -key)).collect::<Vec<_>>());
    assert_eq!(refusal(set).1, "no store today");
    assert!(rows.take_asked().len() < 20, "it is not asked for each");
    let all: Vec<i32> = (1_000..6_000).collect();
    let all = map.blocking().get_all(&all.iter().collect::<Vec<_>>()).expect("get");
    assert_eq!(all, (1_000..6_000).map(Some).collect::<Vec<_>>());
}

#[test]
fn what_is_refused_of_a_clear_keeps_no_other_from_going_and_parts_nothing() {
    let bulk = Bulk::default();
    let bed = bed(bulk.clone());
    let map = map(&bed);
    for key in 0..40 {
        map.blocking().set(&key, &key).expect("set");
    }
    assert_eq!(refusal(map.blocking().clear()), (7, "7 is referred to".to_owned()));
    assert_eq!(bulk.rows.rows(), [(7, 7)]);
    let left: Vec<_> = (0..40).filter_map(|key| map.blocking().get(&key).expect("get")).collect();
    assert_eq!((left, map.len()), (vec![7], 1));
}

#[test]
fn a_clear_is_not_done_when_the_keys_of_the_database_panic() {
    let bulk = Bulk::default();
    let bed = bed(bulk.clone());
    let map = map(&bed);
    map.blocking().loaded().expect("loaded");
    bulk.rows.state().rows.extend([(1, 1), (2, 2)]);
    bulk.keys_panic.store(true, Ordering::Relaxed);
    let cleared = map.blocking().clear();
    let Err(MapError::MapStore { call: "load_all_keys", source, .. }) = cleared else {
        panic!("{cleared:?}");
    };
    assert_eq!(source.to_string(), "it panicked: no keys");
    assert_eq!(map.blocking().get(&1).expect("get"), Some(1));
}

#[test]
fn errors_name_the_call_and_the_key() {
    let rows = Rows::default();
    let bed = bed(rows.clone());
    let map = begun(&bed, &rows);
    rows.state().failing.extend(["load", "load_all", "delete"]);
    rows.state().refused.insert(13);
    let said = |result: Result<(), MapError>| result.expect_err("refused").to_string();
    let map = map.blocking();
    let expected = "map \"m\": `store` of key 5 of its map store: 13 is refused";
    assert_eq!(said(map.set(&5, &13)), expected);
    let expected = "map \"m\": `delete` of key 6 of its map store: no delete today";
    assert_eq!(said(map.delete(&6).map(drop)), expected);
    let expected = "map \"m\": `load` of key 7 of its map store: no load today";
    assert_eq!(said(map.get(&7).map(drop)), expected);
    assert_eq!(refusal(map.get_all(&[&8])), (8, "no load_all today".to_owned()));
}

/// Who has a key may need another of a batch that needs both. Whether it gets it.
fn gets(holder: &Numbers, other: i32) -> bool {
    let until = Instant::now() + Duration::from_secs(20);
    // The clock stands still, so that nothing times out but at once.
    while !holder.blocking().try_put(&other, &5, Duration::ZERO).expect("asked") {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

#[test]
fn a_batch_holds_no_key_while_it_waits_for_one_that_is_locked() {
    for write_delay in [Duration::ZERO, Duration::from_secs(5)] {
        let rows = Rows::default();
        let given = rows.clone();
        let bed = Bed::with(move |builder| {
            let config = MapStoreConfig { write_delay, ..MapStoreConfig::default() };
            builder.partition_count(1).map_store("m", config, given.clone())
        });
        let map = begun(&bed, &rows);
        for (locked, other) in [(1, 2), (2, 1)] {
            let holder = map.clone();
            holder.blocking().lock(&locked).expect("locked");
            std::thread::scope(|scope| {
                let batch = map.clone();
                let batch = scope.spawn(move || batch.blocking().set_all(&[(&1, &1), (&2, &2)]));
                std::thread::sleep(HEAD_START);
                let gets = gets(&holder, other);
                holder.unlock(&locked).expect("unlocked");
                batch.join().expect("joined").expect("set");
                assert!(gets, "{other} is held by who waits for {locked}");
            });
            assert_eq!(map.blocking().get(&locked).expect("get"), Some(locked));
        }
    }
}

#[test]
fn a_load_or_a_clear_holds_no_key_while_it_waits_for_one_that_a_processor_has() {
    let rows = Rows::default();
    let bed = bed(rows.clone());
    let map = begun(&bed, &rows);
    rows.state().rows.extend([(1, 1), (2, 2)]);
    for clears in [false, true] {
        for (processed, other) in [(1, 2), (2, 1)] {
            std::thread::scope(|scope| {
                let processor = map.clone();
                let gets = processor.blocking().execute_on_key(&processed, |_| {
                    let many = map.clone();
                    scope.spawn(move || match clears {
                        false => many.blocking().load_keys(&[&1, &2], true).map(drop),
                        true => many.blocking().clear().map(drop),
                    });
                    std::thread::sleep(HEAD_START);
                    gets(&map, other)
                });
                assert!(gets.expect("processed"), "{other} is held by who waits for {processed}");
            });
        }
    }
}

#[test]
fn batches_over_the_same_keys_all_come_to_their_end() {
    let rows = Rows::default();
    let bed = bed(rows.clone());
    let map = begun(&bed, &rows);
    let keys: Vec<i32> = (0..50).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (map, keys) = (map.clone(), &keys);
            scope.spawn(move || {
                for round in 0..20 {
                    let value = thread * 1000 + round;
                    let entries: Vec<_> = keys.iter().map(|key| (*key, value)).collect();
                    set_all(&map, &entries).expect("set");
                    map.blocking().set(&(round % 50), &value).expect("set");
                    let keys: Vec<&i32> = keys.iter().collect();
                    assert!(map.blocking().load_keys(&keys, true).expect("loaded") == 50);
                }
            });
        }
    });
    let memory = keys.iter().map(|key| (*key, map.blocking().get(key).expect("get").expect("it")));
    assert_eq!(rows.rows(), memory.collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Step {
    Set(i32, i32),
    SetAll(Vec<(i32, i32)>),
    Compute(i32, i32),
    Remove(i32),
    Evict(i32),
    Clear,
    Load(Vec<i32>),
    GetAll(Vec<i32>),
    /// From now on these values are refused, and these calls fail.
    Refuse(BTreeSet<i32>, BTreeSet<&'static str>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..12i32;
    // One in ten has the store panic.
    let value = prop_oneof![9 => 0..20i32, 1 => Just(666)];
    let keys = || proptest::collection::vec(0..12i32, 0..8);
    let calls = proptest::sample::subsequence(vec!["store", "delete", "load", "load_all"], 0..=2);
    let calls = prop_oneof![2 => Just(Vec::new()), 1 => calls];
    let entries = proptest::collection::vec((key.clone(), value.clone()), 0..8);
    let step = prop_oneof![
        2 => (key.clone(), value.clone()).prop_map(|(key, value)| Step::Set(key, value)),
        4 => entries.prop_map(Step::SetAll),
        1 => (key.clone(), value).prop_map(|(key, value)| Step::Compute(key, value)),
        1 => key.clone().prop_map(Step::Remove),
        1 => key.prop_map(Step::Evict),
        1 => Just(Step::Clear),
        1 => keys().prop_map(Step::Load),
        1 => keys().prop_map(Step::GetAll),
        2 => (proptest::collection::btree_set(0..20i32, 0..8), calls)
            .prop_map(|(values, calls)| Step::Refuse(values, calls.into_iter().collect())),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn memory_never_contradicts_the_database_whatever_that_refuses(steps in steps()) {
        let bulk = Bulk::default();
        let bed = bed(bulk.clone());
        let map = map(&bed);
        for step in steps {
            // Whether it is done is not asked here.
            let _ = match &step {
                Step::Set(key, value) => map.blocking().set(key, value),
                Step::SetAll(entries) => set_all(&map, entries),
                Step::Compute(key, value) => {
                    map.blocking().compute(key, |_| Some(*value)).map(drop)
                }
                Step::Remove(key) => map.blocking().remove(key).map(drop),
                Step::Evict(key) => map.blocking().evict(key).map(drop),
                Step::Clear => map.blocking().clear().map(drop),
                Step::Load(keys) => {
                    map.blocking().load_keys(&keys.iter().collect::<Vec<_>>(), true).map(drop)
                }
                Step::GetAll(keys) => {
                    map.blocking().get_all(&keys.iter().collect::<Vec<_>>()).map(drop)
                }
                Step::Refuse(values, calls) => {
                    let mut state = bulk.rows.state();
                    (state.refused, state.failing) = (values.clone(), calls.clone());
                    Ok(())
                }
            };
            let rows = bulk.rows.state().rows.clone();
            for key in 0..12 {
                // A view never loads.
                let view = map.blocking().get_entry_view(&key).expect("a view");
                let has = view.map(|view| view.value);
                prop_assert!(has.is_none() || has == rows.get(&key).copied(), "{key}: {has:?}");
            }
        }
    }
}
