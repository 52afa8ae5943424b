//! The embedded store: one connection that writes, a few that read, WAL, every commit fsynced.

use std::fs::{DirBuilder, File, OpenOptions};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::statement::{Insert, Row, Value};
use super::{Bind, Link, StoreError, Tx};

/// Another process (an import beside the running gateway) may hold the one write lock for a whole batch.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);
/// Readers kept open between reads; more are opened when more are needed at once.
const IDLE_READERS: usize = 4;
const CACHED_STATEMENTS: usize = 128;

pub struct Sqlite {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

/// Memory (KiB) and checkpoints (pages) of the connection that writes, outside of a backfill.
const EVERYDAY: &str = "PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 1000;";

impl Sqlite {
    pub fn open(path: &Path) -> Result<Sqlite, StoreError> {
        if !path.exists() {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
                made.map_err(|error| StoreError::Broken(format!("{}: {error}", folder.display())))?;
            }
            // Patients' data: for the owner's eyes only, also in the -wal and -shm files, which copy this mode.
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(|error| StoreError::Broken(format!("{}: {error}", path.display())))?;
        }
        let writer = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // FULL: in WAL mode NORMAL may lose acknowledged commits when the power fails (measured).
        writer
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
            .and_then(|()| writer.execute_batch(EVERYDAY))
            .map_err(store_error)?;
        Ok(Sqlite { path: path.to_owned(), writer: Mutex::new(writer), readers: Mutex::new(Vec::new()) })
    }

    pub fn write<T>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut writer = lock(&self.writer);
        // Rolls back when it is dropped uncommitted, also by a panic in `work`.
        let transaction = writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(store_error)?;
        let answer = work(&mut Tx { link: Link::Sqlite(transaction.deref()) })?;
        transaction.commit().map_err(store_error)?;
        Ok(answer)
    }

    pub fn read<T>(&self, work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = lock(&self.readers).pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => {
                let reader = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
                reader.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -8192;").map_err(store_error)?;
                reader
            }
        };
        let transaction = reader.transaction().map_err(store_error)?;
        let answer = work(&mut Tx { link: Link::Sqlite(transaction.deref()) });
        drop(transaction);
        let mut readers = lock(&self.readers);
        if readers.len() < IDLE_READERS {
            readers.push(reader);
        }
        answer
    }

    pub fn prepare_for_backfill(&self) -> Result<(), StoreError> {
        lock(&self.writer).execute_batch("PRAGMA cache_size = -262144; PRAGMA wal_autocheckpoint = 32768;").map_err(store_error)
    }

    pub fn end_backfill(&self) -> Result<(), StoreError> {
        let writer = lock(&self.writer);
        writer.execute_batch(EVERYDAY).and_then(|()| writer.execute_batch("PRAGMA shrink_memory;")).map_err(store_error)
    }

    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let at = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| StoreError::Broken(format!("{path}: {error}"))
        };
        if to.exists() {
            return Err(StoreError::Broken(format!("{} is there already: name a new file", to.display())));
        }
        let mut unfinished = to.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished).map_err(at(&unfinished))?;
        {
            let source = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            let mut copy = connect(&unfinished, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            let backup = rusqlite::backup::Backup::new(&source, &mut copy).map_err(store_error)?;
            // All pages in one step: one snapshot, and in WAL mode no writer waits for it.
            loop {
                match backup.step(-1).map_err(store_error)? {
                    rusqlite::backup::StepResult::Done => break,
                    rusqlite::backup::StepResult::More => {}
                    _ => std::thread::sleep(Duration::from_millis(20)),
                }
            }
            drop(backup);
            let verdict: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(store_error)?;
            if verdict != "ok" {
                return Err(StoreError::Broken("the copy did not pass its integrity check; the store itself may be damaged".into()));
            }
            // One file that holds everything, without a -wal beside it.
            copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(store_error)?;
        }
        File::open(&unfinished).and_then(|file| file.sync_all()).map_err(at(&unfinished))?;
        std::fs::rename(&unfinished, to).map_err(at(to))?;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
    }
}

/// A panic in somebody's transaction rolled it back; the connection is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(store_error)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(store_error)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // One plan per statement, whatever is bound: without this SQLite compiles every SELECT anew at each use, because its
    // bindings were cleared (a tenth of an import's time).
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(store_error)?;
    Ok(connection)
}

/// SQLite's own texts name tables and columns, never values.
fn store_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Retry(error.to_string()),
        Some(ErrorCode::DiskFull) => StoreError::Full(error.to_string()),
        Some(_) | None => StoreError::Broken(error.to_string()),
    }
}

impl rusqlite::ToSql for Bind<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Bind::Null => ValueRef::Null,
            Bind::Integer(value) => ValueRef::Integer(*value),
            Bind::Real(value) => ValueRef::Real(*value),
            Bind::Text(value) => ValueRef::Text(value.as_bytes()),
            Bind::Blob(value) => ValueRef::Blob(value),
        }))
    }
}

fn bind(statement: &mut rusqlite::CachedStatement<'_>, params: &[Bind<'_>]) -> Result<(), StoreError> {
    for (index, param) in params.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, param).map_err(store_error)?;
    }
    Ok(())
}

pub fn execute(connection: &Connection, sql: &str, params: &[Bind<'_>]) -> Result<u64, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(store_error)?;
    bind(&mut statement, params)?;
    statement.raw_execute().map(|rows| rows as u64).map_err(store_error)
}

pub fn query(connection: &Connection, sql: &str, params: &[Bind<'_>]) -> Result<Vec<Row>, StoreError> {
    let mut statement = connection.prepare_cached(sql).map_err(store_error)?;
    bind(&mut statement, params)?;
    let columns = statement.column_count();
    let mut rows = statement.raw_query();
    let mut answer = Vec::new();
    while let Some(row) = rows.next().map_err(store_error)? {
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            values.push(match row.get_ref(column).map_err(store_error)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(value) => Value::Integer(value),
                ValueRef::Real(value) => Value::Real(value),
                ValueRef::Text(value) => {
                    Value::Text(String::from_utf8(value.to_vec()).map_err(|_| StoreError::Broken(format!("column {column} is not UTF-8")))?)
                }
                ValueRef::Blob(value) => Value::Blob(value.to_vec()),
            });
        }
        answer.push(Row(values));
    }
    Ok(answer)
}

pub fn insert_many<'b, const N: usize>(
    connection: &Connection,
    insert: &Insert<N>,
    rows: impl IntoIterator<Item = [Bind<'b>; N]>,
) -> Result<(), StoreError> {
    let places: Vec<String> = (1..=N).map(|place| format!("${place}")).collect();
    let sql = format!("{} VALUES ({}) {}", insert.head(), places.join(", "), insert.on_conflict);
    let mut statement = connection.prepare_cached(&sql).map_err(store_error)?;
    for row in rows {
        bind(&mut statement, &row)?;
        statement.raw_execute().map_err(store_error)?;
    }
    Ok(())
}

pub fn batch(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.execute_batch(sql).map_err(store_error)
}
