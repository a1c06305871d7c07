//! What is told when all of a map goes, and who is kept.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use hdgrid::data::{Natural, PartitionId};
use hdgrid::{EntryEventKind, EventConfig, Listen, Map, MapConfig, MapEvent};
use hotrestart::Durability;
use proptest::prelude::*;
use support::Bed;

type Number = Natural<i32>;
type Numbers = Map<Number, Number>;

const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    Entry(EntryEventKind, i32, Option<i32>),
    Emptied(PartitionId, u64),
    Lost(u64),
}

#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<Vec<Told>>>);

impl Notes {
    fn of(listen: Listen<'_, Number, Number>) -> Notes {
        let notes = Notes::default();
        let noted = notes.clone();
        let note = move |event: MapEvent<'_, Number, Number>| {
            let told = match event {
                MapEvent::Entry(entry) => Told::Entry(
                    entry.kind(),
                    entry.key().expect("a key"),
                    entry.value().expect("a value").or(entry.old_value().expect("a value")),
                ),
                MapEvent::Cleared { partition, entries }
                | MapEvent::EvictedAll { partition, entries } => Told::Emptied(partition, entries),
                MapEvent::Lost { events } => Told::Lost(events),
                other => panic!("{other:?}"),
            };
            noted.0.lock().expect("held").push(told);
        };
        listen.register(note).expect("registered");
        notes
    }

    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().expect("held"))
    }
}

fn one_lane() -> Bed {
    Bed::with_events(EventConfig { threads: NonZeroUsize::MIN, ..EventConfig::default() })
}

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

#[test]
fn what_goes_with_all_of_a_map_is_told_in_the_order_of_its_partition() {
    let bed = Bed::new();
    let map = map(&bed);
    let notes = Notes::of(map.listen().values());
    let blocking = map.blocking();
    for key in 0..100 {
        let partition = map.partition_of(&key).expect("a key");
        for (value, empty) in [(1, true), (2, false)] {
            blocking.set(&key, &value).expect("set");
            assert!(!empty || blocking.clear().expect("cleared") == 1);
        }
        bed.member().step();
        let added = |value| Told::Entry(EntryEventKind::Added, key, Some(value));
        assert_eq!(notes.take(), [added(1), Told::Emptied(partition, 1), added(2)]);
        assert_eq!(blocking.evict_all().expect("evicted"), 1);
        bed.member().step();
        assert_eq!(notes.take(), [Told::Emptied(partition, 1)]);
        blocking.clear().expect("nothing to clear");
        bed.member().step();
        assert_eq!(notes.take(), [], "of nothing that is gone nothing is told");
    }
}

#[test]
fn who_listens_to_a_key_is_told_that_it_goes_with_all_others() {
    let bed = one_lane();
    let map = map(&bed);
    let notes = Notes::of(map.listen().key(&1).expect("a key").values());
    let blind = Notes::of(map.listen().key(&1).expect("a key").only(&[EntryEventKind::Added]));
    for key in 0..100 {
        map.blocking().set(&key, &key).expect("set");
    }
    map.blocking().evict_all().expect("evicted");
    map.blocking().set(&1, &5).expect("set");
    map.blocking().clear().expect("cleared");
    map.blocking().clear().expect("cleared");
    bed.member().step();
    let told = |kind, value| Told::Entry(kind, 1, Some(value));
    let added = [told(EntryEventKind::Added, 1), told(EntryEventKind::Added, 5)];
    let gone = [told(EntryEventKind::Evicted, 1), told(EntryEventKind::Removed, 5)];
    assert_eq!(notes.take(), [&added[0], &gone[0], &added[1], &gone[1]].map(Clone::clone));
    assert_eq!(blind.take().len(), 2);
}

#[test]
fn keys_that_stay_as_they_are_locked_are_not_told_as_gone() {
    let bed = one_lane();
    let map = map(&bed);
    for key in 0..200 {
        map.blocking().set(&key, &key).expect("set");
    }
    let notes = Notes::of(map.listen());
    map.blocking().lock(&7).expect("locked");
    assert_eq!(map.blocking().clear().expect("cleared"), 199);
    bed.member().step();
    let locked = map.partition_of(&7).expect("a key");
    let mut left: BTreeSet<i32> = (0..200).collect();
    for told in notes.take() {
        match told {
            Told::Entry(EntryEventKind::Removed, key, None) => assert!(left.remove(&key)),
            Told::Emptied(partition, entries) => {
                assert_ne!(partition, locked);
                let before = left.len() as u64;
                left.retain(|key| map.partition_of(key).expect("a key") != partition);
                assert_eq!(entries, before - left.len() as u64);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(left, [7].into());
}

#[test]
fn what_readers_see_is_told_though_nobody_knows_whether_it_is_kept() {
    let bed = Bed::with(|builder| {
        let events = EventConfig { threads: NonZeroUsize::MIN, ..EventConfig::default() };
        let synced = MapConfig { durability: Durability::Synced, ..MapConfig::default() };
        builder.store(|store| store.ack_timeout_ms(0)).map("m", synced).events(events)
    });
    let map = map(&bed);
    let notes = Notes::of(map.listen().values());
    let (mut expected, mut unknown) = (Vec::new(), 0);
    for value in 0..50 {
        unknown += u64::from(map.blocking().set(&1, &value).is_err());
        expected.push(Told::Entry(EntryEventKind::Added, 1, Some(value)));
        match value % 2 {
            0 => {
                unknown += u64::from(map.blocking().delete(&1).is_err());
                expected.push(Told::Entry(EntryEventKind::Removed, 1, Some(value)));
            }
            _ => {
                unknown += u64::from(map.blocking().clear().is_err());
                expected.push(Told::Emptied(map.partition_of(&1).expect("a key"), 1));
            }
        }
        assert_eq!(map.blocking().get(&1).expect("read"), None);
    }
    assert!(unknown > 0, "the time to wait for the disk is none");
    bed.member().step();
    assert_eq!(notes.take(), expected);
}

#[test]
fn clears_that_nobody_hears_take_no_more_room_than_they_may() {
    let bed = Bed::with_events(EventConfig {
        threads: NonZeroUsize::MIN,
        queue_capacity: 0,
        ..EventConfig::default()
    });
    let map = map(&bed);
    let notes = Notes::of(map.listen());
    for _ in 0..1000 {
        map.blocking().set(&1, &1).expect("set");
        map.blocking().clear().expect("cleared");
    }
    bed.member().step();
    assert_eq!(
        notes.take(),
        [Told::Entry(EntryEventKind::Added, 1, None), Told::Lost(1999)],
        "one waits at least"
    );
    assert_eq!(bed.member().events_lost(), 1999);
    assert_eq!(map.local_map_stats().event_count, 1, "those that were queued");
}

#[test]
fn a_clear_does_not_wait_for_a_lock_that_was_asked_for_before() {
    let bed = Bed::new();
    let map = map(&bed);
    map.blocking().set(&1, &1).expect("set");
    let (locker, clearer) = (map.clone(), map.clone());
    let (done, ends) = mpsc::channel();
    std::thread::scope(|scope| {
        let locks = || {
            scope.spawn(|| locker.blocking().lock(&1).expect("locked"));
            std::thread::sleep(Duration::from_millis(100));
            scope.spawn(|| done.send(clearer.blocking().clear().expect("cleared")));
            std::thread::sleep(Duration::from_millis(100));
        };
        map.blocking().execute_on_key(&1, |_| locks()).expect("done");
    });
    assert_eq!(ends.recv_timeout(SOON), Ok(0), "it is locked");
    locker.unlock(&1).expect("unlocked");
    assert_eq!(map.blocking().clear().expect("cleared"), 1);
}

/// What a listener that keeps a copy of a map does.
fn mirror(map: &Numbers) -> Arc<Mutex<BTreeMap<i32, i32>>> {
    let mirror = Arc::new(Mutex::new(BTreeMap::new()));
    let (kept, own) = (Arc::clone(&mirror), map.clone());
    let keep = move |event: MapEvent<'_, Number, Number>| {
        let mut kept = kept.lock().expect("held");
        match event {
            MapEvent::Entry(entry) => {
                let key = entry.key().expect("a key");
                match entry.value().expect("a value") {
                    Some(value) => kept.insert(key, value),
                    None => kept.remove(&key),
                };
            }
            MapEvent::Cleared { partition, .. } | MapEvent::EvictedAll { partition, .. } => {
                kept.retain(|key, _| own.partition_of(key).expect("a key") != partition);
            }
            other => panic!("{other:?}"),
        }
    };
    map.listen().values().register(keep).expect("registered");
    mirror
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever happens, and in whatever order lanes are told.
    #[test]
    fn a_copy_that_a_listener_keeps_is_the_map(
        steps in proptest::collection::vec((0..8_u8, 0..40_i32, any::<bool>()), 1..300),
    ) {
        let bed = Bed::new();
        let map = map(&bed);
        let other = map.clone();
        let mirror = mirror(&map);
        for (value, (step, key, tells)) in (0..).zip(steps) {
            let blocking = map.blocking();
            match step {
                0..=3 => drop(blocking.try_put(&key, &value, Duration::ZERO).expect("put")),
                4 => drop(blocking.try_remove(&key, Duration::ZERO).expect("removed")),
                5 => drop(blocking.clear().expect("cleared")),
                6 => drop(blocking.evict_all().expect("evicted")),
                _ if other.is_locked(&key).expect("a key") => other.force_unlock(&key).expect("free"),
                _ => other.blocking().lock(&key).expect("locked"),
            }
            if tells {
                bed.member().step();
            }
        }
        bed.member().step();
        let there: BTreeMap<_, _> = map.iter().map(|entry| entry.expect("read")).collect();
        prop_assert_eq!(&*mirror.lock().expect("held"), &there);
    }
}
