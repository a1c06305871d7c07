//! Big integers: a length, then two's complement, big-endian and as short as possible, as Java writes them.

use super::DataError;

/// Appends length and bytes of a number.
pub(super) fn append(number: i128, out: &mut Vec<u8>) {
    append_bytes(&number.to_be_bytes(), if number < 0 { 0xff } else { 0 }, out);
}

/// Appends length and bytes of a number that has no sign.
pub(super) fn append_unsigned(number: u128, out: &mut Vec<u8>) {
    let mut bytes = [0; 17];
    bytes[1..].copy_from_slice(&number.to_be_bytes());
    append_bytes(&bytes, 0, out);
}

fn append_bytes(bytes: &[u8], sign: u8, out: &mut Vec<u8>) {
    let is_spare = |pair: &[u8]| pair[0] == sign && (pair[0] ^ pair[1]) & 0x80 == 0;
    let spare = bytes.windows(2).take_while(|pair| is_spare(pair)).count();
    let kept = &bytes[spare..];
    out.extend_from_slice(&(kept.len() as i32).to_be_bytes());
    out.extend_from_slice(kept);
}

/// A big integer that fits 128 bits, with a sign or without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Integer {
    Signed(i128),
    Unsigned(u128),
}

/// Reads the bytes of a number, without its length.
pub(super) fn read(bytes: &[u8]) -> Result<Integer, DataError> {
    let invalid = |reason: String| DataError::Invalid { what: "a big integer", reason };
    let Some(first) = bytes.first() else { return Err(invalid("no byte".to_owned())) };
    let sign: u8 = if first & 0x80 == 0 { 0 } else { 0xff };
    let digits = match bytes {
        [0, digits @ ..] if digits.len() == 16 => digits,
        _ => bytes,
    };
    if digits.len() > 16 {
        return Err(invalid(format!("{} bytes; at most 128 bits are read here", bytes.len())));
    }
    let mut all = [sign; 16];
    all[16 - digits.len()..].copy_from_slice(digits);
    let number = u128::from_be_bytes(all);
    match i128::try_from(number) {
        Err(_) if sign == 0 => Ok(Integer::Unsigned(number)),
        _ => Ok(Integer::Signed(number as i128)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(number: i128) -> Vec<u8> {
        let mut out = Vec::new();
        append(number, &mut out);
        out.split_off(4)
    }

    #[test]
    fn numbers_are_as_short_as_java_makes_them_and_come_back() {
        for (number, bytes) in [
            (0, &[0][..]),
            (-1, &[0xff]),
            (127, &[127]),
            (128, &[0, 128]),
            (-128, &[0x80]),
            (-129, &[0xff, 0x7f]),
            (255, &[0, 255]),
            (-256, &[0xff, 0]),
            (1 << 64, &[1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(bytes_of(number), bytes, "{number}");
            assert_eq!(read(bytes), Ok(Integer::Signed(number)));
        }
        for number in [i128::MIN, i128::MAX] {
            assert_eq!(read(&bytes_of(number)), Ok(Integer::Signed(number)));
        }
        for number in [u128::MAX, 1 << 127] {
            let mut out = Vec::new();
            append_unsigned(number, &mut out);
            assert_eq!((&out[..4], out.len()), (&[0, 0, 0, 17][..], 21));
            assert_eq!(read(&out[4..]), Ok(Integer::Unsigned(number)));
        }
        let mut small = Vec::new();
        append_unsigned(200, &mut small);
        assert_eq!(small, [0, 0, 0, 2, 0, 200]);
        assert!(read(&[1; 17]).is_err() && read(&[]).is_err());
    }
}
