//! Several keys at once: one pin for many reads, cache misses side by side, one wait for many writes.

use super::Map;
use crate::clock::Clock;
use crate::codec::Codec;
use crate::error::Error;
use crate::log::Log;
use crate::reclaim::pin::Pinned;
use crate::store::Store;
use crate::store::access::find_pinned;
use crate::store::put::{Condition, Done, NewEntry};
use crate::store::read::GROUP;

/// A pin that the caller holds over many reads: each costs less, and the values found stay where they are
/// until it ends.
///
/// It holds back the reclamation of everything that is replaced meanwhile. Past the store's bound, overwrites
/// fail with [`Error::Unreclaimed`], which names the age of the oldest batch; they go on when it ends.
pub struct ReadBatch<'a> {
    pin: Pinned<'a>,
    pins: &'a std::sync::Arc<crate::reclaim::pin::Pins>,
}

impl std::fmt::Debug for ReadBatch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadBatch").finish_non_exhaustive()
    }
}

impl<L: Log> Store<L> {
    /// Pins the calling thread for a batch of reads.
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, codec::{Str, Bytes}};
    /// # let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
    /// let map = store.map::<Str, Bytes>("m", MapOptions::default())?;
    /// map.insert("a", b"1")?;
    /// map.insert("b", b"2")?;
    /// let batch = store.read_batch();
    /// let (a, b) = (map.get_in(&batch, "a")?, map.get_in(&batch, "b")?);
    /// assert_eq!((a, b), (Some(&b"1"[..]), Some(&b"2"[..])));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_batch(&self) -> ReadBatch<'_> {
        let pin = self.inner.pin();
        pin.note_time(self.inner.clock.monotonic_ms());
        ReadBatch { pin, pins: &self.inner.pins }
    }
}

impl<K: Codec, V: Codec, L: Log> Map<K, V, L> {
    /// The value of a key, valid until the batch ends.
    ///
    /// # Errors
    /// [`Error::Codec`] when the key has no encoding or the bytes are no value of this type;
    /// [`Error::Dropped`]; [`Error::NoStream`].
    ///
    /// # Panics
    /// When the batch is of another store.
    pub fn get_in<'b>(
        &'b self,
        batch: &'b ReadBatch<'_>,
        key: &K::Encode,
    ) -> Result<Option<V::Decoded<'b>>, Error> {
        assert!(
            std::sync::Arc::ptr_eq(batch.pins, &self.inner.pins),
            "the batch is of another store"
        );
        self.core.check()?;
        let key = K::encode(key)?;
        let place = self.inner.place(&self.core, self.stream_of(&key)?);
        let hash = self.inner.hash.of(&key);
        find_pinned(&place.node.arena, place.table, place.table.homes(hash), &key, &batch.pin)
            .filter(|view| !self.inner.is_expired(view))
            .map(|view| V::decode(view.value()))
            .transpose()
    }

    /// Copies of the values of many keys, in the order of the keys.
    ///
    /// # Errors
    /// As for [`Map::get_owned`]; the first one ends the call.
    #[doc(alias = "getAll")]
    pub fn get_many(&self, keys: &[&K::Encode]) -> Result<Vec<Option<V::Owned>>, Error> {
        self.core.check()?;
        let encoded: Vec<_> = keys.iter().map(|key| K::encode(key)).collect::<Result<_, _>>()?;
        let mut values = Vec::with_capacity(keys.len());
        self.inner.read_many(&self.core, &encoded, self.streams()?, |_, view| {
            values.push(view.map(|view| V::decode_owned(view.value())).transpose());
        });
        values.into_iter().collect()
    }

    /// Calls `look` with the index of each key and the bytes of its value, in the order of the keys. Nothing
    /// is copied; the cache misses of up to sixteen keys run side by side.
    ///
    /// # Errors
    /// [`Error::Codec`] when a key has no encoding, [`Error::Dropped`], [`Error::NoStream`]; then `look` was
    /// not called.
    pub fn get_many_with(
        &self,
        keys: &[&K::Encode],
        mut look: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<(), Error> {
        self.core.check()?;
        let encoded: Vec<_> = keys.iter().map(|key| K::encode(key)).collect::<Result<_, _>>()?;
        self.inner.read_many(&self.core, &encoded, self.streams()?, |index, view| {
            look(index, view.map(|view| view.value()))
        });
        Ok(())
    }

    /// Gives many keys their values, in order, and waits for durability once, at the end. Each put stands for
    /// itself: this is not a transaction. The cache misses of up to sixteen keys run side by side: in memory
    /// alone, with more entries than the caches hold, a put takes some two thirds of the time of a single one
    /// (`cargo run --release -p hdstore --example load`); behind a log that may be no gain.
    ///
    /// # Errors
    /// As for [`Map::insert`]; the first one ends the call, and [`PutManyError::done`] says how many puts
    /// came before it.
    #[doc(alias = "putAll")]
    pub fn put_many(&self, entries: &[(&K::Encode, &V::Encode)]) -> Result<(), PutManyError> {
        let mut last = Vec::new();
        let put = self.put_groups(entries, &mut last);
        // Also those before one that failed: what is said to be done is as durable as the map's level says,
        // or that is told instead.
        match last.into_iter().try_for_each(|ticket| self.settle(ticket)) {
            Ok(()) => put,
            Err(source) => {
                let done = put.map_or_else(|refused| refused.done, |()| entries.len());
                Err(PutManyError { done, source })
            }
        }
    }

    /// Puts, and notes the last ticket of each stream.
    fn put_groups(
        &self,
        entries: &[(&K::Encode, &V::Encode)],
        last: &mut Vec<Option<L::Ticket>>,
    ) -> Result<(), PutManyError> {
        let stream_of = self.streams().map_err(|source| PutManyError { done: 0, source })?;
        for (number, group) in entries.chunks(GROUP).enumerate() {
            let done = number * GROUP;
            let mut keys = Vec::with_capacity(group.len());
            let mut refused = None;
            for (key, _) in group {
                match K::encode(key) {
                    Ok(key) => keys.push(key),
                    // The puts before it stand for themselves.
                    Err(source) => {
                        refused = Some(PutManyError { done: done + keys.len(), source });
                        break;
                    }
                }
            }
            let places = self.inner.fetch_group(&self.core, &keys, &stream_of, &self.inner.pin());
            for (index, (place, (key, (_, value)))) in
                places.iter().flatten().zip(keys.iter().zip(group)).enumerate()
            {
                let put = || {
                    let value = V::encode(value)?;
                    let entry = NewEntry { key, value: &value, expiry_ms: None };
                    self.inner.put_from(&self.core, (place.0, &place.1), entry, Condition::None)
                };
                let put = put().map_err(|source| PutManyError { done: done + index, source })?;
                if let Done::Put(ticket) = put {
                    let stream = place.1.stream.0 as usize;
                    if last.len() <= stream {
                        last.resize(stream + 1, None);
                    }
                    last[stream] = Some(ticket);
                }
            }
            refused.map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}

/// Why [`Map::put_many`] stopped.
#[derive(Debug, thiserror::Error)]
#[error("after {done} of the puts: {source}")]
pub struct PutManyError {
    /// Puts that were done.
    pub done: usize,
    /// What went wrong with the next, or with waiting for the durability of those that were done: an
    /// [`Error::Log`] which says that the outcome is unknown is about them.
    pub r#source: Error,
}
