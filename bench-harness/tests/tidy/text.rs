//! Rules about lines: how long files and lines are, what they begin with, which words do not occur.

use crate::tree::{files, none};

const LINES_MOST: usize = 500;
const COLUMNS_MOST: usize = 110;
const PROSE_COLUMNS_MOST: usize = 120;

#[test]
fn no_file_grows_beyond_what_one_reads_at_a_sitting() {
    let mut findings = Vec::new();
    for file in files(".rs") {
        let lines = file.text.lines().count();
        if lines > LINES_MOST {
            findings.push(format!("{}: {lines} lines, at most {LINES_MOST}", file.path));
        }
    }
    none("a file has one duty", findings);
}

#[test]
fn no_line_runs_out_of_the_window() {
    let mut findings = Vec::new();
    for file in files(".rs") {
        for (number, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MOST {
                findings.push(format!("{}:{}: {columns} columns", file.path, number + 1));
            }
        }
    }
    none("lines have at most 110 columns", findings);
}

#[test]
fn no_paragraph_of_a_document_runs_out_of_the_window() {
    let mut findings = Vec::new();
    for file in files(".md") {
        for (number, columns) in long_prose(&file.text) {
            findings.push(format!("{}:{number}: {columns} columns", file.path));
        }
    }
    none("prose has at most 120 columns", findings);
}

/// Lines of prose that are too long, with their columns. Tables and code cannot be wrapped.
fn long_prose(text: &str) -> Vec<(usize, usize)> {
    let mut is_code = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        is_code ^= line.starts_with("```");
        let columns = line.chars().count();
        if columns > PROSE_COLUMNS_MOST && !is_code && !line.starts_with('|') {
            found.push((number + 1, columns));
        }
    }
    found
}

#[test]
fn long_prose_is_told_from_tables_and_code() {
    let long = "x".repeat(PROSE_COLUMNS_MOST + 1);
    let text = format!("short\n{long}\n| {long} |\n```\n{long}\n```\n{long}\n");
    assert_eq!(long_prose(&text), [(2, long.len()), (7, long.len())]);
}

#[test]
fn no_lookalike_characters_hide_in_code() {
    let mut findings = Vec::new();
    for file in files(".rs") {
        for (number, line) in file.text.lines().enumerate() {
            if !line.is_ascii() || line.contains('\t') || line.ends_with(' ') {
                findings.push(format!(
                    "{}:{}: not ASCII, a TAB, or a space at the end",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    none("code is ASCII without TABs", findings);
}

#[test]
fn no_file_leaves_its_duty_unsaid() {
    let mut findings = Vec::new();
    for file in files(".rs") {
        if !file.text.starts_with("//! ") {
            findings.push(format!("{} does not begin with a //! header", file.path));
        }
    }
    none("every file says what it is", findings);
}

#[test]
fn nothing_unfinished_is_left_behind() {
    // Spelt in parts, so that this file does not find itself.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["for", " now"],
        ["simpl", "ified"],
        ["place", "holder"],
        ["todo", "!("],
        ["unimple", "mented!"],
        ["dbg", "!("],
    ]
    .map(|parts| parts.concat());
    let mut findings = Vec::new();
    for file in files(".rs") {
        for (number, line) in file.text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                findings.push(format!("{}:{}: '{word}'", file.path, number + 1));
            }
        }
    }
    none("the real thing, whole", findings);
}

#[test]
fn no_test_is_switched_off() {
    let mark = ["#[ign", "ore"].concat();
    let mut findings = Vec::new();
    for file in files(".rs") {
        for (number, line) in file.text.lines().enumerate() {
            if line.trim_start().starts_with(&mark) {
                findings.push(format!("{}:{}", file.path, number + 1));
            }
        }
    }
    none("a test that is never run protects nothing", findings);
}

/// Whether a line is what `git merge` leaves where two sides disagree.
fn is_mark_of_a_merge(line: &str) -> bool {
    let marks = ["<", ">", "|"].map(|sign| sign.repeat(7) + " ");
    marks.iter().any(|mark| line.starts_with(mark.as_str()))
}

#[test]
fn no_merge_left_its_marks() {
    let mut findings = Vec::new();
    for file in files("") {
        for (number, _) in
            file.text.lines().enumerate().filter(|(_, line)| is_mark_of_a_merge(line))
        {
            findings.push(format!("{}:{}", file.path, number + 1));
        }
    }
    none("merges are ended", findings);
}

#[test]
fn the_mark_of_a_merge_is_told_from_text() {
    assert!(is_mark_of_a_merge(&("<".repeat(7) + " HEAD")));
    assert!(is_mark_of_a_merge(&(">".repeat(7) + " a change")));
    assert!(!is_mark_of_a_merge("====") && !is_mark_of_a_merge("| a | table |"));
}
