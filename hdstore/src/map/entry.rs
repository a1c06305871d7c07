//! Read-modify-write of one key.
//!
//! Optimistic: the entry is looked at, the caller thinks, and the change happens only if the entry is still
//! the same (by its seq, so also an equal value put by somebody else counts as a change). No lock is held
//! while the caller thinks.

use std::borrow::Cow;

use super::Map;
use super::guard::Ref;
use crate::codec::Codec;
use crate::error::Error;
use crate::log::Log;
use crate::store::put::Condition;

/// A key, looked at once; made by [`Map::entry`].
#[derive(Debug)]
pub enum Entry<'a, K: Codec, V: Codec, L: Log> {
    /// The key has a value.
    Occupied(OccupiedEntry<'a, K, V, L>),
    /// The key has none.
    Vacant(VacantEntry<'a, K, V, L>),
}

/// A key with its value.
pub struct OccupiedEntry<'a, K: Codec, V: Codec, L: Log> {
    map: &'a Map<K, V, L>,
    found: Ref<'a, K, V>,
}

/// A key without a value.
pub struct VacantEntry<'a, K: Codec, V: Codec, L: Log> {
    map: &'a Map<K, V, L>,
    key: Cow<'a, [u8]>,
}

impl<K: Codec, V: Codec, L: Log> std::fmt::Debug for OccupiedEntry<'_, K, V, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OccupiedEntry").field(&self.found).finish()
    }
}

impl<K: Codec, V: Codec, L: Log> std::fmt::Debug for VacantEntry<'_, K, V, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VacantEntry").field("key_len", &self.key.len()).finish()
    }
}

impl<K: Codec, V: Codec, L: Log> Map<K, V, L> {
    /// Looks at a key, for a change that depends on what is there.
    ///
    /// # Errors
    /// As for [`Map::get`].
    ///
    /// ```
    /// # use hdstore::{Entry, MapOptions, Store, codec::{Str, U64}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Str, U64>("m", MapOptions::default())?;
    /// let done = match map.entry("hits")? {
    ///     Entry::Occupied(entry) => entry.replace(&(entry.value()? + 1))?,
    ///     Entry::Vacant(entry) => entry.insert(&1)?,
    /// };
    /// assert!(done, "nobody else changed it meanwhile");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn entry<'a>(&'a self, key: &'a K::Encode) -> Result<Entry<'a, K, V, L>, Error> {
        Ok(match self.get(key)? {
            Some(found) => Entry::Occupied(OccupiedEntry { map: self, found }),
            None => Entry::Vacant(VacantEntry { map: self, key: K::encode(key)? }),
        })
    }

    /// Replaces a key's value by what `update` makes of it (`None`: absent, before or after), trying again
    /// until nobody came in between. `update` may run more than once; when it panics, nothing has changed.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, codec::{Str, U64}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Str, U64>("m", MapOptions::default())?;
    /// for _ in 0..3 {
    ///     map.update("hits", |hits| Some(hits.unwrap_or(0) + 1))?;
    /// }
    /// assert_eq!(map.get_owned("hits")?, Some(3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "compute")]
    pub fn update(
        &self,
        key: &K::Encode,
        mut update: impl FnMut(Option<V::Decoded<'_>>) -> Option<V::Owned>,
    ) -> Result<(), Error> {
        use std::borrow::Borrow;
        loop {
            let done = match self.entry(key)? {
                Entry::Occupied(entry) => match update(Some(entry.value()?)) {
                    Some(new) => entry.replace(new.borrow())?,
                    None => entry.remove()?,
                },
                Entry::Vacant(entry) => match update(None) {
                    Some(new) => entry.insert(new.borrow())?,
                    None => true,
                },
            };
            if done {
                return Ok(());
            }
        }
    }
}

impl<K: Codec, V: Codec, L: Log> OccupiedEntry<'_, K, V, L> {
    /// The value that was found.
    ///
    /// # Errors
    /// [`Error::Codec`] when the bytes are no value of this type.
    pub fn value(&self) -> Result<V::Decoded<'_>, Error> {
        self.found.value()
    }

    /// Replaces the value if it is still the one that was found. Returns whether it was.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    pub fn replace(&self, value: &V::Encode) -> Result<bool, Error> {
        let value = V::encode(value)?;
        self.map.put_bytes(
            self.found.key_bytes(),
            &value,
            self.found.expiry_ms(),
            Condition::Seq(self.found.seq()),
        )
    }

    /// Removes the key if its value is still the one that was found. Returns whether it was.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    pub fn remove(&self) -> Result<bool, Error> {
        let (map, key, seq) = (self.map, self.found.key_bytes(), self.found.seq());
        let stream = map.stream_of(key)?;
        let ticket = map.inner.remove_if(&map.core, stream, key, |view| view.seq() == seq)?;
        map.settle(ticket)?;
        Ok(ticket.is_some())
    }
}

impl<K: Codec, V: Codec, L: Log> VacantEntry<'_, K, V, L> {
    /// Gives the key a value if it still has none. Returns whether it did.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    pub fn insert(&self, value: &V::Encode) -> Result<bool, Error> {
        self.map.put_bytes(&self.key, &V::encode(value)?, None, Condition::Absent)
    }
}
