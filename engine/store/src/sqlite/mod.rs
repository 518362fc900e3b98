//! The store on SQLite: one file, one writer a process, any number of readers.
//!
//! - WAL and `synchronous = FULL`: an acknowledged transition survives a power cut.
//! - Every writing transaction is `BEGIN IMMEDIATE`: a deferred one fails at once with `SQLITE_BUSY_SNAPSHOT` when it
//!   writes after it read, and the busy timeout does not help.
//! - Durability costs one `fsync` a commit, so waiting appends share a commit ([`crate::writer`]).
//! - Several processes may write to one file: SQLite serialises them. A process that collects holds the store alone.
//! - Who drives a run is told by a lock of the operating system: a process that has died is free at once, one that is
//!   suspended keeps its runs.

mod database;
mod open;
mod statements;

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Instant;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, SqlitePool};
use swath_task::Digest;
use tokio::sync::{mpsc, oneshot};

use crate::audit;
use crate::deployments::{Statement, Tables};
use crate::error::Error;
use crate::lease::{RunLease, Terms, Wish};
use crate::locks::{RunLock, StoreLock};
use crate::read::{self, Ask, Value, columns};
use crate::record::{
    Append, Broken, CacheEntry, CacheFilter, CacheRow, Collected, Lineage, LogBatch, LogFilter, Metric, NewRun,
    Retention, RunFilter, RunRow, StoredEvent, StoredLogLine, StoredResult, StoredRun, Vocabulary,
};
use crate::store::{Access, LOOK, Store};
use crate::writer::{self, QUEUE, Request};
use database::{Journal, Mark, Other};

columns!(SqliteRow);

/// A [`Store`] in the file `swath.db` of a folder.
pub struct SqliteStore {
    home: PathBuf,
    reads: Reads,
    requests: Option<mpsc::Sender<Request<Other>>>,
    lock: Option<StoreLock>,
    terms: Arc<Terms>,
}

/// The connections that read.
#[derive(Clone)]
pub(crate) struct Reads {
    pool: SqlitePool,
    path: PathBuf,
}

impl Ask for Reads {
    type Row = SqliteRow;
    const CACHED: &'static str = "json_each(cache.artifacts) a";
    const TASK: &'static str = "s.parts ->> 'task'";

    fn list(parameter: usize) -> String {
        format!("(SELECT value FROM json_each(${parameter}))")
    }

    async fn ask(&self, text: &str, values: &[Value<'_>]) -> Result<Vec<SqliteRow>, Error> {
        let mut query = sqlx::query(AssertSqlSafe(text.to_owned()));
        for value in values {
            query = match *value {
                Value::Integer(value) => query.bind(value),
                Value::Text(value) => query.bind(value.map(str::to_owned)),
            };
        }
        query.fetch_all(&self.pool).await.map_err(|error| open::database(&self.path, error))
    }

    fn place(&self) -> PathBuf {
        self.path.clone()
    }
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
            let reads = Reads { pool: open::readers(&path).await?, path };
            return Ok(Self { home, reads, requests: None, lock: None, terms: Arc::default() });
        }
        std::fs::create_dir_all(&home).map_err(|error| Error::io("create", &home, &error))?;
        let lock = if access == Access::Exclusive { StoreLock::exclusive(&home)? } else { StoreLock::shared(&home)? };
        let (connection, lock) = open::writer(&home, &path, lock).await?;
        let reads = Reads { pool: open::lazy_readers(&path), path: path.clone() };
        let (requests, inbox) = mpsc::channel(QUEUE);
        tokio::spawn(writer::run(Journal { connection, path }, inbox));
        let terms = Arc::default();
        tokio::spawn(hear_wishes(reads.clone(), Arc::downgrade(&terms)));
        Ok(Self { home, reads, requests: Some(requests), lock: Some(lock), terms })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.reads.path
    }

    fn is_exclusive(&self) -> bool {
        self.lock.as_ref().is_some_and(StoreLock::is_exclusive)
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request<Other>,
    ) -> Result<T, Error> {
        let Some(requests) = &self.requests else {
            let reason = "it was opened for reading only".to_owned();
            return Err(Error::ReadOnly { path: self.reads.path.clone(), reason });
        };
        let (reply, answer) = oneshot::channel();
        requests.send(request(reply)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn mark(&self, run: &str, mark: Mark) -> Result<(), Error> {
        crate::locks::check_id(run)?;
        self.ask(|reply| Request::Other(Other::Mark(run.to_owned(), mark, reply))).await
    }
}

impl Tables for SqliteStore {
    type Reads = Reads;

    fn reads(&self) -> &Reads {
        &self.reads
    }

    async fn alter(&self, statements: Vec<Statement>) -> Result<Vec<Vec<i64>>, Error> {
        self.ask(|reply| Request::Other(Other::Alter(statements, reply))).await
    }
}

/// Tells the runs that this process drives what is asked of them: one question for all.
async fn hear_wishes(reads: Reads, terms: Weak<Terms>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(terms) = terms.upgrade() else { return };
        if terms.live().is_empty() {
            continue;
        }
        let asked = Instant::now();
        match read::wishes(&reads).await {
            Ok(wishes) => terms.tell_read(asked, &wishes),
            Err(Error::Closed) => return,
            Err(error) => tracing::warn!("what is asked of runs is not known: {error}"),
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn place(&self) -> String {
        self.reads.path.display().to_string()
    }

    async fn create_run(&self, run: NewRun) -> Result<(), Error> {
        crate::store::check_new(&run)?;
        self.ask(|reply| Request::Other(Other::Create(Box::new(run), reply))).await
    }

    async fn append(&self, append: Append) -> Result<u64, Error> {
        self.ask(|reply| Request::Append(Box::new(append), reply)).await
    }

    async fn lease_run(&self, run: &str) -> Result<RunLease, Error> {
        let lock = RunLock::take(&self.home, run)?;
        let epoch = self.ask(|reply| Request::Other(Other::Lease(run.to_owned(), reply))).await?;
        Ok(self.terms.begin(run, epoch, move || drop(lock)))
    }

    async fn holders(&self, runs: &[String]) -> Result<HashMap<String, String>, Error> {
        let mut holders = HashMap::new();
        for run in runs {
            if let Some(holder) = RunLock::holder(&self.home, run)? {
                holders.insert(run.clone(), holder);
            }
        }
        Ok(holders)
    }

    async fn ask_to_cancel(&self, run: &str) -> Result<(), Error> {
        self.mark(run, Mark::Cancel).await?;
        self.terms.tell(&Wish { run: run.to_owned(), cancel: true, pause: None });
        Ok(())
    }

    async fn ask_to_pause(&self, run: &str, pause: bool) -> Result<(), Error> {
        self.mark(run, Mark::Pause(pause)).await?;
        self.terms.tell(&Wish { run: run.to_owned(), cancel: false, pause: Some(pause) });
        Ok(())
    }

    async fn mark_served(&self, run: &str, request: &str) -> Result<(), Error> {
        self.mark(run, Mark::Served(request.to_owned())).await
    }

    async fn served_by(&self, run: &str) -> Result<Option<String>, Error> {
        read::served(&self.reads, run).await
    }

    async fn keep_outputs(&self, run: &str, folder: &Path) -> Result<(), Error> {
        self.mark(run, Mark::Outputs(folder.as_os_str().as_bytes().to_owned())).await
    }

    async fn outputs_of(&self, run: &str) -> Result<Option<PathBuf>, Error> {
        read::outputs(&self.reads, run).await
    }

    async fn refused(&self, run: &str) -> Result<u64, Error> {
        read::refused(&self.reads, run).await
    }

    async fn audit(&self, vocabulary: &Vocabulary) -> Result<Vec<Broken>, Error> {
        audit::audit(&self.reads, vocabulary).await
    }

    async fn load_events(&self, run: &str, after: u64, limit: u32) -> Result<Vec<StoredEvent>, Error> {
        read::events(&self.reads, run, after, limit).await
    }

    async fn get_run(&self, run: &str) -> Result<StoredRun, Error> {
        read::run(&self.reads, run).await
    }

    async fn run_row(&self, run: &str) -> Result<RunRow, Error> {
        read::row(&self.reads, run).await
    }

    async fn list_runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>, Error> {
        read::runs(&self.reads, filter).await
    }

    async fn results(&self, run: &str, step: Option<&str>) -> Result<Vec<StoredResult>, Error> {
        read::results(&self.reads, run, step).await
    }

    async fn metrics(&self, run: &str) -> Result<Vec<Metric>, Error> {
        read::metrics(&self.reads, run).await
    }

    async fn append_logs(&self, batch: LogBatch) -> Result<(), Error> {
        self.ask(|reply| Request::Logs(batch, reply)).await
    }

    async fn read_logs(&self, run: &str, filter: &LogFilter) -> Result<Vec<StoredLogLine>, Error> {
        read::logs(&self.reads, run, filter).await
    }

    async fn cache_get(&self, key: &Digest, now: i64) -> Result<Option<CacheEntry>, Error> {
        read::cache(&self.reads, key, now).await
    }

    async fn cache_touch(&self, key: &Digest, now: i64) -> Result<(), Error> {
        self.ask(|reply| Request::Other(Other::Touch(*key, now, reply))).await
    }

    async fn cache_forget(&self, key: &Digest) -> Result<(), Error> {
        self.ask(|reply| Request::Other(Other::Forget(*key, reply))).await
    }

    async fn cache_list(&self, filter: &CacheFilter) -> Result<Vec<CacheRow>, Error> {
        read::cache_list(&self.reads, filter).await
    }

    async fn key_history(
        &self,
        flow: &str,
        step: &str,
        instance: &str,
        limit: u32,
    ) -> Result<Vec<StoredResult>, Error> {
        read::key_history(&self.reads, flow, step, instance, limit).await
    }

    async fn lineage(&self, digest: &Digest) -> Result<Vec<Lineage>, Error> {
        read::lineage(&self.reads, digest).await
    }

    async fn collect(&self, retention: &Retention) -> Result<Collected, Error> {
        if !self.is_exclusive() {
            let reason = "collection needs the store alone (`Access::Exclusive`)".to_owned();
            return Err(Error::ReadOnly { path: self.reads.path.clone(), reason });
        }
        let retention = retention.clone();
        self.ask(|reply| Request::Other(Other::Collect(Box::new(retention), reply))).await
    }

    async fn referenced(&self) -> Result<HashSet<Digest>, Error> {
        read::referenced(&self.reads).await
    }

    async fn close(&self) {
        if self.requests.is_some() {
            // A writer that is gone has nothing left to make durable.
            let _ = self.ask(Request::Close).await;
        }
        self.reads.pool.close().await;
    }
}
