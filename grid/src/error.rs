//! Why an operation of the grid failed.

use crate::data::{Data, DataError};

/// Why an operation on a map failed. Nothing changed, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A key or a value has no bytes, or what is kept is not of the type that was asked for.
    #[error("map {map:?}: {source}")]
    Data {
        /// The map.
        map: String,
        /// What is wrong with it.
        source: DataError,
    },
    /// The key is not locked by who wants to unlock it.
    #[error(
        "map {map:?}: the caller has not locked this key, so it cannot unlock it: {}",
        if *.is_locked { "another has" } else { "nobody has" }
    )]
    NotLocked {
        /// The map.
        map: String,
        /// Whether somebody else has locked it.
        is_locked: bool,
    },
    /// An interceptor of the map refused the operation, with an error of its own.
    #[error("map {map:?}: refused by an interceptor: {source}")]
    Intercepted {
        /// The map.
        map: String,
        /// The interceptor's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The map's database, or the code before it, did not do what it was asked. Unless the call says
    /// otherwise nothing has changed; where nobody knows what the database has done ([`crate::MapStore`]),
    /// memory has let the key go, and asks the database when it is wanted again.
    #[error("map {map:?}: `{call}`{} of its map store: {source}", of_key(key.as_ref()))]
    MapStore {
        /// The map.
        map: String,
        /// What the map store was asked.
        call: &'static str,
        /// About which key; of several, the first. Nothing where it was about none.
        key: Option<Data>,
        /// Its error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The map's database has a change, or may have it, and memory has not: neither could it be made there,
    /// nor the key be let go. Readers see the value before until [`crate::Map::evict`] of the key succeeds,
    /// once the store takes changes again.
    #[error(
        "map {map:?}: its database may have another value of key {key} than memory, which refuses to let \
         that go: {source}; evict the key when it does not any more"
    )]
    Outdated {
        /// The map.
        map: String,
        /// The key.
        key: Data,
        /// Why memory keeps the value before.
        source: hotrestart::Error,
    },
    /// As many changes wait for the map's database as may; nothing has changed.
    #[error(
        "map {map:?}: {waiting} changes wait for its database, and none was taken within {waited:?}"
    )]
    MapStoreFull {
        /// The map.
        map: String,
        /// How many changes wait.
        waiting: u64,
        /// How long the change waited for room.
        waited: std::time::Duration,
    },
    /// Changes of the map wait for its database, and the member was given no map store for it: what was put
    /// now would be older, there, than what is told later.
    #[error(
        "map {map:?}: {waiting} changes of it wait for its database, and the member was given no map \
         store for it: start it with one, or give them up by Builder::drop_waiting_changes({map:?})"
    )]
    ChangesWait {
        /// The map.
        map: String,
        /// How many changes wait.
        waiting: u64,
    },
    /// Names that begin with `hd:` are the member's own.
    #[error("map {map:?}: names that begin with \"hd:\" are the member's own; choose another")]
    OwnName {
        /// The name.
        map: String,
    },
    /// The map was destroyed, or its member is shutting down.
    #[error("map {map:?} was destroyed, or its member is shutting down")]
    Gone {
        /// The map.
        map: String,
    },
    /// The store refused the change, or does not know whether it is kept: its error says which.
    #[error("map {map:?}: {source}")]
    Store {
        /// The map.
        map: String,
        /// The store's error.
        source: hotrestart::Error,
    },
}

fn of_key(key: Option<&Data>) -> String {
    key.map(|key| format!(" of key {key}")).unwrap_or_default()
}

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] hotrestart::OpenError),
    /// A map does not open of which changes wait for the user's database, or settings name a map that is the
    /// member's own.
    #[error(transparent)]
    Map(MapError),
    /// What waits of a map is to be given up, though the map is given a map store that it waits for.
    #[error(
        "map {map:?} has a map store, and Builder::drop_waiting_changes would lose what waits for it, again \
         at each start: give the map one or the other"
    )]
    DropsWaitingChanges {
        /// The map.
        map: String,
    },
    /// There is no thread for what a member does by itself.
    #[error("no thread {name:?} for the upkeep of a member: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// The system's error.
        source: std::io::Error,
    },
}
