//! A log that does not know whether changes are kept. Hazard: some way to change a map tells its caller that
//! a change is done without having asked the log.

use std::sync::atomic::{AtomicBool, Ordering};

use hdstore::codec::{Bytes, U64};
use hdstore::{
    Change, Entry, Error, Log, LogError, Map, MapId, MapOptions, MapSpec, Seq, Store, StreamId,
};

/// Takes every change, and says of none that it is kept once it is told so.
#[derive(Default)]
struct Doubtful {
    doubts: AtomicBool,
    /// Stream 1 has no room.
    is_full: AtomicBool,
}

impl Log for Doubtful {
    type Level = ();
    type Room<'a> = ();
    type GroupRoom<'a> = ();
    type Ticket = ();

    fn create_map(&self, _: &MapSpec<()>) -> Result<(), LogError> {
        Ok(())
    }

    fn drop_map(&self, _: MapId) -> Result<(), LogError> {
        Ok(())
    }

    fn reserve(&self, _: MapId, stream: StreamId, _: Change<'_>) -> Result<(), LogError> {
        let is_refused = stream == StreamId(1) && self.is_full.load(Ordering::Relaxed);
        if is_refused { Err("no room".into()) } else { Ok(()) }
    }

    fn write(&self, (): &mut (), _: Change<'_>) {}

    fn position((): &()) -> u64 {
        0
    }

    fn admits(&self, _: Seq) -> bool {
        true
    }

    fn wait_to_admit(&self, _: Seq) -> Result<(), LogError> {
        Ok(())
    }

    fn commit(&self, (): (), _: Seq) {}

    fn reserve_group(&self, _: StreamId, _: &[(MapId, Change<'_>)]) -> Result<(), LogError> {
        Ok(())
    }

    fn group_position((): &()) -> u64 {
        0
    }

    fn commit_group(&self, (): &mut (), _: &[Option<Seq>]) {}

    fn settle(&self, (): (), (): ()) -> Result<(), LogError> {
        if self.doubts.load(Ordering::Relaxed) { Err("nobody knows".into()) } else { Ok(()) }
    }

    fn check(&self) -> Result<(), LogError> {
        Ok(())
    }
}

type Kept = Map<U64, Bytes, Doubtful>;

/// A store with key 1 that expires at 1 s and keys 2 to 4 that do not, whose log has doubts from now on.
fn doubtful() -> (Store<Doubtful>, Kept) {
    let builder = Store::builder().memory_limit_bytes(64 << 20).streams(2);
    let store = builder.with_log(Doubtful::default()).expect("a store");
    let map: Kept = store.map("m", MapOptions::default()).expect("a map");
    map.insert_expiring(&1, b"old", 1_000).expect("kept");
    for key in 2..5 {
        map.insert(&key, b"old").expect("kept");
    }
    store.log().doubts.store(true, Ordering::Relaxed);
    (store, map)
}

fn entry_of(map: &Kept, key: u64, remove: bool) -> Result<(), Error> {
    match map.entry(&key)? {
        Entry::Occupied(entry) if remove => entry.remove().map(drop),
        Entry::Occupied(entry) => entry.replace(b"new").map(drop),
        Entry::Vacant(entry) => entry.insert(b"new").map(drop),
    }
}

fn group_of(store: &Store<Doubtful>, map: &Kept) -> Result<(), Error> {
    let stream = map.stream_of_key(&2)?;
    store.group(stream).remove(map, &2)?.commit().map(drop)
}

type Way = fn(&Store<Doubtful>, &Kept) -> Result<(), Error>;

const WAYS: [(&str, Way); 16] = [
    ("insert", |_, map| map.insert(&2, b"new")),
    ("insert_expiring", |_, map| map.insert_expiring(&2, b"new", u64::MAX)),
    ("insert_if_absent", |_, map| map.insert_if_absent(&9, b"new").map(drop)),
    ("compare_exchange", |_, map| map.compare_exchange(&2, b"old", b"new").map(drop)),
    ("remove", |_, map| map.remove(&2).map(drop)),
    ("clear", |_, map| map.clear().map(drop)),
    ("clear_stream", |_, map| map.clear_stream(map.stream_of_key(&2)?).map(drop)),
    ("put_many", |_, map| {
        map.put_many(&[(&2, &b"new"[..]), (&3, b"new")]).map_err(|error| error.source)
    }),
    ("replacing an entry", |_, map| entry_of(map, 2, false)),
    ("removing an entry", |_, map| entry_of(map, 2, true)),
    ("inserting an entry", |_, map| entry_of(map, 9, false)),
    ("update", |_, map| map.update(&2, |_| Some(b"new".to_vec()))),
    ("update that removes", |_, map| map.update(&2, |_| None)),
    ("update that inserts", |_, map| map.update(&9, |_| Some(b"new".to_vec()))),
    ("group", group_of),
    ("sweep", |store, _| store.sweep(2_000, 1_000).map(drop)),
];

#[test]
fn no_way_to_change_a_map_says_that_it_is_done_without_asking_the_log() {
    for (name, way) in WAYS {
        let (store, map) = doubtful();
        let told = way(&store, &map).expect_err(name);
        assert!(matches!(told, Error::Log(_)), "{name}: {told}");
    }
}

/// What is said to be done is kept, whatever else went wrong.
#[test]
fn of_many_puts_of_which_one_is_refused_those_before_it_are_not_said_to_be_kept_unless_they_are() {
    let (store, map) = doubtful();
    let too_long = vec![0; 17 << 20];
    let entries: [(&u64, &[u8]); 3] = [(&2, b"new"), (&3, b"new"), (&4, &too_long)];
    let told = map.put_many(&entries).expect_err("the third is refused");
    assert!(matches!(told.source, Error::Log(_)), "of the others nobody knows: {told}");
    assert_eq!(told.done, 2);
    store.log().doubts.store(false, Ordering::Relaxed);
    let told = map.put_many(&entries).expect_err("the third is refused");
    assert!(matches!(told.source, Error::TooLarge { .. }), "{told}");
    assert_eq!(told.done, 2);
}

/// What had its turn stays cleared, whatever else went wrong.
#[test]
fn of_a_clear_of_which_one_stream_is_refused_those_before_it_are_not_said_to_be_kept_unless_they_are()
 {
    let (store, map) = doubtful();
    let log = store.log();
    for (doubts, expected) in [(false, "no room"), (true, "nobody knows")] {
        log.doubts.store(false, Ordering::Relaxed);
        log.is_full.store(false, Ordering::Relaxed);
        for key in 0..64 {
            map.insert(&key, b"value").expect("kept");
        }
        log.doubts.store(doubts, Ordering::Relaxed);
        log.is_full.store(true, Ordering::Relaxed);
        let told = map.clear().expect_err("the second stream is refused");
        let Error::Log(source) = &told else { panic!("{told}") };
        assert_eq!(source.to_string(), expected);
        assert!(!map.is_empty() && map.len() < 64, "one of two streams is cleared");
    }
}
