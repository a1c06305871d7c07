//! Types for identities, so that an offset, a count and two kinds of number cannot be mixed up.
//!
//! Invariant: an identity is compared and printed, never computed with, except by the methods here.
//! Everything in `format`, `io` users and the state machines names its subjects by these types.
//! See `docs/format.md`, sections 6 to 9.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number!(
    /// A chunk's identity. Never used twice in a store, also when the chunk's file is used again.
    ChunkId(u64), "{}"
);
number!(
    /// The number in the name of a chunk's file.
    FileNumber(u32), "{:08x}"
);
number!(
    /// One opening of a store until it stops, counted from 1.
    LifeNumber(u64), "{}"
);
number!(
    /// A writer of one life, from 0.
    WriterId(u32), "{}"
);
number!(
    /// Counts the blocks of one writer in one life, from 0 and without gaps.
    BlockNumber(u64), "{}"
);
number!(
    /// The identity of a set of held chunks. Never used twice in a store.
    HoldId(u64), "{}"
);
pub use hdstore::{MapId, StreamId};

macro_rules! random {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

random!(
    /// The random identity of a store, chosen when it is created.
    StoreId
);
random!(
    /// The identity of one boot of the operating system's kernel.
    BootId
);

impl FileNumber {
    /// The name of the chunk file with this number.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("chunk-{self}")
    }

    /// The number in a chunk file's name; `None` for every other name.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<FileNumber> {
        let digits = name.strip_prefix("chunk-")?;
        let number = FileNumber(u32::from_str_radix(digits, 16).ok()?);
        (number.file_name() == name).then_some(number)
    }
}

impl ChunkId {
    /// The id of the first chunk of a life; the others follow. So ids of different lives never meet.
    #[must_use]
    pub const fn first_of(life: LifeNumber) -> ChunkId {
        ChunkId(life.0 << 32)
    }
}

impl BlockNumber {
    /// The number of the block after this one.
    #[must_use]
    pub fn next(self) -> BlockNumber {
        BlockNumber(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_file_is_not_taken_for_a_chunk() {
        assert_eq!(FileNumber::from_file_name("chunk-0000001f"), Some(FileNumber(31)));
        for name in
            ["chunk-1f", "chunk-0000001F", "chunk-+000001f", "chunk-0000001f.tmp", "manifest.0"]
        {
            assert_eq!(FileNumber::from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn identities_print_as_their_files_are_named() {
        assert_eq!(StoreId([0xab; 16]).to_string(), "ab".repeat(16));
        assert_eq!(FileNumber(255).file_name(), "chunk-000000ff");
    }
}
