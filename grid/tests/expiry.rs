//! How long entries live.

mod support;

use std::time::Duration;

use hdgrid::data::Natural;
use hdgrid::{Lifetime, Map};
use support::Bed;

type Numbers = Map<Natural<i32>, Natural<i32>>;

const SECOND: Duration = Duration::from_secs(1);

fn map(bed: &Bed, name: &str) -> Numbers {
    bed.member().map(name).expect("a map")
}

#[test]
fn an_entry_is_gone_when_its_time_is_over_and_its_memory_without_a_touch() {
    let bed = Bed::new();
    let map = map(&bed, "m");
    map.blocking().set_with(&1, &1, Lifetime::ttl(SECOND)).expect("set");
    bed.pass(SECOND - Duration::from_millis(1));
    assert_eq!((map.blocking().get(&1).expect("get"), map.len()), (Some(1), 1));
    bed.pass(Duration::from_millis(1));
    assert_eq!((map.blocking().get(&1).expect("get"), map.len()), (None, 0));
}

#[test]
fn a_put_that_says_nothing_of_it_keeps_the_time_to_live_and_starts_it_anew() {
    let bed = Bed::new();
    let map = map(&bed, "m");
    map.blocking().set_with(&1, &1, Lifetime::ttl(2 * SECOND)).expect("set");
    bed.pass(SECOND);
    map.blocking().set(&1, &2).expect("set");
    bed.pass(SECOND);
    assert_eq!(map.blocking().get(&1).expect("get"), Some(2));
    bed.pass(SECOND);
    assert_eq!(map.blocking().get(&1).expect("get"), None);
    map.blocking().set(&1, &3).expect("set");
    bed.pass(100 * SECOND);
    assert_eq!(
        map.blocking().get(&1).expect("get"),
        Some(3),
        "the entry that is gone says nothing"
    );
}

#[test]
fn a_map_says_how_long_its_entries_live_unless_they_say_otherwise() {
    let bed = Bed::new();
    let map = map(&bed, "of a minute");
    let blocking = map.blocking();
    blocking.set(&1, &1).expect("set");
    blocking.set_with(&2, &2, Lifetime::ttl(SECOND)).expect("set");
    blocking.set_with(&3, &3, Lifetime::forever()).expect("set");
    bed.pass(SECOND);
    assert_eq!(blocking.get_all(&[&1, &2, &3]).expect("get"), [Some(1), None, Some(3)]);
    bed.pass(59 * SECOND);
    assert_eq!(blocking.get_all(&[&1, &2, &3]).expect("get"), [None, None, Some(3)]);
}

#[test]
fn a_new_time_to_live_counts_from_now_and_only_where_there_is_an_entry() {
    let bed = Bed::new();
    let map = map(&bed, "m");
    assert!(!map.blocking().set_ttl(&1, SECOND).expect("nothing there"));
    map.blocking().set(&1, &1).expect("set");
    bed.pass(10 * SECOND);
    assert!(map.blocking().set_ttl(&1, 2 * SECOND).expect("set"));
    bed.pass(SECOND);
    assert_eq!(map.blocking().get(&1).expect("get"), Some(1));
    bed.pass(SECOND);
    assert_eq!(map.blocking().get(&1).expect("get"), None);
    map.blocking().set_with(&1, &2, Lifetime::ttl(SECOND)).expect("set");
    assert!(map.blocking().set_ttl(&1, Duration::ZERO).expect("set"));
    bed.pass(100 * SECOND);
    assert_eq!(map.blocking().get(&1).expect("get"), Some(2), "zero is for ever");
}

#[test]
fn what_expired_counts_as_absent_for_conditions() {
    let bed = Bed::new();
    let map = map(&bed, "m");
    let blocking = map.blocking();
    let lives = Lifetime::ttl(SECOND);
    blocking.set_with(&1, &1, lives).expect("set");
    bed.pass(SECOND);
    assert_eq!(blocking.replace(&1, &2).expect("replaced"), None);
    assert!(!blocking.remove_if_same(&1, &1).expect("compared"));
    assert_eq!(blocking.put_if_absent_with(&1, &3, lives).expect("put"), None);
    assert_eq!(blocking.get(&1).expect("get"), Some(3));
}

#[test]
fn time_passes_while_a_member_is_down_and_what_entries_say_of_themselves_comes_back() {
    let mut bed = Bed::new();
    let before = map(&bed, "m");
    before.blocking().set_with(&1, &1, Lifetime::ttl(SECOND)).expect("set");
    before.blocking().set_with(&2, &2, Lifetime::ttl(10 * SECOND)).expect("set");
    drop(before);
    bed.restart();
    bed.pass(SECOND);
    let after = map(&bed, "m");
    assert_eq!(after.blocking().get_all(&[&1, &2]).expect("get"), [None, Some(2)]);
    after.blocking().set(&2, &3).expect("set");
    bed.pass(9 * SECOND);
    assert_eq!(after.blocking().get(&2).expect("get"), Some(3), "started anew, by its own length");
    bed.pass(SECOND);
    assert_eq!(after.blocking().get(&2).expect("get"), None);
}
