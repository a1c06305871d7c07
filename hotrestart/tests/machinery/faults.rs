//! Fault sweeps: each I/O call of a script fails once, in each way that fits it.
//!
//! Hazards: a failure is passed over, or taken for worse than it is; something is acknowledged after it; what
//! was acknowledged before it is lost; the next opening trips over what it left.

use hotrestart::io::IoOperation;
use hotrestart::io::sim::{Fault, FaultPlan, PlannedFault};
use hotrestart::{Durability, OpenError};

use crate::oracle::Found;
use crate::script::{Script, Stuck, lock};
use crate::with_seeds;
use crate::world::{End, Random};

/// The ways in which a kind of call may fail.
fn faults_of(operation: IoOperation) -> &'static [Fault] {
    use Fault::{Errno, FlushLosesData, Misdirect, Short};
    match operation {
        IoOperation::Write => &[
            Errno(libc::EIO),
            Errno(libc::ENOSPC),
            Errno(libc::EINTR),
            Errno(libc::EAGAIN),
            Short,
            Misdirect,
        ],
        IoOperation::Read => &[Errno(libc::EIO), Errno(libc::EINTR), Errno(libc::EAGAIN), Short],
        IoOperation::Flush => {
            &[Errno(libc::EIO), Errno(libc::EINTR), Errno(libc::EAGAIN), FlushLosesData]
        }
        IoOperation::Create => &[Errno(libc::EIO), Errno(libc::ENOSPC)],
        IoOperation::Queue => &[Errno(libc::EMFILE)],
        _ => &[Errno(libc::EIO)],
    }
}

/// Whether a fault is none that anybody should notice.
fn is_benign(fault: &PlannedFault) -> bool {
    matches!(fault.fault, Fault::Errno(libc::EINTR | libc::EAGAIN) | Fault::Short)
}

/// What a run came to.
#[derive(Debug, Default)]
struct Outcome {
    calls: Vec<(IoOperation, u64)>,
    poisoned: bool,
    refused: bool,
    corrupt: bool,
}

/// Says which run failed.
struct About(String);

impl Drop for About {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with {}", self.0);
        }
    }
}

/// Runs a script of one life in which a call fails; then the store is opened without any fault.
fn run(seed: u64, fault: Option<&PlannedFault>) -> Outcome {
    let what = || fault.map_or("no fault".to_owned(), |fault| format!("{fault:?}"));
    let _about = About(format!("seed {seed}, {}", what()));
    let mut script = Script::new(seed);
    script.about = format!("seed {seed}, {}", what());
    let faults = fault.into_iter().cloned().collect();
    script.world.disk.set_plan(FaultPlan { faults, ..FaultPlan::unruly() });
    let mut outcome = Outcome::default();
    let is_benign = fault.is_none_or(is_benign);
    let kind = fault.map(|fault| fault.fault);
    let is_lie = kind == Some(Fault::Misdirect);
    // Such a disk may write anywhere at any time, also to what is held.
    if is_lie {
        lock(&script.oracle).forgive();
    }
    let mut closed = false;
    match script.open(Durability::Buffered) {
        Ok(()) => {
            outcome.poisoned = use_it(&mut script, 150, &what());
            assert!(!(outcome.poisoned && is_benign), "seed {seed}: poison from {}", what());
            if outcome.poisoned {
                nothing_more_is_acknowledged(&mut script, &what());
            } else if seed.is_multiple_of(2) {
                closed = script.close().is_ok();
                assert!(closed || !is_benign, "seed {seed}: not closed: {}", what());
            }
        }
        Err(stuck) => {
            assert!(!is_benign, "seed {seed}: {stuck:?} from {}", what());
            outcome.refused = true;
        }
    }
    outcome.calls = script.world.disk.calls();
    let end = End::random(&mut Random::new(seed));
    script.end(end);
    script.about = format!("seed {seed}, {}, {end:?}", what());
    // A disk that drops what it had taken keeps no promise but that of its flushes.
    let level = match kind {
        Some(Fault::FlushLosesData) => Durability::Synced,
        _ if closed => Durability::Buffered,
        _ => end.least(),
    };
    let is_lost = is_lie || (kind == Some(Fault::FlushLosesData) && end == End::Process);
    match script.open(level) {
        Ok(()) => {}
        // It says that something is missing which cannot be there, and does not pass it over.
        Err(Stuck::Refused(OpenError::Corrupt { .. })) if is_lost => {
            outcome.corrupt = true;
            return outcome;
        }
        Err(stuck) => panic!("seed {seed}: {stuck:?} after {}, {end:?}", what()),
    }
    assert!(!use_it(&mut script, 20, &what()), "seed {seed}: poison without a fault");
    script.close().unwrap_or_else(|error| panic!("seed {seed}: {error} after {}", what()));
    script.end(End::PowerTakesAll);
    script.open(Durability::Buffered).unwrap_or_else(|stuck| panic!("seed {seed}: {stuck:?}"));
    outcome
}

/// Random changes. Returns whether they ended in poison.
fn use_it(script: &mut Script, acts: u64, what: &str) -> bool {
    for _ in 0..acts {
        match script.act() {
            // A map could not be made: it is tried again when it is needed.
            Ok(()) | Err(Stuck::NoMap) => {}
            Err(Stuck::Poisoned) => return true,
            Err(Stuck::Refused(error)) => panic!("{error} after {what}"),
        }
    }
    script.is_poisoned()
}

/// After poison: reads go on and see all that was done, and no mark moves any more.
fn nothing_more_is_acknowledged(script: &mut Script, what: &str) {
    let marks = script.durable_marks();
    let found: Found = script.find();
    let judged = lock(&script.oracle).judge(&found, Durability::Buffered, script.world.now_ms());
    judged.unwrap_or_else(|differs| panic!("reads after poison: {differs} after {what}"));
    script.steps(100);
    // A change would be refused: `Script` panics when one is acknowledged.
    for _ in 0..5 {
        assert!(script.act().is_err(), "a change was taken after poison: {what}");
    }
    assert_eq!(script.durable_marks(), marks, "acknowledged after poison: {what}");
}

#[test]
fn whatever_call_fails_once_nothing_acknowledged_is_lost_and_the_next_opening_works() {
    let is_long = crate::from_environment("HOTRESTART_SECONDS").is_some();
    let (mut runs, mut poisoned, mut refused, mut corrupt, mut calls) = (0, 0, 0, 0, 0);
    let scripts = with_seeds(1, 4, |seed| {
        let clean = run(seed, None);
        let mut random = Random::new(seed);
        for (operation, count) in clean.calls {
            calls += count;
            for nth in 0..count {
                for fault in faults_of(operation) {
                    // A slice takes few of the many writes and flushes, and most of the rare calls.
                    let one_in = if is_long { 1 } else { (count / 2).max(3) };
                    if !random.one_in(one_in) {
                        continue;
                    }
                    let planned = PlannedFault { operation, nth, fault: *fault };
                    let outcome = run(seed, Some(&planned));
                    runs += 1;
                    poisoned += u64::from(outcome.poisoned);
                    refused += u64::from(outcome.refused);
                    corrupt += u64::from(outcome.corrupt);
                }
            }
        }
    });
    println!(
        "fault sweeps: {scripts} scripts of {calls} calls, {runs} runs with one fault, {poisoned} poisoned, \
         {refused} openings refused, {corrupt} found corrupt"
    );
    assert!(runs > 30 && poisoned > 5 && refused > 2, "{runs} {poisoned} {refused}");
}
