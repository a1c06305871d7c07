//! Any order, any width: one directory, loaded in shuffled orders by many or few threads for many or few
//! writers, gives one map.
//!
//! Hazards: a record that is met before its successor wins; a value in parts depends on which part comes
//! first; a thread that is ahead of others counts what does not.

use std::sync::{Arc, Mutex};

use hotrestart::format::crc::crc32c;
use hotrestart::io::Disk;
use hotrestart::{Durability, Stepper};

use crate::oracle::{Found, find};
use crate::script::{Script, lock};
use crate::with_seeds;
use crate::world::{End, Random, World};

/// How often each directory is loaded.
const WAYS: usize = 10;

/// The same end of a world, as often as asked.
fn copies(script: &Script, end: End, seed: u64) -> Vec<World> {
    let taken: Arc<Mutex<Vec<World>>> = Arc::default();
    let (of_watcher, world) = (Arc::clone(&taken), script.world.clone());
    script.world.disk.watch(move |moment| {
        let mut taken = of_watcher.lock().expect("nobody panics here");
        taken.extend((0..WAYS).map(|_| world.after(moment, end, seed)));
    });
    script.world.disk.note_step();
    script.world.disk.unwatch();
    std::mem::take(&mut *taken.lock().expect("nobody panics here"))
}

fn load(world: &World, writers: u32, loaders: usize, order: u64) -> Found {
    // Where the script has left the disk full, the chunks of more writers than before may find no room.
    world.disk.set_capacity(None);
    let mut stepper: Stepper = world.stepper(order);
    let builder = world.builder(writers, loaders).load_order(order);
    let store = stepper.open(builder, "/simulated").expect("every way opens");
    find(&store)
}

#[test]
fn one_directory_gives_one_map_in_any_order_and_at_any_width() {
    let mut loads = 0;
    let directories = with_seeds(1, 6, |seed| {
        let mut script = Script::new(seed);
        let mut random = Random::new(seed);
        let mut level = Durability::Buffered;
        for _ in 0..2 {
            script.open(level).unwrap_or_else(|stuck| panic!("seed {seed}: {stuck:?}"));
            for _ in 0..200 {
                script.act().unwrap_or_else(|stuck| panic!("seed {seed}: {stuck:?}"));
            }
            let end = End::random(&mut random);
            for _ in 0..2 {
                let ended = copies(&script, end, random.below(1 << 30));
                let mut first: Option<Found> = None;
                for world in ended {
                    let (writers, loaders) =
                        (1 + random.below(4) as u32, 1 + random.below(16) as usize);
                    let mut found = load(&world, writers, loaders, random.below(1 << 30));
                    loads += 1;
                    // Time passes while a store opens, more or less of it.
                    let expires = |value: &crate::oracle::Value| value.expiry_ms.is_some();
                    let now_ms = world.now_ms();
                    let judged = lock(&script.oracle).judge(&found, end.least(), now_ms);
                    judged.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
                    found.retain(|_, (value, _)| !expires(value));
                    let first = first.get_or_insert_with(|| found.clone());
                    assert!(
                        *first == found,
                        "seed {seed}: {writers} writers, {loaders} loaders give another map"
                    );
                }
            }
            script.end(end);
            level = end.least();
        }
    });
    println!("any order, any width: {directories} scripts, {loads} loads");
    assert!(loads >= 4 * WAYS, "a script has four ends");
}

#[test]
fn one_seed_gives_one_run_to_the_byte() {
    let run = |seed: u64| {
        let mut script = Script::new(seed);
        script.open(Durability::Buffered).expect("a new store");
        for _ in 0..250 {
            script.act().expect("no fault is planned");
        }
        let end = End::random(&mut script.random);
        script.end(end);
        script.open(end.least()).expect("it recovers");
        let disk = &script.world.disk;
        let names = disk.list().expect("a directory");
        let crc = |name: &str| crc32c(&disk.content(name).expect("it is listed"));
        let files: Vec<(String, u32)> =
            names.into_iter().map(|entry| (entry.name.clone(), crc(&entry.name))).collect();
        (files, disk.calls(), script.freed, script.find())
    };
    for seed in [3, 4, 5] {
        let (first, second) = (run(seed), run(seed));
        assert!(first.2 > 0, "seed {seed}: nothing was compacted");
        assert!(first == second, "seed {seed} gave two runs");
    }
}
