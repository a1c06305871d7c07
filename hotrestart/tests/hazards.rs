//! Hazards that no other file of tests is about: a write that goes elsewhere, a writer's thread that
//! panics, a clock that jumps or panics. `docs/hazards.md` lists them all.

#[path = "power_loss/bench.rs"]
#[allow(dead_code, reason = "the workbench serves the power cuts first")]
mod bench;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bench::{Machine, map_of};
use hotrestart::codec::{Bytes, U64};
use hotrestart::hdstore::{Clock, ManualClock};
use hotrestart::io::sim::{Fault, FaultPlan};
use hotrestart::io::{
    Completion, DirEntry, Disk, FileHandle, Fill, IoError, IoKind, IoOperation, Op, OpenMode,
    Queue, Waker,
};
use hotrestart::{Durability, Error, LogFailure, Map, MapOptions, OpenError, Store};

#[test]
fn a_misdirected_write_is_found_at_the_next_opening_and_never_passed_over() {
    let mut refused = 0;
    for nth in 0..14 {
        let machine = Machine::new(100 + nth);
        let store = machine.open(1).expect("a new store");
        let map = map_of(&store);
        machine.disk.set_plan(FaultPlan::default().with(IoOperation::Write, nth, Fault::Misdirect));
        for key in 0..40u64 {
            map.insert(&key, &vec![key as u8; 9_000]).expect("the disk says that all is well");
            if key % 3 == 0 {
                store.persist(Durability::Written).expect("the disk says that all is well");
            }
        }
        drop(map);
        store.close().expect("the disk says that all is well");
        machine.disk.set_plan(FaultPlan::default());
        match machine.open(1) {
            Ok(store) => {
                let map = map_of(&store);
                for key in 0..40u64 {
                    let found = map.get_owned(&key).expect("ok");
                    assert!(
                        found == Some(vec![key as u8; 9_000]),
                        "write {nth} went elsewhere, the store opened, and key {key} is not as it was"
                    );
                }
            }
            Err(OpenError::Corrupt { problems }) => {
                assert!(!problems.is_empty());
                refused += 1;
            }
            Err(error) => panic!("write {nth}: {error}"),
        }
    }
    assert!(refused > 5, "only {refused} of 14 misdirected writes hit anything");
}

/// A simulated disk whose queues panic when told.
#[derive(Debug)]
struct Panicking {
    disk: bench::Patient,
    now: Arc<AtomicBool>,
}

#[derive(Debug)]
struct PanickingQueue {
    queue: Box<dyn Queue>,
    now: Arc<AtomicBool>,
}

impl Disk for Panicking {
    fn create(&self, name: &str, len: u64, fill: Fill) -> Result<FileHandle, IoError> {
        self.disk.create(name, len, fill)
    }

    fn open(&self, name: &str, mode: OpenMode) -> Result<FileHandle, IoError> {
        self.disk.open(name, mode)
    }

    fn len(&self, file: &FileHandle) -> Result<u64, IoError> {
        self.disk.len(file)
    }

    fn list(&self) -> Result<Vec<DirEntry>, IoError> {
        self.disk.list()
    }

    fn remove(&self, name: &str) -> Result<(), IoError> {
        self.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), IoError> {
        self.disk.rename(from, to)
    }

    fn sync_dir(&self) -> Result<(), IoError> {
        self.disk.sync_dir()
    }

    fn read_small(&self, name: &str, max_len: u64) -> Result<Vec<u8>, IoError> {
        self.disk.read_small(name, max_len)
    }

    fn write_small(&self, name: &str, content: &[u8]) -> Result<(), IoError> {
        self.disk.write_small(name, content)
    }

    fn queue(&self, depth: u32) -> Result<Box<dyn Queue>, IoError> {
        let queue = self.disk.queue(depth)?;
        Ok(Box::new(PanickingQueue { queue, now: Arc::clone(&self.now) }))
    }

    fn kind(&self) -> IoKind {
        self.disk.kind()
    }
}

impl Queue for PanickingQueue {
    fn submit(&mut self, token: u64, op: Op) {
        self.queue.submit(token, op);
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        out: &mut Vec<Completion>,
    ) -> Result<(), IoError> {
        assert!(
            !self.now.load(Ordering::Acquire),
            "a defect in a writer's thread, made on purpose"
        );
        self.queue.wait(timeout, out)
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<(), IoError> {
        self.queue.poll(out)
    }

    fn waker(&self) -> Waker {
        self.queue.waker()
    }
}

#[test]
fn a_writers_thread_that_panics_is_poison_and_nobody_waits_for_it() {
    let mut machine = Machine::new(7);
    let now = Arc::new(AtomicBool::new(false));
    let disk = Panicking {
        disk: bench::Patient(machine.disk.clone(), Arc::default()),
        now: Arc::clone(&now),
    };
    let store = machine
        .builder()
        .simulated(Arc::new(disk), Arc::clone(&machine.regions), [1; 16])
        .writers(1)
        .open("/simulated")
        .expect("a new store");
    let synced = MapOptions::default().durability(Durability::Synced);
    let map: Map<U64, Bytes> = store.map("m", synced).expect("a map");
    map.insert(&1, b"kept").expect("synced");
    now.store(true, Ordering::Release);
    let error = (2..1_000)
        .find_map(|key| map.insert(&key, b"perhaps").err())
        .expect("nobody writes any more");
    let Error::Log(source) = &error else { panic!("{error}") };
    let failure = source.downcast_ref::<LogFailure>().expect("the log's own failure");
    assert!(matches!(failure, LogFailure::Poisoned { .. }), "{failure}");
    assert!(failure.to_string().contains("panicked"), "the reason is told: {failure}");
    assert!(map.contains_key(&1).expect("reads go on"));
    drop(map);
    machine.crash(Some(store), true);
    let store = machine.open(1).expect("recovers");
    assert_eq!(map_of(&store).get_owned(&1).expect("ok").as_deref(), Some(&b"kept"[..]));
}

fn open_at(dir: &std::path::Path, clock: impl Clock) -> Store {
    Store::builder()
        .memory_limit_bytes(64 << 20)
        .streams(1)
        .chunk_bytes(256 << 10)
        .clock(clock)
        .open(dir)
        .expect("opens")
}

#[test]
fn a_clock_that_jumps_a_thousand_years_ahead_takes_only_what_has_an_expiry() {
    const FAR_MS: u64 = 1_000 * 365 * 86_400_000;
    let dir = tempfile::tempdir().expect("a directory");
    let store = open_at(dir.path(), ManualClock::new(1_000));
    map_of(&store).insert(&1, b"for ever").expect("room");
    map_of(&store).insert_expiring(&2, b"for a while", 5_000).expect("room");
    store.close().expect("closed");
    for clock_ms in [FAR_MS, 2_000] {
        let store = open_at(dir.path(), ManualClock::new(clock_ms));
        let map = map_of(&store);
        assert_eq!(map.get_owned(&1).expect("ok").as_deref(), Some(&b"for ever"[..]));
        assert!(!map.contains_key(&2).expect("ok"), "at {clock_ms} it is known to have expired");
        drop(map);
        store.close().expect("closed");
    }
}

thread_local! {
    /// The calling thread's looks at the clock until one panics; 0: never.
    static LOOKS_LEFT: Cell<u32> = const { Cell::new(0) };
}

/// A user's clock with a defect.
struct Defective;

impl Clock for Defective {
    fn wall_ms(&self) -> u64 {
        let left = LOOKS_LEFT.get();
        LOOKS_LEFT.set(left.saturating_sub(1));
        assert!(left != 1, "the user's own panic");
        1_000
    }

    fn monotonic_ms(&self) -> u64 {
        0
    }
}

#[test]
fn a_panic_under_a_streams_lock_leaves_the_entry_and_the_log_as_they_were() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open_at(dir.path(), Defective);
    let map = map_of(&store);
    map.insert_expiring(&1, b"old", 5_000).expect("room");
    // The first look at the clock comes before the lock, the second one under it.
    for looks in [1, 2] {
        LOOKS_LEFT.set(looks);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            map.compare_exchange(&1, b"old", b"new").expect("never gets here");
        }));
        assert!(panicked.is_err() && LOOKS_LEFT.get() == 0, "look {looks} was never taken");
        assert_eq!(map.get_owned(&1).expect("ok").as_deref(), Some(&b"old"[..]));
    }
    assert!(map.compare_exchange(&1, b"old", b"new").expect("nothing is locked for ever"));
    map.insert(&2, b"another").expect("the room that was given up holds nothing back");
    store.persist(Durability::Synced).expect("synced");
    drop(map);
    store.abandon();
    let store = open_at(dir.path(), ManualClock::new(1_000));
    let map = map_of(&store);
    assert_eq!(map.get_owned(&1).expect("ok").as_deref(), Some(&b"new"[..]));
    assert_eq!(map.len(), 2);
}
