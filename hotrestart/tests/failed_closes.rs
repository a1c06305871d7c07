//! Closes that fail while a change is under way. Hazard: the next opening takes the log buffers over, the
//! change becomes whole in them when nobody looks any more, and its caller is told that it is kept.
//!
//! The change stops in the clock that it asks under its stream's lock, with its room reserved and its record
//! not whole.

#[path = "power_loss/bench.rs"]
#[allow(dead_code, reason = "the workbench serves the power cuts first")]
mod bench;

use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bench::Machine;
use hotrestart::codec::{Bytes, U64};
use hotrestart::hdstore::StreamId;
use hotrestart::io::IoOperation;
use hotrestart::io::sim::{Fault, FaultPlan};
use hotrestart::{
    Clock, CloseError, DiskLog, Durability, Error, LogFailure, Map, MapOptions, Store,
};

const SLEEPER: &str = "sleeper";
const KEY: u64 = 7;
const FAR_MS: u64 = 1 << 40;
/// A test that fails ends.
const LONG: Duration = Duration::from_secs(30);
/// Streams of two writers.
const OURS: StreamId = StreamId(0);
const THEIRS: StreamId = StreamId(1);

type Memory = hotrestart::hdstore::Store<DiskLog>;

/// A clock in which one thread stops.
#[derive(Clone)]
struct Gate {
    start: Instant,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    /// Questions that the sleeper is answered before it stops.
    questions: u32,
    is_stopped: bool,
    is_open: bool,
}

impl Gate {
    fn new(questions: u32) -> Gate {
        let state = State { questions, ..State::default() };
        Gate { start: Instant::now(), shared: Arc::new((Mutex::new(state), Condvar::new())) }
    }

    fn stop(&self) {
        let (state, changed) = &*self.shared;
        let mut state = state.lock().expect("no panic");
        if state.questions > 0 {
            state.questions -= 1;
            return;
        }
        state.is_stopped = true;
        changed.notify_all();
        let waited = changed.wait_timeout_while(state, LONG, |state| !state.is_open);
        drop(waited.expect("no panic"));
    }

    fn wait_for_the_sleeper(&self) {
        let (state, changed) = &*self.shared;
        let state = state.lock().expect("no panic");
        let waited = changed.wait_timeout_while(state, LONG, |state| !state.is_stopped);
        assert!(waited.expect("no panic").0.is_stopped, "nobody asked for the time");
    }

    fn wake_the_sleeper(&self) {
        let (state, changed) = &*self.shared;
        state.lock().expect("no panic").is_open = true;
        changed.notify_all();
    }
}

impl Clock for Gate {
    fn wall_ms(&self) -> u64 {
        if std::thread::current().name() == Some(SLEEPER) {
            self.stop();
        }
        1_000
    }

    fn monotonic_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

fn open(machine: &Machine, gate: &Gate) -> Store {
    let builder = machine.builder().writers(2).put_timeout_ms(200).clock(gate.clone());
    // Nothing is written before somebody asks for it.
    let builder = builder.write_interval_ms(600_000).flush_interval_ms(600_000);
    builder.open("/simulated").expect("opens")
}

fn map_of(store: &Store, name: &str, level: Durability) -> Map<U64, Bytes> {
    store.map(name, MapOptions::default().durability(level).placed_by_owner()).expect("a map")
}

fn failure(error: &Error) -> &LogFailure {
    let Error::Log(source) = error else { panic!("{error}") };
    source.downcast_ref().expect("a failure of the log")
}

/// What is under way: how often it asks the time before it has its lock, what it does, and what the key has
/// when that is done.
struct Change {
    questions: u32,
    make: fn(&Memory, &Map<U64, Bytes>) -> Result<(), Error>,
    after: Option<&'static [u8]>,
}

const PUT: Change =
    Change { questions: 0, make: |_, map| map.insert(&KEY, b"new"), after: Some(b"new") };
const REMOVAL: Change = Change {
    questions: 1,
    make: |_, map| map.remove(&KEY).map(|was_there| assert!(was_there)),
    after: None,
};
const GROUP: Change = Change {
    questions: 0,
    make: |memory, map| {
        let mut group = memory.group(OURS);
        group.insert(map, &KEY, b"new")?.insert(map, &(KEY + 1), b"more")?;
        group.commit().map(|outcome| assert!(outcome.is_done()))
    },
    after: Some(b"new"),
};

/// Why the close fails.
#[derive(Clone, Copy)]
enum Why {
    FailedFlush,
    FullDisk,
}

/// Has a flush fail, or no chunk left for the log buffers. Of another writer than the change's.
fn spoil(machine: &Machine, store: &Store, why: Why) {
    let theirs = |level| map_of(store, "theirs", level).in_stream(THEIRS).expect("its stream");
    match why {
        Why::FailedFlush => {
            let map = theirs(Durability::Synced);
            let plan = FaultPlan::default();
            machine.disk.set_plan(plan.with(IoOperation::Flush, 0, Fault::Errno(libc::EIO)));
            let error = map.insert(&1, b"lost or not").expect_err("the flush fails");
            assert!(matches!(failure(&error), LogFailure::Poisoned { .. }), "{error}");
        }
        Why::FullDisk => {
            let map = theirs(Durability::Buffered);
            machine.disk.fill_up();
            let refused = (0..4_000).find_map(|key| map.insert(&key, &[3; 2_000]).err());
            let refused = refused.expect("the disk is full");
            assert!(matches!(failure(&refused), LogFailure::NoSpace { .. }), "{refused}");
        }
    }
}

fn is_expected(closed: &Result<(), CloseError>, why: Why) -> bool {
    match closed {
        Err(CloseError::Log(LogFailure::Poisoned { .. })) => matches!(why, Why::FailedFlush),
        Err(CloseError::Log(LogFailure::NoSpace { .. })) => matches!(why, Why::FullDisk),
        _ => false,
    }
}

/// What came of it.
struct Outcome {
    changed: Result<(), Error>,
    closed: Result<(), CloseError>,
    /// The store was open again when the change went on: the close had not waited for it.
    is_open_beside: bool,
    store: Store,
}

/// Closes a store whose log has failed while a change is under way, and opens it again. `before` is called
/// when the change is under way.
fn close_beside(change: &Change, why: Why, before: impl FnOnce(&Store)) -> Outcome {
    let machine = Machine::new(1);
    let gate = Gate::new(change.questions);
    let store = open(&machine, &gate);
    let map = map_of(&store, "ours", Durability::Buffered).in_stream(OURS).expect("its stream");
    // Of an entry that expires the clock is asked under the lock.
    map.insert_expiring(&KEY, b"old", FAR_MS).expect("room");
    let memory = store.memory().clone();
    std::thread::scope(|scope| {
        let sleeper = std::thread::Builder::new().name(SLEEPER.to_owned());
        let sleeper = sleeper.spawn_scoped(scope, || (change.make)(&memory, &map));
        let sleeper = sleeper.expect("a thread");
        gate.wait_for_the_sleeper();
        before(&store);
        spoil(&machine, &store, why);
        let closer = scope.spawn(move || store.close());
        let start = Instant::now();
        while !closer.is_finished() && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(5));
        }
        machine.disk.set_capacity(None);
        let reopened = closer.is_finished().then(|| open(&machine, &Gate::new(0)));
        gate.wake_the_sleeper();
        let changed = sleeper.join().expect("no panic");
        let closed = closer.join().expect("no panic");
        let is_open_beside = reopened.is_some();
        let store = reopened.unwrap_or_else(|| open(&machine, &Gate::new(0)));
        Outcome { changed, closed, is_open_beside, store }
    })
}

fn check(change: &Change, why: Why) {
    let Outcome { changed, closed, is_open_beside, store } = close_beside(change, why, |_| {});
    assert!(is_expected(&closed, why), "{closed:?}");
    let map = map_of(&store, "ours", Durability::Buffered).in_stream(OURS).expect("its stream");
    let found = map.get_owned(&KEY).expect("readable");
    match changed {
        Ok(()) => assert_eq!(found.as_deref(), change.after, "it was acknowledged"),
        Err(error) => {
            assert!(matches!(failure(&error), LogFailure::Poisoned { .. }), "{error}");
            let is_known = found.as_deref() == Some(b"old") || found.as_deref() == change.after;
            assert!(is_known, "{found:?}");
        }
    }
    assert!(!is_open_beside, "its record may become whole while the next opening reads");
    store.close().expect("a clean close");
}

#[test]
fn a_put_that_is_acknowledged_after_a_close_that_failed_is_there_after_reopening() {
    check(&PUT, Why::FailedFlush);
}

#[test]
fn a_removal_that_is_acknowledged_after_a_close_that_failed_is_there_after_reopening() {
    check(&REMOVAL, Why::FailedFlush);
}

#[test]
fn a_group_that_is_acknowledged_after_a_close_that_failed_is_there_after_reopening() {
    check(&GROUP, Why::FailedFlush);
}

#[test]
fn a_put_that_is_acknowledged_after_a_close_gave_up_is_there_after_reopening() {
    check(&PUT, Why::FullDisk);
}

/// Wakes the thread that polls.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn who_waits_for_durability_is_told_when_a_close_gives_up() {
    let mut waiting = None;
    let outcome = close_beside(&PUT, Why::FullDisk, |store| {
        let mut future = Box::pin(store.persisted(Durability::Written));
        waiting = Some(std::thread::spawn(move || {
            let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
            loop {
                match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Ready(persisted) => return persisted,
                    Poll::Pending => std::thread::park(),
                }
            }
        }));
    });
    assert!(is_expected(&outcome.closed, Why::FullDisk), "{:?}", outcome.closed);
    let waiting = waiting.expect("it was begun");
    let start = Instant::now();
    while !waiting.is_finished() {
        assert!(start.elapsed() < Duration::from_secs(10), "it waits for ever");
        std::thread::sleep(Duration::from_millis(5));
    }
    let persisted = waiting.join().expect("no panic");
    let failure = persisted.expect_err("what is under way was not written");
    assert!(matches!(failure, LogFailure::Poisoned { .. }), "{failure}");
    assert!(failure.to_string().contains("full disk"), "{failure}");
}
