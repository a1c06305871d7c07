//! Groups on a real directory: all of one or nothing, through closes, deaths, damage and compaction.
//!
//! Hazards: a part of a group comes back; a group that is refused has left something; a long value of one is
//! lost, or counts without it; compaction, which knows no groups, parts one.

use std::collections::HashMap;
use std::path::Path;

use hotrestart::codec::{Bytes, U64};
use hotrestart::{
    Builder, Durability, Error, GroupOutcome, LogFailure, Map, MapOptions, OpenError, RecoveryMode,
    Store, StreamId, inspect,
};

const CHUNK: u64 = 256 << 10;
/// A record's bound in such chunks.
const RECORD_MAX: usize = (CHUNK / 4) as usize - 8192;
const STREAM: StreamId = StreamId(2);

fn builder(path: &Path) -> Builder {
    // Buffers of its own, to look into.
    let open = Store::builder().memory_limit_bytes(128 << 20).streams(4).chunk_bytes(CHUNK);
    open.writers(2).buffers_dir(path)
}

fn map_of(store: &Store, name: &str) -> Map<U64, Bytes> {
    let map = store.map(name, MapOptions::default().placed_by_owner()).expect("a map");
    map.in_stream(STREAM).expect("a part")
}

type Model = HashMap<(usize, u64), Vec<u8>>;

const NAMES: [&str; 2] = ["one", "two"];

fn check(store: &Store, model: &Model, when: &str) {
    let maps = NAMES.map(|name| map_of(store, name));
    assert_eq!(maps.iter().map(Map::len).sum::<u64>(), model.len() as u64, "{when}");
    for ((map, key), value) in model {
        let found = maps[*map].get_owned(key).expect("readable");
        assert!(found.as_ref() == Some(value), "{when}: key {key} of {}", NAMES[*map]);
    }
}

/// A group of the round: values of many lengths, keys that come twice, removals of what is and is not there.
fn change(store: &Store, model: &mut Model, round: u64) {
    let maps = NAMES.map(|name| map_of(store, name));
    let changes: Vec<(usize, u64, Option<Vec<u8>>)> = (0..2 + round % 9)
        .map(|n| {
            let key = (round * 7 + n * n * 3) % 50;
            let len = match (round + n * 5) % 23 {
                0 => 60_000 + round as usize % 90_000,
                1 | 2 => 20_000,
                more => more as usize * 90,
            };
            let value = (!(round + n).is_multiple_of(4)).then(|| vec![(round * 3 + n) as u8; len]);
            ((n % 2) as usize, key, value)
        })
        .collect();
    let mut group = store.group(STREAM);
    let mut expected = Vec::new();
    for (map, key, value) in &changes {
        let before = match value {
            Some(value) => {
                group.insert(&maps[*map], key, value).expect("its stream");
                model.insert((*map, *key), value.clone())
            }
            None => {
                group.remove(&maps[*map], key).expect("its stream");
                model.remove(&(*map, *key))
            }
        };
        expected.push(before.is_some());
    }
    assert_eq!(group.commit().expect("room"), GroupOutcome::Done(expected), "round {round}");
    if round % 40 == 39 {
        maps[0].clear().expect("cleared");
        model.retain(|(map, _), _| *map == 1);
    }
}

/// A group of long values that stay, of which compaction copies the parts.
fn keep(store: &Store, model: &mut Model, first: u64) {
    let map = map_of(store, NAMES[1]);
    let values: Vec<_> = (first..first + 3).map(|key| (key, vec![key as u8; 60_000])).collect();
    let mut group = store.group(STREAM);
    for (key, value) in &values {
        group.insert(&map, key, value).expect("its stream");
    }
    assert!(group.commit().expect("room").is_done());
    model.extend(values.iter().map(|(key, value)| ((1, *key), value.clone())));
}

#[test]
fn groups_with_long_values_removals_and_keys_that_come_twice_survive_deaths_closes_and_compaction()
{
    let (dir, buffers) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let mut model = Model::new();
    let (mut freed, mut buffered) = (0, 0);
    for life in 0..6_u64 {
        let store = builder(buffers.path()).loader_threads(1 + life as usize % 3);
        let store = store.open(dir.path()).expect("opens");
        check(&store, &model, "reopened");
        keep(&store, &mut model, 1_000 + life * 10);
        for round in life * 250..(life + 1) * 250 {
            change(&store, &mut model, round);
        }
        check(&store, &model, "used");
        // The check may have taken longer than records stay in log buffers alone.
        change(&store, &mut model, (life + 1) * 250);
        freed += store.stats().chunks_freed;
        if life % 2 == 1 {
            store.close().expect("closed");
            continue;
        }
        store.abandon();
        let options = inspect::Options { buffers_dir: buffers.path().into(), ..Default::default() };
        let found = inspect::check(dir.path(), &options).expect("readable");
        assert_eq!(found.totals.entries, model.len() as u64, "{:?}", found.problems);
        assert!(found.problems.is_empty(), "{found:?}");
        buffered += found.totals.buffered_records;
    }
    assert!(buffered > 0, "the log buffers were not at stake");
    assert!(freed > 100, "{freed} chunks were freed: compaction was not at stake");
    check(&builder(buffers.path()).open(dir.path()).expect("opens"), &model, "at the end");
}

#[test]
fn a_group_that_the_log_cannot_keep_whole_is_refused_with_both_figures_and_has_changed_nothing() {
    let (dir, buffers) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let store = builder(buffers.path()).open(dir.path()).expect("opens");
    let map = store.map::<Bytes, Bytes>("m", MapOptions::default().placed_by_owner());
    let map = map.expect("a map").in_stream(STREAM).expect("a part");
    let keys = [vec![1; 30_000], vec![2; 30_000]];
    let mut group = store.group(STREAM);
    for key in &keys {
        group.insert(&map, key, b"value").expect("its stream");
    }
    for _ in 0..3 {
        let refused = group.commit().expect_err("keys cannot lie elsewhere");
        let Error::Log(source) = &refused else { panic!("{refused}") };
        let Some(LogFailure::GroupTooLarge { needed_bytes, max_bytes }) = source.downcast_ref()
        else {
            panic!("{refused}")
        };
        assert_eq!(*max_bytes, RECORD_MAX as u64);
        assert!((60_010..60_080).contains(needed_bytes), "{refused}");
        assert!(map.is_empty());
    }
    drop(group);
    // Values can: eighty times as much as the room holds.
    let values: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 46_000]).collect();
    let short: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 3]).collect();
    let mut group = store.group(STREAM);
    for (key, value) in short.iter().zip(&values) {
        group.insert(&map, key, value).expect("its stream");
    }
    assert!(group.commit().expect("room").is_done());
    drop(group);
    store.abandon();
    let store = builder(buffers.path()).open(dir.path()).expect("opens");
    let map = store.map::<Bytes, Bytes>("m", MapOptions::default().placed_by_owner());
    let map = map.expect("a map").in_stream(STREAM).expect("a part");
    for (key, value) in short.iter().zip(&values) {
        assert_eq!(map.get_owned(key).expect("readable").as_ref(), Some(value));
    }
    assert_eq!(map.len(), 100);
}

/// Each part of a long value waits until less than half of the log buffers are in use. Who waits for nothing
/// gets no further than that, as a rule, and the same changes are done where they may wait.
#[test]
fn values_that_fill_half_the_log_buffers_are_refused_by_name_where_nothing_waits_and_done_where_it_may()
 {
    let (dir, buffers) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let buffers_bytes = 8 * CHUNK as usize / 4;
    let values: Vec<(u64, Vec<u8>)> =
        (0..8).map(|key| (key, vec![key as u8; buffers_bytes / 8])).collect();
    let long = vec![9; buffers_bytes];
    let put_all = |store: &Store| {
        let map = map_of(store, "one");
        let mut group = store.group(STREAM);
        for (key, value) in &values {
            group.insert(&map, key, value).expect("its stream");
        }
        [group.commit().map(drop), map.insert(&100, &long)]
    };
    let impatient = builder(buffers.path()).put_timeout_ms(0);
    let store = impatient.open(dir.path()).expect("opens");
    let (map, mut refused) = (map_of(&store, "one"), 0);
    for _ in 0..20 {
        let is_done = put_all(&store).map(|done| {
            // A thread that is kept from its core in the middle may find that the writer has kept up.
            let Err(error) = done else { return true };
            let Error::Log(source) = &error else { panic!("{error}") };
            let failure = source.downcast_ref();
            assert!(matches!(failure, Some(LogFailure::Busy { waited_ms: 0 })), "{error}");
            refused += 1;
            false
        });
        store.persist(Durability::Synced).expect("all that was buffered is on the device");
        let there = 8 * u64::from(is_done[0]) + u64::from(is_done[1]);
        assert_eq!(map.len(), there, "what was refused has changed something: {is_done:?}");
        map.clear().expect("cleared");
    }
    assert!(refused >= 20, "{refused} of 40: there was room for the others at once");
    drop(map);
    store.close().expect("a clean close");
    let store = builder(buffers.path()).open(dir.path()).expect("opens");
    for done in put_all(&store) {
        done.expect("it waits for the writer");
    }
    let map = map_of(&store, "one");
    assert_eq!(map.len(), 9);
    assert_eq!(map.get_owned(&100).expect("readable"), Some(long.clone()));
}

#[test]
fn a_group_is_acknowledged_as_the_most_demanding_of_its_maps_asks() {
    let (dir, buffers) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let store = builder(buffers.path()).write_interval_ms(60_000).flush_interval_ms(60_000);
    let store = store.open(dir.path()).expect("opens");
    let map_of = |name: &str, level: Durability| {
        let options = MapOptions::default().durability(level).placed_by_owner();
        let map: Map<U64, Bytes> = store.map(name, options).expect("a map");
        map.in_stream(STREAM).expect("a part")
    };
    let synced = map_of("synced", Durability::Synced);
    let buffered = map_of("buffered", Durability::Buffered);
    let mut group = store.group(STREAM);
    group.insert(&buffered, &1, b"a").expect("ok");
    assert!(group.commit().expect("room").is_done());
    assert_eq!(store.durable_through(STREAM).0, 0, "nobody has waited for that");
    group.insert(&buffered, &1, b"b").expect("ok").insert(&synced, &1, b"b").expect("ok");
    group.insert(&buffered, &2, b"b").expect("ok");
    assert!(group.commit().expect("room").is_done());
    let last = buffered.get(&2).expect("ok").expect("there").seq();
    assert_eq!(store.durable_through(STREAM), last, "all of it, not the one change alone");
}

/// A group in log buffers whose memory went bad: it is named, and never passed over; if that is asked for,
/// all of it is left out.
#[test]
fn a_group_of_which_a_record_went_bad_in_the_log_buffers_counts_as_a_whole_or_not_at_all() {
    let (dir, buffers) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let store = builder(buffers.path()).write_interval_ms(60_000).open(dir.path()).expect("opens");
    let map = map_of(&store, "one");
    map.insert(&1, b"before").expect("room");
    let mut group = store.group(STREAM);
    group.insert(&map, &1, b"of the group").expect("ok").insert(&map, &2, b"sound").expect("ok");
    group.insert(&map, &3, b"that goes bad").expect("ok").remove(&map, &9).expect("ok");
    assert!(group.commit().expect("room").is_done());
    map.insert(&4, b"after").expect("room");
    drop(group);
    drop(map);
    store.abandon();
    let options = inspect::Options { buffers_dir: buffers.path().into(), ..Default::default() };
    let found = inspect::check(dir.path(), &options).expect("readable");
    assert_eq!((found.totals.records, found.totals.absences), (5, 0), "{:?}", found.problems);
    let file = std::fs::read_dir(buffers.path()).expect("a directory").next();
    let file = file.expect("the log buffers").expect("an entry").path();
    let mut bytes = std::fs::read(&file).expect("readable");
    let needle = b"that goes bad";
    let at = bytes.windows(needle.len()).position(|bytes| bytes == needle).expect("it is there");
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).expect("writable");
    let found = inspect::check(dir.path(), &options).expect("readable");
    assert!(!found.problems.is_empty(), "the offline check passes it over");
    let refused = builder(buffers.path()).open(dir.path()).map(drop).expect_err("damage");
    let OpenError::Corrupt { problems } = &refused else { panic!("{refused}") };
    assert!(problems[0].what.contains("checksum"), "{refused}");
    let salvage = builder(buffers.path()).recovery(RecoveryMode::Salvage);
    let store = salvage.open(dir.path()).expect("what is left");
    let map = map_of(&store, "one");
    let value = |key: u64| map.get_owned(&key).expect("readable");
    assert_eq!(value(1).as_deref(), Some(&b"before"[..]), "the group's first change is there");
    assert_eq!((value(2), value(3)), (None, None));
    assert_eq!(value(4).as_deref(), Some(&b"after"[..]));
    assert_eq!(store.recovery().problems.len(), 1, "{:?}", store.recovery().problems);
}
