//! A store against a `HashMap`: random scripts, and records applied in any order.

use std::collections::HashMap;

use hdstore::codec::Bytes;
use hdstore::{
    Applied, Change, Entry, MapId, MapOptions, MapSpec, Placement, Seq, Store, StreamId,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u16),
    InsertIfAbsent(u16, u16),
    CompareExchange(u16, u16, u16),
    Remove(u16),
    Replace(u16, u16),
    Clear,
    Maintain,
}

/// In a history of records, the number that stands for a clear.
const CLEAR: u8 = 40;

fn value(seed: u16) -> Vec<u8> {
    seed.to_le_bytes().into_iter().cycle().take(usize::from(seed) % 900).collect()
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0u16..400;
    prop_oneof![
        4 => (key.clone(), any::<u16>()).prop_map(|(k, v)| Step::Insert(k, v)),
        1 => (key.clone(), any::<u16>()).prop_map(|(k, v)| Step::InsertIfAbsent(k, v)),
        1 => (key.clone(), any::<u16>(), any::<u16>()).prop_map(|(k, a, b)| Step::CompareExchange(k, a, b)),
        2 => key.clone().prop_map(Step::Remove),
        1 => (key, any::<u16>()).prop_map(|(k, v)| Step::Replace(k, v)),
        1 => prop::num::u8::ANY.prop_map(|n| if n < 20 { Step::Clear } else { Step::Maintain }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_script_leaves_what_a_hash_map_would_hold(steps in prop::collection::vec(step(), 1..1500)) {
        let store = Store::builder().memory_limit_bytes(32 << 20).streams(3).in_memory().expect("a store");
        let map = store.map::<Bytes, Bytes>("m", MapOptions::default()).expect("a map");
        let mut model: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(k, v) => {
                    map.insert(&k.to_be_bytes(), &value(v)).expect("room");
                    model.insert(k.to_be_bytes().to_vec(), value(v));
                }
                Step::InsertIfAbsent(k, v) => {
                    let done = map.insert_if_absent(&k.to_be_bytes(), &value(v)).expect("room");
                    prop_assert_eq!(done, !model.contains_key(&k.to_be_bytes()[..]));
                    model.entry(k.to_be_bytes().to_vec()).or_insert_with(|| value(v));
                }
                Step::CompareExchange(k, a, b) => {
                    let expected = model.get(&k.to_be_bytes()[..]).cloned().unwrap_or_else(|| value(a));
                    let done = map.compare_exchange(&k.to_be_bytes(), &expected, &value(b)).expect("room");
                    prop_assert_eq!(done, model.contains_key(&k.to_be_bytes()[..]));
                    if done {
                        model.insert(k.to_be_bytes().to_vec(), value(b));
                    }
                }
                Step::Remove(k) => {
                    let was = map.remove(&k.to_be_bytes()).expect("ok");
                    prop_assert_eq!(was, model.remove(&k.to_be_bytes()[..]).is_some());
                }
                Step::Replace(k, v) => {
                    if let Entry::Occupied(entry) = map.entry(&k.to_be_bytes()).expect("ok") {
                        prop_assert!(entry.replace(&value(v)).expect("room"));
                        model.insert(k.to_be_bytes().to_vec(), value(v));
                    }
                }
                Step::Clear => {
                    prop_assert_eq!(map.clear().expect("cleared"), model.len() as u64);
                    model.clear();
                }
                Step::Maintain => store.maintain(0),
            }
        }
        prop_assert_eq!(map.len(), model.len() as u64);
        let walked: HashMap<Vec<u8>, Vec<u8>> =
            map.iter().map(|e| (e.key_bytes().to_vec(), e.value_bytes().to_vec())).collect();
        prop_assert_eq!(&walked, &model);
        store.maintain(0);
        let stats = store.stats();
        prop_assert_eq!(stats.accounted_bytes(), stats.committed_bytes);
    }

    #[test]
    fn records_in_any_order_from_several_threads_give_one_map(
        history in prop::collection::vec((0u8..41, prop::option::of(any::<u16>())), 1..300),
        order in any::<u64>(),
    ) {
        let mut newest: HashMap<u8, Option<u16>> = HashMap::new();
        for (key, change) in &history {
            if *key == CLEAR {
                newest.clear();
            } else {
                newest.insert(*key, *change);
            }
        }
        let mut shuffled: Vec<(usize, (u8, Option<u16>))> = history.iter().copied().enumerate().collect();
        let mut state = order;
        for index in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(index, (state >> 33) as usize % (index + 1));
        }
        let store = Store::builder().memory_limit_bytes(32 << 20).streams(2).in_memory().expect("a store");
        let spec = MapSpec {
            id: MapId(7),
            name: "m".to_owned(),
            key_type: "bytes".to_owned(),
            value_type: "bytes".to_owned(),
            level: (),
            placement: Placement::ByHash,
        };
        store.restore_map(spec).expect("memory");
        let loading = store.start_load(1 << 20);
        let loader = &loading;
        std::thread::scope(|scope| {
            for part in shuffled.chunks(shuffled.len().div_ceil(3)) {
                scope.spawn(move || {
                    for (seq, (key, change)) in part {
                        let (key, bytes) = ([*key], value(change.unwrap_or(0)));
                        let change = match change {
                            _ if key == [CLEAR] => Change::Clear,
                            Some(_) => Change::Entry { key: &key, value: &bytes, expiry_ms: None },
                            None => Change::Absence { key: &key },
                        };
                        let seq = Seq(*seq as u64 + 1);
                        let record = Applied { map: MapId(7), stream: StreamId(0), seq, change };
                        loader.apply(&[record, record]).expect("memory");
                    }
                });
            }
        });
        let live: HashMap<u8, Vec<u8>> =
            newest.iter().filter_map(|(key, change)| change.map(|seed| (*key, value(seed)))).collect();
        loading.drop_void().expect("memory");
        let last_clear = history.iter().rposition(|(key, _)| *key == CLEAR);
        let cleared: Vec<_> = loading.cleared().into_iter().map(|(_, _, seq)| seq.0 as usize - 1).collect();
        prop_assert_eq!(cleared, Vec::from_iter(last_clear));
        prop_assert_eq!(loading.finish(), live.len() as u64);
        let map = store.map::<Bytes, Bytes>("m", MapOptions::default()).expect("the same types");
        let loaded: HashMap<u8, Vec<u8>> =
            map.iter().map(|e| (e.key_bytes()[0], e.value_bytes().to_vec())).collect();
        prop_assert_eq!(loaded, live);
        let stats = store.stats();
        prop_assert_eq!(stats.accounted_bytes(), stats.committed_bytes);
    }
}
