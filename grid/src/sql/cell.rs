//! What a column holds, and its forms: as a key or a value of a map, and in JSON.
//!
//! Invariant: what comes from one form and goes into another is the same when it comes back; what cannot be
//! is refused, and never rounded, cut or turned into something else. Pure; no database is known here.

use serde_json::value::RawValue;

use crate::data::{Data, DataError, DataRef, Json, Natural, Raw, Serial, TypeId};

/// What a column holds, by its declaration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(all(feature = "postgres", feature = "sqlite")),
    allow(dead_code, reason = "each database has some")
)]
pub(super) enum Kind {
    Boolean,
    Byte,
    Short,
    Int,
    Long,
    /// Floating, of 4 bytes.
    Single,
    Double,
    /// A number of any length, as its digits; of so many after the point at most, where the column says so.
    Decimal {
        scale: Option<i16>,
    },
    Text,
    Uuid,
    /// A day, or a moment, in the form of ISO 8601.
    Time,
    /// A type of the database's own, as the text that it has for it.
    Written,
    Bytes,
    Json,
    /// Numbers and text, as they come.
    Any,
}

/// What is in a column of a row. A decimal is its digits, JSON its text.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Cell {
    Null,
    Boolean(bool),
    Integer(i64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
}

/// What is found where something else is expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mistyped {
    pub(super) expected: &'static str,
    pub(super) found: String,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Boolean => "a boolean",
            Kind::Byte => "an integer of 1 byte",
            Kind::Short => "an integer of 2 bytes",
            Kind::Int => "an integer of 4 bytes",
            Kind::Long => "an integer of 8 bytes",
            Kind::Single => "a number (floating, of 4 bytes)",
            Kind::Double => "a number (floating)",
            Kind::Decimal { scale: Some(_) } => "a number (decimal, of the column's scale)",
            Kind::Decimal { scale: None } => "a number (decimal)",
            Kind::Text => "text",
            Kind::Uuid => "a UUID (lower case, with hyphens)",
            Kind::Time => "a time (ISO 8601)",
            Kind::Written => "text of a type of the database",
            Kind::Bytes => "bytes (in JSON \"\\x\" and two hexadecimal digits each)",
            Kind::Json => "JSON",
            Kind::Any => "a number or text",
        }
    }

    /// The type of keys of such a column; nothing where they cannot be keys.
    pub(super) fn key_type(self) -> Option<TypeId> {
        match self {
            Kind::Boolean => Some(TypeId::BOOLEAN),
            Kind::Byte => Some(TypeId::BYTE),
            Kind::Short => Some(TypeId::SHORT),
            Kind::Int => Some(TypeId::INTEGER),
            Kind::Long => Some(TypeId::LONG),
            Kind::Text | Kind::Uuid => Some(TypeId::STRING),
            Kind::Bytes => Some(TypeId::BYTE_ARRAY),
            Kind::Single
            | Kind::Double
            | Kind::Decimal { .. }
            | Kind::Json
            | Kind::Time
            | Kind::Written
            | Kind::Any => None,
        }
    }

    fn has_room_for(self, number: i64) -> bool {
        match self {
            Kind::Byte => i8::try_from(number).is_ok(),
            Kind::Short => i16::try_from(number).is_ok(),
            Kind::Int => i32::try_from(number).is_ok(),
            _ => true,
        }
    }

    fn mistyped(self, found: impl Into<String>) -> Mistyped {
        Mistyped { expected: self.name(), found: found.into() }
    }

    /// What a database has in a column of this kind, where it may have anything.
    pub(super) fn check(self, cell: Cell) -> Result<Cell, Mistyped> {
        let fits = match (self, &cell) {
            (_, Cell::Null)
            | (Kind::Boolean, Cell::Boolean(_))
            | (Kind::Text | Kind::Written, Cell::Text(_))
            | (Kind::Bytes, Cell::Bytes(_))
            | (Kind::Any, Cell::Boolean(_) | Cell::Integer(_) | Cell::Text(_)) => true,
            (Kind::Double | Kind::Any, Cell::Double(number)) => number.is_finite(),
            (Kind::Single, Cell::Double(number)) => is_single(*number),
            (Kind::Uuid, Cell::Text(text)) => is_uuid(text),
            (Kind::Time, Cell::Text(text)) => is_time(text),
            (Kind::Boolean, Cell::Integer(bit @ (0 | 1))) => return Ok(Cell::Boolean(*bit == 1)),
            (Kind::Byte | Kind::Short | Kind::Int | Kind::Long, Cell::Integer(number)) => {
                self.has_room_for(*number)
            }
            (Kind::Decimal { .. } | Kind::Json, Cell::Integer(number)) => {
                return Ok(Cell::Text(number.to_string()));
            }
            (Kind::Decimal { .. } | Kind::Json, Cell::Double(number)) if number.is_finite() => {
                return self.check(Cell::Text(digits(*number)));
            }
            (Kind::Decimal { scale }, Cell::Text(text)) => is_decimal(text, scale),
            (Kind::Json, Cell::Text(text)) => serde_json::from_str::<&RawValue>(text).is_ok(),
            _ => false,
        };
        if fits { Ok(cell) } else { Err(self.mistyped(cell.shown())) }
    }

    /// Of a field of a JSON object.
    pub(super) fn of_json(self, field: &RawValue) -> Result<Cell, Mistyped> {
        let text = field.get();
        let mistyped = || self.mistyped(shorten(text));
        if text == "null" {
            return Ok(Cell::Null);
        }
        let read = || serde_json::from_str::<String>(text).map_err(|_| mistyped());
        let integer = || text.parse::<i64>().ok().filter(|number| self.has_room_for(*number));
        match self {
            Kind::Boolean => text.parse().map(Cell::Boolean).map_err(|_| mistyped()),
            Kind::Byte | Kind::Short | Kind::Int | Kind::Long => {
                integer().map(Cell::Integer).ok_or_else(mistyped)
            }
            Kind::Single | Kind::Double if is_number(text) => {
                double(text).and_then(|cell| self.check(cell).ok()).ok_or_else(mistyped)
            }
            Kind::Decimal { scale } if is_decimal(text, scale) => Ok(Cell::Text(text.to_owned())),
            Kind::Text | Kind::Written => read().map(Cell::Text),
            Kind::Uuid | Kind::Time => self.check(Cell::Text(read()?)).map_err(|_| mistyped()),
            Kind::Bytes => of_hexadecimal(&read()?).map(Cell::Bytes).ok_or_else(mistyped),
            Kind::Json => Ok(Cell::Text(text.to_owned())),
            Kind::Any if text.starts_with('"') => read().map(Cell::Text),
            Kind::Any if matches!(text, "true" | "false") => Ok(Cell::Boolean(text == "true")),
            Kind::Any if is_number(text) => {
                let number = integer().map(Cell::Integer);
                number.or_else(|| double(text)).ok_or_else(mistyped)
            }
            Kind::Single | Kind::Double | Kind::Decimal { .. } | Kind::Any => Err(mistyped()),
        }
    }

    /// Appends the field of a JSON object; the cell is one of this kind.
    pub(super) fn append_json(self, cell: &Cell, json: &mut String) {
        match cell {
            Cell::Null => json.push_str("null"),
            Cell::Boolean(value) => json.push_str(if *value { "true" } else { "false" }),
            Cell::Integer(number) => json.push_str(&number.to_string()),
            Cell::Double(number) => json.push_str(&digits(*number)),
            Cell::Text(text) if matches!(self, Kind::Decimal { .. } | Kind::Json) => {
                json.push_str(text)
            }
            Cell::Text(text) => json.push_str(&quoted(text)),
            Cell::Bytes(bytes) => {
                json.push_str("\"\\\\x");
                json.extend(bytes.iter().flat_map(|byte| {
                    [byte >> 4, byte & 15]
                        .map(|half| char::from(b"0123456789abcdef"[half as usize]))
                }));
                json.push('"');
            }
        }
    }

    /// As a key, or as a value by itself; the cell is one of this kind, and is not null.
    pub(super) fn to_data(self, cell: &Cell) -> Result<Data, DataError> {
        match (self, cell) {
            (_, Cell::Null) => Err(DataError::Null),
            (Kind::Byte, Cell::Integer(number)) => Natural::<i8>::to_data(&(*number as i8)),
            (Kind::Short, Cell::Integer(number)) => Natural::<i16>::to_data(&(*number as i16)),
            (Kind::Int, Cell::Integer(number)) => Natural::<i32>::to_data(&(*number as i32)),
            (_, Cell::Integer(number)) => Natural::<i64>::to_data(number),
            (_, Cell::Boolean(value)) => Natural::<bool>::to_data(value),
            (_, Cell::Double(number)) => Natural::<f64>::to_data(number),
            (Kind::Json, Cell::Text(text)) => json_data(text),
            (_, Cell::Text(text)) => Natural::<String>::to_data(text),
            (_, Cell::Bytes(bytes)) => Raw::to_data(bytes),
        }
    }

    /// Of a value by itself, of any type that fits.
    pub(super) fn of_data(self, data: DataRef<'_>) -> Result<Cell, Mistyped> {
        let mistyped = || self.mistyped(format!("{data} of type {}", data.type_id()));
        let read = match self {
            Kind::Boolean => Natural::<bool>::read(data).map(Cell::Boolean),
            Kind::Byte | Kind::Short | Kind::Int | Kind::Long => {
                Natural::<i64>::read(data).map(Cell::Integer)
            }
            Kind::Single | Kind::Double => Natural::<f64>::read(data).map(Cell::Double),
            Kind::Decimal { .. } | Kind::Any => match data.type_id() {
                TypeId::STRING => Natural::<String>::read(data).map(Cell::Text),
                TypeId::BOOLEAN => Natural::<bool>::read(data).map(Cell::Boolean),
                TypeId::FLOAT | TypeId::DOUBLE => Natural::<f64>::read(data).map(Cell::Double),
                TypeId::BIG_INTEGER if self != Kind::Any => {
                    Natural::<i128>::read(data).map(|number| Cell::Text(number.to_string()))
                }
                _ => Natural::<i64>::read(data).map(Cell::Integer),
            },
            Kind::Text | Kind::Uuid | Kind::Time | Kind::Written => {
                Natural::<String>::read(data).map(Cell::Text)
            }
            Kind::Bytes => Raw::read(data).map(Cell::Bytes),
            Kind::Json => {
                let text = Json::<Box<RawValue>>::read(data);
                return text.map(|text| Cell::Text(text.get().to_owned())).map_err(|_| mistyped());
            }
        };
        read.ok().and_then(|cell| self.check(cell).ok()).ok_or_else(mistyped)
    }
}

impl Cell {
    /// For messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Cell::Null => "null".to_owned(),
            Cell::Boolean(value) => value.to_string(),
            Cell::Integer(number) => format!("the integer {number}"),
            Cell::Double(number) => format!("the number {number:?}"),
            Cell::Text(text) => format!("the text {}", shorten(&quoted(text))),
            Cell::Bytes(bytes) => format!("{} bytes", bytes.len()),
        }
    }
}

/// The data of JSON text.
pub(super) fn json_data(text: &str) -> Result<Data, DataError> {
    let text = RawValue::from_string(text.to_owned());
    let text = text.map_err(|error| DataError::Serde(error.to_string()))?;
    Json::<Box<RawValue>>::to_data(&text)
}

/// A text as JSON has it.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The fewest digits that are this number.
fn digits(number: f64) -> String {
    serde_json::Value::from(number).to_string()
}

/// Whether a text is a number as JSON writes them.
fn is_number(text: &str) -> bool {
    let first = text.trim_start_matches('-').as_bytes().first();
    first.is_some_and(u8::is_ascii_digit)
        && serde_json::from_str::<&RawValue>(text).is_ok()
        && !text.ends_with(char::is_whitespace)
}

/// Whether a text is a number of no more digits after the point than a scale, or, where that is negative, of
/// so many zeros before it.
fn is_decimal(text: &str, scale: Option<i16>) -> bool {
    let fits = |scale: i16| {
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let after = number.split_once('.').map_or("", |(_, after)| after).len();
        let digits = number.bytes().rev().filter(u8::is_ascii_digit);
        let zeros = digits.take_while(|digit| *digit == b'0').count();
        let exponent = exponent.parse::<i64>().unwrap_or(i64::MIN);
        let is_zero = number.bytes().all(|byte| !matches!(byte, b'1'..=b'9'));
        is_zero || (after as i64 - zeros as i64).saturating_sub(exponent) <= i64::from(scale)
    };
    is_number(text) && scale.is_none_or(fits)
}

/// Whether 4 bytes of floating point have the same digits.
fn is_single(number: f64) -> bool {
    (number as f32).is_finite() && (number as f32).to_string().parse() == Ok(number)
}

/// Whether a text is a UUID as databases write them: another way to write it would be another key.
fn is_uuid(text: &str) -> bool {
    let fits = |(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

/// Whether a text is a time that means the same for everybody: databases read "now" and 1/2/2026, too.
fn is_time(text: &str) -> bool {
    let date = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let is_iso = text.len() - date.len() >= 4
        && date.starts_with('-')
        && date.bytes().all(|byte| b"0123456789-:.+ TZBC".contains(&byte));
    is_iso || matches!(text, "infinity" | "-infinity")
}

/// A number's digits as floating point, where it is not too large.
fn double(text: &str) -> Option<Cell> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).map(Cell::Double)
}

fn of_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let half = |digit: u8| char::from(digit).to_digit(16).map(|half| half as u8);
    let (pairs, rest) = digits.as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(half(*high)? << 4 | half(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

/// The beginning of a text, for messages.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "cell_tests.rs"]
mod tests;
