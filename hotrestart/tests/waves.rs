//! Waves: a store is filled and nearly emptied, again and again, so that its log is facts of absence for the
//! most part, more than one survey takes.

use hotrestart::codec::{Bytes, U64};
use hotrestart::{MapOptions, Store};

/// With such a limit a survey takes some 260,000 facts.
const LIMIT: u64 = 48 << 20;
const KEYS: u64 = 600_000;

fn stays(key: u64) -> bool {
    key.is_multiple_of(10)
}

/// Each put waits for compaction up to its deadline, and fails then.
#[test]
fn facts_of_more_removals_than_a_survey_takes_are_forgotten_and_no_put_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || {
        let builder = Store::builder().memory_limit_bytes(LIMIT).streams(4).chunk_bytes(256 << 10);
        builder.open(dir.path()).expect("a store")
    };
    let store = open();
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    for wave in 0..3_u64 {
        for key in 0..KEYS {
            if wave == 0 || !stays(key) {
                map.insert(&key, &wave.to_le_bytes()).expect("room in memory and on disk");
            }
        }
        for key in (0..KEYS).filter(|key| !stays(*key)) {
            assert!(map.remove(&key).expect("removed"), "key {key}");
        }
        let stats = store.stats();
        assert_eq!(stats.memory.entries, KEYS / 10);
        assert_eq!(stats.compaction_stopped, None);
    }
    drop(map);
    store.abandon();
    let map = open().map::<U64, Bytes>("m", MapOptions::default()).expect("the map");
    assert_eq!(map.len(), KEYS / 10);
    for key in (0..KEYS).filter(|key| stays(*key)) {
        assert_eq!(map.get_owned(&key).expect("readable"), Some(0_u64.to_le_bytes().to_vec()));
    }
}
