//! A member: one store, its partitions and maps, and the threads that keep them up.
//!
//! Invariants: a map has one `MapCore` as long as it is there, so all handles see one set of locks; what
//! must happen without a caller (leases and waits that end, entries that have expired) is done by one
//! thread, and others call listeners; or, where a test brings its own clock, whoever calls `Member::step`.

mod tellers;
mod upkeep;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hotrestart::codec::Bytes;
use hotrestart::{Clock, MapOptions, Store};

use crate::caller::Callers;
use crate::data::{PARTITION_COUNT_DEFAULT, PartitionId, Serial};
use crate::error::{MapError, StartError};
use crate::events::{EventConfig, Lanes, Listeners};
use crate::map::Map;
use crate::map::core::{MapCore, stream_of};
use crate::map::intercepting::Interceptors;
use crate::map::op::Rules;
use crate::map_store::{Backing, Behind, Calls, Given, MapLoader, MapStore, MapStoreConfig};
use crate::map_store::{OWN, records_of};
use crate::partition::{MapNo, Partitions};
use crate::stats::MapCounts;
use tellers::Tellers;
use upkeep::Upkeep;

/// How long a member that stops waits for calls of map stores that are under way.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

/// What a map's entries live by, and how durable they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MapConfig {
    /// How long an entry lives after it was put; zero: for ever.
    pub time_to_live: Duration,
    /// Whether it is kept when entries were made and changed.
    pub per_entry_stats: bool,
    /// How durable a change is before it is acknowledged. Of a map that is there already it stays what it
    /// was.
    pub durability: hotrestart::Durability,
}

/// Settings of a member; made by [`Member::builder`].
#[must_use]
pub struct Builder {
    directory: PathBuf,
    store: hotrestart::Builder,
    partitions: u32,
    maps: HashMap<String, MapConfig>,
    events: EventConfig,
    map_stores: HashMap<String, Given>,
    dropped_waiting: Vec<String>,
    runtime: Option<tokio::runtime::Handle>,
    clock: Arc<dyn Clock>,
    has_thread: bool,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (directory, partitions) = (&self.directory, &self.partitions);
        f.debug_struct("Builder")
            .field("directory", directory)
            .field("partitions", partitions)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Settings of the store, but for its streams, which are the partitions, and its clock.
    pub fn store(
        mut self,
        settings: impl FnOnce(hotrestart::Builder) -> hotrestart::Builder,
    ) -> Self {
        self.store = settings(self.store);
        self
    }

    /// How many partitions there are; 271 by default. It stays what it was when the store was made.
    pub fn partition_count(mut self, count: u32) -> Self {
        self.partitions = count;
        self
    }

    /// What a map is like.
    pub fn map(mut self, name: &str, config: MapConfig) -> Self {
        self.maps.insert(name.to_owned(), config);
        self
    }

    /// Has a map load what it does not have from a user's database.
    pub fn map_loader<K, V>(
        mut self,
        map: &str,
        config: MapStoreConfig,
        loader: impl MapLoader<K, V>,
    ) -> Self
    where
        K: Serial<Owned: Clone + Send + Sync>,
        V: Serial<Owned: Send + Sync>,
    {
        self.map_stores.insert(map.to_owned(), Given::loader(config, loader));
        self
    }

    /// Puts a map over a user's database: it loads from there, and every change is stored there first.
    pub fn map_store<K, V>(
        mut self,
        map: &str,
        config: MapStoreConfig,
        store: impl MapStore<K, V>,
    ) -> Self
    where
        K: Serial<Owned: Clone + Send + Sync>,
        V: Serial<Owned: Send + Sync>,
    {
        self.map_stores.insert(map.to_owned(), Given::store(config, store));
        self
    }

    /// Gives up what waits of a map for its database, which never hears of it then: for a map that was
    /// written behind and is to go on without its map store ([`MapError::ChangesWait`]). The map keeps its
    /// entries. An error for a map that is given a map store, as each start would lose what waits then.
    pub fn drop_waiting_changes(mut self, map: &str) -> Self {
        self.dropped_waiting.push(map.to_owned());
        self
    }

    /// Where calls of map stores run, instead of on a runtime of the member's own. It must have its timers
    /// and its input and output enabled, and more threads than the one that stops the member.
    pub fn runtime(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// How listeners are told.
    pub fn events(mut self, events: EventConfig) -> Self {
        self.events = events;
        self
    }

    /// The source of time, instead of the system's. With [`Builder::without_thread`] nothing happens but when
    /// [`Member::step`] is called.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Has no threads of its own: whoever calls [`Member::step`] ends leases and waits, sweeps entries and
    /// calls listeners.
    pub fn without_thread(mut self) -> Self {
        self.has_thread = false;
        self
    }

    /// Opens the store, with all that was in it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(self) -> Result<Member, StartError> {
        self.check_names()?;
        let store = self.store.streams(self.partitions).clock(Arc::clone(&self.clock));
        let store = store.open(&self.directory)?;
        let partitions = Arc::new(Partitions::new(self.partitions, Arc::clone(&self.clock)));
        let inner = Arc::new(Inner {
            store,
            partitions,
            configs: self.maps,
            maps: Mutex::default(),
            next_map: AtomicU32::new(0),
            // Locks end with the member, so its callers need no name that lasts.
            callers: Arc::new(Callers::new(0)),
            lanes: Arc::new(Lanes::new(&self.events)),
            map_stores: self.map_stores,
            calls: Arc::new(Calls::new(self.runtime)),
            clock: self.clock,
        });
        let lanes = &inner.lanes;
        let tellers = self.has_thread.then(|| Tellers::start(lanes)).transpose()?;
        let upkeep = self.has_thread.then(|| Upkeep::start(&inner)).transpose()?;
        let member = Member { inner, upkeep, tellers };
        for map in self.dropped_waiting {
            let dropped = member.inner.store.drop_map(&records_of(&map));
            dropped.map_err(|source| StartError::Map(MapError::Store { map, source }))?;
        }
        member.inner.open_waiting().map_err(StartError::Map)?;
        Ok(member)
    }
}

impl Builder {
    fn check_names(&self) -> Result<(), StartError> {
        let mut named = self.maps.keys().chain(self.map_stores.keys()).chain(&self.dropped_waiting);
        named.try_for_each(|map| not_own(map)).map_err(StartError::Map)?;
        let stores = |map: &&String| self.map_stores.get(*map).is_some_and(Given::stores);
        match self.dropped_waiting.iter().find(stores) {
            Some(map) => Err(StartError::DropsWaitingChanges { map: map.clone() }),
            None => Ok(()),
        }
    }
}

/// What a member's handles share.
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) partitions: Arc<Partitions>,
    configs: HashMap<String, MapConfig>,
    maps: Mutex<HashMap<String, Arc<MapCore>>>,
    next_map: AtomicU32,
    callers: Arc<Callers>,
    pub(crate) lanes: Arc<Lanes>,
    map_stores: HashMap<String, Given>,
    calls: Arc<Calls>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Inner {
    fn maps(&self) -> MutexGuard<'_, HashMap<String, Arc<MapCore>>> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a map's locks, and tells whoever waits.
    fn forget(&self, core: &MapCore) {
        core.is_gone.store(true, Ordering::Release);
        self.partitions.forget_map(core.no);
        core.remove_listeners();
        core.interceptors.remove_all();
        if let Some(backing) = &core.backing {
            backing.end();
        }
    }

    /// The database of a map, with what waits for it.
    fn backing(
        &self,
        name: &str,
        options: MapOptions<hotrestart::Durability>,
    ) -> Result<Option<Arc<Backing>>, hotrestart::Error> {
        let Some(given) = self.map_stores.get(name) else { return Ok(None) };
        let (memory, config) = (self.store.memory(), given.config());
        let streams: Vec<_> = (0..self.partitions.count())
            .map(|partition| stream_of(PartitionId(partition)))
            .collect();
        let behind = match given.stores() {
            true => Behind::open(memory, name, config, &streams, (options, &self.clock))?,
            false => None,
        };
        Ok(Some(Arc::new(Backing::new(given.clone(), Arc::clone(&self.calls), behind))))
    }

    /// How many changes of a map wait for a database, where it is given none.
    fn waiting_without_store(&self, name: &str) -> Result<u64, hotrestart::Error> {
        let records = records_of(name);
        let memory = self.store.memory();
        if self.map_stores.get(name).is_some_and(Given::stores)
            || !memory.maps().iter().any(|map| map.0 == records)
        {
            return Ok(0);
        }
        let options = MapOptions::default().placed_by_owner();
        Ok(memory.map::<Bytes, Bytes>(&records, options)?.len())
    }

    /// Opens the maps of which changes wait for their databases.
    fn open_waiting(&self) -> Result<(), MapError> {
        let known = self.store.memory().maps();
        for (name, given) in &self.map_stores {
            // One that only loads is refused when somebody opens it, as one without a database is.
            if given.stores() && known.iter().any(|map| map.0 == records_of(name)) {
                self.open_map(name)?;
            }
        }
        Ok(())
    }

    fn open_map(&self, name: &str) -> Result<Arc<MapCore>, MapError> {
        let mut maps = self.maps();
        if let Some(core) = maps.get(name) {
            return Ok(Arc::clone(core));
        }
        let refused = |source| MapError::Store { map: name.to_owned(), source };
        let waiting = self.waiting_without_store(name).map_err(refused)?;
        if waiting > 0 {
            return Err(MapError::ChangesWait { map: name.to_owned(), waiting });
        }
        let config = self.configs.get(name).copied().unwrap_or_default();
        let options = MapOptions::default().placed_by_owner().durability(config.durability);
        let whole = self.store.map(name, options).map_err(refused)?;
        let parts = (0..self.partitions.count())
            .map(|partition| whole.in_stream(stream_of(PartitionId(partition))).map_err(refused));
        let core = Arc::new(MapCore {
            no: MapNo(self.next_map.fetch_add(1, Ordering::Relaxed)),
            name: name.to_owned(),
            rules: Rules {
                ttl_ms: crate::map::ms(config.time_to_live),
                max_idle_ms: 0,
                keeps_times: config.per_entry_stats,
            },
            partitions: Arc::clone(&self.partitions),
            clock: Arc::clone(&self.clock),
            parts: parts.collect::<Result<_, _>>()?,
            is_gone: AtomicBool::new(false),
            // Nobody knows what entries of a former life say of themselves.
            has_own_lives: AtomicBool::new(!whole.is_empty()),
            listeners: Listeners::new(self.partitions.count()),
            lanes: Arc::clone(&self.lanes),
            interceptors: Interceptors::default(),
            backing: self.backing(name, options).map_err(refused)?,
            counts: MapCounts::default(),
            whole,
        });
        maps.insert(name.to_owned(), Arc::clone(&core));
        core.start_workers();
        if core.backing.as_ref().is_some_and(|backing| backing.is_eager()) {
            core.begin_initial_load();
        }
        Ok(core)
    }
}

/// A member of the grid: maps over one store.
///
/// Dropping it stops it. Maps that are still held can be read afterwards; changes are refused.
///
/// ```
/// use hdgrid::{Member, data::{Json, Natural}};
/// # let dir = tempfile::tempdir()?;
/// let member = Member::builder(dir.path()).start()?;
/// let orders = member.map::<Natural<String>, Json<Vec<String>>>("orders")?;
/// orders.blocking().set(&"A-1".to_owned(), &vec!["coffee".to_owned()])?;
/// drop((orders, member));
///
/// let member = Member::builder(dir.path()).start()?;
/// let orders = member.map::<Natural<String>, Json<Vec<String>>>("orders")?;
/// assert_eq!(orders.blocking().get(&"A-1".to_owned())?, Some(vec!["coffee".to_owned()]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Member {
    inner: Arc<Inner>,
    upkeep: Option<Upkeep>,
    tellers: Option<Tellers>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("partitions", &self.inner.partitions).finish_non_exhaustive()
    }
}

/// Names of the member's own maps are not the caller's.
fn not_own(name: &str) -> Result<(), MapError> {
    match name.starts_with(OWN) {
        true => Err(MapError::OwnName { map: name.to_owned() }),
        false => Ok(()),
    }
}

impl Drop for Member {
    /// Has nothing more be told, ends its maps' locks and listeners, and then waits for listeners that are at
    /// work, which may have waited for a key. Calls of map stores that are under way are waited for, 30 s at
    /// most.
    fn drop(&mut self) {
        self.inner.lanes.stop();
        drop(self.upkeep.take());
        // In a statement of its own: listeners that go with their maps may have code of a user's.
        let maps: Vec<_> = self.inner.maps().values().cloned().collect();
        maps.iter().for_each(|core| self.inner.forget(core));
        drop(self.tellers.take());
        let left = self.inner.calls.drain(DRAINED_WITHIN);
        if left > 0 {
            tracing::warn!(left, "calls of map stores are not waited for any longer");
        }
    }
}

impl Member {
    /// Settings of a member whose store lies in a directory, which is made where it is missing.
    pub fn builder(directory: impl AsRef<Path>) -> Builder {
        Builder {
            directory: directory.as_ref().to_owned(),
            store: Store::builder(),
            partitions: PARTITION_COUNT_DEFAULT,
            maps: HashMap::new(),
            map_stores: HashMap::new(),
            dropped_waiting: Vec::new(),
            runtime: None,
            clock: Arc::new(hotrestart::hdstore::SystemClock::default()),
            events: EventConfig::default(),
            has_thread: true,
        }
    }

    /// Opens a map, making it when it is not there. The types are the caller's: bytes that are none of
    /// them are an error of the operation that finds them.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map<K: Serial, V: Serial>(&self, name: &str) -> Result<Map<K, V>, MapError> {
        not_own(name)?;
        Ok(Map::new(self.inner.open_map(name)?, Arc::clone(&self.inner.callers)))
    }

    /// Destroys a map with everything in it, locks included; whoever waits for one is told. Whether it
    /// was there.
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "destroy")]
    pub fn destroy_map(&self, name: &str) -> Result<bool, MapError> {
        not_own(name)?;
        let mut maps = self.inner.maps();
        // First what waits of it: without the map nobody would know what it is about.
        let dropped = self.inner.store.drop_map(&records_of(name));
        let dropped = dropped.and_then(|_| self.inner.store.drop_map(name));
        let was_there =
            dropped.map_err(|source| MapError::Store { map: name.to_owned(), source })?;
        let core = maps.remove(name);
        drop(maps);
        if let Some(core) = core {
            self.inner.forget(&core);
        }
        Ok(was_there)
    }

    /// Stops the member: whoever waits for a key is told; listeners are told nothing more, and those at work
    /// are waited for; and the store is closed, so that everything that was acknowledged is on the disk when
    /// this returns.
    ///
    /// # Errors
    /// As for [`hotrestart::Store::close`].
    pub fn shutdown(self) -> Result<(), hotrestart::CloseError> {
        let inner = Arc::clone(&self.inner);
        drop(self);
        match Arc::into_inner(inner) {
            Some(inner) => inner.store.close(),
            None => unreachable!("only the member and its upkeep have it"),
        }
    }

    /// The store below: statistics, recovery, holds.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Events that nobody was told of, as more waited than may: [`crate::MapEvent::Lost`].
    pub fn events_lost(&self) -> u64 {
        self.inner.lanes.lost()
    }

    /// Does what is due: ends leases and waits, sweeps some entries that have expired, and calls listeners.
    /// The threads of a member do this by themselves.
    pub fn step(&self) {
        upkeep::step(&self.inner);
        for core in self.inner.maps().values() {
            core.wake_workers();
        }
        if self.tellers.is_none() {
            self.inner.lanes.tell_all();
        }
    }
}
