//! Types for identities, so that offsets, ids and numbers cannot be mixed.

use std::fmt;

/// A map's number. It is given once and never reused, also after the map is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MapId(pub u32);

/// A stream: the unit of order and durability. A key of a map lives in exactly one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// The place of a record in its stream's history: newest wins. 48 bits; 0 stands for "none yet".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// The highest sequence number that a slot and a record can hold.
    pub const MAX: Seq = Seq((1 << 48) - 1);
}

impl fmt::Display for MapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where a slot lies in its node's arena: the byte offset divided by 8 (42 bits). 0 is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Location(pub(crate) u64);

impl Location {
    pub(crate) const BITS: u32 = 42;
    pub(crate) const MASK: u64 = (1 << Self::BITS) - 1;

    pub(crate) fn from_offset(offset: u64) -> Location {
        debug_assert!(offset.is_multiple_of(8) && offset >> 3 <= Self::MASK);
        Location(offset >> 3)
    }

    pub(crate) fn offset(self) -> u64 {
        self.0 << 3
    }
}
