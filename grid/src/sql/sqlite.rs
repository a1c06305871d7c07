//! Maps over tables of an SQLite database.
//!
//! Invariants: a call sees and changes a table by whole transactions: of a batch all rows or none; writers of
//! one [`Sqlite`] come one after the other, as SQLite has them do anyway, so that none starves behind others
//! that it cannot see; no statement stays open while somebody else is waited for, so nobody waits in a circle
//! for SQLite's lock.
//!
//! What may go wrong: another process has the database locked for longer than the busy timeout, and the call
//! fails; what is written behind is then told again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OpenFlags, Row, TransactionBehavior, params_from_iter};

use super::SqlError;
use super::cell::{Cell, Kind};
use super::statements::{self, Binding, Bound, PAGE};
use super::table::{Column, Settings, Table};
use crate::data::{Data, Untyped};
use crate::map_store::{BlockingMapStore, Entries, Properties, StoreError};

/// Connections that stay open while nobody uses them.
const IDLE_MAX: usize = 8;
/// Prepared statements that a connection keeps.
const STATEMENTS: usize = 64;

/// An SQLite database, for any number of map stores. Cheap to clone; all clones share its connections.
#[derive(Clone)]
pub struct Sqlite(Arc<Database>);

struct Database {
    path: PathBuf,
    busy_timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    /// Held by who writes.
    writes: Mutex<()>,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.0.path).finish_non_exhaustive()
    }
}

/// How a step is named in errors.
fn doing(what: impl Into<String>) -> impl FnOnce(rusqlite::Error) -> SqlError {
    |source| SqlError::Sqlite { doing: what.into(), source }
}

impl Sqlite {
    /// Opens a database, which must be there. A call waits 5 s for a lock of another process.
    ///
    /// # Errors
    /// [`SqlError::Sqlite`].
    pub fn open(path: impl AsRef<Path>) -> Result<Sqlite, SqlError> {
        Sqlite::open_with(path, Duration::from_secs(5))
    }

    /// The same, where a call waits so long for a lock of another process.
    ///
    /// # Errors
    /// [`SqlError::Sqlite`].
    pub fn open_with(path: impl AsRef<Path>, busy_timeout: Duration) -> Result<Sqlite, SqlError> {
        let path = path.as_ref().to_owned();
        let (idle, writes) = (Mutex::default(), Mutex::default());
        let sqlite = Sqlite(Arc::new(Database { path, busy_timeout, idle, writes }));
        sqlite.with(|_| Ok(()))?;
        Ok(sqlite)
    }

    /// Has a connection do something.
    fn with<T>(
        &self,
        act: impl FnOnce(&mut Connection) -> Result<T, SqlError>,
    ) -> Result<T, SqlError> {
        let idle = lock(&self.0.idle).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().map_err(doing(format!("open {}", self.0.path.display())))?,
        };
        let done = act(&mut connection);
        let mut idle = lock(&self.0.idle);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
        done
    }

    fn connect(&self) -> Result<Connection, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.0.path, flags)?;
        connection.busy_timeout(self.0.busy_timeout)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // The file is looked at now, not when somebody asks for a row.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    }

    /// Runs a statement for each of some rows, all of them or none.
    fn write(&self, sql: &str, rows: &[Vec<Cell>]) -> Result<(), SqlError> {
        let _writes = lock(&self.0.writes);
        self.with(|connection| {
            let behavior = TransactionBehavior::Immediate;
            let transaction = connection.transaction_with_behavior(behavior);
            let transaction = transaction.map_err(doing("begin to write"))?;
            {
                let mut statement = transaction.prepare_cached(sql).map_err(doing(sql))?;
                for row in rows {
                    let cells = params_from_iter(row.iter().map(to_value));
                    statement.execute(cells).map_err(doing(sql))?;
                }
            }
            transaction.commit().map_err(doing("commit"))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn to_value(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Boolean(value) => Value::Integer(i64::from(*value)),
        Cell::Integer(number) => Value::Integer(*number),
        Cell::Double(number) => Value::Real(*number),
        Cell::Text(text) => Value::Text(text.clone()),
        Cell::Bytes(bytes) => Value::Blob(bytes.clone()),
    }
}

fn of_value(value: ValueRef<'_>) -> Result<Cell, rusqlite::Error> {
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Integer(number),
        ValueRef::Real(number) => Cell::Double(number),
        ValueRef::Text(text) => Cell::Text(str::from_utf8(text)?.to_owned()),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
    })
}

fn cells(row: &Row<'_>) -> Result<Vec<Cell>, rusqlite::Error> {
    (0..row.as_ref().column_count()).map(|at| of_value(row.get_ref(at)?)).collect()
}

/// What a column of a declared type holds: the type that it says where SQLite would only see a number, and
/// else what SQLite makes of it (<https://www.sqlite.org/datatype3.html>, 3.1).
fn kind(declared: &str) -> Kind {
    let declared = declared.to_ascii_uppercase();
    let first = declared.split(['(', ' ']).next().unwrap_or_default();
    let has = |part: &str| declared.contains(part);
    match first {
        "BOOL" | "BOOLEAN" => Kind::Boolean,
        "TINYINT" => Kind::Byte,
        "SMALLINT" | "INT2" => Kind::Short,
        "INT" | "INT4" | "MEDIUMINT" => Kind::Int,
        "JSON" => Kind::Json,
        "NUMERIC" | "DECIMAL" | "NUMBER" => Kind::Decimal { scale: None },
        _ if has("INT") => Kind::Long,
        _ if has("CHAR") || has("CLOB") || has("TEXT") => Kind::Text,
        _ if has("BLOB") => Kind::Bytes,
        _ if has("REAL") || has("FLOA") || has("DOUB") => Kind::Double,
        _ => Kind::Any,
    }
}

/// The table that the settings name.
fn bind(connection: &Connection, settings: &Settings) -> Result<Bound, SqlError> {
    let (schema, name) = statements::schema_and_name(settings);
    let table = Table::new(settings, &columns(connection, schema, name)?)?;
    let (place, names) = (statements::place(settings), statements::columns(&table));
    let (id, all) = (&names[0], names.join(", "));
    let marks = vec!["?"; names.len()].join(", ");
    let on_conflict = statements::on_conflict(&names);
    let keys =
        |after| format!("SELECT {id} FROM {place} WHERE {id} {after} ORDER BY {id} LIMIT {PAGE}");
    let bound = Bound {
        select: format!("SELECT {all} FROM {place} WHERE {id} = ?"),
        upsert: format!("INSERT INTO {place} ({all}) VALUES ({marks}) {on_conflict}"),
        delete: format!("DELETE FROM {place} WHERE {id} = ?"),
        keys: settings.loads_all_keys.then(|| (keys("IS NOT NULL"), keys("> ?"))),
        table,
    };
    check_id(connection, &bound)?;
    Ok(bound)
}

/// Of a view, which can only be read, nobody knows whether its id is unique.
fn check_id(connection: &Connection, bound: &Bound) -> Result<(), SqlError> {
    const VIEWS: &str = "SELECT count(*) FROM pragma_table_list(?1) WHERE type = 'view'";
    let name = bound.table.name.rsplit('.').next();
    let views = connection.query_row(VIEWS, [name], |row| row.get::<_, i64>(0));
    if views.map_err(doing(VIEWS))? > 0 {
        return Ok(());
    }
    match connection.prepare_cached(&bound.upsert) {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("ON CONFLICT clause does not match") => {
            Err(statements::not_unique(&bound.table))
        }
        Err(error) => Err(doing(&bound.upsert)(error)),
    }
}

fn columns(
    connection: &Connection,
    schema: Option<&str>,
    table: &str,
) -> Result<Vec<Column>, SqlError> {
    const SQL: &str = "SELECT name, type FROM pragma_table_info(?1, ?2)";
    let read = || {
        let mut statement = connection.prepare(SQL)?;
        let found = statement.query_map((table, schema), |row| {
            let (name, declared): (String, String) = (row.get(0)?, row.get(1)?);
            Ok(Column { name, kind: kind(&declared) })
        })?;
        found.collect::<Result<Vec<_>, _>>()
    };
    read().map_err(doing(SQL))
}

/// A map store over a table of an SQLite database, as [its properties](crate::sql) say. A row that is stored
/// keeps what it has in columns that the map does not use; a new one gets their defaults.
///
/// ```
/// use hdgrid::data::{Json, Natural};
/// use hdgrid::sql::{Sqlite, SqliteMapStore};
/// use hdgrid::{MapStoreConfig, Member, OnThreads};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("shop.db");
/// # let shop = rusqlite::Connection::open(&path)?;
/// # shop.execute_batch("CREATE TABLE stock (id INTEGER PRIMARY KEY, name TEXT, pieces INT)")?;
/// # shop.execute_batch("INSERT INTO stock VALUES (1, 'tea', 7)")?;
/// #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
/// struct Stock { id: i64, name: String, pieces: i32 }
///
/// let shop = Sqlite::open(&path)?;
/// let member = Member::builder(dir.path().join("maps"))
///     .map_store("stock", MapStoreConfig::default(), OnThreads::new(SqliteMapStore::new(shop)))
///     .start()?;
/// let stock = member.map::<Natural<i64>, Json<Stock>>("stock")?;
/// let tea = stock.blocking().get(&1)?.unwrap();
/// assert_eq!(tea, Stock { id: 1, name: "tea".to_owned(), pieces: 7 });
/// stock.blocking().set(&1, &Stock { pieces: 6, ..tea })?;
/// # let left: i32 = rusqlite::Connection::open(&path)?
/// #     .query_row("SELECT pieces FROM stock WHERE id = 1", [], |row| row.get(0))?;
/// # assert_eq!(left, 6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SqliteMapStore {
    sqlite: Sqlite,
    binding: Binding,
}

impl SqliteMapStore {
    /// Over a table of this database, which the map's properties name.
    pub fn new(sqlite: Sqlite) -> SqliteMapStore {
        SqliteMapStore { sqlite, binding: Binding::default() }
    }

    fn read(&self, keys: &[Data]) -> Result<Entries<Untyped, Untyped>, SqlError> {
        let bound = self.binding.get();
        let Bound { table, select, .. } = &*bound;
        let ids = keys.iter().map(|key| table.id_of(key)).collect::<Result<Vec<_>, _>>()?;
        let rows = self.sqlite.with(|connection| {
            let read = || {
                let mut statement = connection.prepare_cached(select)?;
                let each = ids.iter().map(|id| {
                    let mut rows = statement.query([to_value(id)])?;
                    rows.next()?.map(cells).transpose()
                });
                each.collect::<Result<Vec<_>, _>>()
            };
            read().map_err(doing(select))
        })?;
        let found = keys.iter().zip(rows).filter_map(|(key, row)| Some((key, row?)));
        found.map(|(key, row)| Ok((key.clone(), table.value_of(key, row)?))).collect()
    }

    fn ids(&self, sql: &str, after: Option<&Cell>) -> Result<Vec<Cell>, SqlError> {
        self.sqlite.with(|connection| {
            let read = || {
                let mut statement = connection.prepare_cached(sql)?;
                let after = params_from_iter(after.map(to_value));
                let found = statement.query_map(after, |row| of_value(row.get_ref(0)?))?;
                found.collect::<Result<Vec<_>, _>>()
            };
            read().map_err(doing(sql))
        })
    }
}

impl BlockingMapStore<Untyped, Untyped> for SqliteMapStore {
    fn init(&self, properties: &Properties, map: &str) -> Result<(), StoreError> {
        let settings = Settings::new(properties, map)?;
        self.binding.set(self.sqlite.with(|connection| bind(connection, &settings))?);
        Ok(())
    }

    fn load(&self, key: &Data) -> Result<Option<Data>, StoreError> {
        let found = self.read(std::slice::from_ref(key))?;
        Ok(found.into_iter().next().map(|(_, value)| value))
    }

    fn load_all(&self, keys: &[Data]) -> Result<Entries<Untyped, Untyped>, StoreError> {
        Ok(self.read(keys)?)
    }

    fn load_all_keys(&self, take: &mut dyn FnMut(Data) -> bool) -> Result<(), StoreError> {
        let bound = self.binding.get();
        let Some((first, next)) = &bound.keys else { return Ok(()) };
        let mut page = self.ids(first, None)?;
        while let Some(last) = page.last().cloned() {
            for id in page {
                if !take(bound.table.key_of(id)?) {
                    return Ok(());
                }
            }
            page = self.ids(next, Some(&last))?;
        }
        Ok(())
    }

    fn store(&self, key: &Data, value: &Data) -> Result<Option<Data>, StoreError> {
        let bound = self.binding.get();
        self.sqlite.write(&bound.upsert, &[bound.table.cells_of(key, value)?])?;
        Ok(None)
    }

    fn store_all(&self, entries: &[(Data, Data)]) -> Result<(), StoreError> {
        let bound = self.binding.get();
        let rows = entries.iter().map(|(key, value)| bound.table.cells_of(key, value));
        Ok(self.sqlite.write(&bound.upsert, &rows.collect::<Result<Vec<_>, _>>()?)?)
    }

    fn delete(&self, key: &Data) -> Result<(), StoreError> {
        self.delete_all(std::slice::from_ref(key))
    }

    fn delete_all(&self, keys: &[Data]) -> Result<(), StoreError> {
        let bound = self.binding.get();
        let ids = keys.iter().map(|key| Ok(vec![bound.table.id_of(key)?]));
        Ok(self.sqlite.write(&bound.delete, &ids.collect::<Result<Vec<_>, SqlError>>()?)?)
    }
}
