//! Keys that come and go beside records at rest, in chunks that have hardly any garbage: what is needed to
//! keep removed keys away after a restart must not fill the disk budget.

use hotrestart::codec::Bytes;
use hotrestart::{Map, MapOptions, Store};

const MIB: u64 = 1 << 20;

struct Case {
    dir: tempfile::TempDir,
    /// Entries at rest.
    kept: u64,
    value_len: usize,
    budget: f64,
}

impl Case {
    fn new(kept: u64, value_len: usize, budget: f64) -> Case {
        Case { dir: tempfile::tempdir().expect("a directory"), kept, value_len, budget }
    }

    fn open(&self) -> Store {
        let builder = Store::builder().memory_limit_bytes(256 * MIB).streams(4).writers(1);
        let builder = builder.chunk_bytes(256 << 10).disk_budget(self.budget);
        builder.open(self.dir.path()).expect("a store")
    }

    /// A store with the entries at rest.
    fn filled(&self) -> (Store, Map<Bytes, Bytes>) {
        let store = self.open();
        let map = store.map("m", MapOptions::default()).expect("a map");
        let value: &[u8] = &vec![1; self.value_len];
        for number in 0..self.kept {
            map.insert(&number.to_be_bytes()[..], value).expect("room");
        }
        (store, map)
    }

    /// Opens the store again, after its process died: it has what is at rest, and none that `is_gone`.
    fn check(self, (store, map): (Store, Map<Bytes, Bytes>), is_gone: impl Fn(u64) -> bool) {
        drop(map);
        store.abandon();
        let map = self.open().map::<Bytes, Bytes>("m", MapOptions::default()).expect("the map");
        let there = (0..self.kept).filter(|number| !is_gone(*number));
        assert_eq!(map.len(), there.clone().count() as u64);
        for number in there {
            assert!(map.contains_key(&number.to_be_bytes()[..]).expect("readable"), "{number}");
        }
    }
}

fn come_and_go(map: &Map<Bytes, Bytes>, key: &[u8]) {
    map.insert(key, b"").unwrap_or_else(|error| panic!("{} B key: {error}", key.len()));
    assert!(map.remove(key).expect("removed"));
}

fn long_key(number: u64) -> Vec<u8> {
    let mut key = vec![b'k'; 20_000];
    key[..8].copy_from_slice(&(number | 1 << 60).to_be_bytes());
    key
}

/// One key in 24, in turn: more of them than a chunk holds facts of, so that no two of one key meet in a
/// victim. What keeps their facts is hardly garbage enough, in any chunk, for that to be compacted.
#[test]
fn facts_that_old_records_keep_do_not_pile_up_however_often_their_keys_come_and_go() {
    let case = Case::new(240_000, 100, 1.5);
    let (store, map) = case.filled();
    let goes = |number: u64| number.is_multiple_of(24);
    for _ in 0..40 {
        for number in (0..case.kept).filter(|number| goes(*number)) {
            come_and_go(&map, &number.to_be_bytes());
        }
    }
    case.check((store, map), goes);
}

/// A survey that tells few keys apart, and looks for entries of them among very many, takes some for theirs.
#[test]
fn facts_of_few_long_keys_are_told_from_entries_of_many_short_ones() {
    let case = Case::new(400_000, 8, 2.0);
    let (store, map) = case.filled();
    (0..4_000).for_each(|number| come_and_go(&map, &long_key(number)));
    case.check((store, map), |_| false);
}

/// Most facts are short, and old records keep them; most of their bytes are those of a few long ones that may
/// go.
#[test]
fn few_long_facts_are_forgotten_in_time_beside_short_ones_that_old_records_keep() {
    let case = Case::new(120_000, 100, 1.5);
    let (store, map) = case.filled();
    let goes = |number: u64| number.is_multiple_of(24);
    for round in 0..30 {
        for number in (0..case.kept).filter(|number| goes(*number)) {
            if number.is_multiple_of(24 * 60) {
                come_and_go(&map, &long_key(round * case.kept + number));
            }
            come_and_go(&map, &number.to_be_bytes());
        }
    }
    case.check((store, map), goes);
}
