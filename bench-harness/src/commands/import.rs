//! `import`: a file's records into a store, or a store compared with a file.
//!
//! Owns "the last line of a key wins" and the digest. One pass over the file notes, per distinct key, a
//! hash and the number of its last line (about 100 bytes a key); values are never held. The digest of an
//! import is taken from the file, that of `--verify` from the store: equal digests say something about
//! both.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::cli::args::ImportArgs;
use crate::cli::choices::Format;
use crate::cli::settings::StoreSettings;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::import::digest::{self, Digest};
use crate::import::{self, Record};
use crate::outcome::Outcome;
use crate::report::table::Facts;
use crate::report::{document, progress, units};
use crate::system::{directory, interrupt};

/// Examples printed of entries that differ.
const EXAMPLES: usize = 5;

#[derive(Serialize)]
struct Settings {
    #[serde(flatten)]
    store: StoreSettings,
    file: std::path::PathBuf,
    format: Format,
    key: Option<String>,
    verify: bool,
}

/// Results of `import`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    /// Distinct keys of the file.
    pub entries: u64,
    /// Bytes of their keys and last values.
    pub live_bytes: u64,
    /// See `import::digest`; over the file, or over the store with `--verify`.
    pub digest: String,
    /// Lines or records read.
    pub records: u64,
    /// Its time, the clean close or the open included.
    pub seconds: f64,
    /// Keys of the file that the store lacks; of `--verify` only.
    pub missing: u64,
    /// Keys whose value differs; of `--verify` only.
    pub different: u64,
    /// Entries of the store that the file does not have; of `--verify` only.
    pub surplus: u64,
    /// Ctrl-C came before the end.
    pub interrupted: bool,
}

/// What the first pass notes of a distinct key.
#[derive(Clone, Copy)]
struct Last {
    ordinal: u64,
    entry: u128,
    bytes: u64,
}

/// The distinct keys of a file.
#[derive(Default)]
struct Distinct {
    keys: HashMap<u128, Last>,
    digest: Digest,
    live_bytes: u64,
    records: u64,
}

impl Distinct {
    fn note(&mut self, record: &Record<'_>) {
        let entry = digest::entry_hash(record.key, record.value);
        let bytes = (record.key.len() + record.value.len()) as u64;
        let last = Last { ordinal: self.records, entry, bytes };
        self.records += 1;
        self.digest.add(entry);
        self.live_bytes += bytes;
        if let Some(former) = self.keys.insert(digest::key_hash(record.key), last) {
            self.digest.remove(former.entry);
            self.live_bytes -= former.bytes;
        }
    }
}

/// Runs the subcommand.
pub fn command(args: &ImportArgs) -> Result<Outcome, Failure> {
    document::check(args.store.json.as_deref())?;
    let format = args.format.map_or_else(|| import::format_of(&args.file), Ok)?;
    let mut settings = Settings {
        store: StoreSettings::resolve(&args.store),
        file: args.file.clone(),
        format,
        key: args.key.clone(),
        verify: args.verify,
    };
    let start = Instant::now();
    let mut results = if args.verify { verify(&mut settings)? } else { fill(&mut settings)? };
    results.seconds = start.elapsed().as_secs_f64();
    print(&settings, &results);
    document::write(
        args.store.json.as_deref(),
        "import",
        &settings.store.dir,
        &settings,
        &results,
    )?;
    Ok(Outcome::of(results.interrupted, results.missing + results.different + results.surplus))
}

fn each_record(
    settings: &Settings,
    name: &str,
    mut visit: impl FnMut(&Record<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let path: &Path = &settings.file;
    let total = std::fs::metadata(path).map_err(Failure::file("stat", path))?.len();
    let mut records = import::open(path, settings.format, settings.key.as_deref())?;
    let bar = progress::bytes(name, total);
    while let Some(record) = records.next().map_err(|error| error.into_failure(path))? {
        visit(&record)?;
        bar.inc((record.key.len() + record.value.len() + 2) as u64);
        if interrupt::requested() {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Puts every record, then closes cleanly and synced.
fn fill(settings: &mut Settings) -> Result<Results, Failure> {
    // The file is opened before the store: a wrong name must not leave an empty store behind.
    drop(import::open(&settings.file, settings.format, settings.key.as_deref())?);
    directory::claim_empty(&settings.store.dir)?;
    let engine = Engine::open_for_import(&settings.store)?;
    settings.store.io_used = Some(engine.io_used());
    let mut distinct = Distinct::default();
    each_record(settings, "import", |record| {
        let put = engine.put(record.key, record.value);
        put.map_err(|failure| at_line(failure, &settings.file, record.line))?;
        distinct.note(record);
        Ok(())
    })?;
    let stored = engine.len();
    engine.close()?;
    if stored != distinct.keys.len() as u64 {
        return Err(Failure::wrong(format!(
            "the store holds {stored} entries, the file has {} distinct keys",
            distinct.keys.len()
        )));
    }
    Ok(Results {
        entries: stored,
        live_bytes: distinct.live_bytes,
        digest: distinct.digest.text(),
        records: distinct.records,
        interrupted: interrupt::requested(),
        ..Results::default()
    })
}

/// Names the line in a failure of the store.
fn at_line(failure: Failure, path: &Path, line: u64) -> Failure {
    let message = format!("{}: line {line}: {failure}", path.display());
    match failure {
        Failure::Usage { .. } => Failure::Usage { message },
        Failure::Wrong { .. } => Failure::Wrong { message },
        _ => Failure::Environment { message },
    }
}

/// Compares the store with the file, and the file with the store.
fn verify(settings: &mut Settings) -> Result<Results, Failure> {
    let mut distinct = Distinct::default();
    each_record(settings, "read", |record| {
        distinct.note(record);
        Ok(())
    })?;
    if !settings.store.dir.is_dir() {
        return Err(Failure::usage(format!(
            "--dir {} has no store to verify",
            settings.store.dir.display()
        )));
    }
    let engine = Engine::reopen_for_import(&settings.store)?;
    settings.store.io_used = Some(engine.io_used());
    let mut results = Results {
        entries: distinct.keys.len() as u64,
        live_bytes: distinct.live_bytes,
        records: distinct.records,
        ..Results::default()
    };
    let mut ordinal = 0;
    let mut examples = Vec::new();
    each_record(settings, "compare", |record| {
        let number = ordinal;
        ordinal += 1;
        let last = distinct.keys.get(&digest::key_hash(record.key)).map(|last| last.ordinal);
        if last != Some(number) {
            return Ok(());
        }
        let same = engine.get(record.key, |value| value == record.value)?;
        let what = match same {
            Some(true) => return Ok(()),
            Some(false) => "differs",
            None => "is missing",
        };
        *(if same.is_none() { &mut results.missing } else { &mut results.different }) += 1;
        if examples.len() < EXAMPLES {
            examples.push(format!("line {}: the entry {what}", record.line));
        }
        Ok(())
    })?;
    let mut digest = Digest::default();
    engine.for_each(|key, value| {
        digest.add(digest::entry_hash(key, value));
        results.surplus += u64::from(!distinct.keys.contains_key(&digest::key_hash(key)));
        Ok(())
    })?;
    engine.close()?;
    for example in examples {
        println!("{example}");
    }
    results.digest = digest.text();
    results.interrupted = interrupt::requested();
    Ok(results)
}

fn print(settings: &Settings, results: &Results) {
    let mut facts = Facts::new(if settings.verify { "verify" } else { "import" });
    facts
        .line("entries", units::count(results.entries))
        .line("records read", units::count(results.records))
        .line("live", units::bytes(results.live_bytes))
        .line(if settings.verify { "digest of the store" } else { "digest" }, &results.digest)
        .line("time", units::seconds(results.seconds));
    if settings.verify {
        facts
            .line("missing", units::count(results.missing))
            .line("different", units::count(results.different))
            .line("not in the file", units::count(results.surplus));
    }
    facts.print();
    if results.interrupted {
        println!("interrupted: only a part of the file was read");
    }
}
