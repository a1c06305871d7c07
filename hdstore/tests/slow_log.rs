//! A log that waits for its disk while it writes down that a map is made or dropped: who else waits.
//!
//! Hazard: whoever looks another map up by its name, asks for figures or sweeps waits for that disk, too; two
//! threads that make one map, meanwhile or after a failure, get two, or one that the log does not know; a map
//! that the log refuses costs memory.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdstore::codec::{Bytes, U64};
use hdstore::{
    Change, Error, Log, LogError, Map, MapId, MapOptions, MapSpec, Seq, Store, StreamId,
};

/// What the log is asked to write down, and who is to say how that ends.
enum Asked {
    Made(MapId, String, Sender<Result<(), LogError>>),
    Dropped(Sender<Result<(), LogError>>),
}

/// Asks the test about each map that is made or dropped, and waits for its answer.
struct Slow(Mutex<Sender<Asked>>);

impl Slow {
    fn ask(
        &self,
        about: impl FnOnce(Sender<Result<(), LogError>>) -> Asked,
    ) -> Result<(), LogError> {
        let (answer, answered) = channel();
        self.0.lock().expect("no panic").send(about(answer)).expect("the test listens");
        answered.recv().expect("the test answers")
    }
}

impl Log for Slow {
    type Level = ();
    type Room<'a> = ();
    type GroupRoom<'a> = ();
    type Ticket = ();

    fn create_map(&self, spec: &MapSpec<()>) -> Result<(), LogError> {
        self.ask(|answer| Asked::Made(spec.id, spec.name.clone(), answer))
    }

    fn drop_map(&self, _: MapId) -> Result<(), LogError> {
        self.ask(Asked::Dropped)
    }

    fn reserve(&self, _: MapId, _: StreamId, _: Change<'_>) -> Result<(), LogError> {
        Ok(())
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
        Ok(())
    }

    fn check(&self) -> Result<(), LogError> {
        Ok(())
    }
}

fn map_of(store: &Store<Slow>, name: &str) -> Result<Map<U64, Bytes, Slow>, Error> {
    store.map(name, MapOptions::default())
}

/// A store with a map `known`.
fn store() -> (Arc<Store<Slow>>, Receiver<Asked>) {
    let (ask, asked) = channel();
    let builder = Store::builder().memory_limit_bytes(64 << 20).streams(4);
    let store = Arc::new(builder.with_log(Slow(Mutex::new(ask))).expect("a store"));
    let maker = apart(&store, |store| map_of(store, "known").map(drop));
    answer_made(&asked, "known", Ok(()));
    maker.recv().expect("no panic").expect("it is made");
    (store, asked)
}

/// Does something in another thread, which tells what came of it.
fn apart<T: Send + 'static>(
    store: &Arc<Store<Slow>>,
    act: impl FnOnce(&Store<Slow>) -> T + Send + 'static,
) -> Receiver<T> {
    let (tell, told) = channel();
    let store = Arc::clone(store);
    std::thread::spawn(move || {
        // The test may have failed by now, and hear nothing.
        let _ = tell.send(act(&store));
    });
    told
}

/// The log was asked to write a map down: how that ends.
fn answer_made(asked: &Receiver<Asked>, name: &str, answer: Result<(), LogError>) -> MapId {
    let Ok(Asked::Made(id, of, answers)) = asked.recv_timeout(Duration::from_secs(20)) else {
        panic!("{name} is not made")
    };
    assert_eq!(of, name);
    answers.send(answer).expect("it waits");
    id
}

/// Everything that must not wait while another map is written down.
fn use_it(store: &Arc<Store<Slow>>, maps: usize) {
    let done = apart(store, move |store| {
        let known = map_of(store, "known").expect("it is there");
        known.insert(&1, b"one").expect("room");
        assert!(known.contains_key(&1).expect("readable"));
        assert_eq!((store.maps().len(), store.entries()), (maps, 1));
        assert!(store.stats().live_bytes > 0);
        store.sweep(1, 1_000).expect("swept");
        store.maintain(0);
        drop(store.stamps());
    });
    let told = done.recv_timeout(Duration::from_secs(20));
    told.expect("who uses another map waits for the log, or failed");
}

#[test]
fn who_uses_another_map_does_not_wait_for_the_log_of_one_that_is_made_or_dropped() {
    let (store, asked) = store();
    let maker = apart(&store, |store| map_of(store, "new").map(drop));
    let Ok(Asked::Made(_, name, answer)) = asked.recv() else { panic!("it is not made") };
    assert_eq!(name, "new");
    use_it(&store, 1);
    answer.send(Ok(())).expect("it waits");
    maker.recv().expect("no panic").expect("it is made");

    let dropper = apart(&store, |store| store.drop_map("new"));
    let Ok(Asked::Dropped(answer)) = asked.recv() else { panic!("it is not dropped") };
    use_it(&store, 2);
    let doomed = map_of(&store, "new").expect("it is there until the log has forgotten it");
    doomed.insert(&1, b"in vain").expect("room");
    answer.send(Ok(())).expect("it waits");
    assert!(dropper.recv().expect("no panic").expect("dropped"));
    assert!(matches!(doomed.insert(&1, b"late"), Err(Error::Dropped { .. })));
    use_it(&store, 1);
}

#[test]
fn two_threads_that_make_one_map_get_one_and_a_failure_of_the_log_leaves_none() {
    let (store, asked) = store();
    let make = |store: &Store<Slow>| map_of(store, "new");
    let makers = [apart(&store, make), apart(&store, make)];
    // The log refuses the first of them; the second asks again, as whoever comes later would.
    let refused = answer_made(&asked, "new", Err("no disk".into()));
    let made = answer_made(&asked, "new", Ok(()));
    assert_eq!(made, refused, "a number is given once the log knows it");
    let outcomes = makers.map(|maker| maker.recv().expect("no panic"));
    assert!(asked.try_recv().is_err(), "it is made once");
    let failed = outcomes.iter().filter(|made| matches!(made, Err(Error::Log(_)))).count();
    assert_eq!(failed, 1);
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "a map that failed left something");
    let map = outcomes.into_iter().find_map(Result::ok).expect("the other one has it");
    map.insert(&1, b"of both").expect("room");
    let again = map_of(&store, "new").expect("it is there");
    assert_eq!(again.get_owned(&1).expect("readable").as_deref(), Some(&b"of both"[..]));
    assert_eq!(store.maps().len(), 2);
}

#[test]
fn a_log_that_refuses_a_map_costs_no_memory_however_often_it_is_asked() {
    const MIB: u64 = 1 << 20;
    let (ask, asked) = channel();
    let builder = Store::builder().memory_limit_bytes(32 * MIB).streams(1_000);
    let store = builder.with_log(Slow(Mutex::new(ask))).expect("a store");
    let refuser = std::thread::spawn(move || {
        let mut refused = 0;
        while let Ok(Asked::Made(_, _, answer)) = asked.recv() {
            answer.send(Err("the disk is full".into())).expect("it waits");
            refused += 1;
        }
        refused
    });
    for _ in 0..2_000 {
        assert!(matches!(map_of(&store, "m"), Err(Error::Log(_))));
    }
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
    assert!(stats.committed_bytes - stats.free_bytes < MIB, "{stats:#?}");
    drop(store);
    assert_eq!(refuser.join().expect("no panic"), 2_000);
}
