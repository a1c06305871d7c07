//! A disk that is full and stays so: puts are refused, removals go on, and what they free lets puts go on.
//!
//! Hazards: a removal waits for a chunk that only a compaction can free, which waits for a chunk; puts that
//! wait keep removals from the log buffer that was begun for these; nothing goes on when there is room again.

use hotrestart::codec::{Bytes, U64};
use hotrestart::io::Disk;
use hotrestart::{Error, LogFailure, Map, MapOptions, Stepper, Store, StreamId};

use crate::with_seeds;
use crate::world::{Random, World};

/// Turns after which a change counts as stuck.
const PATIENCE: u32 = 30_000;

/// Tries a change until it is done, with a turn in between; `None` when it never is.
fn until_done(
    stepper: &mut Stepper,
    patience: u32,
    mut change: impl FnMut() -> Result<(), Error>,
) -> Option<()> {
    for _ in 0..patience {
        match change() {
            Ok(()) => return Some(()),
            Err(_) => stepper.step(),
        }
    }
    None
}

fn stuck(store: &Store, what: &str) -> ! {
    panic!("{what} is stuck: {:#?}", store.stats())
}

/// What a group does on a full disk: those that put anything are refused, and have changed nothing; those
/// that only remove go on.
#[test]
fn on_a_full_disk_groups_that_put_are_refused_as_a_whole_and_those_that_remove_go_on() {
    let world = World::new(1);
    let mut stepper = world.stepper(1);
    let builder = world.builder(1, 1).disk_budget(1_000.0);
    let store = stepper.open(builder, "/simulated").expect("a new store");
    let options = MapOptions::default().placed_by_owner();
    let map: Map<U64, Bytes> = store.map("m", options).expect("a map");
    let part = map.in_stream(StreamId(0)).expect("a part");
    let values: Vec<Vec<u8>> = (0..6_u64).map(|n| vec![n as u8; 9_000]).collect();
    let keys: Vec<u64> = (0..1_000_000).collect();
    let put = |first: usize| {
        let mut group = store.group(StreamId(0));
        for (key, value) in keys[first..].iter().zip(&values) {
            group.insert(&map, key, value).expect("its stream");
        }
        group.remove(&map, &keys[0]).expect("its stream");
        // Parts that found room go to waste when the head does not.
        group.commit().map(|outcome| assert!(outcome.is_done()))
    };
    let entries = world.disk.list().expect("a directory");
    let used: u64 = entries.iter().map(|entry| entry.len).sum();
    world.disk.set_capacity(Some(used + (1 << 20) + 100_000));
    let mut first = 1;
    while until_done(&mut stepper, 2_000, || put(first)).is_some() {
        first += values.len();
    }
    assert!(store.stats().no_space_bytes.is_some() && first > 7, "{:#?}", store.stats());
    let before = part.len();
    for _ in 0..50 {
        let refused = put(first).expect_err("the disk is full");
        assert!(
            matches!(&refused, Error::Log(source)
            if matches!(source.downcast_ref(), Some(LogFailure::NoSpace { .. }))),
            "{refused}"
        );
        assert_eq!(
            (part.len(), part.get(&keys[first]).map(|found| found.is_some()).ok()),
            (before, Some(false))
        );
        stepper.step();
    }
    let remove = |first: usize| {
        let mut group = store.group(StreamId(0));
        for key in &keys[first..first + values.len()] {
            group.remove(&map, key).expect("its stream");
        }
        group.commit().map(|outcome| assert!(outcome.is_done()))
    };
    for first in (1..first).step_by(values.len()) {
        until_done(&mut stepper, PATIENCE, || remove(first))
            .unwrap_or_else(|| stuck(&store, "removals"));
    }
    assert!(part.is_empty());
    until_done(&mut stepper, PATIENCE, || put(1))
        .unwrap_or_else(|| stuck(&store, "a group after that"));
}

#[test]
fn on_a_disk_that_stays_full_removals_go_on_and_then_puts_do() {
    let mut refused = 0;
    let stores = with_seeds(1, 12, |seed| {
        let world = World::new(seed);
        let mut random = Random::new(seed);
        let mut stepper = world.stepper(seed);
        let mut random_put = Random::new(seed + 1);
        let writers = 1 + random.below(2) as u32;
        let builder = world.builder(writers, 1).disk_budget(1_000.0);
        let store = stepper.open(builder, "/simulated").expect("a new store");
        let map: Map<U64, Bytes> = store.map("m", MapOptions::default()).expect("a map");
        let lens = [60, 3_000, 20_000, 50_000];
        let longest = lens[random.below(4) as usize];
        let mut keys = 0;
        // The manifest must find some bytes, too.
        let room = (1 + random.below(11)) * 50_000;
        let mut put = |stepper: &mut Stepper, key: u64, patience: u32| {
            let value = vec![key as u8; 100 + random.below(longest) as usize];
            until_done(stepper, patience, || map.insert(&key, &value))
        };
        let used =
            || -> u64 { world.disk.list().iter().flatten().map(|entry| entry.len).sum::<u64>() };
        while store.stats().memory.live_bytes < 2 << 20 {
            put(&mut stepper, keys, PATIENCE).unwrap_or_else(|| stuck(&store, "a put"));
            keys += 1;
        }
        world.disk.set_capacity(Some(used() + room));
        while put(&mut stepper, keys, 2_000).is_some() {
            keys += 1;
        }
        refused += u32::from(store.stats().no_space_bytes.is_some());
        for key in 0..keys {
            if key % 3 > 0 {
                until_done(&mut stepper, PATIENCE, || map.remove(&key).map(drop))
                    .unwrap_or_else(|| stuck(&store, &format!("removal {key} of {keys}")));
                // Whoever puts meanwhile is refused or not, and takes nothing that a removal needs.
                if random_put.one_in(3) {
                    let _ = map.insert(&u64::MAX, &vec![1; random_put.below(40_000) as usize]);
                }
            }
        }
        for key in keys..keys + 20 {
            put(&mut stepper, key, PATIENCE)
                .unwrap_or_else(|| stuck(&store, "a put after the removals"));
        }
        let others = u64::from(map.contains_key(&u64::MAX).expect("reads go on"));
        assert_eq!(map.len(), keys.div_ceil(3) + 20 + others);
    });
    assert!(refused > 8, "only {refused} of {stores} disks were full");
}
