//! Locks, claims and waits by hand, and random histories of them.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::partition::wait::Outcome;

const MAP: MapNo = MapNo(3);

fn caller(thread: i64) -> Caller {
    Caller { origin: 7, thread }
}

const LOCK: Wanted = Wanted::Lock { lease_ms: None };

#[test]
fn whoever_waits_is_let_through_in_the_order_of_coming() {
    let mut keys = Keys::default();
    let place = (MAP, &b"key"[..]);
    assert!(keys.take(place, caller(1), LOCK, 0));
    let slots: Vec<_> =
        (2..6).map(|thread| keys.wait(place, caller(thread), Wanted::Claim, None).1).collect();
    assert!(!keys.admits(place, caller(9), 0), "a newcomer comes last");
    assert!(keys.admits(place, caller(1), 0), "but who has the lock goes ahead");
    keys.release(place, Release::Lock(caller(1)), 0);
    for turn in 0..slots.len() {
        let got: Vec<_> = slots.iter().map(|slot| slot.outcome()).collect();
        let expected: Vec<_> =
            (0..slots.len()).map(|at| (at <= turn).then_some(Outcome::Granted)).collect();
        assert_eq!(got, expected);
        keys.release(place, Release::Claim, 0);
    }
    assert!(keys.are_free());
}

#[test]
fn a_load_passes_a_lock_and_no_claim() {
    let mut keys = Keys::default();
    let place = (MAP, &b"key"[..]);
    assert!(keys.take(place, caller(1), LOCK, 0) && keys.take(place, caller(2), Wanted::Load, 0));
    assert!(!keys.admits(place, caller(1), 0), "who has the lock waits for the load");
    let (_, change) = keys.wait(place, caller(3), Wanted::Claim, None);
    let (_, load) = keys.wait(place, caller(4), Wanted::Load, None);
    keys.release(place, Release::Claim, 0);
    assert_eq!((change.outcome(), load.outcome()), (None, Some(Outcome::Granted)));
    keys.release(place, Release::Claim, 0);
    assert_eq!((change.outcome(), keys.holder(place, 0)), (None, Some(caller(1))));
    keys.release(place, Release::Lock(caller(1)), 0);
    assert_eq!(change.outcome(), Some(Outcome::Granted));
    keys.release(place, Release::Claim, 0);
    assert!(keys.are_free());
}

#[test]
fn a_lock_is_as_often_unlocked_as_locked_and_only_by_who_has_it() {
    let mut keys = Keys::default();
    let place = (MAP, &b"key"[..]);
    assert!(keys.take(place, caller(1), LOCK, 0) && keys.take(place, caller(1), LOCK, 0));
    assert!(!keys.take(place, caller(2), LOCK, 0));
    assert!(!keys.release(place, Release::Lock(caller(2)), 0));
    assert!(keys.release(place, Release::Lock(caller(1)), 0));
    assert_eq!(keys.holder(place, 0), Some(caller(1)));
    assert!(keys.release(place, Release::Lock(caller(1)), 0));
    assert!(keys.are_free() && !keys.release(place, Release::Lock(caller(1)), 0));

    assert!(keys.take(place, caller(1), LOCK, 0) && keys.take(place, caller(1), LOCK, 0));
    assert!(keys.release(place, Release::Force, 0) && keys.are_free());
}

#[test]
fn a_lease_ends_the_whole_lock_and_locking_again_renews_it() {
    let mut keys = Keys::default();
    let place = (MAP, &b"key"[..]);
    let leased = |lease_ms| Wanted::Lock { lease_ms: Some(lease_ms) };
    assert!(keys.take(place, caller(1), leased(100), 0));
    assert!(keys.take(place, caller(1), leased(100), 50));
    let (_, slot) = keys.wait(place, caller(2), LOCK, None);
    keys.tick(149);
    assert_eq!((keys.holder(place, 149), slot.outcome()), (Some(caller(1)), None));
    keys.tick(150);
    assert_eq!(
        (keys.holder(place, 150), slot.outcome()),
        (Some(caller(2)), Some(Outcome::Granted))
    );
    keys.release(place, Release::Lock(caller(2)), 150);
    assert!(keys.are_free() && keys.deadlines.keys.is_empty(), "nothing is left of ended leases");

    assert!(keys.take(place, caller(1), leased(100), 0));
    assert!(
        keys.take(place, caller(3), LOCK, 100),
        "a lease that is over holds nobody, also before a tick"
    );
}

#[test]
fn a_wait_that_is_over_is_told_so_and_does_not_hold_up_the_next() {
    let mut keys = Keys::default();
    let place = (MAP, &b"key"[..]);
    assert!(keys.take(place, caller(1), Wanted::Claim, 0));
    let (_, first) = keys.wait(place, caller(2), Wanted::Claim, Some(10));
    let (second_ticket, _) = keys.wait(place, caller(3), Wanted::Claim, Some(99));
    let (_, third) = keys.wait(place, caller(4), Wanted::Claim, None);
    keys.tick(10);
    assert_eq!(first.outcome(), Some(Outcome::TimedOut));
    keys.withdraw(place, second_ticket, 10);
    keys.release(place, Release::Claim, 10);
    assert_eq!(third.outcome(), Some(Outcome::Granted));
    keys.release(place, Release::Claim, 10);
    assert!(keys.are_free() && keys.deadlines.keys.is_empty());
}

#[test]
fn whoever_waits_for_a_key_of_a_map_that_goes_hears_of_it() {
    let mut keys = Keys::default();
    let (place, other) = ((MAP, &b"key"[..]), (MapNo(4), &b"key"[..]));
    assert!(keys.take(place, caller(1), Wanted::Lock { lease_ms: Some(5) }, 0));
    assert!(keys.take(other, caller(1), LOCK, 0));
    let (_, slot) = keys.wait(place, caller(2), Wanted::Claim, Some(9));
    keys.forget_map(MAP);
    assert_eq!(slot.outcome(), Some(Outcome::Gone));
    assert_eq!((keys.holder(place, 0), keys.holder(other, 0)), (None, Some(caller(1))));
    assert!(keys.deadlines.keys.is_empty());
}

/// What a caller does in a random history.
#[derive(Clone, Copy, Debug)]
enum Step {
    Claim(Option<u64>),
    Lock { lease_ms: Option<u64>, deadline: Option<u64> },
    Release,
    Withdraw,
    Time(u64),
}

fn steps() -> impl Strategy<Value = Vec<(i64, u8, Step)>> {
    let within = || proptest::option::of(1..20u64);
    let step = prop_oneof![
        3 => within().prop_map(Step::Claim),
        3 => (within(), within()).prop_map(|(lease_ms, deadline)| Step::Lock { lease_ms, deadline }),
        6 => Just(Step::Release),
        1 => Just(Step::Withdraw),
        2 => (0..9u64).prop_map(Step::Time),
    ];
    proptest::collection::vec((0..4i64, 0..2u8, step), 0..80)
}

/// What a caller has of a key, as it was told.
#[derive(Default)]
struct Has {
    claim: bool,
    locks: u64,
    lease_end: Option<u64>,
    waits: Vec<(Ticket, Wanted, Arc<Slot>)>,
}

proptest! {
    #[test]
    fn nobody_has_a_key_beside_another_and_nothing_is_left_at_the_end(steps in steps()) {
        let mut keys = Keys::default();
        let mut has: HashMap<(i64, u8), Has> = HashMap::new();
        let mut now_ms = 0;
        for (thread, key, step) in steps {
            let (name, who) = ([key], caller(thread));
            let place = (MAP, &name[..]);
            let of = has.entry((thread, key)).or_default();
            match step {
                Step::Time(by) => {
                    now_ms += by;
                    keys.tick(now_ms);
                }
                Step::Claim(within) if !of.claim => {
                    if keys.take(place, who, Wanted::Claim, now_ms) {
                        of.claim = true;
                    } else {
                        let at_ms = within.map(|ms| now_ms + ms);
                        let (ticket, slot) = keys.wait(place, who, Wanted::Claim, at_ms);
                        of.waits.push((ticket, Wanted::Claim, slot));
                    }
                }
                Step::Lock { lease_ms, deadline } => {
                    let wanted = Wanted::Lock { lease_ms };
                    if keys.take(place, who, wanted, now_ms) {
                        of.locks += 1;
                        of.lease_end = lease_ms.map(|ms| now_ms + ms);
                    } else {
                        let at_ms = deadline.map(|ms| now_ms + ms);
                        let (ticket, slot) = keys.wait(place, who, wanted, at_ms);
                        of.waits.push((ticket, wanted, slot));
                    }
                }
                Step::Release if of.claim => {
                    of.claim = false;
                    prop_assert!(keys.release(place, Release::Claim, now_ms));
                }
                Step::Release if of.locks > 0 => {
                    of.locks -= 1;
                    prop_assert!(keys.release(place, Release::Lock(who), now_ms));
                }
                Step::Withdraw => {
                    if let Some((ticket, wanted, slot)) = of.waits.pop() {
                        match slot.outcome() {
                            None => keys.withdraw(place, ticket, now_ms),
                            Some(Outcome::Granted) => {
                                keys.release(place, wanted.undone_by(who), now_ms);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
            // Everybody hears how it went.
            for of in has.values_mut() {
                let (over, waits): (Vec<_>, Vec<_>) =
                    of.waits.drain(..).partition(|(_, _, slot)| slot.outcome().is_some());
                of.waits = waits;
                for (_, wanted, slot) in over {
                    match (slot.outcome(), wanted) {
                        (Some(Outcome::Granted), Wanted::Claim) => {
                            prop_assert!(!of.claim);
                            of.claim = true;
                        }
                        (Some(Outcome::Granted), Wanted::Lock { lease_ms }) => {
                            of.locks += 1;
                            of.lease_end = lease_ms.map(|ms| now_ms + ms);
                        }
                        _ => {}
                    }
                }
                if of.lease_end.is_some_and(|end_ms| end_ms <= now_ms) {
                    of.locks = 0;
                    of.lease_end = None;
                }
                if of.locks == 0 {
                    of.lease_end = None;
                }
            }
            for key in 0..2 {
                let of_key = || has.iter().filter(|((_, of), _)| *of == key).map(|(_, has)| has);
                let claims = of_key().filter(|has| has.claim).count();
                let lockers = of_key().filter(|has| has.locks > 0).count();
                prop_assert!(claims <= 1 && lockers <= 1, "{claims} claims, {lockers} lockers");
                let waits = of_key().filter(|has| !has.waits.is_empty()).count();
                prop_assert!(claims + lockers > 0 || waits == 0, "somebody waits for a free key");
            }
        }
        // All go away: the ones that wait, then the ones that have something.
        for ((_, key), of) in &mut has {
            for (ticket, _, _) in of.waits.drain(..) {
                keys.withdraw((MAP, &[*key]), ticket, now_ms);
            }
        }
        for ((thread, key), of) in &has {
            let name = [*key];
            let (place, who) = ((MAP, &name[..]), caller(*thread));
            if of.claim {
                prop_assert!(keys.release(place, Release::Claim, now_ms));
            }
            for _ in 0..of.locks {
                prop_assert!(keys.release(place, Release::Lock(who), now_ms));
            }
        }
        prop_assert!(keys.are_free());
        prop_assert!(keys.deadlines.keys.is_empty());
    }
}
