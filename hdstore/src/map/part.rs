//! Maps whose owner places their keys, and the parts of a map in one stream.
//!
//! Invariant: a handle knows the stream of each of its keys, or refuses whatever needs one. Which of both it
//! is follows from how the map was made, which the log remembers. Restart and compaction never ask: a record
//! carries its stream.
//!
//! Callers: all of `map/`. Cost on a map whose keys are placed by their hashes: one look at the handle.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::{Map, MapOptions};
use crate::codec::Codec;
use crate::error::Error;
use crate::ids::StreamId;
use crate::log::{Log, Placement};

/// Which part of a map a handle is of, and where its keys lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All of a map whose keys lie where their hashes say.
    Hashed,
    /// All of a map whose owner places the keys: the stream of a key is not known here.
    Whole,
    /// What the owner has placed in one stream.
    Part(StreamId),
}

impl Scope {
    pub(super) fn of(placement: Placement) -> Scope {
        match placement {
            Placement::ByHash => Scope::Hashed,
            Placement::ByOwner => Scope::Whole,
        }
    }
}

impl<Level> MapOptions<Level> {
    /// The map's owner says in which stream each key lies, by [`Map::in_stream`]. The same key may then be in
    /// several streams, with a value in each: the owner must know where it put it. This is remembered with
    /// the map, and must be asked for whenever it is opened.
    ///
    /// ```
    /// # use hdstore::{MapOptions, Store, StreamId, codec::{Str, U64}};
    /// let store = Store::builder().memory_limit_bytes(64 << 20).streams(271).in_memory()?;
    /// let map = store.map::<Str, U64>("m", MapOptions::default().placed_by_owner())?;
    /// let part = map.in_stream(StreamId(17))?;
    /// part.insert("a", &1)?;
    /// assert_eq!((part.get_owned("a")?, part.len(), map.len()), (Some(1), 1, 1));
    /// assert_eq!(map.in_stream(StreamId(18))?.get_owned("a")?, None);
    /// assert!(map.get("a").is_err(), "where?");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn placed_by_owner(self) -> Self {
        MapOptions { placement: Placement::ByOwner, ..self }
    }
}

impl<K: Codec, V: Codec, L: Log> Map<K, V, L> {
    /// The map's part in one stream, if its owner places its keys
    /// ([`MapOptions::placed_by_owner`]): a handle on which everything works, and is about that stream
    /// alone. Making one costs two counts that all handles share, so keep it where that matters.
    ///
    /// # Errors
    /// [`Error::PlacedByHash`] when the map was not made so; [`Error::Stream`].
    pub fn in_stream(&self, stream: StreamId) -> Result<Map<K, V, L>, Error> {
        if self.scope == Scope::Hashed {
            return Err(Error::PlacedByHash { name: self.core.spec.name.clone() });
        }
        self.inner.check_stream(stream)?;
        let (inner, core) = (Arc::clone(&self.inner), Arc::clone(&self.core));
        Ok(Map { inner, core, scope: Scope::Part(stream), types: PhantomData })
    }

    /// The stream of a key.
    #[inline]
    pub(crate) fn stream_of(&self, key: &[u8]) -> Result<StreamId, Error> {
        match self.scope {
            Scope::Hashed => Ok(self.inner.stream_of(key)),
            Scope::Part(stream) => Ok(stream),
            Scope::Whole => Err(self.no_stream()),
        }
    }

    /// The stream in which a key lies: where its hash says, or that of the handle.
    ///
    /// # Errors
    /// [`Error::Codec`] when the key has no encoding; [`Error::NoStream`].
    pub fn stream_of_key(&self, key: &K::Encode) -> Result<StreamId, Error> {
        self.stream_of(&K::encode(key)?)
    }

    /// Refuses a key that does not lie in a stream. On a handle of all of a map whose owner places its keys
    /// it lies wherever the caller says.
    pub(super) fn check_stream_of(&self, key: &[u8], stream: StreamId) -> Result<(), Error> {
        let of_key = match self.scope {
            Scope::Hashed => self.inner.stream_of(key),
            Scope::Part(part) => part,
            Scope::Whole => stream,
        };
        if of_key == stream {
            return Ok(());
        }
        let (name, expected, found) = (self.core.spec.name.clone(), stream.0, of_key.0);
        Err(Error::OtherStream { name, expected, found })
    }

    /// The stream of each key, if that is known for any.
    pub(super) fn streams(&self) -> Result<impl Fn(&[u8]) -> StreamId + '_, Error> {
        let part = match self.scope {
            Scope::Hashed => None,
            Scope::Part(stream) => Some(stream),
            Scope::Whole => return Err(self.no_stream()),
        };
        Ok(move |key: &[u8]| part.unwrap_or_else(|| self.inner.stream_of(key)))
    }

    /// The streams that the handle is about.
    pub(super) fn range(&self) -> Range<u32> {
        match self.scope {
            Scope::Hashed | Scope::Whole => self.inner.all(),
            Scope::Part(StreamId(stream)) => stream..stream + 1,
        }
    }

    /// Refuses a stream that the handle is not about.
    pub(super) fn check_scope(&self, stream: StreamId) -> Result<(), Error> {
        match self.scope {
            Scope::Part(part) if part != stream => Err(Error::OtherStream {
                name: self.core.spec.name.clone(),
                expected: part.0,
                found: stream.0,
            }),
            _ => Ok(()),
        }
    }

    #[cold]
    fn no_stream(&self) -> Error {
        Error::NoStream { name: self.core.spec.name.clone() }
    }
}
