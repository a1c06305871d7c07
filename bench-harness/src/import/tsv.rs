//! tsv: key, TAB, value, LF; no header, no quoting, no escapes; bytes need not be UTF-8.
//!
//! A line without TAB has an empty value, empty lines are skipped, an empty key is an error. With a
//! key's name the first line is a header and the value is the remaining fields, in order, joined by TAB.

use std::io::BufRead;

use super::lines::Lines;
use super::{ReadError, Record, Records};

/// A reader of tsv.
pub struct Tsv<R> {
    lines: Lines<R>,
    key_column: Option<usize>,
    rest: Vec<u8>,
}

impl<R: BufRead> Tsv<R> {
    /// Reads the header if the key has a name.
    pub fn new(input: R, key: Option<&str>) -> Result<Tsv<R>, ReadError> {
        let mut lines = Lines::new(input);
        let key_column = match key {
            None => None,
            Some(name) => Some(find_column(&mut lines, name)?),
        };
        Ok(Tsv { lines, key_column, rest: Vec::new() })
    }
}

fn find_column<R: BufRead>(lines: &mut Lines<R>, name: &str) -> Result<usize, ReadError> {
    if !lines.advance()? {
        return Err(ReadError::Header { message: "the file is empty".to_owned() });
    }
    let mut columns = lines.current().split(|&byte| byte == b'\t');
    columns
        .position(|column| column == name.as_bytes())
        .ok_or_else(|| ReadError::Header { message: format!("no column is named '{name}'") })
}

impl<R: BufRead> Records for Tsv<R> {
    fn next(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        loop {
            if !self.lines.advance()? {
                return Ok(None);
            }
            if !self.lines.current().is_empty() {
                break;
            }
        }
        let line = self.lines.number();
        let text = self.lines.current();
        let (key, value) = match self.key_column {
            None => match text.iter().position(|&byte| byte == b'\t') {
                Some(tab) => (&text[..tab], &text[tab + 1..]),
                None => (text, &text[..0]),
            },
            Some(column) => {
                let key = split_off(text, column, &mut self.rest);
                let key = key.ok_or_else(|| ReadError::line(line, "has no field for the key"))?;
                (key, &self.rest[..])
            }
        };
        if key.is_empty() {
            return Err(ReadError::line(line, "the key is empty"));
        }
        Ok(Some(Record { line, key, value }))
    }
}

/// The field at `column`; the others go to `rest`, joined by TAB.
fn split_off<'a>(text: &'a [u8], column: usize, rest: &mut Vec<u8>) -> Option<&'a [u8]> {
    rest.clear();
    let mut found = None;
    let mut first = true;
    for (position, field) in text.split(|&byte| byte == b'\t').enumerate() {
        if position == column {
            found = Some(field);
            continue;
        }
        if !first {
            rest.push(b'\t');
        }
        first = false;
        rest.extend_from_slice(field);
    }
    found
}
