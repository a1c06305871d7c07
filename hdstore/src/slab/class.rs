//! Size classes: which slot size a need is rounded up to.
//!
//! Steps of 8 bytes up to 128, then sixteen steps per doubling up to 32 KiB: from 128 B on at most 1/16 is
//! rounding, below it at most 7 bytes (a slot starts with two atomic words, so it cannot be finer than 8).
//! What is larger is a large slot (`slab/large.rs`). The budget stands in `docs/memory.md`.

/// A size class, 0 to [`CLASSES`] - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(pub(crate) u8);

/// The smallest slot: a header and eight bytes.
pub(crate) const SLOT_MIN: u32 = 24;
/// The largest slot of a slab.
pub(crate) const SLOT_MAX: u32 = 32 * 1024;
const LINEAR_MAX: u32 = 128;
const LINEAR: u32 = (LINEAR_MAX - SLOT_MIN) / 8 + 1;
const DOUBLINGS: u32 = SLOT_MAX.ilog2() - LINEAR_MAX.ilog2();
/// Number of classes.
pub(crate) const CLASSES: usize = (LINEAR + DOUBLINGS * 16) as usize;

static SLOT_BYTES: [u32; CLASSES] = {
    let mut bytes = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        bytes[class] = Class(class as u8).reckoned_slot_bytes();
        class += 1;
    }
    bytes
};

impl Class {
    /// The class of the smallest slot that holds `need` bytes; `None` when only a large slot does.
    #[inline]
    pub(crate) fn of(need: u64) -> Option<Class> {
        if need > u64::from(SLOT_MAX) {
            return None;
        }
        let need = (need as u32).max(SLOT_MIN);
        if need <= LINEAR_MAX {
            return Some(Class(((need - SLOT_MIN).div_ceil(8)) as u8));
        }
        let doubling = (need - 1).ilog2() - LINEAR_MAX.ilog2();
        let step = (LINEAR_MAX << doubling) / 16;
        let index = (need - (LINEAR_MAX << doubling)).div_ceil(step) - 1;
        Some(Class((LINEAR + doubling * 16 + index) as u8))
    }

    /// Bytes of a slot of this class, a multiple of 8.
    ///
    /// # Panics
    /// When there is no such class: a page's entry is broken then.
    #[inline]
    pub(crate) fn slot_bytes(self) -> u32 {
        SLOT_BYTES[usize::from(self.0)]
    }

    const fn reckoned_slot_bytes(self) -> u32 {
        let class = self.0 as u32;
        if class < LINEAR {
            return SLOT_MIN + class * 8;
        }
        let (doubling, index) = ((class - LINEAR) / 16, (class - LINEAR) % 16);
        (LINEAR_MAX << doubling) + (index + 1) * ((LINEAR_MAX << doubling) / 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_stays_within_its_bound_for_every_size() {
        for need in 17..=u64::from(SLOT_MAX) {
            let class = Class::of(need).expect("a slab holds it");
            let slot = u64::from(class.slot_bytes());
            assert!(slot >= need && slot.is_multiple_of(8), "{need} in {slot}");
            let waste = slot - need;
            assert!(waste <= 7 || waste * 16 <= slot, "{need} wastes {waste}");
            if class.0 > 0 {
                assert!(
                    u64::from(Class(class.0 - 1).slot_bytes()) < need,
                    "{need} fits a smaller class"
                );
            }
        }
        assert_eq!(Class::of(u64::from(SLOT_MAX) + 1), None);
        assert_eq!(Class((CLASSES - 1) as u8).slot_bytes(), SLOT_MAX);
    }

    #[test]
    fn a_239_byte_value_costs_at_most_six_percent_of_rounding() {
        let need = 16 + 8 + 239;
        let slot = Class::of(need).expect("a slab holds it").slot_bytes();
        assert!(u64::from(slot) * 100 <= need * 106, "{slot}");
    }
}
