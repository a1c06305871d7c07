//! Rules about the whole: unsafe code by allow-list, imports in one direction, links that lead somewhere,
//! dependencies that are accounted for, libraries that bring no allocator.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::tree::{Source, files, none, root};

/// The crates from the bottom up: each may name those before it and none after it.
const LAYERS: [(&str, &str); 5] = [
    ("hdstore/", "hdstore"),
    ("hotrestart/", "hotrestart"),
    ("inspect/", "hotrestart_inspect"),
    ("grid/", "hdgrid"),
    ("bench-harness/", "bench_harness"),
];

#[test]
fn no_unsafe_code_is_missing_from_its_list() {
    let allow = ["allow(unsafe", "_code"].concat();
    let with_unsafe: BTreeSet<String> = files(".rs")
        .into_iter()
        .filter(|file| opts_in(&file.text, &allow))
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

/// Whether an attribute of the file allows unsafe code, however it is broken into lines.
fn opts_in(text: &str, allow: &str) -> bool {
    text.split_whitespace().collect::<String>().contains(allow)
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
        let manifest =
            std::fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("manifest");
        for (_, above) in &LAYERS[layer + 1..] {
            let above = above.replace('_', "-");
            if dependencies(&manifest).contains(&above) {
                findings.push(format!("{folder}Cargo.toml depends on {above}"));
            }
        }
    }
    none("imports point one way", findings);
}

#[test]
fn no_library_installs_an_allocator() {
    let mark = ["#[global", "_allocator]"].concat();
    let mut findings = Vec::new();
    for file in files(".rs") {
        let is_binary = file.path.ends_with("src/main.rs") || file.path.contains("/src/bin/");
        if !is_binary && code_lines(&file).any(|(_, line)| line.trim_start().starts_with(&mark)) {
            findings.push(file.path);
        }
    }
    none("binaries choose the allocator", findings);
}

#[test]
fn no_dependency_is_without_its_reason() {
    let reasons =
        std::fs::read_to_string(root().join("docs/dependencies.md")).expect("docs/dependencies.md");
    let explained: BTreeSet<String> = reasons
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    for manifest in files("Cargo.toml") {
        for name in dependencies(&manifest.text) {
            used.insert(name, manifest.path.clone());
        }
    }
    let own = ["hdstore", "hotrestart", "hotrestart-inspect", "hdgrid", "bench-harness"];
    let mut findings = Vec::new();
    for (name, manifest) in used.iter().filter(|(name, _)| !own.contains(&name.as_str())) {
        if !explained.contains(name) {
            findings.push(format!("{name} of {manifest} has no line in docs/dependencies.md"));
        }
    }
    for name in explained.iter().filter(|name| !used.contains_key(*name)) {
        findings.push(format!("docs/dependencies.md explains {name}, which nothing uses"));
    }
    none("each dependency has a reason", findings);
}

/// The names in every dependency table of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            inside = table.trim_end_matches(']').ends_with("dependencies");
        } else if inside
            && let Some((name, _)) = line.split_once([' ', '.', '='])
            && !name.is_empty()
            && !name.starts_with('#')
        {
            names.insert(name.to_owned());
        }
    }
    names
}

#[test]
fn no_link_leads_nowhere() {
    let mut findings = Vec::new();
    for file in files(".md") {
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        for target in links(&file.text) {
            let target = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !outside && !root().join(folder).join(target).exists() {
                findings.push(format!("{}: {target}", file.path));
            }
        }
    }
    none("relative links resolve", findings);
}

/// The targets of `[text](target)` outside code.
fn links(text: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        // Every second piece between backquotes is code.
        for prose in line.split('`').step_by(2) {
            for piece in prose.split("](").skip(1) {
                targets.extend(piece.split_once(')').map(|(target, _)| target));
            }
        }
    }
    targets
}

#[test]
fn the_checks_of_this_file_find_what_they_look_for() {
    assert_eq!(links("a [b](c.md) `[d](e)` [f](g#h)\n```\n[i](j)\n```"), ["c.md", "g#h"]);
    assert_eq!(listed_file("| `a/b.rs` | x | y |").as_deref(), Some("a/b.rs"));
    assert!(names_crate("use hotrestart::Store;", "hotrestart"));
    assert!(!names_crate("let hotrestarted = 1;", "hotrestart"));
    let tables =
        ["[package]", "name = \"x\"", "[dev-dependencies]", "a.workspace = true", "b = \"1\""];
    let manifest = [&tables[..], &["[features]", "c = []"]].concat().join("\n");
    assert_eq!(dependencies(&manifest).into_iter().collect::<Vec<_>>(), ["a", "b"]);
}
