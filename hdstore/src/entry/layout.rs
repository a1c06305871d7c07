//! The layout of a slot (`docs/format.md`, section 2): two atomic words, then expiry, key and value.
//!
//! Pure arithmetic on words; the bytes are touched in `entry/view.rs` alone.

use crate::ids::Seq;

/// Bytes of a slot's header.
pub(crate) const HEADER: u64 = 16;
/// Bytes of the expiry time, where an entry has one.
pub(crate) const EXPIRY: u64 = 8;
/// The longest key, in bytes.
pub const KEY_MAX: usize = 65_535;
/// The longest value, in bytes, whatever the memory limit.
pub const VALUE_MAX: u64 = 1 << 30;

const FLAGS_SHIFT: u32 = 56;
const SEQ_MASK: u64 = (1 << 48) - 1;

/// The entry has an expiry time.
pub(crate) const HAS_EXPIRY: u8 = 1;

const _: () = assert!(HEADER == 16 && EXPIRY == 8, "the byte budget of docs/format.md");

/// The first word of a slot.
#[inline]
pub(crate) fn word0(seq: Seq, flags: u8) -> u64 {
    debug_assert!(seq <= Seq::MAX);
    seq.0 | u64::from(flags) << FLAGS_SHIFT
}

#[inline]
pub(crate) fn seq_of(word0: u64) -> Seq {
    Seq(word0 & SEQ_MASK)
}

#[inline]
pub(crate) fn flags_of(word0: u64) -> u8 {
    (word0 >> FLAGS_SHIFT) as u8
}

/// The second word of a slot.
#[inline]
pub(crate) fn word1(key_len: usize, value_len: u64) -> u64 {
    debug_assert!(key_len <= KEY_MAX && value_len <= VALUE_MAX);
    value_len | (key_len as u64) << 32
}

#[inline]
pub(crate) fn value_len_of(word1: u64) -> u64 {
    word1 & 0xffff_ffff
}

#[inline]
pub(crate) fn key_len_of(word1: u64) -> u64 {
    (word1 >> 32) & 0xffff
}

/// Bytes that an entry needs.
#[inline]
pub(crate) fn need(key_len: usize, value_len: u64, has_expiry: bool) -> u64 {
    HEADER + if has_expiry { EXPIRY } else { 0 } + key_len as u64 + value_len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_give_back_what_went_in() {
        let word = word0(Seq::MAX, HAS_EXPIRY);
        assert_eq!((seq_of(word), flags_of(word)), (Seq::MAX, HAS_EXPIRY));
        let word = word1(KEY_MAX, VALUE_MAX);
        assert_eq!((key_len_of(word), value_len_of(word)), (65_535, 1 << 30));
    }
}
