//! `inspect` on the directories that power cuts leave, also in the middle of openings: it judges as the
//! opening does.

use std::time::Duration;

use crate::bench::{Machine, Oracle, Random, Seed};
use hotrestart::io::sim::FaultPlan;

#[test]
fn inspect_finds_after_a_power_cut_what_the_opening_finds() {
    let mut openings_under_way = 0;
    for seed in 500..512 {
        let _seed = Seed(seed);
        let mut random = Random::new(seed);
        let mut machine = Machine::new(seed);
        if seed % 2 == 0 {
            machine.disk.set_plan(FaultPlan::unruly());
        }
        let mut store = machine.open(2).expect("a new store");
        let mut oracle = Oracle::learn(&store);
        for _ in 0..4 {
            oracle.change(&store, &mut random, 70);
            // After the death of a process an opening has records to log again, and is long under way.
            let openings = random.below(3);
            machine.crash(Some(store), openings == 0);
            for opening in 0..openings {
                machine.disk.hold();
                let builder = machine.builder().writers(1 + random.below(2) as u32);
                let under_way = std::thread::spawn(move || builder.open("/simulated"));
                machine.disk.step(random.below(60));
                // Long enough for a slow machine to come to where the disk holds it.
                let start = std::time::Instant::now();
                while !under_way.is_finished() && start.elapsed() < Duration::from_millis(50) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                let power = opening + 1 == openings;
                machine.disk = machine.disk.crash(power);
                if let Ok(store) = under_way.join().expect("no panic") {
                    store.abandon();
                }
                machine.note_crash(power);
            }
            let report = machine.inspect();
            assert!(report.is_sound, "{:#?}", report.problems);
            let open_lives = report.lives.iter().filter(|life| life.state == "open").count();
            openings_under_way += usize::from(open_lives > 1);
            store = machine.open(1).expect("recovers");
            assert_eq!(report.totals.entries, store.recovery().entries);
            assert_eq!(report.totals.entry_bytes, store.stats().memory.live_bytes);
            oracle.check(&store, false);
        }
    }
    assert!(openings_under_way > 0, "none had several undecided lives");
}
