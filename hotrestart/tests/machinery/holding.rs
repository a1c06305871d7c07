//! Holds in scripts: what a hold keeps is there after any end, with the bytes it had, until it is released.
//!
//! Hazards: a hold that was acknowledged is forgotten; a held chunk is freed, used again or removed, or its
//! stable bytes change; one that was released comes back.

use std::collections::{BTreeMap, BTreeSet};

use hotrestart::io::IoErrorClass;
use hotrestart::io::sim::SimDisk;
use hotrestart::{Hold, HoldError, HoldId, LogFailure, Store};

use crate::script::{Script, Stuck, lock};

/// Turns that a hold is given, before that counts as stuck.
const PATIENCE: u32 = 20_000;
/// Holds at a time.
const HOLDS_MOST: usize = 2;

/// What is held, as far as it was acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Holding {
    /// By hold, its files and the bytes of each that must not change.
    kept: BTreeMap<HoldId, Vec<(String, Vec<u8>)>>,
    /// Holds of stores without a record: they are forgotten when the store ends.
    of_nothing: BTreeSet<HoldId>,
    /// Whether a hold is being made, which a store may find or not.
    is_holding: bool,
    /// The hold that is being released, which a store may find or not.
    releasing: Option<HoldId>,
}

impl Holding {
    fn add(&mut self, hold: &Hold, disk: &SimDisk) {
        let bytes = |name: &str, len: u64| {
            let content = disk.content(name).expect("a held file is there");
            content[..len as usize].to_vec()
        };
        let files = hold.files().iter();
        let files = files.map(|file| (file.name.clone(), bytes(&file.name, file.stable_bytes)));
        self.kept.insert(hold.id(), files.collect());
        if hold.files().is_empty() {
            self.of_nothing.insert(hold.id());
        }
        self.is_holding = false;
    }

    /// Judges what an open store, and its disk, have of it.
    pub fn judge(&self, store: &Store, disk: &SimDisk) -> Result<(), String> {
        let listed: Vec<HoldId> = store.holds().iter().map(|hold| hold.id).collect();
        let is_open = |id: &HoldId| self.releasing == Some(*id);
        for (id, files) in self.kept.iter().filter(|(id, _)| !is_open(id)) {
            if !listed.contains(id) && !self.of_nothing.contains(id) {
                return Err(format!("hold {id} is forgotten: {listed:?}"));
            }
            for (name, bytes) in files {
                let content = disk.content(name);
                if content.is_none_or(|content| !content.starts_with(bytes)) {
                    return Err(format!("{name}, which hold {id} keeps, is gone or changed"));
                }
            }
        }
        let unknown = listed.iter().filter(|id| !self.kept.contains_key(id)).count();
        if unknown > usize::from(self.is_holding) {
            return Err(format!("there are holds that nobody has: {listed:?}"));
        }
        Ok(())
    }

    /// What is held may have any bytes.
    pub fn forget_bytes(&mut self) {
        self.kept.values_mut().for_each(Vec::clear);
    }

    /// From here on what the store lists is what there is.
    pub fn cut(&mut self, store: &Store) {
        let listed: Vec<HoldId> = store.holds().iter().map(|hold| hold.id).collect();
        self.kept.retain(|id, _| listed.contains(id));
        for id in listed {
            self.kept.entry(id).or_default();
        }
        (self.is_holding, self.releasing) = (false, None);
    }
}

impl Script {
    /// Holds what there is, or ends a hold.
    pub fn hold_or_release(&mut self) -> Result<(), Stuck> {
        let ids: Vec<HoldId> = lock(&self.oracle).holding.kept.keys().copied().collect();
        if ids.len() < HOLDS_MOST && (ids.is_empty() || self.random.one_in(2)) {
            lock(&self.oracle).holding.is_holding = true;
            let hold = self.until_held(|store| store.hold())?;
            lock(&self.oracle).holding.add(&hold, &self.world.disk);
        } else {
            let id = ids[self.random.below(ids.len() as u64) as usize];
            lock(&self.oracle).holding.releasing = Some(id);
            let was_held = self.until_held(|store| store.release(id))?;
            assert!(was_held, "hold {id} is forgotten");
            let holding = &mut lock(&self.oracle).holding;
            holding.kept.remove(&id);
            holding.releasing = None;
        }
        self.world.disk.note_step();
        let judged = lock(&self.oracle).judge_holds(self.store(), &self.world.disk);
        judged.unwrap_or_else(|what| panic!("{}: {what}", self.about));
        Ok(())
    }

    fn until_held<T>(
        &mut self,
        change: impl Fn(&Store) -> Result<T, HoldError>,
    ) -> Result<T, Stuck> {
        for _ in 0..PATIENCE {
            match change(self.store()) {
                Ok(done) => return Ok(done),
                Err(HoldError::Busy { .. } | HoldError::Log(LogFailure::TimedOut { .. })) => {
                    // What waits for a chunk needs space first.
                    self.wait_for_space(1);
                }
                Err(HoldError::Manifest { source })
                    if matches!(source.class, IoErrorClass::NoSpace { .. }) =>
                {
                    self.wait_for_space(1);
                }
                Err(error) => {
                    assert!(self.is_poisoned(), "an error without a cause: {error}");
                    return Err(Stuck::Poisoned);
                }
            }
        }
        panic!("nothing is held in {PATIENCE} turns: {:#?}", self.store().stats());
    }
}
