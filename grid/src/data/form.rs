//! The two forms of `Data`: as Hazelcast sends it, and as it is stored here.
//!
//! Stored: a varint of `zigzag(type id) * 2 + (1 if a hash follows)`, as short as possible; the hash, 4 bytes
//! big-endian, unless it is 0 ("reckon it"); the payload. So there is one stored form for each `Data`.

use super::{DataError, TypeId};
use crate::varint::{self, BadVarint};

/// A type id, and whether there is a hash.
const HEAD_BITS: u32 = 33;
/// Their longest varint, in bytes.
const HEAD_MAX: usize = 5;
/// Hash and type id in Hazelcast's form.
const HEAP_HEAD: usize = 8;

/// A key or value, as its own bytes.
///
/// ```
/// use hdgrid::data::{Data, TypeId};
/// // What a client sends for the string "key".
/// let sent = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xf5, 0, 0, 0, 3, b'k', b'e', b'y'];
/// let data = Data::from_heap(&sent)?;
/// assert_eq!((data.as_ref().type_id(), data.stored().len()), (TypeId::STRING, 8));
/// assert_eq!(data.as_ref().to_heap(), sent);
/// # Ok::<(), hdgrid::data::DataError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Data {
    stored: Box<[u8]>,
}

/// A key or value that lies somewhere else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataRef<'a> {
    type_id: TypeId,
    hash: i32,
    payload: &'a [u8],
}

impl Data {
    /// Of Hazelcast's form.
    ///
    /// # Errors
    /// [`DataError::TooShort`] for less than hash and type id.
    pub fn from_heap(bytes: &[u8]) -> Result<Data, DataError> {
        Ok(DataRef::from_heap(bytes)?.to_data())
    }

    /// The stored form.
    #[must_use]
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// The same, to look into.
    #[must_use]
    pub fn as_ref(&self) -> DataRef<'_> {
        DataRef::from_stored(&self.stored).expect("made by this file")
    }
}

impl<'a> DataRef<'a> {
    /// A value of a type. The hash is 0 but for keys whose client chose their partition.
    #[must_use]
    pub fn new(type_id: TypeId, hash: i32, payload: &'a [u8]) -> DataRef<'a> {
        DataRef { type_id, hash, payload }
    }

    /// Of Hazelcast's form.
    ///
    /// # Errors
    /// [`DataError::TooShort`] for less than hash and type id.
    pub fn from_heap(bytes: &'a [u8]) -> Result<DataRef<'a>, DataError> {
        let too_short =
            DataError::TooShort { what: "hash and type id", needed: HEAP_HEAD, found: bytes.len() };
        let (hash, rest) = bytes.split_first_chunk().ok_or_else(|| too_short.clone())?;
        let (type_id, payload) = rest.split_first_chunk().ok_or(too_short)?;
        let type_id = TypeId(i32::from_be_bytes(*type_id));
        Ok(DataRef { type_id, hash: i32::from_be_bytes(*hash), payload })
    }

    /// Of the stored form.
    ///
    /// # Errors
    /// [`DataError`] for bytes that [`DataRef::append_stored`] does not write.
    pub fn from_stored(bytes: &'a [u8]) -> Result<DataRef<'a>, DataError> {
        let (head, rest) = read_head(bytes)?;
        let zigzag = (head >> 1) as u32;
        let type_id = TypeId((zigzag >> 1) as i32 ^ -((zigzag & 1) as i32));
        if head & 1 == 0 {
            return Ok(DataRef { type_id, hash: 0, payload: rest });
        }
        let (hash, payload) = rest.split_first_chunk().ok_or(DataError::TooShort {
            what: "the hash of a key",
            needed: 4,
            found: rest.len(),
        })?;
        let hash = i32::from_be_bytes(*hash);
        if hash == 0 {
            return Err(invalid("a hash of 0 is left out"));
        }
        Ok(DataRef { type_id, hash, payload })
    }

    /// Appends the stored form.
    pub fn append_stored(&self, out: &mut Vec<u8>) {
        append_head(self.type_id, self.hash, out);
        out.extend_from_slice(self.payload);
    }

    /// Hazelcast's form.
    #[must_use]
    pub fn to_heap(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAP_HEAD + self.payload.len());
        out.extend_from_slice(&self.hash.to_be_bytes());
        out.extend_from_slice(&self.type_id.0.to_be_bytes());
        out.extend_from_slice(self.payload);
        out
    }

    /// A copy of its own.
    #[must_use]
    pub fn to_data(&self) -> Data {
        let mut stored = Vec::with_capacity(HEAD_MAX + 4 + self.payload.len());
        self.append_stored(&mut stored);
        Data { stored: stored.into_boxed_slice() }
    }

    /// What the payload is.
    #[must_use]
    pub fn type_id(&self) -> TypeId {
        self.type_id
    }

    /// The hash that its client chose; 0 where it follows from the payload.
    #[must_use]
    pub fn hash(&self) -> i32 {
        self.hash
    }

    /// The value itself.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Appends what comes before the payload.
pub(super) fn append_head(type_id: TypeId, hash: i32, out: &mut Vec<u8>) {
    let zigzag = ((type_id.0 << 1) ^ (type_id.0 >> 31)) as u32;
    varint::append(u64::from(zigzag) << 1 | u64::from(hash != 0), out);
    if hash != 0 {
        out.extend_from_slice(&hash.to_be_bytes());
    }
}

fn read_head(bytes: &[u8]) -> Result<(u64, &[u8]), DataError> {
    varint::split(bytes, HEAD_BITS).map_err(|bad| match bad {
        BadVarint::TooShort => {
            let (needed, found) = (bytes.len() + 1, bytes.len());
            DataError::TooShort { what: "the head of stored data", needed, found }
        }
        BadVarint::Padded => invalid("longer than it must be"),
        BadVarint::TooLarge => invalid("a type id of more than 32 bits"),
    })
}

fn invalid(reason: &str) -> DataError {
    DataError::Invalid { what: "the head of stored data", reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_data_has_one_stored_form_and_comes_back_from_both(
            type_id in prop_oneof![-140..140i32, any::<i32>()],
            hash in prop_oneof![Just(0), any::<i32>()],
            payload in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let data = DataRef::new(TypeId(type_id), hash, &payload);
            let sent = data.to_heap();
            prop_assert_eq!(DataRef::from_heap(&sent), Ok(data));
            let stored = data.to_data();
            prop_assert_eq!(DataRef::from_stored(stored.stored()), Ok(data));
            prop_assert_eq!(stored.as_ref(), data);
        }

        #[test]
        fn whatever_is_read_as_stored_data_is_written_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            if let Ok(data) = DataRef::from_stored(&bytes) {
                let mut again = Vec::new();
                data.append_stored(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn what_is_known_best_takes_one_byte_and_bad_heads_are_named() {
        let head_of = |type_id| DataRef::new(type_id, 0, b"").to_data().stored().len();
        assert_eq!((head_of(TypeId::BYTE_ARRAY), head_of(TypeId::BIG_INTEGER)), (1, 1));
        assert_eq!((head_of(TypeId::JSON), head_of(TypeId::POSTCARD)), (2, 2));
        assert_eq!(head_of(TypeId(i32::MIN)), HEAD_MAX);
        for (bytes, expected) in [
            (&[][..], "1 bytes expected, 0 found"),
            (&[0x80, 0x80], "3 bytes expected, 2 found"),
            (&[0x80, 0], "longer than it must be"),
            (&[0xff; 6], "more than 32 bits"),
            (&[1, 0, 0], "4 bytes expected, 2 found"),
            (&[1, 0, 0, 0, 0, 9], "a hash of 0"),
        ] {
            let error = DataRef::from_stored(bytes).expect_err("not written by this program");
            assert!(error.to_string().contains(expected), "{bytes:?}: {error}");
        }
        assert!(DataRef::from_heap(&[0; 7]).is_err());
    }
}
