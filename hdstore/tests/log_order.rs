//! A log whose rooms come in an order that the test decides: what the store does with one that lies too
//! early.

use std::collections::VecDeque;
use std::sync::Mutex;

use hdstore::codec::{Bytes, U64};
use hdstore::{Change, Log, LogError, MapId, MapOptions, MapSpec, Seq, Store, StreamId};

/// Hands out rooms at scripted places and notes what is committed where.
#[derive(Debug, Default)]
struct Scripted {
    places: Mutex<VecDeque<u64>>,
    committed: Mutex<Vec<(u64, u64)>>,
}

impl Log for Scripted {
    type Level = ();
    type Room<'a> = u64;
    type GroupRoom<'a> = ();
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

    fn reserve_group(&self, _: StreamId, _: &[(MapId, Change<'_>)]) -> Result<(), LogError> {
        Ok(())
    }

    fn group_position((): &()) -> u64 {
        0
    }

    fn commit_group(&self, (): &mut (), _: &[Option<Seq>]) {}

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
    assert!(store.log().places.lock().expect("no panic").is_empty(), "no room is taken in vain");
}
