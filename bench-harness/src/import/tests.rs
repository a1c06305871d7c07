//! Tests of the three formats: the exact text of the contract, and every way a file can be wrong.

use std::io::Cursor;

use super::lines::Lines;
use super::*;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn read(format: Format, key: Option<&str>, text: &[u8]) -> Result<Pairs, ReadError> {
    let input = BufReader::with_capacity(7, Cursor::new(text.to_vec()));
    let mut records = records(input, format, key)?;
    let mut out = Vec::new();
    while let Some(record) = records.next()? {
        out.push((record.key.to_vec(), record.value.to_vec()));
    }
    Ok(out)
}

fn pairs(expected: &[(&[u8], &[u8])]) -> Pairs {
    expected.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

fn refusal(format: Format, key: Option<&str>, text: &[u8]) -> String {
    read(format, key, text).expect_err("taken").to_string()
}

#[test]
fn tsv_takes_bytes_as_they_are() {
    let text = b"a\t1\tand more\nb\n\n\xff\xfe\t\x00\r\n\"q\"\t\"x\\n\"\nlast\tno newline";
    let expected: &[(&[u8], &[u8])] = &[
        (b"a", b"1\tand more"),
        (b"b", b""),
        (b"\xff\xfe", b"\x00\r"),
        (b"\"q\"", b"\"x\\n\""),
        (b"last", b"no newline"),
    ];
    assert_eq!(read(Format::Tsv, None, text).expect("read"), pairs(expected));
}

#[test]
fn an_empty_key_is_an_error_with_its_line() {
    assert!(refusal(Format::Tsv, None, b"a\t1\n\n\tvalue\n").contains("line 3"));
    assert!(refusal(Format::Csv, None, b"k,v\na,1\n,2\n").contains("line 3"));
    assert!(refusal(Format::Jsonl, None, b"{\"k\":1}\n{\"k\":\"\"}\n").contains("line 2"));
}

#[test]
fn tsv_with_a_named_key_has_a_header() {
    let text = b"id\tname\tnote\n1\tx\tfirst\n2\ty\n";
    let expected: &[(&[u8], &[u8])] = &[(b"x", b"1\tfirst"), (b"y", b"2")];
    assert_eq!(read(Format::Tsv, Some("name"), text).expect("read"), pairs(expected));
    assert!(refusal(Format::Tsv, Some("none"), text).contains("no column"));
    assert!(refusal(Format::Tsv, Some("note"), text).contains("line 3"));
    assert!(refusal(Format::Tsv, Some("note"), b"").contains("empty"));
}

#[test]
fn csv_values_are_the_remaining_fields_as_one_record() {
    let text = b"id,name,note\r\n1,\"a,b\",\"line\nbreak \"\"q\"\"\"\r\n2,,\r\n";
    let first: &[(&[u8], &[u8])] = &[(b"1", b"\"a,b\",\"line\nbreak \"\"q\"\"\""), (b"2", b",")];
    assert_eq!(read(Format::Csv, None, text).expect("read"), pairs(first));
    let text = b"id,name\n1,x\n";
    assert_eq!(read(Format::Csv, Some("name"), text).expect("read"), pairs(&[(b"x", b"1")]));
    assert_eq!(read(Format::Csv, None, b"id\n1\n").expect("read"), pairs(&[(b"1", b"")]));
    assert!(refusal(Format::Csv, None, b"id,name\n1\n").contains("line 2"));
    assert!(refusal(Format::Csv, Some("x"), b"id,name\n").contains("no column"));
}

#[test]
fn jsonl_values_are_the_lines_themselves() {
    let text = b"{\"k\": \"a\\u00e9\", \"v\": [1, 2]}\n\n {\"n\": 1e3, \"k\": true} \n";
    let first: &[(&[u8], &[u8])] = &[
        ("a\u{e9}".as_bytes(), b"{\"k\": \"a\\u00e9\", \"v\": [1, 2]}"),
        (b"1e3", b" {\"n\": 1e3, \"k\": true} "),
    ];
    assert_eq!(read(Format::Jsonl, None, text).expect("read"), pairs(first));
    let named = read(Format::Jsonl, Some("k"), text).expect("read");
    assert_eq!(named[1].0, b"true");
    assert_eq!(read(Format::Jsonl, Some("k"), b"{\"k\":1,\"k\":2}").expect("read")[0].0, b"2");
}

#[test]
fn jsonl_that_is_no_object_with_a_key_is_refused_with_its_line() {
    for text in [
        &b"{\"a\":1}\n[1]\n"[..],
        b"{\"a\":1}\n{\"a\":1\n",
        b"{\"a\":1}\n{\"a\":1} x\n",
        b"{\"a\":1}\n{}\n",
        b"{\"a\":1}\n{\"a\":null}\n",
        b"{\"a\":1}\n{\"a\":{}}\n",
        b"{\"a\":1}\n{\"a\":\"\xff\"}\n",
    ] {
        let message = refusal(Format::Jsonl, None, text);
        assert!(message.starts_with("line 2:") && !message.contains("line 1"), "{message}");
    }
    assert!(refusal(Format::Jsonl, Some("b"), b"{\"a\":1}\n").contains("'b'"));
}

#[test]
fn a_line_longer_than_any_record_is_refused_before_it_fills_the_memory() {
    let mut lines = Lines::with_longest(&b"12345678\n123456789\nx\n"[..], 8);
    assert!(lines.advance().expect("eight fit"));
    assert_eq!(lines.current(), b"12345678");
    let message = lines.advance().expect_err("nine do not").to_string();
    assert!(message.contains("line 2"), "{message}");
}

#[test]
fn a_value_of_many_megabytes_arrives_whole() {
    let mut text = b"big\t".to_vec();
    text.resize(5_000_000, b'x');
    text.push(b'\n');
    let records = read(Format::Tsv, None, &text).expect("read");
    assert_eq!(records[0].1.len(), 5_000_000 - 4);
}

#[test]
fn a_suffix_that_names_no_format_is_refused() {
    assert_eq!(format_of(Path::new("a/b.jsonl")).expect("known"), Format::Jsonl);
    assert_eq!(format_of(Path::new("a/b.txt")).expect_err("unknown").exit_status(), 2);
}
