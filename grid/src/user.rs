//! What a user's code is given and gives back, where the map has bytes.

use std::error::Error;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use crate::data::{DataError, DataRef, Serial};
use crate::map_store::message;

/// Why a user's code has no answer.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It was not asked, or answered with what has no bytes.
    Data(DataError),
    /// It refused, with an error of its own.
    Own(Box<dyn Error + Send + Sync>),
}

/// Why nobody knows what a user's code has done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unanswered(String);

impl Refused {
    /// Of a panic.
    pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Refused {
        Refused::Own(Box::new(Unanswered(format!("it panicked: {}", message(panic)))))
    }

    /// Of an answer that has no bytes.
    pub(crate) fn unreadable(source: &DataError) -> Refused {
        Refused::Own(Box::new(Unanswered(format!("what it returned: {source}"))))
    }

    /// Whether what was asked may be done all the same.
    pub(crate) fn may_be_done(&self) -> bool {
        matches!(self, Refused::Own(error) if error.is::<Unanswered>())
    }
}

/// What a user's code answers, also where it panics.
pub(crate) async fn answer<T>(
    call: impl Future<Output = Result<T, Refused>>,
) -> Result<T, Refused> {
    let caught = AssertUnwindSafe(call).catch_unwind().await;
    caught.unwrap_or_else(|panic| Err(Refused::panicked(&*panic)))
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
