//! What a user's code is given and gives back, where the map has bytes.

use std::error::Error;

use crate::data::{DataError, DataRef, Serial};

/// Why a user's code has no answer.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It was not asked, or answered with what has no bytes.
    Data(DataError),
    /// It refused, with an error of its own.
    Own(Box<dyn Error + Send + Sync>),
}

impl From<DataError> for Refused {
    fn from(source: DataError) -> Refused {
        Refused::Data(source)
    }
}

/// A value of its stored form.
pub(crate) fn read<T: Serial>(stored: &[u8]) -> Result<T::Owned, DataError> {
    T::read(DataRef::from_stored(stored)?)
}

/// The stored form of a value.
pub(crate) fn stored<T: Serial>(value: &T::Owned) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    T::append(std::borrow::Borrow::borrow(value), &mut bytes)?;
    Ok(bytes)
}
