//! Varints: seven bits a byte, the lowest first, as short as possible. So each number has one form.

/// Why bytes are no varint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadVarint {
    /// They end before it does.
    TooShort,
    /// It is longer than it must be.
    Padded,
    /// It has more bits than it may.
    TooLarge,
}

/// Appends a number.
#[inline]
pub(crate) fn append(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A number of so many bits at most, and what comes behind it.
#[inline]
pub(crate) fn split(bytes: &[u8], bits: u32) -> Result<(u64, &[u8]), BadVarint> {
    let longest = bits.div_ceil(7) as usize;
    let mut number: u128 = 0;
    for (index, byte) in bytes.iter().take(longest).enumerate() {
        number |= u128::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if *byte == 0 && index > 0 {
                return Err(BadVarint::Padded);
            }
            if number >> bits != 0 {
                return Err(BadVarint::TooLarge);
            }
            return Ok((number as u64, &bytes[index + 1..]));
        }
    }
    Err(if bytes.len() < longest { BadVarint::TooShort } else { BadVarint::TooLarge })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_has_one_form_and_no_more_bits_than_it_may(
            number in any::<u64>(),
            shift in 0..64u32,
            bits in 1..=64u32,
        ) {
            let number = number >> shift;
            let mut bytes = Vec::new();
            append(number, &mut bytes);
            let short = split(&bytes[..bytes.len() - 1], 64);
            prop_assert_eq!(short, Err(BadVarint::TooShort));
            bytes.push(9);
            let fits = u128::from(number) >> bits == 0;
            let expected = if fits { Ok((number, &[9][..])) } else { Err(BadVarint::TooLarge) };
            prop_assert_eq!(split(&bytes, bits), expected);
        }

        #[test]
        fn whatever_is_read_as_a_number_is_written_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            if let Ok((number, rest)) = split(&bytes, 64) {
                let mut again = Vec::new();
                append(number, &mut again);
                again.extend_from_slice(rest);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
