//! Which tables were cleared: by table the seq of the newest clear, so that compaction knows what is void.
//!
//! Invariant: a clear is here from before its record is complete, so whoever reads the record also finds it
//! here. Memory is without the entries that it took a moment sooner: who asks then keeps a fact too many. A
//! record of the table below that seq says nothing any more. Callers: the
//! log (under the stream's lock), the loader, the compactor. Cost: some 40 bytes for each table that was ever
//! cleared; a short lock for each clear, and for each fact that compaction meets.

use std::collections::HashMap;

use hdstore::{MapId, Seq, StreamId};

use crate::sync::{Mutex, lock};

/// The newest clear of each table.
#[derive(Debug, Default)]
pub(crate) struct Clears {
    newest: Mutex<HashMap<(MapId, StreamId), Seq>>,
}

impl Clears {
    pub(crate) fn raise(&self, map: MapId, stream: StreamId, seq: Seq) {
        let mut newest = lock(&self.newest);
        let known = newest.entry((map, stream)).or_insert(seq);
        *known = seq.max(*known);
    }

    /// The newest clear of a table; 0 when none is known.
    pub(crate) fn newest(&self, map: MapId, stream: StreamId) -> Seq {
        lock(&self.newest).get(&(map, stream)).copied().unwrap_or_default()
    }

    /// Forgets a map that was dropped.
    pub(crate) fn forget(&self, map: MapId) {
        lock(&self.newest).retain(|(of, _), _| *of != map);
    }
}
