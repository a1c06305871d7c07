//! Models of pins, epochs and published guards under loom.
//!
//! Here both sides fence. The asymmetric pin differs in one thing: the system call stands for the reader's fence, and makes
//! the reader's store visible or its later loads new, which is what the two fences together do.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::hazard::Hazards;
use super::pin::Pins;
use crate::ids::Location;

const WHOLE: u64 = 7;
const REUSED: u64 = 0;

/// An index of one word that names a slot, 1 or 2, and the content of both.
struct Store {
    pins: Pins,
    hazards: Hazards,
    index: AtomicU64,
    slots: [AtomicU64; 2],
}

impl Store {
    fn new() -> Arc<Store> {
        Arc::new(Store {
            pins: Pins::new(),
            hazards: Hazards::new(),
            index: AtomicU64::new(1),
            slots: [AtomicU64::new(WHOLE), AtomicU64::new(WHOLE)],
        })
    }

    fn content(&self, slot: u64) -> u64 {
        self.slots[slot as usize - 1].load(Ordering::Relaxed)
    }

    /// Replaces slot 1 by slot 2 and uses it again as soon as that is allowed.
    fn replace_and_reuse(&self) {
        self.index.store(2, Ordering::Release);
        let sealed = self.pins.advance();
        if self.pins.oldest().is_none_or(|pin| pin.epoch > sealed) {
            let mut published = Vec::new();
            self.hazards.collect(&mut published);
            if !published.contains(&1) {
                self.slots[0].store(REUSED, Ordering::Relaxed);
            }
        }
    }
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(check);
}

#[test]
fn a_slot_is_not_used_again_under_a_pin() {
    model(|| {
        let store = Store::new();
        let reader = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                for _ in 0..2 {
                    let _pin = store.pins.pin();
                    let _nested = store.pins.pin();
                    let slot = store.index.load(Ordering::Acquire);
                    assert_eq!(store.content(slot), WHOLE);
                }
            })
        };
        store.replace_and_reuse();
        reader.join().expect("no panic");
    });
}

#[test]
fn between_a_pin_and_its_published_guard_there_is_no_gap() {
    model(|| {
        let store = Store::new();
        let reader = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let pin = store.pins.pin();
                let slot = store.index.load(Ordering::Acquire);
                let guard = store.hazards.publish(Location(slot), 0);
                drop(pin);
                // A later pin must not hide the guard that was published before it.
                let later = store.pins.pin();
                assert_eq!(store.content(slot), WHOLE);
                drop(later);
                assert_eq!(store.content(slot), WHOLE);
                drop(guard);
            })
        };
        store.replace_and_reuse();
        reader.join().expect("no panic");
    });
}

#[test]
fn two_guards_of_one_slot_hold_it_until_both_are_gone() {
    model(|| {
        let store = Store::new();
        let readers = [0, 1].map(|hint| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let pin = store.pins.pin();
                let slot = store.index.load(Ordering::Acquire);
                let guard = store.hazards.publish(Location(slot), hint);
                drop(pin);
                assert_eq!(store.content(slot), WHOLE);
                drop(guard);
            })
        });
        store.replace_and_reuse();
        for reader in readers {
            reader.join().expect("no panic");
        }
    });
}
