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

/// Each of a few entries with long keys is removed again: of such facts a chunk has a dozen or some hundred.
#[test]
fn facts_of_long_keys_are_forgotten_before_they_fill_the_disk_budget() {
    for (key_len, kept, puts) in
        [(1_000, 100, 10_000_u64), (2_000, 5_000, 10_000), (20_000, 100, 2_500)]
    {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || {
            let builder = Store::builder().memory_limit_bytes(256 << 20).streams(4).writers(1);
            builder.chunk_bytes(256 << 10).open(dir.path()).expect("a store")
        };
        let key = |number: u64| {
            let mut key = vec![b'k'; key_len];
            key[..8].copy_from_slice(&number.to_be_bytes());
            key
        };
        for life in 0..2 {
            let store = open();
            let map = store.map::<Bytes, U64>("m", MapOptions::default()).expect("a map");
            for number in life * puts..(life + 1) * puts {
                let put = map.insert(&key(number), &number);
                put.unwrap_or_else(|error| panic!("put {number}, {key_len} B keys: {error}"));
                if number >= kept {
                    assert!(map.remove(&key(number - kept)).expect("removed"), "{number}");
                }
            }
            drop(map);
            store.abandon();
        }
        let map = open().map::<Bytes, U64>("m", MapOptions::default()).expect("the map");
        assert_eq!(map.len(), kept);
        for number in 2 * puts - kept..2 * puts {
            assert_eq!(map.get_owned(&key(number)).expect("readable"), Some(number));
        }
    }
}
