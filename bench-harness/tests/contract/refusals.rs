//! What is refused, with which exit status, and that it leaves nothing behind.

use crate::harness::{json, run, text};

#[test]
fn a_flag_of_another_command_is_refused_by_name() {
    for (command, flag, value) in [
        ("read", "--workload", "a"),
        ("mixed", "--batch", "2"),
        ("import", "--entries", "5"),
        ("probe", "--durability", "synced"),
        ("write", "--verify", "x"),
        ("quick", "--threads", "2"),
    ] {
        let refused = run(&[command, "--dir", "/nonexistent/x", flag, value]);
        assert_eq!(refused.status, 2, "{command} {flag}: {}", refused.err);
        assert!(refused.err.contains(flag), "{command} {flag}: {}", refused.err);
    }
}

#[test]
fn workload_e_is_refused_with_its_reason() {
    let refused = run(&["mixed", "--dir", "/nonexistent/x", "--workload", "e"]);
    assert_eq!(refused.status, 2);
    assert!(refused.err.contains("order"), "{}", refused.err);
}

#[test]
fn a_directory_with_something_in_it_is_refused_and_left_alone() {
    let home = tempfile::tempdir().expect("tempdir");
    std::fs::write(home.path().join("precious"), b"1").expect("write");
    for command in ["write", "read", "mixed", "restart"] {
        let refused = run(&[command, "--dir", text(home.path()), "--entries", "10"]);
        assert_eq!(refused.status, 2, "{command}: {}", refused.err);
        assert!(refused.err.contains("not empty"), "{command}: {}", refused.err);
    }
    assert_eq!(std::fs::read_dir(home.path()).expect("list").count(), 1);
}

#[test]
fn a_directory_that_cannot_be_made_is_the_environments_fault() {
    let refused = run(&["write", "--dir", "/proc/nowhere/x", "--entries", "10"]);
    assert_eq!(refused.status, 3, "{}", refused.err);
}

#[test]
fn keys_too_short_to_be_distinct_are_refused() {
    let home = tempfile::tempdir().expect("tempdir");
    let dir = home.path().join("store");
    let refused = run(&["write", "--dir", text(&dir), "--entries", "257", "--key-size", "1"]);
    assert_eq!(refused.status, 2, "{}", refused.err);
    assert!(!dir.exists());
}

#[test]
fn a_file_that_is_not_there_or_names_no_format_leaves_no_store() {
    let home = tempfile::tempdir().expect("tempdir");
    let dir = home.path().join("store");
    let odd = home.path().join("data.xyz");
    std::fs::write(&odd, b"a\t1\n").expect("write");
    assert_eq!(run(&["import", text(&odd), "--dir", text(&dir)]).status, 2);
    let missing = home.path().join("data.tsv");
    assert_eq!(run(&["import", text(&missing), "--dir", text(&dir)]).status, 3);
    assert_eq!(
        run(&["import", text(&odd), "--format", "tsv", "--dir", text(&dir), "--verify"]).status,
        2
    );
    assert!(!dir.exists());
}

#[test]
fn doctor_reports_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().expect("tempdir");
    let dir = home.path().join("d");
    let report = home.path().join("doctor.json");
    let done = run(&["doctor", "--dir", text(&dir), "--json", text(&report)]);
    assert_eq!(done.status, 0, "{}", done.err);
    for line in ["kernel", "io_uring", "O_DIRECT", "locked memory", "/dev/shm", "file system"] {
        assert!(done.out.contains(line), "no line about {line}:\n{}", done.out);
    }
    let report = json(&report);
    assert_eq!((&report["schema_version"], &report["command"]), (&1.into(), &"doctor".into()));
    assert!(!dir.exists(), "what doctor made it removes");
}

#[test]
fn probe_measures_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().expect("tempdir");
    let report = home.path().join("probe.json");
    let dir = home.path().join("p");
    let sizes = ["--file-size", "16MiB", "--memory-size", "4MiB", "--seconds", "0.1"];
    let done =
        run(&[&["probe", "--dir", text(&dir), "--json", text(&report)], &sizes[..]].concat());
    assert_eq!(done.status, 0, "{}", done.err);
    let results = &json(&report)["results"];
    for field in
        ["sequential_read_bytes_per_second", "write_flush_cycles_per_second", "dependent_miss_ns"]
    {
        assert!(results[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {results}");
    }
    assert!(!dir.exists(), "what probe made it removes");
}

#[test]
fn a_report_that_has_no_directory_is_refused_before_anything_is_measured() {
    let home = tempfile::tempdir().expect("tempdir");
    let (dir, report) = (home.path().join("store"), home.path().join("missing/report.json"));
    let done = run(&["write", "--dir", text(&dir), "--json", text(&report)]);
    assert_eq!(done.status, 3, "{}", done.err);
    assert!(done.err.contains("missing/report.json"), "{}", done.err);
    assert!(!dir.exists(), "something was begun");
}
