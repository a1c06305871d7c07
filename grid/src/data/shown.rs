//! How data read in messages: what it says where that is short and known, else its type and first bytes.

use std::fmt;

use super::natural_read::counted;
use super::{Data, DataRef, TypeId};

/// Characters of a text, or bytes of anything else, that are shown.
const SHOWN: usize = 40;

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl fmt::Display for DataRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = self.payload();
        match (self.type_id(), payload) {
            (TypeId::BYTE, [byte]) => write!(f, "{}", *byte as i8),
            (TypeId::BOOLEAN, [byte @ (0 | 1)]) => write!(f, "{}", *byte == 1),
            (TypeId::SHORT, &[a, b]) => write!(f, "{}", i16::from_be_bytes([a, b])),
            (TypeId::INTEGER, &[a, b, c, d]) => write!(f, "{}", i32::from_be_bytes([a, b, c, d])),
            (TypeId::LONG, _) if payload.len() == 8 => {
                write!(f, "{}", i64::from_be_bytes(payload.try_into().expect("eight bytes")))
            }
            (TypeId::STRING | TypeId::JSON, _) => {
                let text = counted("text", payload).ok().and_then(|text| str::from_utf8(text).ok());
                match text {
                    Some(text) => quoted(text, f),
                    None => bytes(self, f),
                }
            }
            _ => bytes(self, f),
        }
    }
}

fn quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match text.char_indices().nth(SHOWN) {
        None => write!(f, "{text:?}"),
        Some((end, _)) => write!(f, "{:?}... ({} bytes)", &text[..end], text.len()),
    }
}

fn bytes(data: &DataRef<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let payload = data.payload();
    write!(f, "{} bytes of type {}: 0x", payload.len(), data.type_id())?;
    payload.iter().take(SHOWN).try_for_each(|byte| write!(f, "{byte:02x}"))?;
    if payload.len() > SHOWN { write!(f, "...") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Natural, Serial};

    fn shown<T: Serial>(value: &T::Encode) -> String {
        let mut stored = Vec::new();
        T::append(value, &mut stored).expect("it has bytes");
        DataRef::from_stored(&stored).expect("just written").to_string()
    }

    #[test]
    fn keys_in_messages_read_as_what_they_are_and_are_never_long() {
        assert_eq!(shown::<Natural<i8>>(&-3), "-3");
        assert_eq!(shown::<Natural<bool>>(&true), "true");
        assert_eq!(shown::<Natural<i16>>(&-300), "-300");
        assert_eq!(shown::<Natural<i32>>(&70_000), "70000");
        assert_eq!(shown::<Natural<i64>>(&-5_000_000_000), "-5000000000");
        assert_eq!(shown::<Natural<String>>(&"tea \"A\"".to_owned()), "\"tea \\\"A\\\"\"");
        let long = shown::<Natural<String>>(&"\u{f6}".repeat(1_000));
        assert_eq!(long, format!("\"{}\"... (2000 bytes)", "\u{f6}".repeat(SHOWN)));
        let pair = DataRef::new(TypeId(7), 0, &[1, 0xab]);
        assert_eq!(pair.to_string(), "2 bytes of type 7: 0x01ab");
        let broken = DataRef::new(TypeId::STRING, 0, &[0, 0, 0, 9, b'x']);
        assert_eq!(broken.to_string(), "5 bytes of type -11 (string): 0x0000000978");
        let many = DataRef::new(TypeId(7), 0, &[0; 1_000]).to_string();
        assert!(many.len() < 120 && many.ends_with("..."), "{many}");
    }
}
