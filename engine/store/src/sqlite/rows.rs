//! The rows of a group of transitions, and the one text of statements that writes them.

use std::collections::HashMap;

use serde_json::json;
use sqlx::Arguments;
use sqlx::sqlite::SqliteArguments;

use crate::error::Error;
use crate::record::{Append, CacheTerms, LogBatch};
use crate::redact::{LONGEST_TEXT, redact, storable};

/// Stands for structured fields that are too long: cut in the middle they would not be JSON.
const CUT_FIELDS: &str = r#"{"swath":"fields too long"}"#;
/// Rows of one statement: SQLite binds at most 32,766 values to one.
const ROWS: usize = 1000;

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
pub(super) struct Rows {
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
    pub(super) fn accepts(&self, number: i64, append: &Append) -> bool {
        self.place.get(&number).is_none_or(|place| self.heads[*place].1.next == append.expected_seq)
    }

    pub(super) fn add(&mut self, number: i64, append: &Append) -> Result<u64, Error> {
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

    pub(super) fn add_logs(&mut self, number: i64, batch: &LogBatch) {
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
    pub(super) fn is_small(&self) -> bool {
        const FEW: usize = 8;
        let tables = [&self.results, &self.lineage, &self.cache, &self.metrics, &self.logs];
        self.heads.len() <= 1
            && self.events.len() <= FEW * EVENTS.columns
            && tables.iter().map(|cells| cells.len()).sum::<usize>() <= 2 * FEW * RESULTS.columns
    }

    /// The text of the transaction, and what its parameters stand for, in order.
    pub(super) fn statements(self) -> Result<(String, SqliteArguments), sqlx::error::BoxDynError> {
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
