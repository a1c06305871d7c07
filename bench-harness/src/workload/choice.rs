//! The choice of keys: uniform, or YCSB's scrambled zipfian.
//!
//! The zipfian generator is Gray's (SIGMOD 1994), as YCSB has it: constant 0.99, its zeta summed once
//! for the item count and shared by all threads. Ranks are scattered over the indexes by a hash, so that
//! hot keys are no neighbours. One draw costs a random number and, for zipfian, a power. No allocation
//! after `new`.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::spread;
use crate::cli::settings::KeyChoice;

/// YCSB's zipfian constant.
const THETA: f64 = 0.99;

/// The random source of one thread, by seed and thread.
pub fn thread_random(seed: u64, thread: u64) -> SmallRng {
    SmallRng::seed_from_u64(spread(seed) ^ spread(thread.wrapping_mul(0x5851_f42d_4c95_7f2d)))
}

/// Draws indexes below an item count.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Every index alike.
    Uniform {
        /// Item count.
        items: u64,
    },
    /// Scrambled zipfian.
    Zipfian(Zipfian),
}

impl Choice {
    /// A choice among `items` indexes; "latest" is a matter of recency and draws its zipfian ranks
    /// elsewhere.
    pub fn over(items: u64, choice: KeyChoice) -> Choice {
        match choice {
            KeyChoice::Uniform => Choice::Uniform { items },
            KeyChoice::Zipfian | KeyChoice::Latest => Choice::Zipfian(Zipfian::new(items)),
        }
    }

    /// How many indexes there are to draw from.
    pub fn items(&self) -> u64 {
        match self {
            Choice::Uniform { items } => *items,
            Choice::Zipfian(zipfian) => zipfian.items,
        }
    }

    /// Draws one index.
    #[inline]
    pub fn draw(&self, random: &mut SmallRng) -> u64 {
        match self {
            Choice::Uniform { items } => random.random_range(0..*items),
            Choice::Zipfian(zipfian) => {
                // A 64-bit multiplication maps the hash to the range without the bias of a modulus.
                let scattered = spread(zipfian.rank(random));
                ((u128::from(scattered) * u128::from(zipfian.items)) >> 64) as u64
            }
        }
    }
}

/// Zipfian ranks from 0, the most frequent, to `items` - 1.
#[derive(Clone, Debug)]
pub struct Zipfian {
    items: u64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// Prepares the constants.
    pub fn new(items: u64) -> Zipfian {
        assert!(items > 0, "a zipfian choice needs an item");
        let zeta = zeta(items);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - zeta_of_two() / zeta);
        Zipfian { items, zeta, alpha: 1.0 / (1.0 - THETA), eta }
    }

    /// Draws a rank.
    #[inline]
    pub fn rank(&self, random: &mut SmallRng) -> u64 {
        let u: f64 = random.random();
        let uz = u * self.zeta;
        if uz < 1.0 || self.items == 1 {
            return 0;
        }
        if uz < zeta_of_two() {
            return 1;
        }
        let rank = self.items as f64 * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.items - 1)
    }
}

fn zeta_of_two() -> f64 {
    1.0 + 0.5_f64.powf(THETA)
}

/// The sum of i^-theta for i from 1: exactly up to a million, then by Euler and Maclaurin, whose error
/// there is below 1e-12.
fn zeta(items: u64) -> f64 {
    const EXACT: u64 = 1_000_000;
    let exact: f64 = (1..=items.min(EXACT)).map(|i| (i as f64).powf(-THETA)).sum();
    if items <= EXACT {
        return exact;
    }
    let (from, to) = (EXACT as f64, items as f64);
    let integral = (to.powf(1.0 - THETA) - from.powf(1.0 - THETA)) / (1.0 - THETA);
    exact + integral + (to.powf(-THETA) - from.powf(-THETA)) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipfian_ranks_fall_off_as_the_law_says() {
        let zipfian = Zipfian::new(1000);
        let mut random = thread_random(1, 0);
        let draws = 200_000;
        let mut counts = vec![0_u32; 1000];
        for _ in 0..draws {
            counts[zipfian.rank(&mut random) as usize] += 1;
        }
        for rank in [0_usize, 1] {
            let expected = ((rank + 1) as f64).powf(-THETA) / zeta(1000) * f64::from(draws);
            let found = f64::from(counts[rank]);
            assert!((found / expected - 1.0).abs() < 0.05, "rank {rank}: {found} for {expected}");
        }
        let top: u32 = counts[..100].iter().sum();
        let share = f64::from(top) / f64::from(draws);
        let expected = zeta(100) / zeta(1000);
        assert!((share - expected).abs() < 0.03, "the top tenth has {share}, expected {expected}");
    }

    #[test]
    fn the_short_cut_of_zeta_agrees_with_the_sum() {
        let sum: f64 = (1..=3_000_000_u64).map(|i| (i as f64).powf(-THETA)).sum();
        assert!((zeta(3_000_000) - sum).abs() < 1e-6);
    }

    #[test]
    fn draws_stay_below_the_item_count_and_repeat_with_the_seed() {
        for items in [1, 2, 3, 1000] {
            for choice in [Choice::Uniform { items }, Choice::Zipfian(Zipfian::new(items))] {
                let draw = |thread| {
                    let mut random = thread_random(9, thread);
                    (0..1000).map(|_| choice.draw(&mut random)).collect::<Vec<u64>>()
                };
                assert!(draw(0).iter().all(|&index| index < items));
                assert_eq!(draw(0), draw(0));
                assert!(items < 3 || draw(0) != draw(1), "two threads draw the same");
            }
        }
    }
}
