//! A map store over a table of a PostgreSQL database.

use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};

use super::columns::{Array, Found, cell, of_table};
use super::{Postgres, asked};
use crate::data::{Data, Untyped};
use crate::map_store::{Entries, MapLoader, MapStore, Properties, StoreError};
use crate::sql::SqlError;
use crate::sql::cell::Cell;
use crate::sql::statements::{self, Binding, Bound, PAGE};
use crate::sql::table::{Column, Settings, Table};

/// The table that the settings name.
async fn bind(postgres: &Postgres, settings: &Settings) -> Result<Bound, SqlError> {
    let place = statements::place(settings);
    let found = of_table(postgres, &place).await?;
    let columns: Vec<_> = found.iter().map(|found| found.column.clone()).collect();
    let table = Table::new(settings, &columns)?;
    let of =
        |column: &Column| found.iter().find(|found| found.column == *column).expect("one of them");
    let used: Vec<&Found> = table.columns.iter().map(of).collect();
    if !used[0].is_unique {
        return Err(statements::not_unique(&table));
    }
    let names = statements::columns(&table);
    let (id, all) = (&names[0], names.join(", "));
    let each =
        |text: &dyn Fn(usize) -> String| (0..names.len()).map(text).collect::<Vec<_>>().join(", ");
    let selected = each(&|at| used[at].selected());
    let written = each(&|at| used[at].written(&format!("u.c{at}")));
    let (arrays, aliases) = (each(&|at| format!("${}", at + 1)), each(&|at| format!("c{at}")));
    let on_conflict = statements::on_conflict(&names);
    let ids = used[0].array(1);
    let keys = |after: &str| {
        let id_selected = used[0].selected();
        format!(
            "SELECT {id_selected} FROM {place} WHERE {after} ORDER BY {place}.{id} LIMIT {PAGE}"
        )
    };
    Ok(Bound {
        select: format!("SELECT {selected} FROM {place} WHERE {id} = ANY({ids})"),
        // In the order of their ids, as two batches that lock the same rows crosswise wait for ever.
        upsert: format!(
            "INSERT INTO {place} ({all}) OVERRIDING SYSTEM VALUE SELECT {written} \
             FROM unnest({arrays}) AS u({aliases}) ORDER BY 1 {on_conflict}"
        ),
        delete: format!("DELETE FROM {place} WHERE {id} = ANY({ids})"),
        keys: settings.loads_all_keys.then(|| {
            let after = format!("{id} > ({ids})[1]");
            (keys(&format!("{id} IS NOT NULL")), keys(&after))
        }),
        table,
    })
}

/// The ids of keys, as one parameter.
fn ids<'a>(table: &Table, keys: impl Iterator<Item = &'a Data>) -> Result<Array, SqlError> {
    let ids = keys.map(|key| table.id_of(key)).collect::<Result<Vec<_>, _>>()?;
    Ok(Array::new(table.columns[0].kind, ids.into_iter()))
}

/// A map store over a table of a PostgreSQL database, as [its properties](crate::sql) say. A row that is
/// stored keeps what it has in columns that the map does not use; a new one gets their defaults. Columns that
/// are computed (`GENERATED ALWAYS AS`) are not part of values.
///
/// ```no_run
/// use hdgrid::data::{Json, Natural};
/// use hdgrid::sql::{Password, Postgres, PostgresConfig, PostgresMapStore};
/// use hdgrid::{MapStoreConfig, Member};
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Stock { id: i64, name: String, pieces: i32 }
///
/// let shop = Postgres::new(&PostgresConfig {
///     password: Some(Password::File("/run/secrets/shop".into())),
///     ..PostgresConfig::new("postgresql://grid@db1,db2/shop?target_session_attrs=read-write")
/// })?;
/// let member = Member::builder("/var/lib/maps")
///     .map_store("stock", MapStoreConfig::default(), PostgresMapStore::new(shop))
///     .start()?;
/// let stock = member.map::<Natural<i64>, Json<Stock>>("stock")?;
/// let tea = stock.blocking().get(&1)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PostgresMapStore {
    postgres: Postgres,
    binding: Binding,
}

impl PostgresMapStore {
    /// Over a table of this database, which the map's properties name.
    pub fn new(postgres: Postgres) -> PostgresMapStore {
        PostgresMapStore { postgres, binding: Binding::default() }
    }

    /// A page of keys, and where the next begins.
    async fn page(&self, after: Option<Data>) -> Result<Vec<Data>, SqlError> {
        let bound = self.binding.get();
        let Some((first, next)) = &bound.keys else { return Ok(Vec::new()) };
        let (sql, rows) = match after {
            None => (first, self.postgres.ask(first, &[]).await?),
            Some(last) => {
                let last = ids(&bound.table, std::iter::once(&last))?;
                (next, self.postgres.ask(next, &[last.parameter()]).await?)
            }
        };
        let id = |row| cell(row, 0).map_err(|error| asked(sql, &error));
        rows.iter().map(|row| bound.table.key_of(id(row)?)).collect()
    }
}

impl MapLoader<Untyped, Untyped> for PostgresMapStore {
    async fn init(&self, properties: &Properties, map: &str) -> Result<(), StoreError> {
        let settings = Settings::new(properties, map)?;
        self.binding.set(bind(&self.postgres, &settings).await?);
        Ok(())
    }

    async fn load(&self, key: &Data) -> Result<Option<Data>, StoreError> {
        let found = self.load_all(std::slice::from_ref(key)).await?;
        Ok(found.into_iter().next().map(|(_, value)| value))
    }

    async fn load_all(&self, keys: &[Data]) -> Result<Entries<Untyped, Untyped>, StoreError> {
        let bound = self.binding.get();
        let ids = ids(&bound.table, keys.iter())?;
        let rows = self.postgres.ask(&bound.select, &[ids.parameter()]).await?;
        let entry = |row| {
            let cells = (0..bound.table.columns.len()).map(|at| cell(row, at));
            let cells = cells.collect::<Result<Vec<_>, _>>();
            let cells = cells.map_err(|error| asked(&bound.select, &error))?;
            let key = bound.table.key_of(cells[0].clone())?;
            let value = bound.table.value_of(&key, cells)?;
            Ok((key, value))
        };
        rows.iter().map(entry).collect()
    }

    fn load_all_keys(&self) -> impl Stream<Item = Result<Data, StoreError>> + Send {
        let pages = stream::try_unfold(Some(None), async |after: Option<Option<Data>>| {
            let Some(after) = after else { return Ok::<_, StoreError>(None) };
            let page = self.page(after).await?;
            let next = page.last().cloned().filter(|_| page.len() == PAGE).map(Some);
            Ok(Some((stream::iter(page.into_iter().map(Ok)), next)))
        });
        pages.try_flatten().boxed()
    }
}

impl MapStore<Untyped, Untyped> for PostgresMapStore {
    async fn store(&self, key: &Data, value: &Data) -> Result<(), StoreError> {
        self.store_all(&[(key.clone(), value.clone())]).await
    }

    async fn store_all(&self, entries: &[(Data, Data)]) -> Result<(), StoreError> {
        let bound = self.binding.get();
        let rows = entries.iter().map(|(key, value)| bound.table.cells_of(key, value));
        let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
        let columns = bound.table.columns.iter().enumerate().map(|(at, column)| {
            let cells = rows.iter_mut().map(|row| std::mem::replace(&mut row[at], Cell::Null));
            Array::new(column.kind, cells)
        });
        let columns: Vec<_> = columns.collect();
        let parameters: Vec<_> = columns.iter().map(Array::parameter).collect();
        self.postgres.ask(&bound.upsert, &parameters).await?;
        Ok(())
    }

    async fn delete(&self, key: &Data) -> Result<(), StoreError> {
        self.delete_all(std::slice::from_ref(key)).await
    }

    async fn delete_all(&self, keys: &[Data]) -> Result<(), StoreError> {
        let bound = self.binding.get();
        let ids = ids(&bound.table, keys.iter())?;
        self.postgres.ask(&bound.delete, &[ids.parameter()]).await?;
        Ok(())
    }
}
