//! Index words and the arithmetic of addresses: pure functions.

use crate::hash::IndexHash;
use crate::ids::{Location, Seq};

/// Words of a bucket.
pub(crate) const WORDS: u64 = 8;
/// Bytes of a bucket.
pub(crate) const BUCKET: u64 = 64;

const SEQ_SHIFT: u32 = Location::BITS;
const TAG_SHIFT: u32 = 50;
/// Where the tag stands in a hash: above the bits that choose a bucket of any table of this size.
const HASH_TAG_SHIFT: u32 = IndexHash::BITS - 14;
const TAG_LINK: u64 = (1 << 14) - 1;

/// A word of a bucket: 0 for empty, an entry, or a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    pub(crate) const EMPTY: Word = Word(0);

    /// The word of an entry with this seq, of which the lowest byte is kept.
    #[inline]
    pub(crate) fn entry(tag: u64, seq: Seq, location: Location) -> Word {
        Word(location.0 | (seq.0 & 0xff) << SEQ_SHIFT | tag << TAG_SHIFT)
    }

    pub(crate) fn link(offset: u64) -> Word {
        Word(Location::from_offset(offset).0 | TAG_LINK << TAG_SHIFT)
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(crate) fn is_link(self) -> bool {
        self.0 >> TAG_SHIFT == TAG_LINK
    }

    /// The tag; 0 also for an empty word.
    #[inline]
    pub(crate) fn tag(self) -> u64 {
        self.0 >> TAG_SHIFT
    }

    /// Whether this is an entry with that tag.
    #[inline]
    pub(crate) fn has_tag(self, tag: u64) -> bool {
        self.tag() == tag && self.0 != 0
    }

    #[inline]
    pub(crate) fn location(self) -> Location {
        Location(self.0 & Location::MASK)
    }

    /// Whether the entry's seq may be this one: that it is not, is said without a look at its slot of all but
    /// one in 256.
    #[inline]
    pub(crate) fn may_have(self, seq: Seq) -> bool {
        (self.0 >> SEQ_SHIFT) as u8 == seq.0 as u8
    }

    /// An entry's word, as opposed to an empty one or a link.
    #[inline]
    pub(crate) fn is_entry(self) -> bool {
        !self.is_empty() && !self.is_link()
    }
}

/// The tag of a hash: its top 14 of 48 bits, with the value of links folded away.
#[inline]
pub(crate) fn tag_of(hash: u64) -> u64 {
    let tag = hash >> HASH_TAG_SHIFT;
    if tag == TAG_LINK { TAG_LINK - 1 } else { tag }
}

/// The bucket of a hash in a table of `buckets` buckets, at least one.
#[inline]
pub(crate) fn address(hash: u64, buckets: u64) -> u64 {
    let mask = u64::MAX >> buckets.leading_zeros();
    let bucket = hash & mask;
    if bucket < buckets { bucket } else { bucket & (mask >> 1) }
}

/// The bits that choose a key's second place. They depend on all of the hash, so that neither the home
/// nor the tag says anything about them.
#[inline]
pub(crate) fn second(hash: u64) -> u64 {
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).swap_bytes()
}

/// The bucket that splits when a table of `buckets` buckets gets one more.
pub(crate) fn splits_next(buckets: u64) -> u64 {
    buckets - (1 << buckets.ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_by_one_moves_keys_only_from_the_split_bucket_to_the_new_one() {
        for buckets in 1..200u64 {
            let split = splits_next(buckets);
            for step in 0..2_000u64 {
                let hash = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let (before, after) = (address(hash, buckets), address(hash, buckets + 1));
                assert!(before < buckets);
                assert!(before == after || (before == split && after == buckets));
            }
        }
    }

    #[test]
    fn a_tag_is_never_that_of_a_link_and_no_entry_is_the_empty_word() {
        assert_ne!(tag_of((1 << IndexHash::BITS) - 1), TAG_LINK);
        let word = Word::entry(0, Seq(0x1_00), Location(1));
        assert!(word.is_entry() && word.has_tag(0) && !Word::EMPTY.has_tag(0));
        assert!(word.may_have(Seq(0x7_00)) && !word.may_have(Seq(0x1_01)));
        assert!(Word::link(64).is_link() && !Word::link(64).is_entry());
    }
}
