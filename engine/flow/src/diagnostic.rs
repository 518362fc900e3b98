//! What is wrong with a flow, told as rustc tells it: code, place, the line with a caret, the likely fix.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;
use unicode_width::UnicodeWidthChar;

use crate::source::floor_boundary;
use crate::{Source, Span};

/// Something the user did wrong, found before anything runs.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Code with a page of its own, `F201` for example.
    pub code: &'static str,
    /// What is wrong, in the user's words, without a final period.
    pub message: String,
    /// The text it is in; `None` when it is in none (a missing file, a budget over the whole text).
    pub source: Option<Arc<Source>>,
    /// The place in `source`.
    pub span: Option<Span>,
    /// Other places that explain it.
    pub labels: Vec<Label>,
    /// What to do about it.
    pub help: Option<String>,
}

/// Another place that explains a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The place, in the same source.
    pub span: Span,
    /// What is to be seen there.
    pub message: String,
}

/// A diagnostic as data, for `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The file as the user wrote it.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// Line of the end.
    pub end_line: Option<usize>,
    /// Column one past the end.
    pub end_column: Option<usize>,
    /// What to do about it.
    pub help: Option<String>,
    /// Other places that explain it.
    pub labels: Vec<ReportLabel>,
}

/// A label as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportLabel {
    /// What is to be seen there.
    pub message: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
}

/// Widest part of a line that is shown, in terminal columns.
const WIDEST: usize = 140;

impl Diagnostic {
    /// A diagnostic at a place.
    pub fn at(code: &'static str, source: &Arc<Source>, span: Span, message: impl Into<String>) -> Self {
        Self { source: Some(source.clone()), span: Some(span), ..Self::nowhere(code, message) }
    }

    /// A diagnostic about a text as a whole.
    pub fn about(code: &'static str, source: &Arc<Source>, message: impl Into<String>) -> Self {
        Self { source: Some(source.clone()), ..Self::nowhere(code, message) }
    }

    /// A diagnostic that has no place in a text.
    pub fn nowhere(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), source: None, span: None, labels: Vec::new(), help: None }
    }

    /// Adds the likely fix.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the likely fix, if there is one.
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// Adds another place that explains it.
    pub fn label(mut self, span: Span, message: impl Into<String>) -> Self {
        self.labels.push(Label { span, message: message.into() });
        self
    }

    /// Whether `other` tells the same of the same place.
    fn says_the_same(&self, other: &Self) -> bool {
        let file = |of: &Self| of.source.as_ref().map(|source| source.name().to_owned());
        (self.code, self.span, &self.message) == (other.code, other.span, &other.message) && file(self) == file(other)
    }

    /// As text for a person. Readable without colour; `colour` adds ANSI escapes.
    pub fn render(&self, colour: bool) -> String {
        let paint = Paint(colour);
        let mut out = String::new();
        let head = format!("error[{}]", self.code);
        let _ = writeln!(out, "{}{}", paint.red(&head), paint.bold(&format!(": {}", clean(&self.message))));
        if let Some(source) = &self.source {
            let spans = self.span.iter().chain(self.labels.iter().map(|label| &label.span));
            let last_line = spans.map(|span| source.position(span.start).0).max();
            let gutter = last_line.map_or(1, |line| line.to_string().len());
            let pad = " ".repeat(gutter);
            match self.span {
                Some(span) => {
                    let (line, column) = source.position(span.start);
                    let _ = writeln!(out, "{pad}{} {}:{line}:{column}", paint.blue("-->"), source.name());
                    let _ = writeln!(out, "{pad} {}", paint.blue("|"));
                    excerpt(&mut out, source, span, gutter, '^', "", paint);
                }
                None => {
                    let _ = writeln!(out, "{pad}{} {}", paint.blue("-->"), source.name());
                }
            }
            for label in &self.labels {
                excerpt(&mut out, source, label.span, gutter, '-', &label.message, paint);
            }
            if let Some(help) = &self.help {
                if self.span.is_some() || !self.labels.is_empty() {
                    let _ = writeln!(out, "{pad} {}", paint.blue("|"));
                }
                let _ = writeln!(out, "{pad} {} {}{}", paint.blue("="), paint.bold("help: "), clean(help));
            }
        } else if let Some(help) = &self.help {
            let _ = writeln!(out, "  {} {}{}", paint.blue("="), paint.bold("help: "), clean(help));
        }
        out
    }

    /// As data, for `--json`.
    pub fn report(&self) -> Report {
        let place = self.source.as_ref().zip(self.span);
        let start = place.as_ref().map(|(source, span)| source.position(span.start));
        let end = place.as_ref().map(|(source, span)| source.position(span.end));
        let labels = self.source.iter().flat_map(|source| {
            self.labels.iter().map(|label| {
                let (line, column) = source.position(label.span.start);
                ReportLabel { message: label.message.clone(), line, column }
            })
        });
        Report {
            code: self.code,
            message: self.message.clone(),
            file: self.source.as_ref().map(|source| source.name().to_owned()),
            line: start.map(|(line, _)| line),
            column: start.map(|(_, column)| column),
            end_line: end.map(|(line, _)| line),
            end_column: end.map(|(_, column)| column),
            help: self.help.clone(),
            labels: labels.collect(),
        }
    }
}

/// All diagnostics as text for a person: each followed by an empty line, then how many there are.
pub fn render_all(diagnostics: &[Diagnostic], colour: bool) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&diagnostic.render(colour));
        out.push('\n');
    }
    let mistakes = match diagnostics.len() {
        0 => return out,
        1 => "1 mistake".to_owned(),
        n => format!("{n} mistakes"),
    };
    let mut codes: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
    codes.sort_unstable();
    codes.dedup();
    let _ = writeln!(out, "{mistakes}; `swath explain {}` tells more", codes[0]);
    out
}

/// Collects diagnostics up to a bound, so that a broken text of a million lines stays readable.
#[derive(Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    dropped: usize,
}

impl Diagnostics {
    /// The most that are kept.
    pub const MOST: usize = 200;

    /// Adds one, unless it is there already: a sub-flow is read once for each step that names it.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if self.list.iter().any(|known| known.says_the_same(&diagnostic)) {
            return;
        }
        if self.list.len() < Self::MOST {
            self.list.push(diagnostic);
        } else {
            self.dropped += 1;
        }
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many were found, the dropped ones too.
    pub fn len(&self) -> usize {
        self.list.len() + self.dropped
    }

    /// Whether more would be dropped: costly searches for a likely fix can be left out then.
    pub fn is_full(&self) -> bool {
        self.list.len() >= Self::MOST
    }

    /// In the order of the text; the last one tells how many were left out.
    pub fn into_vec(mut self) -> Vec<Diagnostic> {
        // Files in the order they first came up, places in the order of each file.
        let mut files: Vec<*const Source> = Vec::new();
        let file = |diagnostic: &Diagnostic| diagnostic.source.as_ref().map_or(std::ptr::null(), Arc::as_ptr);
        for diagnostic in &self.list {
            if !files.contains(&file(diagnostic)) {
                files.push(file(diagnostic));
            }
        }
        self.list.sort_by_key(|diagnostic| {
            let rank = files.iter().position(|known| *known == file(diagnostic));
            (rank, diagnostic.span.map_or(0, |span| span.start))
        });
        if self.dropped > 0 {
            let message = format!("and {} more mistakes, left out here", self.dropped);
            self.list.push(Diagnostic::nowhere("F016", message).help("mend the ones above first"));
        }
        self.list
    }
}

#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }
    fn blue(self, text: &str) -> String {
        self.wrap("1;34", text)
    }
    fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
}

/// Control characters would let a flow's text steer the terminal of whoever checks it.
fn clean(text: &str) -> String {
    let shown = |c: char| if is_unprintable(c) { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// Control characters and those that turn the direction of writing.
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control() || is_bidirectional(c)
}

/// Characters that turn the direction of writing: what is seen is then not what is read.
pub(crate) fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn width(c: char) -> usize {
    match c {
        '\t' => 4,
        c => c.width().unwrap_or(1),
    }
}

fn excerpt(out: &mut String, source: &Source, span: Span, gutter: usize, mark: char, note: &str, paint: Paint) {
    let (line, _) = source.position(span.start);
    let (text, line_start) = source.line(line);
    let start = floor_boundary(text, span.start.saturating_sub(line_start));
    let end = floor_boundary(text, span.end.saturating_sub(line_start)).max(start);
    let before: usize = text[..start].chars().map(width).sum();

    // A long line is cut to a window around the place.
    let mut from = 0;
    let whole: usize = text.chars().map(width).sum();
    if whole > WIDEST && before > WIDEST / 2 {
        let mut skip = before - WIDEST / 3;
        for (at, c) in text.char_indices() {
            from = at;
            if skip < width(c) {
                break;
            }
            skip -= width(c);
        }
    }
    let mut shown = String::new();
    let (mut column, mut mark_from, mut mark_to) = (0, None, 0);
    if from > 0 {
        shown.push_str("...");
        column = 3;
    }
    let mut cut = false;
    for (at, c) in text[from..].char_indices() {
        let at = from + at;
        if column >= WIDEST {
            cut = true;
            break;
        }
        if at >= start && mark_from.is_none() {
            mark_from = Some(column);
        }
        match c {
            '\t' => shown.push_str("    "),
            c if source.is_concealed(line_start + at) => shown.extend(std::iter::repeat_n('*', width(c))),
            c if is_unprintable(c) => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
        column += width(c);
        if at < end {
            mark_to = column;
        }
    }
    if cut {
        shown.push_str("...");
    }
    let mark_from = mark_from.unwrap_or(column);
    let carets = mark_to.saturating_sub(mark_from).max(1);
    let number = format!("{line:>gutter$}");
    let _ = writeln!(out, "{} {} {}", paint.blue(&number), paint.blue("|"), shown.trim_end());
    let carets: String = std::iter::repeat_n(mark, carets).collect();
    let carets = if mark == '^' { paint.red(&carets) } else { paint.blue(&carets) };
    let note = if note.is_empty() { String::new() } else { format!(" {}", clean(note)) };
    let _ = writeln!(out, "{} {} {}{carets}{note}", " ".repeat(gutter), paint.blue("|"), " ".repeat(mark_from));
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, what: &str, expected: Expect) {
        let source = Arc::new(Source::new("flows/a.yaml", text));
        let start = text.find(what).unwrap();
        let span = Span::new(start, start + what.len());
        expected.assert_eq(&Diagnostic::at("F101", &source, span, "it is wrong").render(false));
    }

    #[test]
    fn the_caret_stands_below_wide_characters_and_tabs() {
        check(
            "flow: x\nabout: 湖\t\u{1f30d} here\n",
            "here",
            expect![[r#"
                error[F101]: it is wrong
                 --> flows/a.yaml:2:12
                  |
                2 | about: 湖    🌍 here
                  |                 ^^^^
            "#]],
        );
    }

    #[test]
    fn a_place_at_the_end_and_one_over_several_lines_have_a_caret() {
        check(
            "steps:\n  a:\n    b: 1\n",
            "a:\n    b: 1",
            expect![[r#"
                error[F101]: it is wrong
                 --> flows/a.yaml:2:3
                  |
                2 |   a:
                  |   ^^
            "#]],
        );
        let source = Arc::new(Source::new("flows/a.yaml", "flow: x"));
        let at_the_end = Diagnostic::at("F101", &source, Span::new(7, 8), "it is wrong").render(false);
        assert!(at_the_end.ends_with("1 | flow: x\n  |        ^\n"), "{at_the_end}");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("a: [{}, WRONG, {}]", "x, ".repeat(400), "y, ".repeat(400));
        let source = Arc::new(Source::new("flows/a.yaml", &*text));
        let start = text.find("WRONG").unwrap();
        let shown = Diagnostic::at("F101", &source, Span::new(start, start + 5), "it is wrong").render(false);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines.iter().all(|line| line.len() < 160), "{shown}");
        let at = lines[3].find("WRONG").unwrap();
        assert_eq!(lines[4].find("^^^^^"), Some(at), "{shown}");
    }

    #[test]
    fn colour_is_added_and_nothing_else() {
        let source = Arc::new(Source::new("a.yaml", "flow: x\n"));
        let diagnostic = Diagnostic::at("F101", &source, Span::new(6, 7), "wrong\u{1b}[2J").help("mend it");
        let (plain, coloured) = (diagnostic.render(false), diagnostic.render(true));
        assert!(!plain.contains('\u{1b}') && coloured.contains("\u{1b}["));
        let mut stripped = coloured.clone();
        for code in ["\u{1b}[1;31m", "\u{1b}[1;34m", "\u{1b}[1m", "\u{1b}[0m"] {
            stripped = stripped.replace(code, "");
        }
        assert_eq!(stripped, plain);
    }
}
