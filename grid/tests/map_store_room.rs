//! Maps over a user's database whose rows find no room in memory.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hdgrid::data::{Natural, Serial};
use hdgrid::{
    BlockingMapStore, Interceptor, InterceptorError, Map, MapError, MapStoreConfig, Member,
    OnThreads, StoreError,
};
use support::Bed;

type Texts = Map<Natural<i32>, Natural<String>>;

#[derive(Clone, Default)]
struct Database(Arc<Mutex<BTreeMap<i32, String>>>);

impl Database {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<i32, String>> {
        self.0.lock().expect("held by none that panicked")
    }
}

impl BlockingMapStore<Natural<i32>, Natural<String>> for Database {
    fn load(&self, key: &i32) -> Result<Option<String>, StoreError> {
        Ok(self.rows().get(key).cloned())
    }

    fn store(&self, key: &i32, value: &String) -> Result<Option<String>, StoreError> {
        if value == REFUSED {
            return Err("no such text".into());
        }
        self.rows().insert(*key, value.clone());
        Ok(None)
    }

    fn delete(&self, key: &i32) -> Result<(), StoreError> {
        self.rows().remove(key);
        Ok(())
    }

    fn load_all_keys(&self, take: &mut dyn FnMut(i32) -> bool) -> Result<(), StoreError> {
        let keys: Vec<i32> = self.rows().keys().copied().collect();
        keys.into_iter().all(take);
        Ok(())
    }
}

/// What the database does not take.
const REFUSED: &str = "refused";

/// With 16 MiB of memory.
fn bed(database: &Database, write_delay: Duration) -> Bed {
    let database = database.clone();
    Bed::with(move |builder| {
        let config = MapStoreConfig { write_delay, ..MapStoreConfig::default() };
        let loader = OnThreads::new(database.clone());
        let store = OnThreads::new(database.clone());
        builder
            .store(|store| store.memory_limit_bytes(16 << 20))
            .map_loader("loaded", config.clone(), loader)
            .map_store("texts", config, store)
    })
}

fn map(bed: &Bed, name: &str) -> Texts {
    bed.member().map(name).expect("a map")
}

const LONG: usize = 17 << 20;

/// What memory has no room for.
fn long() -> String {
    "x".repeat(LONG)
}

fn short() -> String {
    "short".to_owned()
}

#[test]
fn what_was_stored_and_finds_no_room_in_memory_is_let_go_there_and_loaded_when_asked_for() {
    let database = Database::default();
    let bed = bed(&database, Duration::ZERO);
    let map = map(&bed, "texts");
    let text = |key: i32| key.to_string().repeat(1_000_000 / key.to_string().len());
    for key in 100..200 {
        map.blocking().set(&key, &text(key)).expect("the database has it");
    }
    assert!(map.len() < 17, "{} of a megabyte each in 16 MiB", map.len());
    assert!((100..200).all(|key| map.blocking().get(&key).expect("get") == Some(text(key))));
    map.blocking().set(&100, &short()).expect("set");
    assert_eq!(map.blocking().get(&100).expect("get"), Some(short()));
    assert_eq!(map.blocking().load_all(true).expect("loaded"), 100);
}

#[test]
fn what_was_loaded_for_a_change_is_what_was_there_also_where_memory_has_no_room_for_it() {
    for (name, write_delay) in
        [("texts", Duration::ZERO), ("texts", Duration::from_secs(5)), ("loaded", Duration::ZERO)]
    {
        let database = Database::default();
        database.rows().extend((1..=7).map(|key| (key, long())));
        let bed = bed(&database, write_delay);
        let map = map(&bed, name);
        let map = map.blocking();
        let bytes = |text: Option<String>| text.map(|text| text.len());
        let there = Some(LONG);
        assert_eq!(bytes(map.put_if_absent(&1, &short()).expect("put")), there);
        assert_eq!(bytes(map.get(&1).expect("get")), there, "{name}, {write_delay:?}: it stays");
        assert_eq!(bytes(map.replace(&3, &short()).expect("replaced")), there);
        assert_eq!(map.get(&3).expect("get"), Some(short()));
        assert_eq!(bytes(map.put(&4, &short()).expect("put")), there);
        assert!(map.replace_if_same(&5, &long(), &short()).expect("replaced"));
        let found = map.compute(&6, |old| old.map(|old| old.len().to_string())).expect("computed");
        assert_eq!(found, Some((LONG).to_string()));
        let lives = map.set_ttl(&7, Duration::from_secs(9));
        assert!(matches!(lives, Err(MapError::Store { .. })), "{lives:?}");
        assert_eq!(bytes(map.remove(&2).expect("removed")), there);
        if name == "loaded" {
            continue;
        }
        assert_eq!(map.get(&2).expect("get"), None);
        if write_delay.is_zero() {
            let rows = database.rows();
            let bytes = rows.iter().map(|(key, text)| (*key, text.len()));
            let left = [(1, LONG), (3, 5), (4, 5), (5, 5), (6, 8), (7, LONG)];
            assert_eq!(bytes.collect::<Vec<_>>(), left);
        }
    }
}

/// Says how long what was there was.
struct Lengths;

impl Interceptor<Natural<i32>, Natural<String>> for Lengths {
    fn intercept_put(
        &self,
        _: &i32,
        old: Option<String>,
        new: String,
    ) -> Result<String, InterceptorError> {
        Ok(format!("{new} after {:?}", old.map(|old| old.len())))
    }
}

#[test]
fn interceptors_of_a_processor_see_what_it_saw_also_where_memory_has_no_room_for_it() {
    let database = Database::default();
    database.rows().insert(1, long());
    let bed = bed(&database, Duration::ZERO);
    let map = map(&bed, "texts");
    map.add_interceptor(Lengths).expect("added");
    let put = map.blocking().compute(&1, |old| old.map(|_| short())).expect("computed");
    assert_eq!(put, Some(format!("short after {:?}", Some(LONG))));
}

#[test]
fn a_put_that_memory_has_no_room_for_returns_the_value_before() {
    let database = Database::default();
    let bed = bed(&database, Duration::ZERO);
    let map = map(&bed, "texts");
    map.blocking().set(&1, &"before".to_owned()).expect("set");
    let old = map.blocking().put(&1, &long()).expect("put");
    assert_eq!(old.as_deref(), Some("before"));
    assert_eq!(map.blocking().get(&1).expect("get").map(|text| text.len()), Some(LONG));
}

#[test]
fn a_load_that_replaces_and_finds_no_room_leaves_no_older_value() {
    let database = Database::default();
    let bed = bed(&database, Duration::ZERO);
    let map = map(&bed, "texts");
    map.blocking().set(&1, &"older".to_owned()).expect("set");
    database.rows().insert(1, long());
    assert_eq!(map.blocking().load_keys(&[&1], true).expect("loaded"), 1);
    assert_eq!(map.blocking().get(&1).expect("get").map(|text| text.len()), Some(LONG));
}

/// A map over a database that has `before` of two keys, and whose log takes nothing any more, so that memory
/// can neither follow nor let go. It is stored one key at a time.
fn poisoned(database: &Database) -> (Member, Texts) {
    let directory = tempfile::tempdir().expect("a directory");
    let config =
        MapStoreConfig { batch_size: 1.try_into().expect("some"), ..MapStoreConfig::default() };
    let member = Member::builder(directory.path())
        .store(|store| store.chunk_bytes(256 << 10).put_timeout_ms(20))
        .partition_count(3)
        .map_store("texts", config, OnThreads::new(database.clone()))
        .start()
        .expect("started");
    let map: Texts = member.map("texts").expect("a map");
    for key in [1, 2] {
        map.blocking().set(&key, &"before".to_owned()).expect("set");
    }
    let other: Texts = member.map("other").expect("a map");
    std::fs::remove_dir_all(directory.path()).expect("removed");
    let is_poisoned = (0..5).cycle().take(10_000).any(|key| {
        let set = other.blocking().set(&key, &"y".repeat(5_000));
        matches!(set, Err(MapError::Store { source, .. }) if source.to_string().contains("poison"))
    });
    assert!(is_poisoned, "the log takes changes still");
    (member, map)
}

#[test]
fn memory_that_can_neither_follow_the_database_nor_let_a_key_go_says_so() {
    let database = Database::default();
    let (_member, map) = poisoned(&database);
    let set = map.blocking().set(&1, &"after".to_owned());
    let Err(MapError::Outdated { key, map: name, .. }) = &set else { panic!("{set:?}") };
    assert_eq!((Natural::<i32>::read(key.as_ref()), &**name), (Ok(1), "texts"));
    assert!(set.expect_err("as above").to_string().contains("another value of key 1 than memory"));
    assert_eq!(database.rows()[&1], "after");
}

#[test]
fn a_refusal_does_not_hide_that_memory_keeps_another_key_as_it_was() {
    let database = Database::default();
    let (_member, map) = poisoned(&database);
    let (after, refused) = ("after".to_owned(), REFUSED.to_owned());
    // Whichever of the two comes first.
    for (texts, outdated) in [([&refused, &after], 2), ([&after, &refused], 1)] {
        let set = map.blocking().set_all(&[(&1, texts[0]), (&2, texts[1])]);
        let Err(MapError::Outdated { key, .. }) = &set else { panic!("{set:?}") };
        assert_eq!(Natural::<i32>::read(key.as_ref()), Ok(outdated));
    }
}
