//! How listeners end, and what ends with them.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use hdgrid::data::Natural;
use hdgrid::{Builder, EntryEventKind, EventConfig, Map, MapConfig, Member};
use hotrestart::Clock;

type Numbers = Map<Natural<i32>, Natural<i32>>;

const SOON: Duration = Duration::from_secs(20);

fn builder(directory: &tempfile::TempDir) -> Builder {
    let small =
        |store: hotrestart::Builder| store.memory_limit_bytes(64 << 20).chunk_bytes(1 << 20);
    Member::builder(directory.path()).store(small).partition_count(13)
}

#[test]
fn a_member_that_stops_tells_a_listener_that_waits_for_a_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let member = builder(&directory).start().expect("started");
    let map: Numbers = member.map("m").expect("a map");
    let own = map.clone();
    let (begun, begins) = mpsc::channel();
    let listener = move |_: hdgrid::MapEvent<'_, Natural<i32>, Natural<i32>>| {
        let _ = begun.send(());
        assert!(own.blocking().set(&2, &2).is_err(), "its lock is not let go");
    };
    map.listen().key(&1).expect("a key").register(listener).expect("registered");
    map.blocking().lock(&2).expect("locked");
    map.blocking().set(&1, &1).expect("set");
    begins.recv_timeout(SOON).expect("told");
    let (done, ends) = mpsc::channel();
    std::thread::spawn(move || done.send(member.shutdown().is_ok()));
    assert_eq!(ends.recv_timeout(SOON), Ok(true));
}

#[test]
fn a_member_without_threads_lets_go_what_waits_to_be_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let member = builder(&directory).without_thread().start().expect("started");
    let map: Numbers = member.map("m").expect("a map");
    let (own, kept) = (map.clone(), Arc::new(()));
    let of_listener = Arc::clone(&kept);
    let listener = move |_: hdgrid::MapEvent<'_, Natural<i32>, Natural<i32>>| {
        let _ = (&own, &of_listener);
    };
    map.listen().register(listener).expect("registered");
    map.blocking().set(&1, &1).expect("set");
    drop((member, map));
    assert_eq!(Arc::strong_count(&kept), 1);
}

/// Panics when it goes.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a drop's own fault");
    }
}

#[test]
fn a_listener_whose_drop_panics_silences_no_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let events = EventConfig { threads: NonZeroUsize::MIN, ..EventConfig::default() };
    let member = builder(&directory).events(events).start().expect("started");
    let map: Numbers = member.map("m").expect("a map");
    let (begun, begins) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let (gate, bomb) = (Mutex::new(gate), Bomb);
    let listener = move |_: hdgrid::MapEvent<'_, Natural<i32>, Natural<i32>>| {
        let _ = (&bomb, begun.send(()), gate.lock().expect("held").recv());
    };
    let id = map.listen().register(listener).expect("registered");
    map.blocking().set(&1, &1).expect("set");
    begins.recv_timeout(SOON).expect("told");
    assert!(map.remove_listener(id), "it is at work, and goes when that ends");
    drop(go);
    let (tell, told) = mpsc::channel();
    let listener = move |_: hdgrid::MapEvent<'_, Natural<i32>, Natural<i32>>| {
        let _ = tell.send(());
    };
    map.listen().register(listener).expect("registered");
    map.blocking().set(&1, &2).expect("set");
    told.recv_timeout(SOON).expect("told");
}

/// Runs something, once, when it is asked for the time.
struct HookedClock(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Clock for HookedClock {
    fn wall_ms(&self) -> u64 {
        let hook = self.0.lock().expect("held").take();
        hook.into_iter().for_each(|hook| hook());
        1_700_000_000_000
    }

    fn monotonic_ms(&self) -> u64 {
        0
    }
}

/// Uses the map when it goes.
struct Writes(Map<Natural<i32>, Natural<i32>>, mpsc::Sender<bool>);

impl Drop for Writes {
    fn drop(&mut self) {
        let _ = self.1.send(self.0.blocking().set(&1, &9).is_ok());
    }
}

#[test]
fn a_listener_that_is_removed_beside_a_change_is_dropped_under_no_lock() {
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(HookedClock(Mutex::new(None)));
    let member = builder(&directory)
        .map("m", MapConfig { per_entry_stats: true, ..MapConfig::default() })
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .without_thread()
        .start()
        .expect("started");
    let map: Numbers = member.map("m").expect("a map");
    let (dropped, drops) = mpsc::channel();
    let writes = Writes(map.clone(), dropped);
    let listener = move |_: hdgrid::MapEvent<'_, Natural<i32>, Natural<i32>>| {
        let _ = &writes;
    };
    let id = map.listen().only(&[EntryEventKind::Removed]).register(listener).expect("registered");
    let (begun, begins) = mpsc::channel();
    let remover = map.clone();
    // The change has looked who listens when it asks for the time, and it has the partition's lock.
    let hook = move || {
        let remover = std::thread::spawn(move || begun.send(remover.remove_listener(id)));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!remover.is_finished(), "it waits until nobody has the listener in hand");
    };
    *clock.0.lock().expect("held") = Some(Box::new(hook));
    map.blocking().set(&1, &1).expect("set");
    assert_eq!(drops.recv_timeout(SOON), Ok(true), "it could use the map");
    assert_eq!(begins.recv_timeout(SOON), Ok(true));
}
