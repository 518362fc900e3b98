//! The connection that writes, as the writer of the process asks it.
//!
//! A group goes to SQLite as one text of several statements, from `BEGIN IMMEDIATE` to `COMMIT`: one hop to sqlx's
//! thread and back, and one commit, whatever the size of the group. The compare-and-set is a `NOT NULL` constraint: the
//! head of a run that is not where the writer thinks, or is of another lease, becomes NULL, and all of it is undone.

use std::path::PathBuf;

use serde_json::json;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use swath_task::Digest;

use super::Reads;
use super::open::{classify, database, primary_code};
use super::statements::statements;
use crate::deployments::{Given, OLD_FIRES, Statement};
use crate::error::Error;
use crate::read;
use crate::record::{Collected, NewRun, Retention};
use crate::rows::Rows;
use crate::writer::{Database, Reply, answer};

/// `SQLITE_CONSTRAINT`.
const CONSTRAINT: u32 = 19;

/// What else the writer is asked for.
pub(super) enum Other {
    Create(Box<NewRun>, Reply<()>),
    Touch(Digest, i64, Reply<()>),
    Forget(Digest, Reply<()>),
    Collect(Box<Retention>, Reply<Collected>),
    /// Raises the epoch of a run.
    Lease(String, Reply<u64>),
    Mark(String, Mark, Reply<()>),
    Alter(Vec<Statement>, Reply<Vec<Vec<i64>>>),
}

/// What is noted of a run beside its journal.
pub(super) enum Mark {
    /// It is to be cancelled.
    Cancel,
    /// It is to pause, or to go on.
    Pause(bool),
    /// A server takes it on, by the request with this digest.
    Served(String),
    /// Its outputs go here.
    Outputs(Vec<u8>),
    /// A write to it was refused.
    Refused,
}

/// The connection.
pub(super) struct Journal {
    pub connection: SqliteConnection,
    pub path: PathBuf,
}

impl Database for Journal {
    type Other = Other;

    async fn number(&mut self, run: &str) -> Result<Option<i64>, Error> {
        let row = sqlx::query("SELECT n FROM run WHERE id = ?1").bind(run).fetch_optional(&mut self.connection).await;
        Ok(row.map_err(|error| database(&self.path, error))?.map(|row| row.get(0)))
    }

    async fn commit(&mut self, rows: Rows) -> Result<(), sqlx::Error> {
        let small = rows.is_small();
        let (text, arguments) = statements(rows).map_err(sqlx::Error::Encode)?;
        // A large group hardly ever has the shape of another: its statements are not worth keeping.
        let group = sqlx::query_with(AssertSqlSafe(text), arguments).persistent(small);
        let done = group.execute(&mut self.connection).await;
        if done.is_err() {
            // Fails when nothing is open: `BEGIN` was refused, or SQLite has undone it by itself.
            let _ = sqlx::raw_sql("ROLLBACK").execute(&mut self.connection).await;
        }
        done.map(drop)
    }

    fn is_rule(&self, error: &sqlx::Error) -> bool {
        primary_code(error) == Some(CONSTRAINT)
    }

    async fn transition(&mut self, number: i64, id: &str) -> Result<Option<u64>, Error> {
        let row = sqlx::query("SELECT seq FROM event WHERE run = ?1 AND transition = ?2")
            .bind(number)
            .bind(id)
            .fetch_optional(&mut self.connection)
            .await;
        Ok(row.map_err(|error| database(&self.path, error))?.map(|row| row.get::<i64, _>(0) as u64))
    }

    async fn head(&mut self, number: i64) -> Result<Option<(u64, u64)>, Error> {
        let row = sqlx::query("SELECT seq, epoch FROM run WHERE n = ?1")
            .bind(number)
            .fetch_optional(&mut self.connection)
            .await
            .map_err(|error| database(&self.path, error))?;
        Ok(row.map(|row| (row.get::<i64, _>(0) as u64, row.get::<i64, _>(1) as u64)))
    }

    async fn refused(&mut self, run: &str) -> Result<(), Error> {
        self.mark(run, Mark::Refused).await
    }

    fn classify(&self, error: &sqlx::Error) -> Error {
        classify(&self.path, error)
    }

    async fn other(&mut self, other: Other) -> bool {
        let collects = matches!(other, Other::Collect(..));
        match other {
            Other::Create(run, reply) => answer(reply, self.create(&run).await),
            Other::Touch(key, now, reply) => answer(reply, self.touch(&key, now).await),
            Other::Forget(key, reply) => answer(reply, self.forget(&key).await),
            Other::Collect(retention, reply) => answer(reply, self.collect(&retention).await),
            Other::Lease(run, reply) => answer(reply, self.lease(&run).await),
            Other::Mark(run, mark, reply) => answer(reply, self.mark(&run, mark).await),
            Other::Alter(statements, reply) => answer(reply, self.alter(statements).await),
        }
        collects
    }

    async fn close(self) -> Result<(), Error> {
        let path = self.path;
        self.connection.close().await.map_err(|error| database(&path, error))
    }
}

impl Journal {
    async fn alter(&mut self, statements: Vec<Statement>) -> Result<Vec<Vec<i64>>, Error> {
        let altered = async {
            let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
            let mut answers = Vec::with_capacity(statements.len());
            for Statement { text, given } in statements {
                let mut query = sqlx::query(text);
                for value in given {
                    query = match value {
                        Given::Integer(value) => query.bind(value),
                        Given::Text(value) => query.bind(value),
                    };
                }
                let rows = query.fetch_all(&mut *transaction).await?;
                answers.push(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?);
            }
            transaction.commit().await?;
            Ok(answers)
        };
        altered.await.map_err(|error| database(&self.path, error))
    }

    async fn lease(&mut self, run: &str) -> Result<u64, Error> {
        let raised = async {
            let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
            // Who asked for something before meant the process that had the lease then.
            let raise = "INSERT INTO claim (run, epoch) VALUES (?1, 1) \
                         ON CONFLICT (run) DO UPDATE SET epoch = epoch + 1, cancel = 0, pause = NULL RETURNING epoch";
            let epoch: i64 = sqlx::query(raise).bind(run).fetch_one(&mut *transaction).await?.get(0);
            let fence = sqlx::query("UPDATE run SET epoch = ?2 WHERE id = ?1").bind(run).bind(epoch);
            fence.execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(epoch as u64)
        };
        raised.await.map_err(|error| database(&self.path, error))
    }

    async fn mark(&mut self, run: &str, mark: Mark) -> Result<(), Error> {
        let insert = |column: &str, given: &str, then: &str| {
            format!(
                "INSERT INTO claim (run, {column}) VALUES (?1, {given}) ON CONFLICT (run) DO UPDATE SET {column} = {then}"
            )
        };
        let text = match mark {
            Mark::Cancel => insert("cancel", "1", "1"),
            Mark::Pause(_) => insert("pause", "?2", "excluded.pause"),
            Mark::Refused => insert("refused", "1", "refused + 1"),
            Mark::Served(_) => insert("served", "?2", "excluded.served"),
            Mark::Outputs(_) => insert("outputs", "?2", "excluded.outputs"),
        };
        let mut query = sqlx::query(AssertSqlSafe(text)).bind(run);
        query = match mark {
            Mark::Served(request) => query.bind(request),
            Mark::Outputs(folder) => query.bind(folder),
            Mark::Pause(pause) => query.bind(pause),
            Mark::Cancel | Mark::Refused => query,
        };
        query.execute(&mut self.connection).await.map(drop).map_err(|error| database(&self.path, error))
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
                        && row.get::<&str, _>(2) == &*run.plan
                });
                if same { Ok(()) } else { Err(Error::RunExists(run.id.clone())) }
            }
            Err(error) => Err(database(&self.path, error)),
        }
    }

    async fn insert_run(&mut self, run: &NewRun) -> Result<(), sqlx::Error> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let row = sqlx::query(
            "INSERT INTO run (id, flow, source, state, created_at, updated_at, epoch) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?5, coalesce((SELECT epoch FROM claim WHERE run = ?1), 0)) RETURNING n",
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
            .bind(run.text.clone())
            .bind(run.text_digest.to_string())
            .bind(run.params.as_str())
            .bind(run.plan.clone())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
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
        let (collected, left) = self.collect_rows(retention).await.map_err(|error| database(&self.path, error))?;
        Ok(Collected { referenced: left.map(|rows| read::digests(&rows)).transpose()?, ..collected })
    }

    /// The answer comes with that of [`read::referenced_text`], of a dry run.
    async fn collect_rows(
        &mut self,
        retention: &Retention,
    ) -> Result<(Collected, Option<Vec<SqliteRow>>), sqlx::Error> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let removed = sqlx::query(
            "DELETE FROM run WHERE ended_at < ?1 AND state IN (SELECT value FROM json_each(?2)) \
             AND instr(id, '.') = 0 AND id NOT IN (SELECT value FROM json_each(?3)) RETURNING id",
        )
        .bind(retention.runs_ended_before)
        .bind(json!(retention.ended_states).to_string())
        .bind(json!(retention.keep_runs).to_string())
        .fetch_all(&mut *transaction)
        .await?;
        // Runs of sub-flows live and go with the run above them, whatever state they were left in.
        let below = sqlx::query(
            "DELETE FROM run WHERE instr(id, '.') > 0 \
             AND substr(id, 1, instr(id, '.') - 1) NOT IN (SELECT id FROM run) RETURNING id",
        )
        .fetch_all(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM claim WHERE run NOT IN (SELECT id FROM run)").execute(&mut *transaction).await?;
        let entries = sqlx::query("DELETE FROM cache WHERE used_at < ?1 OR expires_at <= ?2")
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
