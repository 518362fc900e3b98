//! A connection to a database whose schema is the one this program knows.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Postgres, Transaction};
use swath_task::{Context, Fault, Problem, TaskError};

use super::faults::{database_fault, unreachable_fault};

/// `STEPS[n]` brings schema `n` to `n + 1`.
const STEPS: &[&str] = &[
    include_str!("../../../../infra/postgres-init/0001_catalogue.sql"),
    include_str!("../../../../infra/postgres-init/0002_detections.sql"),
];
/// How long a server may take to answer a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Held while the schema is brought up to date: `SWTHGEO` as a number.
const SCHEMA_LOCK: i64 = 0x0053_5754_4847_454f;

/// A database that may be written to.
pub struct Database {
    connection: PgConnection,
    /// `host:port/name`, as outputs and faults tell it.
    pub name: String,
}

/// Checks a parameter that names a secret, without repeating what may be the secret itself.
pub fn check_secret_name(name: &str) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.is_empty() && name.chars().all(plain) {
        return Ok(());
    }
    let help = "declare a parameter `{ type: secret, default: SWATH_POSTGIS }` and give `$name`; the address \
                `postgres://user:password@host/database` goes into that environment variable";
    Err(Problem::new("/database", "`database` is the name of a secret, not the address itself").help(help))
}

impl Database {
    /// Connects by the address in a secret, and brings the schema up to date.
    pub async fn open(secret: &str, ctx: &Context) -> Result<Self, TaskError> {
        let address = ctx.secret(secret).ok_or_else(|| {
            Fault::new("D120", format!("the secret `{secret}` with the address of the database is not set"))
                .help("declare it as a parameter of the type `secret`, and set its environment variable")
                .permanent()
        })?;
        let options = options(secret, &address)?;
        let place = options.get_host();
        let name = format!("{place}:{}/{}", options.get_port(), options.get_database().unwrap_or_default());
        let connection = match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
            Ok(connection) => connection.map_err(|error| database_fault(&name, &error))?,
            Err(_) => return Err(unreachable_fault(&name, &format!("no answer within {CONNECT_TIMEOUT:?}"))),
        };
        let mut database = Self { connection, name };
        database.migrate().await?;
        Ok(database)
    }

    /// Begins a transaction. A worker that is suspended in it does not keep others waiting for ever.
    pub async fn begin(&mut self) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
        let mut transaction = self.connection.begin().await?;
        sqlx::raw_sql("SET LOCAL idle_in_transaction_session_timeout = '60s'").execute(&mut *transaction).await?;
        Ok(transaction)
    }

    async fn migrate(&mut self) -> Result<(), TaskError> {
        let known = STEPS.len();
        let name = self.name.clone();
        let fault = |error: sqlx::Error| database_fault(&name, &error);
        let mut found = schema_of(&mut self.connection).await.map_err(fault)?;
        if found < known {
            let mut transaction = self.begin().await.map_err(fault)?;
            let lock = sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(SCHEMA_LOCK);
            lock.execute(&mut *transaction).await.map_err(fault)?;
            // Again, under the lock: another worker may have been first.
            found = schema_of(&mut transaction).await.map_err(fault)?;
            for step in STEPS.iter().skip(found) {
                sqlx::raw_sql(*step).execute(&mut *transaction).await.map_err(|error| schema_fault(&name, &error))?;
            }
            transaction.commit().await.map_err(fault)?;
            found = found.max(known);
        }
        if found > known {
            let message = format!("`{name}` has schema {found} of a newer Swath; this one knows schema {known}");
            return Err(Fault::new("D127", message).help("use the newer Swath; nothing was changed").permanent());
        }
        Ok(())
    }
}

/// The address in a secret, none of which may be repeated.
fn options(secret: &str, address: &str) -> Result<PgConnectOptions, TaskError> {
    let wrong = || {
        Fault::new("D121", format!("the secret `{secret}` does not hold the address of a PostgreSQL database"))
            .help("it has the form `postgres://user:password@host:5432/database`")
            .permanent()
    };
    if !address.starts_with("postgres://") && !address.starts_with("postgresql://") {
        return Err(wrong());
    }
    let options = PgConnectOptions::from_str(address).map_err(|_| wrong())?;
    Ok(options.application_name("swath").disable_statement_logging())
}

/// The schema's version: 0 where there is none.
async fn schema_of(connection: &mut PgConnection) -> Result<usize, sqlx::Error> {
    // Not `to_regclass`: under a lock that was waited for, it answers what this connection knew before.
    let there = "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
                 WHERE nspname = 'swath_geo' AND relname = 'schema_steps')";
    if !sqlx::query_scalar::<_, bool>(there).fetch_one(&mut *connection).await? {
        return Ok(0);
    }
    let newest = sqlx::query_scalar::<_, i32>("SELECT coalesce(max(version), 0) FROM swath_geo.schema_steps");
    Ok(usize::try_from(newest.fetch_one(connection).await?).unwrap_or(0))
}

/// A step of the schema that failed: who may not make the extension needs somebody who may.
fn schema_fault(name: &str, error: &sqlx::Error) -> TaskError {
    let said = error.as_database_error().map(|refusal| refusal.message());
    match said {
        Some(said) if said.contains("extension \"postgis\"") => {
            Fault::new("D126", format!("`{name}` has no PostGIS: {said}"))
                .help("as a superuser, run `CREATE EXTENSION postgis` in the database")
                .permanent()
        }
        _ => database_fault(name, error),
    }
}
