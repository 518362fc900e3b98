//! Reaching the server: address, version checks, schema, and what PostgreSQL's errors mean to a person.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool, Row};

use crate::error::Error;
use crate::locks::{UNKNOWN, this_machine};
use crate::store::Access;

/// The oldest server whose promises the store relies on; older ones get no corrections any more.
const LEAST_SERVER: u32 = 14;
/// Class of our advisory locks: `SWTH`.
const LOCKS: i32 = 0x5357_5448;
/// The lock of those who write to the store: shared, or alone.
const USE: i32 = 1;
/// The lock of the one that makes or migrates the tables.
const MIGRATE: i32 = 2;
/// `MIGRATIONS[n]` brings schema `n` to `n + 1`.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
];
/// How long a server that is not there is waited for when the store is opened.
const AT_START: Duration = Duration::from_secs(5);
/// How many times longer than the server may be out of reach one question may take.
const SLOWEST: u32 = 10;
/// Connections that read, in one process.
const READERS: u32 = 8;

fn known_schema() -> i64 {
    MIGRATIONS.len() as i64
}

/// A server and how to get there.
#[derive(Clone)]
pub(super) struct Server {
    options: PgConnectOptions,
    place: PathBuf,
    patience: Duration,
}

impl Server {
    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. `patience` is how long it may be out of reach.
    pub(super) fn new(url: &str, patience: Duration) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Open { path: "postgres://".into(), reason: reason.to_owned() };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(wrong("its address is written `postgres://USER@HOST:5432/DATABASE`"));
        }
        // What the reader of addresses says may hold the password.
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| wrong("its address cannot be read: write `postgres://USER@HOST:5432/DATABASE`"))?;
        let database = options.get_database().unwrap_or(options.get_username());
        let place =
            format!("postgres://{}@{}:{}/{database}", options.get_username(), options.get_host(), options.get_port());
        let at = this_machine().map(|host| format!(" on {host}")).unwrap_or_default();
        // PostgreSQL keeps 63 bytes of it, and `pg_stat_activity` shows them to whoever looks for the holder of a lock.
        let name: String = format!("swath process {}{at}", std::process::id()).chars().take(60).collect();
        let options = options
            .application_name(&name)
            // Everything of the store is in a schema of its own: the database may be shared with others.
            .options([("search_path", "swath"), ("synchronous_commit", "on"), ("timezone", "UTC")])
            .statement_cache_capacity(200)
            .disable_statement_logging();
        Ok(Self { options, place: place.into(), patience })
    }

    /// The address without the password.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// How long the server may be out of reach before that is an error.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Connections made when they are needed.
    pub(super) fn pool(&self, most: u32, wait: Duration) -> PgPool {
        let options = PgPoolOptions::new().max_connections(most).acquire_timeout(wait).test_before_acquire(false);
        options.connect_lazy_with(self.options.clone())
    }

    /// Connections of those who read.
    pub(super) fn readers(&self) -> PgPool {
        self.pool(READERS, self.patience)
    }

    /// A connection that keeps the right to write for as long as it lives: together with others, or alone.
    pub(super) async fn writer(&self, alone: bool) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        match self.take(&mut connection, alone).await? {
            None => Ok(connection),
            Some(holder) => {
                // Passes, as an outage does.
                let reason = format!("it is in use by another process: {holder}");
                Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::WouldBlock, reason)))
            }
        }
    }

    /// Checks the server and its tables, and makes or migrates them where that is asked for. The connection has the right
    /// to write.
    pub(super) async fn open(&self, access: Access) -> Result<Option<PgConnection>, Error> {
        let failed = |error: sqlx::Error| classify(&self.place, &error);
        // When a command begins, a person waits.
        let soon = Self { patience: self.patience.min(AT_START), ..self.clone() };
        let mut connection = soon.patiently(|| self.options.connect()).await?;
        let found = self.schema(&mut connection).await?;
        if access == Access::Read {
            match found {
                0 => {
                    return Err(Error::Open { path: self.place.clone(), reason: "there is no such store".to_owned() });
                }
                found if found < known_schema() => {
                    return Err(Error::SchemaOlder { path: self.place.clone(), found, known: known_schema() });
                }
                _ => return Ok(None),
            }
        }
        let older = found > 0 && found < known_schema();
        let alone = access == Access::Exclusive;
        // An older schema is migrated while nobody else writes by it.
        if let Some(holder) = self.take(&mut connection, alone || older).await.map_err(failed)? {
            return Err(Error::StoreHeld { home: self.place.clone(), holder });
        }
        if found < known_schema() {
            self.migrate(&mut connection).await?;
        }
        if older && !alone {
            let share = sqlx::query("SELECT pg_advisory_lock_shared($1, $2), pg_advisory_unlock($1, $2)");
            share.bind(LOCKS).bind(USE).execute(&mut connection).await.map_err(failed)?;
        }
        Ok(Some(connection))
    }

    /// Takes the lock of those who write; else names who keeps it.
    async fn take(&self, connection: &mut PgConnection, alone: bool) -> Result<Option<String>, sqlx::Error> {
        let shared = if alone { "" } else { "_shared" };
        let text = format!("SELECT pg_try_advisory_lock{shared}($1, $2)");
        let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(LOCKS).bind(USE);
        if query.fetch_one(&mut *connection).await?.try_get(0)? {
            return Ok(None);
        }
        let holder = sqlx::query(
            "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'advisory' AND l.classid::bigint = $1 AND l.objid::bigint = $2 AND l.granted \
             AND l.pid <> pg_backend_pid() AND a.datname = current_database()",
        );
        let holder = holder.bind(i64::from(LOCKS)).bind(i64::from(USE)).fetch_optional(connection).await?;
        let holder = holder.map(|row| row.try_get(0)).transpose()?;
        Ok(Some(holder.unwrap_or_else(|| UNKNOWN.to_owned())))
    }

    async fn migrate(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let failed = |error: sqlx::Error| classify(&self.place, &error);
        let mut transaction = connection.begin().await.map_err(failed)?;
        let lock = sqlx::query("SELECT pg_advisory_xact_lock($1, $2)").bind(LOCKS).bind(MIGRATE);
        lock.execute(&mut *transaction).await.map_err(failed)?;
        // Again, with the lock: another process may have been first.
        let found = self.schema(&mut transaction).await?;
        let make = "CREATE SCHEMA IF NOT EXISTS swath; \
                    CREATE TABLE IF NOT EXISTS swath.schema_version (swath_store BIGINT NOT NULL)";
        if found == 0 {
            sqlx::raw_sql(make).execute(&mut *transaction).await.map_err(failed)?;
        }
        for step in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
            sqlx::raw_sql(*step).execute(&mut *transaction).await.map_err(failed)?;
        }
        let mark = "WITH old AS (DELETE FROM swath.schema_version) INSERT INTO swath.schema_version VALUES ($1)";
        sqlx::query(mark).bind(known_schema()).execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// The schema version: 0 where there is no store.
    async fn schema(&self, connection: &mut PgConnection) -> Result<i64, Error> {
        let failed = |error: sqlx::Error| classify(&self.place, &error);
        let row = sqlx::query(
            "SELECT current_setting('server_version_num')::bigint, current_setting('server_version'), \
             (SELECT count(*) FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE s.nspname = 'swath'), \
             (SELECT count(*) FROM information_schema.columns WHERE table_schema = 'swath' \
              AND table_name = 'schema_version' AND column_name = 'swath_store')",
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
        let (number, named): (i64, String) = (row.get(0), row.get(1));
        check_version(&self.place, number, &named)?;
        let (tables, ours): (i64, i64) = (row.get(2), row.get(3));
        if ours == 0 {
            if tables == 0 {
                return Ok(0);
            }
            let reason = "its schema `swath` belongs to another program".to_owned();
            return Err(Error::Corrupt { path: self.place.clone(), reason });
        }
        let row = sqlx::query("SELECT swath_store FROM swath.schema_version").fetch_optional(connection).await;
        let version = row.map_err(failed)?.map_or(0, |row| row.get(0));
        if version > known_schema() {
            return Err(Error::SchemaNewer { path: self.place.clone(), found: version, known: known_schema() });
        }
        Ok(version)
    }

    /// Does work again, after a while, for as long as only the way to the server is broken and patience lasts.
    pub(super) async fn patiently<T, F>(&self, mut work: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let mut pause = Pause::new(self.patience);
        loop {
            // A connection that has died without a word is not waited for for ever.
            let error = match tokio::time::timeout(self.patience * SLOWEST, work()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
            };
            if !passes(&error) || !pause.again().await {
                return Err(classify(&self.place, &error));
            }
        }
    }
}

/// Waits between tries, longer each time, until patience is over.
pub(super) struct Pause {
    until: Instant,
    next: Duration,
}

impl Pause {
    pub(super) fn new(patience: Duration) -> Self {
        Self { until: Instant::now() + patience, next: Duration::from_millis(50) }
    }

    /// `false` when it is time to give up.
    pub(super) async fn again(&mut self) -> bool {
        if Instant::now() + self.next > self.until {
            return false;
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_secs(1));
        true
    }
}

fn check_version(place: &Path, number: i64, named: &str) -> Result<(), Error> {
    if number >= i64::from(LEAST_SERVER) * 10_000 {
        return Ok(());
    }
    Err(Error::ServerTooOld { place: place.to_owned(), found: named.to_owned(), needed: LEAST_SERVER })
}

fn code_of(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether an error may pass by itself: the server is down, starts, or has cut the connection; two transactions stood in
/// each other's way.
pub(super) fn passes(error: &sqlx::Error) -> bool {
    match code_of(error).as_deref() {
        Some("57P01" | "57P02" | "57P03" | "53300" | "40001" | "40P01") => true,
        Some(code) => code.starts_with("08"),
        None => matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::BeginFailed
        ),
    }
}

/// Whether a rule was broken by what was to be written: an integrity constraint, the count of heads that were moved
/// (division by zero), a text that PostgreSQL cannot hold.
pub(super) fn is_rule(error: &sqlx::Error) -> bool {
    code_of(error).is_some_and(|code| code.starts_with("23") || ["22012", "22021", "22P05"].contains(&code.as_str()))
}

/// Whether a row with this key is there already.
pub(super) fn is_repeated(error: &sqlx::Error) -> bool {
    code_of(error).as_deref() == Some("23505")
}

/// Gives an error of PostgreSQL its name.
pub(super) fn classify(place: &Path, error: &sqlx::Error) -> Error {
    let path = place.to_owned();
    let reason = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::PoolTimedOut => "no connection could be made in time".to_owned(),
        other => other.to_string(),
    };
    if passes(error) {
        return Error::Unreachable { place: path, reason };
    }
    match code_of(error).as_deref() {
        Some("53100") => Error::DiskFull { path },
        Some("25006" | "42501") => Error::ReadOnly { path, reason },
        Some("XX001" | "XX002") => Error::Corrupt { path, reason },
        Some("55P03") => Error::Busy { path, seconds: 0 },
        Some("22021" | "22P05") => Error::Record { what: "text".to_owned(), reason },
        Some("3D000") => Error::Open { path, reason },
        Some(code) if code.starts_with("28") => Error::Open { path, reason },
        Some(_) => Error::Database { path, reason },
        None => match error {
            sqlx::Error::PoolClosed => Error::Closed,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Error::Record { what: "row".to_owned(), reason }
            }
            sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => Error::Open { path, reason },
            _ => Error::Database { path, reason },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_corrections_is_refused() {
        for (number, good) in [(140_000, true), (150_016, true), (180_002, true), (130_022, false), (90_624, false)] {
            assert_eq!(check_version(Path::new("x"), number, "y").is_ok(), good, "{number}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_read_is_told_without_its_password() {
        for url in ["mysql://u:hush@h/d", "postgres://u:hush@h:port/d", "postgres://u:hush@[h/d", "hush"] {
            let error = Server::new(url, Duration::from_secs(1)).err().unwrap();
            assert_eq!(error.code(), "E102");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
        let server = Server::new("postgres://u:hush@h:5433/d", Duration::from_secs(1)).unwrap();
        assert_eq!(server.place(), Path::new("postgres://u@h:5433/d"));
    }
}
