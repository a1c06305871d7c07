//! The user's own database under a map: Hazelcast's MapLoader and MapStore.
//!
//! Here: what a user implements (`MapLoader`, `MapStore`), the same over bytes (`typed.rs`), an adapter for
//! code that blocks (`blocking.rs`), where its calls run (`calls.rs`), and what waits for it (`behind/`,
//! `queue.rs`). When a map asks, and in which order database and memory change, is in `map/storing.rs` and
//! `map/loading.rs`.
//!
//! What a database has and what a map has may differ: others may change the database, and entries may be in
//! the map's own log from before a restart. What the map has counts as long as it has it; of a key that it
//! does not have the database is asked.

mod backing;
mod behind;
mod blocking;
mod calls;
mod queue;
mod typed;

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use futures_util::stream::{self, Stream};

pub(crate) use backing::{Backing, Given};
pub(crate) use behind::{Away, Behind, Change as BehindChange, NotChanged, OWN, records_of, until};
pub use blocking::{BlockingMapStore, OnThreads};
pub(crate) use calls::{Calls, NoOutcome, message};
pub(crate) use typed::{AnyLoader, AnyStore, Bytes, Typed};

use crate::data::Serial;

/// Why a user's database, or the code before it, does not do what it was asked.
pub type StoreError = Box<dyn Error + Send + Sync>;

/// Keys with their values, as a database has them.
pub type Entries<K, V> = Vec<(<K as Serial>::Owned, <V as Serial>::Owned)>;

/// Settings of a user's own, as the configuration of a map store has them: an address, a table's name.
pub type Properties = BTreeMap<String, String>;

/// When all that a database has is loaded; what [`MapLoader::load_all_keys`] does not name never is but key
/// by key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum InitialMode {
    /// From the first operation on.
    #[default]
    Lazy,
    /// As soon as the map is opened.
    Eager,
}

/// How a map uses its database.
///
/// ```
/// use std::time::Duration;
/// use hdgrid::{InitialMode, MapStoreConfig};
/// let config = MapStoreConfig {
///     initial_mode: InitialMode::Eager,
///     write_delay: Duration::from_secs(5),
///     properties: [("table".to_owned(), "accounts".to_owned())].into(),
///     ..MapStoreConfig::default()
/// };
/// # let _ = config;
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapStoreConfig {
    /// When all that the database has is loaded.
    pub initial_mode: InitialMode,
    /// Keys of one [`MapLoader::load_all`], [`MapStore::store_all`] or [`MapStore::delete_all`], at most;
    /// 1,000 by default.
    pub batch_size: NonZeroUsize,
    /// Calls of [`MapLoader::load_all`] at the same time while everything is loaded; 4 by default.
    pub load_parallelism: NonZeroUsize,
    /// How long a change waits before the database is told; zero, the default: the database is told first,
    /// and the change is done when it has taken it.
    pub write_delay: Duration,
    /// Whether of the changes of a key that wait only the last reaches the database; it is so by default.
    /// Else each does, in their order.
    pub write_coalescing: bool,
    /// Batches that are told at the same time, at most; 2 by default.
    pub write_workers: NonZeroUsize,
    /// Changes that may wait; 1,000,000 by default. Further ones wait for room, as long as
    /// [`MapStoreConfig::write_room_timeout`] says, and fail then. What takes the place of a change that
    /// waits needs no room, nor does what the database is not told.
    pub write_capacity: NonZeroU64,
    /// See there; 10 s by default.
    pub write_room_timeout: Duration,
    /// Refusals of a change, while the database takes others, after which it is set aside
    /// ([`crate::Map::dead_letters`]); 10 by default.
    pub refusals_max: NonZeroU32,
    /// How long a change that was refused waits at first, some more or less; 100 ms by default. The wait
    /// doubles each time, up to [`MapStoreConfig::retry_longest`].
    pub retry_first: Duration,
    /// See there; 30 s by default.
    pub retry_longest: Duration,
    /// Handed to [`MapLoader::init`].
    pub properties: Properties,
}

impl Default for MapStoreConfig {
    fn default() -> MapStoreConfig {
        MapStoreConfig {
            initial_mode: InitialMode::Lazy,
            batch_size: const { NonZeroUsize::new(1_000).unwrap() },
            load_parallelism: const { NonZeroUsize::new(4).unwrap() },
            write_delay: Duration::ZERO,
            write_coalescing: true,
            write_workers: const { NonZeroUsize::new(2).unwrap() },
            write_capacity: const { NonZeroU64::new(1_000_000).unwrap() },
            write_room_timeout: Duration::from_secs(10),
            refusals_max: const { NonZeroU32::new(10).unwrap() },
            retry_first: Duration::from_millis(100),
            retry_longest: Duration::from_secs(30),
            properties: Properties::new(),
        }
    }
}

/// Reads a map's entries from a user's database.
///
/// Its calls run on a `tokio` runtime, the member's own unless it was given one
/// ([`crate::Builder::runtime`]); what blocks belongs into a [`BlockingMapStore`]. While a key is loaded
/// nobody changes it, and readers of what is there do not wait. An error reaches who asked, as
/// [`crate::MapError::MapStore`], and so does a panic. A call must not wait for an operation of its own map,
/// which may wait for the key.
///
/// ```
/// use hdgrid::data::Natural;
/// use hdgrid::{MapLoader, MapStoreConfig, Member, StoreError};
/// # let dir = tempfile::tempdir()?;
/// struct Squares;
/// impl MapLoader<Natural<i64>, Natural<i64>> for Squares {
///     async fn load(&self, key: &i64) -> Result<Option<i64>, StoreError> {
///         Ok(key.checked_mul(*key))
///     }
/// }
/// let member = Member::builder(dir.path())
///     .map_loader("squares", MapStoreConfig::default(), Squares)
///     .start()?;
/// let squares = member.map::<Natural<i64>, Natural<i64>>("squares")?;
/// assert_eq!(squares.blocking().get(&12)?, Some(144));
/// assert_eq!(squares.blocking().get(&i64::MAX)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait MapLoader<K, V>: Send + Sync + 'static
where
    K: Serial<Owned: Clone + Send + Sync>,
    V: Serial<Owned: Send + Sync>,
{
    /// Called once, before any other call, when the map is used first; after an error, again at the next use.
    /// It is given [`MapStoreConfig::properties`] and the map's name.
    ///
    /// # Errors
    /// What the operation then fails with.
    fn init(
        &self,
        _properties: &Properties,
        _map: &str,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Called once, after all other calls, when the map is destroyed or its member stops.
    fn destroy(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// The value of a key; `None` when the database has none.
    ///
    /// # Errors
    /// What the operation then fails with.
    fn load(
        &self,
        key: &K::Owned,
    ) -> impl Future<Output = Result<Option<V::Owned>, StoreError>> + Send;

    /// The values of those among some keys that have one, in any order; by [`MapLoader::load`] if it is not
    /// implemented. Other keys than those asked for are an error. After an error each is loaded for itself.
    ///
    /// # Errors
    /// What the operation then fails with.
    #[doc(alias = "loadAll")]
    fn load_all(
        &self,
        keys: &[K::Owned],
    ) -> impl Future<Output = Result<Entries<K, V>, StoreError>> + Send {
        async move {
            let mut found = Vec::new();
            for key in keys {
                found.extend(self.load(key).await?.map(|value| (key.clone(), value)));
            }
            Ok(found)
        }
    }

    /// All keys that are to be loaded when the map is used first, and by [`crate::Map::load_all`]; none if it
    /// is not implemented. It is read as fast as values can be loaded.
    #[doc(alias = "loadAllKeys")]
    fn load_all_keys(&self) -> impl Stream<Item = Result<K::Owned, StoreError>> + Send {
        stream::empty()
    }
}

/// Writes a map's entries to a user's database, too.
///
/// Without a [`MapStoreConfig::write_delay`] every change reaches the database before memory: an error of the
/// database reaches who wanted the change, with the key, and nothing has changed. After a panic, and after an
/// error about several keys at once, nobody knows what was done: memory lets these keys go, and asks the
/// database when they are wanted again. A change that the database was asked for is carried out, also when
/// nobody waits for it any more. Whatever is done may be done again, after an error or a crash: calls must be
/// idempotent. A crash between database and memory leaves a change that nobody was told of in the database
/// alone.
///
/// With one a change is done when the map has it, and reaches the database later, after a restart if need
/// be: what waits is logged with the entry, all or nothing, as durable as the map is. Readers see what
/// waits. What the database refuses is tried again; see [`crate::Map::flush`] and
/// [`crate::Map::dead_letters`]. What [`MapStore::store_and_return`] returns is no matter then.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use hdgrid::data::Natural;
/// use hdgrid::{MapLoader, MapStore, MapStoreConfig, Member, StoreError};
/// # let dir = tempfile::tempdir()?;
/// #[derive(Clone, Default)]
/// struct Stock(Arc<Mutex<HashMap<String, i64>>>);
/// impl MapLoader<Natural<String>, Natural<i64>> for Stock {
///     async fn load(&self, name: &String) -> Result<Option<i64>, StoreError> {
///         Ok(self.0.lock().unwrap().get(name).copied())
///     }
/// }
/// impl MapStore<Natural<String>, Natural<i64>> for Stock {
///     async fn store(&self, name: &String, count: &i64) -> Result<(), StoreError> {
///         if *count < 0 {
///             return Err("less than none".into());
///         }
///         self.0.lock().unwrap().insert(name.clone(), *count);
///         Ok(())
///     }
///     async fn delete(&self, name: &String) -> Result<(), StoreError> {
///         self.0.lock().unwrap().remove(name);
///         Ok(())
///     }
/// }
/// let stock = Stock::default();
/// let member = Member::builder(dir.path())
///     .map_store("stock", MapStoreConfig::default(), stock.clone())
///     .start()?;
/// let map = member.map::<Natural<String>, Natural<i64>>("stock")?;
/// map.blocking().set(&"tea".to_owned(), &9)?;
/// assert_eq!(stock.0.lock().unwrap()["tea"], 9);
/// let refused = map.blocking().set(&"tea".to_owned(), &-1);
/// let expected = "map \"stock\": `store` of key \"tea\" of its map store: less than none";
/// assert_eq!(refused.unwrap_err().to_string(), expected);
/// assert_eq!(map.blocking().get(&"tea".to_owned())?, Some(9));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait MapStore<K, V>: MapLoader<K, V>
where
    K: Serial<Owned: Clone + Send + Sync>,
    V: Serial<Owned: Send + Sync>,
{
    /// Gives a key a value.
    ///
    /// # Errors
    /// What the change then fails with.
    fn store(
        &self,
        key: &K::Owned,
        value: &V::Owned,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives a key a value, and says what became of it there, where that is something else (numbers that the
    /// database gives, defaults): that is what the map has then. By [`MapStore::store`] if it is not
    /// implemented; who implements it says so in [`MapStore::post_processes`].
    ///
    /// # Errors
    /// What the change then fails with.
    #[doc(alias = "PostProcessingMapStore")]
    fn store_and_return(
        &self,
        key: &K::Owned,
        value: &V::Owned,
    ) -> impl Future<Output = Result<Option<V::Owned>, StoreError>> + Send {
        async move { self.store(key, value).await.map(|()| None) }
    }

    /// Whether [`MapStore::store_and_return`] ever returns a value: then each entry is stored by it, and none
    /// by [`MapStore::store_all`]. Where changes are written behind the map keeps what it was given: what
    /// became of it in the database comes with the next load.
    fn post_processes(&self) -> bool {
        false
    }

    /// Gives keys, each of them once, their values; by [`MapStore::store`] if it is not implemented. After an
    /// error each is stored for itself.
    ///
    /// # Errors
    /// Any, also where some are stored: memory lets go of those that are refused once more.
    #[doc(alias = "storeAll")]
    fn store_all(
        &self,
        entries: &[(K::Owned, V::Owned)],
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        async move {
            for (key, value) in entries {
                self.store(key, value).await?;
            }
            Ok(())
        }
    }

    /// Removes a key, which need not be there.
    ///
    /// # Errors
    /// What the change then fails with.
    fn delete(&self, key: &K::Owned) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes keys, each of them named once; by [`MapStore::delete`] if it is not implemented. After an
    /// error each is removed for itself.
    ///
    /// # Errors
    /// Any, as for [`MapStore::store_all`].
    #[doc(alias = "deleteAll")]
    fn delete_all(&self, keys: &[K::Owned]) -> impl Future<Output = Result<(), StoreError>> + Send {
        async move {
            for key in keys {
                self.delete(key).await?;
            }
            Ok(())
        }
    }
}
