//! A user's code that sees values on their way in and out.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdgrid::data::Natural;
use hdgrid::{Interceptor, InterceptorError, Map, MapError};
use support::Bed;

type Number = Natural<i32>;
type Numbers = Map<Number, Number>;

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

/// Refuses odd values, puts ten times what is put, hides a tenth of it, and notes what it hears.
#[derive(Clone, Debug, Default)]
struct Tens(Arc<Mutex<Vec<String>>>);

impl Tens {
    fn note(&self, what: String) {
        self.0.lock().expect("held").push(what);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("held"))
    }
}

impl Interceptor<Number, Number> for Tens {
    fn intercept_get(
        &self,
        key: &i32,
        value: Option<i32>,
    ) -> Result<Option<i32>, InterceptorError> {
        if *key == 13 {
            Err("13 is not to be read".into())
        } else {
            Ok(value.map(|value| value / 10))
        }
    }

    fn after_get(&self, key: &i32, value: Option<&i32>) {
        self.note(format!("got {key} {value:?}"));
    }

    fn intercept_put(
        &self,
        key: &i32,
        old: Option<i32>,
        new: i32,
    ) -> Result<i32, InterceptorError> {
        if new % 2 == 1 {
            return Err(format!("{key} was {old:?} and would be odd").into());
        }
        Ok(new * 10)
    }

    fn after_put(&self, key: &i32, new: &i32) {
        self.note(format!("put {key} {new}"));
    }

    fn intercept_remove(&self, key: &i32, removed: i32) -> Result<Option<i32>, InterceptorError> {
        match *key {
            7 => Err("7 stays".into()),
            8 => Ok(None),
            _ => Ok(Some(removed + 1)),
        }
    }

    fn after_remove(&self, key: &i32, removed: &i32) {
        self.note(format!("removed {key} {removed}"));
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, MapError>, why: &str) {
    match result {
        Err(MapError::Intercepted { source, .. }) => assert_eq!(source.to_string(), why),
        other => panic!("{other:?} is not refused with {why:?}"),
    }
}

#[test]
fn values_are_replaced_on_their_way_in_and_out_by_whatever_operation() {
    let bed = Bed::new();
    let map = map(&bed);
    let tens = Tens::default();
    map.blocking().set(&6, &60).expect("before there is one");
    map.add_interceptor(tens.clone()).expect("added");
    // Also where another handle is used.
    let other = map.clone();
    let other = other.blocking();
    other.set(&1, &2).expect("set");
    assert_eq!(other.put(&1, &4).expect("put"), Some(20), "what was there is told as it is");
    assert!(other.try_put(&2, &2, Duration::ZERO).expect("put"));
    assert_eq!(other.put_if_absent(&2, &3).expect("not asked, as it is there"), Some(20));
    assert!(other.replace_if_same(&2, &20, &6).expect("replaced"));
    assert_eq!(other.compute(&3, |_| Some(8)).expect("computed"), Some(80));
    assert_eq!(tens.take(), ["put 1 20", "put 1 40", "put 2 20", "put 2 60", "put 3 80"]);
    assert_eq!(other.get_all(&[&1, &2, &6, &9]).expect("get"), [Some(4), Some(6), Some(6), None]);
    assert_eq!(tens.take(), ["got 1 Some(4)", "got 2 Some(6)", "got 6 Some(6)", "got 9 None"]);
    assert_eq!(other.remove(&1).expect("removed"), Some(41));
    assert_eq!(other.remove(&1).expect("absent"), None);
    other.set(&8, &8).expect("set");
    assert_eq!(other.remove(&8).expect("removed, and not told"), None);
    assert!(other.delete(&2).expect("removed"));
    assert_eq!(other.compute_if_present(&3, |_| None).expect("removed"), None);
    assert!(other.evict(&6).expect("evicted") && !other.evict(&6).expect("absent"));
    assert!(!other.replace_if_same(&9, &1, &2).expect("absent"));
    assert_eq!(other.replace(&9, &3).expect("not asked, as it is absent"), None);
    let heard = [
        "removed 1 40",
        "put 8 80",
        "removed 8 80",
        "removed 2 60",
        "removed 3 80",
        "removed 6 60",
    ];
    assert_eq!(tens.take(), heard);
    assert_eq!(map.len(), 0);
}

#[test]
fn what_is_refused_has_changed_nothing_and_leaves_the_key_free() {
    let bed = Bed::new();
    let map = map(&bed);
    let tens = Tens::default();
    map.blocking().set(&7, &70).expect("before there is one");
    let id = map.add_interceptor(tens.clone()).expect("added");
    let blocking = map.blocking();
    refused(blocking.set(&7, &1), "7 was Some(70) and would be odd");
    refused(blocking.put_if_absent(&9, &1), "9 was None and would be odd");
    refused(blocking.merge(&9, 5, |_, _| None), "9 was None and would be odd");
    refused(blocking.remove(&7), "7 stays");
    refused(blocking.try_remove(&7, Duration::ZERO), "7 stays");
    refused(blocking.compute_if_present(&7, |_| None), "7 stays");
    refused(blocking.get(&13), "13 is not to be read");
    assert_eq!(tens.take(), [""; 0], "nobody is told that it was done");
    assert!(map.clone().blocking().try_put(&7, &8, Duration::ZERO).expect("nobody has the key"));
    assert!(map.remove_interceptor(id) && !map.remove_interceptor(id));
    assert_eq!(blocking.get(&7).expect("get"), Some(80));
    assert_eq!(blocking.remove(&7).expect("removed"), Some(80));
}

/// Adds a digit.
struct Digit(i32);

impl Interceptor<Number, Number> for Digit {
    fn intercept_put(&self, _: &i32, _: Option<i32>, new: i32) -> Result<i32, InterceptorError> {
        Ok(new * 10 + self.0)
    }
}

#[test]
fn interceptors_are_asked_in_the_order_in_which_they_were_added() {
    let bed = Bed::new();
    let map = map(&bed);
    let [first, ..] = [1, 2, 3].map(|digit| map.add_interceptor(Digit(digit)).expect("added"));
    map.blocking().set(&1, &9).expect("set");
    assert_eq!(map.blocking().get(&1).expect("get"), Some(9123));
    assert!(map.remove_interceptor(first));
    map.blocking().set(&1, &9).expect("set");
    assert_eq!(map.blocking().get(&1).expect("get"), Some(923));
}

/// Puts one more than was there, whatever is put.
struct More;

impl Interceptor<Number, Number> for More {
    fn intercept_put(&self, _: &i32, old: Option<i32>, _: i32) -> Result<i32, InterceptorError> {
        Ok(old.unwrap_or(0) + 1)
    }
}

#[test]
fn what_an_interceptor_sees_as_the_value_before_is_what_it_replaces() {
    let bed = Bed::new();
    let map = map(&bed);
    map.add_interceptor(More).expect("added");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let map = map.clone();
            scope.spawn(move || {
                for _ in 0..500 {
                    map.blocking().set(&1, &0).expect("set");
                }
            });
        }
    });
    assert_eq!(map.blocking().get(&1).expect("get"), Some(2_000), "no step is lost");
}

#[test]
fn a_change_after_an_interceptor_was_added_is_intercepted_whoever_makes_it() {
    let bed = Bed::new();
    let map = map(&bed);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changes = || {
            let map = map.clone();
            while !stop.load(Ordering::Relaxed) {
                map.blocking().set(&2, &2).expect("set");
            }
        };
        scope.spawn(changes);
        for round in 0..200 {
            let id = map.add_interceptor(Digit(7)).expect("added");
            let maker = map.clone();
            let change = move || maker.blocking().set(&1, &round).expect("set");
            scope.spawn(change).join().expect("joined");
            assert_eq!(map.blocking().get(&1).expect("get"), Some(round * 10 + 7));
            assert!(map.remove_interceptor(id));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Panics before whatever it is asked, or after it was done.
struct Panics {
    before: bool,
}

impl Interceptor<Number, Number> for Panics {
    fn intercept_put(&self, _: &i32, _: Option<i32>, new: i32) -> Result<i32, InterceptorError> {
        assert!(!self.before, "before");
        Ok(new)
    }

    fn after_put(&self, _: &i32, _: &i32) {
        panic!("after");
    }
}

#[test]
fn an_interceptor_that_panics_leaves_the_key_free() {
    let bed = Bed::new();
    let map = map(&bed);
    map.blocking().set(&1, &1).expect("set");
    for (before, expected) in [(true, 1), (false, 2)] {
        let id = map.add_interceptor(Panics { before }).expect("added");
        let set = || map.blocking().set(&1, &2);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(set)).is_err());
        assert_eq!(map.blocking().get(&1).expect("get"), Some(expected));
        assert!(map.remove_interceptor(id));
        assert!(map.blocking().try_put(&1, &expected, Duration::ZERO).expect("free"));
    }
}

#[test]
fn interceptors_go_with_their_map() {
    let bed = Bed::new();
    let map = map(&bed);
    let tens = Tens::default();
    map.add_interceptor(tens.clone()).expect("added");
    assert!(bed.member().destroy_map("m").expect("destroyed"));
    assert_eq!(Arc::strong_count(&tens.0), 1, "what it had is dropped");
    assert!(matches!(map.add_interceptor(tens.clone()), Err(MapError::Gone { .. })));
    assert_eq!(Arc::strong_count(&tens.0), 1);
}
