//! How typed keys and values become `Data`: named where a map is opened, `map::<Natural<String>, Raw>(..)`.

use std::borrow::Borrow;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::form::append_head;
use super::{Data, DataError, DataRef, TypeId, natural_read, natural_write};

/// A way to write values of a type as [`Data`] and to read them back.
pub trait Serial: 'static {
    /// What is put in.
    type Encode: ?Sized;
    /// What comes back.
    type Owned: Borrow<Self::Encode>;

    /// Appends the stored form of a value.
    ///
    /// # Errors
    /// [`DataError`] when the value has none; what was appended then is to be dropped.
    fn append(value: &Self::Encode, out: &mut Vec<u8>) -> Result<(), DataError>;

    /// Reads a value.
    ///
    /// # Errors
    /// [`DataError`] for what is no such value.
    fn read(data: DataRef<'_>) -> Result<Self::Owned, DataError>;

    /// A value as data of its own.
    ///
    /// # Errors
    /// As for [`Serial::append`].
    fn to_data(value: &Self::Encode) -> Result<Data, DataError> {
        let mut stored = Vec::new();
        Self::append(value, &mut stored)?;
        Ok(DataRef::from_stored(&stored)?.to_data())
    }
}

/// Numbers, text and bytes as Hazelcast's own types, so that every client reads them and finds keys; anything
/// else that `serde` knows by postcard, which only this program reads.
///
/// | of Rust | of Hazelcast |
/// | --- | --- |
/// | `bool`, `i8`, `i16`, `i32`, `i64` | boolean, byte, short, int, long |
/// | `u8`, `u16`, `u32` | short, int, long |
/// | `u64` | long where it fits, else a big integer |
/// | `i128`, `u128` | big integer |
/// | `f32`, `f64` | float, double |
/// | `String`, `char` | string |
///
/// It reads what fits, whoever wrote it: an `i64` of an int, a structure of JSON.
///
/// ```
/// use hdgrid::data::{Json, Natural, Serial, TypeId};
/// #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
/// struct Order { drinks: Vec<String> }
/// let order = Order { drinks: vec!["coffee".to_owned()] };
/// let data = Natural::<Order>::to_data(&order)?;
/// assert_eq!(data.as_ref().type_id(), TypeId::POSTCARD);
/// assert_eq!(Natural::<Order>::read(data.as_ref())?, order);
/// assert_eq!(Natural::<Order>::read(Json::<Order>::to_data(&order)?.as_ref())?, order);
/// assert_eq!(Natural::<i32>::to_data(&7)?.as_ref().type_id(), TypeId::INTEGER);
/// # Ok::<(), hdgrid::data::DataError>(())
/// ```
#[derive(Debug)]
pub struct Natural<T>(PhantomData<T>);

impl<T: Serialize + DeserializeOwned + 'static> Serial for Natural<T> {
    type Encode = T;
    type Owned = T;

    fn append(value: &T, out: &mut Vec<u8>) -> Result<(), DataError> {
        natural_write::append(value, out)
    }

    fn read(data: DataRef<'_>) -> Result<T, DataError> {
        natural_read::read(data)
    }
}

/// Anything that `serde` knows as JSON text, which every client reads.
#[derive(Debug)]
pub struct Json<T>(PhantomData<T>);

impl<T: Serialize + DeserializeOwned + 'static> Serial for Json<T> {
    type Encode = T;
    type Owned = T;

    fn append(value: &T, out: &mut Vec<u8>) -> Result<(), DataError> {
        let text =
            serde_json::to_vec(value).map_err(|error| DataError::Serde(error.to_string()))?;
        natural_write::append_counted(TypeId::JSON, &text, out)
    }

    fn read(data: DataRef<'_>) -> Result<T, DataError> {
        expect("JSON", TypeId::JSON, data)?;
        natural_read::read(data)
    }
}

/// Bytes as they are: a byte array to other clients.
#[derive(Debug)]
pub enum Raw {}

impl Serial for Raw {
    type Encode = [u8];
    type Owned = Vec<u8>;

    fn append(value: &[u8], out: &mut Vec<u8>) -> Result<(), DataError> {
        natural_write::append_counted(TypeId::BYTE_ARRAY, value, out)
    }

    fn read(data: DataRef<'_>) -> Result<Vec<u8>, DataError> {
        expect("a byte array", TypeId::BYTE_ARRAY, data)?;
        Ok(natural_read::counted("a byte array", data.payload())?.to_vec())
    }
}

/// A plain-data type (`bytemuck`), byte for byte as it lies in memory; only this program reads it, on
/// machines of the same byte order.
#[derive(Debug)]
pub struct PlainData<T>(PhantomData<T>);

impl<T: bytemuck::Pod> Serial for PlainData<T> {
    type Encode = T;
    type Owned = T;

    fn append(value: &T, out: &mut Vec<u8>) -> Result<(), DataError> {
        append_head(TypeId::PLAIN_DATA, 0, out);
        out.extend_from_slice(bytemuck::bytes_of(value));
        Ok(())
    }

    fn read(data: DataRef<'_>) -> Result<T, DataError> {
        expect("plain data", TypeId::PLAIN_DATA, data)?;
        bytemuck::try_pod_read_unaligned(data.payload()).map_err(|_| DataError::Invalid {
            what: "plain data",
            reason: format!("{} bytes, expected {}", data.payload().len(), size_of::<T>()),
        })
    }
}

/// Data as it is, of any type: for code that chooses the type as it runs.
///
/// ```
/// use hdgrid::data::{Data, Natural, Serial, TypeId, Untyped};
/// let seven = Natural::<i32>::to_data(&7)?;
/// assert_eq!(Untyped::read(seven.as_ref())?, seven);
/// # Ok::<(), hdgrid::data::DataError>(())
/// ```
#[derive(Debug)]
pub enum Untyped {}

impl Serial for Untyped {
    type Encode = Data;
    type Owned = Data;

    fn append(value: &Data, out: &mut Vec<u8>) -> Result<(), DataError> {
        if value.as_ref().type_id() == TypeId::NULL {
            return Err(DataError::Null);
        }
        out.extend_from_slice(value.stored());
        Ok(())
    }

    fn read(data: DataRef<'_>) -> Result<Data, DataError> {
        Ok(data.to_data())
    }
}

fn expect(what: &str, type_id: TypeId, data: DataRef<'_>) -> Result<(), DataError> {
    match data.type_id() {
        found if found == type_id => Ok(()),
        found => Err(DataError::Type { expected: format!("{what}, {}", type_id.0), found }),
    }
}

#[cfg(test)]
#[path = "serial_tests.rs"]
mod tests;
