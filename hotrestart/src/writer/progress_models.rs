//! Models of the commit's hand-off under loom: waiters, blocked or tasks, against the writer that raises
//! the watermarks, and against poison.
//!
//! A wake that is lost is a deadlock here, since loom's clock never strikes. The oracle: who is told that a
//! turn is written or flushed must see everything that the writer did before it said so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering as StdOrdering};
use std::task::{Wake, Waker};

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

use super::progress::Progress;
use crate::durability::Durability;

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 50_000;
    builder.preemption_bound.get_or_insert(3);
    builder.check(check);
}

/// A progress, and what the device holds: raised by the writer before its watermark, without an order of
/// its own.
struct Bench {
    progress: Progress,
    on_device: AtomicU64,
    flushed: AtomicU64,
    poisoned: AtomicBool,
}

impl Bench {
    fn new() -> Arc<Bench> {
        Arc::new(Bench {
            progress: Progress::default(),
            on_device: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
        })
    }

    fn write(&self, turns: u64) {
        self.on_device.store(turns, Ordering::Relaxed);
        self.progress.set_written(turns);
    }

    fn flush(&self, turns: u64) {
        self.flushed.store(turns, Ordering::Relaxed);
        self.progress.set_flushed(turns);
    }

    /// Blocks until a turn has got that far; false when poison came first.
    fn wait(&self, turn: u64, level: Durability) -> bool {
        let stop = || self.poisoned.load(Ordering::Acquire);
        let reached = self.progress.wait(turn, level, None, stop);
        if reached {
            self.check(turn, level);
        }
        reached
    }

    fn check(&self, turn: u64, level: Durability) {
        let device = match level {
            Durability::Synced => &self.flushed,
            _ => &self.on_device,
        };
        assert!(device.load(Ordering::Relaxed) > turn, "acknowledged before it was there");
    }
}

#[test]
fn no_waiter_sleeps_through_its_watermark_whatever_the_others_wait_for() {
    model(|| {
        let bench = Bench::new();
        let waiters = [Durability::Written, Durability::Synced].map(|level| {
            let bench = Arc::clone(&bench);
            thread::spawn(move || assert!(bench.wait(0, level)))
        });
        bench.write(1);
        bench.flush(1);
        for waiter in waiters {
            waiter.join().expect("no panic");
        }
    });
}

#[test]
fn a_waiter_is_told_of_poison_when_its_watermark_never_comes() {
    model(|| {
        let bench = Bench::new();
        let waiter = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || assert!(!bench.wait(1, Durability::Written)))
        };
        bench.write(1);
        bench.poisoned.store(true, Ordering::Release);
        bench.progress.notify();
        waiter.join().expect("no panic");
    });
}

struct Count(StdAtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, StdOrdering::Relaxed);
    }
}

#[test]
fn a_task_that_registers_while_the_watermark_moves_sees_it_or_is_woken() {
    model(|| {
        let bench = Bench::new();
        let writer = {
            let bench = Arc::clone(&bench);
            thread::spawn(move || bench.write(1))
        };
        // As `store/waiters.rs` polls: look, register, look again.
        let count = Arc::new(Count(StdAtomicU64::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut seen = bench.progress.reached(0, Durability::Written);
        if !seen {
            bench.progress.register(None, &waker);
            seen = bench.progress.reached(0, Durability::Written);
        }
        if seen {
            bench.check(0, Durability::Written);
        }
        writer.join().expect("no panic");
        assert!(seen || count.0.load(StdOrdering::Relaxed) > 0, "nobody would poll it again");
    });
}

#[test]
fn a_turn_that_two_want_is_news_to_the_writer_exactly_once() {
    model(|| {
        let bench = Bench::new();
        let news = Arc::new(StdAtomicU64::new(0));
        let wanting = [0, 1].map(|_| {
            let (bench, news) = (Arc::clone(&bench), Arc::clone(&news));
            thread::spawn(move || {
                if bench.progress.want(4, Durability::Synced) {
                    news.fetch_add(1, StdOrdering::Relaxed);
                }
            })
        });
        for thread in wanting {
            thread.join().expect("no panic");
        }
        assert_eq!(news.load(StdOrdering::Relaxed), 1);
        assert_eq!((bench.progress.wanted_written(), bench.progress.wanted_flushed()), (5, 5));
    });
}
