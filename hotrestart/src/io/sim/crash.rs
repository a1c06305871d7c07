//! What a crash leaves of a simulated disk.
//!
//! Invariants: what was flushed stays, names that were synced stay; a process that dies loses nothing that
//! had completed; everything else is up to the fault plan and a seed. The disk that crashed is not changed,
//! so that one run can crash at each of its steps. Called by `SimDisk::crash` and the watchers (`watch.rs`).

use std::collections::BTreeMap;

use super::fault::FaultPlan;
use super::random::Random;
use super::state::{NameChange, Pending, State};
use crate::format::ALIGNMENT;
use crate::io::IoOperation;

impl State {
    /// The state that the next process finds; this one is dead from now on.
    pub(super) fn crash(&mut self, power: bool) -> State {
        let seed = self.random.next();
        let next = self.image(power, &self.plan, seed);
        self.is_dead = true;
        self.watcher = None;
        self.pending.clear();
        next
    }

    /// The state that would be found if the process (or, with `power`, the machine) died now.
    pub(super) fn image(&self, power: bool, plan: &FaultPlan, seed: u64) -> State {
        let mut next = State::new(seed);
        next.plan = FaultPlan { faults: Vec::new(), ..plan.clone() };
        next.files.clone_from(&self.files);
        next.capacity = self.capacity;
        (next.next_inode, next.events) = (self.next_inode, self.events);
        for pending in &self.pending {
            next.settle(pending);
        }
        if power {
            next.names = self.surviving_names(plan, &mut next.random);
            let State { files, plan, random, .. } = &mut next;
            files.values_mut().for_each(|file| file.lose_power(plan, random));
            next.durable_names.clone_from(&next.names);
        } else {
            next.names.clone_from(&self.names);
            next.durable_names.clone_from(&self.durable_names);
            next.name_changes.clone_from(&self.name_changes);
        }
        let mut named: Vec<u64> =
            next.names.values().chain(next.durable_names.values()).copied().collect();
        named.extend(next.name_changes.iter().filter_map(|change| match change {
            NameChange::Set(_, inode) => Some(*inode),
            _ => None,
        }));
        next.files.retain(|inode, _| named.contains(inode));
        next
    }

    /// What became of an operation that was in flight at the crash: nothing, all of it, a beginning, or some
    /// of its parts.
    fn settle(&mut self, pending: &Pending) {
        let inode = pending.file.inode();
        match (pending.transfer.operation(), &pending.buf) {
            (IoOperation::Write, Some(buf)) => {
                let bytes = &buf[pending.transfer.done()..];
                let offset = pending.transfer.rest_offset() as usize;
                let units = bytes.len() / ALIGNMENT;
                let (kind, end) = (self.random.below(4), self.random.below(units + 1));
                for (index, unit) in bytes.chunks(ALIGNMENT).enumerate() {
                    let is_kept = match kind {
                        0 => false,
                        1 => true,
                        2 => index < end,
                        _ => self.random.chance(500),
                    };
                    if is_kept {
                        let at = self.event();
                        self.file_mut(inode).write(at, offset + index * ALIGNMENT, unit);
                    }
                }
            }
            (IoOperation::Flush, _) if self.random.chance(500) => {
                self.file_mut(inode).flush(pending.stamp);
            }
            _ => {}
        }
    }

    fn surviving_names(&self, plan: &FaultPlan, random: &mut Random) -> BTreeMap<String, u64> {
        let mut names = self.durable_names.clone();
        for change in &self.name_changes {
            if random.chance(plan.lose_name_permille) {
                continue;
            }
            match change {
                NameChange::Set(name, inode) => {
                    names.insert(name.clone(), *inode);
                }
                NameChange::Remove(name) => {
                    names.remove(name);
                }
                NameChange::Rename(from, to) => {
                    if let Some(inode) = names.remove(from) {
                        names.insert(to.clone(), inode);
                    }
                }
            }
        }
        names
    }
}
