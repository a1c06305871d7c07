//! Who is told of changes, of what, and in which order.

mod support;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use hdgrid::EntryEventKind::{Added, Evicted, Removed, Updated};
use hdgrid::data::Natural;
use hdgrid::{
    EntryEventKind, EventConfig, Lifetime, Listen, ListenerId, Map, MapError, MapEvent, Member,
};
use support::Bed;

type Number = Natural<i32>;
type Numbers = Map<Number, Number>;

/// What a listener was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Entry(EntryEventKind, i32, Option<i32>, Option<i32>),
    Cleared(u64),
    EvictedAll(u64),
    Lost(u64),
}

fn told(event: &MapEvent<'_, Number, Number>) -> Told {
    match event {
        MapEvent::Entry(entry) => Told::Entry(
            entry.kind(),
            entry.key().expect("a key"),
            entry.old_value().expect("a value"),
            entry.value().expect("a value"),
        ),
        MapEvent::Cleared { entries, .. } => Told::Cleared(*entries),
        MapEvent::EvictedAll { entries, .. } => Told::EvictedAll(*entries),
        MapEvent::Lost { events } => Told::Lost(*events),
        other => panic!("{other:?}"),
    }
}

/// Notes all that a listener is told.
#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<Vec<Told>>>);

impl Notes {
    fn of(listen: Listen<'_, Number, Number>) -> (Notes, ListenerId) {
        let notes = Notes::default();
        let noted = notes.clone();
        let note =
            move |event: MapEvent<'_, _, _>| noted.0.lock().expect("held").push(told(&event));
        (notes, listen.register(note).expect("added"))
    }

    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().expect("held"))
    }
}

fn map(bed: &Bed) -> Numbers {
    bed.member().map("m").expect("a map")
}

#[test]
fn every_change_is_told_once_with_what_was_there_and_what_is() {
    // One thread's share, so that all is told in the order in which it happened.
    let threads = NonZeroUsize::MIN;
    let bed = Bed::with_events(EventConfig { threads, ..EventConfig::default() });
    let map = map(&bed);
    let (notes, _) = Notes::of(map.listen().values());
    let map = map.blocking();
    let expect = |expected: &[Told]| {
        bed.member().step();
        assert_eq!(notes.take(), expected);
    };
    let no_time = Duration::ZERO;
    map.set(&1, &10).expect("set");
    map.set(&1, &11).expect("set");
    map.put(&1, &12).expect("put");
    assert!(map.try_put(&1, &13, no_time).expect("put"));
    map.put_if_absent(&1, &99).expect("refused");
    map.put_if_absent(&2, &20).expect("put");
    expect(&[
        Told::Entry(Added, 1, None, Some(10)),
        Told::Entry(Updated, 1, Some(10), Some(11)),
        Told::Entry(Updated, 1, Some(11), Some(12)),
        Told::Entry(Updated, 1, Some(12), Some(13)),
        Told::Entry(Added, 2, None, Some(20)),
    ]);
    map.replace(&3, &30).expect("refused");
    map.replace(&2, &21).expect("replaced");
    assert!(!map.replace_if_same(&2, &20, &22).expect("refused"));
    assert!(map.replace_if_same(&2, &21, &22).expect("replaced"));
    assert!(map.set_ttl(&2, Duration::from_secs(1)).expect("set"));
    expect(&[
        Told::Entry(Updated, 2, Some(20), Some(21)),
        Told::Entry(Updated, 2, Some(21), Some(22)),
    ]);
    bed.pass(Duration::from_secs(2));
    map.set_with(&2, &23, Lifetime::forever()).expect("set");
    assert!(map.remove_if_same(&2, &23).expect("removed"));
    assert!(!map.delete(&2).expect("absent"));
    map.remove(&1).expect("removed");
    map.remove(&1).expect("absent");
    assert!(!map.try_remove(&1, no_time).expect("absent"));
    assert!(!map.evict(&1).expect("absent"));
    map.set_all(&[(&4, &40)]).expect("set");
    assert!(map.evict(&4).expect("evicted"));
    expect(&[
        Told::Entry(Added, 2, None, Some(23)),
        Told::Entry(Removed, 2, Some(23), None),
        Told::Entry(Removed, 1, Some(13), None),
        Told::Entry(Added, 4, None, Some(40)),
        Told::Entry(Evicted, 4, Some(40), None),
    ]);
    map.compute(&5, |_| Some(50)).expect("computed");
    map.merge(&5, 1, |old, new| Some(old + new)).expect("merged");
    map.execute_on_key(&5, |entry| entry.value().copied()).expect("looked");
    map.replace_all(|_, value| value + 1).expect("replaced");
    map.compute_if_present(&5, |_| None).expect("computed");
    expect(&[
        Told::Entry(Added, 5, None, Some(50)),
        Told::Entry(Updated, 5, Some(50), Some(51)),
        Told::Entry(Updated, 5, Some(51), Some(52)),
        Told::Entry(Removed, 5, Some(52), None),
    ]);
}

#[test]
fn each_listener_is_told_what_it_asked_for_whatever_others_did() {
    let bed = Bed::new();
    let map = map(&bed);
    let (bare, _) = Notes::of(map.listen());
    let (of_one, _) = Notes::of(map.listen().key(&1).expect("a key").values());
    let (removals, _) = Notes::of(map.listen().only(&[Removed]));
    let large = |event: &hdgrid::EntryEvent<'_, Number, Number>| {
        event.value().expect("a value").is_some_and(|value| value > 10)
    };
    let (large, _) = Notes::of(map.listen().filter(large));
    let all = map.blocking();
    all.set(&1, &1).expect("set");
    all.set(&2, &20).expect("set");
    all.delete(&1).expect("removed");
    assert_eq!(all.clear().expect("cleared"), 1, "key 2");
    bed.member().step();
    let added = |key| Told::Entry(Added, key, None, None);
    let removed = Told::Entry(Removed, 1, None, None);
    // Keys of different partitions are told in any order.
    let mut seen = bare.take();
    let at = seen.iter().position(|told| *told == added(2)).expect("told");
    seen[..=at].rotate_right(1);
    assert_eq!(seen, [added(2), added(1), removed, Told::Cleared(1)]);
    let of_key = [Told::Entry(Added, 1, None, Some(1)), Told::Entry(Removed, 1, Some(1), None)];
    assert_eq!(of_one.take(), of_key, "and nothing of all of the map");
    assert_eq!(removals.take(), [removed, Told::Cleared(1)]);
    assert_eq!(large.take(), [added(2), Told::Cleared(1)]);
}

#[test]
fn changes_of_a_key_by_many_threads_are_told_in_their_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let member = Member::builder(directory.path())
        .store(|store| store.memory_limit_bytes(64 << 20).chunk_bytes(1 << 20))
        .start()
        .expect("started");
    let map: Numbers = member.map("m").expect("a map");
    let (tell, all_told) = mpsc::channel();
    let note = move |event: MapEvent<'_, _, _>| {
        let _ = tell.send(told(&event));
    };
    map.listen().values().register(note).expect("added");
    const KEYS: i32 = 7;
    const EACH: i32 = 3_000;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let map = map.clone();
            scope.spawn(move || {
                for change in 0..EACH {
                    let (key, value) = (change % KEYS, thread * EACH + change);
                    let map = map.blocking();
                    match change % 5 {
                        0 => drop(map.delete(&key).expect("removed")),
                        1 => drop(map.compute(&key, |_| Some(value)).expect("computed")),
                        _ => map.set(&key, &value).expect("set"),
                    }
                }
            });
        }
    });
    for key in 0..KEYS {
        map.blocking().set(&key, &-1).expect("set");
    }
    let (mut last, mut ended) = ([None; KEYS as usize], 0);
    while ended < KEYS {
        let told = all_told.recv_timeout(Duration::from_secs(60)).expect("told of all");
        let Told::Entry(_, key, old, new) = told else { panic!("{told:?}") };
        assert_eq!(old, last[key as usize], "what was there is what the event before put there");
        last[key as usize] = new;
        ended += i32::from(new == Some(-1));
    }
    assert_eq!(member.events_lost(), 0);
}

#[test]
fn a_listener_that_is_slower_than_changes_holds_nobody_up_and_learns_what_it_missed() {
    let directory = tempfile::tempdir().expect("a directory");
    let one = NonZeroUsize::MIN;
    let events = EventConfig { threads: one, queue_capacity: 10, ..EventConfig::default() };
    let member = Member::builder(directory.path()).events(events).start().expect("started");
    let map: Numbers = member.map("m").expect("a map");
    let (tell, all_told) = mpsc::channel();
    let (go_on, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let slow = move |event: MapEvent<'_, _, _>| {
        let _ = tell.send(told(&event));
        let _ = gate.lock().expect("held").recv();
    };
    map.listen().values().register(slow).expect("added");
    let next = || all_told.recv_timeout(Duration::from_secs(60)).expect("told");
    map.blocking().set(&0, &0).expect("set");
    assert_eq!(next(), Told::Entry(Added, 0, None, Some(0)));
    for value in 1..=30 {
        map.blocking().set(&0, &value).expect("set");
    }
    assert_eq!(member.events_lost(), 20);
    for value in 1..=10 {
        go_on.send(()).expect("there");
        assert_eq!(next(), Told::Entry(Updated, 0, Some(value - 1), Some(value)));
    }
    map.blocking().set(&0, &31).expect("set");
    drop(go_on);
    assert_eq!(next(), Told::Lost(20), "where they are missing");
    assert_eq!(next(), Told::Entry(Updated, 0, Some(30), Some(31)));
}

#[test]
fn events_that_were_lost_last_are_told_without_another_change() {
    let bed = Bed::with_events(EventConfig { queue_capacity_bytes: 1, ..EventConfig::default() });
    let map = map(&bed);
    let (notes, _) = Notes::of(map.listen());
    for value in 0..5 {
        map.blocking().set(&1, &value).expect("set");
    }
    bed.member().step();
    assert_eq!(notes.take(), [Told::Entry(Added, 1, None, None), Told::Lost(4)]);
    bed.member().step();
    assert_eq!(notes.take(), []);
}

#[test]
fn a_listener_that_panics_takes_nobody_along() {
    let bed = Bed::new();
    let map = map(&bed);
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let panics = move |_: MapEvent<'_, _, _>| {
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("a listener's own fault");
    };
    map.listen().register(panics).expect("added");
    let (notes, _) = Notes::of(map.listen());
    for value in 0..3 {
        map.blocking().set(&1, &value).expect("set");
    }
    bed.member().step();
    assert_eq!((calls.load(Ordering::Relaxed), notes.take().len()), (3, 3));
}

#[test]
fn a_listener_may_use_its_map_and_remove_itself() {
    let bed = Bed::new();
    let map = map(&bed);
    let id = Arc::new(Mutex::new(None));
    let (inner, own) = (map.clone(), Arc::clone(&id));
    let doubles = move |event: MapEvent<'_, Number, Number>| {
        let Told::Entry(Added, key, _, _) = told(&event) else { return };
        inner.blocking().set(&(key + 1000), &key).expect("set");
        let id = own.lock().expect("held").expect("noted");
        assert!(inner.remove_listener(id));
        assert!(!inner.remove_listener(id));
    };
    *id.lock().expect("held") = Some(map.listen().register(doubles).expect("added"));
    for key in 0..3 {
        map.blocking().set(&key, &key).expect("set");
    }
    bed.member().step();
    bed.member().step();
    assert_eq!(map.len(), 4, "it was told of one");
}

#[test]
fn who_is_removed_or_whose_map_is_gone_is_told_nothing_and_let_go() {
    let bed = Bed::new();
    let map = map(&bed);
    let (notes, id) = Notes::of(map.listen());
    map.blocking().set(&1, &1).expect("set");
    assert!(map.remove_listener(id));
    bed.member().step();
    assert_eq!(notes.take(), [], "what was queued is not told either");

    let (notes, _) = Notes::of(map.listen());
    map.blocking().set(&1, &2).expect("set");
    assert!(bed.member().destroy_map("m").expect("destroyed"));
    bed.member().step();
    assert_eq!(notes.take(), []);
    assert_eq!(Arc::strong_count(&notes.0), 1, "what it had is dropped");
    assert!(matches!(map.listen().register(|_| ()), Err(MapError::Gone { .. })));
}

#[test]
fn a_change_after_a_listener_was_added_is_told_whoever_makes_it() {
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
        for value in 0..200 {
            let map = map.clone();
            let (notes, id) = Notes::of(map.listen().key(&1).expect("a key").values());
            let maker = map.clone();
            let change = move || maker.blocking().set(&1, &value).expect("set");
            scope.spawn(change).join().expect("joined");
            bed.member().step();
            let seen = notes.take();
            assert!(
                matches!(seen[..], [Told::Entry(_, 1, _, Some(new))] if new == value),
                "{seen:?}"
            );
            assert!(map.remove_listener(id));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_listener_that_has_the_last_handle_of_its_member_ends_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let member = Member::builder(directory.path()).start().expect("started");
    let map: Numbers = member.map("m").expect("a map");
    let member = Arc::new(Mutex::new(Some(member)));
    let last = Arc::clone(&member);
    let (tell, ended) = mpsc::channel();
    let ends = move |_: MapEvent<'_, Number, Number>| {
        drop(last.lock().expect("held").take());
        let _ = tell.send(());
    };
    map.listen().register(ends).expect("added");
    map.blocking().set(&1, &1).expect("set");
    ended.recv_timeout(Duration::from_secs(60)).expect("it did not wait for itself");
    drop(map);
    Member::builder(directory.path()).start().expect("the store is closed");
}

#[test]
fn a_listener_that_has_its_own_map_keeps_nothing_of_a_dropped_member() {
    let directory = tempfile::tempdir().expect("a directory");
    let member = Member::builder(directory.path()).start().expect("started");
    let map: Numbers = member.map("m").expect("a map");
    let (own, kept) = (map.clone(), Arc::new(1_u64));
    let of_listener = Arc::clone(&kept);
    let checks = move |_: MapEvent<'_, _, _>| assert!(own.len() == *of_listener);
    map.listen().register(checks).expect("registered");
    map.blocking().set(&1, &1).expect("set");
    drop(member);
    assert!(map.blocking().set(&1, &2).is_err(), "it has stopped");
    assert_eq!(map.blocking().get(&1).expect("reads go on"), Some(1));
    assert_eq!(Arc::strong_count(&kept), 1, "the listener is let go, and with it its map");
    drop(map);
    Member::builder(directory.path()).start().expect("the store is closed");
}
