//! The one statement that writes a group of transitions: one way to the server and back, and one commit, whatever the
//! size of the group.
//!
//! A head that is not where its writer thinks, or is of another lease, is not moved. The last part divides by zero when
//! fewer heads were moved than there are: all of it is undone.

use std::collections::HashMap;
use std::fmt::Write;

use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;

use crate::rows::{Cell, Head, Holds, Repeated, Rows, TABLES, Table};

/// The columns of a group, ready to be sent as often as it takes.
pub(super) struct Group {
    pub text: String,
    columns: Vec<Column>,
    /// Numbers of the runs whose heads move.
    pub heads: Vec<i64>,
}

enum Column {
    Integer(Vec<Option<i64>>),
    Real(Vec<Option<f64>>),
    Text(Vec<Option<String>>),
}

impl Column {
    fn new(holds: Holds, rows: usize) -> Self {
        match holds {
            Holds::Integer => Self::Integer(Vec::with_capacity(rows)),
            Holds::Real => Self::Real(Vec::with_capacity(rows)),
            Holds::Text => Self::Text(Vec::with_capacity(rows)),
        }
    }

    /// Cells are of the kind that their table says: others would be a defect of `rows.rs`, and become NULL.
    fn push(&mut self, cell: Cell) {
        match self {
            Self::Integer(values) => values.push(if let Cell::Integer(value) = cell { Some(value) } else { None }),
            Self::Real(values) => values.push(if let Cell::Real(value) = cell { Some(value) } else { None }),
            Self::Text(values) => values.push(if let Cell::Text(value) = cell { Some(value) } else { None }),
        }
    }

    fn array(&self) -> &'static str {
        match self {
            Self::Integer(_) => "bigint[]",
            Self::Real(_) => "float8[]",
            Self::Text(_) => "text[]",
        }
    }
}

/// The first two parameters: the name of the group, and how many heads it moves.
const FIRST: usize = 2;

impl Group {
    pub(super) fn of(rows: Rows) -> Self {
        let (heads, tables) = rows.tables();
        let mut group = Self {
            text: String::from("WITH "),
            columns: Vec::new(),
            heads: heads.iter().map(|(number, _)| *number).collect(),
        };
        group.moves(heads);
        for (table, cells) in TABLES.iter().zip(tables) {
            if !cells.is_empty() {
                group.inserts(table, cells);
            }
        }
        group.text.push_str(" SELECT 1 / (CASE WHEN count(*) = $2 THEN 1 ELSE 0 END) FROM moved");
        group
    }

    fn moves(&mut self, heads: Vec<(i64, Head)>) {
        self.text.push_str(
            "moved AS (UPDATE run AS r SET seq = h.next, updated_at = h.at, write = $1, \
             state = coalesce(h.state, r.state), \
             ended_at = CASE WHEN h.state IS NULL THEN r.ended_at ELSE h.ended_at END, \
             error = CASE WHEN h.state IS NULL THEN r.error ELSE h.error END, \
             started_at = coalesce(r.started_at, h.started_at), summary = coalesce(h.summary, r.summary) FROM ",
        );
        let holds = [
            Holds::Integer,
            Holds::Integer,
            Holds::Integer,
            Holds::Integer,
            Holds::Integer,
            Holds::Text,
            Holds::Integer,
            Holds::Integer,
            Holds::Text,
            Holds::Text,
        ];
        let mut columns: Vec<Column> = holds.iter().map(|holds| Column::new(*holds, heads.len())).collect();
        for (number, h) in heads {
            let cells: [Cell; 10] = [
                number.into(),
                h.expected.into(),
                h.epoch.into(),
                h.next.into(),
                h.at.into(),
                h.state.into(),
                h.started_at.into(),
                h.ended_at.into(),
                h.error.into(),
                h.summary.into(),
            ];
            cells.into_iter().zip(&mut columns).for_each(|(cell, column)| column.push(cell));
        }
        self.unnest(columns);
        self.text.push_str(
            " AS h (n, expected, epoch, next, at, state, started_at, ended_at, error, summary) \
             WHERE r.n = h.n AND r.seq = h.expected AND r.epoch = h.epoch RETURNING 1)",
        );
    }

    fn inserts(&mut self, table: &Table, cells: Vec<Cell>) {
        let width = table.columns.len();
        let rows = cells.len() / width;
        let mut columns: Vec<Column> = table.columns.iter().map(|(_, holds)| Column::new(*holds, rows)).collect();
        cells.into_iter().enumerate().for_each(|(at, cell)| columns[at % width].push(cell));
        if table.repeated == Repeated::Replaces {
            keep_last(&mut columns);
        }
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        let (name, names) = (table.name, names.join(", "));
        // Writing to a `String` cannot fail.
        let _ = write!(self.text, ", {name}s AS (INSERT INTO {name} ({names}) SELECT * FROM ");
        self.unnest(columns);
        match table.repeated {
            Repeated::Refused => {}
            Repeated::Ignored => self.text.push_str(" ON CONFLICT DO NOTHING"),
            Repeated::Replaces => {
                let (key, rest) = table.columns.split_first().map_or(("", table.columns), |(key, rest)| (key.0, rest));
                let set: Vec<String> = rest.iter().map(|(name, _)| format!("{name} = excluded.{name}")).collect();
                let _ = write!(self.text, " ON CONFLICT ({key}) DO UPDATE SET {}", set.join(", "));
            }
        }
        self.text.push(')');
    }

    fn unnest(&mut self, columns: Vec<Column>) {
        self.text.push_str("unnest(");
        for (at, column) in columns.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let parameter = FIRST + self.columns.len() + at + 1;
            let _ = write!(self.text, "{comma}${parameter}::{}", column.array());
        }
        self.text.push(')');
        self.columns.extend(columns);
    }

    /// What the parameters stand for. `name` tells this group from all others.
    pub(super) fn arguments(&self, name: i64) -> Result<PgArguments, BoxDynError> {
        let mut arguments = PgArguments::default();
        arguments.add(name)?;
        arguments.add(self.heads.len() as i64)?;
        for column in &self.columns {
            match column {
                Column::Integer(values) => arguments.add(values.as_slice())?,
                Column::Real(values) => arguments.add(values.as_slice())?,
                Column::Text(values) => arguments.add(values.as_slice())?,
            }
        }
        Ok(arguments)
    }
}

/// One statement may not replace a row twice: of rows with the same key, the first column, the last one counts.
fn keep_last(columns: &mut [Column]) {
    let Some(Column::Text(keys)) = columns.first() else { return };
    let last: HashMap<Option<String>, usize> = keys.iter().enumerate().map(|(row, key)| (key.clone(), row)).collect();
    if last.len() == keys.len() {
        return;
    }
    let kept: Vec<bool> = keys.iter().enumerate().map(|(row, key)| last.get(key) == Some(&row)).collect();
    for column in columns {
        let mut kept = kept.iter();
        match column {
            Column::Integer(values) => values.retain(|_| kept.next() == Some(&true)),
            Column::Real(values) => values.retain(|_| kept.next() == Some(&true)),
            Column::Text(values) => values.retain(|_| kept.next() == Some(&true)),
        }
    }
}
