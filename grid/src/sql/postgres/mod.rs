//! PostgreSQL: a pool of connections, and calls that are tried again where that may help.
//!
//! Invariants: a call is one transaction, sent in one piece and without names, so that it needs neither a
//! session nor a second turn; a connection on which something went wrong that is not the statement's is not
//! used again.

mod columns;
mod config;
mod failures;
mod store;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use futures_util::future::join3;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

pub use config::{Password, PostgresConfig};
use failures::{Remedy, remedy};
pub use store::PostgresMapStore;

use super::SqlError;

/// How much longer than a statement may take a server may be silent.
const SILENCE: Duration = Duration::from_secs(5);
/// The first wait before a call is tried again; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A PostgreSQL database, for any number of map stores. Cheap to clone; all clones share its connections.
#[derive(Clone)]
pub struct Postgres(Arc<Database>);

struct Database {
    pool: Pool,
    /// What each call begins with.
    begin: String,
    answer_within: Duration,
    retry_for: Duration,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("pool", &self.0.pool.status()).finish_non_exhaustive()
    }
}

/// A parameter of a statement, and its type.
type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Postgres {
    /// A database; its first connection is made by who asks it first.
    ///
    /// # Errors
    /// [`SqlError::PostgresConfig`].
    pub fn new(config: &PostgresConfig) -> Result<Postgres, SqlError> {
        let (driver, tls) = config.prepare()?;
        // A connection that is closed is noticed without being asked.
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(driver, tls, ManagerConfig { recycling_method });
        let hosts_wait = config.connect_timeout + SILENCE;
        let pool = Pool::builder(manager)
            .max_size(config.connections_max.get())
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(config.connect_timeout))
            .create_timeout(Some(hosts_wait))
            .build()
            .map_err(|error| SqlError::PostgresConfig { problem: error.to_string() })?;
        let begin = format!(
            "BEGIN; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}",
            config.statement_timeout.as_millis(),
            config.lock_timeout.as_millis()
        );
        Ok(Postgres(Arc::new(Database {
            pool,
            begin,
            answer_within: config.statement_timeout + SILENCE,
            retry_for: config.retry_for,
        })))
    }

    /// The rows of a statement, which must be one that may be done twice.
    async fn ask(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, SqlError> {
        let deadline = Instant::now() + self.0.retry_for;
        let mut wait = FIRST_WAIT;
        loop {
            let (error, remedy) = match self.ask_once(sql, parameters).await {
                Ok(rows) => return Ok(rows),
                Err(failed) => failed,
            };
            if remedy == Remedy::None || Instant::now() + wait > deadline {
                return Err(error);
            }
            tracing::debug!(%error, "tried again");
            sleep(wait).await;
            wait = LONGEST_WAIT.min(wait * 2);
        }
    }

    async fn ask_once(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, (SqlError, Remedy)> {
        let connection = self.0.pool.get().await.map_err(|error| no_connection(&error))?;
        let all = join3(
            connection.batch_execute(&self.0.begin),
            connection.query_typed(sql, parameters),
            connection.batch_execute("COMMIT"),
        );
        let Ok((begun, rows, ended)) = timeout(self.0.answer_within, all).await else {
            drop(Object::take(connection));
            let error = SqlError::NoAnswer { doing: sql.to_owned(), waited: self.0.answer_within };
            return Err((error, Remedy::None));
        };
        let failed = match (begun, rows, ended) {
            (Ok(()), Ok(rows), Ok(())) => return Ok(rows),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => error,
        };
        let remedy = failed.code().map_or(Remedy::Elsewhere, remedy);
        if remedy == Remedy::Elsewhere {
            drop(Object::take(connection));
        }
        Err((asked(sql, &failed), remedy))
    }
}

fn no_connection(error: &deadpool_postgres::PoolError) -> (SqlError, Remedy) {
    let (problem, remedy) = match error {
        deadpool_postgres::PoolError::Backend(error) => {
            let state = error.code();
            (told(error), state.map_or(Remedy::Elsewhere, remedy))
        }
        error => (error.to_string(), Remedy::None),
    };
    (SqlError::Postgres { doing: "connect".to_owned(), problem }, remedy)
}

fn asked(sql: &str, error: &tokio_postgres::Error) -> SqlError {
    SqlError::Postgres { doing: sql.to_owned(), problem: told(error) }
}

/// All that PostgreSQL says of an error.
fn told(error: &tokio_postgres::Error) -> String {
    let Some(own) = error.as_db_error() else {
        let source = std::error::Error::source(error);
        return source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    };
    let mut told = format!("{} (SQLSTATE {})", own.message(), own.code().code());
    for (name, more) in [("detail", own.detail()), ("hint", own.hint())] {
        if let Some(more) = more {
            told.push_str(&format!("; {name}: {more}"));
        }
    }
    told
}
