//! The rows of a group of transitions, as both databases write them in one commit.

use std::collections::HashMap;

use serde_json::json;

use crate::error::Error;
use crate::record::{Append, CacheTerms, LogBatch};
use crate::redact::{LONGEST_TEXT, redact, storable};

/// Stands for structured fields that are too long: cut in the middle they would not be JSON.
const CUT_FIELDS: &str = r#"{"swath":"fields too long"}"#;
/// The new place of a run's head, and what changes on its row.
pub(crate) struct Head {
    pub expected: u64,
    pub epoch: u64,
    pub next: u64,
    pub at: i64,
    pub state: Option<String>,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub error: Option<String>,
    pub summary: Option<String>,
}

/// The rows of a group.
#[derive(Default)]
pub(crate) struct Rows {
    /// By the number of the run.
    pub heads: Vec<(i64, Head)>,
    place: HashMap<i64, usize>,
    events: Vec<Cell>,
    results: Vec<Cell>,
    lineage: Vec<Cell>,
    cache: Vec<Cell>,
    metrics: Vec<Cell>,
    logs: Vec<Cell>,
}

/// A value of a row.
pub(crate) enum Cell {
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

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    Integer,
    Real,
    Text,
}

/// What becomes of a row whose key is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeated {
    /// The group is refused.
    Refused,
    /// The stored one stays.
    Ignored,
    /// The new one takes its place.
    Replaces,
}

/// A table that a group writes.
pub(crate) struct Table {
    pub name: &'static str,
    pub columns: &'static [(&'static str, Holds)],
    pub repeated: Repeated,
}

use Holds::{Integer, Real, Text};

/// The tables of a group, in the order of [`Rows::tables`].
pub(crate) const TABLES: [Table; 6] = [
    Table {
        name: "event",
        columns: &[
            ("run", Integer),
            ("seq", Integer),
            ("at", Integer),
            ("kind", Text),
            ("step", Text),
            ("payload", Text),
            ("transition", Text),
        ],
        repeated: Repeated::Refused,
    },
    Table {
        name: "result",
        columns: &[
            ("run", Integer),
            ("step", Text),
            ("instance", Text),
            ("attempt", Integer),
            ("at", Integer),
            ("outputs", Text),
            ("key", Text),
            ("parts", Text),
            ("reused_from", Text),
        ],
        repeated: Repeated::Refused,
    },
    Table {
        name: "lineage",
        columns: &[
            ("digest", Text),
            ("name", Text),
            ("run", Integer),
            ("step", Text),
            ("instance", Text),
            ("attempt", Integer),
            ("at", Integer),
            ("record", Text),
        ],
        repeated: Repeated::Ignored,
    },
    Table {
        name: "cache",
        columns: &[
            ("key", Text),
            ("run", Text),
            ("step", Text),
            ("instance", Text),
            ("outputs", Text),
            ("artifacts", Text),
            ("created_at", Integer),
            ("used_at", Integer),
            ("expires_at", Integer),
        ],
        repeated: Repeated::Replaces,
    },
    Table {
        name: "metric",
        columns: &[
            ("run", Integer),
            ("step", Text),
            ("instance", Text),
            ("attempt", Integer),
            ("name", Text),
            ("value", Real),
        ],
        repeated: Repeated::Refused,
    },
    Table {
        name: "log",
        columns: &[
            ("run", Integer),
            ("step", Text),
            ("instance", Text),
            ("attempt", Integer),
            ("at", Integer),
            ("level", Text),
            ("target", Text),
            ("message", Text),
            ("fields", Text),
            ("dropped", Integer),
        ],
        repeated: Repeated::Refused,
    },
];

impl Rows {
    /// Whether an append follows what the group has of its run.
    pub(crate) fn accepts(&self, number: i64, append: &Append) -> bool {
        self.place.get(&number).is_none_or(|place| {
            let head = &self.heads[*place].1;
            (head.next, head.epoch) == (append.expected_seq, append.epoch)
        })
    }

    pub(crate) fn add(&mut self, number: i64, append: &Append) -> Result<u64, Error> {
        check(append)?;
        let place = *self.place.entry(number).or_insert_with(|| {
            let head = Head {
                expected: append.expected_seq,
                epoch: append.epoch,
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

    pub(crate) fn add_logs(&mut self, number: i64, batch: &LogBatch) {
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

    /// The cells of each of [`TABLES`], row after row.
    pub(crate) fn tables(self) -> (Vec<(i64, Head)>, [Vec<Cell>; 6]) {
        (self.heads, [self.events, self.results, self.lineage, self.cache, self.metrics, self.logs])
    }

    /// Whether another group will soon have the same number of rows in each table.
    pub(crate) fn is_small(&self) -> bool {
        const FEW: usize = 8;
        let tables = [&self.results, &self.lineage, &self.cache, &self.metrics, &self.logs];
        self.heads.len() <= 1
            && self.events.len() <= FEW * TABLES[0].columns.len()
            && tables.iter().map(|cells| cells.len()).sum::<usize>() <= 2 * FEW * TABLES[1].columns.len()
    }
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
