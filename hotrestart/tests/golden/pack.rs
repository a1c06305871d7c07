//! A store's directory as one small file: names, lengths, and bytes without their long stretches of zeros.
//!
//! Invariant: unpacking gives every file back byte for byte. A pack is `HDGOLD1` and LF, then for each file
//! in the order of the names: length of the name (2), name, length of the file (8), count of stretches (4),
//! and for each stretch its zeros (4), the count of bytes after them (4) and those bytes; what is left of the
//! file is zeros. All integers are little-endian. Chunks are mostly zeros, so this is all that is needed to
//! keep the golden files small.

use std::collections::BTreeMap;
use std::path::Path;

const MAGIC: &[u8] = b"HDGOLD1\n";
/// Fewer zeros than this are no stretch of their own.
const ZEROS_MIN: usize = 16;

/// The files of a directory, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The files of a store's directory. The lock is made anew by each opening.
pub fn read(directory: &Path) -> Files {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let named = entries.map(|entry| {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("names are ASCII");
        (name, std::fs::read(entry.path()).expect("readable"))
    });
    named.filter(|(name, _)| name != "lock").collect()
}

/// Writes the files into a directory.
pub fn write(files: &Files, directory: &Path) {
    for (name, bytes) in files {
        std::fs::write(directory.join(name), bytes).expect("writable");
    }
}

pub fn pack(files: &Files) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for (name, bytes) in files {
        out.extend((name.len() as u16).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend((bytes.len() as u64).to_le_bytes());
        let stretches = stretches(bytes);
        out.extend((stretches.len() as u32).to_le_bytes());
        let mut at = 0;
        for (from, to) in stretches {
            out.extend(((from - at) as u32).to_le_bytes());
            out.extend(((to - from) as u32).to_le_bytes());
            out.extend(&bytes[from..to]);
            at = to;
        }
    }
    out
}

/// Where there is something between the zeros.
fn stretches(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for at in (0..bytes.len()).filter(|at| bytes[*at] != 0) {
        match found.last_mut() {
            Some((_, to)) if at - *to < ZEROS_MIN => *to = at + 1,
            _ => found.push((at, at + 1)),
        }
    }
    found
}

pub fn unpack(packed: &[u8]) -> Files {
    let mut rest = packed.strip_prefix(MAGIC).expect("a pack");
    let mut files = Files::new();
    while !rest.is_empty() {
        let name_len = number(&mut rest, 2);
        let name = String::from_utf8(take(&mut rest, name_len).to_vec()).expect("names are ASCII");
        let mut bytes = vec![0; number(&mut rest, 8)];
        let mut at = 0;
        for _ in 0..number(&mut rest, 4) {
            at += number(&mut rest, 4);
            let len = number(&mut rest, 4);
            bytes[at..at + len].copy_from_slice(take(&mut rest, len));
            at += len;
        }
        files.insert(name, bytes);
    }
    files
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(len);
    *rest = left;
    taken
}

fn number(rest: &mut &[u8], len: usize) -> usize {
    take(rest, len).iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

#[test]
fn a_pack_gives_every_byte_back() {
    let mut files = Files::new();
    files.insert("empty".to_owned(), Vec::new());
    files.insert("zeros".to_owned(), vec![0; 5_000]);
    let mixed = (0..20_000_u32).map(|at| if at % 700 < 90 { at as u8 } else { 0 });
    files.insert("mixed".to_owned(), mixed.collect());
    files.insert("full".to_owned(), vec![7; 300]);
    let packed = pack(&files);
    assert!(packed.len() < 6_000, "{} bytes", packed.len());
    assert!(unpack(&packed) == files);
}
