//! Iteration: every entry that is there from the first step to the last is seen exactly once.
//!
//! Buckets form a tree: a bucket's children are those that split off from it, and a word only ever moves to a
//! child. While a walk is under way no word moves otherwise. So the walk keeps a stack of subtrees; it comes
//! to a bucket, and when the bucket has split since the subtree was noted, the children are noted as subtrees
//! of their own, under the stream's lock, so that no split is half done at that moment. A bucket without new
//! children is read without a lock, and again when the table changed its shape meanwhile; after some
//! attempts, under the lock. However much a table grows during a walk, a step costs one bucket.
//!
//! When a table is cleared, the walk over it ends: what was there all the time is nothing.
//!
//! Entries that come or go meanwhile may or may not be seen. An overwrite leaves its key's word where it
//! stands; a key that is removed and put again has a new word, in the emptier of its buckets, which the walk
//! may have passed, or have before it, while it is the other way round with the old one. That holds of a
//! group that does both, too: readers see its changes one by one. Each entry is published as a guard before
//! it is handed out, so the walk holds no pin between steps.

use super::access::view_pinned;
use super::read::Held;
use super::{Inner, MapCore, Place};
use crate::ids::StreamId;
use crate::index::word::Word;
use crate::log::Log;

/// How often a bucket is read without the lock before it is read under it.
const ATTEMPTS: u32 = 3;

/// A walk over a map.
pub(crate) struct Walk<'a, L: Log> {
    inner: &'a Inner<L>,
    map: &'a MapCore<L>,
    stream: u32,
    /// The stream after the last one.
    end: u32,
    /// The bucket count of the current table when the walk got there.
    buckets: u64,
    /// How often it had been cleared then.
    clears: u64,
    /// The next of those buckets.
    bucket: u64,
    subtrees: Vec<Subtree>,
    words: Vec<Word>,
    ready: Vec<Held<'a>>,
}

/// A bucket and the buckets that split, or will split, off from it, as far as their numbers are `since` or
/// above.
#[derive(Clone, Copy)]
struct Subtree {
    bucket: u64,
    since: u64,
}

impl<'a, L: Log> Walk<'a, L> {
    /// A walk over the map's part in some streams, at least one.
    pub(crate) fn new(
        inner: &'a Inner<L>,
        map: &'a MapCore<L>,
        streams: std::ops::Range<u32>,
    ) -> Walk<'a, L> {
        let mut walk = Walk {
            inner,
            map,
            stream: streams.start,
            end: streams.end,
            buckets: 0,
            clears: 0,
            bucket: 0,
            subtrees: Vec::new(),
            words: Vec::new(),
            ready: Vec::new(),
        };
        walk.enter();
        walk
    }

    fn place(&self) -> Place<'a> {
        self.inner.place(self.map, StreamId(self.stream))
    }

    /// Begins with the current stream's table.
    fn enter(&mut self) {
        let place = self.place();
        place.table.begin_walk();
        let locked = self.inner.lock_stream(&place);
        self.buckets = place.table.buckets();
        self.clears = place.table.clears();
        drop(locked);
        self.bucket = 0;
    }

    pub(crate) fn next(&mut self) -> Option<Held<'a>> {
        loop {
            if let Some(held) = self.ready.pop() {
                return Some(held);
            }
            if self.stream == self.end {
                return None;
            }
            if let Some(subtree) = self.subtrees.pop() {
                self.visit(subtree);
            } else if self.bucket < self.buckets {
                self.visit(Subtree { bucket: self.bucket, since: self.buckets });
                self.bucket += 1;
            } else {
                self.place().table.end_walk();
                self.stream += 1;
                if self.stream < self.end {
                    self.enter();
                }
            }
        }
    }

    fn visit(&mut self, subtree: Subtree) {
        let place = self.place();
        for _ in 0..ATTEMPTS {
            if place.table.clears() != self.clears {
                return self.end_table();
            }
            if children(subtree, place.table.buckets()).next().is_some() {
                let locked = self.inner.lock_stream(&place);
                let now = place.table.buckets();
                drop(locked);
                self.subtrees.push(Subtree { since: now, ..subtree });
                self.subtrees.extend(
                    children(subtree, now).map(|bucket| Subtree { bucket, since: bucket + 1 }),
                );
                return;
            }
            let pin = self.inner.pin();
            let shape = place.table.shape();
            self.read(&place, subtree.bucket);
            if place.table.clears() == self.clears
                && place.table.is_shape(shape)
                && children(subtree, place.table.buckets()).next().is_none()
            {
                return self.publish(&place, &pin);
            }
        }
        let pin = self.inner.pin();
        let locked = self.inner.lock_stream(&place);
        let now = place.table.buckets();
        if place.table.clears() != self.clears {
            return self.end_table();
        }
        self.read(&place, subtree.bucket);
        drop(locked);
        self.subtrees
            .extend(children(subtree, now).map(|bucket| Subtree { bucket, since: bucket + 1 }));
        self.publish(&place, &pin);
    }

    /// Leaves the rest of the current table out: it was cleared.
    fn end_table(&mut self) {
        self.subtrees.clear();
        self.bucket = self.buckets;
    }

    /// Collects the words of a bucket and its chain.
    fn read(&mut self, place: &Place<'a>, bucket: u64) {
        self.words.clear();
        place.table.for_each_in_bucket(bucket, |found| {
            // A word on its way from the chain to the bucket stands in both.
            if !self.words.contains(&found.word) {
                self.words.push(found.word);
            }
        });
    }

    fn publish(&mut self, place: &Place<'a>, pin: &crate::reclaim::pin::Pinned<'_>) {
        let node = place.node;
        for word in &self.words {
            let view = view_pinned(&node.arena, *word, pin);
            if !self.inner.is_expired(&view) {
                self.ready.push(self.inner.hold_view(node, &view));
            }
        }
    }
}

impl<L: Log> Drop for Walk<'_, L> {
    fn drop(&mut self) {
        if self.stream < self.end {
            self.place().table.end_walk();
        }
    }
}

/// The buckets that split off from a subtree's bucket itself, in a table of `buckets`.
fn children(subtree: Subtree, buckets: u64) -> impl Iterator<Item = u64> {
    let first = if subtree.bucket == 0 { 0 } else { subtree.bucket.ilog2() + 1 };
    (first..u64::BITS)
        .map(move |level| subtree.bucket + (1 << level))
        .take_while(move |child| *child < buckets)
        .filter(move |child| *child >= subtree.since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::word::splits_next;

    #[test]
    fn subtrees_part_the_buckets_whenever_a_table_grows_between_two_steps() {
        for (start, middle, end) in
            [(1, 1, 1), (1, 2, 300), (5, 9, 70), (64, 65, 1000), (100, 100, 101)]
        {
            let mut seen = vec![0; end as usize];
            let mut stack: Vec<Subtree> =
                (0..start).map(|bucket| Subtree { bucket, since: start }).collect();
            let mut steps = 0;
            while let Some(subtree) = stack.pop() {
                steps += 1;
                let now = if steps < 3 { middle } else { end };
                if children(subtree, now).next().is_some() {
                    stack.push(Subtree { since: now, ..subtree });
                    stack.extend(
                        children(subtree, now).map(|bucket| Subtree { bucket, since: bucket + 1 }),
                    );
                } else {
                    seen[subtree.bucket as usize] += 1;
                }
            }
            // Buckets read before their children came held the children's entries then.
            assert!(seen.iter().all(|times| *times <= 1));
            for bucket in 0..end {
                let mut ancestor = bucket;
                while seen[ancestor as usize] == 0 {
                    assert!(ancestor >= start, "{bucket} of {end} is never seen");
                    ancestor = splits_next(ancestor);
                }
            }
        }
    }
}
