//! The ledger on disk: SQLite by default, PostgreSQL where one machine is outgrown; one schema, one SQL text.
//!
//! Calls are blocking and run on tokio's blocking threads through [`Store::write`] and [`Store::read`]; a
//! transaction never waits for the network. Rows are appended; a state change and its consequences are one
//! transaction. SQL stops here.

pub mod accesses;
pub mod audit;
pub mod body;
pub mod cards;
pub mod circuit;
pub mod comparisons;
pub mod downloads;
pub mod drift;
mod fact;
pub mod feeds;
pub mod imports;
pub mod ledger;
pub mod messages;
pub mod notified;
pub mod outbox;
mod postgres;
pub mod receivers;
pub mod reconcile;
pub mod rosters;
pub mod schema;
pub mod screening;
mod sqlite;
pub mod standings;
mod statement;
pub mod subscriptions;
pub mod switches;
pub mod versions;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use statement::{Bind, Row, Value};
pub(crate) use statement::{Insert, Kind};

/// What a caller would do differently.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Busy or connection lost: the same call may go through later.
    #[error("the store is busy: {0}")]
    Retry(String),
    /// Disk full: answer 503, take nothing.
    #[error("the store has no room: {0}")]
    Full(String),
    /// Damaged, unreadable or of another schema: stop and call a person.
    #[error("the store is not usable: {0}")]
    Broken(String),
}

/// Where a store lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// File of an embedded store; made when it is not there.
    Sqlite(PathBuf),
    /// `postgres://user@host/database?sslmode=...`. May hold a password: never printed.
    Postgres(String),
}

/// The embedded store's file inside a folder that was given by `--dir`.
pub const FILE_NAME: &str = "nephrogate.db";

/// A store that is open; cheap to clone. The last clone that is dropped closes it cleanly.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine>,
}

enum Engine {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

/// One transaction, on either database.
pub struct Tx<'a> {
    link: Link<'a>,
}

enum Link<'a> {
    Sqlite(&'a rusqlite::Connection),
    Postgres(postgres::Session<'a>),
}

impl Store {
    pub fn open(location: &Location) -> Result<Store, StoreError> {
        match location {
            Location::Sqlite(path) => Store::open_sqlite(path),
            Location::Postgres(url) => Store::open_postgres(url),
        }
    }

    /// Opens or creates a SQLite store (WAL, synchronous=FULL) and brings its schema up to date.
    pub fn open_sqlite(path: &Path) -> Result<Store, StoreError> {
        let store = Store { engine: Arc::new(Engine::Sqlite(sqlite::Sqlite::open(path)?)) };
        store.write_blocking(|tx| schema::upgrade(tx, schema::NEWEST))?;
        Ok(store)
    }

    /// Opens a PostgreSQL store by its URL and brings its schema up to date. `sslmode=disable` connects in the clear,
    /// `require` or `verify-full` by TLS with the certificate verified against `sslrootcert` or the system's roots. Without a
    /// word about it, only a loopback address or a local socket is reached in the clear.
    pub fn open_postgres(url: &str) -> Result<Store, StoreError> {
        let store = Store { engine: Arc::new(Engine::Postgres(postgres::Postgres::open(url)?)) };
        store.write_blocking(|tx| schema::upgrade(tx, schema::NEWEST))?;
        Ok(store)
    }

    /// Runs one write transaction to its commit (fsynced); an `Err` rolls back.
    pub async fn write<T: Send + 'static>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.write_blocking(work)).await.map_err(|error| StoreError::Broken(error.to_string()))?
    }

    /// Runs one read on a consistent snapshot.
    pub async fn read<T: Send + 'static>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.read_blocking(work)).await.map_err(|error| StoreError::Broken(error.to_string()))?
    }

    /// As [`Store::write`], from a thread that may block; never from an async task.
    pub fn write_blocking<T>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.write(work),
            Engine::Postgres(postgres) => postgres.write(work),
        }
    }

    /// As [`Store::read`], from a thread that may block; never from an async task.
    pub fn read_blocking<T>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.read(work),
            Engine::Postgres(postgres) => postgres.read(work),
        }
    }

    /// Gives a long backfill more memory and rarer checkpoints, until its end is told or the store is closed. What is
    /// committed stays fsynced. Does nothing on PostgreSQL.
    pub fn prepare_for_backfill(&self) -> Result<(), StoreError> {
        match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.prepare_for_backfill(),
            Engine::Postgres(_) => Ok(()),
        }
    }

    /// Gives back what [`Store::prepare_for_backfill`] took.
    pub fn end_backfill(&self) -> Result<(), StoreError> {
        match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.end_backfill(),
            Engine::Postgres(_) => Ok(()),
        }
    }

    /// Writes a consistent copy while the store is in use, and proves it whole before it gets its name. SQLite only;
    /// PostgreSQL has pg_dump, and the error says so.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.backup(to),
            Engine::Postgres(_) => Err(StoreError::Broken("a PostgreSQL store is copied by PostgreSQL's own tool: run pg_dump".into())),
        }
    }
}

impl Tx<'_> {
    /// Runs one statement and answers how many rows it changed. `$1..` are numbered in order of first appearance,
    /// because SQLite knows them as names.
    pub(crate) fn execute(&mut self, sql: &str, params: &[Bind<'_>]) -> Result<u64, StoreError> {
        statement::check_order(sql);
        match &mut self.link {
            Link::Sqlite(connection) => sqlite::execute(connection, sql, params),
            Link::Postgres(session) => session.execute(sql, params),
        }
    }

    /// Runs one statement and answers its rows.
    pub(crate) fn query(&mut self, sql: &str, params: &[Bind<'_>]) -> Result<Vec<Row>, StoreError> {
        statement::check_order(sql);
        match &mut self.link {
            Link::Sqlite(connection) => sqlite::query(connection, sql, params),
            Link::Postgres(session) => session.query(sql, params),
        }
    }

    /// Runs one statement that answers at most one row that matters.
    pub(crate) fn query_one(&mut self, sql: &str, params: &[Bind<'_>]) -> Result<Option<Row>, StoreError> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// Inserts many rows: row by row through one prepared statement on SQLite, a few thousand at once on PostgreSQL.
    pub(crate) fn insert_many<'b, const N: usize>(
        &mut self,
        insert: &Insert<N>,
        rows: impl IntoIterator<Item = [Bind<'b>; N]>,
    ) -> Result<(), StoreError> {
        match &mut self.link {
            Link::Sqlite(connection) => sqlite::insert_many(connection, insert, rows),
            Link::Postgres(session) => session.insert_many(insert, rows),
        }
    }

    /// Runs a schema text of several statements, in the words of the database at hand.
    fn batch(&mut self, schema: &str) -> Result<(), StoreError> {
        match &mut self.link {
            Link::Sqlite(connection) => sqlite::batch(connection, &schema::for_sqlite(schema)),
            Link::Postgres(session) => session.batch(&schema::for_postgres(schema)),
        }
    }

    /// Holds off every other transaction that takes this lock, until the commit; a SQLite writer is alone anyway.
    pub(crate) fn lock(&mut self, name: &str) -> Result<(), StoreError> {
        match &mut self.link {
            Link::Sqlite(_) => Ok(()),
            Link::Postgres(session) => {
                session.query("SELECT 1::BIGINT FROM pg_advisory_xact_lock(hashtextextended($1, 0))", &[name.into()]).map(drop)
            }
        }
    }

    /// As [`Tx::lock`], without waiting; `false` when another transaction holds it.
    pub(crate) fn try_lock(&mut self, name: &str) -> Result<bool, StoreError> {
        let sql = "SELECT CASE WHEN pg_try_advisory_xact_lock(hashtextextended($1, 0)) THEN 1::BIGINT ELSE 0::BIGINT END";
        match &mut self.link {
            Link::Sqlite(_) => Ok(true),
            Link::Postgres(session) => match session.query(sql, &[name.into()])?.first() {
                Some(row) => Ok(row.integer(0)? == 1),
                None => Ok(false),
            },
        }
    }

    /// Holds off every other process that wants to bring the schema up to date; a SQLite writer is alone anyway.
    fn lock_schema(&mut self) -> Result<(), StoreError> {
        match &mut self.link {
            Link::Sqlite(_) => Ok(()),
            Link::Postgres(session) => session.batch("SELECT pg_advisory_xact_lock(7301442)"),
        }
    }
}
