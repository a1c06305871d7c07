//! What a map says of itself.

mod support;

use std::time::Duration;

use hdgrid::data::Natural;
use hdgrid::{Latency, Map};
use support::Bed;

type Numbers = Map<Natural<i32>, Natural<i32>>;

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

#[test]
fn every_operation_counts_once_whatever_it_finds() {
    let bed = Bed::new();
    let map = map(&bed);
    let blocking = map.blocking();
    blocking.set_all(&[(&1, &1), (&2, &2)]).expect("set");
    blocking.put(&1, &10).expect("put");
    blocking.put_if_absent(&1, &11).expect("refused");
    blocking.replace_if_same(&1, &10, &12).expect("replaced");
    assert!(blocking.try_put(&3, &3, Duration::ZERO).expect("put"));
    blocking.get_all(&[&1, &2, &9]).expect("get");
    blocking.remove(&9).expect("absent");
    blocking.delete(&2).expect("removed");
    blocking.remove_if_same(&1, &0).expect("refused");
    blocking.try_remove(&1, Duration::ZERO).expect("removed");
    blocking.merge(&3, 1, |old, new| Some(old + new)).expect("merged");
    blocking.lock(&7).expect("locked");
    blocking.lock_with_lease(&8, Duration::from_secs(1)).expect("locked");
    assert_eq!(map.local_map_stats().locked_entry_count, 2);
    bed.pass(Duration::from_secs(2));
    let stats = map.clone().local_map_stats();
    assert_eq!((stats.get_operation_count, stats.hits), (3, 2));
    assert_eq!((stats.put_operation_count, stats.set_operation_count), (4, 2));
    assert_eq!((stats.remove_operation_count, stats.process_operation_count), (4, 1));
    assert_eq!((stats.owned_entry_count, stats.locked_entry_count), (1, 1), "keys 3 and 7");
    assert!(stats.owned_entry_bytes > 4 && stats.owned_entry_memory_cost > stats.owned_entry_bytes);
    assert_eq!(stats.event_count, 0, "nobody listens");
    map.listen().register(|_| ()).expect("registered");
    blocking.set(&4, &4).expect("set");
    blocking.clear().expect("cleared");
    let emptied = if map.partition_of(&3).ok() == map.partition_of(&4).ok() { 1 } else { 2 };
    assert_eq!(map.local_map_stats().event_count, 1 + emptied);
}

#[test]
fn operations_that_take_turns_are_timed_as_often_as_each_other() {
    let bed = Bed::new();
    let map = map(&bed);
    const EACH: u64 = 30_000;
    for _ in 0..EACH {
        map.blocking().put(&1, &1).expect("put");
        map.blocking().get(&1).expect("get");
    }
    let stats = map.local_map_stats();
    for latency in [stats.put_latency, stats.get_latency] {
        let samples = latency.samples;
        // 469 are expected, with a deviation of less than 22.
        assert!((300..700).contains(&samples), "{samples} of {EACH}");
        let Latency { p50, p90, p99, p99_9, max, .. } = latency;
        assert!(Duration::ZERO < p50 && p50 <= p90 && p90 <= p99, "{latency:?}");
        assert!(p99 <= p99_9 && p99_9 <= max.mul_f64(1.02), "{latency:?}");
    }
    assert_eq!(stats.remove_latency, Latency::default());
}
