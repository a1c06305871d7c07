//! The workbench of the tests on a simulated disk: stores that die, and the oracle that knows what must
//! come back.
//!
//! Invariant: the oracle remembers every change in the order of its stream, so that what comes back can
//! be compared with each prefix of it. All randomness comes from one seed, which a failing test prints.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hotrestart::codec::{Bytes, U64};
use hotrestart::hdstore::StreamId;
use hotrestart::inspect::{Options, Report, check};
use hotrestart::io::sim::SimDisk;
use hotrestart::io::{
    Completion, DirEntry, Disk, FileHandle, Fill, IoError, IoErrorClass, IoKind, IoOperation, Op,
    OpenMode, Queue, Waker,
};
use hotrestart::{Builder, Durability, Map, MapOptions, OpenError, SharedRegions, Store};

/// The simulated disk, whose queues wait a little instead of returning at once, so that writers do not spin.
/// The second field counts small files that find no space, before a byte of them is changed; from 2^16 on,
/// those that come before them and find some.
#[derive(Clone, Debug)]
pub struct Patient(pub SimDisk, pub Arc<AtomicU32>);

#[derive(Debug)]
struct PatientQueue(Box<dyn Queue>);

impl Disk for Patient {
    fn create(&self, name: &str, len: u64, fill: Fill) -> Result<FileHandle, IoError> {
        self.0.create(name, len, fill)
    }

    fn open(&self, name: &str, mode: OpenMode) -> Result<FileHandle, IoError> {
        self.0.open(name, mode)
    }

    fn len(&self, file: &FileHandle) -> Result<u64, IoError> {
        self.0.len(file)
    }

    fn list(&self) -> Result<Vec<DirEntry>, IoError> {
        self.0.list()
    }

    fn remove(&self, name: &str) -> Result<(), IoError> {
        self.0.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), IoError> {
        self.0.rename(from, to)
    }

    fn sync_dir(&self) -> Result<(), IoError> {
        self.0.sync_dir()
    }

    fn read_small(&self, name: &str, max_len: u64) -> Result<Vec<u8>, IoError> {
        self.0.read_small(name, max_len)
    }

    fn write_small(&self, name: &str, content: &[u8]) -> Result<(), IoError> {
        let one_less = |left: u32| left.checked_sub(1 << 16).or(left.checked_sub(1));
        let left = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if left.is_ok_and(|left| left < 1 << 16) {
            let error = IoError::from_errno(IoOperation::Write, name, libc::ENOSPC);
            let needed = content.len() as u64;
            return Err(error.of_class(IoErrorClass::NoSpace { needed, available: 0 }));
        }
        self.0.write_small(name, content)
    }

    fn queue(&self, depth: u32) -> Result<Box<dyn Queue>, IoError> {
        Ok(Box::new(PatientQueue(self.0.queue(depth)?)))
    }

    fn kind(&self) -> IoKind {
        self.0.kind()
    }
}

impl Queue for PatientQueue {
    fn submit(&mut self, token: u64, op: Op) {
        self.0.submit(token, op);
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        out: &mut Vec<Completion>,
    ) -> Result<(), IoError> {
        let before = out.len();
        self.0.wait(timeout, out)?;
        if out.len() == before {
            std::thread::sleep(Duration::from_micros(200).min(timeout.unwrap_or(Duration::MAX)));
        }
        Ok(())
    }

    fn poll(&mut self, out: &mut Vec<Completion>) -> Result<(), IoError> {
        self.0.poll(out)
    }

    fn waker(&self) -> Waker {
        self.0.waker()
    }
}

/// Numbers from a seed (xorshift*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// Prints the seed when a test fails.
pub struct Seed(pub u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}", self.0);
        }
    }
}

pub const STREAMS: u32 = 4;
pub const KEYS: u64 = 40;
/// In a stream's history, the key that stands for all.
const CLEAR: u64 = u64::MAX;

/// The machine: a disk, shared memory, and which boot this is.
pub struct Machine {
    pub disk: SimDisk,
    pub regions: SharedRegions,
    pub full_for_small_files: Arc<AtomicU32>,
    boot: u8,
}

impl Machine {
    pub fn new(seed: u64) -> Machine {
        let (disk, regions) = (SimDisk::new(seed), SharedRegions::default());
        Machine { disk, regions, full_for_small_files: Arc::default(), boot: 1 }
    }

    /// The same machine with another disk in it.
    pub fn on(&self, disk: SimDisk) -> Machine {
        let regions = hotrestart::copy_regions(&self.regions);
        Machine { disk, regions, full_for_small_files: Arc::default(), boot: self.boot }
    }

    pub fn builder(&self) -> Builder {
        let disk = Arc::new(Patient(self.disk.clone(), Arc::clone(&self.full_for_small_files)));
        Store::builder()
            .memory_limit_bytes(64 << 20)
            .streams(STREAMS)
            .chunk_bytes(256 << 10)
            .loader_threads(2)
            .write_interval_ms(2)
            .flush_interval_ms(6)
            .simulated(disk, Arc::clone(&self.regions), [self.boot; 16])
    }

    pub fn open(&self, writers: u32) -> Result<Store, OpenError> {
        self.builder().writers(writers).open("/simulated")
    }

    /// What an offline look at a copy of the disk finds, in another boot.
    pub fn inspect(&self) -> Report {
        let dir = tempfile::tempdir().expect("a directory");
        for entry in self.disk.list().expect("a directory") {
            let content = self.disk.content(&entry.name).expect("it was listed");
            std::fs::write(dir.path().join(&entry.name), content).expect("room");
        }
        let options = Options {
            buffers_dir: dir.path().to_owned(),
            boot: Some([0xee; 16]),
            ..Options::default()
        };
        check(dir.path(), &options).expect("it is a store")
    }

    /// The process dies, or the power goes, at this moment.
    pub fn crash(&mut self, store: Option<Store>, power: bool) {
        self.disk = self.disk.crash(power);
        if let Some(store) = store {
            store.abandon();
        }
        self.note_crash(power);
    }

    /// After a crash of a disk whose store is gone already.
    pub fn note_crash(&mut self, power: bool) {
        if power {
            self.regions = SharedRegions::default();
            self.boot += 1;
        }
    }
}

pub fn map_of(store: &Store) -> Map<U64, Bytes> {
    store.map("m", MapOptions::default()).expect("a map")
}

type State = BTreeMap<u64, Vec<u8>>;

/// What was done, by stream, and what must come back.
#[derive(Default)]
pub struct Oracle {
    stream_of: HashMap<u64, usize>,
    base: Vec<State>,
    history: Vec<Vec<(u64, Option<Vec<u8>>)>>,
    synced: Vec<usize>,
    seqs: HashSet<(usize, u64)>,
    next_value: u64,
}

impl Oracle {
    /// Puts each key once into a new store, and learns from what became durable which stream it belongs to.
    pub fn learn(store: &Store) -> Oracle {
        let streams = STREAMS as usize;
        let mut oracle = Oracle {
            base: vec![State::new(); streams],
            history: vec![Vec::new(); streams],
            synced: vec![0; streams],
            ..Oracle::default()
        };
        let marks = || (0..STREAMS).map(|stream| store.durable_through(StreamId(stream)).0);
        let synced: Map<U64, Bytes> = store.map("m", MapOptions::default()).expect("a map");
        for key in 0..KEYS {
            let before: Vec<u64> = marks().collect();
            synced.insert(&key, b"first").expect("room");
            store.persist(Durability::Synced).expect("synced");
            let moved: Vec<usize> = marks()
                .enumerate()
                .filter(|(n, mark)| *mark != before[*n])
                .map(|(n, _)| n)
                .collect();
            assert_eq!(moved.len(), 1, "one stream took key {key}");
            oracle.stream_of.insert(key, moved[0]);
            oracle.note(store, key, Some(b"first".to_vec()));
        }
        oracle.note_synced();
        oracle
    }

    fn note(&mut self, store: &Store, key: u64, value: Option<Vec<u8>>) {
        let stream = self.stream_of[&key];
        if value.is_some() {
            let map = map_of(store);
            let seq = map.get(&key).expect("ok").expect("it is there").seq().0;
            assert!(self.seqs.insert((stream, seq)), "stamp {seq} of stream {stream} twice");
        }
        self.history[stream].push((key, value));
    }

    /// Some random changes; now and then everything is made durable.
    pub fn change(&mut self, store: &Store, random: &mut Random, changes: u64) {
        let map = map_of(store);
        for _ in 0..changes {
            let key = random.below(KEYS);
            if random.below(50) == 0 {
                let stream = random.below(u64::from(STREAMS)) as u32;
                map.clear_stream(StreamId(stream)).expect("room");
                self.history[stream as usize].push((CLEAR, None));
                continue;
            }
            if random.below(6) == 0 {
                if map.remove(&key).expect("room") {
                    self.note(store, key, None);
                }
                continue;
            }
            self.next_value += 1;
            let len = match random.below(40) {
                0 => 60_000 + random.below(200_000),
                1 => 0,
                _ => random.below(3_000),
            };
            let mut value = vec![self.next_value as u8; len as usize];
            value.extend(self.next_value.to_le_bytes());
            map.insert(&key, &value).expect("room");
            self.note(store, key, Some(value));
            if random.below(60) == 0 {
                store.persist(Durability::Synced).expect("synced");
                self.note_synced();
            }
        }
    }

    pub fn note_synced(&mut self) {
        self.synced = self.history.iter().map(Vec::len).collect();
    }

    /// What came back must be a prefix of each stream, with everything that was promised; from here on it
    /// is all there is. Returns how many changes are gone.
    pub fn check(&mut self, store: &Store, survives_all: bool) -> usize {
        let mut gone = 0;
        let mut found = vec![State::new(); STREAMS as usize];
        for entry in map_of(store).iter() {
            let key = entry.key().expect("a number");
            found[self.stream_of[&key]].insert(key, entry.value_bytes().to_vec());
        }
        for (stream, found) in found.into_iter().enumerate() {
            let history = std::mem::take(&mut self.history[stream]);
            let least = if survives_all { history.len() } else { self.synced[stream] };
            let mut state = std::mem::take(&mut self.base[stream]);
            let all = history.len();
            let mut matches = (least == 0 && state == found).then_some(0);
            for (done, (key, value)) in history.into_iter().enumerate() {
                match value {
                    Some(value) => drop(state.insert(key, value)),
                    None if key == CLEAR => state.clear(),
                    None => drop(state.remove(&key)),
                }
                if done + 1 >= least && state == found {
                    matches = Some(done + 1);
                }
            }
            let Some(kept) = matches else {
                panic!("stream {stream}: no prefix with at least {least} changes")
            };
            gone += all - kept;
            self.base[stream] = found;
            self.synced[stream] = 0;
        }
        gone
    }
}
