//! Opening: version checks, schema, and what SQLite's errors mean to a person.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqlitePool};

use crate::error::Error;
use crate::locks::StoreLock;

/// The first SQLite without the WAL-reset corruption.
const LEAST_SQLITE: (u32, u32, u32) = (3, 51, 3);
const LEAST_SQLITE_TEXT: &str = "3.51.3";
/// How long a statement waits for another process's transaction.
const BUSY_SECONDS: u64 = 30;
/// `SWTH`: marks a database as ours.
const APPLICATION_ID: i64 = 0x5357_5448;
/// `MIGRATIONS[n]` brings schema `n` to `n + 1`.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
];

fn known_schema() -> i64 {
    MIGRATIONS.len() as i64
}

/// Refuses a SQLite that can corrupt the database.
fn check_version(found: &str) -> Result<(), Error> {
    let mut parts = found.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let version = (next(), next(), next());
    if version >= LEAST_SQLITE {
        return Ok(());
    }
    Err(Error::SqliteTooOld { found: found.to_owned(), needed: LEAST_SQLITE_TEXT })
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(BUSY_SECONDS))
        .foreign_keys(true)
        .statement_cache_capacity(200)
        .disable_statement_logging()
}

fn pool(options: SqliteConnectOptions) -> SqlitePool {
    SqlitePoolOptions::new().max_connections(4).test_before_acquire(false).connect_lazy_with(options)
}

/// Readers beside this process's writer.
pub(super) fn lazy_readers(path: &Path) -> SqlitePool {
    // Not `read_only`: such a connection cannot create the shared-memory file when it is the first.
    pool(options(path).pragma("query_only", "1"))
}

/// Readers of a store that this process does not write to. Its schema is checked.
pub(super) async fn readers(path: &Path) -> Result<SqlitePool, Error> {
    if !path.is_file() {
        return Err(Error::Open { path: path.to_owned(), reason: "there is no such store".to_owned() });
    }
    let reads = pool(options(path).read_only(true));
    let mut connection = reads.acquire().await.map_err(|error| database(path, error))?;
    let found = schema_of(&mut connection, path).await?;
    drop(connection);
    if found < known_schema() {
        return Err(Error::SchemaOlder { path: path.to_owned(), found, known: known_schema() });
    }
    Ok(reads)
}

/// The one connection that writes, with the schema brought up to date. An older schema is migrated alone.
pub(super) async fn writer(
    home: &Path,
    path: &Path,
    mut lock: StoreLock,
) -> Result<(SqliteConnection, StoreLock), Error> {
    let connect = options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "4000")
        .pragma("cache_size", "-16000")
        .pragma("temp_store", "memory")
        .thread_name(|_| "swath-journal".to_owned());
    // Before WAL is switched on: a file of another program must not be changed at all.
    if path.is_file() && std::fs::metadata(path).is_ok_and(|data| data.len() > 0) {
        let found = unlocked(|| probe(path)).await?;
        if found > 0 && found < known_schema() && !lock.is_exclusive() {
            drop(lock);
            lock = StoreLock::exclusive(home)?;
        }
    }
    let ready = || async {
        let mut connection = connect.connect().await.map_err(|error| database(path, error))?;
        if schema_of(&mut connection, path).await? < known_schema() {
            migrate(&mut connection, path).await?;
        }
        Ok(connection)
    };
    Ok((unlocked(ready).await?, lock))
}

async fn probe(path: &Path) -> Result<i64, Error> {
    let mut probe = options(path).read_only(true).connect().await.map_err(|error| database(path, error))?;
    let found = schema_of(&mut probe, path).await;
    probe.close().await.map_err(|error| database(path, error))?;
    found
}

/// Does work again while another process has the file: SQLite itself does not wait where that could be a deadlock, as when
/// two switch a new file to WAL at once.
async fn unlocked<T, F: Future<Output = Result<T, Error>>>(mut work: impl FnMut() -> F) -> Result<T, Error> {
    let since = Instant::now();
    loop {
        match work().await {
            Err(Error::Busy { .. }) if since.elapsed() < Duration::from_secs(BUSY_SECONDS) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done => return done,
        }
    }
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), Error> {
    let failed = |error| database(path, error);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
    // Again, inside the transaction: another process may have been first.
    let found = schema_of(&mut transaction, path).await?;
    for step in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        sqlx::raw_sql(*step).execute(&mut *transaction).await.map_err(failed)?;
    }
    if found == 1 {
        import_marks(&mut transaction, path).await?;
    }
    let mark = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {}", known_schema());
    sqlx::raw_sql(AssertSqlSafe(mark)).execute(&mut *transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

/// Until schema 1, what is known of a run beside its journal was in files beside its lock. They stay until the runs go.
async fn import_marks(connection: &mut SqliteConnection, path: &Path) -> Result<(), Error> {
    let runs = path.with_file_name("runs");
    let Ok(listed) = std::fs::read_dir(&runs) else { return Ok(()) };
    for entry in listed {
        let file = entry.map_err(|error| Error::io("read", &runs, &error))?.path();
        let ending = file.extension().and_then(std::ffi::OsStr::to_str);
        let (Some(run), Some(ending)) = (file.file_stem().and_then(std::ffi::OsStr::to_str), ending) else { continue };
        let column = match ending {
            "served" => "served",
            "out" => "outputs",
            _ => continue,
        };
        let content = std::fs::read(&file).map_err(|error| Error::io("read", &file, &error))?;
        let text =
            format!("INSERT INTO claim (run, {column}) VALUES (?1, ?2) ON CONFLICT (run) DO UPDATE SET {column} = ?2");
        let query = sqlx::query(AssertSqlSafe(text)).bind(run);
        let query = match column {
            "served" => query.bind(String::from_utf8_lossy(&content).into_owned()),
            _ => query.bind(content),
        };
        query.execute(&mut *connection).await.map_err(|error| database(path, error))?;
    }
    Ok(())
}

/// The schema version: 0 for an empty database.
async fn schema_of(connection: &mut SqliteConnection, path: &Path) -> Result<i64, Error> {
    let row = sqlx::query(
        "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), \
         (SELECT count(*) FROM sqlite_schema), sqlite_version()",
    )
    .fetch_one(connection)
    .await
    .map_err(|error| database(path, error))?;
    check_version(row.get(3))?;
    let (mark, version, tables): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    if mark != APPLICATION_ID && tables > 0 {
        return Err(Error::Corrupt { path: path.to_owned(), reason: "it belongs to another program".to_owned() });
    }
    if version > known_schema() {
        return Err(Error::SchemaNewer { path: path.to_owned(), found: version, known: known_schema() });
    }
    Ok(version)
}

/// Gives an error of SQLite its name.
pub(super) fn database(path: &Path, error: sqlx::Error) -> Error {
    classify(path, &error)
}

/// The same, for an error that several callers get.
pub(super) fn classify(path: &Path, error: &sqlx::Error) -> Error {
    let path = path.to_owned();
    let code = primary_code(error);
    let reason = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    };
    match code {
        Some(5 | 6) => Error::Busy { path, seconds: BUSY_SECONDS },
        Some(3 | 8) => Error::ReadOnly { path, reason },
        Some(11 | 26) => Error::Corrupt { path, reason },
        Some(13) => Error::DiskFull { path },
        Some(14) => Error::Open { path, reason },
        _ => match error {
            sqlx::Error::WorkerCrashed | sqlx::Error::PoolClosed => Error::Closed,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Error::Record { what: "row".to_owned(), reason }
            }
            _ => Error::Database { path, reason },
        },
    }
}

/// SQLite's primary result code (the extended code's low byte).
pub(super) fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<u32>().ok().map(|code| code & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sqlite_with_the_wal_reset_fault_is_refused() {
        for (version, good) in
            [("3.51.3", true), ("3.52.0", true), ("4.0.0", true), ("3.51.2", false), ("3.9.9", false)]
        {
            assert_eq!(check_version(version).is_ok(), good, "{version}");
        }
    }

    async fn table(path: &Path, options: SqliteConnectOptions) -> SqliteConnection {
        let mut connection = options.create_if_missing(true).connect().await.unwrap();
        sqlx::query("CREATE TABLE t (x TEXT)").execute(&mut connection).await.unwrap();
        assert!(path.is_file());
        connection
    }

    async fn fill(connection: &mut SqliteConnection) -> sqlx::Error {
        for _ in 0..1000 {
            let filled = sqlx::query("INSERT INTO t VALUES (hex(zeroblob(4000)))").execute(&mut *connection).await;
            if let Err(error) = filled {
                return error;
            }
        }
        panic!("the database took everything")
    }

    #[tokio::test]
    async fn a_full_disk_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let mut connection = table(&path, options(&path).pragma("max_page_count", "20")).await;
        let error = database(&path, fill(&mut connection).await);
        assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_database_that_may_not_be_written_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        table(&path, options(&path)).await.close().await.unwrap();
        let mut connection = options(&path).read_only(true).connect().await.unwrap();
        let error = database(&path, fill(&mut connection).await);
        assert!(matches!(error, Error::ReadOnly { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn damaged_pages_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let mut connection = table(&path, options(&path)).await;
        for _ in 0..50 {
            sqlx::query("INSERT INTO t VALUES (hex(zeroblob(4000)))").execute(&mut connection).await.unwrap();
        }
        connection.close().await.unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096..].fill(0xA5);
        std::fs::write(&path, bytes).unwrap();
        let mut connection = options(&path).connect().await.unwrap();
        let error = sqlx::query("SELECT count(*), max(x) FROM t").fetch_one(&mut connection).await.unwrap_err();
        let error = database(&path, error);
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    }
}
