//! What typed values become, and what is read of what others wrote.

use serde::{Deserialize, Serialize};

use super::*;

fn natural<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + 'static>(
    value: T,
) -> TypeId {
    let data = Natural::<T>::to_data(&value).expect("it has a form");
    assert_eq!(Natural::<T>::read(data.as_ref()), Ok(value));
    data.as_ref().type_id()
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
enum Shape {
    Point,
    Circle(u32),
    Named { name: String, sides: Vec<u8> },
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Id(u64);

#[test]
fn what_hazelcast_has_a_type_for_gets_that_type() {
    let found = [
        (natural(true), TypeId::BOOLEAN),
        (natural(-3i8), TypeId::BYTE),
        (natural(200u8), TypeId::SHORT),
        (natural(-300i16), TypeId::SHORT),
        (natural(60_000u16), TypeId::INTEGER),
        (natural(-7i32), TypeId::INTEGER),
        (natural(u32::MAX), TypeId::LONG),
        (natural(i64::MIN), TypeId::LONG),
        (natural(7u64), TypeId::LONG),
        (natural(u64::MAX), TypeId::BIG_INTEGER),
        (natural(-1i128), TypeId::BIG_INTEGER),
        (natural(u128::MAX), TypeId::BIG_INTEGER),
        (natural(0.5f32), TypeId::FLOAT),
        (natural(0.25f64), TypeId::DOUBLE),
        (natural('\u{df}'), TypeId::STRING),
        (natural("text".to_owned()), TypeId::STRING),
        (natural(Some(5i32)), TypeId::INTEGER),
        (natural(Id(5)), TypeId::LONG),
    ];
    found.into_iter().for_each(|(found, expected)| assert_eq!(found, expected));
}

#[test]
fn values_with_parts_go_by_postcard_and_come_back() {
    for shape in [
        Shape::Point,
        Shape::Circle(3),
        Shape::Named { name: "triangle".to_owned(), sides: vec![3, 4, 5] },
    ] {
        assert_eq!(natural(shape), TypeId::POSTCARD);
    }
    assert_eq!(natural(vec![1u8, 2, 3]), TypeId::POSTCARD);
    assert_eq!(natural(("a".to_owned(), 1)), TypeId::POSTCARD);
    assert_eq!(natural(Some((1, 2))), TypeId::POSTCARD);
}

#[test]
fn what_others_wrote_is_read_where_it_fits() {
    let int = Natural::<i32>::to_data(&-5).expect("a number");
    assert_eq!(Natural::<i64>::read(int.as_ref()), Ok(-5));
    let error = Natural::<u8>::read(int.as_ref()).expect_err("it has a sign");
    assert!(error.to_string().contains("-5"), "{error}");
    let unit = DataRef::new(TypeId::CHAR, 0, &[0x20, 0xac]);
    assert_eq!(Natural::<char>::read(unit), Ok('\u{20ac}'));
    let half = DataRef::new(TypeId::CHAR, 0, &[0xd8, 0]);
    assert!(Natural::<char>::read(half).is_err());
    let json = DataRef::new(TypeId::JSON, 0, b"\0\0\0\x0b{\"a\":[1,2]}");
    let map = Natural::<std::collections::BTreeMap<String, Vec<u8>>>::read(json).expect("JSON");
    assert_eq!(map["a"], [1, 2]);
}

#[test]
fn what_has_no_value_or_is_another_type_is_refused_by_name() {
    let mut out = b"before".to_vec();
    assert_eq!(natural_write::append(&None::<u8>, &mut out), Err(DataError::Null));
    assert_eq!(natural_write::append(&(), &mut out), Err(DataError::Null));
    assert_eq!(out, b"before");
    let text = Natural::<String>::to_data(&"text".to_owned()).expect("text");
    let error = Raw::read(text.as_ref()).expect_err("text");
    assert_eq!(error.to_string(), "type id -11 (string), where a byte array, -12 is expected");
    let portable = DataRef::new(TypeId(-1), 0, &[]);
    assert!(matches!(Natural::<u8>::read(portable), Err(DataError::Type { .. })));
    for (type_id, payload) in [
        (TypeId::LONG, &[0; 7][..]),
        (TypeId::LONG, &[0; 9]),
        (TypeId::STRING, &[0, 0, 0]),
        (TypeId::STRING, &[0, 0, 0, 2, b'a']),
        (TypeId::STRING, &[0, 0, 0, 1, b'a', b'b']),
        (TypeId::STRING, &[0xff; 4]),
        (TypeId::STRING, &[0, 0, 0, 1, 0xff]),
        (TypeId::BIG_INTEGER, &[0; 4]),
    ] {
        let data = DataRef::new(type_id, 0, payload);
        assert!(Natural::<String>::read(data).is_err(), "{type_id}: {payload:?}");
        assert!(Natural::<i64>::read(data).is_err(), "{type_id}: {payload:?}");
    }
}

#[test]
fn raw_bytes_plain_data_and_json_come_back() {
    for bytes in [&b""[..], &[7; 300]] {
        let data = Raw::to_data(bytes).expect("bytes");
        assert_eq!(data.stored().len(), bytes.len() + 5);
        assert_eq!(Raw::read(data.as_ref()).as_deref(), Ok(bytes));
    }
    let plain = PlainData::<[u32; 3]>::to_data(&[1, 2, 3]).expect("plain data");
    assert_eq!(PlainData::<[u32; 3]>::read(plain.as_ref()), Ok([1, 2, 3]));
    assert!(PlainData::<[u32; 2]>::read(plain.as_ref()).is_err());
    let json = Json::<Shape>::to_data(&Shape::Circle(4)).expect("JSON");
    assert_eq!(json.as_ref().payload(), b"\0\0\0\x0c{\"Circle\":4}");
    assert_eq!(Json::<Shape>::read(json.as_ref()), Ok(Shape::Circle(4)));
}
