//! Incompatible features: bits that say what a reader must understand before it may touch a store.
//!
//! Invariant: what this version does not know it refuses by its name. The manifest's and
//! the chunk's decoders call it. See `docs/format.md`, sections 6 and 7.

use std::fmt;

/// The bits of the feature field that this version understands.
pub const KNOWN_FEATURES: u32 = COMPACTION;

/// Chunks of a life may have been freed; the manifest says which blocks were in them.
pub const COMPACTION: u32 = 2;

const NAMES: [(u32, &str); 4] = [
    (1, "encryption"),
    (COMPACTION, "compaction frees chunks"),
    (4, "epochs and floors"),
    (8, "group records"),
];

/// Feature bits that this version does not know, printed by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownFeatures(pub u32);

impl UnknownFeatures {
    /// The unknown bits among `features`, if there are any.
    #[must_use]
    pub fn among(features: u32) -> Option<UnknownFeatures> {
        let unknown = features & !KNOWN_FEATURES;
        (unknown != 0).then_some(UnknownFeatures(unknown))
    }
}

impl fmt::Display for UnknownFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for bit in (0..32).map(|shift| 1_u32 << shift).filter(|bit| self.0 & bit != 0) {
            match NAMES.iter().find(|(known, _)| *known == bit) {
                Some((_, name)) => write!(f, "{separator}{name}")?,
                None => write!(f, "{separator}feature bit {bit:#x}")?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_feature_is_refused_by_name() {
        assert_eq!(UnknownFeatures::among(0), None);
        let unknown = UnknownFeatures::among(1 | 8 | 0x100).map(|features| features.to_string());
        assert_eq!(unknown.as_deref(), Some("encryption, group records, feature bit 0x100"));
    }
}
