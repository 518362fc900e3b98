//! Texts that users wrote, and places in them.

use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

/// A text as the user knows it: a flow file, or a parameter given on the command line.
#[derive(Debug, Default)]
pub struct Source {
    name: String,
    text: String,
    lines: OnceLock<Vec<usize>>,
    concealed: Mutex<Vec<Span>>,
}

impl Source {
    /// A text under the name its user knows it by.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), lines: OnceLock::new(), concealed: Mutex::default() }
    }

    /// The name: the path as the user wrote it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Never shows the text at `span` again: a secret was written there.
    pub fn conceal(&self, span: Span) {
        self.concealed.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    /// Whether the byte at `offset` must not be shown.
    pub(crate) fn is_concealed(&self, offset: usize) -> bool {
        let concealed = self.concealed.lock().unwrap_or_else(PoisonError::into_inner);
        concealed.iter().any(|span| (span.start..span.end).contains(&offset))
    }

    /// Line and column of a byte offset, both from 1. Columns count characters, as editors do.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let offset = floor_boundary(&self.text, offset);
        let starts = self.line_starts();
        let line = starts.partition_point(|start| *start <= offset).max(1);
        let column = self.text[starts[line - 1]..offset].chars().count() + 1;
        (line, column)
    }

    /// The text of a line (from 1) without its end, and the byte offset it starts at.
    pub fn line(&self, line: usize) -> (&str, usize) {
        let starts = self.line_starts();
        let Some(start) = starts.get(line.saturating_sub(1)).copied() else { return ("", self.text.len()) };
        let end = starts.get(line).copied().unwrap_or(self.text.len());
        (self.text[start..end].trim_end_matches(['\n', '\r']), start)
    }

    fn line_starts(&self) -> &[usize] {
        self.lines.get_or_init(|| {
            let ends = self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
            std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect()
        })
    }
}

/// The nearest character boundary at or before `offset`.
pub(crate) fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// A range of bytes of a [`Source`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// From `start` up to `end`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }

    /// The text it covers.
    pub fn of<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// A value written at `span`.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}
