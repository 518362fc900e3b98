//! Reading: from a few connections beside the writer's.

use std::collections::HashSet;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};
use swath_task::Digest;

use super::open::database;
use crate::error::Error;
use crate::record::{
    CacheEntry, CacheFilter, CacheRow, Lineage, LogFilter, LogLine, Metric, RunFilter, RunRow, StoredEvent,
    StoredLogLine, StoredResult, StoredRun,
};

pub(super) async fn events(
    reads: &SqlitePool,
    path: &Path,
    run: &str,
    after: u64,
    limit: u32,
) -> Result<Vec<StoredEvent>, Error> {
    let number = number(reads, path, run).await?;
    let rows =
        sqlx::query("SELECT seq, kind, step, payload, at FROM event WHERE run = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3")
            .bind(number)
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(reads)
            .await
            .map_err(|error| database(path, error))?;
    let read = |row: &SqliteRow| -> Result<StoredEvent, sqlx::Error> {
        Ok(StoredEvent {
            seq: row.try_get::<i64, _>(0)? as u64,
            kind: row.try_get(1)?,
            step: row.try_get(2)?,
            payload: row.try_get(3)?,
            at: row.try_get(4)?,
        })
    };
    let events: Vec<StoredEvent> = all(&rows, path, read)?;
    // I3: a page begins where the last one ended and has no gap.
    for (offset, event) in events.iter().enumerate() {
        let due = after + offset as u64 + 1;
        if event.seq != due {
            let reason = format!("event {due} of run `{run}` is missing");
            return Err(Error::Corrupt { path: path.to_owned(), reason });
        }
    }
    Ok(events)
}

const RUN_COLUMNS: &str =
    "r.id, r.flow, r.source, r.state, r.seq, r.created_at, r.started_at, r.ended_at, r.updated_at, r.error, r.summary";

fn run_row(row: &SqliteRow) -> Result<RunRow, sqlx::Error> {
    Ok(RunRow {
        id: row.try_get(0)?,
        flow: row.try_get(1)?,
        source: row.try_get(2)?,
        state: row.try_get(3)?,
        seq: row.try_get::<i64, _>(4)? as u64,
        created_at: row.try_get(5)?,
        started_at: row.try_get(6)?,
        ended_at: row.try_get(7)?,
        updated_at: row.try_get(8)?,
        error: row.try_get(9)?,
        summary: row.try_get(10)?,
    })
}

pub(super) async fn run(reads: &SqlitePool, path: &Path, run: &str) -> Result<StoredRun, Error> {
    let text = format!(
        "SELECT {RUN_COLUMNS}, p.text, p.text_digest, p.params, p.plan \
         FROM run r JOIN pinned p ON p.run = r.n WHERE r.id = ?1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(run)
        .fetch_optional(reads)
        .await
        .map_err(|error| database(path, error))?
        .ok_or_else(|| Error::NoRun(run.to_owned()))?;
    let read = || -> Result<_, sqlx::Error> {
        Ok((run_row(&row)?, row.try_get(11)?, row.try_get::<String, _>(12)?, row.try_get(13)?, row.try_get(14)?))
    };
    let (run, text, digest, params, plan) = read().map_err(|error| database(path, error))?;
    let text_digest = digest.parse().map_err(|error: swath_task::DigestError| Error::Record {
        what: "text digest".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(StoredRun { row: run, text, text_digest, params, plan })
}

pub(super) async fn row(reads: &SqlitePool, path: &Path, run: &str) -> Result<RunRow, Error> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {RUN_COLUMNS} FROM run r WHERE r.id = ?1")))
        .bind(run)
        .fetch_optional(reads)
        .await
        .map_err(|error| database(path, error))?
        .ok_or_else(|| Error::NoRun(run.to_owned()))?;
    run_row(&row).map_err(|error| database(path, error))
}

pub(super) async fn runs(reads: &SqlitePool, path: &Path, filter: &RunFilter) -> Result<Vec<RunRow>, Error> {
    let text = format!(
        "SELECT {RUN_COLUMNS} FROM run r WHERE (?1 = '[]' OR r.state IN (SELECT value FROM json_each(?1))) \
         AND (?2 IS NULL OR r.flow = ?2) AND (?3 IS NULL OR r.source = ?3) \
         ORDER BY r.created_at DESC, r.n DESC LIMIT ?4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(json!(filter.states).to_string())
        .bind(filter.flow.as_deref())
        .bind(filter.source.as_deref())
        .bind(filter.limit.map_or(-1, i64::from))
        .fetch_all(reads)
        .await
        .map_err(|error| database(path, error))?;
    all(&rows, path, run_row)
}

const RESULT_COLUMNS: &str = "e.step, e.instance, e.attempt, e.outputs, e.key, e.parts, e.reused_from, e.at";

fn result_row(row: &SqliteRow) -> Result<StoredResult, Error> {
    let read = || -> Result<_, sqlx::Error> {
        let key: Option<String> = row.try_get(4)?;
        let parts: Option<String> = row.try_get(5)?;
        let result = StoredResult {
            step: row.try_get(0)?,
            instance: row.try_get(1)?,
            attempt: row.try_get(2)?,
            outputs: row.try_get(3)?,
            key: None,
            parts: None,
            reused_from: row.try_get(6)?,
            at: row.try_get(7)?,
        };
        Ok((result, key, parts))
    };
    let (mut result, key, parts) =
        read().map_err(|error| Error::Record { what: "result".to_owned(), reason: error.to_string() })?;
    result.key = key.map(|key| digest_of(&key)).transpose()?;
    result.parts = parts.map(|parts| decode("cache key", &parts)).transpose()?;
    Ok(result)
}

pub(super) async fn results(
    reads: &SqlitePool,
    path: &Path,
    run: &str,
    step: Option<&str>,
) -> Result<Vec<StoredResult>, Error> {
    let number = number(reads, path, run).await?;
    // Two texts: with `?2 IS NULL OR` SQLite would not search by step.
    let one = step.map_or("", |_| " AND e.step = ?2");
    let text = format!("SELECT {RESULT_COLUMNS} FROM result e WHERE e.run = ?1{one} ORDER BY e.step, e.instance");
    let mut query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(number);
    if let Some(step) = step {
        query = query.bind(step);
    }
    let rows = query.fetch_all(reads).await.map_err(|error| database(path, error))?;
    rows.iter().map(result_row).collect()
}

pub(super) async fn key_history(
    reads: &SqlitePool,
    path: &Path,
    flow: &str,
    step: &str,
    instance: &str,
    limit: u32,
) -> Result<Vec<StoredResult>, Error> {
    let text = format!(
        "SELECT {RESULT_COLUMNS} FROM run r JOIN result e ON e.run = r.n AND e.step = ?2 AND e.instance = ?3 \
         WHERE r.flow = ?1 ORDER BY r.created_at DESC, r.n DESC LIMIT ?4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(flow)
        .bind(step)
        .bind(instance)
        .bind(limit)
        .fetch_all(reads)
        .await
        .map_err(|error| database(path, error))?;
    rows.iter().map(result_row).collect()
}

pub(super) async fn metrics(reads: &SqlitePool, path: &Path, run: &str) -> Result<Vec<Metric>, Error> {
    let number = number(reads, path, run).await?;
    let rows = sqlx::query("SELECT step, instance, attempt, name, value FROM metric WHERE run = ?1 ORDER BY run, id")
        .bind(number)
        .fetch_all(reads)
        .await
        .map_err(|error| database(path, error))?;
    all(&rows, path, |row| {
        Ok(Metric {
            step: row.try_get(0)?,
            instance: row.try_get(1)?,
            attempt: row.try_get(2)?,
            name: row.try_get(3)?,
            value: row.try_get::<Option<f64>, _>(4)?.unwrap_or(f64::NAN),
        })
    })
}

pub(super) async fn logs(
    reads: &SqlitePool,
    path: &Path,
    run: &str,
    filter: &LogFilter,
) -> Result<Vec<StoredLogLine>, Error> {
    let number = number(reads, path, run).await?;
    let rows = sqlx::query(
        "SELECT id, step, instance, attempt, at, level, target, message, fields, dropped FROM log \
         WHERE run = ?1 AND id > ?2 AND (?3 IS NULL OR step = ?3) ORDER BY run, id LIMIT ?4",
    )
    .bind(number)
    .bind(i64::try_from(filter.after).unwrap_or(i64::MAX))
    .bind(filter.step.as_deref())
    .bind(filter.limit.unwrap_or(1000))
    .fetch_all(reads)
    .await
    .map_err(|error| database(path, error))?;
    all(&rows, path, |row| {
        Ok(StoredLogLine {
            id: row.try_get::<i64, _>(0)? as u64,
            step: row.try_get(1)?,
            instance: row.try_get(2)?,
            attempt: row.try_get(3)?,
            line: LogLine {
                at: row.try_get(4)?,
                level: row.try_get(5)?,
                target: row.try_get(6)?,
                message: row.try_get(7)?,
                fields: row.try_get(8)?,
            },
            dropped: row.try_get::<i64, _>(9)? as u64,
        })
    })
}

pub(super) async fn cache(
    reads: &SqlitePool,
    path: &Path,
    key: &Digest,
    now: i64,
) -> Result<Option<CacheEntry>, Error> {
    let row = sqlx::query(
        "SELECT run, step, instance, outputs, artifacts, created_at, used_at, expires_at FROM cache \
         WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)",
    )
    .bind(key.hex())
    .bind(now)
    .fetch_optional(reads)
    .await
    .map_err(|error| database(path, error))?;
    let Some(row) = row else { return Ok(None) };
    let failed = |error| database(path, error);
    let artifacts: String = row.try_get(4).map_err(failed)?;
    Ok(Some(CacheEntry {
        key: *key,
        run: row.try_get(0).map_err(failed)?,
        step: row.try_get(1).map_err(failed)?,
        instance: row.try_get(2).map_err(failed)?,
        outputs: row.try_get(3).map_err(failed)?,
        artifacts: decode("cache entry", &artifacts)?,
        created_at: row.try_get(5).map_err(failed)?,
        used_at: row.try_get(6).map_err(failed)?,
        expires_at: row.try_get(7).map_err(failed)?,
    }))
}

pub(super) async fn cache_list(reads: &SqlitePool, path: &Path, filter: &CacheFilter) -> Result<Vec<CacheRow>, Error> {
    let rows = sqlx::query(
        "SELECT c.key, s.parts ->> 'task', c.run, c.step, c.instance, \
         (SELECT coalesce(sum(a.value ->> 'size'), 0) FROM json_each(c.artifacts) a), c.created_at, c.used_at, c.expires_at \
         FROM cache c LEFT JOIN run r ON r.id = c.run \
         LEFT JOIN result s ON s.run = r.n AND s.step = c.step AND s.instance = c.instance \
         WHERE (?1 IS NULL OR s.parts ->> 'task' = ?1) AND (?2 IS NULL OR c.step = ?2) \
         AND (?3 IS NULL OR c.run = ?3 OR substr(c.run, 1, length(?3) + 1) = ?3 || '.') \
         AND (?4 IS NULL OR c.created_at < ?4) ORDER BY c.created_at DESC, c.id DESC",
    )
    .bind(filter.task.as_deref())
    .bind(filter.step.as_deref())
    .bind(filter.run.as_deref())
    .bind(filter.made_before)
    .fetch_all(reads)
    .await
    .map_err(|error| database(path, error))?;
    let read = |row: &SqliteRow| -> Result<(String, CacheRow), sqlx::Error> {
        let listed = CacheRow {
            key: Digest::of(b""),
            task: row.try_get(1)?,
            run: row.try_get(2)?,
            step: row.try_get(3)?,
            instance: row.try_get(4)?,
            bytes: row.try_get::<i64, _>(5)? as u64,
            created_at: row.try_get(6)?,
            used_at: row.try_get(7)?,
            expires_at: row.try_get(8)?,
        };
        Ok((row.try_get(0)?, listed))
    };
    all(&rows, path, read)?.into_iter().map(|(key, row)| Ok(CacheRow { key: digest_of(&key)?, ..row })).collect()
}

pub(super) async fn lineage(reads: &SqlitePool, path: &Path, digest: &Digest) -> Result<Vec<Lineage>, Error> {
    let rows = sqlx::query(
        "SELECT l.record, r.id, l.step, l.instance, l.attempt, l.at FROM lineage l JOIN run r ON r.n = l.run \
         WHERE l.digest = ?1 ORDER BY l.at, r.n, l.step, l.instance",
    )
    .bind(digest.hex())
    .fetch_all(reads)
    .await
    .map_err(|error| database(path, error))?;
    let read = |row: &SqliteRow| -> Result<_, sqlx::Error> {
        Ok((
            row.try_get::<String, _>(0)?,
            row.try_get(1)?,
            row.try_get(2)?,
            row.try_get(3)?,
            row.try_get(4)?,
            row.try_get(5)?,
        ))
    };
    all(&rows, path, read)?
        .into_iter()
        .map(|(record, run, step, instance, attempt, at)| {
            Ok(Lineage { record: decode("artifact record", &record)?, run, step, instance, attempt, at })
        })
        .collect()
}

pub(super) async fn referenced<'c>(
    reads: impl sqlx::SqliteExecutor<'c>,
    path: &Path,
) -> Result<HashSet<Digest>, Error> {
    let rows = sqlx::query(
        "SELECT 'blake3:' || digest FROM lineage UNION SELECT a.value ->> 'digest' FROM cache, json_each(cache.artifacts) a",
    )
    .fetch_all(reads)
    .await
    .map_err(|error| database(path, error))?;
    rows.iter()
        .map(|row| {
            let text: String = row.try_get(0).map_err(|error| database(path, error))?;
            text.parse().map_err(|error: swath_task::DigestError| Error::Record {
                what: "artifact digest".to_owned(),
                reason: error.to_string(),
            })
        })
        .collect()
}

async fn number(reads: &SqlitePool, path: &Path, run: &str) -> Result<i64, Error> {
    let row = sqlx::query("SELECT n FROM run WHERE id = ?1")
        .bind(run)
        .fetch_optional(reads)
        .await
        .map_err(|error| database(path, error))?;
    Ok(row.ok_or_else(|| Error::NoRun(run.to_owned()))?.get(0))
}

fn all<T>(
    rows: &[SqliteRow],
    path: &Path,
    read: impl Fn(&SqliteRow) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, Error> {
    rows.iter().map(|row| read(row).map_err(|error| database(path, error))).collect()
}

fn decode<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::Record { what: what.to_owned(), reason: error.to_string() })
}

fn digest_of(hex: &str) -> Result<Digest, Error> {
    format!("blake3:{hex}").parse().map_err(|error: swath_task::DigestError| Error::Record {
        what: "digest".to_owned(),
        reason: error.to_string(),
    })
}
