//! Queues by hand, and random histories of them against a plain list.

use proptest::prelude::*;

use super::*;

const RETRY: Retry = Retry { refused_max: 3, first_ms: 100, longest_ms: 1_000 };

fn push(queue: &mut Queue, key: &[u8], coalesces: bool, due_ms: u64) -> u64 {
    let (number, _) = queue.number_for(key, coalesces);
    queue.push(key, number, due_ms);
    number
}

#[test]
fn a_key_that_is_put_all_the_time_is_stored_all_the_same() {
    let mut queue = Queue::default();
    let number = push(&mut queue, b"hot", true, 100);
    for at_ms in 1..100 {
        assert_eq!(push(&mut queue, b"hot", true, at_ms + 100), number);
        assert_eq!(queue.take(at_ms, 9), []);
    }
    let taken = queue.take(100, 9);
    assert_eq!(taken.len(), 1);
    // What is put while it is away is a change of its own.
    assert_ne!(push(&mut queue, b"hot", true, 200), number);
    assert_eq!(queue.take(999, 9), [], "one of a key at a time");
    queue.stored(&taken[0]);
    assert_eq!((queue.take(199, 9).len(), queue.take(200, 9).len()), (0, 1));
}

#[test]
fn what_is_refused_while_others_are_taken_is_set_aside_and_what_an_outage_refuses_never() {
    let mut queue = Queue::default();
    push(&mut queue, b"poison", true, 0);
    let mut now_ms = 0;
    for _ in 0..50 {
        let taken = queue.take(now_ms, 9);
        let refusal = queue.refused(&taken[0], (now_ms, 7), &RETRY, || "down".to_owned());
        let Refusal::Again(at_ms) = refusal else { panic!("set aside while nothing was taken") };
        assert!((now_ms + 100..=now_ms + 1_250).contains(&at_ms), "{now_ms} {at_ms}");
        now_ms = at_ms;
    }
    let refused = (8..=10).map(|taken| {
        let due = queue.take(now_ms, 9);
        let refusal = queue.refused(&due[0], (now_ms, taken), &RETRY, || "bad".to_owned());
        now_ms += 2_000;
        refusal == Refusal::Aside
    });
    assert_eq!(refused.collect::<Vec<_>>(), [false, false, true]);
    assert_eq!((queue.counts(), queue.take(u64::MAX, 9)), ((1, 1), vec![]));
    assert!(queue.is_stored_below(99), "nobody waits for what is aside");
    let aside: Vec<_> = queue.aside().collect();
    assert_eq!((&*aside[0].0.key, &*aside[0].1), (&b"poison"[..], "bad"));
    assert_eq!(queue.try_again(now_ms), 1);
    assert_eq!(queue.take(now_ms, 9).len(), 1);
}

#[test]
fn what_is_put_over_a_change_that_is_aside_is_tried() {
    let mut queue = Queue::default();
    let retry = Retry { refused_max: 1, ..RETRY };
    push(&mut queue, b"k", true, 0);
    for taken in [1, 2] {
        let due = queue.take(u64::MAX >> 1, 9);
        queue.refused(&due[0], (0, taken), &retry, || "bad".to_owned());
    }
    assert_eq!(queue.counts(), (1, 1));
    push(&mut queue, b"k", true, 50);
    assert_eq!((queue.counts(), queue.take(49, 9).len(), queue.take(50, 9).len()), ((1, 0), 0, 1));
}

#[test]
fn what_is_given_up_makes_way_for_what_came_after_it() {
    let mut queue = Queue::default();
    let retry = Retry { refused_max: 1, ..RETRY };
    push(&mut queue, b"k", false, 0);
    let second = push(&mut queue, b"k", false, 0);
    for taken in [1, 2] {
        let due = queue.take(u64::MAX >> 1, 9);
        queue.refused(&due[0], (0, taken), &retry, || "bad".to_owned());
    }
    assert_eq!(queue.take(u64::MAX, 9), [], "in their order, or not at all");
    assert_eq!((queue.held_up(), queue.counts()), (2, (2, 1)));
    let (due, _) = queue.aside().next().expect("aside");
    assert_eq!(queue.is_settled(b"k"), Err("bad".into()));
    queue.drop_aside(&due);
    assert!(!queue.is_aside(&due));
    assert_eq!(queue.take(u64::MAX, 9)[0].number, second);
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    Take(usize),
    Stored(usize),
    Refused(usize),
    RefusedForNewer(usize),
    GivenBack(usize),
    Time(u64),
    Hurry,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4u8).prop_map(Step::Push),
        4 => (1..4usize).prop_map(Step::Take),
        4 => (0..4usize).prop_map(Step::Stored),
        2 => (0..4usize).prop_map(Step::Refused),
        2 => (0..4usize).prop_map(Step::RefusedForNewer),
        1 => (0..4usize).prop_map(Step::GivenBack),
        3 => (1..300u64).prop_map(Step::Time),
        1 => Just(Step::Hurry),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn the_changes_of_a_key_are_away_one_at_a_time_in_their_order_and_none_is_lost(
        steps in steps(),
        coalesces in any::<bool>(),
    ) {
        const DELAY_MS: u64 = 500;
        let (mut queue, mut now_ms, mut taken_in_all) = (Queue::default(), 0, 0);
        // By key, numbers that are not stored yet, with when each came.
        let mut waiting: HashMap<u8, Vec<(u64, u64)>> = HashMap::new();
        let mut away: Vec<Due> = Vec::new();
        let mut hurried_ms = None;
        for step in steps {
            match step {
                Step::Push(key) => {
                    let (number, replaces) = queue.number_for(&[key], coalesces);
                    queue.push(&[key], number, now_ms + DELAY_MS);
                    let of_key = waiting.entry(key).or_default();
                    prop_assert_eq!(replaces, of_key.iter().any(|(known, _)| *known == number));
                    prop_assert!(!replaces || !away.iter().any(|due| due.number == number));
                    if !replaces {
                        prop_assert!(of_key.last().is_none_or(|(last, _)| *last < number));
                        of_key.push((number, now_ms));
                    }
                }
                Step::Take(most) => {
                    for due in queue.take(now_ms, most) {
                        let of_key = &waiting[&due.key[0]];
                        prop_assert_eq!(of_key[0].0, due.number, "the oldest of its key");
                        let is_hurried = hurried_ms.is_some_and(|at_ms| of_key[0].1 <= at_ms);
                        prop_assert!(is_hurried || now_ms >= of_key[0].1 + DELAY_MS, "too early");
                        prop_assert!(away.iter().all(|other| other.key != due.key));
                        away.push(due);
                    }
                }
                Step::Stored(at) if at < away.len() => {
                    let due = away.swap_remove(at);
                    queue.stored(&due);
                    taken_in_all += 1;
                    waiting.get_mut(&due.key[0]).expect("known").remove(0);
                }
                Step::Refused(at) if at < away.len() => {
                    let due = away.swap_remove(at);
                    let retry = Retry { refused_max: u32::MAX, ..RETRY };
                    let at = (now_ms, taken_in_all);
                    let refusal = queue.refused(&due, at, &retry, || "no".to_owned());
                    prop_assert!(matches!(refusal, Refusal::Again(at_ms) if at_ms > now_ms));
                }
                Step::RefusedForNewer(at)
                    if away.get(at).is_some_and(|due| waiting[&due.key[0]].len() > 1) =>
                {
                    let due = away.swap_remove(at);
                    let refusal = queue.refused_for_newer(&due, now_ms, &RETRY);
                    prop_assert!(matches!(refusal, Refusal::Again(at_ms) if at_ms > now_ms));
                    let of_key = waiting.get_mut(&due.key[0]).expect("known");
                    prop_assert_eq!(of_key.remove(0).0, due.number);
                }
                Step::GivenBack(at) if at < away.len() => {
                    queue.given_back(&away.swap_remove(at), now_ms);
                }
                Step::Time(ms) => now_ms += ms,
                Step::Hurry => {
                    queue.hurry(now_ms);
                    hurried_ms = Some(now_ms);
                }
                _ => {}
            }
            let count: usize = waiting.values().map(Vec::len).sum();
            prop_assert_eq!(queue.counts(), (count as u64, 0));
        }
        for due in std::mem::take(&mut away) {
            queue.given_back(&due, 0);
        }
        while let Some(due) = queue.take(u64::MAX, 1).pop() {
            prop_assert_eq!(waiting.get_mut(&due.key[0]).expect("known").remove(0).0, due.number);
            queue.stored(&due);
        }
        prop_assert!(waiting.values().all(Vec::is_empty) && queue.keys.is_empty());
        prop_assert_eq!(queue.counts(), (0, 0));
    }
}
