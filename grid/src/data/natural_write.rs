//! Values of Rust as `Data`: what Hazelcast has a type for in that type, all else by postcard.
//!
//! So a `String` or an `i64` that is put here is the same key to every other client. Numbers without a sign
//! go to the next larger type that has one. Called by `serial.rs`. Cost: one pass; a value with parts is
//! tried as a single one first, which ends at its first call.

use serde::Serialize;
use serde::ser::{self, Impossible};

use super::form::append_head;
use super::{DataError, TypeId, integer};

/// Appends the stored form of a value. After an error `out` is as it was.
pub(super) fn append<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), DataError> {
    let before = out.len();
    let written = match value.serialize(Single { out: &mut *out }) {
        Err(NotSingle::Parts) => {
            out.truncate(before);
            append_parts(value, out)
        }
        Err(NotSingle::Failed(error)) => Err(error),
        Ok(()) => Ok(()),
    };
    if written.is_err() {
        out.truncate(before);
    }
    written
}

fn append_parts<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), DataError> {
    append_head(TypeId::POSTCARD, 0, out);
    let bytes = std::mem::take(out);
    *out =
        postcard::to_extend(value, bytes).map_err(|error| DataError::Serde(error.to_string()))?;
    Ok(())
}

/// Why a value is not written by `Single`.
#[derive(Debug)]
enum NotSingle {
    /// It has parts, or Hazelcast has no type for it.
    Parts,
    Failed(DataError),
}

impl std::fmt::Display for NotSingle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotSingle::Parts => f.write_str("a value with parts"),
            NotSingle::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotSingle {}

impl ser::Error for NotSingle {
    fn custom<T: std::fmt::Display>(message: T) -> NotSingle {
        NotSingle::Failed(DataError::Serde(message.to_string()))
    }
}

/// Writes head and payload of a value that is one number, text or row of bytes.
struct Single<'a> {
    out: &'a mut Vec<u8>,
}

impl Single<'_> {
    fn fixed(self, type_id: TypeId, payload: &[u8]) -> Result<(), NotSingle> {
        append_head(type_id, 0, self.out);
        self.out.extend_from_slice(payload);
        Ok(())
    }

    fn counted(self, type_id: TypeId, bytes: &[u8]) -> Result<(), NotSingle> {
        append_counted(type_id, bytes, self.out).map_err(NotSingle::Failed)
    }
}

/// Appends a type with a length of four bytes before its bytes.
pub(super) fn append_counted(
    type_id: TypeId,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), DataError> {
    let len = i32::try_from(bytes.len()).map_err(|_| DataError::Invalid {
        what: "text or bytes",
        reason: format!("{} bytes; at most {} are possible", bytes.len(), i32::MAX),
    })?;
    append_head(type_id, 0, out);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

impl ser::Serializer for Single<'_> {
    type Ok = ();
    type Error = NotSingle;
    type SerializeSeq = Impossible<(), NotSingle>;
    type SerializeTuple = Impossible<(), NotSingle>;
    type SerializeTupleStruct = Impossible<(), NotSingle>;
    type SerializeTupleVariant = Impossible<(), NotSingle>;
    type SerializeMap = Impossible<(), NotSingle>;
    type SerializeStruct = Impossible<(), NotSingle>;
    type SerializeStructVariant = Impossible<(), NotSingle>;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), NotSingle> {
        self.fixed(TypeId::BOOLEAN, &[u8::from(value)])
    }

    fn serialize_i8(self, value: i8) -> Result<(), NotSingle> {
        self.fixed(TypeId::BYTE, &value.to_be_bytes())
    }

    fn serialize_i16(self, value: i16) -> Result<(), NotSingle> {
        self.fixed(TypeId::SHORT, &value.to_be_bytes())
    }

    fn serialize_i32(self, value: i32) -> Result<(), NotSingle> {
        self.fixed(TypeId::INTEGER, &value.to_be_bytes())
    }

    fn serialize_i64(self, value: i64) -> Result<(), NotSingle> {
        self.fixed(TypeId::LONG, &value.to_be_bytes())
    }

    fn serialize_i128(self, value: i128) -> Result<(), NotSingle> {
        append_head(TypeId::BIG_INTEGER, 0, self.out);
        integer::append(value, self.out);
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), NotSingle> {
        self.serialize_i16(i16::from(value))
    }

    fn serialize_u16(self, value: u16) -> Result<(), NotSingle> {
        self.serialize_i32(i32::from(value))
    }

    fn serialize_u32(self, value: u32) -> Result<(), NotSingle> {
        self.serialize_i64(i64::from(value))
    }

    fn serialize_u64(self, value: u64) -> Result<(), NotSingle> {
        match i64::try_from(value) {
            Ok(value) => self.serialize_i64(value),
            Err(_) => self.serialize_u128(u128::from(value)),
        }
    }

    fn serialize_u128(self, value: u128) -> Result<(), NotSingle> {
        append_head(TypeId::BIG_INTEGER, 0, self.out);
        integer::append_unsigned(value, self.out);
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), NotSingle> {
        self.fixed(TypeId::FLOAT, &value.to_be_bytes())
    }

    fn serialize_f64(self, value: f64) -> Result<(), NotSingle> {
        self.fixed(TypeId::DOUBLE, &value.to_be_bytes())
    }

    // A char of Java has 16 bits only.
    fn serialize_char(self, value: char) -> Result<(), NotSingle> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), NotSingle> {
        self.counted(TypeId::STRING, value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), NotSingle> {
        self.counted(TypeId::BYTE_ARRAY, value)
    }

    fn serialize_none(self) -> Result<(), NotSingle> {
        Err(NotSingle::Failed(DataError::Null))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), NotSingle> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), NotSingle> {
        Err(NotSingle::Failed(DataError::Null))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), NotSingle> {
        value.serialize(self)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), NotSingle> {
        Err(NotSingle::Parts)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<(), NotSingle> {
        Err(NotSingle::Parts)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), NotSingle> {
        Err(NotSingle::Parts)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, NotSingle> {
        Err(NotSingle::Parts)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, NotSingle> {
        Err(NotSingle::Parts)
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, NotSingle> {
        Err(NotSingle::Parts)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, NotSingle> {
        Err(NotSingle::Parts)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, NotSingle> {
        Err(NotSingle::Parts)
    }

    fn serialize_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStruct, NotSingle> {
        Err(NotSingle::Parts)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, NotSingle> {
        Err(NotSingle::Parts)
    }
}
