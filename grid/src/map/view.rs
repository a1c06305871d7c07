//! What is known of an entry, and of all of a map.

use super::core::MapCore;
use crate::data::{DataRef, Serial};
use crate::error::MapError;
use crate::map_store::Behind;
use crate::record::Head;
use crate::stats::{Counted, LocalMapStats, Operation};

/// What is known of an entry; times are milliseconds since 1970-01-01 UTC.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EntryView<V> {
    /// Its value.
    pub value: V,
    /// Bytes of its key and of what is kept under it.
    pub cost_bytes: u64,
    /// When it expires, if ever, unless it is used up before by not being used.
    pub expiration_ms: Option<u64>,
    /// How long it lives after a put, in milliseconds; `None`: for ever.
    pub ttl_ms: Option<u64>,
    /// How long it lives unused, in milliseconds; `None`: for ever.
    pub max_idle_ms: Option<u64>,
    /// When it was made, where the map keeps that.
    pub creation_ms: Option<u64>,
    /// When it was put last, where the map keeps that.
    pub last_update_ms: Option<u64>,
    /// How often it was put since it was made, where the map keeps that.
    pub version: Option<u32>,
}

/// What is known of a key's entry.
pub(super) fn of<V: Serial>(
    core: &MapCore,
    key: &[u8],
) -> Result<Option<EntryView<V::Owned>>, MapError> {
    let found = core.part(core.partition_of(key)?).get(key);
    let Some(entry) = found.map_err(|source| core.refused(source))? else { return Ok(None) };
    let bytes = entry.value_bytes();
    let view = || {
        let (head, value) = Head::split(bytes)?;
        let lives = |own: Option<u64>, rule_ms| Some(own.unwrap_or(rule_ms)).filter(|ms| *ms > 0);
        Ok(EntryView {
            value: V::read(DataRef::from_stored(value)?)?,
            cost_bytes: (key.len() + bytes.len()) as u64,
            expiration_ms: entry.expiry_ms(),
            ttl_ms: lives(head.ttl_ms, core.rules.ttl_ms),
            max_idle_ms: lives(head.max_idle_ms, core.rules.max_idle_ms),
            creation_ms: head.times.map(|times| times.created_ms),
            last_update_ms: head.times.map(|times| times.updated_ms),
            version: head.times.map(|times| times.version),
        })
    };
    view().map(Some).map_err(|source| core.bad_data(source))
}

impl MapCore {
    pub(super) fn stats(&self) -> LocalMapStats {
        let (held, counts) = (self.whole.stats(), &self.counts);
        let count = |operation| counts.sum(Counted::Operation(operation));
        let latency = |operation| counts.timings.latency(operation);
        LocalMapStats {
            owned_entry_count: held.entries,
            owned_entry_bytes: held.live_bytes,
            owned_entry_memory_cost: held.slot_bytes + held.index_bytes,
            locked_entry_count: self.locked(),
            dirty_entry_count: self.behind().map_or(0, Behind::waiting),
            dead_letter_count: self.behind().map_or(0, Behind::aside_count),
            map_store_refusal_count: self.behind().map_or(0, Behind::refusals),
            get_operation_count: count(Operation::Get),
            hits: counts.sum(Counted::Hit),
            put_operation_count: count(Operation::Put),
            set_operation_count: count(Operation::Set),
            remove_operation_count: count(Operation::Remove),
            process_operation_count: count(Operation::Process),
            event_count: counts.sum(Counted::Event),
            get_latency: latency(Operation::Get),
            put_latency: latency(Operation::Put),
            set_latency: latency(Operation::Set),
            remove_latency: latency(Operation::Remove),
            process_latency: latency(Operation::Process),
        }
    }
}
