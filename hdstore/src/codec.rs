//! Codecs: how typed keys and values become bytes.
//!
//! A codec is a type that is never made, named where a map is opened: `store.map::<Str, U64>(..)`. Its name
//! is remembered with the map and checked at every opening.

use std::borrow::{Borrow, Cow};
use std::marker::PhantomData;

use crate::error::Error;

/// How values of one kind become bytes and come back.
pub trait Codec: 'static {
    /// What is put in.
    type Encode: ?Sized;
    /// What a reader sees, borrowed from the store's memory where that is possible.
    type Decoded<'a>;
    /// What a reader keeps.
    type Owned: Borrow<Self::Encode>;

    /// The name that is remembered with a map. Changing it makes older maps unreadable by this codec.
    fn name() -> String;

    /// Turns a value into bytes.
    ///
    /// # Errors
    /// [`Error::Codec`] when the value has no encoding.
    fn encode(value: &Self::Encode) -> Result<Cow<'_, [u8]>, Error>;

    /// Looks at bytes as a value.
    ///
    /// # Errors
    /// [`Error::Codec`] when the bytes are not one.
    fn decode(bytes: &[u8]) -> Result<Self::Decoded<'_>, Error>;

    /// Makes a value of bytes.
    ///
    /// # Errors
    /// As for [`Codec::decode`].
    fn decode_owned(bytes: &[u8]) -> Result<Self::Owned, Error>;
}

/// Bytes as they are.
#[derive(Debug)]
pub enum Bytes {}

impl Codec for Bytes {
    type Encode = [u8];
    type Decoded<'a> = &'a [u8];
    type Owned = Vec<u8>;

    fn name() -> String {
        "bytes".to_owned()
    }

    #[inline]
    fn encode(value: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
        Ok(Cow::Borrowed(value))
    }

    #[inline]
    fn decode(bytes: &[u8]) -> Result<&[u8], Error> {
        Ok(bytes)
    }

    fn decode_owned(bytes: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(bytes.to_vec())
    }
}

/// UTF-8 text.
#[derive(Debug)]
pub enum Str {}

impl Codec for Str {
    type Encode = str;
    type Decoded<'a> = &'a str;
    type Owned = String;

    fn name() -> String {
        "str".to_owned()
    }

    fn encode(value: &str) -> Result<Cow<'_, [u8]>, Error> {
        Ok(Cow::Borrowed(value.as_bytes()))
    }

    fn decode(bytes: &[u8]) -> Result<&str, Error> {
        std::str::from_utf8(bytes)
            .map_err(|error| Error::Codec { codec: "str", reason: error.to_string() })
    }

    fn decode_owned(bytes: &[u8]) -> Result<String, Error> {
        Self::decode(bytes).map(str::to_owned)
    }
}

/// An unsigned number of 64 bits, little-endian, as most machines hold it: no byte is moved to encode it.
#[derive(Debug)]
pub enum U64 {}

impl Codec for U64 {
    type Encode = u64;
    type Decoded<'a> = u64;
    type Owned = u64;

    fn name() -> String {
        "u64".to_owned()
    }

    #[inline]
    fn encode(value: &u64) -> Result<Cow<'_, [u8]>, Error> {
        if cfg!(target_endian = "little") {
            return Ok(Cow::Borrowed(bytemuck::bytes_of(value)));
        }
        Ok(Cow::Owned(value.to_le_bytes().to_vec()))
    }

    fn decode(bytes: &[u8]) -> Result<u64, Error> {
        let bytes = bytes.try_into().map_err(|_| Error::Codec {
            codec: "u64",
            reason: format!("8 bytes expected, {} found", bytes.len()),
        })?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn decode_owned(bytes: &[u8]) -> Result<u64, Error> {
        Self::decode(bytes)
    }
}

/// A plain-data type, byte for byte as it lies in memory (so in this machine's byte order).
///
/// The traits are those of `bytemuck` 1 with its feature `derive`. The codec's name holds the type's path and
/// size: a map is refused after the type was renamed or moved to another module. Implement [`Codec`] for a
/// name that stays.
///
/// ```
/// use hdstore::{MapOptions, Store, codec::{Pod, U64}};
/// # use bytemuck::{Pod as IsPod, Zeroable};
/// #[derive(Clone, Copy, PartialEq, Debug, bytemuck::Pod, bytemuck::Zeroable)]
/// #[repr(C)]
/// struct Quote { bid: u64, ask: u64 }
/// let store = Store::builder().memory_limit_bytes(64 << 20).in_memory()?;
/// let quotes = store.map::<U64, Pod<Quote>>("quotes", MapOptions::default())?;
/// quotes.insert(&1, &Quote { bid: 99, ask: 101 })?;
/// assert_eq!(quotes.get_owned(&1)?, Some(Quote { bid: 99, ask: 101 }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Pod<T>(PhantomData<T>);

impl<T: bytemuck::Pod> Codec for Pod<T> {
    type Encode = T;
    type Decoded<'a> = T;
    type Owned = T;

    fn name() -> String {
        format!("pod:{}:{}", std::any::type_name::<T>(), size_of::<T>())
    }

    fn encode(value: &T) -> Result<Cow<'_, [u8]>, Error> {
        Ok(Cow::Borrowed(bytemuck::bytes_of(value)))
    }

    fn decode(bytes: &[u8]) -> Result<T, Error> {
        bytemuck::try_pod_read_unaligned(bytes).map_err(|_| Error::Codec {
            codec: "pod",
            reason: format!("{} bytes expected, {} found", size_of::<T>(), bytes.len()),
        })
    }

    fn decode_owned(bytes: &[u8]) -> Result<T, Error> {
        Self::decode(bytes)
    }
}
