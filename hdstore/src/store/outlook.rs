//! Outlook: the tables of a store that loads get the buckets that they will have, once it shows how many.
//!
//! A table that grows while it fills splits each bucket when it is full, and looks at every entry in it for
//! that; and it is full all the while, so that many an insert must make its place. When a small part is
//! loaded, the same growth costs as small a part. How far is known by the log: it says how many bytes of keys
//! and values live; tables are taken to share them as they do now, since nothing else is known of them.
//!
//! Invariant: growth ahead of need never takes what entries need. The index gives nothing back, and a guess
//! from a part says nothing of the rest (other maps, shorter entries), so it is not trusted: tables grow
//! ahead only where everything that the log may hold fits beside them, and by at most a sixteenth of the
//! limit. Caller: the loader of `hotrestart`, once. What may go wrong: a wrong guess, which costs that much
//! memory; no memory, and growth goes on as entries come. `docs/restart.md`, "The fold", has the figures.

use super::Place;
use super::access::hash_locked;
use super::apply::Loading;
use super::put::Spares;
use crate::ids::StreamId;
use crate::index::grow::buckets_for;
use crate::log::Log;

/// Of what is expected; a table that turns out smaller has cost memory for nothing.
const SHARE: f64 = 0.9;
/// Less growth than this is not worth a look at all tables.
const TIMES_MIN: f64 = 2.0;
/// Bytes of the index for an entry.
const INDEX_BYTES: u64 = 10;
/// Of the limit, in eighths, what may be needed may take.
const LIMIT_EIGHTHS: u64 = 7;
/// Of the limit what tables may grow ahead, one part in so many.
const GROWTH_PART: u64 = 16;

impl<L: Log> Loading<L> {
    /// Makes room in the tables for `live_bytes` of keys and values in all, if they come as they came so far,
    /// where what is still to come surely fits beside that: it needs `rest_bytes` of memory at most. Call it
    /// once, when a small part is loaded. It changes nothing but where time is spent.
    pub fn expect(&self, live_bytes: u64, rest_bytes: u64) {
        let inner = &*self.store.inner;
        let (mut now_bytes, mut entries) = (0, 0);
        self.each_place(|place| {
            let _locked = inner.lock_stream(place);
            let counts = place.table.counts();
            now_bytes += counts.live_bytes;
            entries += counts.entries;
        });
        let times = live_bytes as f64 / now_bytes.max(1) as f64;
        let growth = entries as f64 * times * INDEX_BYTES as f64;
        let budget = inner.nodes[0].arena.budget();
        let (limit, committed) = (budget.limit_bytes(), budget.committed_bytes());
        let fits = (committed + rest_bytes) as f64 + growth <= (limit / 8 * LIMIT_EIGHTHS) as f64;
        if times < TIMES_MIN || !fits || growth > (limit / GROWTH_PART) as f64 {
            return;
        }
        self.each_place(|place| self.grow_ahead(place, times * SHARE));
    }

    fn each_place(&self, mut each: impl FnMut(&Place<'_>)) {
        let inner = &*self.store.inner;
        for map in self.maps.iter() {
            (0..inner.streams).for_each(|stream| each(&inner.place(map, StreamId(stream))));
        }
    }

    /// Splits buckets until a table has room for so many times its entries.
    fn grow_ahead(&self, place: &Place<'_>, times: f64) {
        let (arena, hash) = (&place.node.arena, &self.store.inner.hash);
        let wanted = buckets_for((place.table.entries() as f64 * times) as u64);
        let mut spare = Spares::new(place.node);
        loop {
            let before = place.table.buckets();
            if before == 0 || before >= wanted || spare.take(place.table.wants_of_split()).is_err()
            {
                return;
            }
            let locked = self.store.inner.lock_stream(place);
            let hash_of = |location| hash_locked(arena, hash, location, &locked);
            while place.table.buckets() < wanted && place.table.split(&mut spare.spare, hash_of) {}
            if place.table.buckets() == before {
                return;
            }
        }
    }
}
