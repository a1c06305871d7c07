//! The fingerprint of a set of entries, whatever their order.
//!
//! The sum modulo 2^128 of XXH3-128 (seed 0) over, for each entry: key length (8 bytes, little-endian),
//! key, value length (8 bytes), value. Printed as 32 hexadecimal digits. An entry can be taken out
//! again, so that the last line of a key wins. Anybody can recompute it from the file.

use xxhash_rust::xxh3::Xxh3;

/// A digest under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u128);

impl Digest {
    /// Adds an entry by its hash.
    pub fn add(&mut self, entry: u128) {
        self.0 = self.0.wrapping_add(entry);
    }

    /// Takes an entry out again.
    pub fn remove(&mut self, entry: u128) {
        self.0 = self.0.wrapping_sub(entry);
    }

    /// The printed form.
    pub fn text(&self) -> String {
        format!("{:032x}", self.0)
    }
}

/// The hash of one entry.
pub fn entry_hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(&(value.len() as u64).to_le_bytes());
    hasher.update(value);
    hasher.digest128()
}

/// The hash of a key alone, by which its last line is found.
pub fn key_hash(key: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_matter_and_the_border_of_key_and_value_does() {
        let (mut one, mut other) = (Digest::default(), Digest::default());
        for entry in [(b"a", b"1"), (b"b", b"2")] {
            one.add(entry_hash(entry.0, entry.1));
        }
        for entry in [(b"b", b"2"), (b"a", b"1")] {
            other.add(entry_hash(entry.0, entry.1));
        }
        assert_eq!(one, other);
        assert_ne!(entry_hash(b"ab", b"c"), entry_hash(b"a", b"bc"));
        one.remove(entry_hash(b"a", b"1"));
        one.remove(entry_hash(b"b", b"2"));
        assert_eq!(one.text(), "0".repeat(32));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(format!("{:032x}", key_hash(b"")), "99aa06d3014798d86001c324468d497f");
    }
}
