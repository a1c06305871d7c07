//! `hotrestart-inspect` finds every flipped bit that matters, names file and offset, and does not call
//! the torn tail of a crash corruption; an opening judges alike. The stores are built by the format's own
//! encoders (`build.rs`).

mod build;
mod opening;

use std::path::Path;
use std::process::{Command, Output};

use build::*;
use hotrestart::Store;
use hotrestart::format::crc::crc32c;
use hotrestart::format::manifest::LifeState;
use hotrestart::format::{RecordHeader, StreamId};
use hotrestart::inspect::{InspectError, Options, Report, check};
use tempfile::TempDir;

fn flip(dir: &Path, file: &str, offset: usize) {
    let path = dir.join(file);
    let mut bytes = std::fs::read(&path).expect("the file is there");
    bytes[offset] ^= 0x10;
    std::fs::write(&path, bytes).expect("the file can be written");
}

/// The boot in which the stores here were left ended with the machine.
fn options() -> Options {
    Options::default()
}

fn checked(dir: &Path) -> Report {
    check(dir, &options()).expect("it is a store")
}

fn inspect(arguments: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotrestart-inspect"));
    command.args(arguments).arg(dir).output().expect("the program was built")
}

#[test]
fn a_clean_store_is_sound_and_counted_rightly() {
    let dir = clean_store();
    let report = checked(dir.path());
    assert!(report.is_sound && report.closed_cleanly, "{:?}", report.problems);
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let totals = report.totals;
    assert_eq!((totals.blocks, totals.records), (5, 9));
    assert_eq!((totals.entries, totals.absences), (4, 1));
    assert_eq!(totals.entry_bytes, (1 + 3) + (1 + 4) + (1 + 5000) + (1 + 23));
    let dead = [entry(1, "a", b"old"), entry(4, "c", b"gone")];
    let garbage: usize = dead.iter().map(|(header, _, _)| header.encoded_len()).sum();
    assert_eq!(totals.garbage_bytes, garbage as u64);
    assert_eq!(report.maps[0].entries, 4);
    assert_eq!(report.chunks[0].blocks, Some((0, 2)));
    assert!(report.chunks[0].is_sealed && !report.chunks[1].is_sealed);
}

#[test]
fn after_a_clean_close_every_damaged_byte_is_found_where_it_is() {
    let whole = clean_store();
    let sizes: Vec<(String, usize, usize)> = [
        // File, and the range of bytes that count.
        ("manifest.0", 0..manifest(2, LifeState::Cut, vec![4, 1], true).encode().len()),
        ("manifest.1", 0..100),
        ("chunk-00000000", 0..4096),
        ("chunk-00000000", 4096..4096 + 64 + 36),
        ("chunk-00000000", 8192..8192 + 64 + 50),
        ("chunk-00000000", 12_288..12_288 + 64 + 100),
        ("chunk-00000001", 4096..4096 + 64 + 5000),
        ("chunk-00000002", 4096..4096 + 64 + 60),
    ]
    .into_iter()
    .map(|(file, range): (&str, std::ops::Range<usize>)| (file.to_owned(), range.start, range.end))
    .collect();
    for (file, start, end) in sizes {
        for offset in (start..end).step_by(1 + (end - start) / 40) {
            flip(whole.path(), &file, offset);
            let report = checked(whole.path());
            assert!(!report.is_sound, "{file} at {offset}");
            let near = |offset: usize| (start as u64..end as u64).contains(&(offset as u64));
            let named = report
                .problems
                .iter()
                .any(|problem| problem.file == file && near(problem.offset as usize));
            assert!(named, "{file} at {offset}: {:?}", report.problems);
            flip(whole.path(), &file, offset);
        }
    }
    assert!(checked(whole.path()).is_sound, "the flips were taken back");
}

#[test]
fn bytes_outside_of_valid_blocks_may_change() {
    let dir = clean_store();
    for (file, offset) in
        [("chunk-00000000", 8191), ("chunk-00000001", 100_000), ("chunk-00000003", 9000)]
    {
        flip(dir.path(), file, offset);
    }
    assert!(checked(dir.path()).is_sound);
}

#[test]
fn a_missing_chunk_is_noticed() {
    let dir = clean_store();
    std::fs::remove_file(dir.path().join("chunk-00000001")).expect("it is there");
    let report = checked(dir.path());
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(report.problems[0].expected.contains("block 0 of writer 1 of life 1"));
}

#[test]
fn a_missing_part_is_noticed() {
    let dir = clean_store();
    let mut third = ChunkWriter::new(3, 1, 0, 3);
    third.block(&[head(6, "e", b"first half, second half", 2)]);
    std::fs::write(dir.path().join("chunk-00000002"), third.bytes).expect("it can be written");
    let report = checked(dir.path());
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(report.problems[0].found.contains("1 part and"), "{:?}", report.problems);
}

#[test]
fn a_record_that_went_bad_before_it_was_sealed_is_noticed() {
    let dir = clean_store();
    let mut second = ChunkWriter::new(2, 1, 1, 0);
    let (header, key, value) = entry(7, "d", b"good");
    second.block(&[(RecordHeader { body_crc: 1, ..header }, key, value), absence(5, "c")]);
    std::fs::write(dir.path().join("chunk-00000001"), second.bytes).expect("it can be written");
    let report = checked(dir.path());
    assert!(report.problems[0].expected.starts_with("body checksum"), "{:?}", report.problems);
    assert_eq!(report.problems[0].offset, 4096 + 64);
}

#[test]
fn a_torn_tail_is_a_note_and_damage_below_the_mark_is_corruption() {
    let dir = crashed_store();
    assert!(checked(dir.path()).is_sound);
    let payload = |block: usize| 4096 + block * 4096 + 70;
    for (block, is_sound) in [(0, false), (1, false), (2, true), (3, true)] {
        flip(dir.path(), "chunk-00000000", payload(block));
        let report = checked(dir.path());
        assert_eq!(report.is_sound, is_sound, "block {block}: {:?}", report.problems);
        if block == 2 {
            let note = report.notes.iter().find(|note| note.contains("torn tail"));
            assert!(note.is_some_and(|note| note.contains("1 block is void")));
            assert_eq!(report.totals.entries, 2);
        }
        if !is_sound {
            assert_eq!(report.problems[0].offset, 4096 + 4096 * block as u64);
        }
        flip(dir.path(), "chunk-00000000", payload(block));
    }
}

#[test]
fn one_damaged_block_is_not_reported_once_per_table() {
    let dir = TempDir::new().expect("a directory for the test");
    let mut chunk = ChunkWriter::new(1, 1, 0, 0);
    for seq in 1..=2 {
        let in_stream = |stream| {
            let (header, key, value) = entry(seq, "a", b"value");
            (RecordHeader { stream: StreamId(stream), ..header }, key, value)
        };
        chunk.block(&[in_stream(0), in_stream(1), in_stream(2), in_stream(3)]);
    }
    std::fs::write(dir.path().join("chunk-00000000"), chunk.close()).expect("it can be written");
    write_manifest(dir.path(), &manifest(1, LifeState::Cut, vec![3], true));
    assert!(checked(dir.path()).is_sound, "before the damage");
    flip(dir.path(), "chunk-00000000", 4096 + 70);
    let problems = checked(dir.path()).problems;
    assert_eq!(problems.len(), 2, "the block, and what the directory says is lost: {problems:?}");
    assert!(problems[1].expected.contains("8 records") && problems[1].found.contains('4'));
}

#[test]
fn a_misplaced_block_is_noticed() {
    let dir = crashed_store();
    let path = dir.path().join("chunk-00000000");
    let mut bytes = std::fs::read(&path).expect("it is there");
    bytes.copy_within(4096..8192, 20_480);
    std::fs::write(&path, bytes).expect("it can be written");
    let report = checked(dir.path());
    assert_eq!((report.problems.len(), report.problems[0].offset), (1, 20_480));
}

#[test]
fn the_program_tells_sound_corrupt_and_usage_apart() {
    let dir = clean_store();
    let json = dir.path().join("report");
    let json = json.to_str().expect("the test's paths are UTF-8");
    let output = inspect(&["check", "--json", json], dir.path());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(json).expect("it was written")).expect("it is JSON");
    assert_eq!(report["totals"]["entries"], 4);
    assert_eq!(report["is_sound"], true);

    let listed = String::from_utf8(inspect(&["list"], dir.path()).stdout).expect("it is UTF-8");
    assert!(listed.contains("chunk-00000002") && listed.contains("bench"), "{listed}");
    let dumped = String::from_utf8(inspect(&["dump"], dir.path()).stdout).expect("it is UTF-8");
    assert_eq!(dumped.lines().count(), 9, "{dumped}");
    assert!(dumped.contains("absence map 1 stream 0 seq 5 key \"c\""), "{dumped}");
    assert!(dumped.contains("... (5000 bytes)"), "{dumped}");
    assert_eq!(inspect(&["dump", "--map", "1"], dir.path()).status.code(), Some(0));
    let none = inspect(&["dump", "--map", "99"], dir.path());
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no map 99"));
    let full = inspect(&["dump", "--full"], dir.path()).stdout;
    assert!(full.len() > 5000 * 2, "{}", full.len());

    flip(dir.path(), "chunk-00000000", 4170);
    let corrupt = inspect(&["check"], dir.path());
    assert_eq!(corrupt.status.code(), Some(1));
    let text = String::from_utf8(corrupt.stdout).expect("it is UTF-8");
    assert!(text.contains("corrupt: chunk-00000000 at 4096"), "{text}");

    assert_eq!(inspect(&["check", "--no-such-flag"], dir.path()).status.code(), Some(2));
    let empty = TempDir::new().expect("a directory for the test");
    let output = inspect(&["check"], empty.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a store"));
    assert_eq!(inspect(&["list"], &empty.path().join("missing")).status.code(), Some(2));
}

#[test]
fn a_store_that_a_process_has_open_is_refused_and_never_called_corrupt() {
    let dir = clean_store();
    let store = Store::builder().memory_limit_bytes(64 << 20).open(dir.path()).expect("opens");
    for command in ["check", "list", "dump"] {
        let refused = inspect(&[command], dir.path());
        assert_eq!(refused.status.code(), Some(2), "{command}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("a running process has this store open"), "{said}");
        assert_ne!(inspect(&[command, "--live"], dir.path()).status.code(), Some(2), "{command}");
    }
    store.close().expect("closed");
    assert_eq!(inspect(&["check"], dir.path()).status.code(), Some(0));
}

#[test]
fn nothing_in_the_store_is_written() {
    let dir = clean_store();
    let state = || {
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .expect("it can be read")
            .map(|entry| {
                let entry = entry.expect("it can be read");
                let metadata = entry.metadata().expect("it can be read");
                (entry.file_name(), metadata.len(), metadata.modified().expect("Linux knows"))
            })
            .collect();
        files.sort();
        files
    };
    let before = state();
    for command in ["check", "list", "dump"] {
        assert_eq!(inspect(&[command], dir.path()).status.code(), Some(0));
    }
    assert_eq!(state(), before);
}

#[test]
fn a_newer_store_is_refused_and_a_lost_manifest_is_corruption() {
    let dir = clean_store();
    let mut newer = manifest(4, LifeState::Cut, vec![4, 1], true).encode();
    newer[8] = 2;
    newer[32..36].fill(0);
    let crc = crc32c(&newer);
    newer[32..36].copy_from_slice(&crc.to_le_bytes());
    let path = dir.path().join("manifest.0");
    std::fs::write(&path, newer).expect("it can be written");
    let refused = check(dir.path(), &options()).expect_err("version 2 is not known");
    assert!(
        matches!(&refused, InspectError::Refused { reason, .. } if reason.contains("version 2"))
    );

    std::fs::remove_file(path).expect("it is there");
    std::fs::remove_file(dir.path().join("manifest.1")).expect("it is there");
    let report = checked(dir.path());
    assert!(!report.is_sound);
    let listed = inspect(&["list"], dir.path());
    assert_eq!(listed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("expected a manifest"));
}
