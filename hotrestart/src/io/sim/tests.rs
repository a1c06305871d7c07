//! Each fault of the simulated disk really happens, nothing that was made durable is ever lost, and a
//! caller that breaks a rule is stopped. Failures print the seed.

use super::*;
use crate::format::ALIGNMENT;
use crate::io::{AlignedBuf, IoBuf, RegionSlice};

const LEN: u64 = 1 << 20;

fn disk_with_file(seed: u64) -> (SimDisk, FileHandle, Box<dyn Queue>) {
    let disk = SimDisk::new(seed);
    let file = disk.create("f", LEN, Fill::Zero).expect("a new disk takes a file");
    let queue = disk.queue(32).expect("a new disk has queues");
    (disk, file, queue)
}

fn block(byte: u8, len: usize) -> IoBuf {
    let mut buf = AlignedBuf::zeroed(len);
    buf.fill(byte);
    buf.into()
}

fn write(queue: &mut dyn Queue, file: &FileHandle, offset: u64, byte: u8, len: usize) {
    queue.submit(offset, Op::Write { file: file.clone(), offset, buf: block(byte, len) });
}

fn finish(queue: &mut dyn Queue) -> Vec<Completion> {
    let mut out = Vec::new();
    while queue.in_flight() > 0 {
        queue.wait(None, &mut out).expect("the disk is alive");
    }
    out
}

fn flush(queue: &mut dyn Queue, file: &FileHandle) -> Result<usize, IoError> {
    queue.submit(0, Op::Flush { file: file.clone() });
    finish(queue).pop().expect("one completion").result
}

/// Writes sixteen blocks of 4096 bytes, flushes the first eight, and crashes.
fn sixteen_blocks_then(seed: u64, plan: FaultPlan, power: bool) -> Vec<u8> {
    let (disk, file, mut queue) = disk_with_file(seed);
    disk.sync_dir().expect("no fault is planned");
    disk.set_plan(plan);
    for half in [0, 8] {
        for index in half..half + 8 {
            write(&mut *queue, &file, index * 4096, index as u8 + 1, 4096);
        }
        finish(&mut *queue);
        if half == 0 {
            flush(&mut *queue, &file).expect("no fault is planned");
        }
    }
    assert_eq!(disk.unflushed_writes("f"), 8);
    disk.crash(power).content("f").expect("its name was synced")
}

fn unit(content: &[u8], index: usize, len: usize) -> &[u8] {
    &content[index * len..(index + 1) * len]
}

#[test]
fn a_power_loss_takes_some_of_what_was_not_flushed_and_nothing_else() {
    let plan = FaultPlan { tear_permille: 0, ..FaultPlan::default() };
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..20 {
        let content = sixteen_blocks_then(seed, plan.clone(), true);
        for index in 0..16 {
            let block = unit(&content, index, 4096);
            let is_kept = block.iter().all(|byte| *byte == index as u8 + 1);
            let is_lost = block.iter().all(|byte| *byte == 0);
            assert!(is_kept || (is_lost && index >= 8), "seed {seed}, block {index}");
            lost += usize::from(is_lost);
            kept += usize::from(is_kept && index >= 8);
        }
    }
    assert!(lost > 20 && kept > 20, "{lost} lost, {kept} kept");
}

#[test]
fn a_process_death_keeps_everything_that_completed() {
    let content = sixteen_blocks_then(1, FaultPlan::default(), false);
    assert!(
        (0..16)
            .all(|index| unit(&content, index, 4096).iter().all(|byte| *byte == index as u8 + 1))
    );
}

#[test]
fn a_write_is_torn_at_its_unit() {
    for tear_unit in [512, 4096] {
        let plan =
            FaultPlan { lose_permille: 0, tear_permille: 1000, tear_unit, ..FaultPlan::default() };
        let (disk, file, mut queue) = disk_with_file(7);
        disk.sync_dir().expect("no fault is planned");
        flush(&mut *queue, &file).expect("no fault is planned");
        disk.set_plan(plan);
        write(&mut *queue, &file, 0, 9, 65_536);
        finish(&mut *queue);
        let content = disk.crash(true).content("f").expect("its name was synced");
        let units: Vec<&[u8]> = content[..65_536].chunks(tear_unit).collect();
        assert!(units.iter().all(|unit| unit.iter().all(|byte| *byte == unit[0])));
        assert!(units.iter().any(|unit| unit[0] == 9) && units.iter().any(|unit| unit[0] == 0));
    }
}

#[test]
fn names_that_were_not_synced_may_vanish_or_come_back() {
    let (mut created_lost, mut removed_back, mut renamed_back) = (0, 0, 0);
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        disk.write_small("old", b"1").expect("no fault is planned");
        disk.write_small("from", b"2").expect("no fault is planned");
        disk.sync_dir().expect("no fault is planned");
        disk.write_small("new", b"3").expect("no fault is planned");
        disk.remove("old").expect("it is there");
        disk.rename("from", "to").expect("it is there");
        let left = disk.crash(true);
        created_lost += usize::from(left.content("new").is_none());
        removed_back += usize::from(left.content("old").is_some());
        renamed_back += usize::from(left.content("from").is_some());
        let exactly_one = left.content("from").is_some() != left.content("to").is_some();
        assert!(exactly_one, "seed {seed}: a file vanished in a rename");
        assert!(left.content("new").is_none_or(|content| content == b"3"), "seed {seed}");
        disk_survives_sync(&left);
    }
    for count in [created_lost, removed_back, renamed_back] {
        assert!((5..36).contains(&count), "{created_lost} {removed_back} {renamed_back}");
    }
}

fn disk_survives_sync(disk: &SimDisk) {
    let before = disk.list().expect("the new disk is alive");
    disk.sync_dir().expect("the new disk is alive");
    assert_eq!(disk.crash(true).list().expect("alive"), before);
}

#[test]
fn what_was_in_flight_may_be_done_wholly_partly_or_not() {
    let mut seen = [false; 3];
    for seed in 0..40 {
        let (disk, file, mut queue) = disk_with_file(seed);
        disk.hold();
        write(&mut *queue, &file, 0, 5, 16_384);
        assert_eq!(queue.in_flight(), 1);
        let content = disk.crash(false).content("f").expect("the process died, not the machine");
        let written = content.iter().filter(|byte| **byte == 5).count();
        seen[if written == 0 { 0 } else { 1 + usize::from(written == 16_384) }] = true;
        assert!(disk.open("f", OpenMode::Read).is_err(), "the old disk still answers");
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn a_flush_covers_only_what_had_completed_before_it_was_submitted() {
    let (disk, file, mut queue) = disk_with_file(3);
    disk.sync_dir().expect("no fault is planned");
    queue.submit(1, Op::Flush { file: file.clone() });
    write(&mut *queue, &file, 0, 5, 4096);
    finish(&mut *queue);
    assert_eq!(disk.unflushed_writes("f"), 1);
    flush(&mut *queue, &file).expect("no fault is planned");
    assert_eq!(disk.unflushed_writes("f"), 0);
}

#[test]
fn a_failed_flush_drops_the_data_it_should_have_kept() {
    let (disk, file, mut queue) = disk_with_file(3);
    flush(&mut *queue, &file).expect("no fault is planned");
    write(&mut *queue, &file, 0, 5, 4096);
    finish(&mut *queue);
    disk.set_plan(FaultPlan::default().with(IoOperation::Flush, 0, Fault::FlushLosesData));
    let error = flush(&mut *queue, &file).expect_err("it is planned to fail");
    assert!(error.is_of_unknown_extent());
    flush(&mut *queue, &file).expect("the second one says that all is well");
    assert_eq!(disk.content("f").expect("it is there")[0], 0);
}

#[test]
fn interruptions_and_short_transfers_stay_inside_the_queue() {
    for seed in 0..20 {
        let (disk, file, mut queue) = disk_with_file(seed);
        let plan = FaultPlan::unruly()
            .with(IoOperation::Write, 0, Fault::Errno(libc::EINTR))
            .with(IoOperation::Write, 1, Fault::Errno(libc::EAGAIN))
            .with(IoOperation::Write, 2, Fault::Short)
            .with(IoOperation::Read, 0, Fault::Short);
        disk.set_plan(plan);
        write(&mut *queue, &file, 4096, 6, 65_536);
        assert_eq!(finish(&mut *queue)[0].result, Ok(65_536), "seed {seed}");
        let buf = AlignedBuf::zeroed(65_536).into();
        queue.submit(0, Op::Read { file, offset: 4096, buf, len: 65_536 });
        let read = finish(&mut *queue).pop().expect("one completion");
        assert_eq!(read.result, Ok(65_536), "seed {seed}");
        assert!(read.buf.is_some_and(|buf| buf.iter().all(|byte| *byte == 6)), "seed {seed}");
    }
}

#[test]
fn errors_of_the_device_are_failures_of_unknown_extent() {
    for errno in [libc::EIO, libc::ENOSPC] {
        let (disk, file, mut queue) = disk_with_file(3);
        disk.set_plan(FaultPlan::default().with(IoOperation::Write, 1, Fault::Errno(errno)));
        write(&mut *queue, &file, 0, 1, 4096);
        write(&mut *queue, &file, 4096, 2, 4096);
        let done = finish(&mut *queue);
        assert_eq!(done[0].result, Ok(4096));
        let error = done[1].result.clone().expect_err("it is planned to fail");
        assert_eq!((error.errno, error.offset), (Some(errno), 4096));
        assert!(error.is_of_unknown_extent());
    }
}

#[test]
fn a_misdirected_write_says_that_all_is_well() {
    let (disk, file, mut queue) = disk_with_file(3);
    disk.set_plan(FaultPlan::default().with(IoOperation::Write, 0, Fault::Misdirect));
    write(&mut *queue, &file, 8192, 7, 4096);
    assert_eq!(finish(&mut *queue)[0].result, Ok(4096));
    let content = disk.content("f").expect("it is there");
    assert_eq!(content[8192], 0);
    assert_eq!(content.iter().filter(|byte| **byte == 7).count(), 4096);
}

#[test]
fn a_bit_flips_at_rest_and_stays_flipped() {
    let (disk, file, mut queue) = disk_with_file(3);
    disk.sync_dir().expect("no fault is planned");
    flush(&mut *queue, &file).expect("no fault is planned");
    disk.flip_bit("f", 5000, 3);
    assert_eq!(disk.crash(true).content("f").expect("it is there")[5000], 8);
}

#[test]
fn completions_come_in_another_order_and_one_seed_replays_it() {
    let order = |seed: u64| {
        let (disk, file, mut queue) = disk_with_file(seed);
        disk.set_plan(FaultPlan::unruly());
        (0..16).for_each(|index| write(&mut *queue, &file, index * 4096, 1, 4096));
        finish(&mut *queue).iter().map(|done| done.token).collect::<Vec<u64>>()
    };
    assert_ne!(order(1), order(2));
    assert_eq!(order(1), order(1));
    assert!(!order(1).is_sorted());
}

#[test]
fn held_completions_come_one_by_one() {
    let (disk, file, mut queue) = disk_with_file(3);
    disk.hold();
    (0..3).for_each(|index| write(&mut *queue, &file, index * 4096, 1, 4096));
    let mut out = Vec::new();
    for expected in [0, 1, 2, 3] {
        assert!(!disk.is_held_back(), "nobody has asked since");
        queue.wait(None, &mut out).expect("the disk is alive");
        assert_eq!((out.len(), disk.is_held_back()), (expected, expected < 3));
        disk.step(1);
    }
}

#[test]
fn a_full_disk_says_what_was_needed_and_what_there_is() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(10_000));
    disk.create("a", 8192, Fill::Zero).expect("it fits");
    let error = disk.create("b", 4096, Fill::Zero).expect_err("it does not fit");
    assert_eq!(error.class, IoErrorClass::NoSpace { needed: 4096, available: 10_000 - 8192 });
    disk.remove("a").expect("it is there");
    disk.create("b", 4096, Fill::Zero).expect("space has come back");
}

#[test]
#[should_panic(expected = "offset 512 is no multiple")]
fn an_unaligned_offset_is_stopped() {
    let (_disk, file, mut queue) = disk_with_file(1);
    write(&mut *queue, &file, 512, 1, 4096);
}

#[test]
#[should_panic(expected = "length 512 is no multiple")]
fn an_unaligned_length_is_stopped() {
    let (_disk, file, mut queue) = disk_with_file(1);
    write(&mut *queue, &file, 0, 1, 512);
}

#[test]
#[should_panic(expected = "memory is not aligned")]
fn unaligned_memory_is_stopped() {
    let (_disk, file, mut queue) = disk_with_file(1);
    let mut slices = RegionSlice::split(AlignedBuf::zeroed(12_288), 4608);
    let crooked = slices.swap_remove(1);
    queue.submit(0, Op::Read { file, offset: 0, buf: crooked.into(), len: ALIGNMENT });
}

#[test]
#[should_panic(expected = "extends")]
fn a_write_beyond_the_end_of_the_file_is_stopped() {
    let (_disk, file, mut queue) = disk_with_file(1);
    write(&mut *queue, &file, LEN - 4096, 1, 8192);
}

#[test]
#[should_panic(expected = "in flight on the same bytes")]
fn two_writes_of_the_same_bytes_are_stopped() {
    let (_disk, file, mut queue) = disk_with_file(1);
    write(&mut *queue, &file, 0, 1, 8192);
    write(&mut *queue, &file, 4096, 2, 4096);
}

#[test]
#[should_panic(expected = "more than 32 in flight")]
fn an_operation_too_many_is_stopped() {
    let (_disk, file, mut queue) = disk_with_file(1);
    (0..33).for_each(|index| write(&mut *queue, &file, index * 4096, 1, 4096));
}
