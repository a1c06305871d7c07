//! Models of the table under loom: every order of a writer's stores that the memory model allows, against a
//! reader.
//!
//! The code that runs is the table's own; only the words of the arena are loom's. The oracle knows which key
//! each word stands for: a key that is always there must be found at every moment, with its old value or its
//! new one, and never an older one after a newer one.

use std::sync::Arc;

use loom::thread;

use super::testbed::{Testbed, hash};

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.preemption_bound.get_or_insert(2);
    builder.check(check);
}

/// Eight keys with different tags that fill bucket 0.
fn full_bucket() -> Vec<u64> {
    (0..8).map(|key| hash(0, 0, key + 1)).collect()
}

/// An empty table of two buckets.
fn two_buckets(mut hashes: Vec<u64>) -> Testbed {
    // Seven keys more make the second bucket due; they are taken out again.
    let first = hashes.len();
    hashes.extend((0..7).map(|key| hash(key % 2, key % 2, 100 + key)));
    let bed = Testbed::new(hashes);
    for key in first..first + 7 {
        bed.insert(key);
    }
    assert!(bed.grow());
    assert_eq!(bed.table().buckets(), 2);
    for key in first..first + 7 {
        bed.remove(key);
    }
    bed
}

fn read_beside(bed: &Arc<Testbed>, keys: &'static [usize], write: impl Fn(&Testbed)) {
    let reader = {
        let bed = Arc::clone(bed);
        thread::spawn(move || {
            for key in keys {
                let first = bed.find(*key).expect("a key that is always there");
                let then = bed.find(*key).expect("a key that is always there");
                assert!(then >= first, "time went back");
            }
        })
    };
    write(bed);
    reader.join().expect("no panic");
}

#[test]
fn an_overwritten_key_is_found_at_every_moment() {
    model(|| {
        let bed = Arc::new(Testbed::new(full_bucket()));
        bed.insert(0);
        bed.insert(1);
        read_beside(&bed, &[1], |bed| {
            bed.overwrite(1, 1);
            bed.overwrite(1, 2);
        });
    });
}

#[test]
fn a_key_is_found_while_it_moves_to_its_other_place_and_its_word_is_taken_by_another() {
    model(|| {
        let mut hashes = full_bucket();
        // Key 0 has its home in bucket 1, where a reader looks first, and goes to bucket 0, which is emptier.
        hashes[0] = hash(1, 0, 1);
        hashes.push(hash(0, 0, 50));
        hashes.push(hash(1, 1, 51));
        let bed = Arc::new(two_buckets(hashes));
        bed.insert(9);
        for key in 0..8 {
            bed.insert(key);
        }
        read_beside(&bed, &[0], |bed| {
            bed.insert(8);
            bed.overwrite(0, 1);
        });
    });
}

#[test]
fn keys_are_found_while_their_bucket_splits() {
    model(|| {
        // Key 0 moves, key 1 stays; the others only make the split due.
        let hashes: Vec<u64> =
            (0..7).map(|key| hash(u64::from(key == 0), u64::from(key == 0), key + 1)).collect();
        let bed = Arc::new(Testbed::new(hashes));
        for key in 0..7 {
            bed.insert(key);
        }
        read_beside(&bed, &[0], |bed| {
            assert!(bed.grow());
            bed.overwrite(0, 1);
        });
    });
}

#[test]
fn keys_are_found_while_a_chain_is_hung_on() {
    model(|| {
        let mut hashes = full_bucket();
        hashes.push(hash(0, 0, 50));
        let bed = Arc::new(Testbed::new(hashes));
        for key in 0..8 {
            bed.insert(key);
        }
        // The last word of the bucket moves to the chain.
        read_beside(&bed, &[7], |bed| bed.insert(8));
    });
}

#[test]
fn keys_are_found_while_a_split_shortens_a_chain_and_its_bucket_is_used_again() {
    model(|| {
        // Bucket 0 with a chain: keys 0 to 8; keys 1 to 4 will move to bucket 1, and key 7 from the chain to
        // bucket 0.
        let mut hashes: Vec<u64> = (0..8)
            .map(|key| {
                hash(u64::from((1..5).contains(&key)), u64::from((1..5).contains(&key)), key + 1)
            })
            .collect();
        hashes.push(hash(0, 0, 50));
        let bed = Arc::new(Testbed::new(hashes));
        for key in 0..9 {
            bed.insert(key);
        }
        assert_eq!(bed.table().counts().overflow_buckets, 1);
        let reader = {
            let bed = Arc::clone(&bed);
            // One search only: the split has so many steps that two would take hours to check.
            thread::spawn(move || assert_eq!(bed.find(7), Some(0), "a key that is always there"))
        };
        assert!(bed.grow());
        reader.join().expect("no panic");
    });
}

#[test]
fn a_removed_key_does_not_come_back_and_its_place_serves_another() {
    model(|| {
        let bed = Arc::new(Testbed::new(full_bucket()));
        bed.insert(0);
        bed.insert(1);
        let reader = {
            let bed = Arc::clone(&bed);
            thread::spawn(move || {
                let gone = bed.find(0).is_none();
                let found = bed.find(0);
                assert!(!gone || found.is_none(), "a removed key came back");
                assert_eq!(bed.find(1), Some(0));
            })
        };
        bed.remove(0);
        bed.insert(2);
        reader.join().expect("no panic");
    });
}

#[test]
fn a_table_that_is_cleared_is_found_whole_or_empty_and_serves_again() {
    model(|| {
        // Key 0 lies behind the directory, key 1 in bucket 0; key 2 comes after the clear.
        let hashes = vec![hash(1, 1, 1), hash(0, 0, 2), hash(0, 0, 3)];
        let bed = Arc::new(two_buckets(hashes));
        bed.insert(0);
        bed.insert(1);
        let reader = {
            let bed = Arc::clone(&bed);
            thread::spawn(move || {
                let (one, other) = (bed.find(0), bed.find(1));
                assert!(one.is_some() || other.is_none(), "first empty, then not");
            })
        };
        let pieces = bed.table().detach();
        assert!(pieces.buckets == 2 && pieces.directory != 0);
        bed.insert(2);
        reader.join().expect("no panic");
        assert_eq!((bed.find(0), bed.find(1), bed.find(2)), (None, None, Some(0)));
        assert_eq!(bed.table().counts().entries, 1);
    });
}

/// Bucket 0 with so many keys of its own, of which 7 to 13, all but the last of its chain's first bucket, are
/// gone; one key more is known and not there.
fn with_a_gap(keys: usize, overflow_buckets: u64) -> Arc<Testbed> {
    let bed = Arc::new(Testbed::new((0..=keys as u64).map(|key| hash(0, 0, key + 1)).collect()));
    for key in 0..keys {
        bed.insert(key);
    }
    for key in 7..14 {
        bed.remove(key);
    }
    assert_eq!(bed.table().counts().overflow_buckets, overflow_buckets);
    bed
}

/// All that is left of the chain, key 14, stands in its last word, and takes the place of the link to it.
fn end_the_chain(bed: &Testbed) {
    bed.table().shorten_chain(bed.table().bucket(0));
}

/// The first bucket of a chain of two leaves it, and comes back as its last with the key that stood in the
/// last word.
fn turn_the_chain_round(bed: &Testbed) {
    bed.table().shorten_chain(bed.table().bucket(0));
    bed.insert(22);
    assert_eq!(bed.table().counts().overflow_buckets, 2);
}

/// Looks for a key that is always there while a chain changes.
fn find_beside(make: fn() -> Arc<Testbed>, key: usize, change: fn(&Testbed)) {
    model(move || {
        let bed = make();
        let reader = {
            let bed = Arc::clone(&bed);
            thread::spawn(move || assert_eq!(bed.find(key), Some(0), "a key that is always there"))
        };
        change(&bed);
        reader.join().expect("no panic");
        assert_eq!(bed.find(key), Some(0));
    });
}

/// Walks over bucket 0 while its chain changes: each entry that is always there is seen.
fn walk_beside(make: fn() -> Arc<Testbed>, entries: [usize; 2], change: fn(&Testbed)) {
    model(move || {
        let bed = make();
        let walker = {
            let bed = Arc::clone(&bed);
            thread::spawn(move || {
                let (table, mut words) = (bed.table(), Vec::new());
                let shape = table.shape();
                table.for_each_in_bucket(0, |found| {
                    if !words.contains(&found.word) {
                        words.push(found.word);
                    }
                });
                // Else it looks again (`store/iter.rs`).
                if table.is_shape(shape) {
                    let seen = words.len();
                    assert!((entries[0]..=entries[1]).contains(&seen), "{seen} of {entries:?}");
                }
            })
        };
        change(&bed);
        walker.join().expect("no panic");
    });
}

#[test]
fn a_key_is_found_while_it_takes_the_place_of_the_link_to_its_chain() {
    find_beside(|| with_a_gap(15, 1), 14, end_the_chain);
}

#[test]
fn a_walk_sees_an_entry_that_takes_the_place_of_the_link_to_its_chain() {
    walk_beside(|| with_a_gap(15, 1), [8, 8], end_the_chain);
}

#[test]
fn a_key_is_found_while_a_bucket_leaves_its_chain_and_becomes_the_last_of_it() {
    find_beside(|| with_a_gap(22, 2), 21, turn_the_chain_round);
}

#[test]
fn a_walk_sees_each_while_a_bucket_leaves_its_chain_and_becomes_the_last_of_it() {
    walk_beside(|| with_a_gap(22, 2), [15, 16], turn_the_chain_round);
}

#[test]
fn a_key_is_found_from_where_a_search_began_before_its_bucket_split() {
    model(|| {
        let hashes: Vec<u64> =
            (0..7).map(|key| hash(u64::from(key == 0), u64::from(key == 0), key + 1)).collect();
        let bed = Arc::new(Testbed::new(hashes));
        for key in 0..7 {
            bed.insert(key);
        }
        let reader = {
            let bed = Arc::clone(&bed);
            thread::spawn(move || {
                let first = bed.find_as_of_before(0).expect("a key that is always there");
                let then = bed.find(0).expect("a key that is always there");
                assert!(then >= first, "time went back");
            })
        };
        assert!(bed.grow());
        bed.overwrite(0, 1);
        reader.join().expect("no panic");
    });
}
