//! A log whose rooms come in an order that the test decides: what the store does with one that lies too
//! early.

use std::collections::VecDeque;
use std::sync::Mutex;

use hdstore::codec::{Bytes, U64};
use hdstore::{
    Change, GroupOutcome, Log, LogError, MapId, MapOptions, MapSpec, Seq, Store, StreamId,
};

/// Hands out rooms at scripted places and notes what is written and committed where.
#[derive(Default)]
struct Scripted {
    places: Mutex<VecDeque<u64>>,
    written: Mutex<Vec<u64>>,
    committed: Mutex<Vec<(u64, u64)>>,
    groups: Mutex<Vec<(u64, Vec<Option<Seq>>)>>,
    /// What somebody else does while a group waits for its room.
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Log for Scripted {
    type Level = ();
    type Room<'a> = u64;
    type GroupRoom<'a> = u64;
    type Ticket = ();

    fn create_map(&self, _: &MapSpec<()>) -> Result<(), LogError> {
        Ok(())
    }

    fn drop_map(&self, _: MapId) -> Result<(), LogError> {
        Ok(())
    }

    fn reserve(&self, _: MapId, _: StreamId, _: Change<'_>) -> Result<u64, LogError> {
        Ok(self.places.lock().expect("no panic").pop_front().expect("a place is scripted"))
    }

    fn write(&self, room: &mut u64, _: Change<'_>) {
        self.written.lock().expect("no panic").push(*room);
    }

    fn position(room: &u64) -> u64 {
        *room
    }

    fn admits(&self, _: Seq) -> bool {
        true
    }

    fn wait_to_admit(&self, _: Seq) -> Result<(), LogError> {
        Ok(())
    }

    fn commit(&self, room: u64, seq: Seq) {
        self.committed.lock().expect("no panic").push((room, seq.0));
    }

    fn reserve_group(&self, _: StreamId, _: &[(MapId, Change<'_>)]) -> Result<u64, LogError> {
        let meanwhile = self.meanwhile.lock().expect("no panic").take();
        meanwhile.into_iter().for_each(|meanwhile| meanwhile());
        Ok(self.places.lock().expect("no panic").pop_front().expect("a place is scripted"))
    }

    fn group_position(room: &u64) -> u64 {
        *room
    }

    fn commit_group(&self, room: &mut u64, seqs: &[Option<Seq>]) {
        self.groups.lock().expect("no panic").push((*room, seqs.to_vec()));
    }

    fn settle(&self, (): (), (): ()) -> Result<(), LogError> {
        Ok(())
    }

    fn check(&self) -> Result<(), LogError> {
        Ok(())
    }
}

/// A thread that reserved early and got the lock late would leave a later seq in an earlier place; a crash
/// that loses the end of the log would then leave no prefix of the stream.
#[test]
fn a_record_whose_room_lies_before_the_streams_last_one_gets_another_room() {
    let store = Store::builder()
        .memory_limit_bytes(64 << 20)
        .streams(1)
        .with_log(Scripted::default())
        .expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let script = |places: &[u64]| {
        store.log().places.lock().expect("no panic").extend(places);
    };
    script(&[5]);
    map.insert(&1, b"first").expect("room");
    script(&[3, 4, 5]);
    map.insert(&2, b"a place before the last is given up, the same one is not").expect("room");
    script(&[4, 6]);
    assert!(map.remove(&1).expect("removed"), "a removal is placed like a put");
    let committed = store.log().committed.lock().expect("no panic").clone();
    assert_eq!(committed, [(5, 1), (5, 2), (6, 3)]);
    let written = store.log().written.lock().expect("no panic").clone();
    assert_eq!(
        written,
        [5, 3, 4, 5, 4, 6],
        "each room is written once, one that is taken anew, too"
    );
    assert!(store.log().places.lock().expect("no panic").is_empty(), "no room is taken in vain");
}

/// A group is placed like a change; a removal of what is not there takes no seq, and one that came to nothing
/// as a whole leaves nothing and moves no mark.
#[test]
fn a_groups_room_lies_behind_the_streams_last_record_and_each_of_its_records_has_the_next_seq() {
    let store = Store::builder()
        .memory_limit_bytes(64 << 20)
        .streams(1)
        .with_log(Scripted::default())
        .expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    let script = |places: &[u64]| {
        store.log().places.lock().expect("no panic").extend(places);
    };
    script(&[5]);
    map.insert(&1, b"first").expect("room");
    script(&[4, 3, 5]);
    let mut group = store.group(StreamId(0));
    group.remove(&map, &9).expect("ok").insert(&map, &2, b"a").expect("ok");
    group.remove(&map, &8).expect("ok").insert(&map, &2, b"b").expect("ok");
    group.remove(&map, &1).expect("ok");
    let outcome = group.commit().expect("room");
    assert_eq!(outcome, GroupOutcome::Done(vec![false, false, false, true, true]));
    script(&[7]);
    group.remove(&map, &9).expect("ok").remove(&map, &1).expect("ok");
    assert_eq!(group.commit().expect("room"), GroupOutcome::Done(vec![false, false]));
    script(&[6]);
    map.insert(&3, b"a place before that of the room which was given up will do").expect("room");
    let seq = |seq| Some(Seq(seq));
    let groups = store.log().groups.lock().expect("no panic").clone();
    assert_eq!(groups, [(5, vec![None, seq(2), None, seq(3), seq(4)])]);
    assert_eq!(*store.log().committed.lock().expect("no panic"), [(5, 1), (6, 5)]);
    assert_eq!(map.get(&2).expect("ok").expect("there").seq(), Seq(3));
    assert!(store.log().places.lock().expect("no panic").is_empty(), "no room is taken in vain");
}

/// A group looks at its keys, then waits for room in the log; what it counted on may be gone when it has the
/// lock: here its table, with every key that it was to overwrite.
#[test]
fn a_group_whose_table_is_cleared_while_it_waits_for_room_finds_memory_for_every_key() {
    let store = Store::builder()
        .memory_limit_bytes(64 << 20)
        .streams(1)
        .with_log(Scripted::default())
        .expect("a store");
    let map = store.map::<U64, Bytes>("m", MapOptions::default()).expect("a map");
    store.log().places.lock().expect("no panic").extend([1; 1_000]);
    let keys: Vec<u64> = (0..256).collect();
    for key in &keys {
        map.insert(key, b"before").expect("room");
    }
    for round in 0..3 {
        let of_other = map.clone();
        let clear = move || assert_eq!(of_other.clear().expect("cleared"), 256);
        *store.log().meanwhile.lock().expect("no panic") = Some(Box::new(clear));
        let mut group = store.group(StreamId(0));
        for key in &keys {
            group.insert(&map, key, b"after").expect("its stream");
        }
        let outcome = group.commit().expect("memory");
        assert_eq!(outcome, GroupOutcome::Done(vec![false; 256]), "round {round}");
        for key in &keys {
            assert_eq!(map.get_owned(key).expect("ok").as_deref(), Some(&b"after"[..]));
        }
    }
    store.maintain(0);
    let stats = store.stats();
    assert_eq!(stats.accounted_bytes(), stats.committed_bytes, "{stats:#?}");
}
