//! What PostgreSQL says, as faults of their own where a person acts differently, and whether trying again can help.

use std::time::Duration;

use swath_task::{Fault, TaskError};

/// Whether a failure of a statement may pass by itself, by the class of its SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The server is not there, is going, or is coming up.
    Unreachable,
    /// Somebody else's transaction, or a resource that ran out for now.
    Short,
    Login,
    NoDatabase,
    Rights,
    NoPostgis,
    Content,
    Other,
}

/// A failed call. `database` names the server and the database, without user or password.
pub fn database_fault(database: &str, error: &sqlx::Error) -> TaskError {
    let said = match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        other => other.to_string(),
    };
    let fault = |code, what: &str, help: &str| Fault::new(code, format!("`{database}` {what}: {said}")).help(help);
    match kind_of(error) {
        Kind::Unreachable => unreachable_fault(database, &said),
        Kind::Short => fault("D130", "cannot do it now", "free what it lacks, or try again when others are done")
            .transient(Some(Duration::from_millis(200))),
        Kind::Login => {
            fault("D123", "refuses the login", "look at the user and the password in the secret").permanent()
        }
        Kind::NoDatabase => {
            fault("D124", "is not there", "make it with `createdb`, or give another name in the secret").permanent()
        }
        Kind::Rights => {
            let help = "give the user of the secret the right to use and fill the tables of the schema `swath_geo`";
            fault("D125", "does not let this user do it", help).permanent()
        }
        Kind::NoPostgis => {
            let help = "as a superuser, run `CREATE EXTENSION postgis` in the database";
            fault("D126", "has no PostGIS", help).permanent()
        }
        Kind::Content => {
            fault("D128", "refuses a row", "nothing was stored; look at the values that the message names").permanent()
        }
        Kind::Other => fault("D129", "refuses", "nothing was stored; the words are PostgreSQL's").permanent(),
    }
}

/// A server that does not answer, or no longer.
pub fn unreachable_fault(database: &str, why: &str) -> TaskError {
    Fault::new("D122", format!("`{database}` cannot be reached: {why}"))
        .help("start the server, or correct the address in the secret; then resume the run")
        .transient(None)
}

fn kind_of(error: &sqlx::Error) -> Kind {
    let Some(refusal) = error.as_database_error() else {
        return match error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                Kind::Unreachable
            }
            _ => Kind::Other,
        };
    };
    let code = refusal.code().unwrap_or_default();
    match &*code {
        "57P01" | "57P02" | "57P03" => Kind::Unreachable,
        // Deadlock, serialisation, lock not granted in time, a suspended transaction ended by the server.
        "40001" | "40P01" | "55P03" | "25P03" => Kind::Short,
        "3D000" => Kind::NoDatabase,
        "42501" | "25006" => Kind::Rights,
        // The extension's files are not installed, from PostgreSQL 16 on and before.
        "0A000" | "58P01" if refusal.message().contains("extension") => Kind::NoPostgis,
        _ => match code.get(..2) {
            Some("08") => Kind::Unreachable,
            Some("53") => Kind::Short,
            Some("28") => Kind::Login,
            Some("22" | "23") => Kind::Content,
            _ => Kind::Other,
        },
    }
}
