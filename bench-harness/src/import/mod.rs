//! Reading the files that `import` takes: tsv, csv and jsonl, one record at a time.
//!
//! Owns the exact text of docs/benchmarking.md, "import". A file is never held whole: memory is one
//! record's. Every error names the line. `digest` is the fingerprint of a set of entries.

pub mod csv;
pub mod digest;
pub mod jsonl;
pub mod lines;
pub mod tsv;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use thiserror::Error;

use crate::cli::choices::Format;
use crate::failure::Failure;

/// One record of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The line it starts on, from 1.
    pub line: u64,
    /// Its key, never empty.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// Why a file is refused.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A line that is not what the format says.
    #[error("line {line}: {message}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        message: String,
    },
    /// The header is missing or lacks the key.
    #[error("header: {message}")]
    Header {
        /// What is wrong with it.
        message: String,
    },
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(std::io::Error),
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> ReadError {
        ReadError::Io(error)
    }
}

impl ReadError {
    fn line(line: u64, message: impl Into<String>) -> ReadError {
        ReadError::Line { line, message: message.into() }
    }

    /// Refused input, or the environment.
    pub fn into_failure(self, path: &Path) -> Failure {
        match self {
            ReadError::Io(source) => Failure::file("read", path)(source),
            refused => Failure::usage(format!("{}: {refused}", path.display())),
        }
    }
}

/// A reader of records.
pub trait Records {
    /// The next record; none at the end.
    fn next(&mut self) -> Result<Option<Record<'_>>, ReadError>;
}

/// Opens a file in its format; `key` names the column or member that is the key.
pub fn open(path: &Path, format: Format, key: Option<&str>) -> Result<Box<dyn Records>, Failure> {
    let file = File::open(path).map_err(Failure::file("open", path))?;
    let metadata = file.metadata().map_err(Failure::file("stat", path))?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("{} is a directory", path.display())));
    }
    records(BufReader::with_capacity(1 << 20, file), format, key).map_err(|e| e.into_failure(path))
}

fn records<R: Read + 'static>(
    input: BufReader<R>,
    format: Format,
    key: Option<&str>,
) -> Result<Box<dyn Records>, ReadError> {
    Ok(match format {
        Format::Tsv => Box::new(tsv::Tsv::new(input, key)?),
        Format::Csv => Box::new(csv::Csv::new(input, key)?),
        Format::Jsonl => Box::new(jsonl::Jsonl::new(input, key)),
    })
}

/// The format by the file's suffix.
pub fn format_of(path: &Path) -> Result<Format, Failure> {
    match path.extension().and_then(|suffix| suffix.to_str()) {
        Some("tsv") => Ok(Format::Tsv),
        Some("csv") => Ok(Format::Csv),
        Some("jsonl" | "ndjson") => Ok(Format::Jsonl),
        _ => Err(Failure::usage(format!(
            "the suffix of {} names no format: give --format tsv, csv or jsonl",
            path.display()
        ))),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
