//! Golden files of version 1: whole directories of stores as that version wrote them, opened by the code of
//! today.
//!
//! Hazard: the format on disk is frozen, and a change of the code writes or reads it otherwise, so that the
//! stores of those who trust it do not open, or open with something else. `docs/format.md`, section 12, says
//! what frozen means.
//!
//! `v1/NAME.pack` has the files of a store (`pack.rs`), `v1/NAME.txt` what it must hold. They were made once
//! (`generate.rs`, `stores.rs`) and are never made again; their checksums stand below, so that nobody does by
//! mistake. `HOTRESTART_GOLDEN_OUT=DIR cargo nextest run -p hotrestart -E 'test(generator)'` writes what a
//! next version would begin with into an empty directory.

mod coverage;
mod generate;
mod listing;
mod pack;
mod stores;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hotrestart::format::BootId;
use hotrestart::format::crc::crc32c;
use hotrestart::inspect::{self, Options};
use hotrestart::{Builder, Store};

use crate::pack::Files;
use crate::stores::{Made, STORES};

/// By store, CRC-32C of its pack and of its text. Version 1 is as it is: a mismatch is mended by restoring
/// the file, never by writing another number here.
const CHECKSUMS: [(&str, u32, u32); 5] = [
    ("clean", 0x1c53_354c, 0xd8a1_f61c),
    ("compacted", 0x26ba_d110, 0x2f10_f7f0),
    ("interrupted", 0x69ee_b09a, 0x7306_bf13),
    ("torn", 0xa3e1_f9fd, 0xfef5_b158),
    ("buffers", 0x8052_5845, 0xad63_76e1),
];
/// All packs and texts of the version together.
const BYTES_MAX: usize = 1 << 20;
/// Separates what a store holds in another boot from what it holds in the same one.
const SAME_BOOT: &str = "in the same boot";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)
}

fn read(name: &str) -> Vec<u8> {
    let path = golden(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a golden store must hold, in another boot and in the same one.
fn expected(name: &str) -> (Vec<String>, Option<Vec<String>>) {
    let text = String::from_utf8(read(&format!("{name}.txt"))).expect("text");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match lines.iter().position(|line| line == SAME_BOOT) {
        Some(at) => (lines[..at].to_vec(), Some(lines[at + 1..].to_vec())),
        None => (lines, None),
    }
}

fn builder(home: &Path) -> Builder {
    Store::builder().memory_limit_bytes(32 << 20).writers(1).buffers_dir(home)
}

fn check_sound(directory: &Path, buffers: &Path, when: &str) {
    let options = Options { buffers_dir: buffers.to_owned(), ..Options::default() };
    let report = inspect::check(directory, &options).expect("a store");
    assert!(report.is_sound, "{when}: {:#?}", report.problems);
    assert_eq!(report.totals.copies, 0, "{when}");
}

/// Unpacks a store, judges it offline, opens it, and opens it again: by turns after a crash and a close. What
/// it holds is the same each time.
fn open_again_and_again(files: &Files, name: &str) -> (Vec<String>, tempfile::TempDir) {
    let home = tempfile::tempdir().expect("a directory");
    let (directory, buffers) = (home.path().join("store"), home.path().join("buffers"));
    std::fs::create_dir(&directory).expect("a directory");
    std::fs::create_dir(&buffers).expect("a directory");
    pack::write(files, &directory);
    check_sound(&directory, &buffers, name);
    let mut first: Option<Vec<String>> = None;
    for opening in 0..4 {
        let when = format!("{name}, opening {opening}");
        let store = builder(&buffers).open(&directory);
        let store = store.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!(store.recovery().problems.len(), 0, "{when}: {:?}", store.recovery());
        let lines = listing::of_store(&store, &directory);
        match &first {
            Some(first) => assert_eq!(&lines, first, "{when}"),
            None => first = Some(lines),
        }
        if opening % 2 == 0 {
            store.abandon();
        } else {
            store.close().expect("a clean close");
        }
        check_sound(&directory, &buffers, &when);
    }
    (first.expect("it was opened"), home)
}

/// The boot of the machine that runs this.
fn this_boot() -> BootId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    BootId(u128::from_str_radix(&digits, 16).expect("a number").to_be_bytes())
}

#[test]
fn golden_files_of_version_1_are_those_that_version_1_wrote() {
    let mut bytes = 0;
    for (name, of_pack, of_text) in CHECKSUMS {
        let (packed, text) = (read(&format!("{name}.pack")), read(&format!("{name}.txt")));
        bytes += packed.len() + text.len();
        let found = (crc32c(&packed), crc32c(&text));
        assert_eq!(found, (of_pack, of_text), "{name}: expected on the right; restore the files");
    }
    assert!(bytes < BYTES_MAX, "{bytes} bytes");
    assert_eq!(CHECKSUMS.map(|(name, ..)| name), STORES.map(|(name, _)| name));
}

#[test]
fn stores_of_version_1_open_with_exactly_what_they_held_and_do_so_again() {
    for (name, ..) in CHECKSUMS {
        let files = pack::unpack(&read(&format!("{name}.pack")));
        let (lines, _) = open_again_and_again(&files, name);
        assert_eq!(lines, expected(name).0, "{name}");
    }
}

#[test]
fn log_buffers_of_version_1_give_everything_back_in_the_boot_that_left_them() {
    let mut with_more = 0;
    for (name, ..) in CHECKSUMS {
        let Some(of_same_boot) = expected(name).1 else { continue };
        with_more += 1;
        let mut files = pack::unpack(&read(&format!("{name}.pack")));
        generate::set_boot(&mut files, this_boot());
        let (lines, _) = open_again_and_again(&files, name);
        assert_eq!(lines, of_same_boot, "{name}");
    }
    assert!(with_more > 0, "no store has log buffers");
}

#[test]
fn golden_files_of_version_1_have_all_that_version_1_can_write() {
    let mut found = BTreeSet::new();
    for (name, ..) in CHECKSUMS {
        coverage::of_files(&pack::unpack(&read(&format!("{name}.pack"))), &mut found);
    }
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, coverage::EVERYTHING);
}

/// Of what was made: its lines, judged by its model.
fn text_of(name: &str, made: &Made) -> String {
    let lines_of = |files: &Files, model: &listing::Model| {
        let (lines, home) = open_again_and_again(files, name);
        let directory = home.path().join("store");
        let store = builder(home.path()).open(&directory).expect("it opens");
        listing::check_model(&store, &lines, model);
        lines
    };
    let mut lines = lines_of(&made.files, &made.model);
    if let Some(more) = &made.in_same_boot {
        let mut files = made.files.clone();
        generate::set_boot(&mut files, this_boot());
        lines.push(SAME_BOOT.to_owned());
        lines.extend(lines_of(&files, more));
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_generator_of_golden_stores_makes_them_whole_and_never_replaces_one() {
    let out = std::env::var_os("HOTRESTART_GOLDEN_OUT").map(PathBuf::from);
    if let Some(out) = &out {
        let is_empty = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
        assert!(is_empty, "{} is no empty directory", out.display());
    }
    let mut found = BTreeSet::new();
    for (name, make) in STORES {
        let home = || tempfile::tempdir().expect("a directory");
        let (first, second) = (home(), home());
        let made = make(first.path());
        assert!(made.files == make(second.path()).files, "{name}: another store each time");
        let text = text_of(name, &made);
        coverage::of_files(&made.files, &mut found);
        let packed = pack::pack(&made.files);
        assert!(pack::unpack(&packed) == made.files, "{name}");
        println!("{name}: {} bytes, {} lines", packed.len(), text.lines().count());
        if let Some(out) = &out {
            let (of_pack, of_text) = (crc32c(&packed), crc32c(text.as_bytes()));
            println!("(\"{name}\", {of_pack:#010x}, {of_text:#010x}),");
            std::fs::write(out.join(format!("{name}.pack")), packed).expect("writable");
            std::fs::write(out.join(format!("{name}.txt")), text).expect("writable");
        }
    }
    let missing: Vec<_> =
        coverage::EVERYTHING.iter().filter(|what| !found.contains(**what)).collect();
    assert!(missing.is_empty(), "not made: {missing:?}; made: {found:?}");
}
