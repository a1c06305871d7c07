//! The same maps for threads that may wait: each call returns when it is done.
//!
//! An operation that need not wait is done at the first poll, which costs nothing; else the thread sleeps.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Entry, EntryView, Lifetime, Map};
use crate::data::Serial;
use crate::error::MapError;

/// A map whose calls block the thread; made by [`Map::blocking`]. Not for the threads of an asynchronous
/// runtime.
pub struct Blocking<'a, K: Serial, V: Serial> {
    map: &'a Map<K, V>,
}

impl<K: Serial, V: Serial> std::fmt::Debug for Blocking<'_, K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Blocking").field(&self.map).finish()
    }
}

impl<K: Serial, V: Serial> Map<K, V> {
    /// The same map, and the same caller, for a thread that may wait.
    ///
    /// ```
    /// # use hdgrid::{Member, data::Natural};
    /// # let dir = tempfile::tempdir()?;
    /// # let member = Member::builder(dir.path()).start()?;
    /// let map = member.map::<Natural<String>, Natural<i64>>("stock")?;
    /// let map = map.blocking();
    /// assert_eq!(map.put(&"tea".to_owned(), &9)?, None);
    /// assert_eq!(map.put(&"tea".to_owned(), &8)?, Some(9));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn blocking(&self) -> Blocking<'_, K, V> {
        Blocking { map: self }
    }
}

/// What a future comes to, on this thread.
#[inline]
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        // Polled again, it leaves a waker that works.
        Poll::Pending => pollster::block_on(future),
    }
}

macro_rules! blocking {
    ($($(#[$attribute:meta])* $name:ident($($argument:ident: $type:ty),*) -> $output:ty;)*) => {
        impl<K: Serial, V: Serial> Blocking<'_, K, V> {
            $(
                #[doc = concat!("As [`Map::", stringify!($name), "`].")]
                ///
                /// # Errors
                /// [`MapError`].
                $(#[$attribute])*
                #[inline]
                pub fn $name(&self, $($argument: $type),*) -> Result<$output, MapError> {
                    wait(self.map.$name($($argument),*))
                }
            )*
        }
    };
}

impl<K: Serial, V: Serial> Blocking<'_, K, V> {
    /// As [`Map::execute_on_key`].
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "executeOnKey")]
    pub fn execute_on_key<R>(
        &self,
        key: &K::Encode,
        process: impl FnOnce(&mut Entry<'_, K, V>) -> R,
    ) -> Result<R, MapError> {
        wait(self.map.execute_on_key(key, process))
    }

    /// As [`Map::execute_on_keys`].
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "executeOnKeys")]
    pub fn execute_on_keys<R>(
        &self,
        keys: &[&K::Encode],
        process: impl FnMut(&mut Entry<'_, K, V>) -> R,
    ) -> Result<Vec<R>, MapError> {
        wait(self.map.execute_on_keys(keys, process))
    }

    /// As [`Map::execute_on_entries`].
    ///
    /// # Errors
    /// [`MapError`].
    #[doc(alias = "executeOnEntries")]
    pub fn execute_on_entries<R>(
        &self,
        filter: impl Fn(&K::Encode, &V::Owned) -> bool,
        process: impl FnMut(&mut Entry<'_, K, V>) -> R,
    ) -> Result<Vec<(K::Owned, R)>, MapError> {
        wait(self.map.execute_on_entries(filter, process))
    }
}

blocking! {
    get(key: &K::Encode) -> Option<V::Owned>;
    #[doc(alias = "containsKey")]
    contains_key(key: &K::Encode) -> bool;
    put(key: &K::Encode, value: &V::Encode) -> Option<V::Owned>;
    put_with(key: &K::Encode, value: &V::Encode, lifetime: Lifetime) -> Option<V::Owned>;
    set(key: &K::Encode, value: &V::Encode) -> ();
    set_with(key: &K::Encode, value: &V::Encode, lifetime: Lifetime) -> ();
    #[doc(alias = "tryPut")]
    try_put(key: &K::Encode, value: &V::Encode, timeout: Duration) -> bool;
    #[doc(alias = "putIfAbsent")]
    put_if_absent(key: &K::Encode, value: &V::Encode) -> Option<V::Owned>;
    put_if_absent_with(key: &K::Encode, value: &V::Encode, lifetime: Lifetime) -> Option<V::Owned>;
    replace(key: &K::Encode, value: &V::Encode) -> Option<V::Owned>;
    #[doc(alias = "replace")]
    replace_if_same(key: &K::Encode, expected: &V::Encode, value: &V::Encode) -> bool;
    remove(key: &K::Encode) -> Option<V::Owned>;
    delete(key: &K::Encode) -> bool;
    #[doc(alias = "remove")]
    remove_if_same(key: &K::Encode, expected: &V::Encode) -> bool;
    #[doc(alias = "tryRemove")]
    try_remove(key: &K::Encode, timeout: Duration) -> bool;
    #[doc(alias = "setTtl")]
    set_ttl(key: &K::Encode, ttl: Duration) -> bool;
    #[doc(alias = "getEntryView")]
    get_entry_view(key: &K::Encode) -> Option<EntryView<V::Owned>>;
    #[doc(alias = "getAll")]
    get_all(keys: &[&K::Encode]) -> Vec<Option<V::Owned>>;
    #[doc(alias = "setAll")]
    set_all(entries: &[(&K::Encode, &V::Encode)]) -> ();
    #[doc(alias = "loadAll")]
    load_all(replaces: bool) -> u64;
    #[doc(alias = "loadAll")]
    load_keys(keys: &[&K::Encode], replaces: bool) -> u64;
    loaded() -> u64;
    flush() -> u64;
    evict(key: &K::Encode) -> bool;
    #[doc(alias = "evictAll")]
    evict_all() -> u64;
    clear() -> u64;
    compute(key: &K::Encode, compute: impl FnOnce(Option<V::Owned>) -> Option<V::Owned>) -> Option<V::Owned>;
    #[doc(alias = "computeIfAbsent")]
    compute_if_absent(key: &K::Encode, compute: impl FnOnce() -> Option<V::Owned>) -> Option<V::Owned>;
    #[doc(alias = "computeIfPresent")]
    compute_if_present(
        key: &K::Encode,
        compute: impl FnOnce(V::Owned) -> Option<V::Owned>
    ) -> Option<V::Owned>;
    merge(
        key: &K::Encode,
        value: V::Owned,
        merge: impl FnOnce(V::Owned, V::Owned) -> Option<V::Owned>
    ) -> Option<V::Owned>;
    #[doc(alias = "replaceAll")]
    replace_all(replace: impl FnMut(&K::Encode, V::Owned) -> V::Owned) -> ();
    lock(key: &K::Encode) -> ();
    #[doc(alias = "lock")]
    lock_with_lease(key: &K::Encode, lease: Duration) -> ();
    #[doc(alias = "tryLock")]
    try_lock(key: &K::Encode, timeout: Duration) -> bool;
    #[doc(alias = "tryLock")]
    try_lock_with_lease(key: &K::Encode, timeout: Duration, lease: Duration) -> bool;
}
