//! Maps over tables of an SQLite database: the real one, in a file.

#[path = "support/stock.rs"]
mod stock;
mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hdgrid::data::{Json, Natural, Raw};
use hdgrid::sql::{Sqlite, SqliteMapStore};
use hdgrid::{Map, MapError, MapStoreConfig, OnThreads};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use stock::{Item, item, items};
use support::{Bed, eventually};
use tempfile::TempDir;

/// A database in a file, and what a map over it is like.
struct Shop {
    directory: TempDir,
    config: MapStoreConfig,
}

impl Shop {
    fn new(sql: &str) -> Shop {
        let (directory, config) =
            (tempfile::tempdir().expect("a directory"), MapStoreConfig::default());
        let shop = Shop { directory, config };
        Connection::open(shop.path()).expect("made").execute_batch(sql).expect("made");
        shop
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("shop.db")
    }

    fn with(mut self, properties: &[(&str, &str)]) -> Shop {
        self.config = stock::with(properties);
        self
    }

    /// A member with a map "stock" over the database.
    fn bed(&self) -> Bed {
        let sqlite = Sqlite::open_with(self.path(), Duration::from_millis(200)).expect("opened");
        let config = self.config.clone();
        Bed::with(move |builder| {
            let store = OnThreads::new(SqliteMapStore::new(sqlite.clone()));
            builder.map_store("stock", config.clone(), store)
        })
    }

    fn connection(&self) -> Connection {
        Connection::open(self.path()).expect("opened")
    }

    /// What a query says, row by row, its columns as SQL literals.
    fn ask(&self, sql: &str) -> Vec<String> {
        let connection = self.connection();
        let mut statement = connection.prepare(sql).expect(sql);
        let rows = statement.query_map([], |row| row.get(0)).expect(sql);
        rows.collect::<Result<_, _>>().expect(sql)
    }
}

const STOCK: &str = "CREATE TABLE stock
        (id INTEGER PRIMARY KEY, name TEXT, pieces INT NOT NULL, note TEXT DEFAULT 'new');
    INSERT INTO stock VALUES (1, 'tea', 7, 'old'), (2, NULL, 0, NULL), (3, 'milk', 1, 'old');";
const ROWS: &str =
    "SELECT concat_ws('|', id, quote(name), pieces, quote(note)) FROM stock ORDER BY id";
const ITEM: (&str, &str) = ("columns", "name, pieces");

#[test]
fn rows_are_entries_and_what_the_map_does_not_use_stays() {
    let shop = Shop::new(STOCK).with(&[ITEM]);
    let bed = shop.bed();
    let map = items(&bed);
    let map = map.blocking();
    assert_eq!(map.get(&1).expect("get"), Some(item("tea", 7)));
    assert_eq!(map.get(&2).expect("get"), Some(Item { name: None, pieces: 0 }));
    assert_eq!(map.get(&9).expect("get"), None);
    map.loaded().expect("loaded");
    assert_eq!(items(&bed).len(), 3);
    assert_eq!(map.put(&1, &item("tea", 6)).expect("put"), Some(item("tea", 7)));
    map.set(&4, &item("o'hara", -1)).expect("set");
    assert_eq!(map.remove(&3).expect("removed"), Some(item("milk", 1)));
    assert_eq!(shop.ask(ROWS), ["1|'tea'|6|'old'", "2|NULL|0|NULL", "4|'o''hara'|-1|'new'"]);
    map.set_all(&[(&5, &item("five", 5)), (&6, &item("six", 6))]).expect("stored");
    assert_eq!(shop.ask(ROWS).len(), 5);
    map.evict_all().expect("evicted");
    assert_eq!(
        map.get_all(&[&6, &7, &5]).expect("get"),
        [Some(item("six", 6)), None, Some(item("five", 5))]
    );
    assert_eq!(map.clear().expect("cleared"), 2);
    assert_eq!(shop.ask(ROWS), <[String; 0]>::default());
}

#[test]
fn a_batch_is_stored_whole_or_entry_by_entry_and_the_database_says_why_not() {
    let shop = Shop::new(
        "CREATE TABLE stock (id INTEGER PRIMARY KEY, name TEXT UNIQUE, pieces INT CHECK (pieces >= 0))",
    );
    let bed = shop.bed();
    let map: Map<Natural<i64>, Json<Item>> = items(&bed);
    let refused =
        map.blocking().set_all(&[(&1, &item("a", 1)), (&2, &item("b", -2)), (&3, &item("c", 3))]);
    let refused = refused.expect_err("pieces are not negative").to_string();
    assert!(refused.contains("key 2") && refused.contains("CHECK constraint failed"), "{refused}");
    assert_eq!(shop.ask("SELECT name FROM stock ORDER BY id"), ["a", "c"]);
    assert_eq!(map.len(), 2, "memory has what the database has");
}

#[derive(Serialize, Deserialize, PartialEq, Clone, Debug)]
struct Everything {
    id: String,
    yes: bool,
    byte: i8,
    long: i64,
    real: f64,
    price: serde_json::Number,
    picture: String,
    tree: serde_json::Value,
    any: serde_json::Value,
    none: Option<i32>,
}

#[test]
fn every_type_comes_back_as_it_was() {
    let shop = Shop::new(
        "CREATE TABLE stock (id VARCHAR(9) NOT NULL UNIQUE, yes BOOLEAN, byte TINYINT, long BIGINT,
            real DOUBLE, price DECIMAL(9, 2), picture BLOB, tree JSON, \"any\" DATETIME, \"none\" SMALLINT);
         INSERT INTO stock VALUES ('x', 1, -128, 9223372036854775807, 0.1, 12.5, x'00ff', '{\"a\": [null]}',
            '2026-11-24', NULL)",
    );
    let bed = shop.bed();
    let map: Map<Natural<String>, Json<Everything>> = bed.member().map("stock").expect("a map");
    let map = map.blocking();
    let expected = Everything {
        id: "x".to_owned(),
        yes: true,
        byte: -128,
        long: i64::MAX,
        real: 0.1,
        price: serde_json::Number::from_f64(12.5).expect("a number"),
        picture: "\\x00ff".to_owned(),
        tree: serde_json::json!({"a": [null]}),
        any: "2026-11-24".into(),
        none: None,
    };
    assert_eq!(map.get(&"x".to_owned()).expect("get"), Some(expected.clone()));
    let other = Everything { id: "y".to_owned(), ..expected };
    map.set(&"y".to_owned(), &other).expect("set");
    let all =
        "SELECT concat_ws('|', yes, byte, long, real, price, hex(picture), json(tree), \"any\",
        quote(\"none\")) FROM stock";
    let row = "1|-128|9223372036854775807|0.1|12.5|00FF|{\"a\":[null]}|2026-11-24|NULL";
    assert_eq!(shop.ask(all), [row, row]);
    let types = "SELECT typeof(yes) || typeof(price) || typeof(picture) || typeof(tree) FROM stock";
    assert_eq!(shop.ask(types), ["integerrealblobtext"; 2]);
    map.evict_all().expect("evicted");
    assert_eq!(map.get(&"y".to_owned()).expect("get"), Some(other.clone()));
    let wrong = map.set(&"z".to_owned(), &other).expect_err("the id is another").to_string();
    assert!(wrong.contains("key \"z\"") && wrong.contains("another id: the text \"y\""), "{wrong}");
}

#[test]
fn a_single_column_is_the_value_itself() {
    let single = ("single-column-as-value", "true");
    let shop = Shop::new(STOCK).with(&[("columns", "pieces"), single]);
    let bed = shop.bed();
    let map: Map<Natural<i64>, Natural<i32>> = bed.member().map("stock").expect("a map");
    assert_eq!(map.blocking().get(&1).expect("get"), Some(7));
    assert_eq!(
        map.blocking().compute(&1, |old| old.map(|old| old * 2)).expect("computed"),
        Some(14)
    );
    assert_eq!(shop.ask(ROWS)[0], "1|'tea'|14|'old'");
    let shop = Shop::new("CREATE TABLE blobs (key BLOB PRIMARY KEY, value BLOB)");
    let shop = shop.with(&[("external-name", "main.blobs"), ("id-column", "KEY"), single]);
    let bed = shop.bed();
    let map: Map<Raw, Raw> = bed.member().map("stock").expect("a map");
    map.blocking().set(b"k", b"v\0").expect("set");
    assert_eq!(shop.ask("SELECT quote(key) || quote(value) FROM blobs"), ["X'6B'X'7600'"]);
    let shop = Shop::new(STOCK).with(&[("columns", "name"), single]);
    let bed = shop.bed();
    let map: Map<Natural<i64>, Natural<String>> = bed.member().map("stock").expect("a map");
    let null = map.blocking().get(&2).expect_err("nothing is no value").to_string();
    assert!(
        null.contains("column \"name\" of table stock, key 2: text expected, null found"),
        "{null}"
    );
}

#[track_caller]
fn assert_says<T: std::fmt::Debug>(done: Result<T, MapError>, parts: &[&str]) {
    let said = done.expect_err("refused").to_string();
    let missing: Vec<_> = parts.iter().filter(|part| !said.contains(**part)).collect();
    assert!(missing.is_empty(), "{missing:?} is not in: {said}");
}

/// Properties, and what an error says of them.
type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);

#[test]
fn settings_that_do_not_fit_the_table_are_named() {
    let cases: [Case; 10] = [
        (&[("external-name", "stok")], &["no table stok", "external-name"]),
        (&[("id-column", "key")], &["no column \"key\"", "id-column", "id, name, pieces, note"]),
        (&[("columns", "name,prise")], &["no column \"prise\"", "columns", "it has id, name"]),
        (&[("columns", "name,,note")], &["property \"columns\"", "names separated by commas"]),
        (&[("colums", "name")], &["no property \"colums\"", "known are external-name"]),
        (&[("load-all-keys", "maybe")], &["load-all-keys", "true or false", "maybe"]),
        (&[("id-column", "")], &["id-column", "a name expected"]),
        (&[("id-column", "name")], &["column \"name\"", "cannot be the id", "UNIQUE"]),
        (&[("single-column-as-value", "true")], &["single column", "has 3"]),
        (&[("external-name", "temp.stock")], &["no table temp.stock"]),
    ];
    for (properties, parts) in cases {
        let shop = Shop::new(STOCK).with(properties);
        assert_says(items(&shop.bed()).blocking().get(&1), parts);
    }
    let shop = Shop::new("CREATE TABLE stock (id REAL PRIMARY KEY, pieces INT)");
    assert_says(items(&shop.bed()).blocking().get(&1), &["\"id\"", "is no key"]);
    let gone = Sqlite::open(shop.directory.path().join("none.db")).expect_err("it is not there");
    assert!(gone.to_string().contains("none.db"), "{gone}");
    std::fs::write(shop.directory.path().join("text.db"), "not a database, long enough to look at")
        .expect("written");
    let text = Sqlite::open(shop.directory.path().join("text.db")).expect_err("it is text");
    assert!(text.to_string().contains("not a database"), "{text}");
}

#[test]
fn entries_that_do_not_fit_the_table_are_refused_by_column_and_key() {
    let shop = Shop::new(STOCK);
    let bed = shop.bed();
    shop.connection()
        .execute("INSERT INTO stock (id, pieces) VALUES (8, 'many')", [])
        .expect("SQLite takes it");
    assert_says(
        items(&bed).blocking().get(&8),
        &[
            "key 8",
            "column \"pieces\" of table stock",
            "4 bytes expected",
            "the text \"many\" found",
        ],
    );
    let map: Map<Natural<i64>, Json<serde_json::Value>> = bed.member().map("stock").expect("a map");
    let set = |value| map.blocking().set(&5, &value);
    assert_says(
        set(serde_json::json!({"name": 5})),
        &["key 5", "\"name\"", "text expected, 5 found"],
    );
    assert_says(set(serde_json::json!({"nam": "x"})), &["field \"nam\"", "id, name, pieces, note"]);
    assert_says(set(serde_json::json!([1])), &["key 5", "no JSON object"]);
    assert_says(
        set(serde_json::json!({"name": "x"})),
        &["NOT NULL constraint failed: stock.pieces"],
    );
    let texts: Map<Natural<i64>, Natural<String>> = bed.member().map("stock").expect("a map");
    assert_says(texts.blocking().set(&5, &"x".to_owned()), &["no JSON object"]);
    let ints: Map<Natural<i32>, Json<Item>> = bed.member().map("stock").expect("a map");
    assert_says(ints.blocking().get(&1), &["key 1 is of type -7 (int)", "\"id\"", "-8 (long)"]);
    assert_eq!(shop.ask("SELECT count(*) || '' FROM stock WHERE id = 5"), ["0"]);
}

#[test]
fn all_of_many_rows_is_loaded_and_cleared_page_by_page() {
    const ROWS: u64 = 25_000;
    let shop = Shop::new(&format!(
        "CREATE TABLE stock (id INTEGER PRIMARY KEY, name TEXT, pieces INT);
         WITH RECURSIVE n(i) AS (SELECT -5000 UNION ALL SELECT i + 1 FROM n WHERE i < {} - 5001)
         INSERT INTO stock SELECT i, 'n', i FROM n",
        ROWS
    ));
    let bed = shop.with(&[ITEM]);
    let bed = (bed.bed(), bed);
    let map = items(&bed.0);
    assert_eq!(map.blocking().loaded().expect("loaded"), ROWS);
    assert_eq!(map.len(), ROWS);
    assert_eq!(map.blocking().get(&-5000).expect("get"), Some(item("n", -5000)));
    // Rows are removed while their keys are read: neither waits for the other's lock.
    map.blocking().evict_all().expect("evicted");
    assert_eq!(map.blocking().clear().expect("cleared"), 0);
    assert_eq!(bed.1.ask("SELECT count(*) || '' FROM stock"), ["0"]);
    let shop = Shop::new(STOCK).with(&[("load-all-keys", "false")]);
    assert_eq!(items(&shop.bed()).blocking().loaded().expect("loaded"), 0);
}

#[test]
fn changes_wait_while_another_process_has_the_database_and_survive_a_restart() {
    let mut shop = Shop::new(STOCK).with(&[ITEM]);
    shop.config.write_delay = Duration::from_secs(1);
    let mut bed = shop.bed();
    let map = items(&bed);
    map.blocking().loaded().expect("loaded");
    let other = shop.connection();
    other.execute_batch("BEGIN EXCLUSIVE").expect("locked");
    for key in 1..=50 {
        map.blocking().set(&key, &item("w", key as i32)).expect("it waits");
    }
    eventually("refused", || {
        bed.pass(Duration::from_secs(60));
        map.local_map_stats().map_store_refusal_count > 0
    });
    assert_eq!(map.local_map_stats().dirty_entry_count, 50);
    drop(map);
    bed.restart();
    other.execute_batch("COMMIT").expect("free again");
    let map = items(&bed);
    eventually("stored", || {
        bed.pass(Duration::from_secs(60));
        map.local_map_stats().dirty_entry_count == 0
    });
    assert_eq!(
        shop.ask("SELECT count(*) || ' ' || sum(pieces) FROM stock WHERE name = 'w'"),
        ["50 1275"]
    );
    assert_eq!(map.local_map_stats().dead_letter_count, 0);
}

#[test]
fn several_maps_and_threads_share_a_database_and_none_is_refused_because_of_another() {
    let shop = Shop::new(
        "CREATE TABLE a (id INTEGER PRIMARY KEY, n BIGINT);
         CREATE TABLE b (id INTEGER PRIMARY KEY, n BIGINT);",
    );
    let sqlite = Sqlite::open(shop.path()).expect("opened");
    let config = shop.with(&[("single-column-as-value", "true")]);
    let (given, shared) = (config.config.clone(), sqlite.clone());
    let bed = Bed::with(move |builder| {
        let store = || OnThreads::new(SqliteMapStore::new(shared.clone()));
        builder.map_store("a", given.clone(), store()).map_store("b", given.clone(), store())
    });
    let maps: Vec<Map<Natural<i64>, Natural<i64>>> =
        ["a", "b"].map(|name| bed.member().map(name).expect("a map")).into();
    let maps = Arc::new(maps);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let maps = Arc::clone(&maps);
            scope.spawn(move || {
                for key in 0..50 {
                    let map = &maps[(key % 2) as usize];
                    map.blocking().set(&(thread * 1000 + key), &key).expect("set");
                }
            });
        }
    });
    assert_eq!(
        config.ask("SELECT (SELECT count(*) FROM a) || ' ' || (SELECT count(*) FROM b)"),
        ["100 100"]
    );
}

#[test]
fn a_bad_row_is_named_and_keeps_no_other_from_being_loaded() {
    let shop = Shop::new(STOCK).with(&[ITEM]);
    let add = |row| {
        let sql = format!("INSERT INTO stock (id, pieces) VALUES ({row})");
        shop.connection().execute(&sql, []).expect("SQLite takes it");
    };
    add("-7, 'many'");
    let bed = shop.bed();
    let map = items(&bed);
    assert_says(map.blocking().loaded(), &["key -7", "the text \"many\" found"]);
    assert_eq!(map.len(), 3);
    add("0, 'none'");
    assert_says(map.blocking().get_all(&[&1, &0]), &["key 0", "the text \"none\" found"]);
    shop.connection().execute("DELETE FROM stock WHERE id <= 0", []).expect("mended");
    assert_eq!(map.blocking().loaded().expect("loaded"), 0, "all the rest was there");
}

#[test]
fn a_view_is_loaded_from() {
    let shop = Shop::new(&format!(
        "{STOCK} CREATE VIEW few AS SELECT id, name, pieces FROM stock WHERE id < 3"
    ));
    let sqlite = Sqlite::open(shop.path()).expect("opened");
    let properties = [("external-name".to_owned(), "few".to_owned())].into();
    let config = MapStoreConfig { properties, ..MapStoreConfig::default() };
    let bed = Bed::with(move |builder| {
        builder.map_loader(
            "stock",
            config.clone(),
            OnThreads::new(SqliteMapStore::new(sqlite.clone())),
        )
    });
    let map: Map<Natural<i64>, Json<serde_json::Value>> = bed.member().map("stock").expect("a map");
    assert_eq!(map.blocking().loaded().expect("loaded"), 2);
    let tea = serde_json::json!({"id": 1, "name": "tea", "pieces": 7});
    assert_eq!(map.blocking().get(&1).expect("get"), Some(tea));
}
