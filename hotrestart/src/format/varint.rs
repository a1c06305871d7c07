//! Numbers of 32 bits in one to five bytes: seven bits a byte, lowest first, the high bit set if more
//! follow.
//!
//! Invariant: a number has exactly one encoding; longer ones are refused, so that a decoded record encodes
//! to the bytes it came from. Costs a nanosecond for a one-byte number, the usual case.
//! Called by the record format only. See `docs/format.md`, section 9.

/// The most bytes that a number takes.
pub const VARINT_LEN_MAX: usize = 5;

/// How many bytes `value` takes.
#[inline]
#[must_use]
pub const fn varint_len(value: u32) -> usize {
    1 + (value >= 1 << 7) as usize
        + (value >= 1 << 14) as usize
        + (value >= 1 << 21) as usize
        + (value >= 1 << 28) as usize
}

/// Writes `value` at `at` and returns the place after it.
///
/// # Panics
/// When `out` is too short.
#[inline]
pub fn write_varint(out: &mut [u8], mut at: usize, mut value: u32) -> usize {
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

/// Reads the number at `at`: the value and the place after it. `None` when the bytes end before the number
/// does, when it does not fit 32 bits, or when it is written longer than it needs.
#[inline]
#[must_use]
pub fn read_varint(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((u32::from(first), at + 1));
    }
    let second = *bytes.get(at + 1)?;
    if (1..0x80).contains(&second) {
        return Some((u32::from(first & 0x7f) | u32::from(second) << 7, at + 2));
    }
    read_long(bytes, at, first)
}

#[cold]
fn read_long(bytes: &[u8], at: usize, first: u8) -> Option<(u32, usize)> {
    let mut value = u32::from(first & 0x7f);
    for index in 1..VARINT_LEN_MAX {
        let byte = *bytes.get(at + index)?;
        if index == VARINT_LEN_MAX - 1 && byte > 0x0f {
            return None;
        }
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return (byte != 0).then_some((value, at + index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_change_where_seven_bits_are_full() {
        for (value, len) in
            [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (1 << 28, 5), (u32::MAX, 5)]
        {
            assert_eq!(varint_len(value), len, "{value}");
        }
    }

    #[test]
    fn a_longer_spelling_of_a_number_is_refused() {
        assert_eq!(read_varint(&[0x80, 0x00], 0), None);
        assert_eq!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0x10], 0), None);
        assert_eq!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0x8f, 0x01], 0), None);
        assert_eq!(read_varint(&[0x80], 0), None);
        assert_eq!(read_varint(&[], 0), None);
    }

    proptest! {
        #[test]
        fn every_number_comes_back(value: u32, before in 0_usize..3) {
            let mut out = [0; 8];
            let end = write_varint(&mut out, before, value);
            prop_assert_eq!(end - before, varint_len(value));
            prop_assert_eq!(read_varint(&out, before), Some((value, end)));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes: [u8; 6]) {
            if let Some((value, end)) = read_varint(&bytes, 0) {
                let mut out = [0; 8];
                prop_assert_eq!(write_varint(&mut out, 0, value), end);
                prop_assert_eq!(&out[..end], &bytes[..end]);
            }
        }
    }
}
