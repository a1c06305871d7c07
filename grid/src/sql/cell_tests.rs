//! Cells by hand, and that their forms come back.

use proptest::prelude::*;

use super::*;

const DECIMAL: Kind = Kind::Decimal { scale: None };

const ALL: [Kind; 15] = [
    Kind::Boolean,
    Kind::Byte,
    Kind::Short,
    Kind::Int,
    Kind::Long,
    Kind::Single,
    Kind::Double,
    DECIMAL,
    Kind::Text,
    Kind::Uuid,
    Kind::Time,
    Kind::Written,
    Kind::Bytes,
    Kind::Json,
    Kind::Any,
];

fn json(kind: Kind, cell: &Cell) -> String {
    let mut json = String::new();
    kind.append_json(cell, &mut json);
    json
}

fn of_json(kind: Kind, json: &str) -> Result<Cell, Mistyped> {
    kind.of_json(&RawValue::from_string(json.to_owned()).expect("JSON"))
}

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        Just(Cell::Null),
        any::<bool>().prop_map(Cell::Boolean),
        any::<i64>().prop_map(Cell::Integer),
        any::<i8>().prop_map(|number| Cell::Integer(number.into())),
        any::<f64>().prop_map(Cell::Double),
        any::<String>().prop_map(Cell::Text),
        any::<i128>().prop_map(|number| Cell::Text(number.to_string())),
        Just(Cell::Text(r#"{"a": [1, null, "\\x"]}"#.to_owned())),
        any::<Vec<u8>>().prop_map(Cell::Bytes),
    ]
}

proptest! {
    #[test]
    fn what_fits_a_column_comes_back_as_json_and_by_itself(cell in cell()) {
        for kind in ALL {
            let Ok(cell) = kind.check(cell.clone()) else { continue };
            prop_assert_eq!(of_json(kind, &json(kind, &cell)), Ok(cell.clone()), "{:?}", kind);
            if cell != Cell::Null {
                let data = kind.to_data(&cell).expect("data");
                prop_assert_eq!(kind.of_data(data.as_ref()), Ok(cell.clone()), "{:?}", kind);
                if let Some(expected) = kind.key_type() {
                    prop_assert_eq!(data.as_ref().type_id(), expected);
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_never_rounded_or_cut() {
    let refused = [
        (Kind::Boolean, "1"),
        (Kind::Byte, "128"),
        (Kind::Short, "-32769"),
        (Kind::Int, "2147483648"),
        (Kind::Long, "9223372036854775808"),
        (Kind::Long, "1.5"),
        (Kind::Long, "1e3"),
        (Kind::Long, "\"7\""),
        (Kind::Double, "1e999"),
        (Kind::Double, "\"1\""),
        (DECIMAL, "\"1\""),
        (Kind::Text, "1"),
        (Kind::Bytes, "\"00\""),
        (Kind::Bytes, "\"\\\\x0\""),
        (Kind::Bytes, "\"\\\\x0g\""),
        (Kind::Any, "{}"),
    ];
    for (kind, json) in refused {
        let found = of_json(kind, json);
        assert_eq!(found, Err(Mistyped { expected: kind.name(), found: json.to_owned() }));
    }
    let refused = [
        (Kind::Boolean, Cell::Integer(2), "the integer 2"),
        (Kind::Int, Cell::Integer(1 << 31), "the integer 2147483648"),
        (Kind::Int, Cell::Text("7".to_owned()), "the text \"7\""),
        (Kind::Int, Cell::Double(7.0), "the number 7.0"),
        (Kind::Double, Cell::Integer(1), "the integer 1"),
        (DECIMAL, Cell::Text("1,5".to_owned()), "the text \"1,5\""),
        (DECIMAL, Cell::Text(" 15".to_owned()), "the text \" 15\""),
        (Kind::Json, Cell::Text("{".to_owned()), "the text \"{\""),
        (Kind::Text, Cell::Bytes(vec![0]), "1 bytes"),
        (Kind::Any, Cell::Double(f64::NAN), "the number NaN"),
    ];
    for (kind, cell, shown) in refused {
        let found = kind.check(cell).map_err(|wrong| wrong.found);
        assert_eq!(found, Err(shown.to_owned()), "{kind:?}");
    }
}

#[test]
fn numbers_keep_all_their_digits() {
    let long = "3.14159265358979323846264338327950288419716939937510";
    let cell = of_json(DECIMAL, long).expect("a number");
    assert_eq!(json(DECIMAL, &cell), long);
    let cell = of_json(Kind::Json, "[1.10, 123456789012345678901234567890]").expect("JSON");
    assert_eq!(json(Kind::Json, &cell), "[1.10, 123456789012345678901234567890]");
}

#[test]
fn a_number_has_no_digit_that_the_columns_scale_would_round_away() {
    for (text, least) in [
        ("0", -5),
        ("0.00e9", -5),
        ("1200", -2),
        ("12e2", -2),
        ("1.2e3", -2),
        ("10", -1),
        ("7", 0),
        ("-1.50", 1),
        ("1.50e-1", 2),
        ("100.001", 3),
    ] {
        for scale in -5..5 {
            let fits = of_json(Kind::Decimal { scale: Some(scale) }, text).is_ok();
            assert_eq!(fits, scale >= least, "{text} of scale {scale}");
        }
    }
}

#[test]
fn a_single_value_is_read_of_every_type_that_fits() {
    let of = |kind: Kind, data: Result<Data, DataError>| kind.of_data(data.expect("data").as_ref());
    assert_eq!(of(Kind::Long, Natural::<i32>::to_data(&7)), Ok(Cell::Integer(7)));
    assert_eq!(of(Kind::Byte, Natural::<i64>::to_data(&7)), Ok(Cell::Integer(7)));
    assert_eq!(of(Kind::Any, Natural::<bool>::to_data(&true)), Ok(Cell::Boolean(true)));
    let big = Cell::Text(i128::MAX.to_string());
    assert_eq!(of(DECIMAL, Natural::<i128>::to_data(&i128::MAX)), Ok(big));
    let wrong = of(Kind::Byte, Natural::<i64>::to_data(&700)).expect_err("it is too large");
    assert_eq!((wrong.expected, &*wrong.found), (Kind::Byte.name(), "700 of type -8 (long)"));
    of(Kind::Long, Natural::<String>::to_data(&"7".to_owned())).expect_err("text is no number");
    of(Kind::Json, Natural::<String>::to_data(&"{}".to_owned())).expect_err("text is no JSON");
}
