//! Locks: who waits, in which order, and what ends it.

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hdgrid::data::Natural;
use hdgrid::{Map, MapError};
use support::Bed;

type Numbers = Map<Natural<i32>, Natural<i32>>;

const SECOND: Duration = Duration::from_secs(1);

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

/// Polls once.
macro_rules! poll {
    ($future:expr) => {
        $future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
}

#[test]
fn others_wait_to_change_a_locked_key_and_readers_do_not() {
    let bed = Bed::new();
    let (holder, other) = (map(&bed), map(&bed));
    holder.blocking().set(&1, &1).expect("set");
    holder.blocking().lock(&1).expect("locked");
    assert!(holder.is_locked(&1).expect("looked") && other.is_locked(&1).expect("looked"));
    let mut put = pin!(other.put(&1, &9));
    assert!(poll!(put).is_pending());
    assert_eq!(other.blocking().get(&1).expect("get"), Some(1));
    other.blocking().set(&2, &2).expect("another key is free");
    holder.blocking().set(&1, &2).expect("it is its own lock");
    assert!(poll!(put).is_pending());
    holder.unlock(&1).expect("unlocked");
    assert!(matches!(poll!(put), Poll::Ready(Ok(Some(2)))));
    assert!(!holder.is_locked(&1).expect("looked"));
}

#[test]
fn whoever_waits_goes_on_in_the_order_of_coming() {
    let bed = Bed::new();
    let holder = map(&bed);
    holder.blocking().lock(&1).expect("locked");
    let others: Vec<_> = (0..3).map(|_| map(&bed)).collect();
    let (mut first, mut second, mut third) =
        (pin!(others[0].put(&1, &10)), pin!(others[1].lock(&1)), pin!(others[2].put(&1, &30)));
    assert!(poll!(first).is_pending());
    assert!(poll!(second).is_pending());
    assert!(poll!(third).is_pending());
    holder.unlock(&1).expect("unlocked");
    assert!(poll!(third).is_pending(), "it is not its turn");
    assert!(poll!(second).is_pending(), "the first has the key until it has changed it");
    assert!(matches!(poll!(first), Poll::Ready(Ok(None))));
    assert!(matches!(poll!(second), Poll::Ready(Ok(()))));
    assert!(poll!(third).is_pending());
    others[1].unlock(&1).expect("unlocked");
    assert!(matches!(poll!(third), Poll::Ready(Ok(Some(10)))));
}

#[test]
fn who_stops_waiting_holds_nobody_up_also_when_its_turn_had_come() {
    let bed = Bed::new();
    let (holder, second, third) = (map(&bed), map(&bed), map(&bed));
    holder.blocking().lock(&1).expect("locked");
    let mut last = pin!(third.put(&1, &3));
    {
        let mut gone = pin!(second.put(&1, &2));
        assert!(poll!(gone).is_pending());
        assert!(poll!(last).is_pending());
        holder.unlock(&1).expect("unlocked");
        assert!(poll!(last).is_pending(), "it is the turn of the other");
    }
    assert!(matches!(poll!(last), Poll::Ready(Ok(None))), "the other changed nothing");
}

#[test]
fn only_who_has_locked_a_key_unlocks_it_but_by_force() {
    let bed = Bed::new();
    let (holder, other) = (map(&bed), map(&bed));
    let error = other.unlock(&1).expect_err("not locked");
    assert!(matches!(error, MapError::NotLocked { is_locked: false, .. }), "{error}");
    holder.blocking().lock(&1).expect("locked");
    holder.blocking().lock(&1).expect("again");
    let error = other.unlock(&1).expect_err("another's");
    assert!(matches!(error, MapError::NotLocked { is_locked: true, .. }), "{error}");
    let clone = holder.clone();
    assert!(clone.unlock(&1).is_err(), "a clone is another caller");
    holder.unlock(&1).expect("once");
    assert!(!other.blocking().try_lock(&1, Duration::ZERO).expect("tried"), "it was locked twice");
    other.force_unlock(&1).expect("unlocked");
    assert!(other.blocking().try_lock(&1, Duration::ZERO).expect("tried"));
}

#[test]
fn a_lease_that_is_over_frees_the_key_and_wakes_who_waits() {
    let bed = Bed::new();
    let (holder, other) = (map(&bed), map(&bed));
    holder.blocking().lock_with_lease(&1, 2 * SECOND).expect("locked");
    let mut lock = pin!(other.lock(&1));
    assert!(poll!(lock).is_pending());
    bed.pass(SECOND);
    assert!(poll!(lock).is_pending());
    bed.pass(SECOND);
    assert!(matches!(poll!(lock), Poll::Ready(Ok(()))));
    assert!(holder.unlock(&1).is_err(), "it has lost the key");
}

#[test]
fn a_try_bounds_the_wait_for_the_lock() {
    let bed = Bed::new();
    let (holder, other) = (map(&bed), map(&bed));
    holder.blocking().set(&1, &1).expect("set");
    holder.blocking().lock(&1).expect("locked");
    let (mut put, mut remove, mut lock) = (
        pin!(other.try_put(&1, &2, SECOND)),
        pin!(other.try_remove(&1, SECOND)),
        pin!(other.try_lock(&1, SECOND)),
    );
    assert!(poll!(put).is_pending() && poll!(remove).is_pending() && poll!(lock).is_pending());
    bed.pass(SECOND);
    assert!(matches!(poll!(put), Poll::Ready(Ok(false))));
    assert!(matches!(poll!(remove), Poll::Ready(Ok(false))));
    assert!(matches!(poll!(lock), Poll::Ready(Ok(false))));
    holder.unlock(&1).expect("unlocked");
    assert_eq!(other.blocking().get(&1).expect("get"), Some(1));
    assert!(other.blocking().try_put(&1, &2, Duration::ZERO).expect("tried"));
    assert!(other.blocking().try_remove(&1, Duration::ZERO).expect("tried"));
    assert!(!other.blocking().try_remove(&1, Duration::ZERO).expect("tried"), "nothing there");
}

#[test]
fn who_waits_for_a_key_of_a_map_that_is_destroyed_is_told() {
    let bed = Bed::new();
    let (holder, other) = (map(&bed), map(&bed));
    holder.blocking().lock(&1).expect("locked");
    let (mut put, mut lock) = (pin!(other.put(&1, &2)), pin!(other.lock(&1)));
    assert!(poll!(put).is_pending() && poll!(lock).is_pending());
    bed.member().destroy_map("m").expect("destroyed");
    assert!(matches!(poll!(put), Poll::Ready(Err(MapError::Gone { .. }))));
    assert!(matches!(poll!(lock), Poll::Ready(Err(MapError::Gone { .. }))));
}

#[test]
fn a_thread_that_waits_sleeps_until_the_key_is_its() {
    let bed = Bed::new();
    let (holder, other) = (map(&bed), map(&bed));
    holder.blocking().lock(&1).expect("locked");
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || tell.send(other.blocking().put(&1, &2)).expect("somebody listens"));
        assert!(told.recv_timeout(Duration::from_millis(30)).is_err(), "it waits");
        holder.unlock(&1).expect("unlocked");
        let put = told.recv_timeout(Duration::from_secs(60)).expect("it goes on");
        assert_eq!(put.expect("put"), None);
    });
}

#[test]
fn counters_under_a_lock_lose_nothing_whoever_counts() {
    let bed = Bed::new();
    let (threads, times) = (4, 300);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let map = map(&bed);
            scope.spawn(move || {
                let blocking = map.blocking();
                for _ in 0..times {
                    blocking.lock(&1).expect("locked");
                    let count = blocking.get(&1).expect("get").unwrap_or(0);
                    blocking.set(&1, &(count + 1)).expect("set");
                    map.unlock(&1).expect("unlocked");
                }
            });
        }
    });
    assert_eq!(map(&bed).blocking().get(&1).expect("get"), Some(threads * times));
}
