//! Whole runs on small stores: the fields of the reports, kill and restart on both backends, import and
//! verify.

use std::fs;

use crate::harness::{json, run, text};

const SMALL: [&str; 10] = [
    "--entries",
    "5000",
    "--value-size",
    "100",
    "--threads",
    "2",
    "--memory-limit",
    "128MiB",
    "--warmup",
    "0.1",
];

#[test]
fn the_report_of_a_write_has_every_field_of_the_contract() {
    let home = tempfile::tempdir().expect("tempdir");
    let report = home.path().join("w.json");
    let dir = home.path().join("s");
    let head = ["write", "--dir", text(&dir), "--json", text(&report), "--seconds", "0.3"];
    let done = run(&[&head[..], &SMALL[..]].concat());
    assert_eq!(done.status, 0, "{}{}", done.out, done.err);
    let report = json(&report);
    let results = &report["results"];
    for field in
        ["ops_per_second", "log_bytes_per_second", "write_amplification", "rss_bytes", "disk_bytes"]
    {
        assert!(results[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {results}");
    }
    for field in ["p50", "p99", "p999", "p9999", "max"] {
        assert!(results["latency_us"][field].is_number(), "{field}: {results}");
    }
    assert!(results["zero_fill_bytes"].is_u64());
    assert_eq!(results["live_bytes"], 5000 * 108);
    let settings = &report["settings"];
    for field in ["io_used", "key_size", "seed", "batch", "in_flight", "huge_pages", "durability"] {
        assert!(!settings[field].is_null(), "{field}: {settings}");
    }
    assert!(report["machine"]["kernel"].is_string());
}

#[test]
fn a_load_alone_has_no_rates() {
    let home = tempfile::tempdir().expect("tempdir");
    let report = home.path().join("r.json");
    let dir = home.path().join("s");
    let head = ["read", "--dir", text(&dir), "--json", text(&report), "--seconds", "0"];
    let done = run(&[&head[..], &SMALL[..]].concat());
    assert_eq!(done.status, 0, "{}{}", done.out, done.err);
    let results = &json(&report)["results"];
    assert!(results["ops_per_second"].is_null() && results["latency_us"].is_null(), "{results}");
    assert_eq!(results["entries"], 5000);
}

fn kill_and_restart(io: &str, more: &[&str]) {
    let home = tempfile::tempdir().expect("tempdir");
    let report = home.path().join("r.json");
    let dir = home.path().join("s");
    let head =
        ["restart", "--dir", text(&dir), "--json", text(&report), "--io", io, "--seconds", "0.3"];
    let done = run(&[&head[..], &SMALL[..], more].concat());
    assert_eq!(done.status, 0, "{io} {more:?}\n{}{}", done.out, done.err);
    let report = json(&report);
    let results = &report["results"];
    assert_eq!(report["settings"]["io_used"], io);
    assert_eq!((&results["lost"], &results["wrong"]), (&0.into(), &0.into()), "{results}");
    assert_eq!(
        (&results["entries"], &results["checked"]),
        (&5000.into(), &5000.into()),
        "{results}"
    );
}

#[test]
fn a_kill_loses_nothing_acknowledged_on_system_calls() {
    kill_and_restart("syscall", &[]);
    kill_and_restart(
        "syscall",
        &["--durability", "written", "--batch", "8", "--distribution", "zipfian"],
    );
}

#[test]
fn a_kill_loses_nothing_acknowledged_on_io_uring() {
    kill_and_restart("uring", &[]);
    kill_and_restart("uring", &["--durability", "synced", "--in-flight", "4"]);
}

#[test]
fn every_ycsb_workload_reads_only_whole_values() {
    let home = tempfile::tempdir().expect("tempdir");
    for workload in ["a", "b", "c", "d", "f"] {
        let report = home.path().join("m.json");
        let dir = home.path().join(workload);
        let head = ["mixed", "--dir", text(&dir), "--json", text(&report), "--seconds", "0.2"];
        let done = run(&[&head[..], &SMALL[..], &["--workload", workload]].concat());
        assert_eq!(done.status, 0, "{workload}: {}{}", done.out, done.err);
        assert_eq!(json(&report)["results"]["wrong"], 0);
    }
}

#[test]
fn an_import_comes_back_as_the_file_says_and_a_changed_file_is_told() {
    let home = tempfile::tempdir().expect("tempdir");
    let file = home.path().join("data.tsv");
    let mut lines = b"twice\tfirst\nempty\nbig\t".to_vec();
    lines.extend(std::iter::repeat_n(b'x', 3 << 20));
    lines.extend(b"\n\ntwice\tlast\n\xff\t\xfe\n");
    fs::write(&file, &lines).expect("write");
    let (dir, report) = (home.path().join("s"), home.path().join("i.json"));
    let arguments = [
        "import",
        text(&file),
        "--dir",
        text(&dir),
        "--json",
        text(&report),
        "--memory-limit",
        "128MiB",
    ];
    let done = run(&arguments);
    assert_eq!(done.status, 0, "{}{}", done.out, done.err);
    let imported = json(&report)["results"].clone();
    assert_eq!((&imported["entries"], &imported["records"]), (&4.into(), &5.into()));
    let verify = [&arguments[..], &["--verify"]].concat();
    let done = run(&verify);
    assert_eq!(done.status, 0, "{}{}", done.out, done.err);
    assert_eq!(json(&report)["results"]["digest"], imported["digest"]);

    let last = lines.len() - 1;
    lines[last - 1] ^= 1;
    lines.extend(b"more\t1\n");
    fs::write(&file, &lines).expect("write");
    let done = run(&verify);
    assert_eq!(done.status, 1, "{}{}", done.out, done.err);
    let results = json(&report)["results"].clone();
    assert_eq!((&results["different"], &results["missing"]), (&1.into(), &1.into()), "{results}");
}

#[test]
fn a_churn_looks_at_every_bound_checks_every_key_and_opens_again() {
    let home = tempfile::tempdir().expect("tempdir");
    let report = home.path().join("c.json");
    let dir = home.path().join("s");
    let done = run(&[
        "churn",
        "--dir",
        text(&dir),
        "--json",
        text(&report),
        "--memory-limit",
        "64MiB",
        "--seconds",
        "4",
        "--threads",
        "2",
        "--pattern",
        "waves",
        "--pattern",
        "drift",
    ]);
    assert_eq!(done.status, 0, "{}{}", done.out, done.err);
    let results = &json(&report)["results"];
    for (pattern, name) in [(0, "waves"), (1, "drift")] {
        let pattern = &results["patterns"][pattern];
        assert_eq!(pattern["pattern"], name);
        assert!(pattern["operations"].as_u64().is_some_and(|count| count > 0), "{pattern}");
        assert!(pattern["refused_memory"].as_u64().is_some_and(|count| count > 0), "{pattern}");
        assert_eq!(pattern["checked"]["lost"], 0);
        assert_eq!(pattern["checked"]["wrong"], 0);
    }
    let (before, after) = (&results["patterns"][1]["checked"], &results["checked_after_restart"]);
    assert_eq!(before, after);
}
