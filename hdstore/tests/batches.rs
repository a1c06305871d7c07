//! Many puts in one call: each stands for itself.
//!
//! Hazard: one that is refused takes those before it along, or the caller is told another number of them than
//! were done.

use std::borrow::Cow;

use hdstore::codec::{Bytes, Codec, U64};
use hdstore::{Error, MapOptions, Store};

/// Numbers, of which one has no encoding.
enum AllButOne {}

const NONE: u64 = 1_000;

impl Codec for AllButOne {
    type Encode = u64;
    type Decoded<'a> = u64;
    type Owned = u64;

    fn name() -> String {
        "all but one".to_owned()
    }

    fn encode(value: &u64) -> Result<Cow<'_, [u8]>, Error> {
        match *value {
            NONE => Err(Error::Codec { codec: "all but one", reason: "it has none".to_owned() }),
            _ => U64::encode(value),
        }
    }

    fn decode(bytes: &[u8]) -> Result<u64, Error> {
        U64::decode(bytes)
    }

    fn decode_owned(bytes: &[u8]) -> Result<u64, Error> {
        U64::decode_owned(bytes)
    }
}

#[test]
fn a_key_that_cannot_be_encoded_ends_many_puts_after_all_before_it_and_says_how_many() {
    // In the first, in the middle of a group of sixteen, at both of its ends, and last.
    for bad in [0, 1, 15, 16, 17, 31, 32, 39] {
        let store = Store::builder().memory_limit_bytes(64 << 20).in_memory().expect("a store");
        let map = store.map::<AllButOne, Bytes>("m", MapOptions::default()).expect("a map");
        let keys: Vec<u64> = (0..40).map(|key| if key == bad { NONE } else { key }).collect();
        let entries: Vec<(&u64, &[u8])> = keys.iter().map(|key| (key, &b"value"[..])).collect();
        let error = map.put_many(&entries).expect_err("one has no encoding");
        assert!(matches!(error.source, Error::Codec { .. }), "{error}");
        assert_eq!(error.done as u64, bad);
        assert_eq!(map.len(), bad);
        assert!((0..bad).all(|key| map.contains_key(&key).expect("readable")));
    }
}
