//! Keys: the bytes of the key with a given index, distinct for distinct indexes.
//!
//! Owns that distinctness: a key of k bytes starts with a bijection of the index on 8k bits (64 at
//! most). Called for every operation; a few nanoseconds for an 8 B key.

use super::spread;

/// Makes the keys of one data set.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    size: usize,
    seed: u64,
}

impl Keys {
    /// Keys of `size` bytes, 1 to 65,535.
    pub fn new(size: u32, seed: u64) -> Keys {
        assert!((1..=65_535).contains(&size), "key size out of range");
        Keys { size: size as usize, seed: spread(seed) }
    }

    /// Bytes of a key.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes the key with this index; `out` becomes exactly the key.
    pub fn write(&self, index: u64, out: &mut Vec<u8>) {
        out.clear();
        self.append(index, out);
    }

    /// Appends the key with this index.
    pub fn append(&self, index: u64, out: &mut Vec<u8>) {
        if self.size < 8 {
            let bits = 8 * self.size as u32;
            let mixed = narrow_bijection(index, bits, self.seed);
            out.extend_from_slice(&mixed.to_be_bytes()[8 - self.size..]);
            return;
        }
        let first = spread(index ^ self.seed);
        out.extend_from_slice(&first.to_be_bytes());
        let mut left = self.size - 8;
        let mut word = first;
        while left > 0 {
            word = spread(word);
            let take = left.min(8);
            out.extend_from_slice(&word.to_be_bytes()[..take]);
            left -= take;
        }
    }
}

/// A bijection of the numbers below 2^bits: odd multiplication and right shifts are both reversible.
fn narrow_bijection(index: u64, bits: u32, seed: u64) -> u64 {
    let mask = (1_u64 << bits) - 1;
    let mut x = (index ^ seed) & mask;
    for odd in [0x9e37_79b9_7f4a_7c15_u64, 0xbf58_476d_1ce4_e5b9] {
        x = x.wrapping_mul(odd) & mask;
        x ^= x >> (bits / 2);
    }
    x
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_of_every_size_are_distinct() {
        for size in [1, 2, 3, 7, 8, 9, 16, 31] {
            let keys = Keys::new(size, 7);
            let count = if size == 1 { 256 } else { 65_536 };
            let mut seen = HashSet::new();
            let mut key = Vec::new();
            for index in 0..count {
                keys.write(index, &mut key);
                assert_eq!(key.len(), size as usize);
                assert!(seen.insert(key.clone()), "size {size}, index {index} repeats a key");
            }
        }
    }
}
