//! The one writer of a process: takes requests from a queue and makes them durable, all that wait in one commit.
//!
//! A group goes to SQLite as one text of several statements, from `BEGIN IMMEDIATE` to `COMMIT`: one hop to sqlx's
//! thread and back, and one commit, whatever the size of the group. The compare-and-set is a `NOT NULL` constraint: the
//! head of a run that is not where the writer thinks becomes NULL, and all of it is undone. When a group fails for such
//! a reason its members are tried one by one, so that each gets its own answer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use swath_task::Digest;
use tokio::sync::{mpsc, oneshot};

use super::open::{classify, database, primary_code};
use super::read::referenced;
use super::rows::Rows;
use crate::error::Error;
use crate::record::{Append, Collected, LogBatch, NewRun, Retention};

/// How many requests may wait.
pub(super) const QUEUE: usize = 4096;
/// How many requests share a commit.
const GROUP: usize = 1024;
/// `SQLITE_CONSTRAINT`.
const CONSTRAINT: u32 = 19;

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the writer is asked for.
pub(super) enum Request {
    Create(Box<NewRun>, Reply<()>),
    Append(Box<Append>, Reply<u64>),
    Logs(LogBatch, Reply<()>),
    Touch(Digest, i64, Reply<()>),
    Forget(Digest, Reply<()>),
    Collect(Box<Retention>, Reply<Collected>),
    Close(Reply<()>),
}

/// Serves until the queue is closed or a request says so.
pub(super) async fn run(connection: SqliteConnection, path: PathBuf, mut inbox: mpsc::Receiver<Request>) {
    let mut writer = Writer { connection, path, runs: HashMap::new() };
    let mut waiting = Vec::with_capacity(GROUP);
    let mut closing = None;
    while closing.is_none() && inbox.recv_many(&mut waiting, GROUP).await > 0 {
        let mut group = Vec::with_capacity(waiting.len());
        for request in waiting.drain(..) {
            match request {
                Request::Append(append, reply) => group.push(Member::Append(append, reply)),
                Request::Logs(batch, reply) => group.push(Member::Logs(batch, reply)),
                other => {
                    // Order is kept: what was asked before it is durable before it.
                    writer.commit(std::mem::take(&mut group)).await;
                    match other {
                        Request::Create(run, reply) => answer(reply, writer.create(&run).await),
                        Request::Touch(key, now, reply) => answer(reply, writer.touch(&key, now).await),
                        Request::Forget(key, reply) => answer(reply, writer.forget(&key).await),
                        Request::Collect(retention, reply) => answer(reply, writer.collect(&retention).await),
                        Request::Close(reply) => closing = Some(reply),
                        Request::Append(..) | Request::Logs(..) => {}
                    }
                }
            }
        }
        writer.commit(group).await;
    }
    let path = writer.path;
    let closed = writer.connection.close().await.map_err(|error| database(&path, error));
    if let Some(reply) = closing {
        answer(reply, closed);
    }
}

/// A caller that no longer waits has lost nothing: the write stands.
fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    let _ = reply.send(result);
}

/// A request that shares a commit with others.
enum Member {
    Append(Box<Append>, Reply<u64>),
    Logs(LogBatch, Reply<()>),
}

struct Writer {
    connection: SqliteConnection,
    path: PathBuf,
    /// Row numbers of run ids. Only a collection removes runs, and it holds the store alone.
    runs: HashMap<String, i64>,
}

impl Writer {
    async fn commit(&mut self, group: Vec<Member>) {
        let mut rows = Rows::default();
        let mut joined = Vec::with_capacity(group.len());
        let mut apart = Vec::new();
        for member in group {
            match member {
                Member::Append(append, reply) => match self.number(&append.run).await {
                    Ok(number) if rows.accepts(number, &append) => match rows.add(number, &append) {
                        Ok(seq) => joined.push((Member::Append(append, reply), seq)),
                        Err(error) => answer(reply, Err(error)),
                    },
                    Ok(_) => apart.push((append, reply)),
                    Err(error) => answer(reply, Err(error)),
                },
                Member::Logs(batch, reply) => match self.number(&batch.run).await {
                    Ok(number) => {
                        rows.add_logs(number, &batch);
                        joined.push((Member::Logs(batch, reply), 0));
                    }
                    Err(error) => answer(reply, Err(error)),
                },
            }
        }
        if !joined.is_empty() {
            match self.execute(rows).await {
                Ok(()) => {
                    for (member, seq) in joined {
                        match member {
                            Member::Append(_, reply) => answer(reply, Ok(seq)),
                            Member::Logs(_, reply) => answer(reply, Ok(())),
                        }
                    }
                }
                // One member breaks a rule: each gets its own answer.
                Err(error) if primary_code(&error) == Some(CONSTRAINT) => {
                    for (member, _) in joined {
                        match member {
                            Member::Append(append, reply) => answer(reply, self.append_alone(&append).await),
                            Member::Logs(batch, reply) => answer(reply, self.logs_alone(&batch).await),
                        }
                    }
                }
                // The database itself failed: all get that answer.
                Err(error) => {
                    for (member, _) in joined {
                        let error = classify(&self.path, &error);
                        match member {
                            Member::Append(_, reply) => answer(reply, Err(error)),
                            Member::Logs(_, reply) => answer(reply, Err(error)),
                        }
                    }
                }
            }
        }
        for (append, reply) in apart {
            answer(reply, self.append_alone(&append).await);
        }
    }

    /// One group, one commit. After an error nothing of it is stored.
    async fn execute(&mut self, rows: Rows) -> Result<(), sqlx::Error> {
        let small = rows.is_small();
        let (text, arguments) = rows.statements().map_err(sqlx::Error::Encode)?;
        // A large group hardly ever has the shape of another: its statements are not worth keeping.
        let group = sqlx::query_with(AssertSqlSafe(text), arguments).persistent(small);
        let done = group.execute(&mut self.connection).await;
        if done.is_err() {
            // Fails when nothing is open: `BEGIN` was refused, or SQLite has undone it by itself.
            let _ = sqlx::raw_sql("ROLLBACK").execute(&mut self.connection).await;
        }
        done.map(drop)
    }

    async fn append_alone(&mut self, append: &Append) -> Result<u64, Error> {
        let number = self.number(&append.run).await?;
        let mut rows = Rows::default();
        let seq = rows.add(number, append)?;
        match self.execute(rows).await {
            Ok(()) => Ok(seq),
            Err(error) if primary_code(&error) == Some(CONSTRAINT) => {
                // I4: the same transition again gets the stored answer.
                if let Some(transition) = &append.transition {
                    let stored = sqlx::query("SELECT seq FROM event WHERE run = ?1 AND transition = ?2")
                        .bind(number)
                        .bind(transition.as_str())
                        .fetch_optional(&mut self.connection)
                        .await
                        .map_err(|error| database(&self.path, error))?;
                    if let Some(row) = stored {
                        return Ok(row.get::<i64, _>(0) as u64);
                    }
                }
                let head = sqlx::query("SELECT seq FROM run WHERE n = ?1")
                    .bind(number)
                    .fetch_optional(&mut self.connection)
                    .await
                    .map_err(|error| database(&self.path, error))?;
                let run = append.run.clone();
                match head.map(|row| row.get::<i64, _>(0) as u64) {
                    None => {
                        self.runs.remove(&run);
                        Err(Error::NoRun(run))
                    }
                    Some(actual) if actual != append.expected_seq => {
                        Err(Error::Conflict { run, expected: append.expected_seq, actual })
                    }
                    Some(_) if error.as_database_error().is_some_and(|e| e.message().contains("result.")) => {
                        Err(Error::ResultExists { run })
                    }
                    Some(_) => Err(database(&self.path, error)),
                }
            }
            Err(error) => Err(database(&self.path, error)),
        }
    }

    async fn logs_alone(&mut self, batch: &LogBatch) -> Result<(), Error> {
        let number = self.number(&batch.run).await?;
        let mut rows = Rows::default();
        rows.add_logs(number, batch);
        self.execute(rows).await.map_err(|error| database(&self.path, error))
    }

    async fn number(&mut self, run: &str) -> Result<i64, Error> {
        if let Some(number) = self.runs.get(run) {
            return Ok(*number);
        }
        let row = sqlx::query("SELECT n FROM run WHERE id = ?1")
            .bind(run)
            .fetch_optional(&mut self.connection)
            .await
            .map_err(|error| database(&self.path, error))?;
        let number = row.ok_or_else(|| Error::NoRun(run.to_owned()))?.get(0);
        self.runs.insert(run.to_owned(), number);
        Ok(number)
    }

    async fn create(&mut self, run: &NewRun) -> Result<(), Error> {
        let created = self.insert_run(run).await;
        match created {
            Ok(()) => Ok(()),
            Err(error) if primary_code(&error) == Some(CONSTRAINT) => {
                let stored = sqlx::query(
                    "SELECT p.text_digest, p.params, p.plan FROM run r JOIN pinned p ON p.run = r.n WHERE r.id = ?1",
                )
                .bind(run.id.as_str())
                .fetch_optional(&mut self.connection)
                .await
                .map_err(|error| database(&self.path, error))?;
                let same = stored.is_some_and(|row| {
                    row.get::<&str, _>(0) == run.text_digest.to_string()
                        && row.get::<&str, _>(1) == run.params
                        && row.get::<&str, _>(2) == run.plan
                });
                if same { Ok(()) } else { Err(Error::RunExists(run.id.clone())) }
            }
            Err(error) => Err(database(&self.path, error)),
        }
    }

    async fn insert_run(&mut self, run: &NewRun) -> Result<(), sqlx::Error> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let row = sqlx::query(
            "INSERT INTO run (id, flow, source, state, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5) \
             RETURNING n",
        )
        .bind(run.id.as_str())
        .bind(run.flow.as_str())
        .bind(run.source.as_str())
        .bind(run.state.as_str())
        .bind(run.created_at)
        .fetch_one(&mut *transaction)
        .await?;
        let number: i64 = row.get(0);
        sqlx::query("INSERT INTO pinned (run, text, text_digest, params, plan) VALUES (?1, ?2, ?3, ?4, ?5)")
            .bind(number)
            .bind(run.text.as_str())
            .bind(run.text_digest.to_string())
            .bind(run.params.as_str())
            .bind(run.plan.as_str())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        self.runs.insert(run.id.clone(), number);
        Ok(())
    }

    async fn touch(&mut self, key: &Digest, now: i64) -> Result<(), Error> {
        // To the hour is enough for collection by age, and saves a commit a reuse.
        sqlx::query("UPDATE cache SET used_at = ?2 WHERE key = ?1 AND used_at < ?2 - 3600000")
            .bind(key.hex())
            .bind(now)
            .execute(&mut self.connection)
            .await
            .map(drop)
            .map_err(|error| database(&self.path, error))
    }

    async fn forget(&mut self, key: &Digest) -> Result<(), Error> {
        sqlx::query("DELETE FROM cache WHERE key = ?1")
            .bind(key.hex())
            .execute(&mut self.connection)
            .await
            .map(drop)
            .map_err(|error| database(&self.path, error))
    }

    async fn collect(&mut self, retention: &Retention) -> Result<Collected, Error> {
        self.runs.clear();
        let path = self.path.clone();
        self.collect_rows(retention, &path).await
    }

    async fn collect_rows(&mut self, retention: &Retention, path: &Path) -> Result<Collected, Error> {
        let failed = |error| database(path, error);
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let removed = sqlx::query(
            "DELETE FROM run WHERE ended_at < ?1 AND state IN (SELECT value FROM json_each(?2)) \
             AND instr(id, '.') = 0 AND id NOT IN (SELECT value FROM json_each(?3)) RETURNING id",
        )
        .bind(retention.runs_ended_before)
        .bind(json!(retention.ended_states).to_string())
        .bind(json!(retention.keep_runs).to_string())
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed)?;
        // Runs of sub-flows live and go with the run above them, whatever state they were left in.
        let below = sqlx::query(
            "DELETE FROM run WHERE instr(id, '.') > 0 \
             AND substr(id, 1, instr(id, '.') - 1) NOT IN (SELECT id FROM run) RETURNING id",
        )
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed)?;
        let entries = sqlx::query("DELETE FROM cache WHERE used_at < ?1 OR expires_at <= ?2")
            .bind(retention.cache_used_before)
            .bind(retention.now)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        let mut runs: Vec<String> = removed.iter().chain(&below).map(|row| row.get(0)).collect();
        runs.sort_unstable();
        let referenced = match retention.dry_run {
            true => {
                let left = referenced(&mut *transaction, path).await?;
                transaction.rollback().await.map_err(failed)?;
                Some(left)
            }
            false => {
                transaction.commit().await.map_err(failed)?;
                None
            }
        };
        Ok(Collected { runs, cache_entries: entries.rows_affected(), referenced })
    }
}
