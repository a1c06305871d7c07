//! The stores that became the golden files, each with what it must hold.
//!
//! Together they have every kind of record, chunk, directory line and every field of the manifest that this
//! version writes; `coverage.rs` says so.

use std::path::Path;

use hotrestart::format::{BlockKind, ChunkHeader, ChunkWalk, Walked};
use hotrestart::{Durability, Store, StreamId};

use crate::generate::{BEGIN_MS, CHUNK, Maker};
use crate::listing::{FAR_MS, Model, notes, numbers, placed, stream_of, words};
use crate::pack::Files;

/// A store that was made.
pub struct Made {
    pub files: Files,
    /// What it holds when it is opened in another boot than it ended in.
    pub model: Model,
    /// And in the same boot, where that is more.
    pub in_same_boot: Option<Model>,
}

/// Longer than a record may be: in parts.
const LONG: usize = 70_000;

/// Makes a store in an empty directory.
pub type Make = fn(&Path) -> Made;

/// The name of each, and how it is made.
pub const STORES: [(&str, Make); 5] = [
    ("clean", clean),
    ("compacted", compacted),
    ("interrupted", interrupted),
    ("torn", torn),
    ("buffers", left_in_buffers),
];

fn number(maker: &mut Maker, model: &mut Model, key: u64, value: &[u8]) {
    maker.make(|store| numbers(store).insert(&key, value));
    model.0.insert(("numbers", key.to_le_bytes().to_vec()), (value.to_vec(), None));
}

fn remove_number(maker: &mut Maker, model: &mut Model, key: u64) {
    maker.make(|store| numbers(store).remove(&key));
    model.0.remove(&("numbers", key.to_le_bytes().to_vec()));
}

fn word(maker: &mut Maker, model: &mut Model, key: &str, value: u64) {
    maker.make(|store| words(store).insert(key, &value));
    let value = value.to_le_bytes().to_vec();
    model.0.insert(("words", key.as_bytes().to_vec()), (value, None));
}

fn note(maker: &mut Maker, model: &mut Model, key: &[u8], value: &str, expiry_ms: Option<u64>) {
    maker.make(|store| match expiry_ms {
        Some(expiry_ms) => notes(store).insert_expiring(key, value, expiry_ms),
        None => notes(store).insert(key, value),
    });
    let value = value.as_bytes().to_vec();
    if expiry_ms.is_none_or(|expiry_ms| expiry_ms >= FAR_MS) {
        model.0.insert(("notes", key.to_vec()), (value, expiry_ms));
    }
}

fn place(maker: &mut Maker, model: &mut Model, key: u64, value: &[u8]) {
    maker.make(|store| placed(store).in_stream(stream_of(key))?.insert(&key, value));
    model.0.insert(("placed", key.to_le_bytes().to_vec()), (value.to_vec(), None));
}

/// A value of which every byte says where it stands.
fn mixed(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (seed * 131 + at * 7 + at / 253) as u8).collect()
}

/// Two lives with two and three writers, closed cleanly: entries of all maps, keys and values of many
/// lengths, a value in parts, expiries, removals, a clear, a drop, a group.
fn clean(path: &Path) -> Made {
    let (mut maker, mut model) = (Maker::new(path, 1), Model::default());
    maker.open(maker.builder(2).streams(crate::listing::STREAMS).chunk_bytes(CHUNK), 11);
    let all = |maker: &mut Maker, model: &mut Model, round: u64| {
        for key in 0..20_u64 {
            number(maker, model, key, &mixed(key + round, (key * key * 3) as usize));
            place(maker, model, key + 100, &mixed(round, 5 + key as usize));
            maker.steps(3);
        }
        for (at, text) in ["a", "Ada", "Konrad Zuse", "\u{e9}t\u{e9}"].into_iter().enumerate() {
            word(maker, model, text, round << 32 | at as u64);
        }
        note(maker, model, b"k", "", None);
        note(maker, model, &mixed(3, 3_000), "a long key", None);
        note(maker, model, b"until the year 3000", "still here", Some(FAR_MS + round));
        note(maker, model, b"gone by now", "expired", Some(BEGIN_MS + 5 + round));
    };
    all(&mut maker, &mut model, 1);
    number(&mut maker, &mut model, 77, &mixed(5, LONG));
    (0..20).step_by(3).for_each(|key| remove_number(&mut maker, &mut model, key));
    maker.make(|store| {
        let map = store.map::<hotrestart::codec::U64, hotrestart::codec::U64>(
            "dropped",
            hotrestart::MapOptions::default(),
        )?;
        map.insert(&1, &2)
    });
    maker.make(|store| store.drop_map("dropped"));
    maker.persist(Durability::Synced);
    maker.close();

    maker.open(maker.builder(3), 12);
    word(&mut maker, &mut model, "cleared", 1);
    maker.make(|store| words(store).clear());
    model.clear("words");
    all(&mut maker, &mut model, 2);
    group(&mut maker, &mut model);
    maker.persist(Durability::Synced);
    maker.close();
    Made { files: maker.files(), model, in_same_boot: None }
}

/// Changes of one stream, all or none: two values, one of them in parts, and a removal.
fn group(maker: &mut Maker, model: &mut Model) {
    let keys = [101_u64, 105, 109].map(|key| (key, key.to_le_bytes().to_vec()));
    let (short, long) = (mixed(9, 40), mixed(8, LONG));
    maker.make(|store| {
        let part = placed(store).in_stream(StreamId(1))?;
        let mut group = store.group(StreamId(1));
        group.insert(&part, &keys[0].0, &short[..])?;
        group.insert(&part, &keys[1].0, &long[..])?;
        group.remove(&part, &keys[2].0)?;
        group.commit()
    });
    let [first, second, third] = keys.map(|(_, bytes)| ("placed", bytes));
    model.0.insert(first, (short, None));
    model.0.insert(second, (long, None));
    model.0.remove(&third);
}

/// Compaction has copied survivors of every kind and freed chunks; then the store was closed.
fn compacted(path: &Path) -> Made {
    let mut maker = Maker::new(path, 2);
    let model = compact(&mut maker);
    maker.close();
    Made { files: maker.files(), model, in_same_boot: None }
}

/// The same, and the process died instead.
fn interrupted(path: &Path) -> Made {
    let mut maker = Maker::new(path, 5);
    let model = compact(&mut maker);
    maker.abandon();
    Made { files: maker.files(), in_same_boot: Some(model.clone()), model }
}

/// A store that is compacted, with a hold of its first chunk, which was never released. Values are mostly
/// zeros, so that little is left to keep.
fn compact(maker: &mut Maker) -> Model {
    let mut model = Model::default();
    maker.open(maker.builder(1).streams(crate::listing::STREAMS).chunk_bytes(CHUNK), 21);
    let zeros = |round: u64| {
        let mut value = vec![0; 3_000];
        value[..8].copy_from_slice(&round.to_le_bytes());
        value
    };
    for key in 0..12 {
        number(maker, &mut model, key, &zeros(key));
        word(maker, &mut model, &format!("word {key}"), key);
    }
    place(maker, &mut model, 5, &[1; 12]);
    maker.persist(Durability::Synced);
    hold(maker);
    // The chunk that was being filled is held, too: what follows must not lie in it.
    for round in 0..100 {
        number(maker, &mut model, 4 + round % 8, &zeros(1 + round));
        maker.steps(2);
    }
    // Older records of these are held: no survey forgets that they are gone.
    (0..4).for_each(|key| remove_number(maker, &mut model, key));
    maker.make(|store| words(store).clear());
    model.clear("words");
    let mut long = vec![0; LONG];
    long[0] = 9;
    number(maker, &mut model, 500, &long);
    note(maker, &mut model, b"survives", "copied", Some(FAR_MS));
    place(maker, &mut model, 6, &[2; 12]);
    let mut round = 0;
    while maker.store().stats().chunks_freed < 60 {
        round += 1;
        number(maker, &mut model, 4 + round % 8, &zeros(round << 8));
        // Each chunk has something that stays: nothing can be freed without copies.
        if round.is_multiple_of(20) {
            number(maker, &mut model, 1_000 + round / 20 % 60, &round.to_le_bytes());
        }
        maker.steps(2);
        assert!(round < 20_000, "nothing is compacted: {:#?}", maker.store().stats());
    }
    word(maker, &mut model, "after the clear", 1);
    maker.persist(Durability::Synced);
    model
}

fn hold(maker: &mut Maker) {
    for _ in 0..10_000 {
        if maker.store().hold().is_ok() {
            return;
        }
        maker.steps(1);
    }
    panic!("nothing is held");
}

/// The power went: blocks above the known-flushed mark, of which one was lost, so that those behind it are
/// void. The log buffers, in shared memory, went with it.
fn torn(path: &Path) -> Made {
    let (mut maker, mut model) = (Maker::new(path, 3), Model::default());
    let shared = tempfile::tempdir().expect("a directory");
    maker.buffers_dir = shared.path().to_owned();
    let builder = maker.builder(1).streams(crate::listing::STREAMS).chunk_bytes(CHUNK);
    maker.open(builder.flush_interval_ms(3_600_000), 31);
    for key in 0..30 {
        number(&mut maker, &mut model, key, &mixed(key, 50));
    }
    note(&mut maker, &mut model, b"flushed", "it is on the device", None);
    maker.persist(Durability::Synced);
    let mut written = model.clone();
    let lost = {
        number(&mut maker, &mut written, 100, &mixed(100, 60));
        maker.persist(Durability::Written);
        model = written.clone();
        let before = blocks(&maker.files());
        number(&mut maker, &mut written, 101, b"this block is lost");
        maker.persist(Durability::Written);
        number(&mut maker, &mut written, 102, b"and so this one is void");
        remove_number(&mut maker, &mut written, 3);
        maker.persist(Durability::Written);
        before
    };
    maker.abandon();
    let mut files = maker.files();
    let (name, offset, len) = blocks(&files).swap_remove(lost.len());
    files.get_mut(&name).expect("a chunk")[offset..offset + len].fill(0);
    Made { files, model, in_same_boot: None }
}

/// The blocks of a store with one writer: file, offset and length of each, in their order.
fn blocks(files: &Files) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("chunk-")) {
        let Ok(header) = ChunkHeader::decode(bytes) else { continue };
        for walked in ChunkWalk::new(bytes, header.binding()) {
            if let Walked::Block { offset, header, .. } = walked {
                assert_eq!(header.kind, BlockKind::Records, "one chunk is enough");
                found.push((header.number, (name.clone(), offset, header.sealed_len())));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(_, block)| block).collect()
}

/// The machine stopped while changes were in the log buffers, in the store's directory: a group, removals and
/// a clear among them.
fn left_in_buffers(path: &Path) -> Made {
    let (mut maker, mut model) = (Maker::new(path, 4), Model::default());
    let builder = maker.builder(2).streams(crate::listing::STREAMS).chunk_bytes(CHUNK);
    maker.open(builder.write_interval_ms(3_600_000).flush_interval_ms(3_600_000), 41);
    for key in 0..10 {
        number(&mut maker, &mut model, key, &mixed(key, 30));
        place(&mut maker, &mut model, 101 + key, &[3; 8]);
    }
    word(&mut maker, &mut model, "to be cleared", 1);
    maker.persist(Durability::Synced);
    let mut all = model.clone();
    number(&mut maker, &mut all, 3, b"in a buffer only");
    remove_number(&mut maker, &mut all, 4);
    maker.make(|store| words(store).clear());
    all.clear("words");
    group_of_short(&mut maker, &mut all);
    maker.abandon();
    Made { files: maker.files(), model, in_same_boot: Some(all) }
}

fn group_of_short(maker: &mut Maker, model: &mut Model) {
    let in_group = |store: &Store| {
        let part = placed(store).in_stream(StreamId(1))?;
        let mut group = store.group(StreamId(1));
        group.insert(&part, &101, b"of a group")?;
        group.remove(&part, &105)?;
        group.commit()
    };
    maker.make(in_group);
    let key = |key: u64| ("placed", key.to_le_bytes().to_vec());
    model.0.insert(key(101), (b"of a group".to_vec(), None));
    model.0.remove(&key(105));
}
