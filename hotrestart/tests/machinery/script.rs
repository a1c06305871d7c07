//! Scripts: a store that is used, step by step on one thread, as a seed says.
//!
//! Invariant: one seed gives one run, to the byte. Whatever a change returned, the oracle knows whether it is
//! visible; it counts as acknowledged only when the store has said so.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hotrestart::hdstore::StreamId;
use hotrestart::io::Disk;
use hotrestart::{CloseError, Durability, Error, LogFailure, OpenError, Persisted, Stepper, Store};

use crate::oracle::{Found, KEYS, MAPS, Oracle, Place, TestMap, Value, find, map_of};
use crate::world::{End, Random, STREAMS, World};

/// Turns that a change is given to find room, before that counts as stuck.
const PATIENCE: u32 = 20_000;

/// Values longer than this go in parts.
pub const PART: usize = 56 << 10;

pub type SharedOracle = Arc<Mutex<Oracle>>;

pub fn lock(oracle: &SharedOracle) -> MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A store in use.
pub struct Script {
    pub world: World,
    pub oracle: SharedOracle,
    pub random: Random,
    stepper: Stepper,
    store: Option<Store>,
    maps: [Option<TestMap>; 3],
    waits: Vec<(Durability, Vec<usize>, std::pin::Pin<Box<Persisted>>)>,
    pub next_version: u64,
    /// How many chunks compaction freed.
    pub freed: u64,
    /// What a failure is told with.
    pub about: String,
    /// How many changes in a row found no space.
    full_for: u32,
}

/// Why a script cannot go on.
#[derive(Debug)]
pub enum Stuck {
    /// An I/O failure has poisoned the store.
    Poisoned,
    /// A map could not be made.
    NoMap,
    /// The store did not open.
    Refused(OpenError),
}

pub fn failure(error: &Error) -> Option<&LogFailure> {
    match error {
        Error::Log(source) => source.downcast_ref(),
        _ => None,
    }
}

impl Script {
    /// A script in a world of its own, whose store is not open.
    pub fn new(seed: u64) -> Script {
        let world = World::new(seed);
        let oracle = Arc::new(Mutex::new(Oracle::new()));
        let stepper = world.stepper(seed);
        Script {
            world,
            oracle,
            random: Random::new(seed),
            stepper,
            store: None,
            maps: [None, None, None],
            waits: Vec::new(),
            next_version: 0,
            freed: 0,
            about: format!("seed {seed}"),
            full_for: 0,
        }
    }

    /// Opens the store, and judges what came back if it was open before.
    pub fn open(&mut self, level: Durability) -> Result<(), Stuck> {
        lock(&self.oracle).promised = level;
        let writers = 1 + self.random.below(2) as u32;
        let seed = self.random.below(1 << 30);
        let began_ms = self.world.now_ms();
        self.stepper = self.world.stepper(seed);
        let store = self.world.open(&mut self.stepper, writers, 1).map_err(Stuck::Refused)?;
        let entries = store.stats().memory.entries;
        lock(&self.oracle).judge_holds(&store, &self.world.disk).unwrap_or_else(|what| {
            panic!("{}, reopened: {what}", self.about);
        });
        lock(&self.oracle).cut_holds(&store);
        self.store = Some(store);
        if entries > 0 || lock(&self.oracle).lengths().iter().any(|length| *length > 0) {
            let found = self.find();
            let mut oracle = lock(&self.oracle);
            let judged = oracle.judge(&found, level, self.world.now_ms());
            let lengths = judged.unwrap_or_else(|what| panic!("{}, reopened: {what}", self.about));
            oracle.cut(&found, &lengths);
        }
        lock(&self.oracle).floor_ms = began_ms;
        Ok(())
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("the script has opened its store")
    }

    pub fn find(&self) -> Found {
        find(self.store())
    }

    pub fn is_poisoned(&self) -> bool {
        self.store().stats().poisoned.is_some()
    }

    /// By stream, the stamp up to which the store says that it is safe.
    pub fn durable_marks(&self) -> Vec<u64> {
        let store = self.store();
        (0..STREAMS).map(|stream| store.durable_through(StreamId(stream)).0).collect()
    }

    /// What `stats` says of compaction's health.
    pub fn complaint(&self) -> Option<String> {
        let stats = self.store().stats();
        stats
            .compaction_stopped
            .or_else(|| stats.chunks_damaged.first().map(|(_, what)| what.clone()))
    }

    fn note_freed(&mut self) {
        if let Some(store) = &self.store {
            self.freed += store.stats().chunks_freed;
        }
    }

    /// The life ends, and so does everything that was in this process.
    pub fn end(&mut self, end: End) {
        self.note_freed();
        self.waits.clear();
        self.maps = [None, None, None];
        self.empty_the_disk();
        let next = self.world.end(end);
        if let Some(store) = self.store.take() {
            store.abandon();
        }
        self.stepper = next.stepper(self.random.below(1 << 30));
        self.world = next;
    }

    /// Closes the store.
    pub fn close(&mut self) -> Result<(), CloseError> {
        self.note_freed();
        self.empty_the_disk();
        self.waits.clear();
        self.maps = [None, None, None];
        let store = self.store.take().expect("the script has opened its store");
        let closed = self.stepper.close(store);
        if closed.is_ok() {
            let mut oracle = lock(&self.oracle);
            let lengths = oracle.lengths();
            oracle.acknowledge(Durability::Synced, &lengths);
        }
        closed
    }

    /// One turn of one machine; then what has been acknowledged is noted.
    pub fn step(&mut self) {
        self.stepper.step();
        let mut context = Context::from_waker(Waker::noop());
        let (store, mut oracle) = (self.store.as_ref(), lock(&self.oracle));
        let mut has_moved = false;
        self.waits.retain_mut(|(level, lengths, wait)| match pin!(wait).poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(done) => {
                if done.is_ok() {
                    oracle.acknowledge(*level, lengths);
                    has_moved = true;
                }
                false
            }
        });
        for stream in 0..STREAMS {
            let seq = store.map_or(0, |store| store.durable_through(StreamId(stream)).0);
            oracle.safe_through(stream as usize, seq);
        }
        drop(oracle);
        if has_moved {
            self.world.disk.note_step();
        }
    }

    pub fn steps(&mut self, count: u64) {
        for _ in 0..count {
            self.step();
        }
    }

    fn wait_for(&mut self, level: Durability) {
        if self.waits.len() < 16 {
            let lengths = lock(&self.oracle).lengths();
            let wait = Box::pin(self.store().persisted(level));
            self.waits.push((level, lengths, wait));
        }
    }

    /// Runs a change until the log has room for it, with so many turns in between. `Ok` says that it was
    /// acknowledged as its map promises; the error is what it ended with otherwise.
    pub fn until_room<T>(
        &mut self,
        turns: u64,
        mut change: impl FnMut(&mut Script) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for _ in 0..PATIENCE {
            match change(self) {
                Ok(done) => return Ok(done),
                Err(error) => match failure(&error) {
                    Some(LogFailure::NoSpace { .. }) => self.wait_for_space(turns),
                    Some(LogFailure::Manifest { source }) if source.errno == Some(libc::ENOSPC) => {
                        self.wait_for_space(turns);
                    }
                    Some(LogFailure::Busy { .. } | LogFailure::DiskBudget { .. }) => {
                        self.steps(turns);
                    }
                    _ => return Err(error),
                },
            }
        }
        panic!("no room in {PATIENCE} turns: {:#?}", self.store().stats());
    }

    pub fn map(&mut self, map: usize) -> Result<(), Error> {
        if self.maps[map].is_none() {
            let made = self.until_room(1, |script| map_of(script.store(), map))?;
            self.maps[map] = Some(made);
        }
        Ok(())
    }

    pub fn of(&self, place: Place) -> &TestMap {
        self.maps[place.0].as_ref().expect("the map was opened before")
    }

    /// Entries in memory, expired ones included.
    pub fn entries(&self) -> u64 {
        self.store().stats().memory.entries
    }

    /// Puts a value.
    pub fn put(&mut self, place: Place, len: usize, lives_ms: Option<u64>) -> Result<(), Stuck> {
        self.map(place.0).map_err(|error| self.must_be_poison(&error))?;
        self.next_version += 1;
        let version = self.next_version;
        let mut value = Value { version, len, expiry_ms: None };
        let bytes = value.bytes();
        // Each attempt of a value in parts leaves the parts that had room, and needs more of it than they
        // left.
        let turns = if len > PART { 500 } else { 1 };
        let done = self.until_room(turns, |script| {
            let (map, key) = (script.of(place), &place.1);
            // Time passes between attempts, and none within one: so what is visible can be seen below.
            value.expiry_ms = lives_ms.map(|lives_ms| script.world.now_ms() + lives_ms);
            match value.expiry_ms {
                Some(expiry_ms) => map.insert_expiring(key, &bytes, expiry_ms),
                None => map.insert(key, &bytes),
            }
        });
        let seq = match self.of(place).get(&place.1) {
            Ok(Some(entry)) if entry.value_bytes() == bytes => Some(entry.seq().0),
            Ok(_) => None,
            Err(error) => panic!("reads go on whatever happens: {error}"),
        };
        if let Some(seq) = seq {
            lock(&self.oracle).put(place, value, seq);
        }
        self.settle(MAPS[place.0].1, place.1, done, seq.is_some())
    }

    pub fn remove(&mut self, place: Place) -> Result<(), Stuck> {
        self.map(place.0).map_err(|error| self.must_be_poison(&error))?;
        // What has expired and was not swept is an entry still, and its removal is a fact like any other.
        let before = self.entries();
        let done = self.until_room(1, |script| script.of(place).remove(&place.1));
        let is_done = self.entries() < before;
        if is_done {
            lock(&self.oracle).remove(place, false);
        }
        self.settle(MAPS[place.0].1, place.1, done.map(drop), is_done)
    }

    /// Clears a map's part in the stream of a key.
    fn clear(&mut self, place: Place) -> Result<(), Stuck> {
        self.map(place.0).map_err(|error| self.must_be_poison(&error))?;
        let stream = StreamId(lock(&self.oracle).stream_of(place.1) as u32);
        let before = self.entries();
        let done = self.until_room(1, |script| script.of(place).clear_stream(stream));
        // One that found no entry is a record all the same, for which its caller may wait.
        let is_awaited = done.as_ref().err().and_then(failure);
        let is_awaited = matches!(is_awaited, Some(LogFailure::TimedOut { .. }));
        let is_done = self.entries() < before || is_awaited;
        if is_done {
            lock(&self.oracle).clear(place);
        }
        self.settle(MAPS[place.0].1, place.1, done.map(drop), is_done)
    }

    /// Drops a map, which is durable when that returns.
    fn drop_map(&mut self, map: usize) -> Result<(), Stuck> {
        self.map(map).map_err(|error| self.must_be_poison(&error))?;
        if !self.is_poisoned() {
            lock(&self.oracle).begin_drop(map);
        }
        self.maps[map] = None;
        let dropped = self.until_room(1, |script| script.store().drop_map(MAPS[map].0));
        // After poison nobody knows.
        if dropped.is_ok() || !self.is_poisoned() {
            lock(&self.oracle).end_drop(dropped.is_ok());
        }
        self.world.disk.note_step();
        dropped.map(drop).map_err(|error| self.must_be_poison(&error))
    }

    /// What an answer means for who waits for durability.
    pub fn settle(
        &mut self,
        level: Durability,
        key: u64,
        done: Result<(), Error>,
        is_done: bool,
    ) -> Result<(), Stuck> {
        self.world.disk.note_step();
        match done {
            Ok(()) => {
                if is_done {
                    // Nothing steps between a change and this.
                    assert!(!self.is_poisoned(), "a change was acknowledged after poison");
                    let mut oracle = lock(&self.oracle);
                    let (stream, mut lengths) = (oracle.stream_of(key), oracle.lengths());
                    (0..lengths.len()).filter(|n| *n != stream).for_each(|n| lengths[n] = 0);
                    oracle.acknowledge(level, &lengths);
                }
                Ok(())
            }
            Err(error) => match failure(&error) {
                Some(LogFailure::TimedOut { level, .. }) => {
                    assert!(is_done, "it says that it is visible: {error}");
                    self.wait_for(*level);
                    Ok(())
                }
                _ => Err(self.must_be_poison(&error)),
            },
        }
    }

    pub fn must_be_poison(&self, error: &Error) -> Stuck {
        if matches!(failure(error), Some(LogFailure::Manifest { .. })) && !self.is_poisoned() {
            return Stuck::NoMap;
        }
        assert!(self.is_poisoned(), "an error without a cause: {error}");
        Stuck::Poisoned
    }

    /// Sweeps what has expired.
    fn sweep(&mut self) -> Result<(), Stuck> {
        let now_ms = self.world.now_ms();
        let expired = lock(&self.oracle).expired(now_ms);
        let swept =
            self.until_room(1, |script| script.store().memory().sweep(now_ms, u64::MAX / 2));
        match swept {
            // Those that a sweep before this one removed, in vain for the rest, are not counted again.
            Ok(report) if report.removed == expired.len() as u64 => {
                let mut oracle = lock(&self.oracle);
                expired.into_iter().for_each(|place| oracle.remove(place, true));
                Ok(())
            }
            Ok(report) => {
                assert!(report.removed == 0 || !self.is_poisoned(), "swept after poison");
                Ok(())
            }
            Err(error) => Err(self.must_be_poison(&error)),
        }
    }

    /// Somebody else fills the disk, all but a little.
    fn fill_the_disk(&mut self) {
        let Ok(entries) = self.world.disk.list() else { return };
        let used: u64 = entries.iter().map(|entry| entry.len).sum();
        self.full_for = 0;
        self.world.disk.set_capacity(Some(used + self.random.below(600 << 10)));
    }

    /// Some turns on a full disk; after many of them there is space again.
    pub fn wait_for_space(&mut self, turns: u64) {
        self.steps(turns);
        self.full_for += 1;
        if self.full_for > 50 {
            self.empty_the_disk();
        }
    }

    fn empty_the_disk(&mut self) {
        self.full_for = 0;
        self.world.disk.set_capacity(None);
    }

    /// Some random thing that a user does, and some turns.
    pub fn act(&mut self) -> Result<(), Stuck> {
        match self.random.below(200) {
            0 => self.fill_the_disk(),
            1..=8 => self.empty_the_disk(),
            _ => {}
        }
        let hot = if self.random.one_in(8) { KEYS } else { KEYS / 3 };
        let place = (self.random.below(3) as usize, self.random.below(hot));
        let small = self.random.below(3_000) as usize;
        match self.random.below(100) {
            0..=1 => {
                let len = PART + self.random.below(80_000) as usize;
                self.put(place, len, None)?;
            }
            2..=9 => self.group(place.1)?,
            10..=41 => {
                let len = 12_000 + self.random.below(30_000) as usize;
                self.put(place, len, None)?;
            }
            42..=64 => self.put(place, small, None)?,
            65..=74 => {
                let lives_ms = 1 + self.random.below(400);
                self.put(place, small, Some(lives_ms))?;
            }
            75..=85 => self.remove(place)?,
            86..=87 => self.come_and_go(place)?,
            88 if self.random.one_in(4) => self.drop_map(place.0)?,
            88..=89 => self.clear(place)?,
            90..=91 => self.sweep()?,
            92 => self.hold_or_release()?,
            93..=95 => self.wait_for(Durability::Synced),
            _ => self.wait_for(Durability::Written),
        }
        let turns = if self.random.one_in(10) { 30 } else { self.random.below(4) };
        self.steps(turns);
        if self.is_poisoned() { Err(Stuck::Poisoned) } else { Ok(()) }
    }
}
