//! The three backends give the same answers and the same bytes: one script by hand, and random ones from
//! seeds. A difference between them would mean that what the simulator has shown does not hold on a real
//! disk.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotrestart::format::crc::crc32c;
use hotrestart::io::sim::{FaultPlan, SimDisk};
use hotrestart::io::{
    AlignedBuf, Completion, Disk, FileHandle, Fill, IoBuf, IoChoice, IoError, IoErrorClass, IoKind,
    Op, OpenMode, Queue, RegionSlice, SyscallDisk, UringDisk, choose,
};
use tempfile::TempDir;

/// A disk of each kind. io_uring must work where tests run: its absence is a failure, not a skip.
fn disks(root: &Path) -> Vec<(String, Arc<dyn Disk>)> {
    let mut disks: Vec<(String, Arc<dyn Disk>)> = Vec::new();
    let (_, report) = choose(root, IoChoice::Uring).expect("io_uring works on this machine");
    let modes = if report.is_direct { vec![true, false] } else { vec![false] };
    for is_direct in modes {
        let path = |name: &str| {
            let path = root.join(format!("{name}-{is_direct}"));
            std::fs::create_dir(&path).expect("the directory is new");
            path
        };
        let syscall = SyscallDisk::open(&path("syscall"), is_direct).expect("it exists");
        let uring = UringDisk::open(&path("uring"), is_direct).expect("it exists");
        disks.push((format!("syscall, direct {is_direct}"), Arc::new(syscall)));
        disks.push((format!("uring, direct {is_direct}"), Arc::new(uring)));
    }
    let unruly = SimDisk::new(2);
    unruly.set_plan(FaultPlan::unruly());
    disks.push(("sim".to_owned(), Arc::new(SimDisk::new(1))));
    disks.push(("unruly sim".to_owned(), Arc::new(unruly)));
    disks
}

fn pattern(len: usize, seed: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(len);
    buf.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 512) as u8 ^ seed);
    buf
}

fn class(error: &IoError) -> String {
    match &error.class {
        // How much space there is differs between disks.
        IoErrorClass::NoSpace { needed, .. } => {
            format!("{} no space, {needed} needed", error.operation)
        }
        class => format!("{} {} {class:?}", error.operation, error.file),
    }
}

fn outcome<T: std::fmt::Debug>(result: Result<T, IoError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => class(&error),
    }
}

/// Waits for everything in flight and lists the results by token.
fn finish(queue: &mut dyn Queue) -> Vec<Completion> {
    let mut out = Vec::new();
    while queue.in_flight() > 0 {
        queue.wait(Some(Duration::from_secs(10)), &mut out).expect("the queue works");
    }
    out.sort_by_key(|completion| completion.token);
    out
}

fn results(queue: &mut dyn Queue) -> Vec<String> {
    let line = |done: Completion| {
        let crc = done.buf.as_ref().map(|buf| crc32c(buf));
        format!("{}: {} {crc:?}", done.token, outcome(done.result))
    };
    finish(queue).into_iter().map(line).collect()
}

fn read_all(queue: &mut dyn Queue, file: &FileHandle, len: usize) -> Vec<u8> {
    let buf = AlignedBuf::zeroed(len).into();
    queue.submit(0, Op::Read { file: file.clone(), offset: 0, buf, len });
    let done = finish(queue).pop().expect("one operation, one completion");
    assert_eq!(done.result, Ok(len));
    done.buf.expect("a read gives its buffer back").to_vec()
}

fn script(disk: &dyn Disk) -> Vec<String> {
    let mut log = Vec::new();
    let mut queue = disk.queue(8).expect("a queue");
    log.push(format!("{} {}", queue.capacity(), queue.in_flight()));
    let file = disk.create("chunk-0", 256 << 10, Fill::Zero).expect("it is new");
    log.push(outcome(disk.create("chunk-0", 4096, Fill::Zero).map(drop)));
    log.push(outcome(disk.create("chunk-1", 64 << 10, Fill::Allocate).map(drop)));
    log.push(outcome(disk.open("missing", OpenMode::Read).map(drop)));
    log.push(outcome(disk.len(&file)));
    log.push(outcome(disk.sync_dir()));

    // Out of order, of various sizes, one of them from a shared region.
    let slice = RegionSlice::split(pattern(32_768, 3), 12_288).swap_remove(1);
    let writes: [(u64, IoBuf); 4] = [
        (200 << 10, pattern(4096, 1).into()),
        (0, pattern(65_536, 2).into()),
        (128 << 10, slice.into()),
        (255 << 10 & !4095, pattern(4096, 4).into()),
    ];
    for (token, (offset, buf)) in writes.into_iter().enumerate() {
        queue.submit(token as u64, Op::Write { file: file.clone(), offset, buf });
    }
    log.push(queue.in_flight().to_string());
    log.extend(results(&mut *queue));
    queue.submit(9, Op::Flush { file: file.clone() });
    log.extend(results(&mut *queue));

    let reopened = disk.open("chunk-0", OpenMode::Read).expect("it is there");
    let content = read_all(&mut *queue, &reopened, 256 << 10);
    log.push(crc32c(&content).to_string());
    for (token, offset, len) in [(1, 252 << 10, 8192), (2, 1 << 20, 4096), (3, 4096, 4096)] {
        let buf = AlignedBuf::zeroed(16_384).into();
        queue.submit(token, Op::Read { file: reopened.clone(), offset, buf, len });
    }
    let tokens = results(&mut *queue);
    log.extend(tokens.iter().map(|line| line.split(" Some").next().unwrap_or(line).to_owned()));

    // A file whose length is no multiple of 4096, and small files in general.
    log.push(outcome(disk.write_small("manifest.0", &[7; 5000])));
    let odd = disk.open("manifest.0", OpenMode::Read).expect("it was written");
    queue.submit(
        1,
        Op::Read { file: odd, offset: 0, buf: AlignedBuf::zeroed(8192).into(), len: 8192 },
    );
    log.push(outcome(finish(&mut *queue).pop().expect("one").result));
    log.push(outcome(disk.write_small("manifest.0", b"shorter")));
    log.push(outcome(disk.read_small("manifest.0", 100)));
    log.push(outcome(disk.read_small("manifest.0", 6)));
    log.push(outcome(disk.read_small("manifest.1", 100)));
    log.push(outcome(disk.write_small("empty", b"")));
    log.push(outcome(disk.read_small("empty", 0)));

    log.push(outcome(disk.rename("chunk-1", "chunk-2")));
    log.push(outcome(disk.rename("chunk-1", "chunk-3")));
    log.push(outcome(disk.remove("empty")));
    log.push(outcome(disk.remove("empty")));
    log.push(outcome(disk.sync_dir()));
    let fresh = disk.open("chunk-2", OpenMode::ReadWrite).expect("it was renamed");
    log.push(crc32c(&read_all(&mut *queue, &fresh, 64 << 10)).to_string());
    let listed = disk.list().expect("the directory can be read");
    log.extend(listed.iter().map(|entry| format!("{} {}", entry.name, entry.len)));
    log
}

#[test]
fn all_backends_answer_a_script_alike() {
    let root = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test");
    let mut expected: Option<Vec<String>> = None;
    for (name, disk) in disks(root.path()) {
        let log = script(&*disk);
        assert!(log.len() > 30, "{log:?}");
        match &expected {
            None => expected = Some(log),
            Some(expected) => assert_eq!(&log, expected, "{name} differs"),
        }
    }
}

/// A small generator, so that a seed means the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

const FILES: u64 = 3;
const BLOCKS: u64 = 64;

/// Random writes and reads of disjoint places with flushes between the rounds; the log has every result.
fn random_script(disk: &dyn Disk, seed: u64) -> Vec<String> {
    let mut dice = Dice(seed);
    let mut log = Vec::new();
    let mut queue = disk.queue(16).expect("a queue");
    let create = |index| {
        let fill = if index % 2 == 0 { Fill::Zero } else { Fill::Allocate };
        disk.create(&format!("random-{seed}-{index}"), BLOCKS * 4096, fill).expect("it is new")
    };
    let files: Vec<FileHandle> = (0..FILES).map(create).collect();
    for _round in 0..12 {
        for index in 0..FILES {
            let file = &files[index as usize];
            let mut block = dice.below(8);
            while block < BLOCKS && queue.in_flight() < queue.capacity() {
                let len = (1 + dice.below(8)).min(BLOCKS - block) * 4096;
                let (token, offset) = (index * BLOCKS + block, block * 4096);
                let file = file.clone();
                let op = if dice.below(3) == 0 {
                    let (buf, len) = (AlignedBuf::zeroed(len as usize).into(), len as usize);
                    Op::Read { file, offset, buf, len }
                } else {
                    let buf = pattern(len as usize, dice.below(256) as u8).into();
                    Op::Write { file, offset, buf }
                };
                queue.submit(token, op);
                block += len / 4096 + dice.below(12);
            }
        }
        log.extend(results(&mut *queue));
        queue.submit(1000, Op::Flush { file: files[dice.below(FILES) as usize].clone() });
        log.extend(results(&mut *queue));
    }
    for file in &files {
        log.push(crc32c(&read_all(&mut *queue, file, (BLOCKS * 4096) as usize)).to_string());
    }
    log
}

#[test]
fn all_backends_answer_random_scripts_alike() {
    let root = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test");
    let disks = disks(root.path());
    for seed in 0..8 {
        let logs: Vec<_> = disks.iter().map(|(_, disk)| random_script(&**disk, seed)).collect();
        for (log, (name, _)) in logs.iter().zip(&disks) {
            assert_eq!(
                log, &logs[0],
                "{name} differs from {}; replay with seed {seed}",
                disks[0].0
            );
        }
    }
}

#[test]
fn a_wake_is_never_lost_and_a_timeout_ends_a_wait() {
    let root = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test");
    for (name, disk) in disks(root.path()) {
        if disk.kind() == IoKind::Sim {
            continue;
        }
        let mut queue = disk.queue(4).expect("a queue");
        let mut out = Vec::new();
        let start = Instant::now();
        queue.wait(Some(Duration::from_millis(20)), &mut out).expect("the queue works");
        assert!(start.elapsed() >= Duration::from_millis(19), "{name} did not wait");

        // Before the wait, twice; both count as one, so the next wait runs into its timeout.
        queue.waker().wake();
        queue.waker().wake();
        let start = Instant::now();
        queue.wait(Some(Duration::from_secs(20)), &mut out).expect("the queue works");
        assert!(start.elapsed() < Duration::from_secs(10), "{name} lost a wake");
        let start = Instant::now();
        queue.wait(Some(Duration::from_millis(20)), &mut out).expect("the queue works");
        assert!(start.elapsed() >= Duration::from_millis(19), "{name} woke twice for one wake");

        // From another thread, while the wait sleeps, again and again.
        let waker = queue.waker();
        let (woken, woke) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            for () in woke {
                waker.wake();
            }
        });
        for _ in 0..500 {
            woken.send(()).expect("the thread runs until this sender is gone");
            queue.wait(None, &mut out).expect("the queue works");
        }
        drop(woken);
        thread.join().expect("the thread has not panicked");
        assert!(out.is_empty());
    }
}

#[test]
fn a_wake_does_not_hide_completions_nor_they_a_wake() {
    let root = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test");
    for (name, disk) in disks(root.path()) {
        let file = disk.create("f", 1 << 20, Fill::Zero).expect("it is new");
        let mut queue = disk.queue(4).expect("a queue");
        let mut out = Vec::new();
        for round in 0..100_u64 {
            let offset = round % 200 * 4096;
            let op = Op::Write { file: file.clone(), offset, buf: pattern(4096, 1).into() };
            queue.submit(round, op);
            queue.waker().wake();
            while queue.in_flight() > 0 {
                queue.wait(Some(Duration::from_secs(10)), &mut out).expect("the queue works");
            }
        }
        assert_eq!(out.len(), 100, "{name}");
        assert!(out.iter().all(|done| done.result == Ok(4096)), "{name}");
    }
}

#[test]
fn dropping_a_queue_waits_for_what_is_in_flight() {
    let root = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test");
    for (name, disk) in disks(root.path()) {
        let file = disk.create("f", 4 << 20, Fill::Zero).expect("it is new");
        let mut queue = disk.queue(4).expect("a queue");
        for index in 0..4_u64 {
            let buf = AlignedBuf::zeroed(1 << 20).into();
            queue.submit(
                index,
                Op::Read { file: file.clone(), offset: index << 20, buf, len: 1 << 20 },
            );
        }
        queue.poll(&mut Vec::new()).expect("the queue works");
        let waker = queue.waker();
        queue.wait(Some(Duration::ZERO), &mut Vec::new()).expect("the queue works");
        drop(queue);
        waker.wake();
        drop(file);
        assert_eq!(disk.list().expect("the directory can be read").len(), 1, "{name}");
    }
}

#[test]
fn a_failed_creation_leaves_no_file_and_says_what_was_needed() {
    let root = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test");
    for (name, disk) in disks(root.path()) {
        if disk.kind() == IoKind::Sim {
            continue;
        }
        let needed = 1_u64 << 43;
        for fill in [Fill::Allocate, Fill::Zero] {
            let error = disk.create("huge", needed, fill).expect_err("no disk here has 8 TiB free");
            match error.class {
                IoErrorClass::NoSpace { needed: asked, available } => {
                    assert!(
                        asked == needed && available > 0 && available < needed,
                        "{name}: {error}"
                    );
                }
                _ => assert_eq!(error.class, IoErrorClass::Failed, "{name}: {error}"),
            }
            assert!(disk.list().expect("the directory can be read").is_empty(), "{name}");
        }
    }
}

#[test]
fn a_file_system_without_direct_transfers_is_used_through_the_page_cache() {
    let Ok(root) = TempDir::new_in("/dev/shm") else {
        panic!("/dev/shm is part of every Linux that the store runs on");
    };
    for choice in [IoChoice::Auto, IoChoice::Syscall] {
        let (disk, report) = choose(root.path(), choice).expect("tmpfs can be written");
        assert_eq!(report.is_direct, report.direct_refused.is_none());
        assert_eq!(disk.kind() == IoKind::Syscall, choice == IoChoice::Syscall, "{report:?}");
        assert!(
            disk.list().expect("the directory can be read").is_empty(),
            "the probe left a file"
        );
        let file = disk.create(&format!("{choice:?}"), 8192, Fill::Zero).expect("it is new");
        let mut queue = disk.queue(1).expect("a queue");
        assert_eq!(read_all(&mut *queue, &file, 8192), vec![0; 8192]);
        disk.remove(&format!("{choice:?}")).expect("it is there");
    }
}
