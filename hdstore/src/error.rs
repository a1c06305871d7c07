//! What can go wrong, by operation.

use crate::log::{LogError, Placement};

/// Why a store could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is out of its range.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What was given.
        found: String,
        /// What is possible.
        expected: String,
    },
    /// The address space for the arena could not be reserved.
    #[error(
        "cannot reserve {bytes} bytes of address space: {source} (no memory is used by this yet; check \
         `ulimit -v` and that vm.overcommit_memory is not 2)"
    )]
    Reserve {
        /// Bytes of address space asked for.
        bytes: u64,
        /// The system's answer.
        r#source: std::io::Error,
    },
    /// The memory limit does not even hold the store's fixed tables.
    #[error(
        "memory_limit_bytes is {limit_bytes}, too small: the store's fixed tables need {needed_bytes}"
    )]
    LimitTooSmall {
        /// The limit.
        limit_bytes: u64,
        /// What the fixed tables need.
        needed_bytes: u64,
    },
}

/// Why an operation on a map failed. Nothing changed, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is empty.
    #[error("a key has 1 to 65,535 bytes, this one has none")]
    EmptyKey,
    /// The key or the value is longer than this store takes.
    #[error("the {what} has {len} bytes, at most {max} are possible")]
    TooLarge {
        /// "key" or "value".
        what: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The longest that is possible, in bytes.
        max: u64,
    },
    /// The store is full.
    #[error(
        "the store is full: {needed_bytes} bytes are needed, {committed_bytes} of the limit of \
         {limit_bytes} are in use, and slots get memory 2 MiB at a time, in pages of one size \
         each; remove entries or raise memory_limit_bytes"
    )]
    Capacity {
        /// The memory limit.
        limit_bytes: u64,
        /// What is committed of it.
        committed_bytes: u64,
        /// What the operation needed.
        needed_bytes: u64,
    },
    /// The bound on memory that waits for readers is reached: a reader sleeps in a batch.
    #[error(
        "{unreclaimed_bytes} bytes of replaced values wait for readers (bound {bound_bytes}); {}",
        blame(*.oldest_pin_ms)
    )]
    Unreclaimed {
        /// Bytes that wait.
        unreclaimed_bytes: u64,
        /// The bound.
        bound_bytes: u64,
        /// Age of the oldest pin in milliseconds; `None` when it is inside a call or has ended meanwhile.
        oldest_pin_ms: Option<u64>,
    },
    /// A map of this name exists with other codecs.
    #[error("map {name:?} holds {expected}, it was opened as {found}")]
    MapType {
        /// The map.
        name: String,
        /// Codecs of keys and values that it was made with.
        expected: String,
        /// Those that were asked for.
        found: String,
    },
    /// A map of this name exists, and its keys are placed otherwise.
    #[error(
        "map {name:?} was made to have its keys placed {expected}, it was opened to have them {found}"
    )]
    MapPlacement {
        /// The map.
        name: String,
        /// Who places its keys.
        expected: Placement,
        /// Who was to place them.
        found: Placement,
    },
    /// The map's owner places its keys, and this handle is of no stream.
    #[error("the owner of map {name:?} places its keys: say where with Map::in_stream")]
    NoStream {
        /// The map.
        name: String,
    },
    /// The map's keys lie where their hashes say, so nobody can choose.
    #[error(
        "the keys of map {name:?} are placed by their hashes; Map::in_stream needs a map that was made with \
         MapOptions::placed_by_owner"
    )]
    PlacedByHash {
        /// The map.
        name: String,
    },
    /// A key, or a part of a map, of another stream than the one that all of this is about.
    #[error("stream {found} of map {name:?} was asked for where all must be of stream {expected}")]
    OtherStream {
        /// The map.
        name: String,
        /// The stream of the group, or of the handle.
        expected: u32,
        /// The stream that was asked for.
        found: u32,
    },
    /// A group has more changes and conditions than it may.
    #[error("a group of {found} changes and conditions, at most {max} are possible")]
    GroupTooLong {
        /// How many it has.
        found: usize,
        /// How many it may have.
        max: usize,
    },
    /// There are as many maps as a store can have.
    #[error("a store has at most {max} maps")]
    TooManyMaps {
        /// The highest number.
        max: u64,
    },
    /// The map was dropped. A map of the same name, if there is one, is another: open it anew.
    #[error("map {name:?} was dropped")]
    Dropped {
        /// Its name.
        name: String,
    },
    /// The name of a map is not possible.
    #[error("a map's name has 1 to 255 bytes, this one has {len}")]
    MapName {
        /// Its length in bytes.
        len: usize,
    },
    /// A stream number is not one of the store's.
    #[error("stream {stream} was asked for, the store has {streams}")]
    Stream {
        /// What was asked for.
        stream: u32,
        /// How many there are.
        streams: u32,
    },
    /// A stream has had as many changes as its 48-bit numbers can tell apart.
    #[error("stream {stream} is at seq {seq}, and has no number for another change")]
    SeqExhausted {
        /// The stream.
        stream: u32,
        /// Its last seq, or the one that was asked for.
        seq: u64,
    },
    /// A value could not be turned into bytes, or back.
    #[error("{codec}: {reason}")]
    Codec {
        /// The codec.
        codec: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// The log behind the store refused the change, or failed to keep it. Whether the change is kept then is
    /// unknown if it is visible; the source says which.
    #[error("log: {0}")]
    Log(LogError),
}

fn blame(oldest_pin_ms: Option<u64>) -> String {
    match oldest_pin_ms {
        Some(ms) => format!("the oldest batch is {ms} ms old: end it"),
        None => "the oldest reader is inside a call, or has ended meanwhile: try again".to_owned(),
    }
}

impl Error {
    /// Whether the store is full.
    pub fn is_capacity(&self) -> bool {
        matches!(self, Error::Capacity { .. })
    }

    /// Whether the same call may succeed later without a change of settings: at the memory limit when entries
    /// were removed meanwhile, so who only tries again, tries in vain. It says no of every
    /// [`Error::Log`]: only the log's own error knows, so look into that first.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Capacity { .. } | Error::Unreclaimed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_age_of_the_oldest_pin() {
        let error = Error::Unreclaimed {
            unreclaimed_bytes: 9,
            bound_bytes: 8,
            oldest_pin_ms: Some(61_000),
        };
        assert!(error.to_string().ends_with("the oldest batch is 61000 ms old: end it"), "{error}");
        let error =
            Error::Unreclaimed { unreclaimed_bytes: 9, bound_bytes: 8, oldest_pin_ms: None };
        assert!(error.to_string().ends_with("try again"), "{error}");
    }
}
