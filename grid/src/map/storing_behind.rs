//! Changes of a map that reach the user's database later: told by workers, in batches.
//!
//! Invariants: those of `map_store/behind/` and `map_store/queue.rs`. A worker's batch has each key once,
//! so in which order its calls are made is no matter. What a batch's call refuses is told one by one; what
//! is refused by itself waits longer each time, and is set aside when the database takes others meanwhile.
//! Where the first few of a batch are refused and none is taken, the rest is not tried: the database may be
//! down. That waits, too; other batches are tried, so who is refused holds up nobody for long.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};

use super::Map;
use super::core::MapCore;
use super::op::Op;
use crate::data::{PartitionId, Serial};
use crate::error::MapError;
use crate::map_store::{AnyStore, Away, Behind, BehindChange, NotChanged, message, until};
use crate::user::Refused;

/// Refusals of single changes, of a batch of which none was taken, after which the rest is not tried.
const DOWN_AFTER: u32 = 3;

/// How long a worker sleeps at most.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// How long a change waits for room among those that wait for the database: as long as the map says, and no
/// longer than its caller.
#[derive(Debug, Default)]
pub(crate) struct RoomWait {
    began: Option<Instant>,
    deadline_ms: Option<u64>,
    /// Whether the caller's time is over before the map's.
    pub(super) is_deadline: bool,
}

impl RoomWait {
    /// Until then (monotonic), if there is an end.
    pub(super) fn until(deadline_ms: Option<u64>) -> RoomWait {
        RoomWait { deadline_ms, ..RoomWait::default() }
    }
}

/// Whether a change found no room among those that wait for the database, and nothing was changed.
pub(super) fn is_full<T>(changed: &Result<T, MapError>) -> bool {
    matches!(changed, Err(MapError::MapStoreFull { .. }))
}

impl MapCore {
    /// What of this map's changes waits, where any does.
    pub(super) fn behind(&self) -> Option<&Behind> {
        self.backing.as_ref()?.behind.as_ref()
    }

    /// The same, where changes are to wait.
    pub(super) fn deferring(&self) -> Option<&Behind> {
        self.behind().filter(|behind| behind.defers)
    }

    /// What of an operation is to wait for the database.
    pub(super) fn behind_of(&self, op: &Op<'_>) -> Option<&Behind> {
        self.deferring().filter(|_| op.is_stored())
    }

    /// Whether a change of a map over a database has to do with it before it is done.
    pub(super) fn must_ask_database(&self, key: &[u8], op: &Op<'_>) -> bool {
        let is_there = || matches!(self.read(key, |_| Ok(())), Ok(Some(())));
        self.deferring().is_none() || op.asks_database() && !is_there()
    }

    /// Does a change in memory, and has it wait. Whether the key was there.
    pub(super) fn change_behind(
        &self,
        behind: &Behind,
        (partition, key): (PartitionId, &[u8]),
        entry: Option<(&[u8], Option<u64>, &[u8])>,
    ) -> Result<bool, MapError> {
        let (part, stream) = (self.part(partition), super::core::stream_of(partition));
        let changed = behind.change(&BehindChange { part, stream, partition, key, entry });
        changed.map_err(|source| match source {
            NotChanged::Full => self.full(behind, Duration::ZERO),
            NotChanged::Refused(source) => self.refused(source),
        })
    }

    /// Waits until more changes may wait, which somebody else's may do then; `wait` is what one change has
    /// waited.
    pub(super) async fn await_room(self: &Arc<Self>, wait: &mut RoomWait) -> Result<(), MapError> {
        let waited = wait.began.get_or_insert_with(Instant::now).elapsed();
        let mut at_most = self.backing().config().write_room_timeout.saturating_sub(waited);
        if let Some(deadline_ms) = wait.deadline_ms {
            let left_ms = deadline_ms.saturating_sub(self.clock.monotonic_ms());
            wait.is_deadline = Duration::from_millis(left_ms) < at_most;
            at_most = at_most.min(Duration::from_millis(left_ms));
        }
        let core = Arc::clone(self);
        self.in_background(async move {
            let behind = core.deferring().expect("only what is to wait finds no room");
            let room = until(behind, || !behind.is_full() || behind.is_stopped());
            match tokio::time::timeout(at_most, room).await {
                Ok(()) if behind.is_stopped() => Err(core.gone()),
                Ok(()) => Ok(()),
                Err(_) => Err(core.full(behind, waited + at_most)),
            }
        })
        .await
    }

    fn full(&self, behind: &Behind, waited: Duration) -> MapError {
        MapError::MapStoreFull { map: self.name.clone(), waiting: behind.waiting(), waited }
    }

    /// Starts those who tell the database.
    pub(crate) fn start_workers(self: &Arc<Self>) {
        if self.behind().is_none() {
            return;
        }
        for _ in 0..self.backing().config().write_workers.get() {
            let core = Arc::clone(self);
            if let Err(outcome) = self.backing().spawn(async move { core.tell_database().await }) {
                tracing::error!(error = %self.no_outcome(outcome), "nobody tells the database");
            }
        }
    }

    /// Has them look at the time.
    pub(crate) fn wake_workers(&self) {
        if let Some(behind) = self.behind() {
            behind.wake.notify_waiters();
        }
    }

    async fn tell_database(self: &Arc<Self>) {
        let behind = self.behind().expect("asked by who knows that there is one");
        while !behind.is_stopped() {
            let now_ms = self.clock.monotonic_ms();
            let batch = behind.take(self.backing().config().batch_size.get());
            if batch.is_empty() {
                let due_ms = behind.next_due_ms().unwrap_or(u64::MAX);
                sleep(behind, due_ms.saturating_sub(now_ms)).await;
                continue;
            }
            if behind.next_due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
                behind.wake.notify_one();
            }
            self.tell_batch(behind, batch).await;
        }
    }

    async fn tell_batch(self: &Arc<Self>, behind: &Behind, batch: Vec<Away>) {
        let begun = AssertUnwindSafe(self.backing().ready(&self.name)).catch_unwind().await;
        let store = match begun {
            Ok(Ok((_, Some(store)))) => store,
            Ok(Ok((_, None))) => unreachable!("nothing waits where nothing stores"),
            failed => {
                let why =
                    failed.map_or_else(|panic| message(&*panic), |begun| why_not(begun.err()));
                tracing::warn!(map = self.name, why, "changes wait for their database");
                return behind.give_back(&batch);
            }
        };
        let (stored, deleted): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|away| away.value.is_some());
        self.tell_part(behind, store, deleted).await;
        self.tell_part(behind, store, stored).await;
    }

    /// Tells the database changes of one kind.
    async fn tell_part(self: &Arc<Self>, behind: &Behind, store: &dyn AnyStore, part: Vec<Away>) {
        let may_be_told_at_once = part.len() > 1
            && (!store.post_processes() || part.iter().all(|away| away.value.is_none()));
        if may_be_told_at_once && told(tell_all(store, &part)).await.is_ok() {
            behind.note_taken();
            return self.forget_told(part).await;
        }
        let (mut rest, mut refused, mut is_up) = (part.into_iter(), 0, false);
        while !behind.is_stopped() && (is_up || refused < DOWN_AFTER) {
            let Some(away) = rest.next() else { break };
            match told(tell_one(store, &away)).await {
                Ok(()) => {
                    behind.note_taken();
                    is_up = true;
                    self.forget_told(vec![away]).await;
                }
                Err(why) => {
                    tracing::warn!(map = self.name, why, "the database refuses a change");
                    refused += 1;
                    match behind.is_outdated(&away) {
                        true => self.on_threads(move |behind| behind.refused(&away, &why)).await,
                        false => behind.refused(&away, &why),
                    }
                }
            }
        }
        if rest.len() > 0 {
            behind.give_back(rest.as_slice());
        }
    }

    /// Removes the records of what the database has taken.
    async fn forget_told(self: &Arc<Self>, told: Vec<Away>) {
        self.on_threads(move |behind| behind.stored(&told)).await;
    }

    /// Has records be removed where waiting for the log holds up no call.
    async fn on_threads(self: &Arc<Self>, remove: impl FnOnce(&Behind) + Send + 'static) {
        let core = Arc::clone(self);
        let remove = move || remove(core.behind().expect("as before"));
        if let Err(error) = tokio::task::spawn_blocking(remove).await {
            tracing::warn!(%error, "what was told may be told again after a restart");
        }
    }

    /// The database has taken what was written through: it is not down, whatever it refuses.
    pub(super) fn note_taken(&self) {
        if let Some(behind) = self.behind() {
            behind.note_taken();
        }
    }

    /// Waits until the database has heard what waits of a key from when the map was written behind: what is
    /// written through comes after it.
    pub(super) async fn await_older(
        &self,
        (partition, key): (PartitionId, &[u8]),
    ) -> Result<(), MapError> {
        let Some(behind) = self.behind().filter(|behind| !behind.defers) else { return Ok(()) };
        let is_settled = || behind.is_settled(partition, key);
        if matches!(is_settled(), Ok(true)) {
            return Ok(());
        }
        behind.hurry();
        let at_most = self.backing().config().write_room_timeout;
        let settled = until(behind, || behind.is_stopped() || !matches!(is_settled(), Ok(false)));
        // Whether in time or not: what is the case then decides.
        let _ = tokio::time::timeout(at_most, settled).await;
        let why = match is_settled() {
            Ok(true) => return Ok(()),
            _ if behind.is_stopped() => return Err(self.gone()),
            Err(why) => format!(
                "a change of this key that waited is set aside, as the database refused it ({why}): \
                 retry_dead_letters() or drop_dead_letters() first"
            ),
            Ok(false) => {
                format!("an older change of this key waits, and was not taken within {at_most:?}")
            }
        };
        Err(self.not_done(("store", Refused::Own(why.into())), Some(key)))
    }

    /// Waits until everything that waits now is stored. How many changes are set aside.
    pub(super) async fn flush(self: &Arc<Self>) -> Result<u64, MapError> {
        let Some(behind) = self.behind() else { return Ok(0) };
        let numbers = behind.hurry();
        let core = Arc::clone(self);
        self.in_background(async move {
            let behind = core.behind().expect("as before");
            until(behind, || behind.is_stopped() || behind.is_stored_below(&numbers)).await;
            if behind.is_stopped() {
                return Err(core.gone());
            }
            Ok(behind.held_up_count())
        })
        .await
    }
}

async fn sleep(behind: &Behind, at_most_ms: u64) {
    let at_most = Duration::from_millis(at_most_ms.max(1)).min(LOOKS_EVERY);
    let (woken, passed) = (std::pin::pin!(behind.wake.notified()), tokio::time::sleep(at_most));
    future::select(woken, std::pin::pin!(passed)).await;
}

fn tell_one<'a>(store: &'a dyn AnyStore, away: &'a Away) -> BoxFuture<'a, Result<(), Refused>> {
    match &away.value {
        Some(value) => store.store(&away.due.key, value).map(|stored| stored.map(drop)).boxed(),
        None => store.delete(&away.due.key),
    }
}

async fn tell_all(store: &dyn AnyStore, part: &[Away]) -> Result<(), Refused> {
    if part.iter().all(|away| away.value.is_none()) {
        let keys: Vec<_> = part.iter().map(|away| away.due.key.to_vec()).collect();
        return store.delete_all(&keys).await;
    }
    let both = |away: &Away| Some((away.due.key.to_vec(), away.value.clone()?));
    let entries: Vec<_> = part.iter().filter_map(both).collect();
    store.store_all(&entries).await
}

/// What a call came to, also where it panics.
async fn told(call: impl Future<Output = Result<(), Refused>>) -> Result<(), String> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(refused)) => Err(why_not(Some(refused))),
        Err(panic) => Err(format!("it panicked: {}", message(&*panic))),
    }
}

fn why_not(refused: Option<Refused>) -> String {
    match refused {
        Some(Refused::Own(error)) => error.to_string(),
        Some(Refused::Data(error)) => error.to_string(),
        None => String::new(),
    }
}

/// A change that the database refused again and again, while it took others.
pub struct DeadLetter<K: Serial, V: Serial> {
    /// The key.
    pub key: K::Owned,
    /// The value that it was to get; `None` where it was to go.
    pub value: Option<V::Owned>,
    /// Why the database refused it last.
    pub error: String,
}

impl<K: Serial, V: Serial> std::fmt::Debug for DeadLetter<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetter").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<K: Serial, V: Serial> Map<K, V> {
    /// Waits until the database has every change that waits for it now, each as soon as it can be; for ever,
    /// while the database is down. How many changes are not waited for: those that are set aside
    /// ([`Map::dead_letters`]), and later ones of the same keys. At once where changes do not wait.
    ///
    /// # Errors
    /// [`MapError::Gone`] when the member stops meanwhile.
    pub async fn flush(&self) -> Result<u64, MapError> {
        self.core.flush().await
    }

    /// Changes that are set aside: refused [`crate::MapStoreConfig::refusals_max`] times while the database
    /// took others. They are not tried again until [`Map::retry_dead_letters`], the key's next change, or a
    /// restart; what the map has for the key stays as it is.
    ///
    /// # Errors
    /// [`MapError::Data`] for bytes of another type.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter<K, V>>, MapError> {
        let aside = self.core.behind().map(Behind::aside).unwrap_or_default();
        let letters = aside.into_iter().map(|(away, why)| {
            let key = crate::user::read::<K>(&away.due.key);
            let key = key.map_err(|source| self.core.bad_data(source))?;
            Ok(DeadLetter { key, value: self.read_found(away.value)?, error: why.to_string() })
        });
        letters.collect()
    }

    /// Has what is set aside be tried again. How many changes that are.
    pub fn retry_dead_letters(&self) -> u64 {
        self.core.behind().map_or(0, Behind::try_again)
    }

    /// Gives up what is set aside: the database keeps what it has, and the map what it has. How many changes
    /// that were.
    pub fn drop_dead_letters(&self) -> u64 {
        let Some(behind) = self.core.behind() else { return 0 };
        behind.aside().iter().filter(|(away, _)| behind.drop_aside(away)).count() as u64
    }
}
