//! Deployments on SQLite: written by the process' one writer, each change in a transaction of its own.

use std::path::Path;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::sync::oneshot;

use super::open::database;
use super::writer::{Request, Work};
use super::{SqliteStore, read};
use crate::deployments::{
    DeploymentRow, Deployments, FireChange, FireFilter, FireRow, Follows, NewFire, NewVersion, TAKEN_FOR, Telling,
    Version, fire_state,
};
use crate::error::Error;
use crate::redact::storable;

const DEPLOYMENT: &str = "SELECT d.name, d.version, v.flow, v.spec, d.paused, d.handled, d.created_at, d.updated_at \
     FROM deployment d JOIN deployment_version v ON v.deployment = d.n AND v.version = d.version";

fn deployment(row: &SqliteRow) -> Result<DeploymentRow, sqlx::Error> {
    Ok(DeploymentRow {
        name: row.try_get(0)?,
        version: row.try_get(1)?,
        flow: row.try_get(2)?,
        spec: row.try_get(3)?,
        paused: row.try_get(4)?,
        handled: row.try_get(5)?,
        created_at: row.try_get(6)?,
        updated_at: row.try_get(7)?,
    })
}

fn version(row: &SqliteRow) -> Result<Version, sqlx::Error> {
    Ok(Version {
        version: row.try_get(0)?,
        digest: row.try_get(1)?,
        created_at: row.try_get(2)?,
        flow: row.try_get(3)?,
        spec: row.try_get(4)?,
        content: row.try_get(5)?,
    })
}

fn fire(row: &SqliteRow) -> Result<FireRow, sqlx::Error> {
    Ok(FireRow {
        id: row.try_get(0)?,
        deployment: row.try_get(1)?,
        key: row.try_get(2)?,
        cause: row.try_get(3)?,
        since: row.try_get(4)?,
        at: row.try_get(5)?,
        due: row.try_get(6)?,
        params: row.try_get(7)?,
        state: row.try_get(8)?,
        run: row.try_get(9)?,
        run_state: row.try_get(10)?,
        note: row.try_get(11)?,
        settled: row.try_get(12)?,
        created_at: row.try_get(13)?,
    })
}

fn telling(row: &SqliteRow) -> Result<Telling, sqlx::Error> {
    Ok(Telling {
        id: row.try_get(0)?,
        deployment: row.try_get(1)?,
        hook: row.try_get(2)?,
        happening: row.try_get(3)?,
        message: row.try_get(4)?,
        attempts: row.try_get(5)?,
    })
}

async fn insert_fire(connection: &mut SqliteConnection, name: &str, fire: &NewFire) -> Result<u64, sqlx::Error> {
    sqlx::query(
        "INSERT INTO fire (deployment, key, cause, since, at, due, params, state, note, created_at) \
         SELECT n, $2, $3, $4, $5, $6, $7, 'due', '', $8 FROM deployment WHERE name = $1 AND paused = 0 \
         ON CONFLICT (deployment, key) DO NOTHING",
    )
    .bind(name)
    .bind(&fire.key)
    .bind(&fire.cause)
    .bind(fire.since)
    .bind(fire.at)
    .bind(fire.due)
    .bind(&fire.params)
    .bind(fire.created_at)
    .execute(connection)
    .await
    .map(|done| done.rows_affected())
}

/// Whether the newest version of a deployment changed.
async fn deploy(connection: &mut SqliteConnection, new: &NewVersion) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(
        "INSERT INTO deployment (name, version, paused, handled, created_at, updated_at) \
         VALUES ($1, 0, $2, $3, $3, $3) ON CONFLICT (name) DO NOTHING",
    )
    .bind(&new.name)
    .bind(new.paused)
    .bind(new.now)
    .execute(&mut *transaction)
    .await?;
    let row = sqlx::query("SELECT n, version FROM deployment WHERE name = $1")
        .bind(&new.name)
        .fetch_one(&mut *transaction)
        .await?;
    let (number, newest): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let digest = new.digest().hex();
    let same = sqlx::query("SELECT 1 FROM deployment_version WHERE deployment = $1 AND version = $2 AND digest = $3")
        .bind(number)
        .bind(newest)
        .bind(&digest)
        .fetch_optional(&mut *transaction)
        .await?;
    if same.is_none() {
        sqlx::query(
            "INSERT INTO deployment_version (deployment, version, digest, created_at, flow, spec, content) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(number)
        .bind(newest + 1)
        .bind(&digest)
        .bind(new.now)
        .bind(&new.flow)
        .bind(&new.spec)
        .bind(&new.content)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "UPDATE deployment SET version = $2, updated_at = $3, \
             handled = CASE WHEN handled > $3 THEN handled ELSE $3 END WHERE n = $1",
        )
        .bind(number)
        .bind(newest + 1)
        .bind(new.now)
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await
}

async fn add_fires(
    connection: &mut SqliteConnection,
    name: &str,
    fires: &[NewFire],
    handled: Option<i64>,
) -> Result<usize, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut added = 0;
    for fire in fires {
        added += insert_fire(&mut transaction, name, fire).await? as usize;
    }
    if let Some(handled) = handled {
        sqlx::query("UPDATE deployment SET handled = $2 WHERE name = $1 AND paused = 0 AND handled < $2")
            .bind(name)
            .bind(handled)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(added)
}

async fn settle(connection: &mut SqliteConnection, fire: i64, follows: &Follows) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for (name, other) in &follows.fires {
        insert_fire(&mut transaction, name, other).await?;
    }
    for telling in &follows.tellings {
        sqlx::query(
            "INSERT INTO telling (fire, hook, happening, message, next_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (fire, hook, happening) DO NOTHING",
        )
        .bind(fire)
        .bind(telling.hook)
        .bind(telling.happening)
        .bind(storable(&telling.message))
        .bind(telling.at)
        .execute(&mut *transaction)
        .await?;
    }
    if follows.last {
        sqlx::query("UPDATE fire SET settled = 1 WHERE n = $1").bind(fire).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// Takes tellings, so that nobody else gets them for a while. Returns those that it got.
async fn take(connection: &mut SqliteConnection, ids: &[i64], now: i64) -> Result<Vec<i64>, sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut taken = Vec::new();
    for id in ids {
        let took = sqlx::query("UPDATE telling SET next_at = $3 WHERE n = $1 AND next_at <= $2 AND ended_at IS NULL")
            .bind(id)
            .bind(now)
            .bind(now.saturating_add(TAKEN_FOR))
            .execute(&mut *transaction)
            .await?;
        if took.rows_affected() == 1 {
            taken.push(*id);
        }
    }
    transaction.commit().await?;
    Ok(taken)
}

impl SqliteStore {
    /// Writes by the writer's connection, apart from the commits that transitions share.
    async fn write<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(&'c mut SqliteConnection) -> futures::future::BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            Box::pin(async move {
                // A caller that no longer waits has lost nothing: the write stands.
                let _ = reply.send(work(connection).await);
            })
        });
        self.send(Request::Apart(work)).await?;
        answer.await.map_err(|_| Error::Closed)?.map_err(|error| database(&self.path, error))
    }

    async fn select<T>(
        &self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
        of: impl Fn(&SqliteRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, Error> {
        let path: &Path = &self.path;
        let rows = query.fetch_all(&self.reads).await.map_err(|error| database(path, error))?;
        read::all(&rows, path, of)
    }
}

#[async_trait]
impl Deployments for SqliteStore {
    async fn deploy(&self, version: NewVersion) -> Result<DeploymentRow, Error> {
        let name = version.name.clone();
        self.write(|connection| Box::pin(async move { deploy(connection, &version).await })).await?;
        self.deployment(&name).await
    }

    async fn deployments(&self) -> Result<Vec<DeploymentRow>, Error> {
        self.select(sqlx::query(AssertSqlSafe(format!("{DEPLOYMENT} ORDER BY d.name"))), deployment).await
    }

    async fn deployment(&self, name: &str) -> Result<DeploymentRow, Error> {
        let rows = self
            .select(sqlx::query(AssertSqlSafe(format!("{DEPLOYMENT} WHERE d.name = $1"))).bind(name), deployment)
            .await?;
        rows.into_iter().next().ok_or_else(|| Error::NoDeployment(name.to_owned()))
    }

    async fn versions(&self, name: &str, wanted: Option<u32>) -> Result<Vec<Version>, Error> {
        self.deployment(name).await?;
        let query = sqlx::query(
            "SELECT v.version, v.digest, v.created_at, v.flow, v.spec, v.content \
             FROM deployment_version v JOIN deployment d ON d.n = v.deployment \
             WHERE d.name = $1 AND ($2 IS NULL OR v.version = $2) ORDER BY v.version DESC",
        );
        self.select(query.bind(name).bind(wanted), version).await
    }

    async fn set_paused(&self, name: &str, paused: bool, now: i64) -> Result<DeploymentRow, Error> {
        let wanted = name.to_owned();
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE deployment SET paused = $2, updated_at = $3, \
                     handled = CASE WHEN handled > $3 THEN handled ELSE $3 END WHERE name = $1 AND paused <> $2",
                )
                .bind(&wanted)
                .bind(paused)
                .bind(now)
                .execute(connection)
                .await
                .map(drop)
            })
        })
        .await?;
        self.deployment(name).await
    }

    async fn delete_deployment(&self, name: &str) -> Result<(), Error> {
        let wanted = name.to_owned();
        let gone = self
            .write(move |connection| {
                Box::pin(async move {
                    let gone = sqlx::query("DELETE FROM deployment WHERE name = $1").bind(&wanted).execute(connection);
                    gone.await.map(|gone| gone.rows_affected())
                })
            })
            .await?;
        if gone == 0 { Err(Error::NoDeployment(name.to_owned())) } else { Ok(()) }
    }

    async fn add_fires(&self, name: &str, fires: Vec<NewFire>, handled: Option<i64>) -> Result<usize, Error> {
        let name = name.to_owned();
        self.write(move |connection| Box::pin(async move { add_fires(connection, &name, &fires, handled).await })).await
    }

    async fn fires(&self, filter: &FireFilter) -> Result<Vec<FireRow>, Error> {
        let mut text = String::from(
            "SELECT f.n, d.name, f.key, f.cause, f.since, f.at, f.due, f.params, f.state, f.run, r.state, f.note, \
             f.settled, f.created_at FROM fire f JOIN deployment d ON d.n = f.deployment \
             LEFT JOIN run r ON r.id = f.run WHERE true",
        );
        // Texts of their own, so that each finds its index.
        if filter.open {
            text.push_str(" AND f.settled = 0");
        }
        text.push_str(if filter.deployment.is_some() { " AND d.name = $1" } else { " AND $1 IS NULL" });
        text.push_str(if filter.run.is_some() { " AND f.run = $2" } else { " AND $2 IS NULL" });
        text.push_str(" ORDER BY f.n DESC LIMIT $3");
        let query = sqlx::query(AssertSqlSafe(text))
            .bind(filter.deployment.as_deref())
            .bind(filter.run.as_deref())
            .bind(filter.limit.map_or(i64::MAX, i64::from));
        self.select(query, fire).await
    }

    async fn change_fire(&self, fire: i64, from: &str, change: FireChange) -> Result<bool, Error> {
        let from = from.to_owned();
        self.write(move |connection| {
            Box::pin(async move {
                // What never becomes a run has ended with that; whether hooks are told is settled apart.
                let over = change.state == fire_state::SKIPPED;
                sqlx::query(
                    "UPDATE fire SET state = $3, run = coalesce($4, run), note = $5, since = coalesce($6, since), \
                     settled = CASE WHEN $7 THEN 1 ELSE settled END WHERE n = $1 AND state = $2",
                )
                .bind(fire)
                .bind(&from)
                .bind(change.state)
                .bind(change.run)
                .bind(storable(&change.note))
                .bind(change.since)
                .bind(over)
                .execute(connection)
                .await
                .map(|done| done.rows_affected() == 1)
            })
        })
        .await
    }

    async fn settle(&self, fire: i64, follows: Follows) -> Result<(), Error> {
        self.write(move |connection| Box::pin(async move { settle(connection, fire, &follows).await })).await
    }

    async fn unsettle(&self, run: &str) -> Result<(), Error> {
        let run = run.to_owned();
        self.write(move |connection| {
            Box::pin(async move {
                let again = sqlx::query("UPDATE fire SET settled = 0 WHERE run = $1 AND settled = 1").bind(&run);
                again.execute(connection).await.map(drop)
            })
        })
        .await
    }

    async fn tellings(&self, now: i64, limit: u32) -> Result<Vec<Telling>, Error> {
        let query = sqlx::query(
            "SELECT t.n, d.name, t.hook, t.happening, t.message, t.attempts FROM telling t \
             JOIN fire f ON f.n = t.fire JOIN deployment d ON d.n = f.deployment \
             WHERE t.ended_at IS NULL AND t.next_at <= $1 ORDER BY t.next_at, t.n LIMIT $2",
        );
        let mut due = self.select(query.bind(now).bind(limit), telling).await?;
        if due.is_empty() {
            return Ok(due);
        }
        let ids: Vec<i64> = due.iter().map(|one| one.id).collect();
        let taken = self.write(move |connection| Box::pin(async move { take(connection, &ids, now).await })).await?;
        due.retain(|one| taken.contains(&one.id));
        Ok(due)
    }

    async fn told(&self, telling: i64, at: i64, error: Option<String>, next_at: Option<i64>) -> Result<(), Error> {
        let error = error.as_deref().map(storable);
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE telling SET attempts = attempts + 1, error = $2, next_at = coalesce($3, next_at), \
                     ended_at = CASE WHEN $3 IS NULL THEN $4 END WHERE n = $1",
                )
                .bind(telling)
                .bind(error)
                .bind(next_at)
                .bind(at)
                .execute(connection)
                .await
                .map(drop)
            })
        })
        .await
    }
}
