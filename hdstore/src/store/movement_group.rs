//! Some entries move together: found in the index, copied to other slots, published, their old slots retired.
//!
//! Invariants: words are found, and their entries copied, under one pin, which lasts until they are
//! published; so whatever such a word names is still the entry that it named. A word is replaced only under
//! its stream's lock, and only if it still stands where it was found in a table that was not cleared since:
//! a value that came later, or a removal, stays. The copy has the entry's seq, expiry and bytes. A slot that
//! was filled in vain goes back, with its promise of a retirement, before anybody has seen it.
//!
//! Caller: `movement.rs`, group by group. Lock order: under the stream's lock only the lane's, for slots that
//! go back. What may go wrong: no other page of the class has room (the entry stays, and so does its page);
//! no retirement can be promised (the rest of the group is left, and the caller is told). Cost: two cache
//! lines and the entry's bytes for each that moves; the lock is held for up to 16 stores.
//! `docs/memory.md`, "Entries move", has the rules.

use std::sync::atomic::Ordering::Relaxed;

use super::access::{fill, view_pinned};
use super::node::{Node, Prepared};
use crate::entry::view::{EntryParts, write_seq};
use crate::ids::Seq;
use crate::index::table::{Found, Table};
use crate::index::word::Word;
use crate::reclaim::pin::Pinned;
use crate::slab::sparse::{PageSet, class_if_apart};

/// Entries that move under one pin, and one visit of their stream's lock.
pub(super) const ENTRIES_AT_A_TIME: usize = 16;

/// An entry whose new slot is filled.
struct Ready<'n> {
    from: Found,
    to: Word,
    prepared: Prepared<'n>,
    seq: Seq,
    slot_bytes: u64,
}

/// What became of some entries.
pub(super) struct Group<'n> {
    /// Those that were copied; after publication, those that were moved.
    ready: Vec<Ready<'n>>,
    /// Whether each that could move was tried.
    pub(super) is_whole: bool,
}

/// What came of copying an entry.
enum Copied<'n> {
    Ready(Ready<'n>),
    /// No other page of its class has room, or it need not move any more.
    NoSlot,
    /// No retirement can be promised.
    NoPromise,
}

impl Node {
    /// Collects words of entries in pages that are set apart, from bucket `from` of `buckets` on, and takes
    /// what it looks at off `left`. Returns the bucket after the last, and whether the table has no more.
    pub(super) fn find_apart(
        &self,
        table: &Table<'_>,
        apart: &PageSet,
        (from, buckets): (u64, u64),
        left: &mut u64,
        found: &mut Vec<Found>,
    ) -> (u64, bool) {
        found.clear();
        let mut bucket = from;
        while bucket < buckets && *left > 0 && found.len() < ENTRIES_AT_A_TIME {
            table.for_each_in_bucket(bucket, |each| {
                if apart.has(each.word.location()) {
                    self.arena.prefetch(each.word.location().offset());
                    found.push(each);
                }
            });
            bucket += 1;
            *left -= 1;
        }
        (bucket, bucket >= buckets)
    }

    /// Copies entries, whose words were read under the pin, to other slots; nobody sees these yet.
    pub(super) fn copy_found<'n>(&'n self, found: &[Found], pin: &Pinned<'_>) -> Group<'n> {
        let mut group = Group { ready: Vec::new(), is_whole: true };
        group.ready.reserve(found.len());
        for from in found {
            match self.copy(*from, pin) {
                Copied::Ready(ready) => group.ready.push(ready),
                // The others of its class are full after all, and its page stays; or it need not move.
                Copied::NoSlot => {}
                Copied::NoPromise => {
                    group.is_whole = false;
                    break;
                }
            }
        }
        group
    }

    /// Publishes what was copied under the pin where its word still stands, when the table had been cleared
    /// so often as the words were read. The others' slots go back.
    pub(super) fn publish_copied(
        &self,
        table: &Table<'_>,
        in_node: u64,
        clears: u64,
        group: &mut Group<'_>,
        _pin: &Pinned<'_>,
    ) {
        if group.ready.is_empty() {
            return;
        }
        let locked = self.movement.lock_stream(&self.arena, in_node);
        let is_same = table.clears() == clears;
        group.ready.retain(|ready| {
            let stands = is_same && table.has(&ready.from);
            if stands {
                write_seq(&self.arena, ready.to.location(), ready.seq);
                table.publish(ready.from.place, ready.to);
            }
            stands
        });
        drop(locked);
    }

    /// Copies an entry to another slot of its class.
    fn copy<'n>(&'n self, from: Found, pin: &Pinned<'_>) -> Copied<'n> {
        let view = view_pinned(&self.arena, from.word, pin);
        // A page that was emptied meanwhile may be another's by now.
        let class = class_if_apart(&self.arena, view.location());
        let Some(slot) = class.and_then(|class| self.slabs.take_elsewhere(&self.arena, class))
        else {
            return Copied::NoSlot;
        };
        let prepared = match self.promise_for(slot) {
            Some(prepared) => prepared,
            None => {
                self.free_now(slot.location);
                return Copied::NoPromise;
            }
        };
        let parts = EntryParts {
            key: view.key(),
            value_len: view.value_len(),
            expiry_ms: view.expiry_ms(),
        };
        fill(&self.arena, slot, &parts, view.value());
        Copied::Ready(Ready {
            from,
            to: Word::entry(from.word.tag(), view.seq(), slot.location),
            prepared,
            seq: view.seq(),
            slot_bytes: self.slabs.slot_bytes(&self.arena, slot.location),
        })
    }

    /// Retires the slots that entries have left. The caller's pin has ended: it would keep them.
    pub(super) fn settle_moved(&self, group: Group<'_>) {
        self.movement.moved.fetch_add(group.ready.len() as u64, Relaxed);
        for ready in group.ready {
            ready.prepared.settle(Some((ready.from.word.location(), ready.slot_bytes)));
        }
    }
}
