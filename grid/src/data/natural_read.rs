//! `Data` as values of Rust: what any client wrote, as far as the type asked for can hold it.
//!
//! Called by `serial.rs`. What may go wrong: a type id that is not read here, a payload that is too short or
//! too long for it, a value that the type does not hold. Nothing of it changes anything.

use serde::de::{self, DeserializeOwned, Visitor};
use serde::forward_to_deserialize_any;

use super::integer::{self, Integer};
use super::{DataError, DataRef, TypeId};

/// Reads a value.
pub(super) fn read<T: DeserializeOwned>(data: DataRef<'_>) -> Result<T, DataError> {
    let payload = data.payload();
    match data.type_id() {
        TypeId::POSTCARD => {
            let (value, rest) = postcard::take_from_bytes(payload)
                .map_err(|error| DataError::Serde(error.to_string()))?;
            ends("a value by postcard", rest)?;
            Ok(value)
        }
        TypeId::JSON => {
            let text = counted("JSON", payload)?;
            serde_json::from_slice(text).map_err(|error| DataError::Serde(error.to_string()))
        }
        _ => T::deserialize(Single { data }),
    }
}

fn ends(what: &'static str, rest: &[u8]) -> Result<(), DataError> {
    match rest.len() {
        0 => Ok(()),
        extra => Err(DataError::TooLong { what, extra }),
    }
}

/// A payload of exactly so many bytes.
fn fixed<const N: usize>(what: &'static str, payload: &[u8]) -> Result<[u8; N], DataError> {
    let (value, rest) = payload.split_first_chunk().ok_or(DataError::TooShort {
        what,
        needed: N,
        found: payload.len(),
    })?;
    ends(what, rest)?;
    Ok(*value)
}

/// The bytes of a payload that begins with their number.
pub(super) fn counted<'a>(what: &'static str, payload: &'a [u8]) -> Result<&'a [u8], DataError> {
    let too_short = |needed| DataError::TooShort { what, needed, found: payload.len() };
    let (len, bytes) = payload.split_first_chunk().ok_or(too_short(4))?;
    let len = i32::from_be_bytes(*len);
    let len = usize::try_from(len)
        .map_err(|_| DataError::Invalid { what, reason: format!("a length of {len}") })?;
    if bytes.len() < len {
        return Err(too_short(4 + len));
    }
    ends(what, &bytes[len..])?;
    Ok(bytes)
}

impl de::Error for DataError {
    fn custom<T: std::fmt::Display>(message: T) -> DataError {
        DataError::Serde(message.to_string())
    }
}

/// A value that is one number, text or row of bytes.
struct Single<'a> {
    data: DataRef<'a>,
}

impl<'de> de::Deserializer<'de> for Single<'de> {
    type Error = DataError;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DataError> {
        let payload = self.data.payload();
        match self.data.type_id() {
            TypeId::BYTE => visitor.visit_i8(i8::from_be_bytes(fixed("a byte", payload)?)),
            TypeId::BOOLEAN => {
                let [byte] = fixed("a boolean", payload)?;
                visitor.visit_bool(byte != 0)
            }
            TypeId::CHAR => {
                let unit = u16::from_be_bytes(fixed("a char", payload)?);
                let half = || DataError::Invalid {
                    what: "a char",
                    reason: format!("{unit:#06x} is half a character"),
                };
                visitor.visit_char(char::from_u32(u32::from(unit)).ok_or_else(half)?)
            }
            TypeId::SHORT => visitor.visit_i16(i16::from_be_bytes(fixed("a short", payload)?)),
            TypeId::INTEGER => visitor.visit_i32(i32::from_be_bytes(fixed("an int", payload)?)),
            TypeId::LONG => visitor.visit_i64(i64::from_be_bytes(fixed("a long", payload)?)),
            TypeId::FLOAT => visitor.visit_f32(f32::from_be_bytes(fixed("a float", payload)?)),
            TypeId::DOUBLE => visitor.visit_f64(f64::from_be_bytes(fixed("a double", payload)?)),
            TypeId::STRING => {
                let bytes = counted("a string", payload)?;
                let text = std::str::from_utf8(bytes).map_err(|error| DataError::Invalid {
                    what: "a string",
                    reason: error.to_string(),
                })?;
                visitor.visit_borrowed_str(text)
            }
            TypeId::BYTE_ARRAY => visitor.visit_borrowed_bytes(counted("a byte array", payload)?),
            TypeId::BIG_INTEGER => match integer::read(counted("a big integer", payload)?)? {
                Integer::Signed(number) => match (i64::try_from(number), u64::try_from(number)) {
                    (Ok(number), _) => visitor.visit_i64(number),
                    (_, Ok(number)) => visitor.visit_u64(number),
                    _ => visitor.visit_i128(number),
                },
                Integer::Unsigned(number) => visitor.visit_u128(number),
            },
            found => {
                let expected = "one that this program looks into".to_owned();
                Err(DataError::Type { expected, found })
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DataError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DataError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
