//! Where a store is: a folder for artifacts and scratch, and a database in it or elsewhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::home::Home;
use crate::postgres::PostgresStore;
use crate::sqlite::SqliteStore;
use crate::store::{Access, Store};

/// How long a run on PostgreSQL stays with a process that is no longer heard of, unless another time is asked for.
pub const LEASE: Duration = Duration::from_secs(15);

/// Where a store is.
#[derive(Clone)]
pub struct Address {
    /// Artifacts and scratch, and the database unless that is elsewhere.
    pub home: PathBuf,
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; a SQLite file in `home` when `None`.
    pub database: Option<String>,
    /// How long a run stays with a process that is no longer heard of, on PostgreSQL: see [`LEASE`].
    pub lease: Duration,
}

impl Address {
    /// The folder of artifacts and scratch.
    pub fn home(&self) -> Home {
        Home::new(&self.home)
    }

    /// Opens the store.
    ///
    /// # Errors
    /// As [`SqliteStore::open`] and [`PostgresStore::open`].
    pub async fn open(&self, access: Access) -> Result<Arc<dyn Store>, Error> {
        match &self.database {
            None => Ok(Arc::new(SqliteStore::open(&self.home, access).await?)),
            Some(url) => Ok(Arc::new(PostgresStore::open(url, access, self.lease).await?)),
        }
    }
}
