//! A table as a map's settings want it: its columns, and rows as entries.
//!
//! Invariants: a table is checked against the settings before it is used, and all that is wrong has a name;
//! cells stand in the order of [`Table::columns`], the id first.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::SqlError;
use super::cell::{Cell, Kind, Mistyped, json_data, quoted};
use crate::data::{Data, Json, Serial};
use crate::map_store::Properties;

/// What the properties of a map store say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Settings {
    pub(super) table: String,
    id: String,
    columns: Option<Vec<String>>,
    is_single: bool,
    pub(super) loads_all_keys: bool,
}

const EXTERNAL_NAME: &str = "external-name";
const ID_COLUMN: &str = "id-column";
const COLUMNS: &str = "columns";
const SINGLE: &str = "single-column-as-value";
const LOAD_ALL_KEYS: &str = "load-all-keys";
const TYPE_NAME: &str = "type-name";

const KNOWN: [&str; 6] = [EXTERNAL_NAME, ID_COLUMN, COLUMNS, SINGLE, LOAD_ALL_KEYS, TYPE_NAME];

impl Settings {
    pub(super) fn new(properties: &Properties, map: &str) -> Result<Settings, SqlError> {
        if let Some(property) = properties.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            let (property, known) = (property.clone(), KNOWN.join(", "));
            return Err(SqlError::UnknownProperty { property, known });
        }
        let text = |property: &'static str, default: &str| {
            let found = properties.get(property).map_or(default, |found| found.trim());
            match found.is_empty() {
                true => Err(bad(property, "a name", found)),
                false => Ok(found.to_owned()),
            }
        };
        let flag = |property: &'static str, default: bool| match properties.get(property) {
            None => Ok(default),
            Some(found) => match found.trim().to_ascii_lowercase().as_str() {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(bad(property, "true or false", found)),
            },
        };
        let columns = properties.get(COLUMNS).map(|names| {
            let each = names.split(',').map(|name| name.trim().to_owned());
            let each: Vec<_> = each.collect();
            match each.iter().any(String::is_empty) {
                true => Err(bad(COLUMNS, "names separated by commas", names)),
                false => Ok(each),
            }
        });
        Ok(Settings {
            table: text(EXTERNAL_NAME, map)?,
            id: text(ID_COLUMN, "id")?,
            columns: columns.transpose()?,
            is_single: flag(SINGLE, false)?,
            loads_all_keys: flag(LOAD_ALL_KEYS, true)?,
        })
    }
}

fn bad(property: &'static str, expected: &'static str, found: &str) -> SqlError {
    SqlError::BadProperty { property, expected, found: found.to_owned() }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// A table, and what of it a map uses.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    /// The id's column, and then the value's.
    pub(super) columns: Vec<Column>,
    /// Whether the value has the id, too.
    has_id: bool,
    is_single: bool,
}

impl Table {
    /// What the settings want of a table that has these columns.
    pub(super) fn new(settings: &Settings, found: &[Column]) -> Result<Table, SqlError> {
        let table = || settings.table.clone();
        if found.is_empty() {
            return Err(SqlError::NoTable { table: table() });
        }
        let column = |name: &str, wanted_by| {
            let exact = found.iter().find(|column| column.name == name);
            let alike = || found.iter().find(|column| column.name.eq_ignore_ascii_case(name));
            exact.or_else(alike).cloned().ok_or_else(|| SqlError::NoColumn {
                table: table(),
                column: name.to_owned(),
                wanted_by,
                known: names(found),
            })
        };
        let id = column(&settings.id, "property \"id-column\"")?;
        if id.kind.key_type().is_none() {
            let reason = format!("{} is no key", id.kind.name());
            return Err(SqlError::NoId { table: table(), column: id.name, reason });
        }
        let wanted = match &settings.columns {
            None => found.to_vec(),
            Some(names) => names
                .iter()
                .map(|name| column(name, "property \"columns\""))
                .collect::<Result<Vec<_>, _>>()?,
        };
        let has_id = wanted.contains(&id) && !settings.is_single;
        let mut columns = vec![id];
        for column in wanted {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        if settings.is_single && columns.len() != 2 {
            return Err(SqlError::NotSingle { table: table(), count: columns.len() - 1 });
        }
        Ok(Table { name: table(), columns, has_id, is_single: settings.is_single })
    }

    /// The id of a key.
    pub(super) fn id_of(&self, key: &Data) -> Result<Cell, SqlError> {
        let id = &self.columns[0];
        let expected = id.kind.key_type().expect("looked at when the table was");
        let found = key.as_ref().type_id();
        if found != expected {
            return Err(SqlError::KeyType {
                table: self.name.clone(),
                column: id.name.clone(),
                key: Box::new(key.clone()),
                found: found.to_string(),
                expected: expected.to_string(),
            });
        }
        id.kind.of_data(key.as_ref()).map_err(|wrong| self.mistyped(id, &key.to_string(), wrong))
    }

    /// The key of an id.
    pub(super) fn key_of(&self, id: Cell) -> Result<Data, SqlError> {
        let (column, shown) = (&self.columns[0], id.shown());
        let id = column.kind.check(id).map_err(|wrong| self.mistyped(column, &shown, wrong))?;
        Ok(column.kind.to_data(&id)?)
    }

    /// The value of a key, of what the row has in all columns.
    pub(super) fn value_of(&self, key: &Data, cells: Vec<Cell>) -> Result<Data, SqlError> {
        let mut json = String::from("{");
        for (at, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            let wrong = |wrong| self.mistyped(column, &key.to_string(), wrong);
            if at == 0 && !self.has_id {
                continue;
            }
            let cell = column.kind.check(cell).map_err(wrong)?;
            if self.is_single {
                let null =
                    || wrong(Mistyped { expected: column.kind.name(), found: Cell::Null.shown() });
                return match cell {
                    Cell::Null => Err(null()),
                    cell => Ok(column.kind.to_data(&cell)?),
                };
            }
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&quoted(&column.name));
            json.push(':');
            column.kind.append_json(&cell, &mut json);
        }
        json.push('}');
        Ok(json_data(&json)?)
    }

    /// The cells of all columns, of an entry.
    pub(super) fn cells_of(&self, key: &Data, value: &Data) -> Result<Vec<Cell>, SqlError> {
        let id = self.id_of(key)?;
        if self.is_single {
            let column = &self.columns[1];
            let cell = column.kind.of_data(value.as_ref());
            let cell = cell.map_err(|wrong| self.mistyped(column, &key.to_string(), wrong))?;
            return Ok(vec![id, cell]);
        }
        let fields = Json::<HashMap<String, Box<RawValue>>>::read(value.as_ref());
        let mut fields = fields.map_err(|error| SqlError::NoRecord {
            table: self.name.clone(),
            key: Box::new(key.clone()),
            reason: error.to_string(),
        })?;
        let mut cells = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let cell = fields
                .remove(&column.name)
                .map_or(Ok(Cell::Null), |field| column.kind.of_json(&field));
            cells.push(cell.map_err(|wrong| self.mistyped(column, &key.to_string(), wrong))?);
        }
        if let Some(field) = fields.into_keys().min() {
            return Err(SqlError::UnknownField {
                table: self.name.clone(),
                key: Box::new(key.clone()),
                field,
                known: names(&self.columns),
            });
        }
        if cells[0] != Cell::Null && cells[0] != id {
            let found = cells[0].shown();
            return Err(SqlError::OtherId { key: Box::new(key.clone()), found });
        }
        cells[0] = id;
        Ok(cells)
    }

    fn mistyped(&self, column: &Column, key: &str, wrong: Mistyped) -> SqlError {
        SqlError::Mistyped {
            table: self.name.clone(),
            column: column.name.clone(),
            key: key.to_owned(),
            expected: wrong.expected,
            found: wrong.found,
        }
    }
}

fn names(columns: &[Column]) -> String {
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    names.join(", ")
}
