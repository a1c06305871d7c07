//! What becomes of a change, before it is done: for those who have a say (interceptors, the map's database).
//!
//! Invariant: what is foreseen of a key that is claimed comes true. Nobody else changes the key; an entry
//! that expires meanwhile changes nothing of what was decided, since the decision is not made again.

use super::core::MapCore;
use super::op::{Going, Kind, Op};
use crate::error::MapError;
use crate::scratch::{self, Scratch};

type Stored = Option<Vec<u8>>;

/// A change as it is to be.
pub(super) enum Foreseen {
    /// As it was asked for: nobody has a say.
    Same,
    /// It does not happen, since this is there; nothing, where it is `None`.
    Unmet(Stored),
    /// This is put: an entry of which nothing else is known.
    Put(Scratch),
    /// What is there is removed, and that returned.
    Remove { removed: Stored, returned: Stored },
}

impl MapCore {
    /// What becomes of a change of a key that is claimed.
    pub(super) fn foresee(&self, key: &[u8], op: &Op<'_>) -> Result<Foreseen, MapError> {
        let is_stored = self.is_stored();
        let value = match op.kind {
            _ if !is_stored && !self.interceptors.are_there() => return Ok(Foreseen::Same),
            Kind::Put { value, .. } => Some(value),
            Kind::Remove(Going::Removed | Going::Evicted) => None,
            Kind::Remove(Going::Cleared) | Kind::SetTtl(_) | Kind::Load(_) => {
                return Ok(Foreseen::Same);
            }
        };
        let old = self.read(key, |seen| Ok(seen.value.to_vec()))?;
        if !op.when.holds(old.as_deref()) {
            return Ok(Foreseen::Unmet(old));
        }
        if let Some(value) = value {
            let mut entry = scratch::take();
            entry.extend_from_slice(value.plain());
            self.intercept_put(key, old.as_deref(), &mut entry)?;
            return Ok(Foreseen::Put(entry));
        }
        // Who does not ask what was there has not had it loaded: the database may have it.
        let may_be_stored = op.kind == Kind::Remove(Going::Removed) && !op.returns_old;
        if old.is_none() && !(is_stored && may_be_stored) {
            return Ok(Foreseen::Unmet(None));
        }
        let returned = self.intercept_remove(key, old.clone())?;
        Ok(Foreseen::Remove { removed: old, returned })
    }
}
