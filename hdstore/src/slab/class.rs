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
/// Number of classes that entries use.
pub(crate) const ENTRY_CLASSES: usize = (LINEAR + DOUBLINGS * 16) as usize;
/// The smallest piece of index memory.
const INDEX_MIN: u32 = 64;
/// Number of all classes. Index memory cannot move, so its pieces, 64 B, 128 B, ... 32 KiB, have classes of
/// their own, the last ones: a page of entries is never held by a piece of the index.
pub(crate) const CLASSES: usize =
    ENTRY_CLASSES + (SLOT_MAX.ilog2() - INDEX_MIN.ilog2() + 1) as usize;

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
        // By shifts: a step is a sixteenth of a power of two, and a division costs as much as all the rest.
        let doubling = (need - 1).ilog2() - LINEAR_MAX.ilog2();
        let step_bits = (LINEAR_MAX / 16).ilog2() + doubling;
        let index = (need - 1 - (LINEAR_MAX << doubling)) >> step_bits;
        Some(Class((LINEAR + doubling * 16 + index) as u8))
    }

    /// The class of a piece of index memory, a power of two from 64 on.
    pub(crate) fn of_index(bytes: u64) -> Class {
        debug_assert!(bytes.is_power_of_two() && bytes >= u64::from(INDEX_MIN));
        Class((ENTRY_CLASSES as u32 + bytes.ilog2() - INDEX_MIN.ilog2()) as u8)
    }

    /// Whether its slots are entries', or what else is taken by its length, and not the index's.
    pub(crate) fn is_of_entries(self) -> bool {
        usize::from(self.0) < ENTRY_CLASSES
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
        if class >= ENTRY_CLASSES as u32 {
            return INDEX_MIN << (class - ENTRY_CLASSES as u32);
        }
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
        assert_eq!(Class((ENTRY_CLASSES - 1) as u8).slot_bytes(), SLOT_MAX);
        for bytes in (6..=15).map(|power| 1 << power) {
            let class = Class::of_index(bytes);
            assert_eq!(u64::from(class.slot_bytes()), bytes);
            assert!(!class.is_of_entries() && usize::from(class.0) < CLASSES);
        }
    }

    #[test]
    fn a_239_byte_value_costs_at_most_six_percent_of_rounding() {
        let need = 16 + 8 + 239;
        let slot = Class::of(need).expect("a slab holds it").slot_bytes();
        assert!(u64::from(slot) * 100 <= need * 106, "{slot}");
    }
}
