//! Crash at every step: of a script, of the recovery from that, and of the recovery from that.
//!
//! Hazards: an acknowledged change is lost, a later one is there without an earlier one of its stream, what
//! was removed or had expired is back, a stamp is given twice, a second recovery gives something else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hotrestart::io::IoErrorClass;
use hotrestart::io::sim::Moment;
use hotrestart::{Durability, LogFailure, OpenError, Stepper, Store};

use crate::oracle::{Found, Value, find, map_of};
use crate::script::{Script, SharedOracle, Stuck, lock};
use crate::with_seeds;
use crate::world::{End, Random, World};

/// How much was tried.
#[derive(Debug, Default)]
struct Tried {
    steps: AtomicU64,
    crashes: AtomicU64,
    recoveries: AtomicU64,
    crashes_in_recovery: AtomicU64,
    refused_on_full_disks: AtomicU64,
}

fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
}

fn is_no_space(error: &OpenError) -> bool {
    match error {
        OpenError::Log(failure) => matches!(failure, LogFailure::NoSpace { .. }),
        OpenError::Io(error) => matches!(error.class, IoErrorClass::NoSpace { .. }),
        _ => false,
    }
}

/// What every crash of a run is judged by.
#[derive(Clone)]
struct Judge {
    oracle: SharedOracle,
    tried: Arc<Tried>,
    seed: u64,
}

impl Judge {
    /// A world that ended is opened again; its recovery may end, too, at a random step, up to twice.
    fn recover(&self, world: World, least: Durability, random: &mut Random, depth: u32) {
        if depth < 2
            && random.one_in(2)
            && let Some((next, end)) = self.end_while_opening(&world, random)
        {
            return self.recover(next, least.max(end.least()), random, depth + 1);
        }
        count(&self.tried.recoveries);
        let now_ms = world.now_ms();
        if random.one_in(4) {
            world.clock.set_ms(now_ms - random.below(2_000));
        }
        let writers = 1 + random.below(3) as u32;
        let mut stepper = world.stepper(random.below(1 << 30));
        let store = self.open(&world, &mut stepper, writers);
        let found = find(&store);
        let judged = lock(&self.oracle).judge(&found, least, now_ms.max(world.now_ms()));
        judged.unwrap_or_else(|what| {
            let report = store.recovery();
            panic!("seed {}, depth {depth}: {what}; {report:?}", self.seed)
        });
        for _ in 0..random.below(40) {
            stepper.step();
        }
        lock(&self.oracle)
            .judge_holds(&store, &world.disk)
            .unwrap_or_else(|what| panic!("seed {}, depth {depth}: {what}", self.seed));
        let end = End::random(random);
        let next = world.end(end);
        store.abandon();
        self.recover_again(next, &found, random);
    }

    /// Opens a store. On a full disk that may be refused, and is tried again when there is space.
    fn open(&self, world: &World, stepper: &mut Stepper, writers: u32) -> Store {
        match world.open(stepper, writers, 1) {
            Ok(store) => return store,
            Err(error) if is_no_space(&error) => {
                count(&self.tried.refused_on_full_disks);
                world.disk.set_capacity(None);
            }
            Err(error) => panic!("seed {}: it does not open: {error}", self.seed),
        }
        world
            .open(stepper, writers, 1)
            .unwrap_or_else(|error| panic!("seed {}: nor with space: {error}", self.seed))
    }

    /// A second recovery gives the same, and goes on with stamps that nobody had.
    fn recover_again(&self, world: World, before: &Found, random: &mut Random) {
        count(&self.tried.recoveries);
        let mut stepper = world.stepper(random.below(1 << 30));
        let store = self.open(&world, &mut stepper, 1);
        let mut again = find(&store);
        let mut before = before.clone();
        let now_ms = world.now_ms();
        let is_alive = |value: &Value| value.expiry_ms.is_none_or(|expiry_ms| expiry_ms > now_ms);
        before.retain(|_, (value, _)| is_alive(value));
        again.retain(|_, (value, _)| is_alive(value));
        assert!(before == again, "seed {}: a second recovery gives another map", self.seed);
        let key = random.below(crate::oracle::KEYS);
        let map = map_of(&store, 0).expect("a map");
        let mut turns = 0;
        while let Err(error) = map.insert(&key, b"what comes after it all") {
            assert!(turns < 40_000, "seed {}: no room after a recovery: {error}", self.seed);
            turns += 1;
            if turns == 20_000 {
                // On a full disk all garbage may be held: then puts go on when it no longer is.
                let holds = store.holds();
                assert!(!holds.is_empty(), "seed {}: no room after a recovery: {error}", self.seed);
                for hold in holds {
                    let released = store.release(hold.id);
                    assert!(released.expect("released"), "seed {}: a hold is gone", self.seed);
                }
            }
            stepper.step();
        }
        let seq = map.get(&key).expect("reads go on").expect("just put").seq().0;
        let oracle = lock(&self.oracle);
        let highest = oracle.highest_seq[oracle.stream_of(key)];
        assert!(seq > highest, "seed {}: stamp {seq}, {highest} was given before", self.seed);
    }

    /// Opens a world and ends it at a random step of that; `None` when the opening has fewer steps.
    fn end_while_opening(&self, world: &World, random: &mut Random) -> Option<(World, End)> {
        let (end, seed) = (End::random(random), random.below(1 << 30));
        let mut left = random.below(90);
        let taken: Arc<Mutex<Option<World>>> = Arc::default();
        let (of_watcher, before) = (Arc::clone(&taken), world.clone());
        world.disk.watch(move |moment| {
            if left == 0 {
                let mut taken = of_watcher.lock().expect("nobody panics here");
                taken.get_or_insert_with(|| before.after(moment, end, seed));
            }
            left = left.saturating_sub(1);
        });
        let mut stepper = world.stepper(random.below(1 << 30));
        let store = self.open(world, &mut stepper, 1 + random.below(2) as u32);
        world.disk.unwatch();
        let ended = taken.lock().expect("nobody panics here").take();
        store.abandon();
        match ended {
            Some(next) => {
                count(&self.tried.crashes_in_recovery);
                Some((next, end))
            }
            // The opening came to its end, and its life ends now.
            None => Some((world.end(end), end)),
        }
    }

    /// Has one of `one_in` steps of a script crash.
    fn watch(&self, script: &Script, one_in: u64, mut random: Random) {
        let (judge, world) = (self.clone(), script.world.clone());
        script.world.disk.watch(move |moment: &Moment<'_>| {
            count(&judge.tried.steps);
            if random.one_in(one_in) {
                count(&judge.tried.crashes);
                let end = End::random(&mut random);
                let next = world.after(moment, end, random.below(1 << 30));
                let least = lock(&judge.oracle).promised.max(end.least());
                judge.recover(next, least, &mut random, 0);
            }
        });
    }
}

/// Runs a script of several lives, of which each step may be a crash.
fn crash_everywhere(seed: u64, lives: u64, one_in: u64, tried: &Arc<Tried>) -> u64 {
    let mut script = Script::new(seed);
    let judge = Judge { oracle: Arc::clone(&script.oracle), tried: Arc::clone(tried), seed };
    let mut level = Durability::Buffered;
    for life in 0..lives {
        let random = Random::new(seed * 1_000 + life);
        judge.watch(&script, one_in, random);
        match script.open(level) {
            Ok(()) => {}
            Err(Stuck::Refused(error)) => panic!("seed {seed}: it does not open: {error}"),
            Err(stuck) => panic!("seed {seed}: {stuck:?} without a fault"),
        }
        for _ in 0..150 + script.random.below(150) {
            script.act().unwrap_or_else(|stuck| panic!("seed {seed}: {stuck:?}"));
        }
        assert_eq!(script.complaint(), None, "seed {seed}: nothing was damaged");
        if script.random.one_in(3) {
            script.close().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            script.world.disk.unwatch();
            level = Durability::Buffered;
            continue;
        }
        let end = End::random(&mut script.random);
        script.world.disk.unwatch();
        script.end(end);
        level = end.least();
    }
    script.freed
}

#[test]
fn a_crash_at_any_step_loses_nothing_acknowledged_and_revives_nothing() {
    let tried = Arc::new(Tried::default());
    let (seconds, mut freed) = (crate::from_environment("HOTRESTART_SECONDS"), 0);
    let scripts = with_seeds(1, 6, |seed| {
        let one_in = if seconds.is_some() { 1 + seed % 5 * 4 } else { 60 };
        freed += crash_everywhere(seed, 3, one_in, &tried);
    });
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "crash at every step: {scripts} scripts, {} steps, {} crash points, {} crashes in recoveries, {} \
         recoveries, {} openings refused for want of space, {freed} chunks freed",
        of(&tried.steps),
        of(&tried.crashes),
        of(&tried.crashes_in_recovery),
        of(&tried.recoveries),
        of(&tried.refused_on_full_disks)
    );
    assert!(of(&tried.crashes) > 20 && of(&tried.crashes_in_recovery) > 5, "{tried:?}");
    assert!(freed > 5, "only {freed} chunks were freed: compaction was not at stake");
}
