//! Colour, time and size as people read them, and the one way to standard error.

use std::io::{IsTerminal, Write};

/// Whether standard error takes colour: a terminal, and `NO_COLOR` is not set (no-color.org).
pub(crate) fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints on standard error, in one write so that lines of several threads do not mix. A pipe that is closed or a disk
/// that is full takes the words, not the run: what cannot be written is dropped.
pub(crate) fn say(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

pub(crate) fn error(text: &str, colour: bool) -> String {
    paint(text, "1;31", colour)
}

pub(crate) fn good(text: &str, colour: bool) -> String {
    paint(text, "32", colour)
}

pub(crate) fn warn(text: &str, colour: bool) -> String {
    paint(text, "33", colour)
}

pub(crate) fn dim(text: &str, colour: bool) -> String {
    paint(text, "2", colour)
}

pub(crate) fn bold(text: &str, colour: bool) -> String {
    paint(text, "1", colour)
}

/// `0.4 s`, `12.3 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn duration(millis: u64) -> String {
    let seconds = millis as f64 / 1000.0;
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{seconds:.1} s"),
        60_000..3_600_000 => format!("{} min {:02} s", millis / 60_000, millis / 1_000 % 60),
        _ => format!("{} h {:02} min", millis / 3_600_000, millis / 60_000 % 60),
    }
}

/// RFC 3339 with seconds, UTC.
pub(crate) fn time(millis: i64) -> String {
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| "?".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// Columns padded to their widest cell, two spaces between.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>], colour: bool) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| -> String {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    let mut text = format!("{}\n", dim(&line(&header), colour));
    for row in rows {
        text.push_str(&line(row));
        text.push('\n');
    }
    text
}
