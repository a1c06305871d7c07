//! Models of pins, epochs and published guards under loom.
//!
//! Here both sides fence. The asymmetric pin differs in one thing: the system call stands for the reader's
//! fence, and makes the reader's store visible or its later loads new, which is what the two fences together
//! do.
#![allow(unsafe_code)] // a cell that loom watches is shared between threads; docs/unsafe.md

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::hazard::Hazards;
use super::pin::Pins;
use crate::ids::Location;

/// The content of a slot: loom fails when it is written while it is read, or without an order between the
/// two.
struct Slot(UnsafeCell<()>);

// SAFETY: the cell is never looked into; loom judges the accesses.
unsafe impl Sync for Slot {}

impl Slot {
    fn read(&self) {
        self.0.with(|_| ());
    }

    fn write(&self) {
        self.0.with_mut(|_| ());
    }
}

/// An index of one word that names a slot, 1 or 2, and both slots.
struct Store {
    pins: Pins,
    hazards: Hazards,
    index: AtomicU64,
    slots: [Slot; 2],
}

impl Store {
    fn new() -> Arc<Store> {
        Arc::new(Store {
            pins: Pins::new(),
            hazards: Hazards::new(),
            index: AtomicU64::new(1),
            slots: [Slot(UnsafeCell::new(())), Slot(UnsafeCell::new(()))],
        })
    }

    fn read(&self, slot: u64) {
        self.slots[slot as usize - 1].read();
    }

    /// Replaces slot 1 by slot 2 and uses it again as soon as that is allowed.
    fn replace_and_reuse(&self) {
        self.slots[1].write();
        self.index.store(2, Ordering::Release);
        let sealed = self.pins.advance();
        if self.pins.oldest().is_none_or(|pin| pin.epoch > sealed) {
            let mut published = Vec::new();
            self.hazards.collect(&mut published);
            if !published.contains(&1) {
                self.slots[0].write();
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
                    store.read(slot);
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
                store.read(slot);
                drop(later);
                store.read(slot);
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
                store.read(slot);
                drop(guard);
            })
        });
        store.replace_and_reuse();
        for reader in readers {
            reader.join().expect("no panic");
        }
    });
}
