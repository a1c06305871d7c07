//! Maps over tables of a PostgreSQL database: the real one, each test with a server of its own.

#[path = "support/server.rs"]
mod server;
#[path = "support/stock.rs"]
mod stock;
mod support;

use std::time::{Duration, Instant};

use hdgrid::data::{Json, Natural, Raw};
use hdgrid::sql::{Password, Postgres, PostgresConfig, PostgresMapStore};
use hdgrid::{Map, MapStoreConfig};
use serde_json::{Value, json};
use server::{PASSWORD, Pooler, Server};
use stock::{Item, item, items, with};
use support::{Bed, eventually};

fn config(server: &Server) -> PostgresConfig {
    PostgresConfig {
        password: Some(Password::Plain(PASSWORD.to_owned())),
        retry_for: Duration::from_millis(200),
        ..PostgresConfig::new(server.url())
    }
}

/// A member with a map "stock" over the database.
fn bed(postgres: &PostgresConfig, map_store: MapStoreConfig) -> Bed {
    let postgres = Postgres::new(postgres).expect("settings");
    Bed::with(move |builder| {
        let store = PostgresMapStore::new(postgres.clone());
        builder.map_store("stock", map_store.clone(), store)
    })
}

const STOCK: &str = "CREATE TABLE stock (id bigint PRIMARY KEY, name text UNIQUE,
        pieces int NOT NULL CHECK (pieces > -5), note text DEFAULT 'new');
    INSERT INTO stock VALUES (1, 'tea', 7, 'old'), (2, NULL, 0, NULL), (3, 'milk', 1, 'old')";
const ROWS: &str = "SELECT * FROM stock ORDER BY id";
const ITEM: (&str, &str) = ("columns", "name, pieces");

#[test]
fn rows_are_entries_and_what_the_map_does_not_use_stays() {
    let server = Server::new(&[]);
    server.ask(STOCK);
    let bed = bed(&config(&server), with(&[ITEM]));
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
    assert_eq!(server.ask(ROWS), ["1|tea|6|old", "2||0|", "4|o'hara|-1|new"]);
    let refused =
        map.set_all(&[(&5, &item("five", 5)), (&6, &item("six", -6)), (&7, &item("seven", 7))]);
    let refused = refused.expect_err("too few").to_string();
    assert!(refused.contains("key 6") && refused.contains("SQLSTATE 23514"), "{refused}");
    map.evict_all().expect("evicted");
    assert_eq!(
        map.get_all(&[&6, &7, &5]).expect("get"),
        [None, Some(item("seven", 7)), Some(item("five", 5))]
    );
    assert_eq!(map.clear().expect("cleared"), 2);
    assert_eq!(server.ask(ROWS), <[String; 0]>::default());
}

#[test]
fn keys_come_in_pages_whatever_their_type() {
    let server = Server::new(&[]);
    server.ask(
        "CREATE TABLE numbers (id bigint PRIMARY KEY, pieces int);
         INSERT INTO numbers SELECT n, n FROM generate_series(-10000, 10000) n;
         CREATE TABLE texts (id varchar(9) PRIMARY KEY, pieces int);
         INSERT INTO texts SELECT 'n' || n, n FROM generate_series(1, 20000) n;
         CREATE TABLE uuids (id uuid PRIMARY KEY, pieces int);
         INSERT INTO uuids VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 3);
         CREATE TABLE bytes (id bytea PRIMARY KEY, pieces int); INSERT INTO bytes VALUES ('\\x00ff', 4)",
    );
    let of = |table| with(&[("external-name", table), ("single-column-as-value", "true")]);
    let bed = bed(&config(&server), of("numbers"));
    let map: Map<Natural<i64>, Natural<i32>> = bed.member().map("stock").expect("a map");
    map.blocking().loaded().expect("loaded");
    assert_eq!((map.len(), map.blocking().get(&-10_000).expect("get")), (20_001, Some(-10_000)));
    let bed = self::bed(&config(&server), of("texts"));
    let map: Map<Natural<String>, Natural<i32>> = bed.member().map("stock").expect("a map");
    map.blocking().loaded().expect("loaded");
    assert_eq!(map.len(), 20_000);
    let bed = self::bed(&config(&server), of("uuids"));
    let map: Map<Natural<String>, Natural<i32>> = bed.member().map("stock").expect("a map");
    let id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    assert_eq!(map.blocking().get(&id.to_owned()).expect("get"), Some(3));
    let other = map.blocking().get(&id.to_uppercase()).expect_err("another key of the same row");
    assert!(other.to_string().contains("UUID (lower case"), "{other}");
    let bed = self::bed(&config(&server), of("bytes"));
    let map: Map<Raw, Natural<i32>> = bed.member().map("stock").expect("a map");
    map.blocking().set(&[1, 2], &5).expect("set");
    map.blocking().loaded().expect("loaded");
    assert_eq!(map.blocking().get(&[0, 255]).expect("get"), Some(4));
    assert_eq!(server.ask("SELECT * FROM bytes ORDER BY id"), ["\\x00ff|4", "\\x0102|5"]);
}

#[test]
fn types_are_exact_both_ways() {
    let server =
        Server::new(&["timezone=Asia/Kolkata", "datestyle=German", "extra_float_digits=0"]);
    server.ask(
        "CREATE TYPE mood AS ENUM ('well', 'ill'); CREATE DOMAIN small AS int CHECK (VALUE < 100);
         CREATE DOMAIN cents AS numeric(9, 2);
         CREATE TABLE stock (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, yes bool, short int2,
         single float4, double float8, price numeric(12, 2), big numeric, name varchar(5), fixed char(4),
         at timestamptz, day date, local timestamp, tag uuid, tree jsonb, bytes bytea, feels mood,
         few small, fee cents, crowd numeric(3, -2),
         list int[], none text, twice int8 GENERATED ALWAYS AS (id * 2) STORED)",
    );
    let bed = bed(&config(&server), MapStoreConfig::default());
    let map: Map<Natural<i64>, Json<Value>> = bed.member().map("stock").expect("a map");
    let map = map.blocking();
    let value: Value = serde_json::from_str(
        r#"{"id": 1, "yes": true, "short": -32768, "single": 0.1, "double": 0.1, "price": 9999999999.25,
            "big": 3, "name": "o'h\"a", "fixed": "ab",
            "at": "2026-02-03T04:05:06.789Z", "day": "2026-02-03", "local": "2026-02-03T04:05:06.5",
            "tag": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "tree": {"a": [1, null, "x"]},
            "bytes": "\\x00ff", "feels": "well", "few": 99, "fee": 0.25, "crowd": 1200,
            "list": "{1,NULL}", "none": null}"#,
    )
    .expect("JSON");
    map.set(&1, &value).expect("set");
    assert_eq!(
        server.ask(
            "SELECT yes, short, single, price, name, fixed, at AT TIME ZONE 'UTC' =
             '2026-02-03T04:05:06.789', tree->'a'->>2, bytes, feels, few, list, none IS NULL, twice
             FROM stock"
        ),
        ["t|-32768|0.1|9999999999.25|o'h\"a|ab  |t|x|\\x00ff|well|99|{1,NULL}|t|2"]
    );
    map.evict_all().expect("evicted");
    assert_eq!(map.get(&1).expect("get"), Some(value.clone()));
    for (name, wrong, says) in [
        ("price", json!(0.125), "of the column's scale"),
        ("fee", json!(0.125), "of the column's scale"),
        ("crowd", json!(1250), "of the column's scale"),
        ("single", json!(0.123456789012), "of 4 bytes"),
        ("short", json!(40000), "integer of 2 bytes"),
        ("name", json!("longer"), "SQLSTATE 22001"),
        ("fixed", json!("longer"), "SQLSTATE 22001"),
        ("few", json!(100), "SQLSTATE 23514"),
        ("feels", json!("so so"), "SQLSTATE 22P02"),
        ("at", json!("tomorrow"), "a time (ISO 8601)"),
        ("day", json!("2026-02-30"), "SQLSTATE 22008"),
        ("tag", json!("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"), "UUID (lower case"),
        ("twice", json!(2), "has a field \"twice\""),
    ] {
        let mut other = value.clone();
        other[name] = wrong;
        let refused = map.set(&1, &other).expect_err(name).to_string();
        assert!(refused.contains(says), "{name}: {refused}");
    }
    for at in ["infinity", "-infinity", "0044-03-15T12:00:00Z BC"] {
        let mut other = value.clone();
        other["at"] = json!(at);
        map.set(&1, &other).expect(at);
        map.evict_all().expect("evicted");
        assert_eq!(map.get(&1).expect("get"), Some(other));
    }
    server.ask("UPDATE stock SET big = 'NaN'");
    map.evict_all().expect("evicted");
    let unreadable = map.get(&1).expect_err("no number of JSON").to_string();
    assert!(unreadable.contains("column \"big\" of table stock, key 1"), "{unreadable}");
}

#[test]
fn a_table_that_does_not_fit_is_named_with_what_it_lacks() {
    let server = Server::new(&[]);
    server.ask(
        "CREATE SCHEMA \"My\"; CREATE TABLE \"My\".\"Stock\" (id bigint PRIMARY KEY, pieces int);
         CREATE TABLE twice (id bigint, pieces int, PRIMARY KEY (id, pieces));
         CREATE TABLE times (id timestamptz PRIMARY KEY)",
    );
    for (properties, says) in [
        (&[("external-name", "nowhere")][..], "there is no table nowhere"),
        (&[("external-name", "My.Stock"), ("columns", "price")], "has no column \"price\""),
        (&[("external-name", "twice")], "neither the primary key nor UNIQUE"),
        (&[("external-name", "times")], "is no key"),
    ] {
        let bed = bed(&config(&server), with(properties));
        let refused = items(&bed).blocking().get(&1).expect_err(says).to_string();
        assert!(refused.contains(says), "{refused}");
    }
    let bed = bed(&config(&server), with(&[("external-name", "My.Stock")]));
    let map: Map<Natural<i64>, Json<Value>> = bed.member().map("stock").expect("a map");
    map.blocking().set(&1, &json!({"pieces": 2})).expect("set");
    assert_eq!(server.ask("SELECT * FROM \"My\".\"Stock\""), ["1|2"]);
}

fn behind() -> MapStoreConfig {
    MapStoreConfig {
        write_delay: Duration::from_millis(1),
        retry_first: Duration::from_millis(20),
        retry_longest: Duration::from_millis(100),
        ..with(&[ITEM])
    }
}

#[test]
fn a_database_that_dies_while_changes_are_told_gets_each_in_the_end() {
    let mut server = Server::new(&[]);
    server.ask(STOCK);
    let mut bed = bed(&config(&server), behind());
    let map = items(&bed);
    for key in 10..2_000 {
        map.blocking().set(&key, &item(&format!("n{key}"), key as i32)).expect("set");
        if key == 1_000 {
            bed.pass(Duration::from_secs(1));
            server.kill();
        }
        if key % 100 == 0 {
            bed.pass(Duration::from_secs(1));
        }
    }
    map.blocking().remove(&1_500).expect("removed");
    assert_eq!(map.blocking().get(&1_999).expect("waits"), Some(item("n1999", 1_999)));
    drop(map);
    bed.restart();
    server.start();
    eventually("all is told", || {
        bed.pass(Duration::from_secs(1));
        server.ask("SELECT count(*), sum(pieces) FROM stock WHERE id >= 10")
            == [format!("{}|{}", 1_989, (10..2_000).sum::<i64>() - 1_500)]
    });
    assert_eq!(items(&bed).dead_letters().expect("asked").len(), 0);
}

#[test]
fn a_server_that_says_nothing_is_given_up_and_asked_again() {
    let server = Server::new(&[]);
    server.ask(STOCK);
    let config =
        PostgresConfig { statement_timeout: Duration::from_millis(100), ..config(&server) };
    let bed = bed(&config, with(&[ITEM]));
    let map = items(&bed);
    let map = map.blocking();
    assert_eq!(map.get(&1).expect("get"), Some(item("tea", 7)));
    server.pause();
    let begun = Instant::now();
    let refused = map.set(&1, &item("tea", 8)).expect_err("it stands still").to_string();
    assert!(refused.contains("no answer within 5.1s"), "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    server.resume();
    map.set(&1, &item("tea", 9)).expect("it goes on");
    assert_eq!(server.ask("SELECT pieces FROM stock WHERE id = 1"), ["9"]);
}

#[test]
fn a_pooler_may_give_each_transaction_another_connection() {
    let server = Server::new(&[]);
    server.ask(STOCK);
    let pooler = Pooler::new(&server);
    let url = format!("postgresql://grid@127.0.0.1:{}/postgres?sslmode=disable", pooler.port());
    let bed = bed(&PostgresConfig { url, ..config(&server) }, with(&[ITEM]));
    let map = items(&bed);
    map.blocking().loaded().expect("loaded");
    std::thread::scope(|scope| {
        for thread in 1..9 {
            let map = &map;
            scope.spawn(move || {
                for key in (thread * 100..).take(50) {
                    map.blocking().set(&key, &item(&format!("n{key}"), 1)).expect("set");
                    map.blocking().evict(&key).expect("evicted");
                    assert!(map.blocking().get(&key).expect("get").is_some());
                }
            });
        }
    });
    assert_eq!(server.ask("SELECT count(*) FROM stock"), ["403"]);
    let refused = map.blocking().set(&1, &item("tea", -9)).expect_err("too few").to_string();
    assert!(refused.contains("SQLSTATE 23514"), "{refused}");
    map.blocking().set(&1, &item("tea", 9)).expect("no transaction was left open");
}

#[test]
fn a_row_that_another_holds_is_waited_for_as_long_as_is_said() {
    let server = Server::new(&[]);
    server.ask(STOCK);
    let config = PostgresConfig { lock_timeout: Duration::from_millis(100), ..config(&server) };
    let bed = bed(&config, with(&[ITEM]));
    let map = items(&bed);
    std::thread::scope(|scope| {
        let held = "BEGIN; SELECT 1 FROM stock WHERE id = 1 FOR UPDATE; SELECT pg_sleep(3); COMMIT";
        let holder = scope.spawn(|| server.ask(held));
        eventually("the row is held", || {
            !server.ask("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").is_empty()
        });
        let refused = map.blocking().set(&1, &item("tea", 8)).expect_err("held").to_string();
        assert!(refused.contains("SQLSTATE 55P03"), "{refused}");
        holder.join().expect("asked");
    });
    map.blocking().set(&1, &item("tea", 8)).expect("free");
}

#[test]
fn of_several_hosts_the_one_that_answers_and_may_write_is_used() {
    let (server, other) = (Server::new(&[]), Server::new(&[]));
    let read_only = |server: &Server, value: &str| {
        server.ask(&format!("ALTER SYSTEM SET default_transaction_read_only = {value}"));
        server.ask("SELECT pg_reload_conf()");
        eventually("the setting is read", || {
            server.ask("SHOW default_transaction_read_only") == [value]
        });
    };
    for server in [&server, &other] {
        server.ask(STOCK);
    }
    read_only(&other, "on");
    let both = format!(
        "postgresql://grid@127.0.0.1:1,127.0.0.1:{},127.0.0.1:{}/postgres\
         ?sslmode=disable&target_session_attrs=read-write",
        other.port(),
        server.port()
    );
    let config = PostgresConfig { url: both, retry_for: Duration::from_secs(5), ..config(&server) };
    let bed = bed(&config, with(&[ITEM]));
    items(&bed).blocking().set(&1, &item("tea", 8)).expect("set");
    // The other becomes the primary.
    read_only(&server, "on");
    read_only(&other, "off");
    items(&bed).blocking().set(&1, &item("tea", 9)).expect("set");
    let pieces = "SELECT pieces FROM stock WHERE id = 1";
    assert_eq!((server.ask(pieces), other.ask(pieces)), (vec!["8".into()], vec!["9".into()]));
}

#[test]
fn a_server_of_another_name_or_without_a_trusted_certificate_is_refused() {
    let mut server = Server::new(&[]);
    let openssl = |arguments: &str| {
        let mut openssl = std::process::Command::new("openssl");
        let done = openssl.args(arguments.split(' ')).current_dir(server.path("")).output();
        let done = done.expect("openssl runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem \
         -subj /CN=ca -days 2",
    );
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.csr \
         -subj /CN=localhost",
    );
    std::fs::write(server.path("names"), "subjectAltName=DNS:localhost").expect("written");
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 \
         -extfile names",
    );
    server.give("server.key");
    server.give("server.pem");
    for (name, file) in [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")] {
        server.ask(&format!("ALTER SYSTEM SET {name} = '{}'", server.path(file).display()));
    }
    server.ask("ALTER SYSTEM SET ssl = on");
    server.ask(STOCK);
    server.kill();
    server.start();
    std::fs::write(server.path("secret"), format!("{PASSWORD}\n")).expect("written");
    let reach = |host: &str, more: &str| {
        let url = format!("postgresql://grid@{host}:{}/postgres?{more}", server.port());
        let password = Some(Password::File(server.path("secret")));
        let bed = bed(&PostgresConfig { url, password, ..config(&server) }, with(&[ITEM]));
        items(&bed).blocking().get(&1).map_err(|error| error.to_string())
    };
    let trusted = format!("sslmode=verify-full&sslrootcert={}", server.path("ca.pem").display());
    assert_eq!(reach("localhost", &trusted), Ok(Some(item("tea", 7))));
    let refused = reach("127.0.0.1", &trusted).expect_err("another name");
    assert!(refused.contains("not valid for name"), "{refused}");
    let refused = reach("localhost", "sslmode=verify-full").expect_err("not trusted");
    assert!(refused.contains("UnknownIssuer"), "{refused}");
}
