//! Interceptors of maps over a user's database.

#[path = "support/rows.rs"]
mod rows;
mod support;

use std::future::Future;
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use hdgrid::{Interceptor, InterceptorError, Map, MapStoreConfig, Member};
use rows::{Number, Rows};
use support::Bed;

type Numbers = Map<Number, Number>;

fn begun(rows: &Rows) -> (Bed, Numbers) {
    let given = rows.clone();
    let bed =
        Bed::with(move |builder| builder.map_store("m", MapStoreConfig::default(), given.clone()));
    let map: Numbers = bed.member().map("m").expect("a map");
    map.blocking().loaded().expect("loaded");
    rows.take_asked();
    (bed, map)
}

/// Asks its map for the key that lies a hundred further, with others at the same time.
struct Asks {
    map: Numbers,
    together: Arc<Barrier>,
}

impl Interceptor<Number, Number> for Asks {
    fn intercept_put(&self, key: &i32, _: Option<i32>, new: i32) -> Result<i32, InterceptorError> {
        self.together.wait();
        Ok(new + self.map.blocking().get(&(key + 100))?.unwrap_or(0))
    }
}

/// More than a member's runtime has threads.
const AT_ONCE: i32 = 4;

#[test]
fn interceptors_that_wait_for_the_database_stop_no_runtime() {
    let rows = Rows::default();
    let directory = tempfile::tempdir().expect("a directory");
    let member = Member::builder(directory.path())
        .partition_count(13)
        .map_store("m", MapStoreConfig::default(), rows.clone())
        .start()
        .expect("started");
    let map: Numbers = member.map("m").expect("a map");
    map.blocking().loaded().expect("loaded");
    rows.state().rows.extend((100..100 + AT_ONCE).map(|key| (key, 1)));
    let together = Arc::new(Barrier::new(AT_ONCE as usize));
    map.add_interceptor(Asks { map: map.clone(), together }).expect("added");
    let (tell, told) = std::sync::mpsc::channel();
    for key in 0..AT_ONCE {
        let (map, tell) = (map.clone(), tell.clone());
        std::thread::spawn(move || tell.send(map.blocking().set(&key, &5)));
    }
    for _ in 0..AT_ONCE {
        told.recv_timeout(Duration::from_secs(20)).expect("none waits for ever").expect("set");
    }
    assert_eq!(rows.state().rows.range(0..AT_ONCE).map(|row| *row.1).sum::<i32>(), AT_ONCE * 6);
}

#[test]
fn an_interceptor_may_ask_for_another_key_of_the_same_batch() {
    let rows = Rows::default();
    let (_bed, map) = begun(&rows);
    rows.state().rows.insert(101, 1);
    let together = Arc::new(Barrier::new(1));
    map.add_interceptor(Asks { map: map.clone(), together }).expect("added");
    let (tell, told) = std::sync::mpsc::channel();
    let batch = map.clone();
    std::thread::spawn(move || tell.send(batch.blocking().set_all(&[(&1, &5), (&101, &7)])));
    told.recv_timeout(Duration::from_secs(20)).expect("it does not wait for itself").expect("set");
    assert!([6, 12].contains(&rows.state().rows[&1]) && rows.state().rows[&101] == 7);
}

/// Notes where it is called.
#[derive(Clone, Default)]
struct Threads(Arc<Mutex<Vec<(&'static str, ThreadId)>>>);

impl Threads {
    fn note(&self, what: &'static str) {
        self.0.lock().expect("held").push((what, std::thread::current().id()));
    }

    fn take(&self) -> Vec<(&'static str, ThreadId)> {
        std::mem::take(&mut self.0.lock().expect("held"))
    }
}

impl Interceptor<Number, Number> for Threads {
    fn intercept_put(&self, _: &i32, _: Option<i32>, new: i32) -> Result<i32, InterceptorError> {
        self.note("put");
        Ok(new)
    }

    fn after_put(&self, _: &i32, _: &i32) {
        self.note("was put");
    }

    fn intercept_remove(&self, _: &i32, removed: i32) -> Result<Option<i32>, InterceptorError> {
        self.note("remove");
        Ok(Some(removed))
    }

    fn after_remove(&self, _: &i32, _: &i32) {
        self.note("was removed");
    }
}

#[test]
fn interceptors_are_called_where_the_operation_is_polled() {
    let rows = Rows::default();
    let (_bed, map) = begun(&rows);
    let threads = Threads::default();
    map.add_interceptor(threads.clone()).expect("added");
    let here = std::thread::current().id();
    let both = [("put", here), ("was put", here)];
    map.blocking().set(&1, &1).expect("set");
    assert_eq!(threads.take(), both);
    map.blocking().set_all(&[(&1, &2), (&2, &2)]).expect("set");
    assert_eq!(threads.take(), [both, both].concat());
    map.blocking().compute(&3, |_| Some(1)).expect("computed");
    assert_eq!(threads.take(), both);
    map.blocking().remove(&1).expect("removed");
    assert_eq!(threads.take(), [("remove", here), ("was removed", here)]);
}

#[test]
fn interceptors_hear_of_a_change_whose_caller_has_gone_away() {
    let rows = Rows::default();
    let (_bed, map) = begun(&rows);
    let threads = Threads::default();
    map.add_interceptor(threads.clone()).expect("added");
    rows.pause("store");
    let mut change = Box::pin(map.set(&1, &10));
    assert!(matches!(change.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    rows.await_waiting(1);
    drop(change);
    rows.go_on();
    let until = Instant::now() + Duration::from_secs(20);
    let mut heard = Vec::new();
    while heard.len() < 2 {
        assert!(Instant::now() < until, "only {heard:?}");
        heard.extend(threads.take());
    }
    assert_eq!(heard.iter().map(|heard| heard.0).collect::<Vec<_>>(), ["put", "was put"]);
    assert_eq!(map.blocking().get(&1).expect("get"), Some(10));
}

struct PanicsAfter;

impl Interceptor<Number, Number> for PanicsAfter {
    fn after_put(&self, key: &i32, _: &i32) {
        assert!(*key != 2, "after");
    }
}

#[test]
fn an_interceptor_that_panics_in_the_middle_of_many_puts_parts_nothing() {
    let rows = Rows::of([(1, 1), (2, 2), (3, 3)]);
    let (_bed, map) = begun(&rows);
    let id = map.add_interceptor(PanicsAfter).expect("added");
    let set = || map.blocking().set_all(&[(&1, &11), (&2, &12), (&3, &13)]);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(set)).is_err());
    assert!(map.remove_interceptor(id));
    let rows = rows.rows();
    assert!(rows.contains(&(2, 12)), "done before it panicked");
    for (key, value) in rows {
        let view = map.blocking().get_entry_view(&key).expect("a view, which never loads");
        assert_eq!(view.map(|view| view.value), Some(value), "what memory has of {key}");
        assert!(map.blocking().try_put(&key, &value, Duration::ZERO).expect("it is free"));
    }
}
