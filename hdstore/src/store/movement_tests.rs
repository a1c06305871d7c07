//! Walks: where they go on when maps come and go, and what is thought of pages that were not emptied.

use super::*;
use crate::codec::{Bytes, U64};
use crate::map::{Map, MapOptions};
use crate::store::Store;

/// A store of which one entry of four is left in each page.
fn sparse() -> (Store, Map<U64, Bytes>) {
    let store = Store::builder()
        .memory_limit_bytes(32 << 20)
        .streams(1)
        .lanes(1)
        .in_memory()
        .expect("a store");
    let map: Map<U64, Bytes> = store.map("m", MapOptions::default()).expect("a map");
    thin_out(&map, 0..12_000);
    collect(&store.inner.nodes[0]);
    (store, map)
}

/// Puts entries of one length, and leaves one of four.
fn thin_out(map: &Map<U64, Bytes>, keys: std::ops::Range<u64>) {
    keys.clone().for_each(|key| map.insert(&key, &[1; 200]).expect("room"));
    let gone = keys.filter(|key| key % 4 != 0);
    gone.for_each(|key| assert!(map.remove(&key).expect("removals work")));
}

/// Brings free slots back to their pages.
fn collect(node: &Node) {
    node.give_back(0);
}

#[test]
fn a_look_at_the_pages_that_was_in_vain_is_not_taken_again_by_the_next_put() {
    let (store, _map) = sparse();
    let node = &store.inner.nodes[0];
    // Pages that nobody empties: they are left alone, but their free slots still count for something.
    for walks in 0..2 {
        let outlook = node.slabs.look_for_sparse(&node.arena, walks);
        node.slabs.set_apart(&node.arena, &outlook, walks);
        node.slabs.end_apart(&node.arena, walks + 1, true);
    }
    let mut state = lock(&node.movement.state);
    state.walks = 2;
    let asked = Asked { need: 1_000, times: 1 };
    assert!(node.expected_gain(&mut state, asked).is_some(), "the counts promise nothing");
    assert_eq!(node.move_some(&mut state, asked), Moved::Nothing);
    assert_eq!(node.expected_gain(&mut state, asked), None, "the next put looks again");
}

#[test]
fn what_a_sleeping_reader_keeps_says_nothing_about_its_pages() {
    let (store, map) = sparse();
    let node = &store.inner.nodes[0];
    let gain = node.slabs.expected_gain();
    assert!(gain > 3 * ALL, "{gain}");
    let batch = store.read_batch();
    let asked = Asked { need: 1_000, times: 1 };
    let step = || node.move_some(&mut lock(&node.movement.state), asked);
    let end = std::iter::repeat_with(step).find(|moved| *moved != Moved::Some);
    assert_eq!(end, Some(Moved::Ended));
    assert!(node.movement.moved() > 1_000, "the walk came nowhere");
    assert_eq!(node.slabs.sparse.emptied(), 0, "the reader keeps no page");
    drop(batch);
    collect(node);
    // Pages become sparse again: as much is expected of them as if no walk had been.
    thin_out(&map, 12_000..26_000);
    collect(node);
    assert!(node.slabs.expected_gain() >= gain, "less is expected of pages that could be had");
}

#[test]
fn the_headers_of_a_map_that_is_gone_are_no_tables_for_a_walk() {
    let store =
        Store::builder().memory_limit_bytes(32 << 20).streams(1).in_memory().expect("a store");
    let map = |name| -> Map<U64, Bytes> { store.map(name, MapOptions::default()).expect("ok") };
    let (stays, goes) = (map("stays"), map("goes"));
    let tables = || lock(&store.inner.nodes[0].movement.state).tables.clone();
    assert_eq!(tables(), [stays.core.tables[0], goes.core.tables[0]]);
    assert!(store.drop_map("goes").expect("dropped"));
    drop(goes);
    // With the last handle the headers' memory goes, to whoever asks first.
    store.maintain(0);
    assert_eq!(tables(), [stays.core.tables[0]]);
}

/// The movement of a node of one stream with the tables of three maps, and a walk in the second.
fn under_way() -> Movement {
    let movement = Movement::new(Arc::new([CachePadded::new(Mutex::new(()))]), 0, 1);
    [1_000, 2_000, 3_000].into_iter().for_each(|first| movement.add_tables(first));
    let apart = PageSet::default();
    let walk = Walk { apart, map: 1, stream: 7, bucket: 9, buckets: 100, over: None };
    lock(&movement.state).walk = Some(walk);
    movement
}

/// Which tables the walk is in, and where.
fn place(movement: &Movement) -> Option<(u64, u64, u64)> {
    let state = lock(&movement.state);
    let walk = state.walk.as_ref()?;
    Some((*state.tables.get(walk.map)?, walk.stream, walk.bucket))
}

#[test]
fn a_walk_leaves_no_table_out_and_looks_at_none_that_is_gone_when_maps_come_and_go() {
    for (gone, expected) in [(1_000, (2_000, 7, 9)), (2_000, (3_000, 0, 0)), (3_000, (2_000, 7, 9))]
    {
        let movement = under_way();
        movement.remove_tables(gone);
        assert_eq!(place(&movement), Some(expected), "without {gone}");
        assert!(!lock(&movement.state).tables.contains(&gone));
        movement.remove_tables(gone);
        assert_eq!(place(&movement), Some(expected), "gone twice");
    }
    let movement = under_way();
    [3_000, 2_000].into_iter().for_each(|gone| movement.remove_tables(gone));
    assert_eq!(place(&movement), None, "nothing is left to walk over");
    movement.add_tables(4_000);
    assert_eq!(place(&movement), Some((4_000, 0, 0)), "what came meanwhile from its beginning");
}
