//! What each operation on one key does, and what it says.

mod support;

use std::time::Duration;

use hdgrid::data::{Natural, Raw};
use hdgrid::{Map, MapError};
use support::{Bed, Text};

fn map(bed: &Bed) -> Map<Natural<Text>, Natural<i64>> {
    bed.member().map("numbers").expect("a map")
}

#[test]
fn a_put_returns_what_was_there_and_a_set_does_not_ask() {
    let bed = Bed::new();
    let (map, key) = (map(&bed), "a".to_owned());
    let map = map.blocking();
    assert_eq!(map.put(&key, &1).expect("put"), None);
    assert_eq!(map.put(&key, &2).expect("put"), Some(1));
    map.set(&key, &3).expect("set");
    assert_eq!(map.get(&key).expect("get"), Some(3));
    assert!(map.contains_key(&key).expect("looked"));
}

#[test]
fn conditions_are_about_the_value_that_is_there() {
    let bed = Bed::new();
    let (map, key) = (map(&bed), "a".to_owned());
    let map = map.blocking();
    assert_eq!(map.replace(&key, &1).expect("replaced"), None);
    assert_eq!(map.get(&key).expect("get"), None, "nothing to replace");
    assert_eq!(map.put_if_absent(&key, &1).expect("put"), None);
    assert_eq!(map.put_if_absent(&key, &2).expect("put"), Some(1));
    assert_eq!(map.replace(&key, &3).expect("replaced"), Some(1));
    assert!(!map.replace_if_same(&key, &1, &4).expect("compared"));
    assert!(map.replace_if_same(&key, &3, &4).expect("compared"));
    assert!(!map.remove_if_same(&key, &3).expect("compared"));
    assert_eq!(map.get(&key).expect("get"), Some(4));
    assert!(map.remove_if_same(&key, &4).expect("compared"));
    assert_eq!(map.get(&key).expect("get"), None);
}

#[test]
fn a_removal_says_what_there_was() {
    let bed = Bed::new();
    let (map, key) = (map(&bed), "a".to_owned());
    let map = map.blocking();
    assert_eq!(map.remove(&key).expect("removed"), None);
    assert!(!map.delete(&key).expect("deleted"));
    map.set(&key, &1).expect("set");
    assert_eq!(map.remove(&key).expect("removed"), Some(1));
    map.set(&key, &2).expect("set");
    assert!(map.delete(&key).expect("deleted"));
    assert!(!map.contains_key(&key).expect("looked"));
}

#[test]
fn keys_are_the_same_when_their_bytes_are() {
    let bed = Bed::new();
    let numbers = bed.member().map::<Natural<i32>, Natural<i64>>("m").expect("a map");
    let others = bed.member().map::<Natural<i64>, Natural<i64>>("m").expect("the same map");
    numbers.blocking().set(&1, &10).expect("set");
    assert_eq!(others.blocking().get(&1).expect("get"), None, "an int and a long are two keys");
    assert_eq!(others.len(), 1);
}

#[test]
fn a_value_of_another_type_is_an_error_that_names_the_map_and_changes_nothing() {
    let bed = Bed::new();
    let numbers = map(&bed);
    numbers.blocking().set(&"a".to_owned(), &7).expect("set");
    let raw = bed.member().map::<Natural<Text>, Raw>("numbers").expect("the same map");
    let error = raw.blocking().get(&"a".to_owned()).expect_err("no bytes");
    assert!(matches!(&error, MapError::Data { map, .. } if map == "numbers"), "{error}");
    assert!(error.to_string().contains("a byte array"), "{error}");
    assert_eq!(numbers.blocking().get(&"a".to_owned()).expect("get"), Some(7));
}

#[test]
fn many_keys_are_many_operations() {
    let bed = Bed::new();
    let map = map(&bed);
    let keys: Vec<_> = (0..500).map(|n| format!("key {n}")).collect();
    let entries: Vec<_> = keys.iter().zip(0..).collect();
    let entries: Vec<_> = entries.iter().map(|(key, n)| (*key, n)).collect();
    map.blocking().set_all(&entries).expect("set");
    assert_eq!(map.len(), 500);
    let some: Vec<_> = keys.iter().take(3).collect();
    assert_eq!(map.blocking().get_all(&some).expect("get"), [Some(0), Some(1), Some(2)]);
    let mut seen: Vec<_> = map.iter().map(|entry| entry.expect("read").1).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    assert_eq!(map.blocking().clear().expect("cleared"), 500);
    assert!(map.is_empty());
}

#[test]
fn what_is_locked_is_not_cleared() {
    let bed = Bed::new();
    let map = map(&bed);
    for n in 0..100 {
        map.blocking().set(&n.to_string(), &n).expect("set");
    }
    map.blocking().lock(&"7".to_owned()).expect("locked");
    map.blocking().lock(&"absent".to_owned()).expect("locked");
    assert_eq!(map.blocking().clear().expect("cleared"), 99);
    assert_eq!(map.iter().map(|entry| entry.expect("read").1).collect::<Vec<_>>(), [7]);
}

#[test]
fn a_view_tells_what_is_kept_of_an_entry() {
    let bed = Bed::new();
    let map = bed.member().map::<Natural<Text>, Natural<i64>>("with times").expect("a map");
    let (map, key) = (map.blocking(), "a".to_owned());
    assert_eq!(map.get_entry_view(&key).expect("looked"), None);
    let made_ms = bed.now_ms();
    map.set(&key, &1).expect("set");
    bed.pass(Duration::from_millis(40));
    map.set(&key, &2).expect("set");
    map.set_ttl(&key, Duration::from_secs(5)).expect("set");
    let view = map.get_entry_view(&key).expect("looked").expect("it is there");
    assert_eq!((view.value, view.version), (2, Some(1)));
    assert_eq!((view.creation_ms, view.last_update_ms), (Some(made_ms), Some(made_ms + 40)));
    assert_eq!((view.ttl_ms, view.expiration_ms), (Some(5_000), Some(made_ms + 5_040)));
    assert_eq!(view.max_idle_ms, None);
}

#[test]
fn a_map_that_is_destroyed_is_gone_and_its_name_free() {
    let bed = Bed::new();
    let old = map(&bed);
    old.blocking().set(&"a".to_owned(), &1).expect("set");
    assert!(bed.member().destroy_map("numbers").expect("destroyed"));
    assert!(!bed.member().destroy_map("numbers").expect("nothing there"));
    let set = old.blocking().set(&"a".to_owned(), &1);
    assert!(matches!(set, Err(MapError::Gone { .. })), "{set:?}");
    let lock = old.blocking().lock(&"a".to_owned());
    assert!(matches!(lock, Err(MapError::Gone { .. })), "{lock:?}");
    let new = map(&bed);
    assert_eq!(new.blocking().get(&"a".to_owned()).expect("get"), None);
    new.blocking().lock(&"a".to_owned()).expect("the locks are its own");
}
