//! Reading, in words that both databases understand.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::json;
use swath_task::Digest;

use crate::error::Error;
use crate::lease::Wish;
use crate::record::{
    CacheEntry, CacheFilter, CacheRow, Lineage, LogFilter, LogLine, Metric, RunFilter, RunRow, StoredEvent,
    StoredLogLine, StoredResult, StoredRun,
};

/// What a parameter `$1`, `$2`, ... of a statement stands for.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Integer(i64),
    Text(Option<&'a str>),
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(Some(value))
    }
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(value: Option<&'a str>) -> Self {
        Self::Text(value)
    }
}

/// A database that can be asked.
pub(crate) trait Ask: Sync {
    /// A row of its answers.
    type Row: Columns + Send;
    /// The artifacts of cache entries, as `a.value`.
    const CACHED: &'static str;
    /// The task in the parts of the key of a result `s`.
    const TASK: &'static str;

    /// What stands after `IN` for the texts of a JSON array that is given as this parameter.
    fn list(parameter: usize) -> String;

    /// All rows of an answer.
    fn ask(&self, text: &str, values: &[Value<'_>]) -> impl Future<Output = Result<Vec<Self::Row>, Error>> + Send;

    /// What a person calls the database, without a password.
    fn place(&self) -> PathBuf;
}

/// What stands in a row, by position.
pub(crate) trait Columns {
    fn integer(&self, at: usize) -> Result<i64, Error>;
    fn integer_or_none(&self, at: usize) -> Result<Option<i64>, Error>;
    fn real_or_none(&self, at: usize) -> Result<Option<f64>, Error>;
    fn text(&self, at: usize) -> Result<String, Error>;
    fn text_or_none(&self, at: usize) -> Result<Option<String>, Error>;
    fn bytes_or_none(&self, at: usize) -> Result<Option<Vec<u8>>, Error>;
}

/// [`Columns`] of a row of sqlx: a cell that is not what it should be was damaged, or written by another program.
macro_rules! columns {
    ($row:ty) => {
        impl $crate::read::Columns for $row {
            columns!(integer i64);
            columns!(integer_or_none Option<i64>);
            columns!(real_or_none Option<f64>);
            columns!(text String);
            columns!(text_or_none Option<String>);
            columns!(bytes_or_none Option<Vec<u8>>);
        }
    };
    ($name:ident $of:ty) => {
        fn $name(&self, at: usize) -> Result<$of, $crate::error::Error> {
            sqlx::Row::try_get(self, at).map_err(|error| $crate::read::unreadable("row", error))
        }
    };
}
pub(crate) use columns;

pub(crate) fn unreadable(what: &str, reason: impl std::fmt::Display) -> Error {
    Error::Record { what: what.to_owned(), reason: reason.to_string() }
}

fn number_of(value: i64) -> Result<u64, Error> {
    u64::try_from(value).map_err(|_| unreadable("row", format!("{value} is no count")))
}

pub(crate) async fn events<D: Ask>(of: &D, run: &str, after: u64, limit: u32) -> Result<Vec<StoredEvent>, Error> {
    let number = number(of, run).await?;
    let text = "SELECT seq, kind, step, payload, at FROM event WHERE run = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    let after_seq = i64::try_from(after).unwrap_or(i64::MAX);
    let rows = of.ask(text, &[number.into(), after_seq.into(), i64::from(limit).into()]).await?;
    let read = |row: &D::Row| -> Result<StoredEvent, Error> {
        Ok(StoredEvent {
            seq: number_of(row.integer(0)?)?,
            kind: row.text(1)?,
            step: row.text_or_none(2)?,
            payload: row.text(3)?,
            at: row.integer(4)?,
        })
    };
    let events: Vec<StoredEvent> = rows.iter().map(read).collect::<Result<_, _>>()?;
    // I3: a page begins where the last one ended and has no gap.
    for (offset, event) in events.iter().enumerate() {
        let due = after + offset as u64 + 1;
        if event.seq != due {
            let reason = format!("event {due} of run `{run}` is missing");
            return Err(Error::Corrupt { path: of.place(), reason });
        }
    }
    Ok(events)
}

const RUN_COLUMNS: &str = "r.n, r.id, r.flow, r.source, r.state, r.seq, r.created_at, r.started_at, r.ended_at, r.updated_at, r.error, \
     r.summary";

fn run_row(row: &impl Columns) -> Result<RunRow, Error> {
    Ok(RunRow {
        number: number_of(row.integer(0)?)?,
        id: row.text(1)?,
        flow: row.text(2)?,
        source: row.text(3)?,
        state: row.text(4)?,
        seq: number_of(row.integer(5)?)?,
        created_at: row.integer(6)?,
        started_at: row.integer_or_none(7)?,
        ended_at: row.integer_or_none(8)?,
        updated_at: row.integer(9)?,
        error: row.text_or_none(10)?,
        summary: row.text_or_none(11)?,
    })
}

pub(crate) async fn run<D: Ask>(of: &D, run: &str) -> Result<StoredRun, Error> {
    let text = format!(
        "SELECT {RUN_COLUMNS}, p.text, p.text_digest, p.params, p.plan \
         FROM run r JOIN pinned p ON p.run = r.n WHERE r.id = $1"
    );
    let rows = of.ask(&text, &[run.into()]).await?;
    let row = rows.first().ok_or_else(|| Error::NoRun(run.to_owned()))?;
    Ok(StoredRun {
        row: run_row(row)?,
        text: row.text(12)?,
        text_digest: parsed(&row.text(13)?)?,
        params: row.text(14)?,
        plan: row.text(15)?,
    })
}

pub(crate) async fn row<D: Ask>(of: &D, run: &str) -> Result<RunRow, Error> {
    let text = format!("SELECT {RUN_COLUMNS} FROM run r WHERE r.id = $1");
    run_row(of.ask(&text, &[run.into()]).await?.first().ok_or_else(|| Error::NoRun(run.to_owned()))?)
}

pub(crate) async fn runs<D: Ask>(of: &D, filter: &RunFilter) -> Result<Vec<RunRow>, Error> {
    let states = json!(filter.states).to_string();
    let limit = filter.limit.map_or(i64::MAX, i64::from);
    let mut values: Vec<Value<'_>> = vec![states.as_str().into(), limit.into()];
    let mut text = format!("SELECT {RUN_COLUMNS} FROM run r");
    if filter.served {
        text.push_str(" JOIN claim c ON c.run = r.id AND c.served IS NOT NULL");
    }
    text.push_str(&format!(" WHERE ($1 = '[]' OR r.state IN {})", D::list(1)));
    for (column, wanted) in [("flow", &filter.flow), ("source", &filter.source)] {
        if let Some(wanted) = wanted {
            values.push(wanted.as_str().into());
            text.push_str(&format!(" AND r.{column} = ${}", values.len()));
        }
    }
    if filter.without_sub_flows {
        text.push_str(" AND r.id NOT LIKE '%.%'");
    }
    if let Some(after) = filter.after {
        let number = i64::try_from(after.number).unwrap_or(i64::MAX);
        values.extend([Value::Integer(after.created_at), Value::Integer(number)]);
        text.push_str(&format!(" AND (r.created_at, r.n) < (${}, ${})", values.len() - 1, values.len()));
    }
    text.push_str(" ORDER BY r.created_at DESC, r.n DESC LIMIT $2");
    of.ask(&text, &values).await?.iter().map(run_row).collect()
}

const RESULT_COLUMNS: &str = "e.step, e.instance, e.attempt, e.outputs, e.key, e.parts, e.reused_from, e.at";

fn result_row(row: &impl Columns) -> Result<StoredResult, Error> {
    let (key, parts) = (row.text_or_none(4)?, row.text_or_none(5)?);
    Ok(StoredResult {
        step: row.text(0)?,
        instance: row.text(1)?,
        attempt: attempt(row.integer(2)?)?,
        outputs: row.text(3)?,
        key: key.map(|key| parsed(&format!("blake3:{key}"))).transpose()?,
        parts: parts.map(|parts| decode("cache key", &parts)).transpose()?,
        reused_from: row.text_or_none(6)?,
        at: row.integer(7)?,
    })
}

pub(crate) async fn results<D: Ask>(of: &D, run: &str, step: Option<&str>) -> Result<Vec<StoredResult>, Error> {
    let number = number(of, run).await?;
    // Two texts: with `$2 IS NULL OR` SQLite would not search by step.
    let one = step.map_or("", |_| " AND e.step = $2");
    let text = format!("SELECT {RESULT_COLUMNS} FROM result e WHERE e.run = $1{one} ORDER BY e.step, e.instance");
    let values: Vec<Value<'_>> = [number.into()].into_iter().chain(step.map(Value::from)).collect();
    of.ask(&text, &values).await?.iter().map(result_row).collect()
}

pub(crate) async fn key_history<D: Ask>(
    of: &D,
    flow: &str,
    step: &str,
    instance: &str,
    limit: u32,
) -> Result<Vec<StoredResult>, Error> {
    let text = format!(
        "SELECT {RESULT_COLUMNS} FROM run r JOIN result e ON e.run = r.n AND e.step = $2 AND e.instance = $3 \
         WHERE r.flow = $1 ORDER BY r.created_at DESC, r.n DESC LIMIT $4"
    );
    let values = [flow.into(), step.into(), instance.into(), i64::from(limit).into()];
    of.ask(&text, &values).await?.iter().map(result_row).collect()
}

pub(crate) async fn metrics<D: Ask>(of: &D, run: &str) -> Result<Vec<Metric>, Error> {
    let number = number(of, run).await?;
    let text = "SELECT step, instance, attempt, name, value FROM metric WHERE run = $1 ORDER BY run, id";
    let read = |row: &D::Row| -> Result<Metric, Error> {
        Ok(Metric {
            step: row.text(0)?,
            instance: row.text(1)?,
            attempt: attempt(row.integer(2)?)?,
            name: row.text(3)?,
            value: row.real_or_none(4)?.unwrap_or(f64::NAN),
        })
    };
    of.ask(text, &[number.into()]).await?.iter().map(read).collect()
}

pub(crate) async fn logs<D: Ask>(of: &D, run: &str, filter: &LogFilter) -> Result<Vec<StoredLogLine>, Error> {
    let number = number(of, run).await?;
    let one = filter.step.as_ref().map_or("", |_| " AND step = $4");
    let text = format!(
        "SELECT id, step, instance, attempt, at, level, target, message, fields, dropped FROM log \
         WHERE run = $1 AND id > $2{one} ORDER BY run, id LIMIT $3"
    );
    let after = i64::try_from(filter.after).unwrap_or(i64::MAX);
    let mut values: Vec<Value<'_>> = vec![number.into(), after.into(), i64::from(filter.limit.unwrap_or(1000)).into()];
    values.extend(filter.step.as_deref().map(Value::from));
    let read = |row: &D::Row| -> Result<StoredLogLine, Error> {
        Ok(StoredLogLine {
            id: number_of(row.integer(0)?)?,
            step: row.text(1)?,
            instance: row.text(2)?,
            attempt: attempt(row.integer(3)?)?,
            line: LogLine {
                at: row.integer(4)?,
                level: row.text(5)?,
                target: row.text(6)?,
                message: row.text(7)?,
                fields: row.text(8)?,
            },
            dropped: number_of(row.integer(9)?)?,
        })
    };
    of.ask(&text, &values).await?.iter().map(read).collect()
}

pub(crate) async fn cache<D: Ask>(of: &D, key: &Digest, now: i64) -> Result<Option<CacheEntry>, Error> {
    let text = "SELECT run, step, instance, outputs, artifacts, created_at, used_at, expires_at FROM cache \
         WHERE key = $1 AND (expires_at IS NULL OR expires_at > $2)";
    let rows = of.ask(text, &[key.hex().as_str().into(), now.into()]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(CacheEntry {
        key: *key,
        run: row.text(0)?,
        step: row.text(1)?,
        instance: row.text(2)?,
        outputs: row.text(3)?,
        artifacts: decode("cache entry", &row.text(4)?)?,
        created_at: row.integer(5)?,
        used_at: row.integer(6)?,
        expires_at: row.integer_or_none(7)?,
    }))
}

pub(crate) async fn cache_list<D: Ask>(of: &D, filter: &CacheFilter) -> Result<Vec<CacheRow>, Error> {
    let (task, cached) = (D::TASK, D::CACHED);
    let mut text = format!(
        "SELECT cache.key, {task}, cache.run, cache.step, cache.instance, \
         (SELECT CAST(coalesce(sum(CAST(a.value ->> 'size' AS BIGINT)), 0) AS BIGINT) FROM {cached}), \
         cache.created_at, cache.used_at, cache.expires_at FROM cache LEFT JOIN run r ON r.id = cache.run \
         LEFT JOIN result s ON s.run = r.n AND s.step = cache.step AND s.instance = cache.instance WHERE 1 = 1"
    );
    let of_task = |n| format!("{task} = ${n}");
    let of_step = |n| format!("cache.step = ${n}");
    let of_run = |n| format!("(cache.run = ${n} OR substr(cache.run, 1, length(${n}) + 1) = ${n} || '.')");
    let made_before = |n| format!("cache.created_at < ${n}");
    type Condition<'a> = (Option<Value<'a>>, &'a (dyn Fn(usize) -> String + Sync));
    let wanted: [Condition<'_>; 4] = [
        (filter.task.as_deref().map(Value::from), &of_task),
        (filter.step.as_deref().map(Value::from), &of_step),
        (filter.run.as_deref().map(Value::from), &of_run),
        (filter.made_before.map(Value::from), &made_before),
    ];
    let mut values = Vec::new();
    for (value, condition) in wanted {
        if let Some(value) = value {
            values.push(value);
            text.push_str(&format!(" AND {}", condition(values.len())));
        }
    }
    text.push_str(" ORDER BY cache.created_at DESC, cache.key");
    let read = |row: &D::Row| -> Result<CacheRow, Error> {
        Ok(CacheRow {
            key: parsed(&format!("blake3:{}", row.text(0)?))?,
            task: row.text_or_none(1)?,
            run: row.text(2)?,
            step: row.text(3)?,
            instance: row.text(4)?,
            bytes: number_of(row.integer(5)?)?,
            created_at: row.integer(6)?,
            used_at: row.integer(7)?,
            expires_at: row.integer_or_none(8)?,
        })
    };
    of.ask(&text, &values).await?.iter().map(read).collect()
}

pub(crate) async fn lineage<D: Ask>(of: &D, digest: &Digest) -> Result<Vec<Lineage>, Error> {
    let text = "SELECT l.record, r.id, l.step, l.instance, l.attempt, l.at FROM lineage l JOIN run r ON r.n = l.run \
         WHERE l.digest = $1 ORDER BY l.at, r.n, l.step, l.instance";
    let read = |row: &D::Row| -> Result<Lineage, Error> {
        Ok(Lineage {
            record: decode("artifact record", &row.text(0)?)?,
            run: row.text(1)?,
            step: row.text(2)?,
            instance: row.text(3)?,
            attempt: attempt(row.integer(4)?)?,
            at: row.integer(5)?,
        })
    };
    of.ask(text, &[digest.hex().as_str().into()]).await?.iter().map(read).collect()
}

pub(crate) async fn referenced<D: Ask>(of: &D) -> Result<HashSet<Digest>, Error> {
    digests(&of.ask(&referenced_text::<D>(), &[]).await?)
}

/// Asks for the digests of the artifacts that results or cache entries refer to; [`digests`] reads the answer.
pub(crate) fn referenced_text<D: Ask>() -> String {
    format!("SELECT 'blake3:' || digest FROM lineage UNION SELECT a.value ->> 'digest' FROM cache, {}", D::CACHED)
}

pub(crate) fn digests(rows: &[impl Columns]) -> Result<HashSet<Digest>, Error> {
    rows.iter().map(|row| parsed(&row.text(0)?)).collect()
}

/// The digest of the request by which a server took a run on.
pub(crate) async fn served<D: Ask>(of: &D, run: &str) -> Result<Option<String>, Error> {
    let rows = of.ask("SELECT served FROM claim WHERE run = $1", &[run.into()]).await?;
    rows.first().map_or(Ok(None), |row| row.text_or_none(0))
}

/// Where the outputs of a run go.
pub(crate) async fn outputs<D: Ask>(of: &D, run: &str) -> Result<Option<PathBuf>, Error> {
    let rows = of.ask("SELECT outputs FROM claim WHERE run = $1", &[run.into()]).await?;
    let folder = rows.first().map_or(Ok(None), |row| row.bytes_or_none(0))?;
    Ok(folder.map(|folder| OsString::from_vec(folder).into()))
}

/// How many writes to a run were refused because the lease of their writer had ended.
pub(crate) async fn refused<D: Ask>(of: &D, run: &str) -> Result<u64, Error> {
    let rows = of.ask("SELECT refused FROM claim WHERE run = $1", &[run.into()]).await?;
    rows.first().map_or(Ok(0), |row| number_of(row.integer(0)?))
}

/// Where a transition ended that is stored already.
pub(crate) async fn transition<D: Ask>(of: &D, number: i64, id: &str) -> Result<Option<u64>, Error> {
    let text = "SELECT seq FROM event WHERE run = $1 AND transition = $2";
    let rows = of.ask(text, &[number.into(), id.into()]).await?;
    rows.first().map(|row| number_of(row.integer(0)?)).transpose()
}

/// Position of the last event of a run, and the epoch of its newest lease.
pub(crate) async fn head<D: Ask>(of: &D, number: i64) -> Result<Option<(u64, u64)>, Error> {
    let rows = of.ask("SELECT seq, epoch FROM run WHERE n = $1", &[number.into()]).await?;
    rows.first().map(|row| Ok((number_of(row.integer(0)?)?, number_of(row.integer(1)?)?))).transpose()
}

/// What is asked of runs, since the newest lease of each was taken.
pub(crate) async fn wishes<D: Ask>(of: &D) -> Result<Vec<Wish>, Error> {
    let rows = of.ask("SELECT run, cancel, pause FROM claim WHERE cancel = 1 OR pause IS NOT NULL", &[]).await?;
    rows.iter().map(wish).collect()
}

/// A row of run, wish to cancel, wish about a pause.
pub(crate) fn wish(row: &impl Columns) -> Result<Wish, Error> {
    Ok(Wish { run: row.text(0)?, cancel: row.integer(1)? == 1, pause: row.integer_or_none(2)?.map(|pause| pause == 1) })
}

pub(crate) async fn number_or_none<D: Ask>(of: &D, run: &str) -> Result<Option<i64>, Error> {
    of.ask("SELECT n FROM run WHERE id = $1", &[run.into()]).await?.first().map(|row| row.integer(0)).transpose()
}

async fn number<D: Ask>(of: &D, run: &str) -> Result<i64, Error> {
    number_or_none(of, run).await?.ok_or_else(|| Error::NoRun(run.to_owned()))
}

/// Attempts are few.
fn attempt(value: i64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| unreadable("row", format!("{value} is no number of an attempt")))
}

fn decode<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| unreadable(what, error))
}

fn parsed(digest: &str) -> Result<Digest, Error> {
    digest.parse().map_err(|error: swath_task::DigestError| unreadable("digest", error))
}
