//! What a run puts and gets: keys, values, the choice of keys, the YCSB mixes.
//!
//! Everything here is a pure function of a seed, so that a run can be repeated and any value read back
//! can be checked byte by byte. No clocks, no store. See docs/benchmarking.md, "Workloads".

pub mod choice;
pub mod keys;
pub mod latest;
pub mod mix;
pub mod values;

/// A bijection of 64-bit numbers that spreads neighbours (the finaliser of splitmix64).
pub fn spread(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
