//! A user's map store over stored forms: the one place where its types are known.
//!
//! Invariants: bytes that are none of its types are an error of the call, and reach no code of the user; so
//! is a panic.

use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::{MapLoader, MapStore, Properties};
use crate::data::Serial;
use crate::user::{Refused, answer, read, stored};

/// A call's outcome, some time.
pub(crate) type Call<'a, T> = BoxFuture<'a, Result<T, Refused>>;

/// The stored form of a key or of a value.
pub(crate) type Bytes = Vec<u8>;

/// A user's loader.
pub(crate) trait AnyLoader: Send + Sync {
    fn init<'a>(&'a self, properties: &'a Properties, map: &'a str) -> Call<'a, ()>;
    fn destroy(&self) -> BoxFuture<'_, ()>;
    fn load<'a>(&'a self, key: &'a [u8]) -> Call<'a, Option<Bytes>>;
    fn load_all<'a>(&'a self, keys: &'a [Bytes]) -> Call<'a, Vec<(Bytes, Bytes)>>;
    fn load_all_keys(&self) -> BoxStream<'_, Result<Bytes, Refused>>;
}

/// A user's store.
pub(crate) trait AnyStore: Send + Sync {
    /// What the key has then, where that is something else.
    fn store<'a>(&'a self, key: &'a [u8], value: &'a [u8]) -> Call<'a, Option<Bytes>>;
    /// Whether it ever is something else, so that each entry is to be stored for itself.
    fn post_processes(&self) -> bool;
    fn store_all<'a>(&'a self, entries: &'a [(Bytes, Bytes)]) -> Call<'a, ()>;
    fn delete<'a>(&'a self, key: &'a [u8]) -> Call<'a, ()>;
    fn delete_all<'a>(&'a self, keys: &'a [Bytes]) -> Call<'a, ()>;
}

/// A loader or a store with its types.
pub(crate) struct Typed<S, K, V> {
    own: S,
    types: PhantomData<fn(K) -> V>,
}

impl<S, K, V> Typed<S, K, V> {
    pub(crate) fn new(own: S) -> Typed<S, K, V> {
        Typed { own, types: PhantomData }
    }
}

fn read_all<T: Serial>(all: &[Bytes]) -> Result<Vec<T::Owned>, Refused> {
    Ok(all.iter().map(|bytes| read::<T>(bytes)).collect::<Result<_, _>>()?)
}

/// The stored form of what a user's code has answered.
fn answered<T: Serial>(own: &T::Owned) -> Result<Bytes, Refused> {
    stored::<T>(own).map_err(|source| Refused::unreadable(&source))
}

impl<S, K, V> AnyLoader for Typed<S, K, V>
where
    K: Serial<Owned: Clone + Send + Sync>,
    V: Serial<Owned: Send + Sync>,
    S: MapLoader<K, V>,
{
    fn init<'a>(&'a self, properties: &'a Properties, map: &'a str) -> Call<'a, ()> {
        Box::pin(answer(async move { self.own.init(properties, map).await.map_err(Refused::Own) }))
    }

    fn destroy(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.own.destroy())
    }

    fn load<'a>(&'a self, key: &'a [u8]) -> Call<'a, Option<Bytes>> {
        Box::pin(answer(async move {
            let value = self.own.load(&read::<K>(key)?).await.map_err(Refused::Own)?;
            value.as_ref().map(answered::<V>).transpose()
        }))
    }

    fn load_all<'a>(&'a self, keys: &'a [Bytes]) -> Call<'a, Vec<(Bytes, Bytes)>> {
        Box::pin(answer(async move {
            let found = self.own.load_all(&read_all::<K>(keys)?).await.map_err(Refused::Own)?;
            let both = |(key, value)| Ok((answered::<K>(key)?, answered::<V>(value)?));
            found.iter().map(|(key, value)| both((key, value))).collect()
        }))
    }

    fn load_all_keys(&self) -> BoxStream<'_, Result<Bytes, Refused>> {
        let keys = stream::once(async {}).flat_map(|()| self.own.load_all_keys());
        let keys = keys.map(|key| answered::<K>(&key.map_err(Refused::Own)?));
        let keys = AssertUnwindSafe(keys).catch_unwind();
        keys.map(|key| key.unwrap_or_else(|panic| Err(Refused::panicked(&*panic)))).boxed()
    }
}

impl<S, K, V> AnyStore for Typed<S, K, V>
where
    K: Serial<Owned: Clone + Send + Sync>,
    V: Serial<Owned: Send + Sync>,
    S: MapStore<K, V>,
{
    fn store<'a>(&'a self, key: &'a [u8], value: &'a [u8]) -> Call<'a, Option<Bytes>> {
        Box::pin(answer(async move {
            let (key, value) = (read::<K>(key)?, read::<V>(value)?);
            let own = self.own.store_and_return(&key, &value).await.map_err(Refused::Own)?;
            own.as_ref().map(answered::<V>).transpose()
        }))
    }

    fn post_processes(&self) -> bool {
        self.own.post_processes()
    }

    fn store_all<'a>(&'a self, entries: &'a [(Bytes, Bytes)]) -> Call<'a, ()> {
        Box::pin(answer(async move {
            let read = |(key, value): &(Bytes, Bytes)| Ok((read::<K>(key)?, read::<V>(value)?));
            let entries = entries.iter().map(read).collect::<Result<Vec<_>, Refused>>()?;
            self.own.store_all(&entries).await.map_err(Refused::Own)
        }))
    }

    fn delete<'a>(&'a self, key: &'a [u8]) -> Call<'a, ()> {
        Box::pin(answer(
            async move { self.own.delete(&read::<K>(key)?).await.map_err(Refused::Own) },
        ))
    }

    fn delete_all<'a>(&'a self, keys: &'a [Bytes]) -> Call<'a, ()> {
        Box::pin(answer(async move {
            self.own.delete_all(&read_all::<K>(keys)?).await.map_err(Refused::Own)
        }))
    }
}
