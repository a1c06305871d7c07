//! Values that outlive the call that found them.

use std::marker::PhantomData;

use crate::codec::Codec;
use crate::error::Error;
use crate::ids::Seq;
use crate::store::read::Held;

/// An entry, as it was when it was found: key and value without a copy, for as long as the guard lives.
///
/// The guard publishes its one slot: overwriting or removing the key goes on as ever, and only this entry's
/// memory waits for the guard. Hold it for minutes if you must. It may be sent to and shared with other
/// threads.
pub struct Ref<'a, K: Codec, V: Codec> {
    held: Held<'a>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<'a, K: Codec, V: Codec> Ref<'a, K, V> {
    pub(crate) fn new(held: Held<'a>) -> Ref<'a, K, V> {
        Ref { held, types: PhantomData }
    }

    /// The key.
    ///
    /// # Errors
    /// [`Error::Codec`] when the bytes are not a key of this type.
    pub fn key(&self) -> Result<K::Decoded<'_>, Error> {
        K::decode(self.key_bytes())
    }

    /// The value.
    ///
    /// # Errors
    /// [`Error::Codec`] when the bytes are not a value of this type.
    pub fn value(&self) -> Result<V::Decoded<'_>, Error> {
        V::decode(self.value_bytes())
    }

    /// The key's bytes.
    pub fn key_bytes(&self) -> &[u8] {
        self.held.view().key()
    }

    /// The value's bytes.
    pub fn value_bytes(&self) -> &[u8] {
        self.held.view().value()
    }

    /// The entry's place in its stream's history.
    pub fn seq(&self) -> Seq {
        self.held.view().seq()
    }

    /// When the entry expires, in milliseconds since 1970, if ever.
    pub fn expiry_ms(&self) -> Option<u64> {
        self.held.view().expiry_ms()
    }
}

impl<K: Codec, V: Codec> std::fmt::Debug for Ref<'_, K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ref")
            .field("seq", &self.seq())
            .field("key_len", &self.key_bytes().len())
            .field("value_len", &self.value_bytes().len())
            .finish()
    }
}
