//! Rules about `docs/hazards.md`: each row says what stops the hazard and names tests or scripts that exist.

use std::collections::BTreeSet;

use crate::tree::{files, none, root};

/// What stands in a row whose test cannot exist.
const NOTHING_YET: &str = "nothing yet: ";

/// The cells of the table rows of a document, without the heads.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| ---");
    text.lines()
        .filter(is_row)
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .filter(|cells: &Vec<&str>| cells.first() != Some(&"hazard"))
        .collect()
}

/// The names between backquotes.
fn names(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The names of all tests of a file: functions below a test's attribute, or in a `proptest!` block.
fn tests_of(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[should_panic") {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            if is_test {
                found.insert(name);
            }
            is_test = false;
        }
    }
    found
}

/// What is wrong with a row, given the tests that exist.
fn wrong(cells: &[&str], tests: &BTreeSet<&str>) -> Option<String> {
    let [hazard, stopped_by, shown_by] = cells else {
        return Some(format!("{} cells where three are expected: {cells:?}", cells.len()));
    };
    if hazard.is_empty() || stopped_by.is_empty() {
        return Some(format!("an empty cell: {cells:?}"));
    }
    let names = names(shown_by);
    if names.is_empty() && !shown_by.starts_with(NOTHING_YET) {
        return Some(format!("{hazard}: no test is named"));
    }
    let exists = |name: &&str| {
        tests.contains(name) || (name.starts_with("scripts/") && root().join(name).is_file())
    };
    let missing: Vec<_> = names.into_iter().filter(|name| !exists(name)).collect();
    (!missing.is_empty()).then(|| format!("{hazard}: no such test: {}", missing.join(", ")))
}

#[test]
fn no_hazard_is_listed_without_a_test_that_exists() {
    let sources = files(".rs");
    let tests: BTreeSet<&str> = sources.iter().flat_map(|source| tests_of(&source.text)).collect();
    let table = std::fs::read_to_string(root().join("docs/hazards.md")).expect("docs/hazards.md");
    let rows = rows(&table);
    assert!(rows.len() > 40, "{} rows", rows.len());
    none(
        "hazard, what stops it, shown by",
        rows.iter().filter_map(|row| wrong(row, &tests)).collect(),
    );
}

#[test]
fn the_checks_of_this_file_find_what_they_look_for() {
    let text =
        "| hazard | what | shown by |\n| --- | --- | --- |\n| a | b | `c`, `scripts/test` |\n";
    assert_eq!(rows(text), [["a", "b", "`c`, `scripts/test`"]]);
    let tests = tests_of("#[test]\nfn c() {}\nfn d() {}\n    #[test]\n    fn e(\n");
    assert_eq!(tests.iter().copied().collect::<Vec<_>>(), ["c", "e"]);
    assert_eq!(wrong(&["a", "b", "`c`, `scripts/test`"], &tests), None);
    assert_eq!(wrong(&["a", "b", "nothing yet: it is not there"], &tests), None);
    for bad in [["a", "b", "`d`"], ["a", "b", "`scripts/none`"], ["a", "b", "x"], ["a", "", "`c`"]]
    {
        assert!(wrong(&bad, &tests).is_some(), "{bad:?}");
    }
}
