//! A report as text: tables for people. Called by the command line; invariant: nothing that is wrong is left
//! out, and each problem is one line.

use std::fmt::Write;

use comfy_table::{Table, presets};
use hotrestart::inspect::{Report, counted};

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(header.to_vec());
    table
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Manifests, lives, maps and chunks, then problems and notes.
#[must_use]
pub(crate) fn list_text(report: &Report) -> String {
    let mut manifests = table(&["manifest", "generation", "current", "error"]);
    for copy in &report.manifests {
        let current = if copy.is_current { "yes" } else { "" };
        let error = copy.error.clone().unwrap_or_default();
        manifests.add_row([
            copy.file.clone(),
            optional(copy.generation),
            current.to_owned(),
            error,
        ]);
    }
    let mut lives =
        table(&["life", "state", "boot", "buffers", "writer", "valid blocks", "flushed", "void"]);
    for life in &report.lives {
        let head = [life.number.to_string(), life.state.to_owned(), life.boot.clone()];
        let head = [&head[..], &[life.buffers.to_owned()]].concat();
        for writer in &life.writers {
            let numbers = [writer.valid_blocks, writer.known_flushed, writer.void_blocks];
            let numbers = numbers.map(|number| number.to_string());
            lives.add_row([&head[..], &[writer.writer.to_string()], &numbers].concat());
        }
        if life.writers.is_empty() {
            lives.add_row(head);
        }
    }
    let mut maps = table(&["map", "name", "keys", "values", "entries"]);
    for map in &report.maps {
        let texts = [map.name.clone(), map.key_type.clone(), map.value_type.clone()];
        maps.add_row([&[map.id.to_string()][..], &texts, &[map.entries.to_string()]].concat());
    }
    format!("{manifests}\n{lives}\n{maps}\n{}\n{}", chunk_table(report), check_text(report))
}

fn chunk_table(report: &Report) -> Table {
    let mut chunks = table(&[
        "file", "chunk", "life", "writer", "blocks", "records", "sealed", "live", "garbage",
    ]);
    for chunk in &report.chunks {
        let (id, life, writer) = match chunk.identity {
            Some((id, life, writer)) => (id.to_string(), life.to_string(), writer.to_string()),
            None => (chunk.error.clone().unwrap_or_default(), String::new(), String::new()),
        };
        let blocks = chunk.blocks.map(|(first, last)| format!("{first} to {last}"));
        chunks.add_row([
            chunk.file.clone(),
            id,
            life,
            writer,
            blocks.unwrap_or_default(),
            chunk.records.to_string(),
            if chunk.is_sealed { "yes" } else { "" }.to_owned(),
            chunk.live_bytes.to_string(),
            chunk.garbage_bytes.to_string(),
        ]);
    }
    chunks
}

/// The verdict: totals, notes and problems.
#[must_use]
pub(crate) fn check_text(report: &Report) -> String {
    let mut text = String::new();
    let totals = &report.totals;
    let _ = writeln!(
        text,
        "{} of {} (keys and values), {} and {}, in {} in {}; {} of records live, {} garbage",
        counted(totals.entries, "entry", "entries"),
        counted(totals.entry_bytes, "byte", "bytes"),
        counted(totals.absences, "absence", "absences"),
        counted(totals.clears, "clear", "clears"),
        counted(totals.records, "record", "records"),
        counted(totals.blocks, "block", "blocks"),
        counted(totals.live_bytes, "byte", "bytes"),
        totals.garbage_bytes
    );
    if totals.dropped_records > 0 {
        let records = counted(totals.dropped_records, "record", "records");
        let _ = writeln!(text, "{records} of maps that were dropped");
    }
    if totals.buffered_records > 0 {
        let records = counted(totals.buffered_records, "record", "records");
        let _ = writeln!(text, "{records} of these only in the log buffers of a dead process");
    }
    if totals.copies > 0 {
        let _ = writeln!(text, "{} of live records", counted(totals.copies, "copy", "copies"));
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    for problem in &report.problems {
        let (file, offset) = (&problem.file, problem.offset);
        let place = if file.is_empty() { String::new() } else { format!("{file} at {offset}: ") };
        let (expected, found) = (&problem.expected, &problem.found);
        let _ = writeln!(text, "corrupt: {place}expected {expected}; found {found}");
    }
    let end = if report.closed_cleanly { "closed cleanly" } else { "not closed cleanly" };
    let verdict = if report.is_sound { "sound" } else { "corrupt" };
    let _ = writeln!(text, "{}: store {}, {end}: {verdict}", report.directory, report.store);
    text
}
