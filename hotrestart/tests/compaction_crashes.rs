//! Power cuts and dying processes while chunks are compacted and freed, on the simulated disk, from seeds.
//!
//! Hazards: a chunk is freed before its survivors are durable; a survivor hides a newer value; a fact of
//! absence is forgotten while an older record of its key is left somewhere, and the key comes back. The
//! oracle knows the states of each key since everything was last made durable; what comes back must be one
//! of them. `HOTRESTART_SEED` begins at another seed, `HOTRESTART_SEEDS` says how many are tried.

#[path = "power_loss/bench.rs"]
#[allow(dead_code, reason = "the workbench serves the power cuts first")]
mod bench;

use bench::{Machine, Random, Seed, map_of};
use hotrestart::io::sim::FaultPlan;
use hotrestart::{Durability, Store};

const KEYS: u64 = 150;
const CHANGES: u64 = 3_000;

/// The states that each key may be in: the durable one first, then what was done since.
struct Oracle(Vec<Vec<Option<u64>>>);

fn bytes_of(version: u64) -> Vec<u8> {
    let mut bytes = vec![version as u8; 4_000 + (version % 4_000) as usize];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes
}

impl Oracle {
    fn new() -> Oracle {
        Oracle((0..KEYS).map(|_| vec![None]).collect())
    }

    /// Random changes; everything is made durable now and then, and never at the end.
    fn change(&mut self, store: &Store, random: &mut Random, next_version: &mut u64) {
        let map = map_of(store);
        // Some keys are changed rarely, so that old chunks keep something that is live.
        for step in 0..CHANGES {
            let key =
                if random.below(50) == 0 { random.below(KEYS) } else { random.below(KEYS / 3) };
            if random.below(700) == 0 {
                map.clear().expect("cleared");
                self.0.iter_mut().for_each(|states| states.push(None));
            } else if random.below(8) == 0 {
                map.remove(&key)
                    .unwrap_or_else(|error| panic!("change {step}: {error}: {:#?}", store.stats()));
                self.0[key as usize].push(None);
            } else {
                *next_version += 1;
                map.insert(&key, &bytes_of(*next_version))
                    .unwrap_or_else(|error| panic!("change {step}: {error}: {:#?}", store.stats()));
                self.0[key as usize].push(Some(*next_version));
            }
            if step % 257 == 0 {
                store.persist(Durability::Synced).expect("synced");
                self.forget_what_was();
            }
        }
    }

    fn forget_what_was(&mut self) {
        for states in &mut self.0 {
            states.drain(..states.len() - 1);
        }
    }

    /// What came back must be a state of each key; it is all there is from here on.
    fn check(&mut self, store: &Store, survives_all: bool) {
        let map = map_of(store);
        for (key, states) in self.0.iter_mut().enumerate() {
            let found = map.get_owned(&(key as u64)).expect("ok").map(|bytes| {
                let version = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
                assert!(bytes == bytes_of(version), "key {key}: not a value that was ever put");
                version
            });
            let last = states[states.len() - 1];
            if survives_all {
                assert_eq!(found, last, "key {key}: the death of a process loses nothing");
            }
            assert!(states.contains(&found), "key {key}: {found:?}, which is none of {states:?}");
            *states = vec![found];
        }
    }
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

#[test]
fn a_power_cut_while_chunks_are_freed_loses_nothing_and_revives_nothing() {
    let mut freed = 0;
    let (first, count) =
        (from_environment("HOTRESTART_SEED", 1), from_environment("HOTRESTART_SEEDS", 4));
    for seed in first..first + count {
        let _seed = Seed(seed);
        let mut random = Random::new(seed);
        let mut machine = Machine::new(seed);
        if seed % 2 == 0 {
            machine.disk.set_plan(FaultPlan::unruly());
        }
        let (mut oracle, mut next_version) = (Oracle::new(), 0);
        let mut store = machine.open(1 + (seed % 2) as u32).expect("a new store");
        for crash in 0..4 {
            oracle.change(&store, &mut random, &mut next_version);
            let stats = store.stats();
            assert_eq!((stats.compaction_stopped, stats.chunks_damaged), (None, Vec::new()));
            freed += stats.chunks_freed;
            let power = crash % 2 == 0;
            machine.crash(Some(store), power);
            store = machine
                .open(1 + random.below(2) as u32)
                .unwrap_or_else(|error| panic!("seed {seed}, crash {crash}: {error}"));
            oracle.check(&store, !power);
        }
        store.close().expect("a clean close");
        let report = machine.inspect();
        assert!(report.is_sound, "{:#?}", report.problems);
        assert_eq!(report.totals.copies, 0, "what interrupted rounds had copied is void");
        let store = machine.open(1).expect("a clean store");
        oracle.check(&store, true);
    }
    println!("{freed} chunks were freed before the crashes");
    assert!(freed > 50, "only {freed} chunks were freed: nothing was at stake");
}
