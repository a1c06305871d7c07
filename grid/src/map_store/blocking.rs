//! Map stores whose code blocks, each call on a thread that may wait.

use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt};

use super::{Entries, MapLoader, MapStore, Properties, StoreError};
use crate::data::Serial;

/// A [`MapStore`] whose methods block the thread, as most database drivers do. Put it into [`OnThreads`]. All
/// that is said of [`MapLoader`] and [`MapStore`] holds here, too; what only reads leaves the writing methods
/// out, and is added by [`crate::Builder::map_loader`].
///
/// ```
/// use std::path::PathBuf;
/// use hdgrid::data::Natural;
/// use hdgrid::{BlockingMapStore, MapStoreConfig, Member, OnThreads, StoreError};
/// # let dir = tempfile::tempdir()?;
/// # let notes = tempfile::tempdir()?;
/// struct Files(PathBuf);
/// impl BlockingMapStore<Natural<String>, Natural<String>> for Files {
///     fn load(&self, name: &String) -> Result<Option<String>, StoreError> {
///         match std::fs::read_to_string(self.0.join(name)) {
///             Ok(text) => Ok(Some(text)),
///             Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
///             Err(error) => Err(error.into()),
///         }
///     }
///     fn store(&self, name: &String, text: &String) -> Result<Option<String>, StoreError> {
///         std::fs::write(self.0.join(name), text)?;
///         Ok(None)
///     }
///     fn delete(&self, name: &String) -> Result<(), StoreError> {
///         match std::fs::remove_file(self.0.join(name)) {
///             Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
///             _ => Ok(()),
///         }
///     }
/// }
/// let files = OnThreads::new(Files(notes.path().to_owned()));
/// let member = Member::builder(dir.path())
///     .map_store("notes", MapStoreConfig::default(), files)
///     .start()?;
/// let map = member.map::<Natural<String>, Natural<String>>("notes")?;
/// map.blocking().set(&"today".to_owned(), &"tea".to_owned())?;
/// assert_eq!(std::fs::read_to_string(notes.path().join("today"))?, "tea");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait BlockingMapStore<K, V>: Send + Sync + 'static
where
    K: Serial<Owned: Clone + Send + Sync>,
    V: Serial<Owned: Clone + Send + Sync>,
{
    /// As [`MapLoader::init`].
    ///
    /// # Errors
    /// What the operation then fails with.
    fn init(&self, _properties: &Properties, _map: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// As [`MapLoader::destroy`].
    fn destroy(&self) {}

    /// As [`MapLoader::load`].
    ///
    /// # Errors
    /// What the operation then fails with.
    fn load(&self, key: &K::Owned) -> Result<Option<V::Owned>, StoreError>;

    /// As [`MapLoader::load_all`].
    ///
    /// # Errors
    /// What the operation then fails with.
    fn load_all(&self, keys: &[K::Owned]) -> Result<Entries<K, V>, StoreError> {
        let mut found = Vec::new();
        for key in keys {
            found.extend(self.load(key)?.map(|value| (key.clone(), value)));
        }
        Ok(found)
    }

    /// As [`MapLoader::load_all_keys`]: each key is handed to `take`, until that says (`false`) that no more
    /// is wanted. `take` waits while keys are not loaded as fast as they come.
    ///
    /// # Errors
    /// What the load then fails with.
    fn load_all_keys(&self, _take: &mut dyn FnMut(K::Owned) -> bool) -> Result<(), StoreError> {
        Ok(())
    }

    /// As [`MapStore::post_processes`].
    fn post_processes(&self) -> bool {
        false
    }

    /// As [`MapStore::store_and_return`]: `None` where the database has just this value.
    ///
    /// # Errors
    /// What the change then fails with.
    fn store(&self, _key: &K::Owned, _value: &V::Owned) -> Result<Option<V::Owned>, StoreError> {
        Err("this store only reads".into())
    }

    /// As [`MapStore::store_all`].
    ///
    /// # Errors
    /// Any, as for [`MapStore::store_all`].
    fn store_all(&self, entries: &[(K::Owned, V::Owned)]) -> Result<(), StoreError> {
        entries.iter().try_for_each(|(key, value)| self.store(key, value).map(drop))
    }

    /// As [`MapStore::delete`].
    ///
    /// # Errors
    /// What the change then fails with.
    fn delete(&self, _key: &K::Owned) -> Result<(), StoreError> {
        Err("this store only reads".into())
    }

    /// As [`MapStore::delete_all`].
    ///
    /// # Errors
    /// Any, as for [`BlockingMapStore::store_all`].
    fn delete_all(&self, keys: &[K::Owned]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| self.delete(key))
    }
}

/// Has each call of a [`BlockingMapStore`] run on a thread of the runtime that may block; see there.
#[derive(Debug)]
pub struct OnThreads<S>(Arc<S>);

impl<S> OnThreads<S> {
    /// Of a store that blocks.
    pub fn new(store: S) -> OnThreads<S> {
        OnThreads(Arc::new(store))
    }

    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&S) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError>
    where
        S: Send + Sync + 'static,
    {
        let store = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || call(&store)).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(error.into()),
            },
        }
    }
}

/// Keys that wait to be loaded, at most.
const KEYS_AHEAD: usize = 4_096;

impl<K, V, S> MapLoader<K, V> for OnThreads<S>
where
    K: Serial<Owned: Clone + Send + Sync>,
    V: Serial<Owned: Clone + Send + Sync>,
    S: BlockingMapStore<K, V>,
{
    async fn init(&self, properties: &Properties, map: &str) -> Result<(), StoreError> {
        let (properties, map) = (properties.clone(), map.to_owned());
        self.call(move |store| store.init(&properties, &map)).await
    }

    async fn destroy(&self) {
        let done = self.call(|store| {
            store.destroy();
            Ok(())
        });
        if let Err(error) = done.await {
            tracing::warn!(%error, "a map store was not told of its end");
        }
    }

    async fn load(&self, key: &K::Owned) -> Result<Option<V::Owned>, StoreError> {
        let key = key.clone();
        self.call(move |store| store.load(&key)).await
    }

    async fn load_all(&self, keys: &[K::Owned]) -> Result<Entries<K, V>, StoreError> {
        let keys = keys.to_vec();
        self.call(move |store| store.load_all(&keys)).await
    }

    fn load_all_keys(&self) -> impl Stream<Item = Result<K::Owned, StoreError>> + Send {
        let (tell, told) = tokio::sync::mpsc::channel(KEYS_AHEAD);
        let store = Arc::clone(&self.0);
        let task = tokio::task::spawn_blocking(move || {
            // An error that finds nobody is one that nobody waits for.
            let mut take = |key| tell.blocking_send(Ok(key)).is_ok();
            if let Err(error) = store.load_all_keys(&mut take) {
                let _ = tell.blocking_send(Err(error));
            }
        });
        stream::unfold((told, task), async |(mut told, task)| match told.recv().await {
            Some(key) => Some((key, (told, task))),
            None => {
                // A panic is no end of the keys.
                if let Some(panic) = task.await.err().and_then(|error| error.try_into_panic().ok())
                {
                    std::panic::resume_unwind(panic);
                }
                None
            }
        })
        .boxed()
    }
}

impl<K, V, S> MapStore<K, V> for OnThreads<S>
where
    K: Serial<Owned: Clone + Send + Sync>,
    V: Serial<Owned: Clone + Send + Sync>,
    S: BlockingMapStore<K, V>,
{
    async fn store(&self, key: &K::Owned, value: &V::Owned) -> Result<(), StoreError> {
        self.store_and_return(key, value).await.map(drop)
    }

    async fn store_and_return(
        &self,
        key: &K::Owned,
        value: &V::Owned,
    ) -> Result<Option<V::Owned>, StoreError> {
        let (key, value) = (key.clone(), value.clone());
        self.call(move |store| store.store(&key, &value)).await
    }

    fn post_processes(&self) -> bool {
        self.0.post_processes()
    }

    async fn store_all(&self, entries: &[(K::Owned, V::Owned)]) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.call(move |store| store.store_all(&entries)).await
    }

    async fn delete(&self, key: &K::Owned) -> Result<(), StoreError> {
        let key = key.clone();
        self.call(move |store| store.delete(&key)).await
    }

    async fn delete_all(&self, keys: &[K::Owned]) -> Result<(), StoreError> {
        let keys = keys.to_vec();
        self.call(move |store| store.delete_all(&keys)).await
    }
}
