//! A table's columns, and how they are read and written.
//!
//! Invariants: results have PostgreSQL's own types only (bool, int8, float8, bytea and text), as others would
//! be asked for by further statements; a value is cast to its column's type without length or scale, so that
//! what is too long is an error of the assignment and not cut.

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::{Parameter, Postgres};
use crate::sql::SqlError;
use crate::sql::cell::{Cell, Kind};
use crate::sql::statements::identifier;
use crate::sql::table::Column;

/// A column, and what PostgreSQL calls its type.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) column: Column,
    type_name: String,
    /// Whether it alone tells rows apart; of a view nobody knows.
    pub(super) is_unique: bool,
}

/// What there is of a table. Columns that are computed are left out: nobody can write them.
const COLUMNS: &str = "
    SELECT a.attname::text, t.typname::text, format_type(t.oid, NULL),
        CASE WHEN t.typname = 'numeric' AND m.typmod >= 4
            THEN ((((m.typmod - 4) & 2047) # 1024) - 1024)::int8 END,
        coalesce(l.collisdeterministic, true),
        c.relkind NOT IN ('r', 'p') OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid
            AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
            AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type own ON own.oid = a.atttypid
    JOIN pg_type t ON t.oid = CASE WHEN own.typtype = 'd' THEN own.typbasetype ELSE own.oid END
    CROSS JOIN LATERAL (SELECT CASE WHEN own.typtype = 'd' THEN own.typtypmod ELSE a.atttypmod END) m(typmod)
    LEFT JOIN pg_collation l ON l.oid = a.attcollation
    WHERE c.oid = to_regclass($1) AND a.attgenerated = ''
    ORDER BY a.attnum";

/// The columns of a table; none if it is not there.
pub(super) async fn of_table(postgres: &Postgres, place: &str) -> Result<Vec<Found>, SqlError> {
    let rows = postgres.ask(COLUMNS, &[(&place, Type::TEXT)]).await?;
    let found = rows.iter().map(|row| {
        let (name, base, type_name): (String, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let scale = row.try_get::<_, Option<i64>>(3)?.map(|scale| scale as i16);
        let kind = kind(&base, scale, row.try_get(4)?);
        let column = Column { name, kind };
        Ok(Found { column, type_name, is_unique: row.try_get(5)? })
    });
    found.collect::<Result<_, _>>().map_err(|error| super::asked(COLUMNS, &error))
}

fn kind(base: &str, scale: Option<i16>, is_deterministic: bool) -> Kind {
    match base {
        "bool" => Kind::Boolean,
        "int2" => Kind::Short,
        "int4" => Kind::Int,
        "int8" => Kind::Long,
        "float4" => Kind::Single,
        "float8" => Kind::Double,
        "numeric" => Kind::Decimal { scale },
        // Texts that are equal and not the same would be two keys of one row.
        "text" | "varchar" | "name" if is_deterministic => Kind::Text,
        "uuid" => Kind::Uuid,
        "bytea" => Kind::Bytes,
        "json" | "jsonb" => Kind::Json,
        "date" | "timestamp" | "timestamptz" => Kind::Time,
        _ => Kind::Written,
    }
}

impl Found {
    fn name(&self) -> String {
        identifier(&self.column.name)
    }

    /// What is selected, of a type that [`cell`] reads. Times with a zone are those of UTC, whatever the
    /// session's is.
    pub(super) fn selected(&self) -> String {
        let name = self.name();
        match (self.column.kind, self.type_name.as_str()) {
            (Kind::Boolean | Kind::Double | Kind::Bytes, _) => name,
            (Kind::Short | Kind::Int | Kind::Long, _) => format!("{name}::int8"),
            // The fewest digits that are this number, as a number of 8 bytes.
            (Kind::Single, _) => format!("{name}::text::float8"),
            (_, "timestamp without time zone" | "date") => format!("to_jsonb({name}) #>> '{{}}'"),
            (_, "timestamp with time zone") => format!(
                "CASE WHEN isfinite({name}) THEN \
                     regexp_replace(to_jsonb({name} AT TIME ZONE 'UTC') #>> '{{}}', '( BC)?$', 'Z\\1') \
                 ELSE {name}::text END"
            ),
            _ => format!("{name}::text"),
        }
    }

    /// What is written, of a value that has the type of [`Array`]'s elements.
    pub(super) fn written(&self, value: &str) -> String {
        match self.type_name.as_str() {
            // Cut to one character by a cast; an assignment pads, and refuses what is too long.
            "character" | "bit" => value.to_owned(),
            type_name => format!("{value}::{type_name}"),
        }
    }

    /// A parameter as an array of this column's type, in the way that its index serves.
    pub(super) fn array(&self, parameter: usize) -> String {
        format!("${parameter}::{}[]", self.type_name)
    }
}

/// The values of one column, of many rows, as a parameter.
pub(super) struct Array {
    values: Box<dyn ToSql + Sync + Send>,
    array_type: Type,
}

impl Array {
    pub(super) fn new(kind: Kind, cells: impl Iterator<Item = Cell>) -> Array {
        fn of<T: ToSql + Sync + Send + 'static>(
            cells: impl Iterator<Item = Cell>,
            value: impl Fn(Cell) -> Option<T>,
        ) -> Box<dyn ToSql + Sync + Send> {
            Box::new(cells.map(value).collect::<Vec<_>>())
        }
        let (values, array_type) = match kind {
            Kind::Boolean => (of(cells, |cell| matches_of!(cell, Cell::Boolean)), Type::BOOL_ARRAY),
            Kind::Byte | Kind::Short | Kind::Int | Kind::Long => {
                (of(cells, |cell| matches_of!(cell, Cell::Integer)), Type::INT8_ARRAY)
            }
            Kind::Single | Kind::Double => {
                (of(cells, |cell| matches_of!(cell, Cell::Double)), Type::FLOAT8_ARRAY)
            }
            Kind::Bytes => (of(cells, |cell| matches_of!(cell, Cell::Bytes)), Type::BYTEA_ARRAY),
            _ => (of(cells, |cell| matches_of!(cell, Cell::Text)), Type::TEXT_ARRAY),
        };
        Array { values, array_type }
    }

    pub(super) fn parameter(&self) -> Parameter<'_> {
        (&*self.values, self.array_type.clone())
    }
}

/// What a cell holds, of one form; nothing of null.
macro_rules! matches_of {
    ($cell:expr, $form:path) => {
        match $cell {
            $form(value) => Some(value),
            Cell::Null => None,
            other => unreachable!("{other:?} is of another kind than its column"),
        }
    };
}
use matches_of;

/// What a row has in a column.
pub(super) fn cell(row: &Row, at: usize) -> Result<Cell, tokio_postgres::Error> {
    let cell = match *row.columns()[at].type_() {
        Type::BOOL => row.try_get::<_, Option<_>>(at)?.map(Cell::Boolean),
        Type::INT8 => row.try_get::<_, Option<_>>(at)?.map(Cell::Integer),
        Type::FLOAT8 => row.try_get::<_, Option<_>>(at)?.map(Cell::Double),
        Type::BYTEA => row.try_get::<_, Option<_>>(at)?.map(Cell::Bytes),
        _ => row.try_get::<_, Option<_>>(at)?.map(Cell::Text),
    };
    Ok(cell.unwrap_or(Cell::Null))
}
