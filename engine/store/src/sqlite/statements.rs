//! The one text of statements that writes a group of transitions.

use sqlx::Arguments;
use sqlx::sqlite::SqliteArguments;

use crate::rows::{Cell, Repeated, Rows, TABLES, Table};

/// Rows of one statement: SQLite binds at most 32,766 values to one.
const ROWS: usize = 1000;

/// The text of the transaction, and what its parameters stand for, in order.
pub(super) fn statements(rows: Rows) -> Result<(String, SqliteArguments), sqlx::error::BoxDynError> {
    let mut text = String::from("BEGIN IMMEDIATE;");
    let mut arguments = SqliteArguments::default();
    let (heads, tables) = rows.tables();
    for (number, h) in heads {
        text.push_str("UPDATE run SET seq = iif(seq = ? AND epoch = ?, ?, NULL), updated_at = ?");
        let mut cells: Vec<Cell> = vec![h.expected.into(), h.epoch.into(), h.next.into(), h.at.into()];
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
    for (table, cells) in TABLES.iter().zip(tables) {
        let columns = table.columns.len();
        let mut rows = cells.len() / columns;
        while rows > 0 {
            let here = rows.min(ROWS);
            rows -= here;
            begin(&mut text, table);
            for row in 0..here {
                text.push_str(if row == 0 { "(?" } else { ",(?" });
                (1..columns).for_each(|_| text.push_str(",?"));
                text.push(')');
            }
            text.push(';');
        }
        bind(&mut arguments, cells)?;
    }
    text.push_str("COMMIT");
    Ok((text, arguments))
}

/// `INSERT INTO event (run, seq, ...) VALUES `
fn begin(text: &mut String, table: &Table) {
    text.push_str(match table.repeated {
        Repeated::Refused => "INSERT INTO ",
        Repeated::Ignored => "INSERT OR IGNORE INTO ",
        Repeated::Replaces => "INSERT OR REPLACE INTO ",
    });
    text.push_str(table.name);
    for (index, (column, _)) in table.columns.iter().enumerate() {
        text.push_str(if index == 0 { " (" } else { ", " });
        text.push_str(column);
    }
    text.push_str(") VALUES ");
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
