//! What becomes of a change, before it is done: for those who have a say (interceptors, the map's database).
//!
//! Invariants: what is foreseen of a key that is claimed comes true. It is decided once, by what was there:
//! what the caller knows of that (it was loaded, and memory may have had no room for it), else what memory
//! has. Nobody else changes the key; an entry that expires meanwhile changes nothing of what was decided.
//!
//! Interceptors are asked here, so it is called where the operation is polled, and never on a runtime of map
//! stores, which they could stop.

use super::core::{Changed, MapCore};
use super::op::{Going, Kind, Life, Op, When};
use crate::error::MapError;
use crate::record::NewValue;
use crate::scratch::{self, Scratch};

/// A value in its stored form, or that there is none.
pub(super) type Stored = Option<Vec<u8>>;

/// A change as it is to be.
pub(super) enum Foreseen {
    /// As it was asked for: nobody has a say.
    Same,
    /// It does not happen, since this is there; nothing, where it is `None`.
    Unmet(Stored),
    /// It happens.
    Met(Decided),
}

/// A change that is decided.
pub(super) struct Decided {
    pub(super) what: What,
    /// What was there, as far as anybody asked.
    pub(super) old: Stored,
}

pub(super) enum What {
    /// An entry of which nothing else is known.
    Put(Scratch, Life),
    /// What is there goes, and this is returned of it.
    Remove(Going, Stored),
}

impl Decided {
    /// Something is put, whatever was there.
    pub(super) fn put(entry: Scratch) -> Decided {
        Decided { what: What::Put(entry, Life::default()), old: None }
    }

    /// What is there goes, whatever it is.
    pub(super) fn removal(going: Going) -> Decided {
        Decided { what: What::Remove(going, None), old: None }
    }

    /// The same for memory.
    pub(super) fn op(&self) -> Op<'_> {
        let kind = match &self.what {
            What::Put(entry, life) => Kind::Put { value: NewValue::new(entry), life: *life },
            What::Remove(going, _) => Kind::Remove(*going),
        };
        Op { kind, when: When::Always, returns_old: false }
    }

    /// What it came to, where memory says whether it had the key.
    pub(super) fn outcome(self, returns_old: bool, was_in_memory: bool) -> Changed {
        match self.what {
            What::Put(entry, _) => {
                let old = self.old.filter(|_| returns_old);
                Changed { is_done: true, old, put: Some(entry) }
            }
            What::Remove(_, returned) => {
                let is_done = was_in_memory || self.old.is_some();
                Changed { is_done, old: returned.filter(|_| returns_old), put: None }
            }
        }
    }
}

impl MapCore {
    /// What becomes of a change of a key that is claimed; `known` is what is there, where the caller knows.
    pub(super) fn foresee(
        &self,
        key: &[u8],
        op: &Op<'_>,
        known: Option<Stored>,
    ) -> Result<Foreseen, MapError> {
        let is_intercepted = self.interceptors.are_there();
        let has_a_say = match op.kind {
            Kind::Put { .. } | Kind::Remove(Going::Removed) => {
                is_intercepted || self.backing.is_some()
            }
            Kind::Remove(Going::Evicted) => is_intercepted,
            Kind::Remove(Going::Cleared) | Kind::SetTtl(_) | Kind::Load(_) => false,
        };
        if !has_a_say {
            return Ok(Foreseen::Same);
        }
        let is_known = known.is_some();
        let old = match known {
            Some(known) => known,
            None => self.read(key, |seen| Ok(seen.value.to_vec()))?,
        };
        if !op.when.holds(old.as_deref()) {
            return Ok(Foreseen::Unmet(old));
        }
        let going = match op.kind {
            Kind::Put { value, life } => {
                let mut entry = scratch::take();
                entry.extend_from_slice(value.plain());
                self.intercept_put(key, old.as_deref(), &mut entry)?;
                return Ok(Foreseen::Met(Decided { what: What::Put(entry, life), old }));
            }
            Kind::Remove(going) => going,
            Kind::SetTtl(_) | Kind::Load(_) => return Ok(Foreseen::Same),
        };
        // Who does not ask what was there has not had it loaded: the database may have it.
        let has_asked = is_known || op.returns_old;
        let may_be_stored = self.is_stored() && going == Going::Removed && !has_asked;
        if old.is_none() && !may_be_stored {
            return Ok(Foreseen::Unmet(None));
        }
        let returned = self.intercept_remove(key, old.clone())?;
        Ok(Foreseen::Met(Decided { what: What::Remove(going, returned), old }))
    }
}
