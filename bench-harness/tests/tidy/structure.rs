//! Rules about the whole: unsafe code by allow-list, imports in one direction, links that lead somewhere,
//! dependencies that are accounted for, libraries that bring no allocator.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::tree::{Source, files, none, root};

/// The crates from the bottom up: each may name those before it and none after it.
const LAYERS: [(&str, &str); 4] = [
    ("hdstore/", "hdstore"),
    ("hotrestart/", "hotrestart"),
    ("grid/", "hdgrid"),
    ("bench-harness/", "bench_harness"),
];

#[test]
fn no_unsafe_code_is_missing_from_its_list() {
    let allow = ["allow(unsafe", "_code)"].concat();
    let with_unsafe: BTreeSet<String> = files(".rs")
        .into_iter()
        .filter(|file| file.text.lines().any(|line| is_opt_in(line, &allow)))
        .map(|file| file.path)
        .collect();
    let table = std::fs::read_to_string(root().join("docs/unsafe.md")).expect("docs/unsafe.md");
    let listed: BTreeSet<String> = table.lines().filter_map(listed_file).collect();
    let mut findings = Vec::new();
    for path in with_unsafe.difference(&listed) {
        findings.push(format!("{path} opts in to unsafe code and is not in docs/unsafe.md"));
    }
    for path in listed.difference(&with_unsafe) {
        findings.push(format!("docs/unsafe.md lists {path}, which has no unsafe code"));
    }
    none("unsafe code is listed with its invariant", findings);
}

/// An attribute line, not a mention in a comment or a string.
fn is_opt_in(line: &str, allow: &str) -> bool {
    let line = line.trim_start();
    (line.starts_with("#![") || line.starts_with("#[")) && line.contains(allow)
}

/// The file of a row `| \`path\` | invariant | covered by |`.
fn listed_file(line: &str) -> Option<String> {
    let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
    let path = cells.first()?.trim_matches('`');
    path.ends_with(".rs").then(|| path.to_owned())
}

#[test]
fn every_row_of_the_unsafe_list_says_what_holds_and_what_covers_it() {
    let table = std::fs::read_to_string(root().join("docs/unsafe.md")).expect("docs/unsafe.md");
    let mut findings = Vec::new();
    for line in table.lines().filter(|line| listed_file(line).is_some()) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells.len() != 3 || cells.iter().any(|cell| cell.is_empty()) {
            findings.push(line.to_owned());
        }
    }
    none("file, invariant, covered by", findings);
}

#[test]
fn no_import_points_upwards() {
    let mut findings = Vec::new();
    for file in files(".rs") {
        let Some(layer) = LAYERS.iter().position(|(folder, _)| file.path.starts_with(folder))
        else {
            continue;
        };
        for (_, above) in &LAYERS[layer + 1..] {
            for (number, line) in code_lines(&file) {
                if names_crate(line, above) {
                    findings.push(format!("{}:{number}: names {above}", file.path));
                }
            }
        }
    }
    none("imports point one way: bench-harness, grid, hotrestart, hdstore", findings);
}

fn code_lines(file: &Source) -> impl Iterator<Item = (usize, &str)> {
    let lines = file.text.lines().enumerate().map(|(number, line)| (number + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn names_crate(line: &str, name: &str) -> bool {
    line.contains(&format!("{name}::")) || line.contains(&format!("use {name}"))
}

#[test]
fn no_manifest_points_upwards() {
    let mut findings = Vec::new();
    for (layer, (folder, _)) in LAYERS.iter().enumerate() {
        let tables = ["[package]", "name = \"x\"", "[dev-dependencies]", "a.workspace = true", "b = \"1\""];
    let manifest = [&tables[..], &["[features]", "c = []"]].concat().join("\n");
    assert_eq!(dependencies(&manifest).into_iter().collect::<Vec<_>>(), ["a", "b"]);
}
