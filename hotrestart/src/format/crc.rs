//! CRC-32C: the one checksum of the format, and the one place that names who reckons it.
//!
//! Callers: everything that writes or checks bytes of a store. Cost: by carry-less multiplication and the
//! processor's CRC step where it has both, else by tables; an append also sets up a sum's state.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC-32C of `bytes`.
#[inline]
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The CRC-32C of what gave `crc`, followed by `bytes`.
#[must_use]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    // A sum's state is its complement, with nothing else to carry on.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    digest.finalize() as u32
}

/// The CRC-32C of what gave `crc`, followed by `len` bytes that gave `next`.
#[must_use]
pub fn crc32c_combine(crc: u32, next: u32, len: u64) -> u32 {
    let (crc, next) = (u64::from(crc), u64::from(next));
    crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, crc, next, len) as u32
}

/// What must come before `bytes` for them to give `crc`: what `crc32c_append` was begun with.
#[must_use]
pub fn crc32c_before(crc: u32, bytes: &[u8]) -> u32 {
    // Zeros move what came before on as powers of x do, and modulo this polynomial, (x + 1) times a primitive
    // one of degree 31, these come round after so many: to go on up to there is to go back.
    const PERIOD: u64 = (1 << 31) - 1;
    crc32c_combine(crc ^ crc32c(bytes), 0, PERIOD - bytes.len() as u64 % PERIOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as the polynomial says.
    fn plainly(mut crc: u32, bytes: &[u8]) -> u32 {
        crc = !crc;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn every_length_and_every_cut_gives_the_sum_that_the_polynomial_says() {
        let bytes: Vec<u8> =
            (0..5_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of RFC 3720");
        for len in (0..600).chain([1_007, 1_024, 4_095, 4_096, 4_097, 5_000]) {
            let whole = plainly(0, &bytes[..len]);
            assert_eq!(crc32c(&bytes[..len]), whole, "{len} bytes");
            for cut in [0, 1, 8, 33, len / 2, len.saturating_sub(1), len] {
                let cut = cut.min(len);
                let (first, rest) = bytes[..len].split_at(cut);
                assert_eq!(crc32c_append(crc32c(first), rest), whole, "{len} bytes cut at {cut}");
                let combined = crc32c_combine(crc32c(first), crc32c(rest), rest.len() as u64);
                assert_eq!(combined, whole, "{len} bytes, combined at {cut}");
                assert_eq!(crc32c_before(whole, rest), crc32c(first), "{len} bytes, back to {cut}");
            }
        }
    }
}
