//! What a store holds, as lines of text: the manifest's maps and every entry, sorted.
//!
//! Invariant: two stores with the same lines hold the same. An entry's line ends with its stamp, before which
//! a model, that knows no stamps, compares.

use std::collections::BTreeMap;
use std::path::Path;

use hotrestart::codec::{Bytes, Codec, Str, U64};
use hotrestart::format::Manifest;
use hotrestart::format::crc::crc32c;
use hotrestart::format::manifest::{MANIFEST_LEN_MAX, MANIFEST_NAMES};
use hotrestart::hdstore::Placement;
use hotrestart::{Durability, Map, MapOptions, Store};

/// The year 3000: what expires then has not yet.
pub const FAR_MS: u64 = 32_503_680_000_000;
pub const STREAMS: u32 = 4;

pub fn numbers(store: &Store) -> Map<U64, Bytes> {
    store.map("numbers", MapOptions::default()).expect("a map")
}

pub fn words(store: &Store) -> Map<Str, U64> {
    let options = MapOptions::default().durability(Durability::Written);
    store.map("words", options).expect("a map")
}

pub fn notes(store: &Store) -> Map<Bytes, Str> {
    let options = MapOptions::default().durability(Durability::Synced);
    store.map("notes", options).expect("a map")
}

pub fn placed(store: &Store) -> Map<U64, Bytes> {
    store.map("placed", MapOptions::default().placed_by_owner()).expect("a map")
}

/// A map and one of its keys.
type Place = (&'static str, Vec<u8>);

/// What a store should hold: by place the value and its expiry.
#[derive(Clone, Debug, Default)]
pub struct Model(pub BTreeMap<Place, (Vec<u8>, Option<u64>)>);

impl Model {
    pub fn clear(&mut self, map: &str) {
        self.0.retain(|(of, _), _| *of != map);
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for ((map, key), (value, expiry_ms)) in &self.0 {
            lines.push(entry_line(map, key, value, *expiry_ms));
        }
        lines.sort();
        lines
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A long key or value by its checksum.
fn shown(bytes: &[u8]) -> String {
    if bytes.len() <= 16 {
        return format!("{}:{}", bytes.len(), hex(bytes));
    }
    format!("{}:crc32c={:08x}", bytes.len(), crc32c(bytes))
}

fn entry_line(map: &str, key: &[u8], value: &[u8], expiry_ms: Option<u64>) -> String {
    let expiry = expiry_ms.map_or_else(|| "never".to_owned(), |ms| ms.to_string());
    format!("entry {map} key={} value={} expires={expiry}", shown(key), shown(value))
}

fn entries<K: Codec, V: Codec>(map: &Map<K, V>) -> Vec<String> {
    let line = |entry: hotrestart::Ref<'_, K, V>| {
        let found = map.name();
        let line = entry_line(found, entry.key_bytes(), entry.value_bytes(), entry.expiry_ms());
        format!("{line} seq={}", entry.seq().0)
    };
    map.iter().map(line).collect()
}

/// The newest valid manifest in a directory.
pub fn manifest(directory: &Path) -> Manifest {
    let copies = MANIFEST_NAMES.iter().filter_map(|name| {
        let bytes = std::fs::read(directory.join(name)).ok()?;
        assert!(bytes.len() as u64 <= MANIFEST_LEN_MAX);
        Manifest::decode(&bytes).ok()
    });
    copies.max_by_key(|manifest| manifest.generation).expect("a manifest")
}

/// All that an open store holds, its directory's manifest included.
pub fn of_store(store: &Store, directory: &Path) -> Vec<String> {
    let manifest = manifest(directory);
    let mut lines = Vec::new();
    for map in &manifest.maps {
        let placement = match map.placement {
            Placement::ByHash => "by hash",
            Placement::ByOwner => "by owner",
        };
        lines.push(format!(
            "map {} {} key={} value={} {:?} placed {placement}",
            map.id.0, map.name, map.key_type, map.value_type, map.durability
        ));
        lines.extend(match map.name.as_str() {
            "numbers" => entries(&numbers(store)),
            "words" => entries(&words(store)),
            "notes" => entries(&notes(store)),
            "placed" => entries(&placed(store)),
            other => panic!("a map that is in no golden store: {other}"),
        });
    }
    for hold in store.holds() {
        lines.push(format!("hold {} of {} chunks", hold.id, hold.chunks));
    }
    lines.push(format!("next map {}, {} streams", manifest.next_map.0, manifest.streams));
    lines.sort();
    lines
}

/// Whether these lines' entries are the model's, and equal keys of placed maps are where they belong.
pub fn check_model(store: &Store, lines: &[String], model: &Model) {
    let without_seq = |line: &String| line.split(" seq=").next().map(str::to_owned);
    let entries = lines.iter().filter(|line| line.starts_with("entry"));
    let found: Vec<String> = entries.filter_map(without_seq).collect();
    assert_eq!(found, model.lines());
    let placed_keys = model.0.keys().filter(|(map, _)| *map == "placed");
    for (_, key) in placed_keys {
        let key = u64::from_le_bytes(key.as_slice().try_into().expect("a number"));
        let part = placed(store).in_stream(stream_of(key)).expect("a part");
        assert!(part.contains_key(&key).expect("readable"), "key {key} is not in its stream");
    }
}

/// Where the owner of `placed` puts a key.
pub fn stream_of(key: u64) -> hotrestart::StreamId {
    hotrestart::StreamId((key % u64::from(STREAMS)) as u32)
}
