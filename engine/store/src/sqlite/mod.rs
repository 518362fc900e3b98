//! The store on SQLite: one file, one writer a process, any number of readers.
//!
//! - WAL and `synchronous = FULL`: an acknowledged transition survives a power cut.
//! - Every writing transaction is `BEGIN IMMEDIATE`: a deferred one fails at once with `SQLITE_BUSY_SNAPSHOT` when it
//!   writes after it read, and the busy timeout does not help.
//! - Durability costs one `fsync` a commit, so waiting appends share a commit ([`writer`]).
//! - Several processes may write to one file: SQLite serialises them. A process that collects holds the store alone.

mod open;
mod read;
mod rows;
mod writer;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use sqlx::SqlitePool;
use swath_task::Digest;
use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::lease::{RunLease, StoreLock};
use crate::record::{
    Append, CacheEntry, CacheFilter, CacheRow, Collected, Lineage, LogBatch, LogFilter, Metric, NewRun, Retention,
    RunFilter, RunRow, StoredEvent, StoredLogLine, StoredResult, StoredRun,
};
use crate::store::Store;
use writer::Request;

/// How a store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes, together with other processes. Creates the store when there is none.
    Write,
    /// Writes, with no other process writing: for collection.
    Exclusive,
    /// Reads only, also while a run is live.
    Read,
}

/// A [`Store`] in the file `swath.db` of a folder.
pub struct SqliteStore {
    home: PathBuf,
    path: PathBuf,
    reads: SqlitePool,
    requests: Option<mpsc::Sender<Request>>,
    lock: Option<StoreLock>,
}

impl SqliteStore {
    /// Opens the store in the folder `home`.
    ///
    /// # Errors
    /// Every way in which a folder is not a usable store has its own [`Error`].
    pub async fn open(home: impl Into<PathBuf>, access: Access) -> Result<Self, Error> {
        let home = home.into();
        let path = home.join("swath.db");
        if access == Access::Read {
            let reads = open::readers(&path).await?;
            return Ok(Self { home, path, reads, requests: None, lock: None });
        }
        std::fs::create_dir_all(&home).map_err(|error| Error::io("create", &home, &error))?;
        let lock = if access == Access::Exclusive { StoreLock::exclusive(&home)? } else { StoreLock::shared(&home)? };
        let (connection, lock) = open::writer(&home, &path, lock).await?;
        let reads = open::lazy_readers(&path);
        let (requests, inbox) = mpsc::channel(writer::QUEUE);
        tokio::spawn(writer::run(connection, path.clone(), inbox));
        Ok(Self { home, path, reads, requests: Some(requests), lock: Some(lock) })
    }

    /// The store's folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this process writes alone.
    pub fn is_exclusive(&self) -> bool {
        self.lock.as_ref().is_some_and(StoreLock::is_exclusive)
    }

    /// Takes the right to drive a run, until the lease is dropped or the process ends (I5).
    ///
    /// # Errors
    /// [`Error::RunHeld`] names the process that drives it.
    pub fn lease_run(&self, run: &str) -> Result<RunLease, Error> {
        RunLease::take(&self.home, run)
    }

    /// Who drives a run now; `None` when nobody does: a run in a live state without a driver was cut off.
    pub fn run_holder(&self, run: &str) -> Result<Option<String>, Error> {
        RunLease::holder(&self.home, run)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request) -> Result<T, Error> {
        let Some(requests) = &self.requests else {
            let reason = "it was opened for reading only".to_owned();
            return Err(Error::ReadOnly { path: self.path.clone(), reason });
        };
        let (reply, answer) = oneshot::channel();
        requests.send(request(reply)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create_run(&self, run: NewRun) -> Result<(), Error> {
        if !crate::lease::is_plain_id(&run.id) {
            let reason = "an id has 1 to 240 letters, digits, `-`, `_` or `.`, and does not begin with `.`".to_owned();
            return Err(Error::Record { what: format!("run id `{}`", run.id.escape_debug()), reason });
        }
        self.ask(|reply| Request::Create(Box::new(run), reply)).await
    }

    async fn append(&self, append: Append) -> Result<u64, Error> {
        self.ask(|reply| Request::Append(Box::new(append), reply)).await
    }

    async fn load_events(&self, run: &str, after: u64, limit: u32) -> Result<Vec<StoredEvent>, Error> {
        read::events(&self.reads, &self.path, run, after, limit).await
    }

    async fn get_run(&self, run: &str) -> Result<StoredRun, Error> {
        read::run(&self.reads, &self.path, run).await
    }

    async fn run_row(&self, run: &str) -> Result<RunRow, Error> {
        read::row(&self.reads, &self.path, run).await
    }

    async fn list_runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>, Error> {
        read::runs(&self.reads, &self.path, filter).await
    }

    async fn results(&self, run: &str, step: Option<&str>) -> Result<Vec<StoredResult>, Error> {
        read::results(&self.reads, &self.path, run, step).await
    }

    async fn metrics(&self, run: &str) -> Result<Vec<Metric>, Error> {
        read::metrics(&self.reads, &self.path, run).await
    }

    async fn append_logs(&self, batch: LogBatch) -> Result<(), Error> {
        self.ask(|reply| Request::Logs(batch, reply)).await
    }

    async fn read_logs(&self, run: &str, filter: &LogFilter) -> Result<Vec<StoredLogLine>, Error> {
        read::logs(&self.reads, &self.path, run, filter).await
    }

    async fn cache_get(&self, key: &Digest, now: i64) -> Result<Option<CacheEntry>, Error> {
        read::cache(&self.reads, &self.path, key, now).await
    }

    async fn cache_touch(&self, key: &Digest, now: i64) -> Result<(), Error> {
        let key = *key;
        self.ask(|reply| Request::Touch(key, now, reply)).await
    }

    async fn cache_forget(&self, key: &Digest) -> Result<(), Error> {
        let key = *key;
        self.ask(|reply| Request::Forget(key, reply)).await
    }

    async fn cache_list(&self, filter: &CacheFilter) -> Result<Vec<CacheRow>, Error> {
        read::cache_list(&self.reads, &self.path, filter).await
    }

    async fn key_history(
        &self,
        flow: &str,
        step: &str,
        instance: &str,
        limit: u32,
    ) -> Result<Vec<StoredResult>, Error> {
        read::key_history(&self.reads, &self.path, flow, step, instance, limit).await
    }

    async fn lineage(&self, digest: &Digest) -> Result<Vec<Lineage>, Error> {
        read::lineage(&self.reads, &self.path, digest).await
    }

    async fn collect(&self, retention: &Retention) -> Result<Collected, Error> {
        if !self.is_exclusive() {
            let reason = "collection needs the store alone (`Access::Exclusive`)".to_owned();
            return Err(Error::ReadOnly { path: self.path.clone(), reason });
        }
        let retention = retention.clone();
        self.ask(|reply| Request::Collect(Box::new(retention), reply)).await
    }

    async fn referenced(&self) -> Result<std::collections::HashSet<Digest>, Error> {
        read::referenced(&self.reads, &self.path).await
    }

    async fn close(&self) {
        if self.requests.is_some() {
            // A writer that is gone has nothing left to make durable.
            let _ = self.ask(Request::Close).await;
        }
        self.reads.close().await;
    }
}
