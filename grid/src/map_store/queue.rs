//! Changes of a partition's keys that wait to be stored: which one is to be stored next, and when.
//!
//! Invariants: of one key one change is away at a time, the oldest; so the database hears of a key's
//! changes in their order, whoever tells it. A change is away no earlier than it is due. Each change has a
//! number, which is given once and grows; where changes coalesce, what is put over a change that is not
//! away takes its number and its time, so a key that is put all the time is stored all the same.
//!
//! Pure: no time, no values, no database. What a number stands for is kept by the caller. Cost: a look-up by
//! hash and a step in an ordered map for a change; on the heap the key once, and some 150 bytes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// A change of a key.
#[derive(Clone, Debug)]
struct Change {
    number: u64,
    due_ms: u64,
    /// How often it was refused, and how often while the database took others.
    tries: u32,
    refused: u32,
    /// What the database had taken when it was refused last.
    taken_before: u64,
    /// Why it is not tried any more.
    aside: Option<Arc<str>>,
}

/// What waits of a key, the oldest first.
#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Change>,
    is_away: bool,
}

/// A change that is to be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Due {
    pub(crate) key: Arc<[u8]>,
    pub(crate) number: u64,
}

/// What becomes of a change that was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// It is tried again then.
    Again(u64),
    /// It is set aside: the database has taken others, and refused this one so often.
    Aside,
}

/// How often and when what was refused is tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Retry {
    /// Refusals, while others are taken, after which a change is set aside.
    pub(crate) refused_max: u32,
    /// The first wait, which doubles each time, and the longest.
    pub(crate) first_ms: u64,
    pub(crate) longest_ms: u64,
}

impl Retry {
    /// How long to wait after so many tries; `number` has those that failed together come again apart.
    fn wait_ms(&self, tries: u32, number: u64) -> u64 {
        let wait_ms = self.first_ms << tries.saturating_sub(1).min(32);
        let wait_ms = wait_ms.min(self.longest_ms).max(1);
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        wait_ms + wait_ms * spread / (1 << 26)
    }
}

/// The changes of a partition.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    keys: HashMap<Arc<[u8]>, Waiting>,
    /// The oldest change of each key, unless it is away or aside.
    due: BTreeMap<(u64, u64), Arc<[u8]>>,
    next_number: u64,
    /// The time that somebody was told to look at it.
    announced_ms: Option<u64>,
    changes: u64,
    aside: u64,
}

impl Queue {
    /// The number of the next change of a key, and whether it takes the place of one that waits.
    pub(crate) fn number_for(&self, key: &[u8], coalesces: bool) -> (u64, bool) {
        let last = self.keys.get(key).filter(|_| coalesces).and_then(|waiting| {
            let is_away = waiting.is_away && waiting.changes.len() == 1;
            waiting.changes.back().filter(|_| !is_away)
        });
        last.map_or((self.next_number, false), |change| (change.number, true))
    }

    /// Takes in the change of which [`Queue::number_for`] gave the number, due then if it is a new one. What
    /// was set aside of its key is tried again: the change takes its place, or comes after it.
    pub(crate) fn push(&mut self, key: &[u8], number: u64, due_ms: u64) {
        let key = match self.keys.get_key_value(key) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::from(key),
        };
        let waiting = self.keys.entry(Arc::clone(&key)).or_default();
        if let Some(front) = waiting.changes.front_mut()
            && front.aside.take().is_some()
        {
            self.aside -= 1;
            (front.tries, front.refused, front.due_ms) = (0, 0, due_ms);
            self.due.insert((due_ms, front.number), Arc::clone(&key));
        }
        match waiting.changes.iter_mut().find(|change| change.number == number) {
            Some(change) => (change.tries, change.refused) = (0, 0),
            None => {
                let (tries, refused, taken_before) = (0, 0, u64::MAX);
                let aside = None;
                waiting.changes.push_back(Change {
                    number,
                    due_ms,
                    tries,
                    refused,
                    taken_before,
                    aside,
                });
                self.changes += 1;
                self.next_number = self.next_number.max(number + 1);
                if waiting.changes.len() == 1 {
                    self.due.insert((due_ms, number), key);
                }
            }
        }
    }

    /// Takes changes that are due, at most so many; they are away then.
    pub(crate) fn take(&mut self, now_ms: u64, most: usize) -> Vec<Due> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(first) = self.due.first_entry()
            && first.key().0 <= now_ms
        {
            let ((_, number), key) = first.remove_entry();
            self.keys.get_mut(&key).expect("it waits").is_away = true;
            taken.push(Due { key, number });
        }
        taken
    }

    /// A change that was away is stored.
    pub(crate) fn stored(&mut self, due: &Due) {
        let waiting = self.come_back(due);
        waiting.changes.pop_front();
        let is_empty = waiting.changes.is_empty();
        self.changes -= 1;
        if is_empty {
            self.keys.remove(&due.key);
        } else {
            self.set_due(&due.key);
        }
    }

    /// A change that was away was refused, when the database had taken so many others in all.
    pub(crate) fn refused(
        &mut self,
        due: &Due,
        (now_ms, taken): (u64, u64),
        retry: &Retry,
        why: impl FnOnce() -> String,
    ) -> Refusal {
        let waiting = self.come_back(due);
        let change = waiting.changes.front_mut().expect("it was away");
        change.tries += 1;
        change.refused += u32::from(taken > change.taken_before);
        change.taken_before = taken;
        if change.refused >= retry.refused_max {
            change.aside = Some(why().into());
            self.aside += 1;
            return Refusal::Aside;
        }
        change.due_ms = now_ms + retry.wait_ms(change.tries, change.number);
        let again_ms = change.due_ms;
        self.set_due(&due.key);
        Refusal::Again(again_ms)
    }

    /// A change that was away was refused, and is not told again: the next one of its key is, then or later.
    pub(crate) fn refused_for_newer(&mut self, due: &Due, now_ms: u64, retry: &Retry) -> Refusal {
        let waiting = self.come_back(due);
        let refused = waiting.changes.pop_front().expect("it was away");
        let newer = waiting.changes.front_mut().expect("the caller knows of it");
        newer.tries = refused.tries + 1;
        let wait_ms = retry.wait_ms(newer.tries, newer.number);
        newer.due_ms = newer.due_ms.max(now_ms + wait_ms);
        let again_ms = newer.due_ms;
        self.changes -= 1;
        self.set_due(&due.key);
        Refusal::Again(again_ms)
    }

    /// A change that was away was not tried: it is due then.
    pub(crate) fn given_back(&mut self, due: &Due, due_ms: u64) {
        let waiting = self.come_back(due);
        waiting.changes.front_mut().expect("it was away").due_ms = due_ms;
        self.set_due(&due.key);
    }

    /// Has everything that waits be due now, but what is aside.
    pub(crate) fn hurry(&mut self, now_ms: u64) {
        for change in self.keys.values_mut().flat_map(|waiting| &mut waiting.changes) {
            change.due_ms = change.due_ms.min(now_ms);
        }
        let due = std::mem::take(&mut self.due);
        self.due =
            due.into_iter().map(|((at, number), key)| ((at.min(now_ms), number), key)).collect();
    }

    /// Has what is aside be tried again. How many changes that are.
    pub(crate) fn try_again(&mut self, now_ms: u64) -> u64 {
        let mut again = Vec::new();
        for (key, waiting) in &mut self.keys {
            let Some(change) = waiting.changes.front_mut() else { continue };
            if change.aside.take().is_some() {
                (change.tries, change.refused, change.due_ms) = (0, 0, now_ms);
                again.push(((now_ms, change.number), Arc::clone(key)));
            }
        }
        self.aside -= again.len() as u64;
        let count = again.len() as u64;
        self.due.extend(again);
        count
    }

    /// What is aside, and why.
    pub(crate) fn aside(&self) -> impl Iterator<Item = (Due, Arc<str>)> {
        self.keys.iter().filter_map(|(key, waiting)| {
            let change = waiting.changes.front()?;
            let why = change.aside.clone()?;
            Some((Due { key: Arc::clone(key), number: change.number }, why))
        })
    }

    /// Whether a change is aside.
    pub(crate) fn is_aside(&self, due: &Due) -> bool {
        let front = self.keys.get(&due.key).and_then(|waiting| waiting.changes.front());
        front.is_some_and(|front| front.number == due.number && front.aside.is_some())
    }

    /// Gives a change up that is aside.
    pub(crate) fn drop_aside(&mut self, due: &Due) {
        assert!(self.is_aside(due), "{due:?} is not set aside");
        self.aside -= 1;
        self.keys.get_mut(&due.key).expect("just seen").is_away = true;
        self.stored(due);
    }

    /// Whether nothing of a key waits; or why the oldest change of it is aside.
    pub(crate) fn is_settled(&self, key: &[u8]) -> Result<bool, Arc<str>> {
        let front = self.keys.get(key).and_then(|waiting| waiting.changes.front());
        front.and_then(|front| front.aside.clone()).map_or(Ok(front.is_none()), Err)
    }

    /// Changes that are aside, and those behind them.
    pub(crate) fn held_up(&self) -> u64 {
        let is_aside =
            |waiting: &&Waiting| waiting.changes.front().is_some_and(|front| front.aside.is_some());
        let held_up = self.keys.values().filter(is_aside);
        held_up.map(|waiting| waiting.changes.len() as u64).sum()
    }

    /// Keys of which changes wait.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Arc<[u8]>> {
        self.keys.keys()
    }

    /// The number of the newest change of a key that waits.
    pub(crate) fn newest(&self, key: &[u8]) -> Option<u64> {
        self.keys.get(key)?.changes.back().map(|change| change.number)
    }

    /// When the first change is due, where that is before what was announced.
    pub(crate) fn newly_due(&mut self) -> Option<u64> {
        let first_ms = self.due.first_key_value()?.0.0;
        let is_new = self.announced_ms.is_none_or(|announced_ms| first_ms < announced_ms);
        is_new.then(|| *self.announced_ms.insert(first_ms))
    }

    /// Somebody looks at it now, as was announced.
    pub(crate) fn looked_at(&mut self) {
        self.announced_ms = None;
    }

    /// Changes that wait, those that are away and aside included, and those that are aside.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.changes, self.aside)
    }

    /// The number that the next new change gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Whether nothing below this number waits but what is aside, or behind such.
    pub(crate) fn is_stored_below(&self, number: u64) -> bool {
        self.keys.values().all(|waiting| {
            let front = waiting.changes.front();
            front.is_none_or(|front| front.number >= number || front.aside.is_some())
        })
    }

    fn come_back(&mut self, due: &Due) -> &mut Waiting {
        let waiting = self.keys.get_mut(&due.key).expect("what is away waits");
        assert!(waiting.is_away && waiting.changes[0].number == due.number, "{due:?} is not away");
        waiting.is_away = false;
        waiting
    }

    fn set_due(&mut self, key: &Arc<[u8]>) {
        let front = &self.keys[key].changes[0];
        self.due.insert((front.due_ms, front.number), Arc::clone(key));
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
