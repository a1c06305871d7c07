//! What a map keeps under a key: what it knows of the entry, then the value's `Data`.
//!
//! | bytes | |
//! | --- | --- |
//! | 1 | which of the following are there: 1 time to live, 2 longest idle time, 4 times and version; else 0 |
//! | 1 to 10 | time to live of this entry, milliseconds, varint; 0: for ever |
//! | 1 to 10 | longest idle time of this entry, milliseconds, varint; 0: for ever |
//! | 6 + 6 + 1 to 5 | made, last put (milliseconds since 1970, little-endian), how often since it was made |
//! | the rest | the value in its stored form |
//!
//! Invariant: bytes that this file does not write are an error, never a value. When an entry expires
//! stands in the store's own entry, not here. An entry of a map that uses none of it costs one byte.

use crate::data::DataError;
use crate::varint::{self, BadVarint};

const TTL: u8 = 1;
const MAX_IDLE: u8 = 2;
const TIMES: u8 = 4;

/// What is known of an entry, apart from its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Head {
    /// How long the entry lives after it was put, if that is not what the map says; 0: for ever.
    pub(crate) ttl_ms: Option<u64>,
    /// How long it lives after it was used last, likewise.
    pub(crate) max_idle_ms: Option<u64>,
    /// Kept where the map asks for it.
    pub(crate) times: Option<Times>,
}

/// When an entry was made and changed, in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Times {
    /// When it was made.
    pub(crate) created_ms: u64,
    /// When it was put last.
    pub(crate) updated_ms: u64,
    /// How often since it was made.
    pub(crate) version: u32,
}

impl Head {
    /// Appends what comes before the value.
    pub(crate) fn append(&self, out: &mut Vec<u8>) {
        let flag = |flag, is_there: bool| if is_there { flag } else { 0 };
        let flags = flag(TTL, self.ttl_ms.is_some())
            | flag(MAX_IDLE, self.max_idle_ms.is_some())
            | flag(TIMES, self.times.is_some());
        out.push(flags);
        for ms in [self.ttl_ms, self.max_idle_ms].into_iter().flatten() {
            varint::append(ms, out);
        }
        if let Some(times) = self.times {
            out.extend_from_slice(&times.created_ms.to_le_bytes()[..6]);
            out.extend_from_slice(&times.updated_ms.to_le_bytes()[..6]);
            varint::append(u64::from(times.version), out);
        }
    }

    /// What is known, and the value's stored form.
    ///
    /// # Errors
    /// [`DataError`] for bytes that [`Head::append`] did not write.
    pub(crate) fn split(bytes: &[u8]) -> Result<(Head, &[u8]), DataError> {
        let (flags, mut rest) = match bytes {
            [0, value @ ..] => return Ok((Head::default(), value)),
            [flags, rest @ ..] if flags & !(TTL | MAX_IDLE | TIMES) == 0 => (*flags, rest),
            [flags, ..] => return Err(invalid(format!("flags {flags:#04x}"))),
            [] => return Err(invalid("it is empty".to_owned())),
        };
        let mut head = Head::default();
        for (flag, ms) in [(TTL, &mut head.ttl_ms), (MAX_IDLE, &mut head.max_idle_ms)] {
            if flags & flag != 0 {
                *ms = Some(take_varint(&mut rest, 64)?);
            }
        }
        if flags & TIMES != 0 {
            let (created_ms, updated_ms) = (take_ms(&mut rest)?, take_ms(&mut rest)?);
            let version = take_varint(&mut rest, 32)? as u32;
            head.times = Some(Times { created_ms, updated_ms, version });
        }
        Ok((head, rest))
    }
}

/// A value to be put: behind the head of an entry of which nothing is known, so that nearly every put
/// copies it once, into the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NewValue<'a> {
    entry: &'a [u8],
}

impl<'a> NewValue<'a> {
    /// What stands before its stored form.
    pub(crate) const PLAIN: u8 = 0;

    /// Of [`NewValue::PLAIN`] and a stored form.
    pub(crate) fn new(entry: &'a [u8]) -> NewValue<'a> {
        debug_assert_eq!(entry.first(), Some(&NewValue::PLAIN));
        NewValue { entry }
    }

    /// The stored form.
    pub(crate) fn stored(self) -> &'a [u8] {
        &self.entry[1..]
    }

    /// All of it, as an entry of which nothing is known.
    pub(crate) fn plain(self) -> &'a [u8] {
        self.entry
    }
}

fn take_varint(rest: &mut &[u8], bits: u32) -> Result<u64, DataError> {
    let (number, after) = varint::split(rest, bits).map_err(|bad| match bad {
        BadVarint::TooShort => invalid("a number does not end".to_owned()),
        BadVarint::Padded => invalid("a number is longer than it must be".to_owned()),
        BadVarint::TooLarge => invalid(format!("a number of more than {bits} bits")),
    })?;
    *rest = after;
    Ok(number)
}

fn take_ms(rest: &mut &[u8]) -> Result<u64, DataError> {
    let (ms, after) = rest
        .split_first_chunk::<6>()
        .ok_or_else(|| invalid("it ends in the middle of a time".to_owned()))?;
    *rest = after;
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(ms);
    Ok(u64::from_le_bytes(bytes))
}

fn invalid(reason: String) -> DataError {
    DataError::Invalid { what: "the head of an entry", reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_known_of_an_entry_comes_back(
            ttl_ms in any::<Option<u64>>(),
            max_idle_ms in any::<Option<u64>>(),
            times in proptest::option::of((0..1u64 << 48, 0..1u64 << 48, any::<u32>())),
            value in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let times = times.map(|(created_ms, updated_ms, version)| {
                Times { created_ms, updated_ms, version }
            });
            let head = Head { ttl_ms, max_idle_ms, times };
            let mut bytes = Vec::new();
            head.append(&mut bytes);
            bytes.extend_from_slice(&value);
            prop_assert_eq!(Head::split(&bytes), Ok((head, &value[..])));
        }

        #[test]
        fn whatever_is_read_as_an_entry_is_written_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..24),
        ) {
            if let Ok((head, value)) = Head::split(&bytes) {
                let mut again = Vec::new();
                head.append(&mut again);
                again.extend_from_slice(value);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn an_entry_of_which_nothing_is_kept_costs_a_byte_and_bad_heads_are_named() {
        let mut bytes = Vec::new();
        Head::default().append(&mut bytes);
        assert_eq!(bytes, [0]);
        for (bytes, expected) in [
            (&[][..], "empty"),
            (&[8], "flags 0x08"),
            (&[1, 0x80], "does not end"),
            (&[1, 0x80, 0], "longer than it must be"),
            (&[1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], "more than 64 bits"),
            (&[4, 1, 2, 3], "in the middle of a time"),
        ] {
            let error = Head::split(bytes).expect_err("not written by this program").to_string();
            assert!(error.contains(expected), "{bytes:?}: {error}");
        }
    }
}
