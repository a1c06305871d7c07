//! Tests of the judge: each kind of loss and wrongness, made by hand, must be found. A check that cannot fail
//! would make every restart look good.

use super::*;
use crate::cli::choices::{Durability, HugePages, Io};
use crate::cli::settings::StoreSettings;

const ENTRIES: u64 = 100;

struct Made {
    engine: Engine,
    table: Table,
    data: DataSettings,
    _home: tempfile::TempDir,
}

/// A store whose every key is at version 1, acknowledged.
fn sound() -> Made {
    let home = tempfile::tempdir().expect("tempdir");
    let store = StoreSettings {
        dir: home.path().join("store"),
        memory_limit: 128 << 20,
        io: Io::Syscall,
        io_used: None,
        huge_pages: HugePages::Off,
        disk_budget: 2.0,
    };
    let data = DataSettings {
        entries: ENTRIES,
        value_size: 50,
        key_size: 8,
        threads: 2,
        durability: Durability::Buffered,
        seed: 5,
        pin: false,
    };
    let engine = Engine::open(&store, &data).expect("open");
    let table = Table::create(ENTRIES).expect("table");
    let made = Made { engine, table, data, _home: home };
    for index in 0..ENTRIES {
        made.table.issue(index);
        made.put(index, 1);
        made.table.acknowledge(index, 1);
    }
    made
}

impl Made {
    fn put(&self, index: u64, version: u32) {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        Keys::new(8, self.data.seed).write(index, &mut key);
        Values::new(50, self.data.seed).write(index, version, &mut value);
        self.engine.put(&key, &value).expect("put");
    }

    fn counts(&self) -> (u64, u64) {
        let verdict = verify(&self.engine, &self.table, &self.data).expect("verified");
        assert_eq!(verdict.checked, ENTRIES);
        assert_eq!(verdict.examples.is_empty(), verdict.lost + verdict.wrong == 0);
        (verdict.lost, verdict.wrong)
    }
}

#[test]
fn a_store_as_the_table_says_has_nothing_lost_or_wrong() {
    let made = sound();
    made.table.issue(3);
    assert_eq!(made.counts(), (0, 0), "issued and not there");
    made.put(3, 2);
    assert_eq!(made.counts(), (0, 0), "issued and there");
}

#[test]
fn an_acknowledged_overwrite_that_is_not_there_is_lost() {
    let made = sound();
    made.table.issue(7);
    made.table.acknowledge(7, 2);
    assert_eq!(made.counts(), (1, 0));
}

#[test]
fn a_value_never_issued_is_wrong_and_so_is_one_of_another_key() {
    let made = sound();
    made.put(8, 2);
    assert_eq!(made.counts(), (0, 1));
    let mut key = Vec::new();
    let mut value = Vec::new();
    Keys::new(8, made.data.seed).write(9, &mut key);
    Values::new(50, made.data.seed).write(10, 1, &mut value);
    made.engine.put(&key, &value).expect("put");
    assert_eq!(made.counts(), (0, 2));
}

#[test]
fn a_key_that_is_gone_is_lost_and_a_stranger_is_wrong() {
    let made = sound();
    let larger = Table::create(ENTRIES + 1).expect("table");
    for index in 0..=ENTRIES {
        larger.issue(index);
        larger.acknowledge(index, 1);
    }
    let verdict = verify(&made.engine, &larger, &made.data).expect("verified");
    assert_eq!((verdict.lost, verdict.wrong), (1, 0));
    made.engine.put(b"stranger", b"1").expect("put");
    assert_eq!(made.counts(), (0, 1));
}
