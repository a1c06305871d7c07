//! A model of a failed close under loom: a put that completes its record beside the hand-over of the log
//! buffers, in every order that the memory model allows.
//!
//! The ring is the store's own; the stream's lock and the latch for poison (`OnceLock`, which loom has not)
//! are loom's, with the orders of the real ones. The oracle: a put that is acknowledged was whole in the
//! buffers when the directory was let go. Without the lock that the close takes, each of the two may overlook
//! the other's store, which no fence of the put's prevents.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::buffers::layout::Geometry;
use crate::buffers::ring::{First, Ring};
use crate::io::{AlignedBuf, Region};
use crate::sync::{Mutex, lock};

const LEN: usize = 16;

#[test]
fn a_put_that_a_failed_close_overlooks_is_not_acknowledged() {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 50_000;
    builder.check(|| {
        let geometry =
            Geometry { writers: 1, buffers_per_writer: 2, buffer_bytes: 4096, records_max: 2 };
        let region = Region::from_buf(AlignedBuf::zeroed(geometry.file_bytes()));
        let ring = Arc::new(Ring::new(region, geometry, 0, 1 << 20));
        let stream = Arc::new(Mutex::new(()));
        let poisoned = Arc::new(AtomicBool::new(false));
        let putter = {
            let (ring, stream, poisoned) = (ring.clone(), stream.clone(), poisoned.clone());
            thread::spawn(move || {
                let mut room = ring.reserve((LEN, 1), First::May, None, || true).expect("room");
                room.bytes().fill(1);
                let locked = lock(&stream);
                room.commit();
                drop(locked);
                !poisoned.load(Ordering::Acquire)
            })
        };
        poisoned.store(true, Ordering::Release);
        drop(lock(&stream));
        let (_, whole) = ring.handed_out(0);
        let is_acknowledged = putter.join().expect("no panic");
        assert!(!is_acknowledged || whole == 1, "the next opening does not find it");
    });
}
