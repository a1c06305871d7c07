//! Reading one key, and walking over all.

use super::Map;
use super::guard::Ref;
use crate::codec::Codec;
use crate::error::Error;
use crate::log::Log;
use crate::store::iter::Walk;

impl<K: Codec, V: Codec, L: Log> Map<K, V, L> {
    /// The entry of a key, without a copy, for as long as the guard lives.
    ///
    /// # Errors
    /// [`Error::Codec`] when the key has no encoding; [`Error::Dropped`]; [`Error::NoStream`].
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, codec::{Str, Bytes}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Str, Bytes>("m", MapOptions::default())?;
    /// map.insert("a", b"old")?;
    /// let guard = map.get("a")?.expect("it is there");
    /// map.insert("a", b"new")?;
    /// assert_eq!(guard.value()?, b"old", "a guard keeps what it found");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn get(&self, key: &K::Encode) -> Result<Option<Ref<'_, K, V>>, Error> {
        self.core.check()?;
        let key = K::encode(key)?;
        Ok(self.inner.hold(&self.core, self.stream_of(&key)?, &key).map(Ref::new))
    }

    /// Calls `look` with the bytes of a key's value. The cheapest way to read: nothing is copied or
    /// published. The value's memory is held back while `look` runs, so it should be short.
    ///
    /// # Errors
    /// [`Error::Codec`] when the key has no encoding; [`Error::Dropped`]; [`Error::NoStream`].
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, codec::{Str, Bytes}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Str, Bytes>("m", MapOptions::default())?;
    /// map.insert("a", b"value")?;
    /// assert_eq!(map.get_with("a", <[u8]>::len)?, Some(5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn get_with<R>(
        &self,
        key: &K::Encode,
        look: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, Error> {
        self.core.check()?;
        let key = K::encode(key)?;
        let stream = self.stream_of(&key)?;
        Ok(self.inner.read(&self.core, stream, &key, |view| look(view.value())))
    }

    /// A copy of a key's value.
    ///
    /// # Errors
    /// [`Error::Codec`] when the key has no encoding, or the bytes are not a value of this type;
    /// [`Error::Dropped`]; [`Error::NoStream`].
    pub fn get_owned(&self, key: &K::Encode) -> Result<Option<V::Owned>, Error> {
        self.get_with(key, V::decode_owned)?.transpose()
    }

    /// Copies a key's value to the front of `buffer` and returns its length in bytes; `None` when the key is
    /// absent. When the buffer is too short nothing is copied, and the length returned is longer than the
    /// buffer.
    ///
    /// # Errors
    /// [`Error::Codec`] when the key has no encoding; [`Error::Dropped`]; [`Error::NoStream`].
    pub fn copy_to(&self, key: &K::Encode, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        self.get_with(key, |value| {
            if let Some(front) = buffer.get_mut(..value.len()) {
                front.copy_from_slice(value);
            }
            value.len()
        })
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// [`Error::Codec`] when the key has no encoding; [`Error::Dropped`]; [`Error::NoStream`].
    pub fn contains_key(&self, key: &K::Encode) -> Result<bool, Error> {
        self.get_with(key, |_| ()).map(|found| found.is_some())
    }

    /// The number of entries, of a handle of one stream there; expired ones count until they are swept. Reads
    /// one word per stream.
    #[doc(alias = "size")]
    pub fn len(&self) -> u64 {
        self.inner.map_entries(&self.core, self.range())
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the map holds and costs.
    pub fn stats(&self) -> crate::MapStats {
        self.inner.map_stats(&self.core, self.range())
    }

    /// Walks over all entries, in no order. An entry that is there all the time is seen exactly once, with
    /// one of the values that it has meanwhile; one that comes or goes meanwhile may be seen or not. A key
    /// that is removed and put again is another entry, and may stand elsewhere: it may be seen once, twice or
    /// not at all, also when one [`Group`](crate::Group) does both.
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, codec::U64};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<U64, U64>("squares", MapOptions::default())?;
    /// for n in 0..100 {
    ///     map.insert(&n, &(n * n))?;
    /// }
    /// let mut sum = 0;
    /// for entry in map.iter() {
    ///     sum += entry.value()?;
    /// }
    /// assert_eq!(sum, 328_350);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> Iter<'_, K, V, L> {
        let walk = Walk::new(&self.inner, &self.core, self.range());
        Iter { walk, types: std::marker::PhantomData }
    }
}

/// A walk over a map; made by [`Map::iter`].
pub struct Iter<'a, K: Codec, V: Codec, L: Log> {
    walk: Walk<'a, L>,
    types: std::marker::PhantomData<fn() -> (K, V)>,
}

impl<'a, K: Codec, V: Codec, L: Log> Iterator for Iter<'a, K, V, L> {
    type Item = Ref<'a, K, V>;

    fn next(&mut self) -> Option<Ref<'a, K, V>> {
        self.walk.next().map(Ref::new)
    }
}

impl<'a, K: Codec, V: Codec, L: Log> IntoIterator for &'a Map<K, V, L> {
    type Item = Ref<'a, K, V>;
    type IntoIter = Iter<'a, K, V, L>;

    fn into_iter(self) -> Iter<'a, K, V, L> {
        self.iter()
    }
}
