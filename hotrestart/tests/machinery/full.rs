//! A disk that is full and stays so: puts are refused, removals go on, and what they free lets puts go on.
//!
//! Hazards: a removal waits for a chunk that only a compaction can free, which waits for a chunk; puts that
//! wait keep removals from the log buffer that was begun for these; nothing goes on when there is room again;
//! a manifest that must say more of what is freed finds no byte; a store does not open where there is none.

use hotrestart::codec::{Bytes, U64};
use hotrestart::format::Manifest;
use hotrestart::format::manifest::MANIFEST_NAMES;
use hotrestart::io::Disk;
use hotrestart::{Error, LogFailure, Map, MapOptions, Stepper, Store, StreamId};

use crate::with_seeds;
use crate::world::{End, Random, World};

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
fn puts_do_not_fill_up_a_buffer_that_a_removal_began_with_the_last_chunks() {
    let world = World::new(1);
    let Life { world, mut stepper, store, map } = Life::begin(world, 1, 1);
    world.disk.set_capacity(Some(used(&world) + (1 << 20)));
    let mut keys = 0;
    while until_done(&mut stepper, 2_000, || map.insert(&keys, &[7; 2_000])).is_some() {
        keys += 1;
    }
    assert!(store.stats().no_space_bytes.is_some() && keys > 200, "{:#?}", store.stats());
    until_done(&mut stepper, PATIENCE, || map.remove(&0).map(drop))
        .unwrap_or_else(|| stuck(&store, "a removal"));
    // From here on nobody takes a turn. So many removals that this thread has reserved ahead.
    for key in 1..150 {
        assert!(map.remove(&key).expect("the buffer is begun"));
    }
    let put = || map.insert(&u64::MAX, b"short").expect_err("the disk is full");
    for refused in [put(), std::thread::scope(|scope| scope.spawn(put).join().expect("no panic"))] {
        let Error::Log(source) = &refused else { panic!("{refused}") };
        assert!(matches!(source.downcast_ref(), Some(LogFailure::NoSpace { .. })), "{refused}");
    }
    assert!(map.remove(&150).expect("the buffer is begun"));
}

/// Bytes of all files.
fn used(world: &World) -> u64 {
    world.disk.list().iter().flatten().map(|entry| entry.len).sum()
}

/// Ranges of freed blocks in the manifest.
fn ranges(world: &World) -> usize {
    let copies = MANIFEST_NAMES.map(|name| world.disk.content(name).expect("a copy"));
    let manifests = copies.iter().map(|copy| Manifest::decode(copy).expect("a valid copy"));
    let newest = manifests.max_by_key(|manifest| manifest.generation).expect("two copies");
    newest.lives.iter().map(|life| life.freed.ranges().len()).sum()
}

/// A store of one life, with a map that it keeps and one that it may drop.
struct Life {
    world: World,
    stepper: Stepper,
    store: Store,
    map: Map<U64, Bytes>,
}

impl Life {
    fn begin(world: World, seed: u64, writers: u32) -> Life {
        let mut stepper = world.stepper(seed);
        let builder = world.builder(writers, 1).disk_budget(1_000.0);
        let store = stepper.open(builder, "/simulated");
        let store = store.unwrap_or_else(|error| panic!("it does not open: {error}"));
        let map = store.map("kept", MapOptions::default()).expect("room for a map");
        Life { world, stepper, store, map }
    }

    fn end(self, end: End) -> World {
        let Life { world, store, map, .. } = self;
        drop(map);
        let next = world.end(end);
        store.abandon();
        next
    }

    fn put(&mut self, key: u64, len: u64, patience: u32) -> Option<()> {
        let value = vec![key as u8; len as usize];
        until_done(&mut self.stepper, patience, || self.map.insert(&key, &value))
    }
}

#[test]
fn without_a_byte_left_a_store_frees_and_opens_and_goes_on_by_what_it_frees() {
    let (mut more_ranges, mut refused_maps) = (0, 0);
    let stores = with_seeds(1, 6, |seed| {
        let mut random = Random::new(seed);
        let writers = 1 + random.below(2) as u32;
        let mut life = Life::begin(World::new(seed), seed, writers);
        let _: Map<U64, Bytes> = life.store.map("dropped", MapOptions::default()).expect("room");
        let doomed: Map<U64, Bytes> =
            life.store.map("doomed", MapOptions::default()).expect("room");
        for key in 0..120 {
            until_done(&mut life.stepper, PATIENCE, || doomed.insert(&key, &[1; 9_000]))
                .unwrap_or_else(|| stuck(&life.store, "a put"));
        }
        drop(doomed);
        let mut keys = 0;
        // Several lives, each of which leaves chunks.
        let lives = 2 + random.below(2);
        for number in 1..=lives {
            while life.store.stats().memory.live_bytes < number << 20 {
                let len = 100 + random.below(9_000);
                life.put(keys, len, PATIENCE).unwrap_or_else(|| stuck(&life.store, "a put"));
                keys += 1;
            }
            if number < lives {
                let world = life.end(End::Process);
                life = Life::begin(world, seed + number, writers);
            }
        }
        // Somebody else takes all there is, and takes it again whenever the store lets go of any.
        life.world.disk.fill_up();
        while life.put(keys, 5_000, 2_000).is_some() {
            keys += 1;
        }
        assert!(life.store.stats().no_space_bytes.is_some(), "seed {seed}: not full");
        // Maps take no byte of the manifest that freeing needs.
        for len in [800, 20] {
            let mut names = (0..400).map(|number| format!("{number:0len$}"));
            let make =
                |name: &String| life.store.map::<U64, Bytes>(name, MapOptions::default()).map(drop);
            refused_maps += u32::from(names.any(|name| make(&name).is_err()));
        }
        let before = ranges(&life.world);
        // Chunks that are all garbage lie between those that are not, so that each is freed as a range apart.
        let is_kept = |key: &u64| (key / 100).is_multiple_of(2);
        for key in (0..keys).filter(|key| !is_kept(key)) {
            until_done(&mut life.stepper, PATIENCE, || life.map.remove(&key).map(drop))
                .unwrap_or_else(|| stuck(&life.store, &format!("removal {key} of {keys}")));
            if key == 100 {
                let world = life.end(End::Process);
                world.disk.fill_up();
                life = Life::begin(world, seed + 10, writers);
                until_done(&mut life.stepper, 2, || life.store.drop_map("dropped").map(drop))
                    .unwrap_or_else(|| stuck(&life.store, "a drop"));
            }
        }
        (0..3_000).for_each(|_| life.stepper.step());
        more_ranges += u32::from(ranges(&life.world) > before);
        for key in keys..keys + 40 {
            let put = life.put(key, 9_000, PATIENCE);
            put.unwrap_or_else(|| stuck(&life.store, "a put after the removals"));
        }
        let kept = (0..keys).filter(is_kept).count() as u64;
        let world = life.end(End::Process);
        world.disk.fill_up();
        let mut life = Life::begin(world, seed + 20, writers);
        assert_eq!(life.map.len(), kept + 40, "seed {seed}");
        // A clean close gives the stock away; what a drop leaves needs none to be freed.
        let Life { world, mut stepper, store, map } = life;
        drop(map);
        stepper.close(store).unwrap_or_else(|error| panic!("it does not close: {error}"));
        let world = world.end(End::PowerTakesAll);
        world.disk.fill_up();
        life = Life::begin(world, seed + 30, writers);
        (0..1_000).for_each(|_| life.stepper.step());
        assert!(life.store.drop_map("doomed").expect("a drop needs no byte"));
        for key in 0..4 {
            let put = life.put(keys + 100 + key, 9_000, PATIENCE);
            put.unwrap_or_else(|| stuck(&life.store, "a put after the drop"));
        }
        assert_eq!(life.map.len(), kept + 44, "seed {seed}");
    });
    assert!(more_ranges > 3 && refused_maps > 8, "{more_ranges} and {refused_maps} of {stores}");
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
        let room = random.below(11) * 50_000;
        let mut put = |stepper: &mut Stepper, key: u64, patience: u32| {
            let value = vec![key as u8; 100 + random.below(longest) as usize];
            until_done(stepper, patience, || map.insert(&key, &value))
        };
        while store.stats().memory.live_bytes < 2 << 20 {
            put(&mut stepper, keys, PATIENCE).unwrap_or_else(|| stuck(&store, "a put"));
            keys += 1;
        }
        world.disk.set_capacity(Some(used(&world) + room));
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
