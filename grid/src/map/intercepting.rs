//! Interceptors: a user's code that sees each value on its way in and out, and may replace or refuse it.
//!
//! Invariant: what an interceptor sees as the value before is what its change replaces: the key is claimed
//! while it runs, under no lock. When it refuses or panics nothing has changed, and the key is free. A change
//! that begins when `add_interceptor` has returned is intercepted, whoever makes it. Without interceptors a
//! change or a get costs one look at an atomic.

use std::error::Error;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::Map;
use super::core::MapCore;
use super::foresight::{Decided, Stored, What};
use crate::data::{DataError, Serial};
use crate::error::MapError;
use crate::record::NewValue;
use crate::scratch::Scratch;
use crate::user::{Refused, read, stored};

/// Why an interceptor refuses.
pub type InterceptorError = Box<dyn Error + Send + Sync>;

/// A user's code that sees each value on its way in and out; added by [`Map::add_interceptor`]. Those of a
/// map are asked in the order in which they were added, each with what the one before made of the value.
///
/// It is called on the caller's thread, where the operation is polled, also where the map has a database: it
/// may take its time, and ask its own map for other keys. While a change is decided others wait for the key,
/// which it must not change itself. Only of a change whose caller goes away when its database has been told
/// it hears (`after_put`, `after_remove`) on a thread of the runtime that may block. Over a database
/// [`Map::set_all`] stores the entries of a map with interceptors one by one, so that no other key is held
/// while one is decided. An error refuses the operation: [`MapError::Intercepted`], and nothing changed. A
/// panic is the caller's; what had changed by then stays changed, and interceptors after it do not hear of
/// it.
#[doc(alias = "MapInterceptor")]
pub trait Interceptor<K: Serial, V: Serial>: Send + Sync + 'static {
    /// What a get is given instead of the value that is there, or instead of none.
    ///
    /// # Errors
    /// What the get then fails with.
    fn intercept_get(
        &self,
        _key: &K::Owned,
        value: Option<V::Owned>,
    ) -> Result<Option<V::Owned>, InterceptorError> {
        Ok(value)
    }

    /// A get is about to return this.
    fn after_get(&self, _key: &K::Owned, _value: Option<&V::Owned>) {}

    /// What is put instead of `new`, where `old` is the value before.
    ///
    /// # Errors
    /// What the put then fails with.
    fn intercept_put(
        &self,
        _key: &K::Owned,
        _old: Option<V::Owned>,
        new: V::Owned,
    ) -> Result<V::Owned, InterceptorError> {
        Ok(new)
    }

    /// This was put.
    fn after_put(&self, _key: &K::Owned, _new: &V::Owned) {}

    /// What a removal returns instead of the value that it removes.
    ///
    /// # Errors
    /// What the removal then fails with; the entry stays.
    fn intercept_remove(
        &self,
        _key: &K::Owned,
        removed: V::Owned,
    ) -> Result<Option<V::Owned>, InterceptorError> {
        Ok(Some(removed))
    }

    /// This was removed.
    fn after_remove(&self, _key: &K::Owned, _removed: &V::Owned) {}
}

/// An interceptor among a map's: never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct InterceptorId(u64);

/// An interceptor of stored forms.
trait OfBytes: Send + Sync {
    fn get(&self, key: &[u8], value: Stored) -> Result<Stored, Refused>;
    fn after_get(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DataError>;
    fn put(&self, key: &[u8], old: Option<&[u8]>, new: &[u8]) -> Result<Vec<u8>, Refused>;
    fn after_put(&self, key: &[u8], new: &[u8]) -> Result<(), DataError>;
    fn remove(&self, key: &[u8], removed: &[u8]) -> Result<Stored, Refused>;
    fn after_remove(&self, key: &[u8], removed: &[u8]) -> Result<(), DataError>;
}

struct Typed<I, K, V> {
    interceptor: I,
    types: PhantomData<fn(K) -> V>,
}

impl<I: Interceptor<K, V>, K: Serial, V: Serial> OfBytes for Typed<I, K, V> {
    fn get(&self, key: &[u8], value: Stored) -> Result<Stored, Refused> {
        let value = value.as_deref().map(read::<V>).transpose()?;
        let instead = self.interceptor.intercept_get(&read::<K>(key)?, value);
        Ok(instead.map_err(Refused::Own)?.as_ref().map(stored::<V>).transpose()?)
    }

    fn after_get(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), DataError> {
        let value = value.map(read::<V>).transpose()?;
        self.interceptor.after_get(&read::<K>(key)?, value.as_ref());
        Ok(())
    }

    fn put(&self, key: &[u8], old: Option<&[u8]>, new: &[u8]) -> Result<Vec<u8>, Refused> {
        let (old, new) = (old.map(read::<V>).transpose()?, read::<V>(new)?);
        let instead = self.interceptor.intercept_put(&read::<K>(key)?, old, new);
        Ok(stored::<V>(&instead.map_err(Refused::Own)?)?)
    }

    fn after_put(&self, key: &[u8], new: &[u8]) -> Result<(), DataError> {
        self.interceptor.after_put(&read::<K>(key)?, &read::<V>(new)?);
        Ok(())
    }

    fn remove(&self, key: &[u8], removed: &[u8]) -> Result<Stored, Refused> {
        let instead = self.interceptor.intercept_remove(&read::<K>(key)?, read::<V>(removed)?);
        Ok(instead.map_err(Refused::Own)?.as_ref().map(stored::<V>).transpose()?)
    }

    fn after_remove(&self, key: &[u8], removed: &[u8]) -> Result<(), DataError> {
        self.interceptor.after_remove(&read::<K>(key)?, &read::<V>(removed)?);
        Ok(())
    }
}

type Chain = Vec<(InterceptorId, Arc<dyn OfBytes>)>;

/// The interceptors of a map.
#[derive(Default)]
pub(crate) struct Interceptors {
    are_there: AtomicBool,
    chain: ArcSwap<Chain>,
    /// Taken by who adds and removes.
    changing: Mutex<()>,
    next: AtomicU64,
}

impl Interceptors {
    #[inline]
    pub(super) fn are_there(&self) -> bool {
        self.are_there.load(Ordering::Relaxed)
    }

    /// Lets all of them go.
    pub(crate) fn remove_all(&self) {
        self.change(Vec::clear);
    }

    /// Changes the chain. Whether it is of another length.
    fn change(&self, change: impl FnOnce(&mut Chain)) -> bool {
        let guard = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut chain = Chain::clone(&self.chain.load());
        let before = chain.len();
        change(&mut chain);
        let after = chain.len();
        let replaced = self.chain.swap(Arc::new(chain));
        self.are_there.store(after > 0, Ordering::Relaxed);
        drop(guard);
        // A user's code may go with it.
        drop(replaced);
        before != after
    }
}

impl MapCore {
    /// Has the interceptors make of an entry of which nothing else is known what is to be put.
    pub(super) fn intercept_put(
        &self,
        key: &[u8],
        old: Option<&[u8]>,
        entry: &mut Scratch,
    ) -> Result<(), MapError> {
        for (_, one) in self.interceptors.chain.load_full().iter() {
            let new = one.put(key, old, NewValue::new(entry).stored());
            let new = new.map_err(|source| self.no_answer(source))?;
            entry.truncate(1);
            entry.extend_from_slice(&new);
        }
        Ok(())
    }

    /// What is returned of what is to be removed.
    pub(super) fn intercept_remove(&self, key: &[u8], removed: Stored) -> Result<Stored, MapError> {
        let mut returned = removed;
        for (_, one) in self.interceptors.chain.load_full().iter() {
            let Some(value) = returned.take() else { break };
            returned = one.remove(key, &value).map_err(|source| self.no_answer(source))?;
        }
        Ok(returned)
    }

    /// Tells the interceptors that it is done.
    pub(super) fn intercept_after(&self, key: &[u8], done: &Decided) {
        if !self.interceptors.are_there() {
            return;
        }
        for (_, one) in self.interceptors.chain.load_full().iter() {
            let told = match (&done.what, &done.old) {
                (What::Put(entry, _), _) => one.after_put(key, NewValue::new(entry).stored()),
                (What::Remove(..), Some(removed)) => one.after_remove(key, removed),
                (What::Remove(..), None) => return,
            };
            self.note_untold(told);
        }
    }

    /// What the interceptors make of what a get has found.
    pub(super) fn intercept_get(&self, key: &[u8], found: Stored) -> Result<Stored, MapError> {
        let chain = self.interceptors.chain.load_full();
        let mut value = found;
        for (_, one) in chain.iter() {
            value = one.get(key, value).map_err(|source| self.no_answer(source))?;
        }
        for (_, one) in chain.iter() {
            self.note_untold(one.after_get(key, value.as_deref()));
        }
        Ok(value)
    }

    fn note_untold(&self, told: Result<(), DataError>) {
        if let Err(error) = told {
            tracing::warn!(map = self.name, %error, "an interceptor was not told what was done");
        }
    }

    fn no_answer(&self, source: Refused) -> MapError {
        match source {
            Refused::Data(source) => self.bad_data(source),
            Refused::Own(source) => MapError::Intercepted { map: self.name.clone(), source },
        }
    }
}

impl<K: Serial, V: Serial> Map<K, V> {
    /// Has an interceptor see each value that is put, got or removed by its key, whichever handle it is
    /// done by, entry processors and [`Map::evict`] included. Walks, [`Map::contains_key`],
    /// [`Map::get_entry_view`], [`Map::clear`], [`Map::evict_all`] and expiry ask no interceptor.
    ///
    /// ```
    /// use hdgrid::{Interceptor, InterceptorError, MapError, Member, data::Natural};
    /// # let dir = tempfile::tempdir()?;
    /// # let member = Member::builder(dir.path()).start()?;
    /// struct NoDebts;
    /// impl Interceptor<Natural<String>, Natural<i64>> for NoDebts {
    ///     fn intercept_put(
    ///         &self,
    ///         name: &String,
    ///         _: Option<i64>,
    ///         new: i64,
    ///     ) -> Result<i64, InterceptorError> {
    ///         if new < 0 { Err(format!("{name} cannot owe us {}", -new).into()) } else { Ok(new) }
    ///     }
    /// }
    /// let map = member.map::<Natural<String>, Natural<i64>>("accounts")?;
    /// map.add_interceptor(NoDebts)?;
    /// let refused = map.blocking().set(&"Ada".to_owned(), &-5);
    /// assert!(matches!(refused, Err(MapError::Intercepted { .. })));
    /// assert_eq!(map.blocking().get(&"Ada".to_owned())?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`MapError::Gone`].
    #[doc(alias = "addInterceptor")]
    pub fn add_interceptor(
        &self,
        interceptor: impl Interceptor<K, V>,
    ) -> Result<InterceptorId, MapError> {
        let interceptors = &self.core.interceptors;
        let id = InterceptorId(interceptors.next.fetch_add(1, Ordering::Relaxed));
        let typed = Typed::<_, K, V> { interceptor, types: PhantomData };
        interceptors.change(|chain| chain.push((id, Arc::new(typed))));
        if self.core.is_gone.load(Ordering::Acquire) {
            self.remove_interceptor(id);
            return Err(self.core.gone());
        }
        self.core.pass_partitions();
        Ok(id)
    }

    /// Has an interceptor see nothing more; it may be at work still. Whether it was there.
    #[doc(alias = "removeInterceptor")]
    pub fn remove_interceptor(&self, id: InterceptorId) -> bool {
        self.core.interceptors.change(|chain| chain.retain(|(other, _)| *other != id))
    }
}
