//! Map stores over tables of SQL databases, from settings alone: Hazelcast's GenericMapStore.
//!
//! A row is an entry: the id column is its key, the others are its value, as a JSON object with the columns'
//! names, or, of a single column, as that itself. Settings are the map store's
//! [properties](crate::MapStoreConfig::properties), under Hazelcast's names:
//!
//! | property | default | |
//! | --- | --- | --- |
//! | `external-name` | the map's name | the table, or `schema.table` |
//! | `id-column` | `id` | the column of the keys, which must be unique |
//! | `columns` | all of them | those of the value, by commas; the id only where it, or nothing, is named |
//! | `single-column-as-value` | `false` | whether the value is the one column that there is beside the id |
//! | `load-all-keys` | `true` | whether all rows are loaded at first |
//! | `type-name` | | accepted, and of no effect: values are JSON |
//!
//! Types are exact, both ways: what is in a row and is not of its column's type, or in a value and does not
//! fit a column, is an error that names table, column and key; numbers of any length keep their digits.
//!
//! | of the column | as a key, or as a single value | in JSON |
//! | --- | --- | --- |
//! | boolean | boolean | `true` |
//! | integers | byte, short, int, long | a number |
//! | floating | double (not as a key) | a number |
//! | decimal | string (not as a key) | a number |
//! | text | string | a string |
//! | UUID | string | a string, lower case with hyphens |
//! | bytes | byte array | a string, `"\\x00ff"` |
//! | JSON | JSON (not as a key) | as it is |
//! | times | string (not as a key) | a string, ISO 8601; of UTC where there is a zone |
//! | other types of a database | string (not as a key) | a string, as the database writes it |
//! | of no declared type | what is there (not as a key, no bytes) | the same |
//!
//! Keys of another type than the column's are refused, as the same row would be two entries: a map over an
//! integer column of 8 bytes has keys of `Natural<i64>`.
//!
//! Here: what a column holds and its two other forms (`cell.rs`), a table as the settings want it
//! (`table.rs`), and a module for each database.

mod cell;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
mod statements;
mod table;

#[cfg(feature = "postgres")]
pub use postgres::{Password, Postgres, PostgresConfig, PostgresMapStore};
#[cfg(feature = "sqlite")]
pub use sqlite::{Sqlite, SqliteMapStore};

use crate::data::{Data, DataError};

/// Why a map store over a table does not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlError {
    /// A property that there is none of.
    #[error("there is no property {property:?}: known are {known}")]
    UnknownProperty {
        /// The property.
        property: String,
        /// Those that there are.
        known: String,
    },
    /// A property whose value cannot be used.
    #[error("property {property:?}: {expected} expected, {found:?} found")]
    BadProperty {
        /// The property.
        property: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// There is no such table.
    #[error(
        "there is no table {table}: property \"external-name\" names it, else it is called as the map is"
    )]
    NoTable {
        /// The table.
        table: String,
    },
    /// The table has no such column.
    #[error("table {table} has no column {column:?} ({wanted_by}): it has {known}")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The property that wants it.
        wanted_by: &'static str,
        /// The columns that there are.
        known: String,
    },
    /// The id column's values cannot be keys.
    #[error("column {column:?} of table {table} cannot be the id: {reason}")]
    NoId {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Why not.
        reason: String,
    },
    /// More than one column, or none, is to be a single value.
    #[error(
        "a value of a single column is wanted, and table {table} has {count} beside its id: name one by \
         property \"columns\""
    )]
    NotSingle {
        /// The table.
        table: String,
        /// How many columns there are.
        count: usize,
    },
    /// A column has, or is to get, what is not of its type.
    #[error("column {column:?} of table {table}, key {key}: {expected} expected, {found} found")]
    Mistyped {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The key of the row.
        key: String,
        /// What the column holds.
        expected: &'static str,
        /// What it has or is to get.
        found: String,
    },
    /// A key that is not of the id column's type.
    #[error(
        "key {key} is of type {found}, and keys of column {column:?} of table {table} are of type {expected}"
    )]
    KeyType {
        /// The table.
        table: String,
        /// The id column.
        column: String,
        /// The key.
        key: Box<Data>,
        /// The key's type.
        found: String,
        /// The type of the column's keys.
        expected: String,
    },
    /// A value that is no JSON object.
    #[error("the value of key {key} is no JSON object with the columns of table {table}: {reason}")]
    NoRecord {
        /// The table.
        table: String,
        /// The key.
        key: Box<Data>,
        /// What is wrong with it.
        reason: String,
    },
    /// A value with a field that the table has no column for.
    #[error("the value of key {key} has a field {field:?}, and table {table} is used with {known}")]
    UnknownField {
        /// The table.
        table: String,
        /// The key.
        key: Box<Data>,
        /// The field.
        field: String,
        /// The columns that there are.
        known: String,
    },
    /// A value whose id is another than its key.
    #[error("the value of key {key} has another id: {found}")]
    OtherId {
        /// The key.
        key: Box<Data>,
        /// The id in the value.
        found: String,
    },
    /// Bytes that are no key and no value.
    #[error(transparent)]
    Data(#[from] DataError),
    /// SQLite's error.
    #[cfg(feature = "sqlite")]
    #[error("{doing}: {source}")]
    Sqlite {
        /// What was being done: an SQL statement, or what stands for it.
        doing: String,
        /// The error.
        source: rusqlite::Error,
    },
    /// Settings by which no PostgreSQL database can be reached.
    #[cfg(feature = "postgres")]
    #[error("PostgreSQL's settings: {problem}")]
    PostgresConfig {
        /// What is wrong with them.
        problem: String,
    },
    /// PostgreSQL's error.
    #[cfg(feature = "postgres")]
    #[error("{doing}: {problem}")]
    Postgres {
        /// What was being done: an SQL statement, or what stands for it.
        doing: String,
        /// The error, with its SQLSTATE.
        problem: String,
    },
    /// A server that says nothing, though its own timeout is over; whether it has done what it was asked
    /// nobody knows.
    #[cfg(feature = "postgres")]
    #[error("{doing}: no answer within {waited:?}")]
    NoAnswer {
        /// What was being done.
        doing: String,
        /// How long it was waited for.
        waited: std::time::Duration,
    },
}
