//! Changes that a user's code decides.

mod support;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hdgrid::data::Natural;
use hdgrid::{Lifetime, Map};
use support::Bed;

type Numbers = Map<Natural<i32>, Natural<i32>>;

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

#[test]
fn the_compute_family_says_what_a_key_has_then() {
    let bed = Bed::new();
    let map = map(&bed);
    let map = map.blocking();
    let more = |value: Option<i32>| Some(value.unwrap_or(0) + 1);
    assert_eq!(map.compute(&1, more).expect("computed"), Some(1));
    assert_eq!(map.compute(&1, more).expect("computed"), Some(2));
    assert_eq!(map.compute(&1, |_| None).expect("computed"), None);
    assert!(!map.contains_key(&1).expect("looked"));
    assert_eq!(map.compute_if_present(&1, |value| Some(value + 1)).expect("computed"), None);
    assert_eq!(map.compute_if_absent(&1, || None).expect("computed"), None);
    assert_eq!(map.compute_if_absent(&1, || Some(5)).expect("computed"), Some(5));
    assert_eq!(map.compute_if_absent(&1, || Some(6)).expect("computed"), Some(5));
    assert_eq!(map.compute_if_present(&1, |value| Some(value + 1)).expect("computed"), Some(6));
    assert_eq!(map.merge(&1, 10, |old, new| Some(old + new)).expect("merged"), Some(16));
    assert_eq!(map.merge(&2, 10, |old, new| Some(old + new)).expect("merged"), Some(10));
    map.replace_all(|key, value| key * 100 + value).expect("replaced");
    assert_eq!(map.get_all(&[&1, &2]).expect("get"), [Some(116), Some(210)]);
    assert_eq!(map.merge(&2, 1, |_, _| None).expect("merged"), None);
    assert_eq!(map.compute_if_present(&1, |_| None).expect("computed"), None);
    assert_eq!(map.get_all(&[&1, &2]).expect("get"), [None, None]);
}

#[test]
fn a_processor_that_changes_nothing_leaves_the_entry_as_it_was() {
    let bed = Bed::new();
    let map = map(&bed);
    let second = Duration::from_secs(1);
    map.blocking().set_with(&1, &1, Lifetime::ttl(2 * second)).expect("set");
    bed.pass(second);
    let seen = map.blocking().execute_on_key(&1, |entry| entry.value().copied());
    assert_eq!(seen.expect("processed"), Some(1));
    bed.pass(second);
    assert_eq!(map.blocking().get(&1).expect("get"), None, "its time to live was not started anew");
    let process = |entry: &mut hdgrid::Entry<'_, _, _>| {
        entry.set_value_with(*entry.key(), Lifetime::ttl(second));
        entry.value().copied()
    };
    let results = map.blocking().execute_on_keys(&[&1, &2], process);
    assert_eq!(results.expect("processed"), [Some(1), Some(2)]);
    map.blocking().execute_on_key(&2, |entry| entry.remove()).expect("processed");
    assert_eq!(map.blocking().get_all(&[&1, &2]).expect("get"), [Some(1), None]);
    bed.pass(second);
    assert_eq!(map.blocking().get(&1).expect("get"), None);
}

#[test]
fn entries_are_processed_where_the_filter_holds() {
    let bed = Bed::new();
    let map = map(&bed);
    for n in 0..20 {
        map.blocking().set(&n, &n).expect("set");
    }
    let even = |_: &i32, value: &i32| value % 2 == 0;
    let results = map.blocking().execute_on_entries(even, |entry| {
        let value = entry.value().copied();
        entry.remove();
        value
    });
    let mut results = results.expect("processed");
    results.sort_unstable();
    assert_eq!(results, (0..10).map(|n| (2 * n, Some(2 * n))).collect::<Vec<_>>());
    assert_eq!(map.len(), 10);
}

#[test]
fn a_processor_that_panics_changes_nothing_and_frees_the_key() {
    let bed = Bed::new();
    let map = map(&bed);
    map.blocking().set(&1, &1).expect("set");
    let process = |entry: &mut hdgrid::Entry<'_, _, _>| {
        entry.set_value(2);
        panic!("a user's mistake");
    };
    let call = || map.blocking().execute_on_key(&1, process);
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert_eq!(map.blocking().get(&1).expect("get"), Some(1));
    map.blocking().set(&1, &3).expect("the key is free");
}

#[test]
fn a_processor_waits_for_the_lock_and_others_wait_for_the_processor() {
    let bed = Bed::new();
    let (holder, other) = (map(&bed), map(&bed));
    holder.blocking().lock(&1).expect("locked");
    let own = holder.blocking().execute_on_key(&1, |entry| entry.set_value(1));
    own.expect("its own lock does not hold it up");
    let mut process = pin!(other.execute_on_key(&1, |entry| entry.value().copied()));
    let mut context = Context::from_waker(Waker::noop());
    assert!(process.as_mut().poll(&mut context).is_pending());
    holder.unlock(&1).expect("unlocked");
    assert!(matches!(process.as_mut().poll(&mut context), Poll::Ready(Ok(Some(1)))));

    let threads = 4;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let map = map(&bed);
            scope.spawn(move || {
                for _ in 0..200 {
                    let count = |entry: &mut hdgrid::Entry<'_, Natural<i32>, Natural<i32>>| {
                        entry.set_value(entry.value().copied().unwrap_or(0) + 1);
                    };
                    map.blocking().execute_on_key(&2, count).expect("processed");
                }
            });
        }
    });
    assert_eq!(other.blocking().get(&2).expect("get"), Some(threads * 200));
}

#[test]
fn a_clear_waits_for_the_processor_of_a_key_and_what_that_puts_is_cleared() {
    let bed = Bed::new();
    let (map, other) = (map(&bed), map(&bed));
    for n in 0..50 {
        map.blocking().set(&n, &n).expect("set");
    }
    let mut clear = pin!(other.clear());
    let mut context = Context::from_waker(Waker::noop());
    map.blocking()
        .execute_on_key(&1, |entry| {
            assert!(clear.as_mut().poll(&mut context).is_pending(), "the key is claimed");
            entry.set_value(2);
        })
        .expect("processed");
    assert!(matches!(clear.as_mut().poll(&mut context), Poll::Ready(Ok(50))));
    assert!(map.is_empty());
}

#[test]
fn operations_may_go_from_thread_to_thread() {
    fn may(_: impl Send) {}
    let bed = Bed::new();
    let map = map(&bed);
    may(map.put(&1, &1));
    may(map.lock(&1));
    may(map.execute_on_key(&1, |entry| entry.remove()));
    may(map.execute_on_entries(|_, _| true, |entry| entry.remove()));
}
