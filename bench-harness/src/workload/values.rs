//! Values: bytes that say which key, version and seed they belong to, so that any byte can be checked.
//!
//! A value of 4 bytes or more starts with its version; every following 8 bytes depend on seed, key index
//! and version. Shorter values are the low bytes of the version. Values do not compress. Called for
//! every put (about 0.3 ns a byte) and for every entry that a restart checks. See docs/benchmarking.md,
//! "Workloads".

use super::spread;

/// Makes and checks the values of one data set.
#[derive(Clone, Copy, Debug)]
pub struct Values {
    size: usize,
    seed: u64,
}

/// What a value read back turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// One of the versions that may be there: acknowledged last, or issued since.
    Good,
    /// Older than the version acknowledged last.
    Lost,
    /// Never issued for this key.
    Wrong,
}

impl Values {
    /// Values of `size` bytes.
    pub fn new(size: u32, seed: u64) -> Values {
        Values { size: size as usize, seed: spread(seed ^ 0x76_616c_7565) }
    }

    /// Bytes of a value.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes the value of a key at a version, from 1; `out` becomes exactly the value.
    pub fn write(&self, index: u64, version: u32, out: &mut Vec<u8>) {
        out.clear();
        self.append(index, version, out);
    }

    /// Appends the value of a key at a version.
    pub fn append(&self, index: u64, version: u32, out: &mut Vec<u8>) {
        let stamp = version.to_le_bytes();
        if self.size <= 4 {
            out.extend_from_slice(&stamp[..self.size]);
            return;
        }
        let start = out.len();
        out.resize(start + self.size, 0);
        let value = &mut out[start..];
        value[..4].copy_from_slice(&stamp);
        let base = self.base(index, version);
        let mut words = value[4..].chunks_exact_mut(8);
        let mut ordinal = 0;
        for word in &mut words {
            word.copy_from_slice(&body_word(base, ordinal).to_le_bytes());
            ordinal += 1;
        }
        let rest = words.into_remainder();
        let last = body_word(base, ordinal).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }

    /// Judges a whole value against the versions acknowledged and issued for its key.
    pub fn judge(&self, index: u64, value: &[u8], acknowledged: u32, issued: u32) -> Judgement {
        if value.len() != self.size {
            return Judgement::Wrong;
        }
        if self.size < 4 {
            return self.judge_short(value, acknowledged, issued);
        }
        let version = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
        if version == 0 || version > issued || !self.body_matches(index, version, value) {
            return Judgement::Wrong;
        }
        if version < acknowledged { Judgement::Lost } else { Judgement::Good }
    }

    /// True if the value is whole for some version of this key: what a reader beside writers can check.
    pub fn is_whole(&self, index: u64, value: &[u8]) -> bool {
        if value.len() != self.size {
            return false;
        }
        if self.size <= 4 {
            return true;
        }
        let version = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
        self.ends_match(index, version, value)
    }

    /// Checks the first and last words only: cheap enough for every get of a measured run, and a value
    /// mixed of two versions, or cut, does not pass.
    fn ends_match(&self, index: u64, version: u32, value: &[u8]) -> bool {
        let base = self.base(index, version);
        let body = &value[4..];
        let last = (body.len() - 1) / 8;
        let same = |ordinal: usize| {
            let part = &body[ordinal * 8..body.len().min(ordinal * 8 + 8)];
            body_word(base, ordinal as u64).to_le_bytes()[..part.len()] == *part
        };
        same(0) && same(last)
    }

    fn body_matches(&self, index: u64, version: u32, value: &[u8]) -> bool {
        let base = self.base(index, version);
        value[4..].chunks(8).enumerate().all(|(ordinal, part)| {
            body_word(base, ordinal as u64).to_le_bytes()[..part.len()] == *part
        })
    }

    /// Values under 4 bytes hold their version modulo 2^(8 x size): the newest that fits is assumed.
    fn judge_short(&self, value: &[u8], acknowledged: u32, issued: u32) -> Judgement {
        let fits = |version: u32| version.to_le_bytes()[..self.size] == *value;
        let newest = acknowledged.max(1)..=issued;
        if newest.rev().take(1 << 16).any(fits) {
            return Judgement::Good;
        }
        if (1..acknowledged).rev().take(1 << 24).any(fits) {
            return Judgement::Lost;
        }
        Judgement::Wrong
    }

    fn base(&self, index: u64, version: u32) -> u64 {
        spread(self.seed ^ spread(index) ^ (u64::from(version) << 17))
    }
}

fn body_word(base: u64, ordinal: u64) -> u64 {
    let word = base.wrapping_add(ordinal.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_anywhere_is_seen() {
        for size in [4, 5, 11, 12, 13, 100, 239] {
            let values = Values::new(size, 3);
            let mut value = Vec::new();
            values.write(42, 7, &mut value);
            assert_eq!(values.judge(42, &value, 7, 7), Judgement::Good);
            assert!(values.is_whole(42, &value));
            for bit in 0..value.len() * 8 {
                let mut flipped = value.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(
                    values.judge(42, &flipped, 7, 7),
                    Judgement::Good,
                    "size {size}, bit {bit}"
                );
            }
        }
    }

    #[test]
    fn an_old_version_is_lost_and_a_future_or_foreign_one_is_wrong() {
        let values = Values::new(64, 3);
        let mut value = Vec::new();
        values.write(5, 4, &mut value);
        assert_eq!(values.judge(5, &value, 4, 5), Judgement::Good);
        assert_eq!(values.judge(5, &value, 3, 4), Judgement::Good);
        assert_eq!(values.judge(5, &value, 5, 6), Judgement::Lost);
        assert_eq!(values.judge(5, &value, 2, 3), Judgement::Wrong);
        assert_eq!(values.judge(6, &value, 4, 4), Judgement::Wrong);
        assert_eq!(Values::new(64, 4).judge(5, &value, 4, 4), Judgement::Wrong);
        assert_eq!(values.judge(5, &value[..63], 4, 4), Judgement::Wrong);
    }

    #[test]
    fn values_shorter_than_a_version_are_judged_by_what_they_hold() {
        let values = Values::new(1, 3);
        let mut value = Vec::new();
        values.write(5, 0x0102, &mut value);
        assert_eq!(value, [2]);
        assert_eq!(values.judge(5, &value, 0x0102, 0x0103), Judgement::Good);
        assert_eq!(values.judge(5, &value, 0x0103, 0x0103), Judgement::Lost);
        assert_eq!(values.judge(5, &[9], 2, 3), Judgement::Wrong);
        assert_eq!(Values::new(0, 3).judge(5, &[], 2, 3), Judgement::Good);
    }

    #[test]
    fn a_value_mixed_of_two_versions_is_not_whole() {
        let values = Values::new(100, 3);
        let (mut old, mut new) = (Vec::new(), Vec::new());
        values.write(9, 1, &mut old);
        values.write(9, 2, &mut new);
        new[50..].copy_from_slice(&old[50..]);
        assert!(!values.is_whole(9, &new));
    }
}
