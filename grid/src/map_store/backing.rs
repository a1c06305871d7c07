//! The database of one map.
//!
//! Invariant: nothing is asked of it before it was told of its beginning (`init`), nor after it was told of
//! its end (`destroy`), which waits for what is under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::behind::Behind;
use super::calls::{Calls, NoOutcome};
use super::{AnyLoader, AnyStore, InitialMode, MapLoader, MapStore, MapStoreConfig, Typed};
use crate::data::Serial;
use crate::user::Refused;

/// What a member was given for maps of a name.
#[derive(Clone)]
pub(crate) struct Given {
    config: MapStoreConfig,
    loader: Arc<dyn AnyLoader>,
    store: Option<Arc<dyn AnyStore>>,
    /// Taken by the map that it belongs to: the next one of the name begins when that has ended.
    turn: Arc<Semaphore>,
}

impl Given {
    pub(crate) fn config(&self) -> &MapStoreConfig {
        &self.config
    }

    /// Whether changes are stored.
    pub(crate) fn stores(&self) -> bool {
        self.store.is_some()
    }

    pub(crate) fn loader<K, V>(config: MapStoreConfig, loader: impl MapLoader<K, V>) -> Given
    where
        K: Serial<Owned: Clone + Send + Sync>,
        V: Serial<Owned: Send + Sync>,
    {
        let loader = Arc::new(Typed::<_, K, V>::new(loader));
        Given { config, loader, store: None, turn: Arc::new(Semaphore::new(1)) }
    }

    pub(crate) fn store<K, V>(config: MapStoreConfig, store: impl MapStore<K, V>) -> Given
    where
        K: Serial<Owned: Clone + Send + Sync>,
        V: Serial<Owned: Send + Sync>,
    {
        let store = Arc::new(Typed::<_, K, V>::new(store));
        let loader = Arc::clone(&store) as Arc<dyn AnyLoader>;
        Given { config, loader, store: Some(store), turn: Arc::new(Semaphore::new(1)) }
    }
}

/// What loads, and what stores, where anything does.
type Ready<'a> = (&'a dyn AnyLoader, Option<&'a dyn AnyStore>);

/// The database of a map.
pub(crate) struct Backing {
    given: Given,
    calls: Arc<Calls>,
    /// What waits for it.
    pub(crate) behind: Option<Behind>,
    /// Calls that have not come to their end.
    under_way: watch::Sender<u64>,
    has_ended: AtomicBool,
    began: OnceCell<()>,
    /// The store's, from its beginning to its end.
    turn: Mutex<Option<OwnedSemaphorePermit>>,
    is_loading: AtomicBool,
    /// How many entries the first load of everything found.
    pub(crate) initial: OnceCell<u64>,
}

impl Backing {
    pub(crate) fn new(given: Given, calls: Arc<Calls>, behind: Option<Behind>) -> Backing {
        Backing {
            given,
            calls,
            behind,
            under_way: watch::Sender::new(0),
            has_ended: AtomicBool::new(false),
            began: OnceCell::new(),
            turn: Mutex::default(),
            is_loading: AtomicBool::new(false),
            initial: OnceCell::new(),
        }
    }

    /// Has a call run to its end, whoever waits for it; what it came to.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, NoOutcome> {
        Calls::outcome(self.spawn(call)?).await
    }

    /// Has a call run for itself.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<JoinHandle<T>, NoOutcome> {
        let under_way = UnderWay::new(&self.under_way);
        self.calls.spawn(async move {
            let _under_way = under_way;
            call.await
        })
    }

    pub(crate) fn config(&self) -> &MapStoreConfig {
        &self.given.config
    }

    /// Whether everything is loaded at once.
    pub(crate) fn is_eager(&self) -> bool {
        self.given.config.initial_mode == InitialMode::Eager
    }

    /// Whether everything is to be loaded, as that has not begun yet.
    pub(crate) fn begins_initial_load(&self) -> bool {
        !self.is_loading.swap(true, Ordering::Relaxed)
    }

    /// Whether changes are stored.
    pub(crate) fn stores(&self) -> bool {
        self.given.store.is_some()
    }

    /// What loads, and what stores, where anything does, once it was told of its beginning.
    pub(crate) async fn ready(&self, map: &str) -> Result<Ready<'_>, Refused> {
        self.began.get_or_try_init(|| self.begin(map)).await?;
        self.has_not_ended()?;
        Ok((&*self.given.loader, self.given.store.as_deref()))
    }

    /// Tells the database of its beginning, once a map of the same name that was destroyed is done with it.
    async fn begin(&self, map: &str) -> Result<(), Refused> {
        let turn = Arc::clone(&self.given.turn).acquire_owned().await.expect("never closed");
        self.has_not_ended()?;
        self.given.loader.init(&self.given.config.properties, map).await?;
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(turn);
        Ok(())
    }

    fn has_not_ended(&self) -> Result<(), Refused> {
        match self.has_ended.load(Ordering::SeqCst) {
            true => Err(Refused::Own("it has ended, and its map is gone".into())),
            false => Ok(()),
        }
    }

    /// Tells the database of its end, if it ever was told of its beginning, once nothing is under way.
    pub(crate) fn end(self: &Arc<Self>) {
        self.has_ended.store(true, Ordering::SeqCst);
        if let Some(behind) = &self.behind {
            behind.stop();
            if behind.waiting() > 0 {
                tracing::info!(
                    changes = behind.waiting(),
                    "wait for their database until a restart"
                );
            }
        }
        if !self.began.initialized() && *self.under_way.borrow() == 0 {
            return;
        }
        let backing = Arc::clone(self);
        let ended = self.calls.spawn(async move {
            let _ = backing.under_way.subscribe().wait_for(|under_way| *under_way == 0).await;
            if backing.began.initialized() {
                backing.given.loader.destroy().await;
            }
            drop(backing.turn.lock().unwrap_or_else(PoisonError::into_inner).take());
        });
        if ended.is_err() {
            tracing::warn!("a map store is not told of its end: nothing runs any more");
        }
    }
}

/// A call under way.
struct UnderWay(watch::Sender<u64>);

impl UnderWay {
    fn new(count: &watch::Sender<u64>) -> UnderWay {
        count.send_modify(|count| *count += 1);
        UnderWay(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
