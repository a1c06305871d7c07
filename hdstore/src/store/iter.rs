//! Iteration: every entry that is there from the first step to the last is seen exactly once.
//!
//! The walk visits the buckets that a table had when it got there, each together with the buckets that have split off from
//! it since: wherever an entry moves, it stays in that family. Entries that come or go meanwhile may or may not be seen.
//! Each entry is published as a guard before it is handed out, so the walk holds no pin between steps.

use super::access::view_pinned;
use super::read::Held;
use super::{Inner, MapCore};
use crate::ids::StreamId;
use crate::index::table::Table;
use crate::index::word::Word;
use crate::log::Log;

/// A walk over a map.
pub(crate) struct Walk<'a, L: Log> {
    inner: &'a Inner<L>,
    map: &'a MapCore<L>,
    stream: u32,
    /// The bucket count of the current table when the walk got there.
    buckets: u64,
    bucket: u64,
    ready: Vec<Held<'a>>,
}

impl<'a, L: Log> Walk<'a, L> {
    pub(crate) fn new(inner: &'a Inner<L>, map: &'a MapCore<L>) -> Walk<'a, L> {
        let mut walk = Walk { inner, map, stream: 0, buckets: 0, bucket: 0, ready: Vec::new() };
        walk.enter();
        walk
    }

    /// Begins with the current stream's table.
    fn enter(&mut self) {
        let place = self.inner.place(self.map, StreamId(self.stream));
        place.table.begin_walk();
        drop(self.inner.lock_stream(&place));
        self.buckets = place.table.buckets();
        self.bucket = 0;
    }

    pub(crate) fn next(&mut self) -> Option<Held<'a>> {
        loop {
            if let Some(held) = self.ready.pop() {
                return Some(held);
            }
            if self.stream == self.inner.streams {
                return None;
            }
            if self.bucket == self.buckets {
                self.inner.place(self.map, StreamId(self.stream)).table.end_walk();
                self.stream += 1;
                if self.stream < self.inner.streams {
                    self.enter();
                }
                continue;
            }
            self.visit();
            self.bucket += 1;
        }
    }

    fn visit(&mut self) {
        let place = self.inner.place(self.map, StreamId(self.stream));
        let pin = self.inner.pin();
        let words = family_words(place.table, self.bucket, self.buckets);
        for word in words {
            let view = view_pinned(&place.node.arena, word, &pin);
            if !self.inner.is_expired(&view) {
                self.ready.push(self.inner.hold_view(place.node, &view));
            }
        }
    }
}

impl<L: Log> Drop for Walk<'_, L> {
    fn drop(&mut self) {
        if self.stream < self.inner.streams {
            self.inner.place(self.map, StreamId(self.stream)).table.end_walk();
        }
    }
}

/// The entry words of a bucket and of all that split off from it since the table had `buckets` buckets.
fn family_words(table: Table<'_>, bucket: u64, buckets: u64) -> Vec<Word> {
    let mut words = Vec::new();
    loop {
        words.clear();
        let now = table.buckets();
        let mut members = vec![bucket];
        while let Some(member) = members.pop() {
            table.for_each_in_bucket(member, |found| {
                if !words.contains(&found.word) {
                    words.push(found.word);
                }
            });
            let mut step = if member == 0 { 1 } else { 1 << (member.ilog2() + 1) };
            while member + step < now {
                if member + step >= buckets {
                    members.push(member + step);
                }
                step *= 2;
            }
        }
        if table.buckets() == now {
            return words;
        }
    }
}
