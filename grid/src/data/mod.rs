//! Keys and values as bytes that Hazelcast's members and clients know: `Data`, in its own compact form.
//!
//! Hazelcast's form is a hash (4 bytes), a type id (4 bytes) and a payload, the numbers big-endian. Kept here
//! is the *stored form*: a varint of type id and "has a hash", the hash where a client gave one, the payload.
//! A string of five letters so takes 10 bytes instead of 17; `form.rs` has both.
//!
//! Invariants: the two forms map onto each other one to one, so two keys are the same if and only if their
//! stored forms are, byte for byte. A key's partition follows from its `Data` alone, by Hazelcast's rule
//! (`partition.rs`), whichever client wrote it.
//!
//! Called by the maps for each operation. What may go wrong: a value that has no encoding, bytes that are not
//! what a type expects; both are errors of the caller that change nothing. Cost: one pass over the bytes.

mod form;
mod integer;
mod natural_read;
mod natural_write;
mod partition;
mod serial;
mod shown;
mod type_id;

pub use form::{Data, DataRef};
pub use partition::{PARTITION_COUNT_DEFAULT, PartitionId};
pub use serial::{Json, Natural, PlainData, Raw, Serial, Untyped};
pub use type_id::TypeId;

/// Why a value has no bytes, or bytes are not the value that was expected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Bytes end before what they must hold.
    #[error("{what}: {needed} bytes expected, {found} found")]
    TooShort {
        /// What they must hold.
        what: &'static str,
        /// Bytes it needs.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// A payload with more behind its value.
    #[error("{what}: {extra} bytes behind its end")]
    TooLong {
        /// What the payload holds.
        what: &'static str,
        /// Bytes behind it.
        extra: usize,
    },
    /// A type id that does not fit what is asked for.
    #[error("type id {found}, where {expected} is expected")]
    Type {
        /// What is expected, in words.
        expected: String,
        /// The type id found.
        found: TypeId,
    },
    /// An absent value: neither keys nor values may be.
    #[error("no value where one is needed: None and unit cannot be keys or values of a map")]
    Null,
    /// Bytes that are not what their type id says.
    #[error("{what}: {reason}")]
    Invalid {
        /// What they should be.
        what: &'static str,
        /// What is wrong with them.
        reason: String,
    },
    /// A value that its format cannot express, or a type that does not fit what is there.
    #[error("{0}")]
    Serde(String),
}
