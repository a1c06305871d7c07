//! jsonl: one JSON object a line; the value is the line's bytes, the key one of its members.
//!
//! The key is the first member's value, or that of the member named. A string is its characters, a
//! number or a boolean its JSON text; null, arrays and objects are no keys. Where a name repeats in one
//! line the last counts, as JSON parsers have it. Every line must be valid JSON; blank lines are
//! skipped.

use std::fmt;
use std::io::BufRead;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::lines::Lines;
use super::{ReadError, Record, Records};

/// A reader of jsonl.
pub struct Jsonl<R> {
    lines: Lines<R>,
    name: Option<String>,
    key: Vec<u8>,
}

impl<R: BufRead> Jsonl<R> {
    /// Keys are the members of this name, or the first members.
    pub fn new(input: R, key: Option<&str>) -> Jsonl<R> {
        Jsonl { lines: Lines::new(input), name: key.map(str::to_owned), key: Vec::new() }
    }
}

impl<R: BufRead> Records for Jsonl<R> {
    fn next(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        loop {
            if !self.lines.advance()? {
                return Ok(None);
            }
            if !self.lines.current().trim_ascii().is_empty() {
                break;
            }
        }
        let line = self.lines.number();
        let refuse = |message: String| ReadError::line(line, message);
        let mut parser = serde_json::Deserializer::from_slice(self.lines.current());
        let member = parser.deserialize_map(Member { name: self.name.as_deref() });
        let member = member.and_then(|member| parser.end().map(|()| member));
        // The parser sees one line and counts from it; the number that counts is the file's.
        let in_line = |error: serde_json::Error| {
            refuse(error.to_string().replace(" at line 1 column ", " at column "))
        };
        let member = member.map_err(in_line)?;
        let Some(raw) = member else {
            return Err(refuse(match &self.name {
                Some(name) => format!("has no member '{name}'"),
                None => "has no member".to_owned(),
            }));
        };
        spell(raw.get(), &mut self.key).map_err(refuse)?;
        if self.key.is_empty() {
            return Err(refuse("the key is empty".to_owned()));
        }
        Ok(Some(Record { line, key: &self.key, value: self.lines.current() }))
    }
}

/// Writes the bytes of a key.
fn spell(raw: &str, key: &mut Vec<u8>) -> Result<(), String> {
    key.clear();
    match raw.as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(raw).map_err(|error| error.to_string())?;
            key.extend_from_slice(text.as_bytes());
            Ok(())
        }
        Some(b'n') => Err("the key is null".to_owned()),
        Some(b'[' | b'{') => Err("the key is an array or an object".to_owned()),
        _ => {
            key.extend_from_slice(raw.as_bytes());
            Ok(())
        }
    }
}

/// Picks one member of an object and skips the others.
struct Member<'a> {
    name: Option<&'a str>,
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<std::borrow::Cow<'de, str>>()? {
            let wanted = match self.name {
                Some(wanted) => name == wanted,
                None => found.is_none(),
            };
            if wanted {
                found = Some(members.next_value::<&'de RawValue>()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}
