//! The statements for a table that is used, and what databases have in common of their text.
//!
//! Invariants: names in statements are quoted, so that none is taken for anything else; keys are read in the
//! order of the database, page by page, each after the last one of the page before.

use std::sync::{Arc, Mutex, PoisonError};

use super::SqlError;
use super::table::{Settings, Table};

/// Keys that are read at a time.
pub(super) const PAGE: usize = 10_000;

/// A table that is used, with the statements for it.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) table: Table,
    pub(super) select: String,
    pub(super) upsert: String,
    pub(super) delete: String,
    /// The first keys, and those after one; nothing where no keys are loaded.
    pub(super) keys: Option<(String, String)>,
}

/// The table of a map store, once `init` has named it.
#[derive(Debug, Default)]
pub(super) struct Binding(Mutex<Option<Arc<Bound>>>);

impl Binding {
    pub(super) fn set(&self, bound: Bound) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(bound));
    }

    /// # Panics
    /// Before it was set: the grid calls `init` first.
    pub(super) fn get(&self) -> Arc<Bound> {
        let bound = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bound.clone().expect("nothing is asked before init")
    }
}

/// A table's name by the settings: its schema, where one stands before a dot, and its own.
pub(super) fn schema_and_name(settings: &Settings) -> (Option<&str>, &str) {
    match settings.table.split_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, settings.table.as_str()),
    }
}

/// The same as it stands in statements.
pub(super) fn place(settings: &Settings) -> String {
    let (schema, name) = schema_and_name(settings);
    let schema = schema.map_or_else(String::new, |schema| format!("{}.", identifier(schema)));
    schema + &identifier(name)
}

/// A name as it stands in statements.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The names of a table's columns as they stand in statements, the id's first.
pub(super) fn columns(table: &Table) -> Vec<String> {
    table.columns.iter().map(|column| identifier(&column.name)).collect()
}

/// What becomes of a new row when there is one with its id.
pub(super) fn on_conflict(columns: &[String]) -> String {
    let sets = columns[1..].iter().map(|name| format!("{name} = excluded.{name}"));
    let sets = sets.collect::<Vec<_>>().join(", ");
    let update = if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {sets}") };
    format!("ON CONFLICT ({}) DO {update}", columns[0])
}

/// Without a unique id a key would be several rows.
pub(super) fn not_unique(table: &Table) -> SqlError {
    SqlError::NoId {
        table: table.name.clone(),
        column: table.columns[0].name.clone(),
        reason: "it is neither the primary key nor UNIQUE by itself".to_owned(),
    }
}
