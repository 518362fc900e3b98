//! The store on PostgreSQL: tables in a schema of their own, `swath`, which any number of processes on any number of
//! machines share.
//!
//! - Waiting appends share a commit ([`crate::writer`]); a group is one statement, with `synchronous_commit` on.
//! - Who drives a run is told by a lease in the database, by the clock of the server ([`keeper`]).
//! - A server that is out of reach for a while is waited for, twice as long as a lease holds. A group whose answer did not
//!   come is looked for before it is sent again.
//! - Who writes holds an advisory lock together with the others; who collects or migrates holds it alone. So a pool that
//!   hands its connections from one transaction to another (PgBouncer's `transaction` mode) cannot stand between.

mod database;
mod keeper;
mod open;
mod statement;

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgPool, Row};
use swath_task::Digest;
use tokio::sync::{mpsc, oneshot};

use crate::audit;
use crate::deployments::{Given, OLD_FIRES, Statement, Tables};
use crate::error::Error;
use crate::lease::{RunLease, Terms, Wish};
use crate::read::{self, Ask, Columns, Value, columns};
use crate::record::{
    Append, Broken, CacheEntry, CacheFilter, CacheRow, Collected, Lineage, LogBatch, LogFilter, Metric, NewRun,
    Retention, RunFilter, RunRow, StoredEvent, StoredLogLine, StoredResult, StoredRun, Vocabulary,
};
use crate::store::{Access, Store};
use crate::writer::{self, QUEUE, Request};
use database::Journal;
use keeper::{Keeper, Order};
use open::{Pause, Server, classify, is_repeated};

columns!(PgRow);

/// A [`Store`] in a PostgreSQL database.
pub struct PostgresStore {
    reads: Reads,
    access: Access,
    writer: Option<mpsc::Sender<Request<std::convert::Infallible>>>,
    keeper: Option<mpsc::UnboundedSender<Order>>,
    terms: Arc<Terms>,
}

/// The connections that read, and those small writes that need no order.
#[derive(Clone)]
pub(crate) struct Reads {
    server: Server,
    pool: PgPool,
}

impl Ask for Reads {
    type Row = PgRow;
    const CACHED: &'static str = "jsonb_array_elements(cache.artifacts::jsonb) a";
    const TASK: &'static str = "s.parts::jsonb ->> 'task'";

    fn list(parameter: usize) -> String {
        format!("(SELECT jsonb_array_elements_text(${parameter}::jsonb))")
    }

    async fn ask(&self, text: &str, values: &[Value<'_>]) -> Result<Vec<PgRow>, Error> {
        let query = || {
            let mut query = sqlx::query(AssertSqlSafe(text.to_owned()));
            for value in values {
                query = match *value {
                    Value::Integer(value) => query.bind(value),
                    Value::Text(value) => query.bind(value.map(str::to_owned)),
                };
            }
            query.fetch_all(&self.pool)
        };
        self.server.patiently(query).await
    }

    fn place(&self) -> PathBuf {
        self.server.place().to_owned()
    }
}

impl PostgresStore {
    /// Opens the store in the database at `url`, `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. `lease` is how long a run
    /// stays with a process that is no longer heard of.
    ///
    /// # Errors
    /// Every way in which a database is not a usable store has its own [`Error`], none with the password.
    pub async fn open(url: &str, access: Access, lease: Duration) -> Result<Self, Error> {
        let server = Server::new(url, lease * 2)?;
        let connection = server.open(access).await?;
        let reads = Reads { pool: server.readers(), server: server.clone() };
        let terms: Arc<Terms> = Arc::default();
        if access == Access::Read {
            return Ok(Self { reads, access, writer: None, keeper: None, terms });
        }
        let (requests, inbox) = mpsc::channel(QUEUE);
        let alone = access == Access::Exclusive;
        let pool = reads.pool.clone();
        let journal = Journal { server: server.clone(), connection, alone, reads: reads.clone(), pool };
        tokio::spawn(writer::run(journal, inbox));
        let (orders, heard) = mpsc::unbounded_channel();
        tokio::spawn(Keeper::new(server, lease, terms.clone()).run(heard));
        Ok(Self { reads, access, writer: Some(requests), keeper: Some(orders), terms })
    }

    fn read_only(&self, reason: &str) -> Error {
        Error::ReadOnly { path: self.reads.place(), reason: reason.to_owned() }
    }

    fn keeper(&self) -> Result<&mpsc::UnboundedSender<Order>, Error> {
        self.keeper.as_ref().ok_or_else(|| self.read_only("it was opened for reading only"))
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request<std::convert::Infallible>,
    ) -> Result<T, Error> {
        let requests = self.writer.as_ref().ok_or_else(|| self.read_only("it was opened for reading only"))?;
        let (reply, answer) = oneshot::channel();
        requests.send(request(reply)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// A write that needs no order among others and may be done twice.
    async fn write(&self, text: &'static str, values: &[Value<'_>]) -> Result<(), Error> {
        self.keeper()?;
        self.reads.ask(text, values).await.map(drop)
    }

    async fn try_lease(&self, run: &str) -> Result<u64, Error> {
        let (reply, answer) = oneshot::channel();
        self.keeper()?.send(Order::Take(run.to_owned(), reply)).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn insert_run(&self, run: &NewRun) -> Result<(), sqlx::Error> {
        // The claim stays as it is until the run is there with its epoch: who takes it over meanwhile waits.
        let text = "WITH made AS (\
             INSERT INTO run (id, flow, source, state, created_at, updated_at, epoch) \
             VALUES ($1, $2, $3, $4, $5, $5, coalesce((SELECT epoch FROM claim WHERE run = $1 FOR SHARE), 0)) \
             RETURNING n) \
             INSERT INTO pinned (run, text, text_digest, params, plan) SELECT n, $6, $7, $8, $9 FROM made";
        let query = sqlx::query(text).bind(&run.id).bind(&run.flow).bind(&run.source).bind(&run.state);
        let query = query.bind(run.created_at).bind(&*run.text).bind(run.text_digest.to_string());
        query.bind(&run.params).bind(&*run.plan).execute(&self.reads.pool).await.map(drop)
    }

    /// The answer comes with that of [`read::referenced_text`], of a dry run.
    async fn collect_rows(&self, retention: &Retention) -> Result<(Collected, Option<Vec<PgRow>>), sqlx::Error> {
        let mut transaction = self.reads.pool.begin().await?;
        let removed = sqlx::query(
            "DELETE FROM run WHERE ended_at < $1 AND state = ANY($2) AND strpos(id, '.') = 0 AND id <> ALL($3) \
             RETURNING id, n",
        )
        .bind(retention.runs_ended_before)
        .bind(&retention.ended_states)
        .bind(&retention.keep_runs)
        .fetch_all(&mut *transaction)
        .await?;
        // Runs of sub-flows live and go with the run above them, whatever state they were left in.
        let below = sqlx::query(
            "DELETE FROM run WHERE strpos(id, '.') > 0 \
             AND NOT EXISTS (SELECT 1 FROM run above WHERE above.id = split_part(run.id, '.', 1)) RETURNING id, n",
        )
        .fetch_all(&mut *transaction)
        .await?;
        let numbers: Vec<i64> = removed.iter().chain(&below).map(|row| row.get(1)).collect();
        for text in [
            "DELETE FROM event WHERE run = ANY($1)",
            "DELETE FROM result WHERE run = ANY($1)",
            "DELETE FROM lineage WHERE run = ANY($1)",
            "DELETE FROM metric WHERE run = ANY($1)",
        ] {
            sqlx::query(text).bind(&numbers).execute(&mut *transaction).await?;
        }
        sqlx::query(
            "DELETE FROM claim WHERE (until IS NULL OR until < clock_timestamp()) \
             AND NOT EXISTS (SELECT 1 FROM run WHERE id = claim.run)",
        )
        .execute(&mut *transaction)
        .await?;
        let entries = sqlx::query("DELETE FROM cache WHERE used_at < $1 OR expires_at <= $2")
            .bind(retention.cache_used_before)
            .bind(retention.now)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(OLD_FIRES).bind(retention.runs_ended_before).execute(&mut *transaction).await?;
        let left = if retention.dry_run {
            let text = AssertSqlSafe(read::referenced_text::<Reads>());
            let left = sqlx::query(text).fetch_all(&mut *transaction).await?;
            transaction.rollback().await?;
            Some(left)
        } else {
            transaction.commit().await?;
            None
        };
        let mut runs: Vec<String> = removed.iter().chain(&below).map(|row| row.get(0)).collect();
        runs.sort_unstable();
        Ok((Collected { runs, cache_entries: entries.rows_affected(), referenced: None }, left))
    }
}

impl Tables for PostgresStore {
    type Reads = Reads;

    fn reads(&self) -> &Reads {
        &self.reads
    }

    async fn alter(&self, statements: Vec<Statement>) -> Result<Vec<Vec<i64>>, Error> {
        self.keeper()?;
        let altered = || async {
            let mut transaction = self.reads.pool.begin().await?;
            let mut answers = Vec::with_capacity(statements.len());
            for Statement { text, given } in &statements {
                let mut query = sqlx::query(*text);
                for value in given {
                    query = match value {
                        Given::Integer(value) => query.bind(*value),
                        Given::Text(value) => query.bind(value.as_deref()),
                    };
                }
                let rows = query.fetch_all(&mut *transaction).await?;
                answers.push(rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?);
            }
            transaction.commit().await?;
            Ok(answers)
        };
        self.reads.server.patiently(altered).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn place(&self) -> String {
        self.reads.place().display().to_string()
    }

    async fn create_run(&self, run: NewRun) -> Result<(), Error> {
        crate::store::check_new(&run)?;
        self.keeper()?;
        let inserted = || async {
            match self.insert_run(&run).await {
                Err(error) if is_repeated(&error) => Ok(false),
                done => done.map(|()| true),
            }
        };
        if self.reads.server.patiently(inserted).await? {
            return Ok(());
        }
        let stored = self.get_run(&run.id).await?;
        let same =
            (stored.text_digest, &stored.params, stored.plan.as_str()) == (run.text_digest, &run.params, &*run.plan);
        if same { Ok(()) } else { Err(Error::RunExists(run.id)) }
    }

    async fn append(&self, append: Append) -> Result<u64, Error> {
        self.ask(|reply| Request::Append(Box::new(append), reply)).await
    }

    async fn lease_run(&self, run: &str) -> Result<RunLease, Error> {
        crate::locks::check_id(run)?;
        let keeper = self.keeper()?.clone();
        let mut pause = Pause::new(self.reads.server.patience());
        let epoch = loop {
            match self.try_lease(run).await {
                Err(error @ Error::Unreachable { .. }) if !pause.again().await => return Err(error),
                Err(Error::Unreachable { .. }) => {}
                taken => break taken?,
            }
        };
        let held = run.to_owned();
        Ok(self.terms.begin(run, epoch, move || {
            // A keeper that is gone has given everything back.
            let _ = keeper.send(Order::GiveBack(held, epoch));
        }))
    }

    async fn holders(&self, runs: &[String]) -> Result<HashMap<String, String>, Error> {
        let text = "SELECT run, coalesce(holder, '') FROM claim WHERE until > clock_timestamp() AND run IN \
                    (SELECT jsonb_array_elements_text($1::jsonb))";
        let rows = self.reads.ask(text, &[json!(runs).to_string().as_str().into()]).await?;
        rows.iter().map(|row| Ok((row.text(0)?, row.text(1)?))).collect()
    }

    async fn ask_to_cancel(&self, run: &str) -> Result<(), Error> {
        crate::locks::check_id(run)?;
        let text = "INSERT INTO claim (run, cancel) VALUES ($1, 1) ON CONFLICT (run) DO UPDATE SET cancel = 1";
        self.write(text, &[run.into()]).await?;
        self.terms.tell(&Wish { run: run.to_owned(), cancel: true, pause: None });
        Ok(())
    }

    async fn ask_to_pause(&self, run: &str, pause: bool) -> Result<(), Error> {
        crate::locks::check_id(run)?;
        let text =
            "INSERT INTO claim (run, pause) VALUES ($1, $2) ON CONFLICT (run) DO UPDATE SET pause = excluded.pause";
        self.write(text, &[run.into(), i64::from(pause).into()]).await?;
        self.terms.tell(&Wish { run: run.to_owned(), cancel: false, pause: Some(pause) });
        Ok(())
    }

    async fn mark_served(&self, run: &str, request: &str) -> Result<(), Error> {
        crate::locks::check_id(run)?;
        let text =
            "INSERT INTO claim (run, served) VALUES ($1, $2) ON CONFLICT (run) DO UPDATE SET served = excluded.served";
        self.write(text, &[run.into(), request.into()]).await
    }

    async fn served_by(&self, run: &str) -> Result<Option<String>, Error> {
        read::served(&self.reads, run).await
    }

    async fn keep_outputs(&self, run: &str, folder: &Path) -> Result<(), Error> {
        crate::locks::check_id(run)?;
        self.keeper()?;
        let folder = folder.as_os_str().as_bytes();
        let text = "INSERT INTO claim (run, outputs) VALUES ($1, $2) ON CONFLICT (run) DO UPDATE SET outputs = excluded.outputs";
        let query = || sqlx::query(text).bind(run).bind(folder).execute(&self.reads.pool);
        self.reads.server.patiently(query).await.map(drop)
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
        // To the hour is enough for collection by age, and saves a commit a reuse.
        let text = "UPDATE cache SET used_at = $2 WHERE key = $1 AND used_at < $2 - 3600000";
        self.write(text, &[key.hex().as_str().into(), now.into()]).await
    }

    async fn cache_forget(&self, key: &Digest) -> Result<(), Error> {
        self.write("DELETE FROM cache WHERE key = $1", &[key.hex().as_str().into()]).await
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
        if self.access != Access::Exclusive {
            return Err(self.read_only("collection needs the store alone (`Access::Exclusive`)"));
        }
        let failed = |error: sqlx::Error| classify(self.reads.server.place(), &error);
        let (collected, left) = self.collect_rows(retention).await.map_err(failed)?;
        Ok(Collected { referenced: left.map(|rows| read::digests(&rows)).transpose()?, ..collected })
    }

    async fn referenced(&self) -> Result<HashSet<Digest>, Error> {
        read::referenced(&self.reads).await
    }

    async fn close(&self) {
        if self.writer.is_some() {
            // A writer that is gone has nothing left to make durable.
            let _ = self.ask(Request::Close).await;
        }
        if let Some(keeper) = &self.keeper {
            let (done, closed) = oneshot::channel();
            if keeper.send(Order::Close(done)).is_ok() {
                let _ = closed.await;
            }
        }
        self.reads.pool.close().await;
    }
}
