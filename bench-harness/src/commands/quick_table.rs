//! The table that `quick` ends in: this machine, its limits, the share reached, Hazelcast's published
//! row.
//!
//! Owns the published figures and their marks: they are Hazelcast's own, from its product page, on its
//! hardware, with fsync off, and were not run here. See docs/benchmarking.md, "The published rows".

use std::path::Path;

use super::quick::Results;
use crate::report::{table, units};
use crate::system::host::Machine;

/// A row of Hazelcast's product page.
struct Published {
    value_size: u32,
    writes_per_second: u64,
    write_threads: u32,
    restart: &'static str,
}

const PUBLISHED: [Published; 2] = [
    Published {
        value_size: 239,
        writes_per_second: 502_254,
        write_threads: 40,
        restart: "0.80 GB/s printed; 25 GB in 39 s is 0.64",
    },
    Published {
        value_size: 1007,
        writes_per_second: 425_000,
        write_threads: 16,
        restart: "1.4 GB/s printed; 100 GB in 82 s is 1.22",
    },
];

/// Prints the table.
pub fn print(dir: &Path, results: &Results) {
    let machine = Machine::read(dir);
    let cpu = machine.cpu.unwrap_or_else(|| machine.architecture.clone());
    let device = machine.device.unwrap_or_else(|| "no device of its own".to_owned());
    println!(
        "{} x {cpu}, {}, {}, {device} with {}",
        machine.cpus,
        machine.ram_bytes.map(units::bytes).unwrap_or_default(),
        machine.kernel,
        machine.file_system.unwrap_or_else(|| "an unknown file system".to_owned()),
    );
    let header = ["", "this machine", "its limit", "share", "Hazelcast, published (*)"];
    table::print(&header, &rows(results), false);
    println!(
        "(*) Hazelcast's own figures for one node, from its product page, not run here: SSD, fsync off,"
    );
    println!(
        "    threads as given; its manual names 2 x Xeon E5-2687W v3 (20 cores), 768 GB for such runs."
    );
    println!(
        "limits: the bare append loop (copy, CRC-32C, random memory slot, O_DIRECT log, no index) for"
    );
    println!(
        "writes; sequential O_DIRECT reads for the disk at restart; durability buffered throughout."
    );
    for row in &results.rows {
        let restart = &row.restart;
        println!(
            "{} B: killed by SIGKILL, {} entries checked, {} lost, {} wrong; page cache {}",
            row.value_size,
            units::count(restart.checked),
            restart.lost,
            restart.wrong,
            if restart.page_cache_dropped { "dropped" } else { "kept" },
        );
    }
    for note in results.rows.iter().take(1).flat_map(|row| &row.limits.notes) {
        println!("note: {note}");
    }
    if results.interrupted {
        println!("interrupted: steps that were not finished are left out");
    }
    println!("all of it took {}", units::seconds(results.seconds));
}

fn rows(results: &Results) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for row in &results.rows {
        let size = row.value_size;
        let published = PUBLISHED.iter().find(|published| published.value_size == size);
        let rate = row.write.phase.ops_per_second;
        let limit = row.limits.append_all_threads_per_second;
        rows.push(vec![
            format!("write, {size} B values"),
            text(rate.map(units::per_second)),
            text(limit.map(units::per_second)),
            share(rate, limit),
            text(published.map(|published| {
                let rate = units::count(published.writes_per_second);
                format!("{rate}/s, {} threads", published.write_threads)
            })),
        ]);
        let latency = row.write.phase.latency_us;
        rows.push(line(
            "  p50 / p99.9 / max",
            latency.map(|us| [us.p50, us.p999, us.max].map(units::microseconds).join(" / ")),
        ));
        rows.push(line("  write amplification", row.write.write_amplification.map(units::digits)));
        rows.push(vec![
            format!("restart, {size} B values, live"),
            format!("{} GB/s", units::digits(row.restart.gb_per_second)),
            String::new(),
            String::new(),
            text(published.map(|published| published.restart.to_owned())),
        ]);
        let read_limit = row.limits.sequential_read_bytes_per_second;
        let disk = row.restart.disk_gb_per_second * 1e9;
        rows.push(vec![
            "  disk read meanwhile".to_owned(),
            units::gigabytes_per_second(disk),
            text(read_limit.map(units::gigabytes_per_second)),
            share(Some(disk), read_limit),
            String::new(),
        ]);
        rows.push(line("  entries", Some(units::per_second(row.restart.entries_per_second))));
    }
    let phases = [
        ("read, 239 B values", results.read.as_ref().map(|read| &read.phase)),
        ("mixed, YCSB A, 239 B values", results.mixed.as_ref().map(|mixed| &mixed.phase)),
    ];
    for (name, phase) in phases {
        let Some(phase) = phase else { continue };
        rows.push(line(name, phase.ops_per_second.map(units::per_second)));
        rows.push(line(
            "  p50 / p99.9 / max",
            phase
                .latency_us
                .map(|us| [us.p50, us.p999, us.max].map(units::microseconds).join(" / ")),
        ));
    }
    rows
}

fn line(name: &str, value: Option<String>) -> Vec<String> {
    vec![name.to_owned(), text(value), String::new(), String::new(), String::new()]
}

fn text(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

fn share(reached: Option<f64>, limit: Option<f64>) -> String {
    match (reached, limit) {
        (Some(reached), Some(limit)) if limit > 0.0 => units::percent(reached / limit),
        _ => "-".to_owned(),
    }
}
