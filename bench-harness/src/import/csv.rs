//! csv: RFC 4180 with a header; the value is the remaining fields as one csv record.
//!
//! Quoting, escaped quotes and line breaks inside quotes are the `csv` crate's. A record with more or
//! fewer fields than the header is refused.

use std::io::{BufReader, Read};

use csv::{ByteRecord, Reader, ReaderBuilder, Terminator, WriterBuilder};

use super::{ReadError, Record, Records};

/// A reader of csv.
pub struct Csv<R> {
    reader: Reader<BufReader<R>>,
    key_column: usize,
    record: ByteRecord,
    rest: Vec<u8>,
}

impl<R: Read> Csv<R> {
    /// Reads the header.
    pub fn new(input: BufReader<R>, key: Option<&str>) -> Result<Csv<R>, ReadError> {
        let mut reader = ReaderBuilder::new().has_headers(true).from_reader(input);
        let header = reader.byte_headers().map_err(refuse)?;
        if header.is_empty() {
            return Err(ReadError::Header { message: "the file is empty".to_owned() });
        }
        let key_column = match key {
            None => 0,
            Some(name) => {
                let found = header.iter().position(|column| column == name.as_bytes());
                let message = format!("no column is named '{name}'");
                found.ok_or(ReadError::Header { message })?
            }
        };
        Ok(Csv { reader, key_column, record: ByteRecord::new(), rest: Vec::new() })
    }
}

impl<R: Read> Records for Csv<R> {
    fn next(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        if !self.reader.read_byte_record(&mut self.record).map_err(refuse)? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, |position| position.line());
        let key = &self.record[self.key_column];
        if key.is_empty() {
            return Err(ReadError::line(line, "the key is empty"));
        }
        self.rest.clear();
        if self.record.len() > 1 {
            let rest = self.record.iter().enumerate();
            let rest =
                rest.filter(|&(column, _)| column != self.key_column).map(|(_, field)| field);
            let mut writer =
                WriterBuilder::new().terminator(Terminator::Any(b'\n')).from_writer(&mut self.rest);
            writer.write_byte_record(&rest.collect()).map_err(refuse)?;
            writer.flush()?;
            drop(writer);
            self.rest.pop();
        }
        Ok(Some(Record { line, key, value: &self.rest }))
    }
}

fn refuse(error: csv::Error) -> ReadError {
    let line = error.position().map_or(0, |position| position.line());
    match error.into_kind() {
        csv::ErrorKind::Io(source) => ReadError::Io(source),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            ReadError::line(line, format!("has {len} fields, the header {expected_len}"))
        }
        other => ReadError::line(line, format!("{other:?}")),
    }
}
