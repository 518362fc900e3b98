//! The one writer of a process: takes requests from a queue and makes them durable, all that wait in one commit.
//!
//! A group goes to SQLite as one text of several statements, from `BEGIN IMMEDIATE` to `COMMIT`: one hop to sqlx's
//! thread and back, and one commit, whatever the size of the group. The compare-and-set is a `NOT NULL` constraint: the
//! head of a run that is not where the writer thinks becomes NULL, and all of it is undone. When a group fails for such
//! a reason its members are tried one by one, so that each gets its own answer.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::json;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments, AssertSqlSafe, Connection, Row};
use swath_task::Digest;
use tokio::sync::{mpsc, oneshot};

use super::open::{classify, database, primary_code};
use crate::error::Error;
use crate::record::{Append, CacheTerms, Collected, LogBatch, NewRun, Retention};
use crate::redact::{LONGEST_TEXT, redact, storable};

/// How many requests may wait.
pub(super) const QUEUE: usize = 4096;
/// How many requests share a commit.
const GROUP: usize = 1024;
/// Stands for structured fields that are too long: cut in the middle they would not be JSON.
const CUT_FIELDS: &str = r#"{"swath":"fields too long"}"#;
/// Rows of one statement: SQLite binds at most 32,766 values to one.
const ROWS: usize = 1000;
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
        self.collect_rows(retention).await.map_err(|error| database(&self.path, error))
    }

    async fn collect_rows(&mut self, retention: &Retention) -> Result<Collected, sqlx::Error> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let removed = sqlx::query(
            "DELETE FROM run WHERE ended_at < ?1 AND state IN (SELECT value FROM json_each(?2)) \
             AND id NOT IN (SELECT value FROM json_each(?3)) RETURNING id",
        )
        .bind(retention.runs_ended_before)
        .bind(json!(retention.ended_states).to_string())
        .bind(json!(retention.keep_runs).to_string())
        .fetch_all(&mut *transaction)
        .await?;
        let entries = sqlx::query("DELETE FROM cache WHERE used_at < ?1 OR expires_at <= ?2")
            .bind(retention.cache_used_before)
            .bind(retention.now)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let mut runs: Vec<String> = removed.iter().map(|row| row.get(0)).collect();
        runs.sort_unstable();
        Ok(Collected { runs, cache_entries: entries.rows_affected() })
    }
}

/// The new place of a run's head, and what changes on its row.
struct Head {
    expected: u64,
    next: u64,
    at: i64,
    state: Option<String>,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    error: Option<String>,
    summary: Option<String>,
}

/// The rows of a group.
#[derive(Default)]
struct Rows {
    heads: Vec<(i64, Head)>,
    place: HashMap<i64, usize>,
    events: Vec<Cell>,
    results: Vec<Cell>,
    lineage: Vec<Cell>,
    cache: Vec<Cell>,
    metrics: Vec<Cell>,
    logs: Vec<Cell>,
}

/// A value of a row.
enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<u32> for Cell {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        // Counts of events and lines: never that large.
        Self::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        // SQLite stores NaN as NULL; infinities cannot be told in JSON, so they are no values either.
        if value.is_finite() { Self::Real(value) } else { Self::Null }
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<&String> for Cell {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A table that a group writes: how its rows are inserted.
struct Target {
    insert: &'static str,
    columns: usize,
}

const EVENTS: Target =
    Target { insert: "INSERT INTO event (run, seq, at, kind, step, payload, transition) VALUES ", columns: 7 };
const RESULTS: Target = Target {
    insert: "INSERT INTO result (run, step, instance, attempt, at, outputs, key, parts, reused_from) VALUES ",
    columns: 9,
};
const LINEAGE: Target = Target {
    insert: "INSERT OR IGNORE INTO lineage (digest, name, run, step, instance, attempt, at, record) VALUES ",
    columns: 8,
};
const CACHE: Target = Target {
    insert: "INSERT OR REPLACE INTO cache (key, run, step, instance, outputs, artifacts, created_at, used_at, expires_at) \
             VALUES ",
    columns: 9,
};
const METRICS: Target =
    Target { insert: "INSERT INTO metric (run, step, instance, attempt, name, value) VALUES ", columns: 6 };
const LOGS: Target = Target {
    insert: "INSERT INTO log (run, step, instance, attempt, at, level, target, message, fields, dropped) VALUES ",
    columns: 10,
};

impl Rows {
    /// Whether an append follows what the group has of its run.
    fn accepts(&self, number: i64, append: &Append) -> bool {
        self.place.get(&number).is_none_or(|place| self.heads[*place].1.next == append.expected_seq)
    }

    fn add(&mut self, number: i64, append: &Append) -> Result<u64, Error> {
        check(append)?;
        let place = *self.place.entry(number).or_insert_with(|| {
            let head = Head {
                expected: append.expected_seq,
                next: append.expected_seq,
                at: append.at,
                state: None,
                started_at: None,
                ended_at: None,
                error: None,
                summary: None,
            };
            self.heads.push((number, head));
            self.heads.len() - 1
        });
        let head = &mut self.heads[place].1;
        head.at = append.at;
        if let Some(update) = &append.update {
            if update.state.is_some() {
                head.state.clone_from(&update.state);
                head.ended_at = update.ended_at;
                head.error = update.error.as_deref().map(storable);
            }
            head.started_at = head.started_at.or(update.started_at);
            if update.summary.is_some() {
                head.summary.clone_from(&update.summary);
            }
        }
        let last = append.events.len();
        for (index, event) in append.events.iter().enumerate() {
            head.next += 1;
            let transition = append.transition.as_deref().filter(|_| index + 1 == last);
            self.events.extend([
                number.into(),
                head.next.into(),
                append.at.into(),
                event.kind.as_str().into(),
                event.step.as_deref().into(),
                event.payload.as_str().into(),
                transition.into(),
            ]);
        }
        let next = head.next;
        for metric in &append.metrics {
            self.metrics.extend([
                number.into(),
                (&metric.step).into(),
                (&metric.instance).into(),
                metric.attempt.into(),
                (&metric.name).into(),
                metric.value.into(),
            ]);
        }
        for result in &append.results {
            let key = result.key.as_ref().map(|parts| parts.digest().hex());
            let parts = result.key.as_ref().map(|parts| json!(parts).to_string());
            self.results.extend([
                number.into(),
                (&result.step).into(),
                (&result.instance).into(),
                result.attempt.into(),
                append.at.into(),
                (&result.outputs).into(),
                key.clone().into(),
                parts.into(),
                result.reused_from.as_deref().into(),
            ]);
            for record in &result.artifacts {
                self.lineage.extend([
                    record.digest.hex().into(),
                    (&record.name).into(),
                    number.into(),
                    (&result.step).into(),
                    (&result.instance).into(),
                    result.attempt.into(),
                    append.at.into(),
                    json!(record).to_string().into(),
                ]);
            }
            let expires = match result.cache {
                CacheTerms::Off => continue,
                CacheTerms::Keep => None,
                CacheTerms::Until(at) => Some(at),
            };
            if let Some(key) = key {
                self.cache.extend([
                    key.into(),
                    append.run.as_str().into(),
                    (&result.step).into(),
                    (&result.instance).into(),
                    (&result.outputs).into(),
                    json!(result.artifacts).to_string().into(),
                    append.at.into(),
                    append.at.into(),
                    expires.into(),
                ]);
            }
        }
        Ok(next)
    }

    fn add_logs(&mut self, number: i64, batch: &LogBatch) {
        let mut dropped = batch.dropped;
        let empty = batch.lines.is_empty() && dropped > 0;
        // Lines that were dropped at the end still have to be told.
        let gap = empty.then(|| crate::record::LogLine {
            at: batch.at,
            level: "warn".to_owned(),
            target: "swath".to_owned(),
            message: format!("{dropped} lines dropped"),
            fields: String::new(),
        });
        for line in batch.lines.iter().chain(&gap) {
            let fields = if line.fields.len() > LONGEST_TEXT {
                CUT_FIELDS.to_owned()
            } else {
                redact(&line.fields).into_owned()
            };
            self.logs.extend([
                number.into(),
                (&batch.step).into(),
                (&batch.instance).into(),
                batch.attempt.into(),
                line.at.into(),
                (&line.level).into(),
                (&line.target).into(),
                storable(&line.message).into(),
                fields.into(),
                std::mem::take(&mut dropped).into(),
            ]);
        }
    }

    /// Whether another group will soon have the same number of rows in each table.
    fn is_small(&self) -> bool {
        const FEW: usize = 8;
        let tables = [&self.results, &self.lineage, &self.cache, &self.metrics, &self.logs];
        self.heads.len() <= 1
            && self.events.len() <= FEW * EVENTS.columns
            && tables.iter().map(|cells| cells.len()).sum::<usize>() <= 2 * FEW * RESULTS.columns
    }

    /// The text of the transaction, and what its parameters stand for, in order.
    fn statements(self) -> Result<(String, SqliteArguments), sqlx::error::BoxDynError> {
        let mut text = String::from("BEGIN IMMEDIATE;");
        let mut arguments = SqliteArguments::default();
        for (number, h) in self.heads {
            text.push_str("UPDATE run SET seq = iif(seq = ?, ?, NULL), updated_at = ?");
            let mut cells: Vec<Cell> = vec![h.expected.into(), h.next.into(), h.at.into()];
            if let Some(state) = h.state {
                text.push_str(", state = ?, ended_at = ?, error = ?");
                cells.extend([state.into(), h.ended_at.into(), h.error.into()]);
            }
            if h.started_at.is_some() || h.summary.is_some() {
                text.push_str(", started_at = coalesce(started_at, ?), summary = coalesce(?, summary)");
                cells.extend([h.started_at.into(), h.summary.into()]);
            }
            text.push_str(" WHERE n = ?;");
            cells.push(number.into());
            bind(&mut arguments, cells)?;
        }
        for (target, cells) in [
            (EVENTS, self.events),
            (RESULTS, self.results),
            (LINEAGE, self.lineage),
            (CACHE, self.cache),
            (METRICS, self.metrics),
            (LOGS, self.logs),
        ] {
            let mut rows = cells.len() / target.columns;
            while rows > 0 {
                let here = rows.min(ROWS);
                rows -= here;
                text.push_str(target.insert);
                for row in 0..here {
                    text.push_str(if row == 0 { "(?" } else { ",(?" });
                    (1..target.columns).for_each(|_| text.push_str(",?"));
                    text.push(')');
                }
                text.push(';');
            }
            bind(&mut arguments, cells)?;
        }
        text.push_str("COMMIT");
        Ok((text, arguments))
    }
}

fn bind(arguments: &mut SqliteArguments, cells: Vec<Cell>) -> Result<(), sqlx::error::BoxDynError> {
    for cell in cells {
        match cell {
            Cell::Null => arguments.add(None::<i64>)?,
            Cell::Integer(value) => arguments.add(value)?,
            Cell::Real(value) => arguments.add(value)?,
            Cell::Text(value) => arguments.add(value)?,
        }
    }
    Ok(())
}

/// What a database would store otherwise than it was given.
fn check(append: &Append) -> Result<(), Error> {
    let events = append.events.iter().map(|event| (&event.payload, "event payload"));
    let results = append.results.iter().map(|result| (&result.outputs, "result"));
    match events.chain(results).find(|(text, _)| text.contains('\0')) {
        Some((_, what)) => {
            Err(Error::Record { what: what.to_owned(), reason: "it contains a NUL character".to_owned() })
        }
        None => Ok(()),
    }
}
