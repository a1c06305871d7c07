//! Whether a recorded history of one key can be explained by a register that does one thing at a time.
//!
//! The search is that of Wing and Gong with Lowe's memory of states that led nowhere: an operation may come
//! next when no other unexplained one had ended before it began, and when the register's answer is the one
//! that was given. Cost: with T threads at most T operations may come next, and each pair of (explained
//! ones, value) is looked at once. The caller keeps histories at 128 operations or fewer, the width of a
//! set here.

use std::collections::HashSet;

/// What was asked of a key, and what came back. Values are numbers that no two writes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// Found this.
    Get(Option<u64>),
    /// Whatever was there, this is now.
    Insert(u64),
    /// Inserted if nothing was there; whether it was.
    InsertIfAbsent(u64, bool),
    /// Replaced the first by the second if that was there; whether it was.
    CompareExchange(u64, u64, bool),
    /// Removed; whether something was there.
    Remove(bool),
    /// Removed with all other keys of its stream, whether it was there or not.
    Clear,
}

/// One call, with the moments before it and after it.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Just before the call.
    pub began: u64,
    /// Just after it.
    pub ended: u64,
    /// What it did.
    pub done: Done,
}

/// The most calls of one history.
pub const CALLS_MAX: usize = 128;

/// The register after an operation, or `None` when it would have answered something else.
fn apply(value: Option<u64>, done: Done) -> Option<Option<u64>> {
    let fits = |fits: bool, then: Option<u64>| fits.then_some(then);
    match done {
        Done::Get(found) => fits(found == value, value),
        Done::Insert(new) => Some(Some(new)),
        Done::InsertIfAbsent(new, did) => {
            fits(did == value.is_none(), if did { Some(new) } else { value })
        }
        Done::CompareExchange(old, new, did) => {
            fits(did == (value == Some(old)), if did { Some(new) } else { value })
        }
        Done::Clear => Some(None),
        Done::Remove(was_there) => fits(was_there == value.is_some(), None),
    }
}

/// Explains a history of a key that had no value before, or says that nothing does.
///
/// # Panics
/// With more calls than [`CALLS_MAX`].
pub fn is_linearizable(calls: &[Call]) -> bool {
    assert!(calls.len() <= CALLS_MAX, "{} calls in one history", calls.len());
    let all = if calls.len() == CALLS_MAX { u128::MAX } else { (1 << calls.len()) - 1 };
    let mut seen: HashSet<(u128, Option<u64>)> = HashSet::new();
    let mut open = vec![(0u128, None)];
    while let Some((explained, value)) = open.pop() {
        if explained == all {
            return true;
        }
        if !seen.insert((explained, value)) {
            continue;
        }
        let rest = || (0..calls.len()).filter(|index| explained & (1 << index) == 0);
        let first_end = rest().map(|index| calls[index].ended).min().unwrap_or(u64::MAX);
        for index in rest().filter(|index| calls[*index].began <= first_end) {
            if let Some(then) = apply(value, calls[index].done) {
                open.push((explained | 1 << index, then));
            }
        }
    }
    false
}
